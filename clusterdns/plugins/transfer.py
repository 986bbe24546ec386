"""transfer - transfer zones to secondary servers.

Syntax:

    transfer [ZONE...] {
        to ADDRESS...
        source ADDRESS
    }

Clients with an address in `to`, `*` for all, get zones of `file`, `auto` and `kubernetes` in the
same server block by AXFR or IXFR over TCP; an IXFR gets the whole zone, or only the SOA if its
serial is current. When a zone of a file is loaded or has changed, the addresses in `to` (port 53 or
`ADDRESS:PORT`) get a NOTIFY, up to three times, from the address `source`; with `multisocket` the
first worker sends it, after 2 s, when all workers have the zone. ZONE defaults to the keys of the
server block; of several directives, the one with the longest zone applies.

Examples:

    example.org {
        file db.example.org
        transfer {
            to 192.0.2.1 192.0.2.2
        }
    }

Differences from CoreDNS: zones of `multicluster` cannot be transferred. A worker has at
most 16 transfers under way; further ones get SERVFAIL. Records are in the order of the file. A
cluster zone is transferred only by its own name, not by a name below it.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Iterator
from typing import NamedTuple

from clusterdns.authority.answering import longest
from clusterdns.authority.transfers import Transfers
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import AA, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

MESSAGE_OCTETS = 63_000  # of records, uncompressed (CoreDNS: plugin/transfer/transfer.go)
MAX_TRANSFERS = 16
MAX_NOTIFIED = 256  # zones with a NOTIFY under way
TRIES, TRY_S = 3, 2.0
OTHERS_S = 2.0  # until the other workers have a zone, too
_TRANSFERS = (rr.AXFR, rr.IXFR)
_log = plugin_logger("transfer")


class TransferRule(NamedTuple):
    """One directive: zones, allowed clients, addresses to notify, and source address."""

    zones: tuple[WireName, ...]
    is_open: bool
    allowed: frozenset[str]
    notified: tuple[tuple[str, int], ...]
    source: str


class Transfer(Plugin):
    """Answers AXFR and IXFR, and notifies."""

    acts_alone = True

    def __init__(self, directives: list[Directive], block: Block) -> None:
        self._block = block
        self._rules = [_rule(directive, block) for directive in directives]
        self._under_way = 0
        self._delay_s: float | None = None  # before a NOTIFY; None if another worker sends it
        self._tasks = dict[WireName, asyncio.Task[None]]()
        self._transfers = block.shared(Transfers)
        self._transfers.add_listener(self._changed)

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences."""
        return [cls(directives, block)]

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: only transfers are answered here."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: only transfers are answered here."""
        return True

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, None for a transfer: the client decides."""
        return None if question.qtype in _TRANSFERS else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the first message of a transfer and those that follow."""
        question = query.question
        if question is None or question.qtype not in _TRANSFERS:
            return await next(query)
        taker = trace.scribe()
        if query.transport != "tcp":
            if taker is not None:
                taker.blame("zones are transferred over TCP only")
            return failure(rr.REFUSED)
        rule = self._rule_of(question.folded)
        if rule is None:
            return await next(query)
        if not (rule.is_open or _address(query.client[0]) in rule.allowed):
            if taker is not None:
                taker.blame(f"`to` does not name the client {query.client[0]}")
            return Response(rr.REFUSED, flags=0, lifetime_s=0)
        if question.qtype == rr.IXFR and query.serial is None:
            return failure(rr.SERVFAIL, "plugin/transfer: IXFR without the SOA it begins at")
        try:
            records = self._transfers.records(question.folded)
        except LookupError as error:
            return failure(rr.SERVFAIL, f"plugin/transfer: {error}")
        if records is None:
            return await next(query)
        return self._begin(query, question, records)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that the zone is transferred, for `explain`."""
        return f"the whole zone {name.text(question.folded)} is sent" if is_own else ""

    def _begin(self, query: Query, question: Question, records: Iterator[RR]) -> Response:
        soa = records.__next__()
        serial = int.from_bytes(soa.rdata[-20:-16], "big")
        qname, client = name.text(question.qname), query.client[0]
        if query.serial and question.qtype == rr.IXFR and query.serial == serial:
            _log.info('Zone "%s" with serial %d is what %s has', qname, serial, client)
            return Response(rr.NOERROR, 0, (soa,), lifetime_s=0)
        if self._under_way >= MAX_TRANSFERS:
            return failure(rr.SERVFAIL, "plugin/transfer: too many transfers at one time")
        _log.info('Transfer of zone "%s" to %s with serial %d', qname, client, serial)
        parts = self._counted(_parts(soa, records))
        return Response(rr.NOERROR, AA, parts.__next__(), lifetime_s=0, following=parts)

    def _counted(self, parts: Iterator[tuple[RR, ...]]) -> Iterator[tuple[RR, ...]]:
        """Yield the parts of a transfer; it counts as under way until they end."""
        self._under_way += 1
        try:
            yield from parts
        finally:
            self._under_way -= 1

    def _rule_of(self, qname: WireName) -> TransferRule | None:
        zone = longest(qname, [zone for rule in self._rules for zone in rule.zones])
        return next((rule for rule in self._rules if zone in rule.zones), None)

    # ---- notifications

    async def start(self, worker: Worker) -> None:
        """Enable NOTIFY in one worker; started before the plugins with zones."""
        if worker.number == 0:
            self._delay_s = 0.0 if worker.workers == 1 else OTHERS_S

    async def stop(self) -> None:
        """Stop all NOTIFY."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, apex: WireName) -> None:
        """Start to notify the secondary servers of a zone; restarts one under way."""
        rule = self._rule_of(apex)
        if (
            self._delay_s is None
            or rule is None
            or not rule.notified
            or len(self._tasks) >= MAX_NOTIFIED
        ):
            return
        old = self._tasks.pop(apex, None)
        if old is not None:
            old.cancel()
        task = asyncio.get_running_loop().create_task(self._notify_all(rule, apex, self._delay_s))
        self._tasks[apex] = task
        task.add_done_callback(lambda done: self._forget(apex, done))

    def _forget(self, apex: WireName, task: asyncio.Task[None]) -> None:
        if self._tasks.get(apex) is task:
            del self._tasks[apex]

    async def _notify_all(self, rule: TransferRule, apex: WireName, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for address in rule.notified:
            said = await _notify(address, rule.source, apex)
            if said:
                _log.warning('NOTIFY of zone "%s" to %s: %s', name.text(apex), address[0], said)


def _parts(soa: RR, records: Iterator[RR]) -> Iterator[tuple[RR, ...]]:
    """Yield the answer sections of the messages of a zone."""
    part, octets = [soa], 0
    for record in records:
        size = len(record.owner) + 10 + len(record.rdata)
        if octets + size > MESSAGE_OCTETS:
            yield tuple(part)
            part, octets = [], 0
        part.append(record)
        octets += size
    yield tuple(part)


class _Notify(asyncio.DatagramProtocol):
    """Waits for the reply to a NOTIFY."""

    def __init__(self, ident: int) -> None:
        self.replied: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ident = ident

    def datagram_received(self, data: bytes, addr: object) -> None:
        is_reply = len(data) >= message.HEADER_OCTETS and data[2] & 0xF8 == 0xA0
        if is_reply and int.from_bytes(data[:2], "big") == self._ident and not self.replied.done():
            self.replied.set_result(data[3] & 15)

    def error_received(self, exc: Exception) -> None:
        if not self.replied.done():
            self.replied.set_exception(exc)


async def _notify(address: tuple[str, int], source: str, apex: WireName) -> str:
    """Send a NOTIFY until it is acknowledged (RFC 1996); return "" or the error."""
    said = ""
    for _ in range(TRIES):
        ident = secrets.randbelow(65536)
        question = Question(apex, apex, rr.SOA)
        packet = message.write_query(ident, message.OPCODE_NOTIFY << 11 | AA, question, None)
        local = (source, 0) if source else None
        try:
            transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                functools.partial(_Notify, ident), local_addr=local, remote_addr=address
            )
        except OSError as error:
            return error.strerror or str(error)
        try:
            transport.sendto(packet)
            rcode = await asyncio.wait_for(protocol.replied, TRY_S)
            if rcode == rr.NOERROR:
                return ""
            said = rr.rcode_text(rcode)
        except TimeoutError:
            said = f"no reply in {TRY_S:g} s"
        except OSError as error:
            said = error.strerror or str(error)
        finally:
            transport.close()
    return f"{said} ({TRIES} tries)"


def _rule(directive: Directive, block: Block) -> TransferRule:
    zones = arguments.zone_names(directive.args, directive) or block.zones
    is_open, source = False, ""
    hosts: list[tuple[str, int]] = []
    for line in directive.block:
        match line.name:
            case "to":
                for text in arguments.some(line):
                    if text == "*":
                        is_open = True
                    else:
                        hosts.append(arguments.server(text, line))
            case "source":
                if source:
                    raise line.error("may be given once")
                source = arguments.address(line)
            case _:
                raise line.unknown("to", "source")
    if not (hosts or is_open):
        raise directive.error("to is required")
    allowed = frozenset(_address(host) for host, _ in hosts)
    return TransferRule(tuple(zones), is_open, allowed, tuple(hosts), source)


def _address(text: str) -> str:
    """Return an address for comparison: IPv4-mapped ones as IPv4."""
    return name.canonical_address(text) or text
