"""erratic - answer badly on purpose, to test clients.

Syntax:

    erratic {
        drop [AMOUNT]
        delay [AMOUNT [DURATION]]
        truncate [AMOUNT]
        large
    }

Questions for A get 192.0.2.53, for AAAA 2001:db8::53, for AXFR a small zone, all others SERVFAIL.
One of AMOUNT queries, by default 2, is dropped, answered after DURATION, by default 100ms, or has
TC set in its reply; 0 is none. Without a block every second query is dropped. `large` gives 30
addresses for A. It is ready between its third and fifth query, and `autopath @erratic` finds the
search path `a.example.org b.example.org`.

Examples:

    example.org {
        erratic {
            drop 3
            delay 2 50ms
        }
    }

As in CoreDNS, `truncate` tests one bit of the number of the query: 2 sets TC in two of four
queries. Each worker has its own count.
"""

from __future__ import annotations

import asyncio

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, HandleNext, Plugin, Repeats
from clusterdns.chain.searchpath import SearchPaths
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, TC, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

DEFAULT_AMOUNT = 2
DEFAULT_DELAY_S = 0.1
LARGE = 30
READY = range(3, 5)
_RDATA = {
    rr.A: bytes((192, 0, 2, 53)),
    rr.AAAA: bytes.fromhex("20010db8000000000000000000000053"),
}
_SEARCH_PATH = tuple(name.fold(name.parse(each)) for each in ("a.example.org", "b.example.org"))


class Erratic(Plugin):
    """Counts queries, and drops, delays or truncates some."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        self._amounts = {"drop": DEFAULT_AMOUNT, "delay": 0, "truncate": 0}
        self._delay_s = DEFAULT_DELAY_S
        self._is_large = False
        drops = False
        for line in directive.block:
            if line.name == "large":
                self._is_large = arguments.flag(line)
                continue
            if line.name not in self._amounts:
                raise line.unknown("drop", "delay", "truncate", "large")
            self._amounts[line.name] = self._read(line)
            drops = drops or (line.name == "drop" and bool(line.args))
        if not drops and (self._amounts["delay"] or self._amounts["truncate"]):
            self._amounts["drop"] = 0
        self._count = 0
        block.shared(SearchPaths).add("erratic", _search_path)

    def _read(self, line: Directive) -> int:
        """Return AMOUNT of an option, and set the delay."""
        most = 2 if line.name == "delay" else 1
        if len(line.args) > most:
            raise line.error(f"takes at most {most} arguments, got {line.args[most]!r}")
        if len(line.args) > 1:
            self._delay_s = max(0.0, arguments.duration_s(line.args[1], line))
        return arguments.whole(line.args[0], line) if line.args else DEFAULT_AMOUNT

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the answer of the type, or a broken one."""
        number, amounts = self._count, self._amounts
        self._count += 1
        if amounts["drop"] and number % amounts["drop"] == 0:
            return DROP
        if amounts["delay"] and number % amounts["delay"] == 0:
            await asyncio.sleep(self._delay_s)
        if query.question is None:
            return failure(rr.SERVFAIL)
        is_cut = amounts["truncate"] > 0 and number & amounts["truncate"] == 0
        return self._respond(query.question, is_cut=is_cut)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return what the reply is, for `explain`."""
        return "a made-up reply for tests; some are dropped, delayed or cut" if is_own else ""

    def _respond(self, question: Question, *, is_cut: bool) -> Response:
        qname, qtype = question.qname, question.qtype
        if qtype == rr.AXFR:
            records = _zone(qname)
            whole = records if is_cut else (*records, records[0])
            return Response(rr.NOERROR, AA, whole, lifetime_s=0)
        if qtype not in _RDATA:
            return failure(rr.SERVFAIL)
        record = RR(qname, qtype, 0, _RDATA[qtype])
        times = LARGE if self._is_large and qtype == rr.A else 1
        return Response(rr.NOERROR, AA | (TC if is_cut else 0), (record,) * times, lifetime_s=0)

    @property
    def is_ready(self) -> bool:
        """Whether it has had three or four queries."""
        return self._count in READY


def _search_path(client: str, qname: WireName) -> tuple[WireName, ...]:
    return (*_SEARCH_PATH, ROOT)


def _zone(apex: bytes) -> tuple[RR, ...]:
    """Return the records of the zone for a transfer, its SOA first (CoreDNS: erratic/xfr.go)."""
    mname, rname = name.parse("sns.dns.icann.org"), name.parse("noc.dns.icann.org")
    soa = mname + rname + rr.soa_serial(2018050825)[:4]
    soa += b"".join(n.to_bytes(4, "big") for n in (7200, 3600, 1209600, 3600))
    below = {label: bytes((1,)) + label + apex for label in (b"a", b"b")}
    return (
        RR(apex, rr.SOA, 0, soa),
        RR(apex, rr.NS, 0, below[b"b"]),
        RR(apex, rr.NS, 0, below[b"a"]),
        RR(below[b"a"], rr.AAAA, 0, bytes.fromhex("20010bd8000000000000000000000053")),
        RR(below[b"b"], rr.AAAA, 0, bytes.fromhex("20010500000000000000000000000054")),
    )
