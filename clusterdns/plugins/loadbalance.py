"""loadbalance - change the order of A, AAAA and MX records in each reply.

Syntax:

    loadbalance [round_robin] {
        prefer CIDR...
    }

Records come out as: CNAME first, then the rest in their order, then addresses, then MX; addresses
and MX are shuffled. `prefer` puts addresses in the first matching CIDR first.

Examples:

    . {
        loadbalance {
            prefer 10.0.0.0/8
        }
        whoami
    }

Differences from CoreDNS: `weighted` is not served yet. An answer in the answer table holds up to
sixteen orders, with each address first in one of them, and the query ID picks one. With more than
sixteen addresses the orders are drawn anew every second.
"""

from __future__ import annotations

import ipaddress
import random

from clusterdns.chain.plugin import AnswerNext, Block, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.wire import rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, Sections
from clusterdns.wire.rr import RR

MAX_ORDERS = 16
REDRAW_S = 1.0
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LoadBalance(Plugin):
    """Gives each response the orders its records are to be sent in."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args[:1] == ("weighted",):
            raise directive.error("weighted is not supported by clusterdns yet")
        if directive.args not in ((), ("round_robin",)):
            raise directive.error(f"unknown policy {directive.args[0]!r}")
        self._random = random.Random()
        self._preferred: list[Network] = []
        for line in directive.block:
            if line.name != "prefer" or not line.args:
                raise line.error("unknown property" if line.args else "wants CIDR...")
            try:
                self._preferred += [ipaddress.ip_network(arg, strict=False) for arg in line.args]
            except ValueError as error:
                raise line.error(str(error)) from error

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory with its orders."""
        response = next(question)
        return None if response is None else self._balance(question, response)

    def treats_alike(self, cut: WireName) -> bool:
        """Say yes: no name matters here."""
        return True

    def relay(self, route: Route) -> bool:
        """Have addresses shuffled; what is preferred is for the chain."""
        route.shuffles = True
        return not self._preferred

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response with its records in a new order."""
        response = await next(query)
        if query.question is None:
            return response
        return self._balance(query.question, response)

    def _balance(self, question: Question, response: Response) -> Response:
        if response.rcode != rr.NOERROR or question.qtype in (rr.AXFR, rr.IXFR):
            return response
        most = max(_count_movable(section) for section in response.sections)
        if most < 2:
            return response
        parts = [self._shuffled(section) for section in response.sections]
        lifetime_s = response.lifetime_s
        if most > MAX_ORDERS:
            lifetime_s = min(lifetime_s, REDRAW_S)
        orders: list[Sections] = []
        for i in range(min(most, MAX_ORDERS)):
            step = i * most // min(most, MAX_ORDERS)
            answer, authority, additional = (self._section(part, step) for part in parts)
            orders.append((answer, authority, additional))
        return response.with_sections(orders[0])._replace(
            orders=tuple(orders), lifetime_s=lifetime_s
        )

    def _shuffled(self, section: tuple[RR, ...]) -> _Parts:
        """Split a section by how its records move, addresses and MX in random order."""
        parts: _Parts = ([], [], [], [])
        for record in section:
            parts[_PART.get(record.rtype, 1)].append(record)
        self._random.shuffle(parts[2])
        self._random.shuffle(parts[3])
        return parts

    def _section(self, parts: _Parts, step: int) -> tuple[RR, ...]:
        """Return a section with its movable records rotated by ``step``."""
        aliases, others, addresses, exchanges = parts
        addresses = _rotated(addresses, step)
        if self._preferred:
            addresses.sort(key=self._rank)
            return (*aliases, *addresses, *_rotated(exchanges, step), *others)
        return (*aliases, *others, *addresses, *_rotated(exchanges, step))

    def _rank(self, record: RR) -> int:
        address = ipaddress.ip_address(record.rdata)
        for i, network in enumerate(self._preferred):
            if address in network:
                return i
        return len(self._preferred)


_Parts = tuple[list[RR], list[RR], list[RR], list[RR]]  # CNAME, other, address, MX
_PART = {rr.CNAME: 0, rr.A: 2, rr.AAAA: 2, rr.MX: 3}


def _count_movable(section: tuple[RR, ...]) -> int:
    return sum(record.rtype in (rr.A, rr.AAAA, rr.MX) for record in section)


def _rotated(records: list[RR], step: int) -> list[RR]:
    step = step % len(records) if records else 0
    return records[step:] + records[:step]
