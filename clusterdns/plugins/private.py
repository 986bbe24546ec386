"""private - answer names that mean nothing outside the cluster, instead of forwarding them.

Syntax:

    private [ZONES...] {
        except ZONES...
    }

A name that no earlier plugin has answered is answered here, and not forwarded, if it is in

* a special-use domain: `alt` (RFC 9476), `home.arpa` (RFC 8375), `internal` (ICANN), `invalid`,
  `localhost` and `test` (RFC 6761), `local` (RFC 6762), `onion` (RFC 7686), `resolver.arpa`
  (RFC 9462);
* a reverse zone of private or special-purpose addresses (RFC 6303, RFC 7793);
* ZONES, for example the cluster's, whose names `fallthrough` would forward;
* or if it is a single label, and the type is one of hosts: A, AAAA, HTTPS, MX, SRV, SVCB, TXT.

The answer is that of an empty zone: SOA and NS at its apex, NXDOMAIN below. `localhost` and the
names below it have the addresses 127.0.0.1 and ::1.

`except` forwards names nevertheless, for example an Active Directory domain below `local` or a
reverse zone with servers of its own. So do the keys of the server block. Of all these zones, the
longest one that contains the name decides.

Examples:

    . {
        kubernetes cluster.local in-addr.arpa {
            manifests cluster
            fallthrough
        }
        private cluster.local {
            except corp.internal 10.20.0.0/16
        }
        forward . 192.0.2.53
    }

Metrics: `clusterdns_leaks_prevented_total{server, reason}` counts the questions answered here;
reason is `special_use`, `reverse`, `zone` or `single_label`.

Limits: this is not in CoreDNS. Questions for DS at the apex of a zone below `arpa` are forwarded:
the delegations there prove to validators that these zones are not signed.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr
from clusterdns.wire.message import OPCODE_QUERY, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

LEAKS = "clusterdns_leaks_prevented_total"
SPECIAL_USE, REVERSE, ZONE, SINGLE_LABEL = "special_use", "reverse", "zone", "single_label"
LET_OUT = ""
# RFC 6303 section 3 has 3 h; shorter, so that a change of configuration takes effect.
TTL_S = 300
_SPECIAL_DOMAINS = (
    "alt", "home.arpa", "internal", "invalid", "local", "localhost", "onion", "resolver.arpa",
    "test",
)  # fmt: skip
# RFC 6303 section 4, RFC 7793.
_REVERSE_ZONES = (
    "0", "10", "127", "254.169", "168.192", "2.0.192", "100.51.198", "113.0.203",
    "255.255.255.255", *(f"{i}.172" for i in range(16, 32)), *(f"{i}.100" for i in range(64, 128)),
)  # fmt: skip
_REVERSE_ZONES_6 = (
    "0." * 31 + "0", "1" + ".0" * 31, "d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f",
    "8.b.d.0.1.0.0.2",
)  # fmt: skip
_OF_HOSTS = frozenset((rr.A, rr.AAAA, rr.MX, rr.TXT, rr.SRV, 64, 65))  # and SVCB, HTTPS
_ARPA = WireName(b"\x04arpa\0")
_LOCALHOST = WireName(b"\x09localhost\0")
_LOOPBACK = {rr.A: bytes((127, 0, 0, 1)), rr.AAAA: bytes(15) + b"\x01"}
_NOBODY = b"\x06nobody\x07invalid\0"  # RFC 6303 section 3: the mailbox of an empty zone


class Private(Plugin):
    """Empty zones for names that must not be forwarded."""

    families: ClassVar = {
        LEAKS: Family(
            "Counter of queries answered here because the name has no meaning outside the cluster.",
            ("server", "reason"),
        ),
    }
    after = "loop"

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        given = arguments.zone_names(directive.args, directive)
        out: list[WireName] = []
        for line in directive.block:
            if line.name != "except":
                raise line.unknown("except")
            out += arguments.zone_names(arguments.some(line), line)
        for zone in set(given) & set(out):
            raise directive.error(f"{name.text(zone)} is in its own except")
        # The reason not to forward the names of a zone, or LET_OUT. The later entry wins.
        self._reasons = {
            **_built_in(),
            **dict.fromkeys((zone for zone in block.zones if zone != ROOT), LET_OUT),
            **dict.fromkeys(given, ZONE),
            **dict.fromkeys(out, LET_OUT),
        }
        self._counts: Counter[str] = Counter()

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of an empty zone, or that of the next plugin."""
        response = self._respond(question)
        return next(question) if response is None else response

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of an empty zone, or that of the next plugin."""
        response = None
        if query.question is not None and query.opcode == OPCODE_QUERY:
            response = self._respond(query.question)
        return await next(query) if response is None else response

    def _respond(self, question: Question) -> Response | None:
        """Return the response to a question that must not be forwarded, None for any other."""
        if question.qclass != rr.CLASS_IN:
            return None
        zone, reason = self._zone_of(question)
        if not reason:
            return None
        folded, qtype = question.folded, question.qtype
        if zone == folded and qtype == rr.DS and name.is_within(zone, _ARPA):
            return None
        self._counts[reason] += 1
        counters = ((LEAKS, (self._block.server, reason)),)
        records = _records(question, zone)
        if records:
            return Response(answer=records, counters=counters)
        exists = folded == zone or zone == _LOCALHOST
        rcode = rr.NOERROR if exists else rr.NXDOMAIN
        return Response(rcode, authority=(_soa(zone),), counters=counters)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why the name is not forwarded, for `explain`."""
        zone, why = self._zone_of(question)
        if not is_own:
            return (
                f"{name.text(zone)} is let out" if zone != ROOT else "no private zone has the name"
            )
        return f"{name.text(zone)} is never forwarded: {why.replace('_', ' ')}"

    def _zone_of(self, question: Question) -> tuple[WireName, str]:
        """Return the zone that decides, and the reason not to forward, or LET_OUT."""
        for zone in name.parents(question.folded):
            reason = self._reasons.get(zone)
            if reason is not None:
                return zone, reason
        # Not all types: resolvers and validators may ask about top-level domains.
        is_single = name.count_labels(question.folded) == 1 and question.qtype in _OF_HOSTS
        return ROOT, SINGLE_LABEL if is_single else LET_OUT

    def samples(self) -> list[Sample]:
        """Return the number of questions not forwarded."""
        return [
            (LEAKS, (self._block.server, reason), count) for reason, count in self._counts.items()
        ]


def _built_in() -> dict[WireName, str]:
    """Return the zones that are not forwarded by default, with the reasons."""
    special = dict.fromkeys(map(_zone, _SPECIAL_DOMAINS), SPECIAL_USE)
    reverse = [f"{text}.in-addr.arpa" for text in _REVERSE_ZONES]
    reverse += [f"{text}.ip6.arpa" for text in _REVERSE_ZONES_6]
    return {**special, **dict.fromkeys(map(_zone, reverse), REVERSE)}


def _zone(text: str) -> WireName:
    return name.fold(name.parse(text))


def _records(question: Question, zone: WireName) -> tuple[RR, ...]:
    """Return the records of an empty zone for a question."""
    if zone == _LOCALHOST and question.qtype in _LOOPBACK:
        return (RR(question.qname, question.qtype, TTL_S, _LOOPBACK[question.qtype]),)
    if question.folded != zone or zone in (ROOT, _LOCALHOST):
        return ()
    if question.qtype == rr.SOA:
        return (_soa(zone)._replace(owner=question.qname),)
    if question.qtype == rr.NS:
        return (RR(question.qname, rr.NS, TTL_S, zone),)
    return ()


def _soa(zone: WireName) -> RR:
    return RR(zone, rr.SOA, TTL_S, rr.soa_rdata(zone, _NOBODY, 1, TTL_S))
