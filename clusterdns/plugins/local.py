"""local - answer localhost names instead of forwarding them (RFC 6761).

Syntax:

    local {
        localhost_prefix on|off
    }

`localhost` and the reverse zones of 0.0.0.0/8, 127.0.0.0/8 and 255.0.0.0/8 are zones of this
server: `localhost` and names below it have 127.0.0.1 and ::1, 1.0.0.127.in-addr.arpa has a PTR
record with `localhost`, other names in the reverse zones get NXDOMAIN. With `localhost_prefix on`,
the default, every name that begins with the label `localhost` has these addresses, too, for clients
with a search path.

Examples:

    . {
        local
        forward . 192.0.2.53
    }

Metrics: `coredns_local_localhost_requests_total` counts questions for names below `localhost` and
names that begin with it.

With `localhost_prefix on`, one denial does not cover all names below, so each name has an entry in
the answer table; `off` is faster for search paths.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from clusterdns.chain.bases import Knowing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

REQUESTS = "local_localhost_requests_total"
TTL_S = 604_800
_LABEL = b"\x09localhost"
_LOCALHOST = WireName(_LABEL + b"\0")
_REVERSE = tuple(name.fold(name.parse(f"{n}.in-addr.arpa")) for n in (0, 127, 255))
_ZONES = (_LOCALHOST, *_REVERSE)
_LOOPBACK_NAME = name.fold(name.parse("1.0.0.127.in-addr.arpa"))
_LOOPBACK = {rr.A: bytes((127, 0, 0, 1)), rr.AAAA: bytes(15) + b"\x01"}
_SOA = _LOCALHOST + b"\x04root" + _LOCALHOST + struct.pack("!IIIII", 1, 0, 0, 0, TTL_S)


class Local(Knowing):
    """The zones that every host has."""

    always_shown = True
    families: ClassVar = {
        REQUESTS: Family("Counter of special localhost subdomain requests."),
    }
    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        self._has_prefix = True
        for line in directive.block:
            if line.name != "localhost_prefix":
                raise line.unknown("localhost_prefix")
            self._has_prefix = arguments.word(line, "on", "off") == "on"
        self._requests = 0

    def respond(self, question: Question) -> Response | None:
        """Return the response of the host's zones."""
        folded = question.folded
        if self._is_special(folded):
            self._requests += 1
            found = _addresses(question) or _nodata(question.qname)
            return found._replace(counters=((REQUESTS, ()),))
        zone = next((zone for zone in _ZONES if name.is_within(folded, zone)), None)
        if zone is None:
            return None
        spelled = question.qname[-len(zone) :]
        if folded == zone:
            return _at_apex(question, zone)
        if folded != _LOOPBACK_NAME:
            return _nodata(spelled)._replace(rcode=rr.NXDOMAIN)
        if question.qtype == rr.PTR:
            return _says(RR(question.qname, rr.PTR, TTL_S, _LOCALHOST))
        return _nodata(spelled)

    def _is_special(self, folded: WireName) -> bool:
        """Tell whether a name other than `localhost` stands for the host."""
        if folded == _LOCALHOST:
            return False
        is_prefixed = self._has_prefix and folded.startswith(_LABEL)
        return is_prefixed or name.is_within(folded, _LOCALHOST)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that the name means this host, for `explain`."""
        return "a name of the host itself, which is never forwarded" if is_own else ""

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no name below ``cut`` is answered here."""
        return not self._has_prefix and not any(
            name.is_within(zone, cut) or name.is_within(cut, zone) for zone in _ZONES
        )

    def relay(self, route: Route) -> bool:
        """Exclude names of the host from the relay."""
        if self._has_prefix:
            route.starts = _LABEL
        return route.claim(_ZONES)

    def samples(self) -> list[Sample]:
        """Return the number of questions about names of the host other than `localhost`."""
        return [(REQUESTS, (), self._requests)] if self._requests else []


def _says(record: RR) -> Response:
    return Response(flags=0, answer=(record,))


def _nodata(owner: bytes) -> Response:
    return Response(flags=0, authority=(RR(owner, rr.SOA, TTL_S, _SOA),))


def _addresses(question: Question) -> Response | None:
    rdata = _LOOPBACK.get(question.qtype)
    return None if rdata is None else _says(RR(question.qname, question.qtype, TTL_S, rdata))


def _at_apex(question: Question, zone: WireName) -> Response:
    """Return the response of a zone to questions about its apex."""
    qname = question.qname
    if question.qtype == rr.SOA:
        return _says(RR(qname, rr.SOA, TTL_S, _SOA))
    if question.qtype == rr.NS:
        return _says(RR(qname, rr.NS, TTL_S, _LOCALHOST))
    found = _addresses(question) if zone == _LOCALHOST else None
    return found or _nodata(qname)
