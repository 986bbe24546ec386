"""stream: framing, and what one client may cost the others."""

from __future__ import annotations

import contextlib
import functools
import random
import resource
import socket
import struct
import threading
import time
from pathlib import Path

import dns.message
import killers
import peers
import pytest
from fuzz import fuzz_drain
from hypothesis import given
from hypothesis import strategies as st

from clusterdns.chain.view import Router
from clusterdns.serving import connection, framing, native, tcp
from clusterdns.serving.server import Listener
from clusterdns.wire import message
from clusterdns.wire.message import Edns
from clusterdns.wire.response import Response

COREFILE = ". {\n whoami\n}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with peers.clusterdns(COREFILE, Path(tmp_path_factory.mktemp("stream"))) as running:
        yield running


def query(ident: int = 1) -> bytes:
    asked = dns.message.make_query("example.org.", "A")
    asked.id = ident
    return asked.to_wire()


def unique(ident: int) -> bytes:
    asked = dns.message.make_query(f"n{ident}.example.org.", "A")
    asked.id = ident
    return asked.to_wire()


def alive(server: peers.Server) -> bool:
    return peers.ask_udp(server.address, query()) is not None


def worker(server: peers.Server) -> int:
    """Return the process that answers queries: the first child."""
    pid = server.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_out_whole_however_they_are_cut(messages, size):
    octets = b"".join(framing.frame(message) for message in messages)
    buffer, found = bytearray(), []
    for i in range(0, len(octets), size):
        buffer += octets[i : i + size]
        while end := framing.end_of(buffer, 0):
            found.append(bytes(buffer[2:end]))
            del buffer[:end]
    assert messages == found
    assert not buffer


@pytest.fixture(params=[False, True], ids=["", "replies"])
def streams(request):
    """Streams whose table has answers of every kind, and octets of queries to it."""
    server = Listener(Router({}), "dns://.:53", time.monotonic)
    server.table = fuzz_drain.filled_table(keeps_replies=request.param)
    with socket.socket() as sock:
        found = tcp.Streams(server, sock)
        found.hits += [0] * 12
        yield found
        found.poll.close()


def answers(streams: tcp.Streams, answer, octets: bytes, most: int):
    """Return all that a function says of a stream, and what it counts."""
    before, at, found, seen = list(streams.hits), 0, [], streams.observed.seen
    while True:
        replies, end, answered = answer(octets, at, most, fuzz_drain.NOW)
        found.append((replies, end, answered, seen[:]))
        seen.clear()
        if end == at:
            end = framing.end_of(octets, at)  # no hit: the next one
            if not end:
                break
        at = end
    return found, [now - then for now, then in zip(streams.hits, before, strict=True)]


@pytest.mark.skipif(
    not hasattr(native.compiled, "answer"),
    reason="not compiled: apt-get install gcc python3-dev, then pip install -e . again",
)
def test_the_same_octets_in_c_and_in_python(streams):
    in_c = streams.answer_to("127.0.0.1")
    in_python = functools.partial(streams.answer_hits, streams.server.table)
    assert in_c.func != in_python.func
    rng, some, hits = random.Random(7), fuzz_drain.seeds(streams.server.table), 0
    for i in range(1000):
        packets = [rng.choice(some) for _ in range(rng.randint(1, 80))]
        packets = [killers.mutate(rng, p) if rng.random() < 0.3 else p for p in packets]
        octets = b"".join(framing.frame(p[:65535]) for p in packets)
        octets = octets[: len(octets) - (i % 3 and rng.randrange(20))]
        most = rng.choice((0, 1, 7, connection.BATCH))
        expected = answers(streams, in_python, octets, most)
        assert expected == answers(streams, in_c, octets, most)
        hits += sum(expected[1])
    assert hits > 5000


def test_the_replies_of_a_stretch_are_bounded(streams):
    """A client may ask for the largest answer again and again."""
    asked = fuzz_drain.question("n300.cluster.local.")
    query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + asked.wire
    octets = framing.frame(query) * 500
    in_python = functools.partial(streams.answer_hits, streams.server.table)
    for answer in (streams.answer_to("127.0.0.1"), in_python):
        replies, end, answered = answer(octets, 0, 500, fuzz_drain.NOW)
        assert connection.REPLY_OCTETS <= len(replies) < connection.REPLY_OCTETS + 65537
        assert end == answered * len(framing.frame(query))


def test_no_reply_is_longer_than_its_length_can_say(streams):
    """An answer that fits without OPT may not with it."""
    opt = message.write_opt(Edns(1232, 0, 0))
    for i in range(5, 16):  # 65,525 to 65,535 octets
        asked = fuzz_drain.question("x" * i + ".cluster.local.")
        answer = fuzz_drain.addresses(asked.qname, 4093)
        response = Response(answer=answer, facts=("x",))
        streams.server.table.remember(asked, response, fuzz_drain.NOW, lambda: 0)
        for tail in (b"", opt):
            query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, len(tail) // 11) + asked.wire + tail
            octets = framing.frame(query)
            expected = streams.answer_hits(streams.server.table, octets, 0, 1, fuzz_drain.NOW)
            assert expected == streams.answer_to("127.0.0.1")(octets, 0, 1, fuzz_drain.NOW)
            assert expected[2] == (0 if tail else 1)


def test_pipelined_queries_are_all_answered(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"".join(framing.frame(query(i)) for i in range(500)))
        replies = [peers.read_frame(sock) for _ in range(500)]
    assert set(range(500)) == {struct.unpack("!H", reply[:2])[0] for reply in replies}


def test_octet_by_octet(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in framing.frame(query(9)):
            sock.send(bytes((octet,)))
        assert peers.read_frame(sock)[:2] == b"\0\x09"


def test_a_half_closed_client_gets_its_replies(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(framing.frame(query(1)) + framing.frame(query(2)) + b"\0")
        sock.shutdown(socket.SHUT_WR)
        assert {b"\0\x01", b"\0\x02"} == {peers.read_frame(sock)[:2] for _ in range(2)}
        assert sock.recv(1) == b""


def test_a_client_that_says_nothing_is_closed(server):
    with socket.create_connection(server.address, connection.FIRST_TIMEOUT_S + 3) as sock:
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        assert connection.FIRST_TIMEOUT_S - 0.5 <= time.monotonic() - began


def test_half_a_query_does_not_hold_a_connection(server):
    with socket.create_connection(server.address, connection.FIRST_TIMEOUT_S + 3) as sock:
        sock.sendall(b"\0\x40abc")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_short_messages_are_ignored(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(framing.frame(b"abc") + framing.frame(b"") + framing.frame(query(5)))
        assert peers.read_frame(sock)[:2] == b"\0\x05"


def test_a_client_that_does_not_read_stops_being_read(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.setblocking(False)
        octets = b"".join(framing.frame(query(i)) for i in range(100))
        sent, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                sent += sock.send(octets)
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < 64 * 2**20  # the sockets' buffers and one of ours, not what it likes
        assert alive(server)


def test_a_client_that_reads_slowly_gets_all_its_replies(tmp_path):
    """It takes three times as long as a connection may be quiet, and is not."""
    addresses = "".join(f"192.0.2.{i} many.test\n" for i in range(1, 41))
    corefile = f". {{\ntimeouts {{\nidle 1s\n}}\nhosts {{\n{addresses}}}\n}}\n"
    asked = dns.message.make_query("many.test", "A").to_wire()
    times = 20_000
    with peers.clusterdns(corefile, tmp_path) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(server.address)
        sender = threading.Thread(target=sock.sendall, args=(framing.frame(asked) * times,))
        sender.start()
        began, got = time.monotonic(), 0
        while time.monotonic() - began < 3:
            time.sleep(0.02)
            part = sock.recv(4096)
            assert part, f"closed after {time.monotonic() - began:.1f} s"
            got += len(part)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        whole = times * len(framing.frame(peers.ask_tcp(server.address, asked)))
        while got < whole:
            part = sock.recv(2**20)
            assert part, f"closed after {got} of {whole} octets"
            got += len(part)
        sender.join()
    assert got == whole


def test_too_many_connections_cost_the_quietest(server):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(server.address, 5))
        for _ in range(tcp.MAX_CONNECTIONS + 10):
            stack.enter_context(socket.create_connection(server.address, 5))
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(1) == b""
        assert alive(server)
        assert peers.ask_tcp(server.address, query(3))[:2] == b"\0\x03"


BIG = "$ORIGIN big.test.\n@ 5 SOA ns h 1 2 3 4 5\n@ 5 NS ns\nns 5 A 192.0.2.9\n" + "".join(
    f"all 5 A 10.0.{i // 250}.{i % 250}\n" for i in range(3000)
)


def test_clients_that_do_not_read_cost_little_memory_and_hold_up_nobody(tmp_path):
    """Sixteen megabytes of queries for 48 kB each, none of whose replies is read."""
    (tmp_path / "big").write_text(BIG)
    corefile = "big.test {\n file big\n}\n. {\n whoami\n}\n"
    packet = dns.message.make_query("all.big.test", "A").to_wire()
    octets = framing.frame(packet) * (16 * 2**10 // len(packet))
    with peers.clusterdns(corefile, tmp_path) as server, contextlib.ExitStack() as stack:
        assert len(peers.ask_tcp(server.address, packet)) > 48_000
        before, slowest = resident_octets(worker(server)), 0.0
        for _ in range(1000):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(server.address)
            with contextlib.suppress(ConnectionError):
                sock.send(octets)
        for _ in range(20):
            began = time.monotonic()
            assert alive(server)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.5
        assert resident_octets(worker(server)) - before < 64 * 2**20


def resident_octets(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_more_connections_than_are_usual_keep_their_second_query(server):
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(server.address, 5)) for _ in range(1600)
        ]
        for ident in (1, 2):
            for sock in socks:
                sock.sendall(framing.frame(query(ident)))
            for sock in socks:
                assert ident == int.from_bytes(peers.read_frame(sock)[:2])


def connected(stack: contextlib.ExitStack, server: peers.Server, host: str) -> socket.socket:
    return stack.enter_context(socket.create_connection(server.address, 5, (host, 0)))


def test_connections_within_a_clients_share_outlive_those_of_a_crowd(server):
    with contextlib.ExitStack() as stack:
        few = [connected(stack, server, "127.0.0.2") for _ in range(connection.SHARE)]
        for sock in few:
            sock.sendall(framing.frame(query(1)))
            assert peers.read_frame(sock)
        for _ in range(tcp.MAX_CONNECTIONS + 10):
            connected(stack, server, "127.0.0.1")
        for sock in few:
            sock.sendall(framing.frame(query(2)))
            assert b"\0\2" == peers.read_frame(sock)[:2]


def test_a_connection_whose_query_is_under_way_is_not_closed(silent):
    server, upstream = silent
    with contextlib.ExitStack() as stack:
        first = connected(stack, server, "127.0.0.1")
        first.sendall(framing.frame(unique(1)))
        while b"\7example\3org" not in (sent := upstream.recvfrom(512))[0]:
            pass
        for _ in range(tcp.MAX_CONNECTIONS + 10):
            connected(stack, server, "127.0.0.1")
        bad_version = dns.message.make_query("x.", "A", use_edns=1).to_wire()
        assert peers.ask_tcp(server.address, bad_version)  # by now all have been taken in
        packet, client = sent
        upstream.sendto(packet[:2] + b"\x81\x85" + packet[4:], client)  # REFUSED
        assert b"\0\1" == peers.read_frame(first)[:2]


@pytest.fixture
def silent(tmp_path):
    """A server, and the upstream of all it is asked, which says nothing by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(0.5)
        to = f"127.0.0.1:{upstream.getsockname()[1]}"
        corefile = f". {{\n forward . {to} {{\n  prefer_udp\n  max_fails 0\n }}\n}}\n"
        with peers.clusterdns(corefile, tmp_path) as server:
            yield server, upstream


def received(upstream: socket.socket) -> dict[bytes, tuple[bytes, tuple[str, int]]]:
    """Return the last query for each of our names, and its client, when none has come for a while.

    A name is asked for again when there is no reply.
    """
    found = {}
    with contextlib.suppress(TimeoutError):
        while True:
            packet, client = upstream.recvfrom(512)
            if b"\7example\3org" in packet:
                found[packet[12:]] = packet, client
    return found


def test_more_queries_than_may_wait_are_answered_in_the_end(silent):
    server, upstream = silent
    count = 2 * connection.MAX_IN_FLIGHT + 20
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"".join(framing.frame(unique(i)) for i in range(count)))
        sock.shutdown(socket.SHUT_WR)
        for expected in (connection.MAX_IN_FLIGHT, connection.MAX_IN_FLIGHT, 20):
            packets = received(upstream)
            assert expected == len(packets)
            for packet, client in packets.values():
                upstream.sendto(packet[:2] + b"\x81\x85" + packet[4:], client)  # REFUSED
        replies = [peers.read_frame(sock) for _ in range(count)]
        assert set(range(count)) == {struct.unpack("!H", reply[:2])[0] for reply in replies}
        assert sock.recv(1) == b""


@pytest.mark.parametrize("is_half_closed", [False, True])
def test_a_reset_connection_whose_queries_wait_costs_nothing(silent, is_half_closed):
    """It is not read meanwhile, but that it has gone is told again and again."""
    server, upstream = silent
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"".join(framing.frame(unique(i)) for i in range(connection.MAX_IN_FLIGHT)))
        if is_half_closed:
            sock.shutdown(socket.SHUT_WR)
        assert connection.MAX_IN_FLIGHT == len(received(upstream))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    began = cpu_s(worker(server))
    time.sleep(1)
    assert cpu_s(worker(server)) - began < 0.3


@pytest.mark.row("W8")
def test_without_descriptors_new_connections_wait(tmp_path, figure):
    with peers.clusterdns(COREFILE, tmp_path) as server, contextlib.ExitStack() as stack:
        pid = worker(server)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + 4, before[1]))
        socks = [stack.enter_context(socket.create_connection(server.address, 5)) for _ in range(9)]
        began = cpu_s(pid)
        time.sleep(1)
        spent_s = cpu_s(pid) - began
        assert spent_s < 0.3
        asked = 100
        assert all(alive(server) for _ in range(asked))
        back = time.monotonic()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        socks[-1].sendall(framing.frame(query(7)))
        assert peers.read_frame(socks[-1])[:2] == b"\0\x07"
        back_s = time.monotonic() - back
        assert back_s < 1.5  # accepting is tried once a second
        figure(
            "W8",
            "9 connections, room for 4: {asked} of {asked} answered over UDP, {percent:.0f} % of a core, "
            "TCP back after {s:.2f} s",
            asked=asked, percent=100 * spent_s, s=back_s,
        )  # fmt: skip
