"""upstream: what counts as a reply, who is asked in which turn, and exchanges over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterdns.errors import UpstreamError
from clusterdns.forwarding import upstream
from clusterdns.forwarding.choice import Round, order
from clusterdns.forwarding.connections import Idle
from clusterdns.forwarding.entropy import Idents
from clusterdns.forwarding.exchange import Exchange
from clusterdns.forwarding.upstream import Upstream, UpstreamOptions
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import Edns, Question

WWW = name.parse("www.Example.com.")
QUESTION = Question(WWW, name.fold(WWW), rr.A)
FAST = UpstreamOptions(read_timeout_s=0.2, probe_interval_s=0.02)


IDENTS = Idents()


def exchange() -> Exchange:
    return Exchange.begin(IDENTS.take(), QUESTION, message.RD, None)


def good(query: bytes) -> bytes:
    """Return the right reply: one address."""
    reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    owner = reply.question[0].name
    reply.answer.append(dns.rrset.from_text(owner, 60, "IN", "A", "192.0.2.1"))
    return reply.to_wire()


# ---- Exchange


def test_a_query_is_what_the_client_asked_under_an_id_of_its_own():
    edns = Edns(1400, 0, message.EDNS_DO, b"\0\x0a\0\x08abcdefgh")
    flags = message.RD | message.CD | message.AD
    out = Exchange.begin(7, QUESTION, flags | message.QR | 5, edns)
    query = reading.read_query(out.packet)
    assert isinstance(query, message.Query)
    assert (out.ident, flags, edns) == (query.ident, query.flags, query.edns)
    assert query.question is not None
    assert (WWW, rr.A, 1) == query.question[:1] + query.question[2:4]


def test_ids_are_spread_over_all_sixteen_bits():
    idents = [exchange().ident for _ in range(4000)]
    assert len(set(idents)) > 3700  # 122 of 4000 are expected twice
    for bit in range(16):
        assert 1700 < sum(ident >> bit & 1 for ident in idents) < 2300  # 9 standard deviations


@pytest.mark.parametrize(
    ("lie", "is_reply", "is_answer"),
    [
        (lambda wire: wire, True, True),
        (lambda wire: wire + b"more", True, True),
        (lambda wire: wire.replace(b"Example", b"eXAMPLE"), True, True),
        (lambda wire: b"", False, False),
        (lambda wire: wire[:11], False, False),
        (lambda wire: bytes((wire[0] ^ 1,)) + wire[1:], False, False),
        (lambda wire: wire[:2] + b"\x01" + wire[3:], True, False),  # QR 0
        (lambda wire: wire.replace(b"\3www", b"\3wwx"), True, False),
        (lambda wire: wire.replace(b"\3com\0\0\1", b"\3com\0\0\x1c"), True, False),
        (lambda wire: wire.replace(b"\3com\0\0\1\0\1", b"\3com\0\0\1\0\3"), True, False),
        (lambda wire: wire[:4] + b"\0\0" + b"\0" * 6, True, False),  # no question
        (lambda wire: wire[:2] + b"\x81\x80junk" * 3, False, False),
    ],
)
def test_what_is_a_reply_and_what_answers(lie, is_reply, is_answer):
    out = exchange()
    reply = out.read(lie(good(out.packet)))
    assert is_reply == (reply is not None)
    assert is_answer == (reply is not None and out.is_answered_by(reply))


@pytest.mark.parametrize("octets", [1, 3, 4, 6, 15])
def test_a_reply_cut_short_asks_for_tcp(octets):
    out = exchange()
    reply = out.read(good(out.packet)[:-octets])
    assert reply is not None
    assert (reply.flags & message.TC, reply.rcode, reply.answer) == (message.TC, 0, ())
    assert out.is_answered_by(reply)
    for old, new in ((b"\3www", b"\3wwx"), (b"\3com\0\0\1", b"\3com\0\0\2")):
        assert out.read(good(out.packet).replace(old, new)[:-octets]) is None


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_reading_is_total(octets, has_id, has_question):
    out = exchange()
    packet = out.packet[:2] + octets[2:] if has_id else octets
    if has_question:
        packet = packet[:12].ljust(12, b"\0") + out.packet[12:] + octets
    reply = out.read(packet)
    if reply is not None and out.is_answered_by(reply):
        assert packet[:2] == out.packet[:2]
        assert packet[2] & 0x80
        assert reply.questions[0][0].lower() == QUESTION.folded


ADDRESS = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
LONGER = b"\xc0\x0c\0\x1c\0\1\0\0\0\x3c\0\x10" + bytes(16)
ALIAS = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\x10"
OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"


@given(
    st.lists(st.sampled_from([ADDRESS, LONGER, ALIAS, OPT, b"\0", b""]), max_size=5),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.integers(0, 0xFFFF),
    st.binary(max_size=6),
)
def test_the_short_way_to_read_addresses_says_what_the_long_one_does(records, counts, flags, tail):
    out = exchange()
    head = struct.pack("!HHHHHH", out.ident, flags, *counts)
    for question in (out.packet[12:], out.packet[12:].lower()):
        packet = head + question + b"".join(records) + tail
        found = out._read_addresses(packet)
        assert found is None or reading.read_reply(packet) == found


def test_addresses_are_read_the_short_way():
    out = exchange()
    packet = struct.pack("!HHHHHH", out.ident, 0x8180, 1, 2, 0, 0) + out.packet[12:]
    found = out._read_addresses(packet + ADDRESS + LONGER)
    assert found is not None
    assert ([rr.A, rr.AAAA], out.is_answered_by(found)) == ([r.rtype for r in found.answer], True)


# ---- order and Round


def test_sequential_is_as_written():
    assert [0, 1, 2] == order("sequential", 3, 7, random.Random(1))


def test_round_robin_moves_one_to_the_front():
    found = [order("round_robin", 3, turn, random.Random(1)) for turn in range(4)]
    assert [[0, 1, 2], [1, 0, 2], [2, 0, 1], [0, 1, 2]] == found


def test_random_is_every_permutation_alike():
    rng = random.Random(7)
    found = [tuple(order("random", 3, 0, rng)) for _ in range(6000)]
    assert len(set(found)) == 6
    assert all(850 < found.count(one) < 1150 for one in set(found))  # 5 standard deviations


def taken(fails: list[int], times: int, *, max_fails: int = 2, fails_fast: bool = False):
    turns = Round([0, 1, 2], max_fails=max_fails, fails_fast=fails_fast, rng=random.Random(3))
    return [turns.take(fails) for _ in range(times)], turns.broken


def test_servers_that_are_down_are_passed_over_in_every_round():
    assert ([0, 1, 2, 0], 0) == taken([0, 2, 1], 4)
    assert ([0, 2, 0, 2, 0], 0) == taken([0, 3, 0], 5)
    assert ([1, 1, 1], 0) == taken([3, 0, 9], 3)


def test_where_all_are_down_any_is_taken_unless_that_shall_fail_fast():
    found, broken = taken([3, 3, 3], 60)
    assert ({0, 1, 2}, 60) == (set(found), broken)
    assert ([None], 1) == taken([3, 3, 3], 1, fails_fast=True)


def test_without_max_fails_no_server_is_down():
    assert ([0, 1, 2, 0], 0) == taken([99, 99, 99], 4, max_fails=0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.integers(1, 4), st.integers(1, 40))
def test_a_server_that_is_up_is_taken_whenever_there_is_one(fails, max_fails, times):
    turns = Round(
        list(range(len(fails))), max_fails=max_fails, fails_fast=False, rng=random.Random(0)
    )
    up = [i for i, failed in enumerate(fails) if failed <= max_fails]
    found = [turns.take(fails) for _ in range(times)]
    if up:
        assert [up[i % len(up)] for i in range(times)] == found
        assert turns.broken == 0
    else:
        assert turns.broken == times


# ---- Upstream, over sockets


class Peer(asyncio.DatagramProtocol):
    """A UDP and TCP server on one port; ``lie`` makes the replies to one query."""

    def __init__(self, lie: Callable[[bytes], Iterable[bytes]] = lambda query: [good(query)]):
        self.lie = lie
        self.queries: list[tuple[int, tuple[str, int]]] = []  # ID, from where
        self.connections: list[asyncio.StreamWriter] = []
        self.is_silent = False
        self.delay_s = 0.0
        self.waiting = self.most_waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queries.append((struct.unpack_from("!H", data)[0], addr))
        if self.is_silent:
            return
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        asyncio.get_running_loop().call_later(self.delay_s, self._reply, data, addr)

    def _reply(self, data: bytes, addr: tuple[str, int]) -> None:
        self.waiting -= 1
        for packet in self.lie(data):
            self.transport.sendto(packet, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                query = await reader.readexactly(length)
                if self.is_silent:
                    continue
                for packet in self.lie(query):
                    writer.write(struct.pack("!H", len(packet)) + packet)
        writer.close()


@contextlib.asynccontextmanager
async def running(
    peer: Peer, options: UpstreamOptions = FAST, *, port: int = 0
) -> AsyncIterator[Upstream]:
    """Run a peer on loopback and yield the ``Upstream`` that asks it."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", port)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_datagram_endpoint(lambda: peer, local_addr=address)
    asked = Upstream(*address, options)
    try:
        yield asked
    finally:
        asked.close()
        transport.close()
        server.close()
        for writer in peer.connections:
            writer.close()
        await asyncio.sleep(0)


def run(test: Callable[[], object]) -> None:
    """Run a coroutine function; what it leaves behind is an error."""
    asyncio.run(asyncio.wait_for(test(), 20))


def test_each_query_over_udp_has_a_port_and_an_id_of_its_own():
    async def test() -> None:
        peer = Peer()
        async with running(peer) as asked:
            for _ in range(6):
                await asyncio.gather(*(asked.ask(exchange(), "udp") for _ in range(50)))
            ports = {address[1] for _, address in peer.queries}
            assert len(ports) > 270
            assert len({ident for ident, _ in peer.queries}) > 285
            assert {("misses", "udp"): 300} == asked.dials
            assert 300 == sum(asked.durations["NOERROR"].counts)

    run(test)


def test_a_reply_is_awaited_through_forged_ones():
    def lie(query: bytes) -> list[bytes]:
        right = good(query)
        wrong_id = bytes((right[0] ^ 0x80,)) + right[1:].replace(b"\xc0\0\2\1", b"\6\6\6\6")
        return [b"", b"x", wrong_id, query[:2] + b"\x81\x80junk" * 3, right]

    async def test() -> None:
        async with running(Peer(lie)) as asked:
            reply = await asked.ask(exchange(), "udp")
            assert [b"\xc0\0\2\1"] == [record.rdata for record in reply.answer]

    run(test)


def test_datagrams_from_elsewhere_do_not_arrive():
    async def test() -> None:
        peer = Peer()
        with socket.socket(type=socket.SOCK_DGRAM) as other:

            def lie(query: bytes) -> list[bytes]:
                other.sendto(good(query), peer.queries[-1][1])
                return []

            peer.lie = lie
            async with running(peer) as asked:
                with pytest.raises(UpstreamError, match=r"i/o timeout$"):
                    await asked.ask(exchange(), "udp")

    run(test)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_each_of_many_ends_in_its_own_time(proto):
    """Queries sent one after the other, some of them answered, some in place of one that ended."""

    async def test() -> None:
        peer = Peer(lambda query: [good(query)] if query[0] & 1 else [])
        async with running(peer) as asked:
            took = []

            async def one(ident: int, delay_s: float) -> None:
                await asyncio.sleep(delay_s)
                for _ in range(2):
                    began = time.monotonic()
                    out = Exchange.begin(ident, QUESTION, message.RD, None)
                    try:
                        await asked.ask(out, proto)
                        assert ident & 0x100
                    except UpstreamError:
                        assert not ident & 0x100
                        took.append(time.monotonic() - began)

            await asyncio.gather(*(one(i << 8, i * 0.01) for i in range(30)))
            assert len(took) == 30
            assert 0.19 < min(took) <= max(took) < 0.35
            assert not asked._under_way

    run(test)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_silence_is_an_error_in_time(proto):
    async def test() -> None:
        peer = Peer()
        peer.is_silent = True
        async with running(peer) as asked:
            began = time.monotonic()
            with pytest.raises(UpstreamError, match=rf"^read {proto} 127.0.0.1:\d+: i/o timeout$"):
                await asked.ask(exchange(), proto)
            assert 0.19 < time.monotonic() - began < 1
            assert {} == asked.durations

    run(test)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_closed_port_is_an_error_at_once(proto):
    async def test() -> None:
        async with running(Peer()) as asked:
            pass
        began = time.monotonic()
        with pytest.raises(UpstreamError, match="refused"):
            await asked.ask(exchange(), proto)
        assert time.monotonic() - began < 0.15

    run(test)


def test_connections_are_kept_until_they_expire():
    async def test() -> None:
        peer = Peer()
        async with running(peer, FAST._replace(idle=Idle(expire_s=0.1))) as asked:
            for _ in range(3):
                await asked.ask(exchange(), "tcp")
            assert len(peer.connections) == 1
            await asyncio.sleep(0.15)
            await asked.ask(exchange(), "tcp")
            assert len(peer.connections) == 2
            assert {("misses", "tcp"): 2, ("hits", "tcp"): 2} == asked.dials

    run(test)


def test_a_connection_that_nobody_needs_is_closed():
    async def test() -> None:
        peer = Peer()
        async with running(peer, FAST._replace(idle=Idle(expire_s=0.1))) as asked:
            await asked.ask(exchange(), "tcp")
            assert not peer.connections[0].is_closing()
            await until(lambda: peer.connections[0].is_closing())

    run(test)


def test_connections_end_at_their_greatest_age_though_they_are_in_use():
    async def test() -> None:
        peer = Peer()
        async with running(peer, FAST._replace(idle=Idle(max_age_s=0.1))) as asked:
            deadline = time.monotonic() + 5
            while len(peer.connections) < 2 and time.monotonic() < deadline:
                await asked.ask(exchange(), "tcp")
                await asyncio.sleep(0.01)
            assert len(peer.connections) == 2

    run(test)


def test_only_so_many_idle_connections_are_kept():
    async def test() -> None:
        peer = Peer()
        async with running(peer, FAST._replace(idle=Idle(most=2))) as asked:
            for _ in range(2):
                await asyncio.gather(*(asked.ask(exchange(), "tcp") for _ in range(5)))
            assert len(peer.connections) == 5 + 3

    run(test)


def test_a_kept_connection_that_was_closed_is_no_failure():
    async def test() -> None:
        peer = Peer()
        async with running(peer) as asked:
            await asked.ask(exchange(), "tcp")
            peer.connections[0].transport.abort()  # a reset: seen only when the connection is used
            reply = await asked.ask(exchange(), "tcp")
            assert (1, 2) == (len(reply.answer), len(peer.connections))

    run(test)


def test_a_timeout_on_a_kept_connection_is_one():
    async def test() -> None:
        peer = Peer()
        async with running(peer) as asked:
            await asked.ask(exchange(), "tcp")
            peer.is_silent = True
            began = time.monotonic()
            with pytest.raises(UpstreamError, match="i/o timeout"):
                await asked.ask(exchange(), "tcp")
            assert time.monotonic() - began < 0.35  # asked once
            peer.is_silent = False
            await asked.ask(exchange(), "tcp")
            assert len(peer.connections) == 2  # a late reply would meet nobody

    run(test)


@pytest.mark.parametrize("octets", [b"", b"\0", b"\0\x20half", b"\0\0"])
def test_a_stream_that_breaks_off_is_an_error(octets):
    async def test() -> None:
        async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(2)
            writer.write(octets)
            writer.close()

        server = await asyncio.start_server(break_off, "127.0.0.1", 0)
        asked = Upstream(*server.sockets[0].getsockname(), FAST)
        with pytest.raises(UpstreamError):
            await asked.ask(exchange(), "tcp")
        server.close()

    run(test)


def test_no_more_exchanges_are_under_way_than_there_may_be_sockets(monkeypatch):
    async def test() -> None:
        peer = Peer()
        peer.delay_s = 0.005
        async with running(peer) as asked:
            replies = await asyncio.gather(*(asked.ask(exchange(), "udp") for _ in range(20)))
            assert (20, 3) == (len(replies), peer.most_waiting)

    monkeypatch.setattr(upstream, "MAX_SOCKETS", 3)
    run(test)


def test_a_suspect_is_checked_until_it_answers_and_no_longer():
    async def test() -> None:
        peer = Peer(lambda query: [refused(query)])  # any reply is a sign of life
        async with running(peer) as gone:
            pass
        asked = Upstream(gone.host, gone.port, FAST)
        asked.suspect()
        await until(lambda: asked.fails > 3)
        assert asked.fails == asked.health.failures
        async with running(peer, port=asked.port):
            asked.suspect()  # changes nothing: it is being checked
            await until(lambda: asked.fails == 0)
            seen = len(peer.queries)
            await asyncio.sleep(0.1)
            assert (1, 1) == (seen, len(peer.queries))
        asked.close()

    run(test)


@pytest.mark.parametrize(
    ("options", "flags"), [({}, dns.flags.RD), ({"probe_recursion": False}, 0)]
)
def test_the_probe_asks_for_name_servers(options, flags):
    async def test() -> None:
        seen = []
        peer = Peer(lambda query: seen.append(query) or [good(query)])
        settings = FAST._replace(probe_name=name.fold(name.parse("health.test.")), **options)
        async with running(peer, settings) as asked:
            asked.suspect()
            await until(lambda: seen)
        query = dns.message.from_wire(seen[0])
        assert flags == query.flags
        assert "health.test. IN NS" == query.question[0].to_text()

    run(test)


def test_ipv6_and_a_source_address():
    async def test() -> None:
        peer = Peer()
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: peer, local_addr=("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback here")
        asked = Upstream(
            "::1", transport.get_extra_info("sockname")[1], FAST._replace(source="::1")
        )
        assert f"[::1]:{asked.port}" == asked.text
        await asked.ask(exchange(), "udp")
        assert "::1" == peer.queries[0][1][0]
        wrong = Upstream("::1", asked.port, FAST._replace(source="127.0.0.1"))
        for proto in ("udp", "tcp"):
            with pytest.raises(UpstreamError):
                await wrong.ask(exchange(), proto)
        transport.close()

    run(test)


def refused(query: bytes) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(query))
    reply.set_rcode(dns.rcode.REFUSED)
    return reply.to_wire()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
