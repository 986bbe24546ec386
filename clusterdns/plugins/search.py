"""search - resolve a Pod's short name along its search path, at the first query.

Syntax:

    search [ZONES...] {
        domains [DOMAINS...]
        namespaces NAMESPACES...
        dots N
    }

With `ndots:5` a Pod of the namespace NS asks for `www.example.com.NS.svc.ZONE`, then for the name
below `svc.ZONE`, below ZONE, below the domains of its node, and at last for `www.example.com`. The
first question names the namespace, so no Pod objects are needed: if the first name does not exist
and a later one does, the reply has an alias to it, and its A or AAAA records. If none exists, it is
NXDOMAIN.

ZONES are the cluster's zones; they default to the keys of the server block without the root and
reverse zones. `domains` are those that Pods inherit from their nodes, by default those in our own
`/etc/resolv.conf`. `namespaces` selects namespaces, by default all that exist. Names with fewer
dots than N, 2 by default and 1 at least, are looked up in the cluster only.

Three forms of names are left to the client, because an early answer could be wrong. One is a name
without a dot: below NS it may be a Service that is gone. The second is a name below a Service of
NS: it may be an endpoint that is not ready. The third is a name whose search ends in a failure.

Examples:

    . {
        search cluster.local {
            domains corp.example
            namespaces demo
        }
        kubernetes cluster.local {
            manifests cluster
        }
        cache 30
        forward . 192.0.2.53
    }

Metrics: `clusterdns_search_success_total{server}` counts the names found.

Limits: this is not in CoreDNS, see `autopath`, and must not be used together with it. A client that
asks for the long name itself gets the same answer. The search domains of a Pod's own `dnsConfig`
are not known: leave out the namespaces that use them.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.chain import searchpath
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.chain.searchpath import Walk
from clusterdns.cluster.inside import Inside
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host import logs
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr
from clusterdns.wire.message import AD, OPCODE_QUERY, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response

SUCCESSES = "clusterdns_search_success_total"
NDOTS = 5  # of a Pod (kubelet): a name with so many dots was asked for without domain first
MIN_DOTS = 2  # `db-0.db` has one, and is more often a Pod than a host of the domain `db`
_ADDRESSES = (rr.A, rr.AAAA)
_SVC = b"\x03svc"
_REVERSE = (WireName(b"\x07in-addr\x04arpa\0"), WireName(b"\x03ip6\x04arpa\0"))
_log = logs.plugin_logger("search")


class Search(Plugin):
    """Walks the search path of a namespace when its first name does not exist."""

    families: ClassVar = {
        SUCCESSES: Family("Counter of short names resolved along the search path.", ("server",)),
    }
    after = "autopath"

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._inside = block.shared(Inside)
        zones = arguments.zone_names(directive.args, directive) or block.zones
        self._zones = tuple(
            zone for zone in zones if zone != ROOT and not name.is_within_any(zone, _REVERSE)
        )
        if not self._zones:
            raise directive.error("needs the zone of a cluster")
        self._namespaces: frozenset[bytes] = frozenset()
        self._min_labels = MIN_DOTS + 1
        found: tuple[WireName, ...] | None = None
        for line in directive.block:
            match line.name:
                case "domains":
                    found = (found or ()) + arguments.zone_names(line.args, line)
                case "namespaces":
                    named = (text.lower().encode() for text in arguments.some(line))
                    self._namespaces |= frozenset(named)
                case "dots":
                    self._min_labels = arguments.number(line, least=1) + 1
                case _:
                    raise line.unknown("domains", "namespaces", "dots")
        if found is None:  # the nodes' domains are ours without the cluster's
            host = searchpath.of_host()
            found = tuple(d for d in host if not name.is_within_any(d, self._zones))
        self._domains = found
        self._successes = 0

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory for the name, here or later on the path."""
        zone = self._zone_of(question)
        if zone is None:
            return next(question)
        return searchpath.answer_walk(self._walk(question, zone), question, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the result of the walk, waiting for names outside."""
        zone = self._zone_of(query.question) if query.opcode == OPCODE_QUERY else None
        if query.question is None or zone is None:
            return await next(query)
        return await searchpath.handle_walk(self._walk(query.question, zone), query, next)

    def _zone_of(self, question: Question | None) -> WireName | None:
        """Return the cluster's zone of a first question of a search, or None."""
        if question is None or question.qtype not in _ADDRESSES or question.qclass != rr.CLASS_IN:
            return None
        for zone in self._zones:
            if name.is_within(question.folded, WireName(_SVC + zone)):
                return zone
        return None

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no search begins with the name, for `explain`."""
        return "" if is_own else "not the first question of a search for an address"

    def _walk(self, question: Question, zone: WireName) -> Walk:
        """Ask for the first name, and for later ones if it does not exist."""
        first = yield question
        below = _SVC + zone
        labels = name.labels(question.folded[: -len(below)] + ROOT)
        if first.bare or first.rcode != rr.NXDOMAIN or not self._is_searched(labels):
            return first
        *short, namespace = labels
        # The namespace must exist, and the name must not be below one of its Services.
        for parts, exists in (([namespace], True), ([short[-1], namespace], False)):
            found = yield _address_of(name.join(parts, below))
            if found.bare or (found.rcode == rr.NOERROR) is not exists:
                return first
        if self._inside.is_service(namespace, short[-1]):
            return first
        searchpath.note_path(self._path(zone, short), f"Pods of {namespace.decode('latin-1')}")
        prefix = question.qname[: -len(below) - 1 - len(namespace)]
        for domain in self._path(zone, short):
            asked = searchpath.below(question, prefix, domain)
            if asked is None:
                continue  # too long to be a name
            found = yield asked
            if found is DROP or found.bare or found.rcode not in (rr.NOERROR, rr.NXDOMAIN):
                return first
            if found.rcode == rr.NOERROR:
                return self._counted(searchpath.with_alias(found, question))
        return first

    def _is_searched(self, labels: list[bytes]) -> bool:
        """Tell whether the labels left of ``svc.ZONE`` are a short name in a search.

        The last label is the namespace. A name with an underscore is that of a port.
        """
        *short, namespace = labels or [b""]
        if not 2 <= len(short) <= NDOTS or short[0].startswith(b"_"):
            return False
        return not self._namespaces or namespace in self._namespaces

    def _path(self, zone: WireName, short: list[bytes]) -> tuple[WireName, ...]:
        """Return the later domains for the labels of a short name.

        A name in the cluster's zone, or of a Service, is not looked up outside.
        """
        inside = (WireName(_SVC + zone), zone)
        if name.is_within(WireName(name.join(short)), zone):
            return (*inside, ROOT)
        if len(short) < self._min_labels or short[-1] == _SVC[1:]:
            return inside
        return (*inside, *self._domains, ROOT)

    def _counted(self, response: Response) -> Response:
        """Count a name found, and clear AD: signatures do not cover the alias."""
        self._successes += 1
        return response._replace(
            flags=response.flags & ~AD,
            counters=(*response.counters, (SUCCESSES, (self._block.server,))),
        )

    def samples(self) -> list[Sample]:
        """Return the number of names found."""
        if not self._successes:
            return []
        return [(SUCCESSES, (self._block.server,), self._successes)]


def _address_of(qname: bytes) -> Question:
    return Question(qname, name.fold(qname), rr.A)
