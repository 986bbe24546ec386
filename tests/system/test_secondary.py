"""secondary: what it takes from primaries that are good, slow, silent or hostile, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import inprocess
import pytest

from clusterdns.authority import primaries

ZONE = "example.test."
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Primary:
    """A primary server with a zone of two records; ``refresh``, ``retry``, ``expire`` as set."""

    def __init__(self) -> None:
        self.serial, self.timers = 1, (100, 10, 1000)
        self.is_silent = False
        self.asked: list[str] = []
        self.says: Callable[[dns.message.Message], list[bytes]] = self.truth

    def truth(self, query: dns.message.Message) -> list[bytes]:
        qtype = dns.rdatatype.to_text(query.question[0].rdtype)
        numbers = " ".join(map(str, (self.serial, *self.timers, 5)))
        soa = dns.rrset.from_text(ZONE, 60, "IN", "SOA", f"ns. h. {numbers}")
        www = dns.rrset.from_text(f"www.{ZONE}", 60, "IN", "TXT", str(self.serial))
        reply = dns.message.make_response(query)
        reply.answer = [soa] if qtype == "SOA" else [soa, www, soa]
        return [reply.to_wire()]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            query = dns.message.from_wire(await reader.readexactly(length))
            self.asked.append(dns.rdatatype.to_text(query.question[0].rdtype))
            if self.is_silent:
                await reader.read()
            for part in self.says(query):
                writer.write(len(part).to_bytes(2, "big") + part)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(primary: Primary) -> AsyncIterator[int]:
    server = await asyncio.start_server(primary.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def between(*primary: Primary, more: str = "") -> AsyncIterator[inprocess.InProcess]:
    """Yield a server that is a secondary of some primaries."""
    async with serving(primary[0]) as first, serving(primary[-1]) as last:
        ports = dict.fromkeys((first, last) if len(primary) > 1 else (first,))
        addresses = " ".join(f"127.0.0.1:{port}" for port in ports)
        text = f"{ZONE} {{\n secondary {{\n transfer from {addresses}\n {more}\n }}\n}}\n"
        async with inprocess.InProcess(text, []) as server:
            yield server


async def said(server: inprocess.InProcess, qname: str = f"www.{ZONE}") -> str:
    """Return the first word of the TXT records of a name, or the return code."""
    packet = dns.message.make_query(qname, "TXT").to_wire()
    reply = dns.message.from_wire(await server.ask_chain(packet, "tcp") or b"")
    return reply.answer[0][0].strings[0].decode() if reply.answer else str(reply.rcode().name)


async def until(server: inprocess.InProcess, text: str, timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := await said(server)) != text:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


async def notify(server: inprocess.InProcess) -> bytes | None:
    query = dns.message.make_query(ZONE, "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    return await server.ask_chain(query.to_wire(), "udp")


def skip(server: inprocess.InProcess, seconds: float) -> None:
    """Let time pass for the server, which looks at the clock at least once a second."""
    server.skipped_s += seconds


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def test_the_zone_is_transferred_and_follows_the_serial_by_the_refresh_time():
    async def test() -> None:
        primary = Primary()
        async with between(primary) as server:
            await until(server, "1")
            skip(server, 90)
            await asyncio.sleep(1.1)
            assert ["AXFR"] == primary.asked
            primary.serial = 2
            skip(server, 20)
            await until(server, "2")
            assert ["AXFR", "SOA", "AXFR"] == primary.asked
            primary.serial = 1  # older: not taken
            skip(server, 110)
            while len(primary.asked) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert ("SOA", "2") == (primary.asked[-1], await said(server))

    run(test())


def test_an_unknown_zone_is_servfail_and_the_next_primary_is_asked():
    async def test() -> None:
        bad, good = Primary(), Primary()
        bad.says = lambda _: [b"\0" * 30]
        good.is_silent = True
        async with between(bad, good) as server:
            assert "SERVFAIL" == await said(server)
            good.is_silent = False
            await until(server, "1", primaries.STEP_S + 5)

    run(test())


def test_a_zone_expires_unless_the_primary_answers_and_comes_back_with_any_serial():
    async def test() -> None:
        primary = Primary()
        async with between(primary) as server:
            await until(server, "1")
            primary.says = lambda _: []
            skip(server, 900)
            while primary.asked[-1] != "SOA":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert "1" == await said(server)
            skip(server, 150)
            await until(server, "SERVFAIL")
            primary.serial, primary.says = 0, primary.truth
            await until(server, "0", 12)

    run(test())


def test_notify_has_a_primary_asked_at_once_but_once_a_second_at_most():
    async def test() -> None:
        primary = Primary()
        async with between(primary) as server:
            await until(server, "1")
            primary.serial = 2
            for _ in range(50):
                reply = dns.message.from_wire(await notify(server) or b"")
                assert (dns.opcode.NOTIFY, 0) == (reply.opcode(), reply.rcode())
                assert reply.flags & dns.flags.AA
            await until(server, "2")
            for _ in range(50):
                await notify(server)
                await asyncio.sleep(0.005)
            assert 5 >= len(primary.asked)

    run(test())


def test_notify_of_strangers_is_not_answered(monkeypatch):
    async def test() -> None:
        primary = Primary()
        async with between(primary) as server:
            await until(server, "1")
            monkeypatch.setattr(inprocess, "CLIENT", ("192.0.2.9", 53))
            primary.serial = 2
            assert await notify(server) is None
            await asyncio.sleep(0.1)
            assert ["AXFR"] == primary.asked

    run(test())


def test_a_worker_hears_of_a_notify_that_another_has_got():
    async def test() -> None:
        primary = Primary()
        async with between(primary) as server:
            await until(server, "1")
            (plugin,) = (p for p in server.configuration.plugins if p.name == "secondary")
            plugin._notes[0] += 1  # type: ignore[attr-defined]
            primary.serial = 2
            await until(server, "2")

    run(test())


def endless(query: dns.message.Message) -> list[bytes]:
    soa = dns.rrset.from_text(ZONE, 60, "IN", "SOA", "ns. h. 1 2 3 4 5")
    reply = dns.message.make_response(query)
    reply.answer = [soa]
    first = reply.to_wire()
    text = dns.rrset.from_text(f"x.{ZONE}", 60, "IN", "TXT", " ".join([f'"{"x" * 255}"'] * 200))
    reply.answer = [text]
    return [first, *[reply.to_wire()] * 1000]


@pytest.mark.parametrize(
    "says",
    [
        endless,
        lambda query: [dns.message.make_response(query).to_wire()],
        lambda query: [b""],
        lambda query: [b"\xff" * 65535],
        lambda query: [query.to_wire()],
    ],
    ids=["endless", "empty", "no octets", "noise", "echo"],
)
def test_a_hostile_primary_neither_stalls_nor_ends_the_server(says, caplog):
    async def test() -> None:
        primary = Primary()
        primary.says = says
        async with between(primary) as server:
            longest = last = 0.0
            deadline = time.monotonic() + 8
            while not caplog.records and time.monotonic() < deadline:
                last = time.monotonic()
                assert "SERVFAIL" == await said(server)
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - last)
            assert caplog.records
            assert 0.5 > longest
            primary.says = primary.truth
            await until(server, "1", 10)

    run(test())


def test_names_that_the_zone_does_not_have_fall_through():
    async def test() -> None:
        # behind it is nobody
        for extra, expected in (("", "NXDOMAIN"), ("fallthrough", "SERVFAIL")):
            async with between(Primary(), more=extra) as server:
                await until(server, "1")
                assert expected == await said(server, f"nowhere.{ZONE}")

    run(test())
