"""acl - allow or refuse queries by the network they come from.

Syntax:

    acl [ZONES...] {
        allow|block|filter|drop [type QTYPE...|*] [net CIDR...|*]
    }

The lines of each `acl` whose ZONES contain the name, by default the keys of the server block, are
tried in order, and the first that matches the type and the client's address decides: `allow` ends
the search and answers, `block` replies REFUSED, `filter` replies without records, `drop` does not
reply. If no line matches, the next `acl` of the block is tried; if none does, the query is allowed.
An address without a length is a network of one address. Clients with EDNS get an Extended DNS Error
(RFC 8914): 15, blocked, or 17, filtered.

Examples:

    . {
        acl {
            allow net 10.0.0.0/8 fd00::/8
            block
        }
        acl example.org {
            filter type AAAA
        }
        forward . 192.0.2.53
    }

Metrics: `coredns_acl_allowed_requests_total{server, view}`, and for each of `blocked`, `filtered`
and `dropped` `coredns_acl_..._requests_total{server, zone, view}`.

Speed: if the rules give all clients the same answer, a question is answered as fast as without
`acl`. If a network decides, each query takes the chain, which costs several times as much: name
only the ZONES and types to protect. Zones with a line other than `allow` are not relayed.

Differences from CoreDNS: a client without EDNS gets no OPT record, and DO is that of the query.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, NamedTuple

from clusterdns.addressing.networks import Networks
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

ALLOWED = "acl_allowed_requests_total"
COUNTERS = {
    "block": "acl_blocked_requests_total",
    "filter": "acl_filtered_requests_total",
    "drop": "acl_dropped_requests_total",
}
_BLOCKED, _FILTERED = 15, 17  # RFC 8914 section 4
_RESPONSES = {
    "block": Response(rr.REFUSED, flags=0, edns=message.extended_error(_BLOCKED), lifetime_s=0),
    "filter": Response(flags=0, edns=message.extended_error(_FILTERED), lifetime_s=0),
    "drop": DROP,
}
_SECTIONS = ("type", "net")


class Policy(NamedTuple):
    """One line: an action, types and networks; None is all of them."""

    action: str
    types: frozenset[int] | None
    networks: Networks | None
    place: str  # file:line


class AclRule(NamedTuple):
    """One directive: its zones, the longest first, and its lines."""

    zones: tuple[WireName, ...]
    policies: tuple[Policy, ...]


class Verdict(NamedTuple):
    """The action for a query, and the zone of its rule."""

    action: str
    zone: WireName


_ALLOW = Verdict("allow", name.ROOT)


class Acl(Plugin):
    """The rules of all occurrences in a server block."""

    families: ClassVar = {
        ALLOWED: Family("Counter of DNS requests being allowed.", ("server", "view")),
        "acl_blocked_requests_total": Family(
            "Counter of DNS requests being blocked.", ("server", "zone", "view")
        ),
        "acl_filtered_requests_total": Family(
            "Counter of DNS requests being filtered.", ("server", "zone", "view")
        ),
        "acl_dropped_requests_total": Family(
            "Counter of DNS requests being dropped.", ("server", "zone", "view")
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._rules = [_rule(directive, block)]
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences, in order."""
        plugin = cls(directives[0], block)
        plugin._rules += [_rule(directive, block) for directive in directives[1:]]
        return [plugin]

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response for all clients, None if the address decides."""
        verdict = self._judge(question, None)
        if verdict is None:
            return None
        if verdict.action != "allow":
            return self._deny(verdict)
        response = next(question)
        if response is None:
            return None
        key = (ALLOWED, (self._block.server, self._block.view))
        self._counts[key] += 1
        return response if response is DROP else _also_counting(response, key)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, or the one for a refused client."""
        if query.question is None:
            return await next(query)
        verdict = self._judge(query.question, query.client[0]) or _ALLOW
        if verdict.action != "allow":
            return self._deny(verdict)
        self._allowed(1)
        return await next(query)

    def _judge(self, question: Question, client: str | None) -> Verdict | None:
        """Return the verdict on a query, None if it depends on an unknown client."""
        for rule in self._rules:
            zone = next((z for z in rule.zones if name.is_within(question.folded, z)), None)
            if zone is None:
                continue
            for policy in rule.policies:
                if policy.types is not None and question.qtype not in policy.types:
                    continue
                if policy.networks is not None:
                    if client is None:
                        return None
                    if client not in policy.networks:
                        continue
                if (taker := trace.scribe()) is not None:
                    of_client = "" if client is None else f" for the client {client}"
                    note = taker.note if policy.action == "allow" else taker.blame
                    note(
                        f"`{policy.action}` matches{of_client} in {name.text(zone)}",
                        place=policy.place,
                    )
                if policy.action == "allow":
                    return _ALLOW
                return Verdict(policy.action, zone)
        return _ALLOW

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no rule is about the query, for `explain`."""
        return "" if is_own else "no rule matches, so the query is allowed"

    def _deny(self, verdict: Verdict) -> Response:
        labels = (self._block.server, name.text(verdict.zone), self._block.view)
        self._counts[COUNTERS[verdict.action], labels] += 1
        return _RESPONSES[verdict.action]

    def _allowed(self, times: int) -> None:
        self._counts[ALLOWED, (self._block.server, self._block.view)] += times

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of a rule lies below ``cut``."""
        zones = [zone for rule in self._rules for zone in rule.zones]
        return not any(name.is_within(zone, cut) for zone in zones)

    def relay(self, route: Route) -> bool:
        """Exclude zones in which a client may be refused from the relay."""
        for rule in self._rules:
            if any(policy.action != "allow" for policy in rule.policies) and not route.claim(
                rule.zones
            ):
                return False
        route.passed.append(self._allowed)
        return True

    def samples(self) -> list[Sample]:
        """Return the counts of allowed and refused queries."""
        return [(metric, labels, count) for (metric, labels), count in self._counts.items()]


def _also_counting(response: Response, key: tuple[str, tuple[str, ...]]) -> Response:
    return response._replace(counters=(*response.counters, key))


def _rule(directive: Directive, block: Block) -> AclRule:
    """Return the rule of one directive. Raises ConfigError."""
    zones = arguments.zone_names(directive.args, directive) or block.zones
    policies = tuple(_policy(line) for line in directive.block)
    return AclRule(tuple(sorted(zones, key=len, reverse=True)), policies)


def _policy(line: Directive) -> Policy:
    """Return the policy of one line: an action, then sections of words."""
    action = line.name.lower()
    if action not in ("allow", *COUNTERS):
        raise line.error("wants allow, block, filter or drop")
    sections: list[tuple[str, list[str]]] = []
    for word in line.args:
        if word.lower() in _SECTIONS:
            sections.append((word.lower(), []))
        elif not sections:
            raise line.error(f"wants type or net, got {word!r}")
        else:
            sections[-1][1].append(word)
    for section, words in sections:
        if not words:
            raise line.error(f"nothing behind {section!r}")
    types, networks = (
        [word for section, words in sections if section == which for word in words]
        for which in _SECTIONS
    )
    place = f"{line.file}:{line.line}"
    return Policy(action, _types(types, line), _networks(networks, line), place)


def _types(words: list[str], line: Directive) -> frozenset[int] | None:
    """Return RR types, None for all."""
    found = set()
    for word in words or ["*"]:
        if word == "*":
            return None
        if word not in rr.TYPES:
            raise line.error(f"{word!r} is no type of records")
        found.add(rr.TYPES[word])
    return frozenset(found)


def _networks(words: list[str], line: Directive) -> Networks | None:
    """Return networks, None for all."""
    found = Networks()
    for word in words or ["*"]:
        if word == "*":
            return None
        found.add(arguments.network(word, line))
    return found
