"""families - leave out the address family that the cluster has no route for.

Syntax:

    families ipv4|ipv6 [ZONES...] {
        except ZONES...
    }

In a cluster with one address family, half of all queries ask for addresses that no Pod can reach.
With `ipv4`, a question for AAAA that would be forwarded is answered with NODATA at once and no
upstream server is asked; with `ipv6`, a question for A. The answer is never NXDOMAIN, because the
name may have an address of the other family. The hints of that family are taken out of HTTPS and
SVCB records (RFC 9460 section 7.3).

The plugin runs after `kubernetes`, `file` and `hosts`: names of these keep all their addresses.
ZONES default to the keys of the server block.

Examples:

    . {
        kubernetes cluster.local {
            manifests cluster
        }
        cache 30
        families ipv4 {
            except v6.example.org
        }
        forward . 192.0.2.53
    }

Limits: this is not in CoreDNS. A name that does not exist is NXDOMAIN for one type and NODATA for
the other; stub resolvers handle that. A query with DO set is forwarded and its reply is passed on
unchanged, because a synthesized reply cannot be signed. A record that lists the hint as mandatory
stays whole.
"""

from __future__ import annotations

import struct

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.wire import name, rr
from clusterdns.wire.message import AD, OPCODE_QUERY, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

TTL_S = 60  # bounds how long resolvers keep it once the directive is removed
_SVCB, _HTTPS = 64, 65
_MANDATORY = 0
_LEFT_OUT = {"ipv4": (rr.AAAA, 6), "ipv6": (rr.A, 4)}  # RR type, SvcParamKey of its hint
_MNAME = b"\x08families\x07invalid\0"
_RNAME = b"\x06nobody\x07invalid\0"


class Families(Plugin):
    """Answers for the family that is left out."""

    after = "private"

    def __init__(self, directive: Directive, block: Block) -> None:
        family, *zones = arguments.some(directive)
        if family not in _LEFT_OUT:
            raise directive.error(f"wants one of {', '.join(_LEFT_OUT)}, got {family!r}")
        self._qtype, self._hint = _LEFT_OUT[family]
        found = arguments.zone_names(zones, directive) or block.zones
        self._zones = sorted(found, key=len, reverse=True)
        self._except: list[WireName] = []
        for line in directive.block:
            if line.name != "except":
                raise line.unknown("except")
            self._except += arguments.zone_names(arguments.some(line), line)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return NODATA for the type that is left out, or the response of the next plugin."""
        zone = self._zone_of(question)
        if zone is None:
            return next(question)
        if question.qtype == self._qtype:
            return _nodata(zone)
        response = next(question)
        return None if response is None else self._without_hints(question, response)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return NODATA for the type that is left out, or the response of the next plugin."""
        question = query.question if query.opcode == OPCODE_QUERY else None
        zone = self._zone_of(question) if question is not None else None
        if question is None or zone is None:
            return await next(query)
        if question.qtype == self._qtype:
            return _nodata(zone)
        return self._without_hints(question, await next(query))

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that the type is left out, for `explain`."""
        zone = self._zone_of(question)
        if is_own and zone is not None:
            kind = rr.type_text(question.qtype)
            return f"records of type {kind} are left out in {name.text(zone)}"
        return ""

    def _zone_of(self, question: Question) -> WireName | None:
        """Return the zone of ours that the question lies in, or None."""
        if question.do or question.qclass != rr.CLASS_IN:
            return None
        if question.qtype not in (self._qtype, _SVCB, _HTTPS):
            return None
        if name.is_within_any(question.folded, self._except):
            return None
        return next((zone for zone in self._zones if name.is_within(question.folded, zone)), None)

    def _without_hints(self, question: Question, response: Response) -> Response:
        """Return a response without address hints of the family left out."""
        answer = tuple(self._without_hint(record) for record in response.answer)
        if answer == response.answer:
            return response
        return response._replace(answer=answer, orders=(), flags=response.flags & ~AD)

    def _without_hint(self, record: RR) -> RR:
        if record.rtype not in (_SVCB, _HTTPS):
            return record
        rdata = without_parameter(record.rdata, self._hint)
        return record if rdata is None else record._replace(rdata=rdata)


def without_parameter(rdata: bytes, key: int) -> bytes | None:
    """Return the RDATA of an SVCB or HTTPS record without one parameter (RFC 9460 section 2.2).

    None if it is not changed: the parameter is missing or mandatory, or the RDATA is malformed.
    """
    try:
        start = i = name.end(rdata, 2)
    except IndexError:
        return None
    parameters = dict[int, bytes]()
    while i < len(rdata):
        if i + 4 > len(rdata):
            return None
        found, length = struct.unpack_from("!HH", rdata, i)
        if i + 4 + length > len(rdata):
            return None
        parameters[found] = rdata[i : i + 4 + length]
        i += 4 + length
    mandatory = parameters.get(_MANDATORY, b"")[4:]
    if key not in parameters or struct.pack("!H", key) in _pairs(mandatory):
        return None
    return rdata[:start] + b"".join(p for k, p in parameters.items() if k != key)


def _pairs(octets: bytes) -> list[bytes]:
    return [octets[i : i + 2] for i in range(0, len(octets), 2)]


def _nodata(zone: WireName) -> Response:
    soa = RR(zone, rr.SOA, TTL_S, rr.soa_rdata(_MNAME, _RNAME, 1, TTL_S))
    return Response(authority=(soa,))
