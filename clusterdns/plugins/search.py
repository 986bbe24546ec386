"""search - resolve a Pod's short name along its search path, at the first query.

Syntax:

    search [ZONES...] {
        domains [DOMAINS...]
        namespaces NAMESPACES...
        dots N
    }

With `ndots:5` a Pod of the namespace NS asks for `www.example.com.NS.svc.ZONE`, then for the name
below `svc.ZONE`, below ZONE, below the domains of its node, and at last for `www.example.com`. The
first of these questions says all that is needed to answer it, so no Pod objects are needed: where
the first name does not exist and one of the others does, the reply is its A or AAAA records, with
an alias in front. Where none does, it is NXDOMAIN as ever.

ZONES are the cluster's; they default to the keys of the server block but for the root and reverse
zones. `domains` are those that Pods inherit from their nodes; without it, those in our own
`/etc/resolv.conf`. `namespaces` picks those to do this for, all that exist by default. Names with
fewer dots than N, 2 by default and 1 at least, are looked for in the cluster only.

Three kinds of names are left to the client, because an early answer could be wrong. One is a name
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

Limits: this is not in CoreDNS, see `autopath`, and not to be used together with it. Who asks for
the long name itself gets the short answer too. The search domains of a Pod's own `dnsConfig` are
not known: leave out the namespaces that use them.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.chain import searchpath
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin
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
NDOTS = 5  # of a Pod (kubelet): a name with as many dots was asked for as it is before
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
        if found is None:  # those of Pods' nodes are ours, but for the cluster's own
            host = searchpath.of_host()
            found = tuple(d for d in host if not name.is_within_any(d, self._zones))
        self._domains = found
        self._successes = 0

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what memory knows of the name, here or further along the path."""
        zone = self._zone_of(question)
        if zone is None:
            return next(question)
        return searchpath.answer_walk(self._walk(question, zone), question, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what is found, asking outside where the path leads there."""
        zone = self._zone_of(query.question) if query.opcode == OPCODE_QUERY else None
        if query.question is None or zone is None:
            return await next(query)
        return await searchpath.handle_walk(self._walk(query.question, zone), query, next)

    def _zone_of(self, question: Question | None) -> WireName | None:
        """Return the zone in whose Services a question about addresses is looked for first."""
        if question is None or question.qtype not in _ADDRESSES or question.qclass != rr.CLASS_IN:
            return None
        for zone in self._zones:
            if name.is_within(question.folded, WireName(_SVC + zone)):
                return zone
        return None

    def _walk(self, question: Question, zone: WireName) -> Walk:
        """Ask for the first name, and for those behind it if it does not exist."""
        first = yield question
        below = _SVC + zone
        labels = name.labels(question.folded[: -len(below)] + ROOT)
        if first.bare or first.rcode != rr.NXDOMAIN or not self._is_searched(labels):
            return first
        *short, namespace = labels
        # Does the namespace exist, and none of its Services that the name would be below of?
        for parts, exists in (([namespace], True), ([short[-1], namespace], False)):
            found = yield _address_of(name.join(parts, below))
            if found.bare or (found.rcode == rr.NOERROR) is not exists:
                return first
        if self._inside.is_service(namespace, short[-1]):
            return first
        prefix = question.qname[: -len(below) - 1 - len(namespace)]
        for domain in self._path(zone, short):
            asked = searchpath.below(question, prefix, domain)
            if asked is None:
                continue  # too long to be a name
            found = yield asked
            if found.bare or found.rcode not in (rr.NOERROR, rr.NXDOMAIN):
                return first
            if found.rcode == rr.NOERROR:
                return self._counted(searchpath.with_alias(found, question))
        return first

    def _is_searched(self, labels: list[bytes]) -> bool:
        """Tell whether the labels left of ``svc.ZONE`` are a short name that a Pod looks for.

        The last is the namespace. A name with an underscore is that of a port.
        """
        *short, namespace = labels or [b""]
        if not 2 <= len(short) <= NDOTS or short[0].startswith(b"_"):
            return False
        return not self._namespaces or namespace in self._namespaces

    def _path(self, zone: WireName, short: list[bytes]) -> tuple[WireName, ...]:
        """Return the domains behind the first one for the labels of a short name.

        A name in the cluster's zone, or that of a Service, has no business outside.
        """
        inside = (WireName(_SVC + zone), zone)
        if name.is_within(WireName(name.join(short)), zone):
            return (*inside, ROOT)
        if len(short) < self._min_labels or short[-1] == _SVC[1:]:
            return inside
        return (*inside, *self._domains, ROOT)

    def _counted(self, response: Response) -> Response:
        """Count a name found; what is signed says nothing about the alias in front of it."""
        self._successes += 1
        return response._replace(
            flags=response.flags & ~AD,
            counters=(*response.counters, (SUCCESSES, (self._block.server,))),
        )

    def samples(self) -> list[Sample]:
        """Return how many names were found."""
        if not self._successes:
            return []
        return [(SUCCESSES, (self._block.server,), self._successes)]


def _address_of(qname: bytes) -> Question:
    return Question(qname, name.fold(qname), rr.A)
