"""Malformed and odd packets: what a real CoreDNS does with each, never an exception, always in time.

``malformed.golden`` holds the header of CoreDNS's reply to every packet over UDP and TCP, or ``-`` for
silence; ``pytest tests/test_malformed.py --record`` writes it anew. ``ALLOWED`` are the packets for
which we answer otherwise, and why.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import malformed
import peers
import pytest
import scoreboard
import yaml
from fakeapi import FakeApi
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterdns.errors import FormError
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import reading
from clusterdns.wire.message import Query

HERE = Path(__file__).parent
GOLDEN = HERE / "malformed.golden"
FIXTURES = HERE / "cases" / "objects" / "fixtures.yaml"
PACKETS = malformed.packets()
SILENCE_S = 0.4
FUZZ_S = 8.0
MEMBERS = ("udp", "tcp")

ALLOWED = {
    # A question's name is read without pointers: nothing sends them there, and what is read stays
    # what is echoed. CoreDNS follows them.
    "pointer_forward_to_name": "FORMERR",
    "pointer_into_header": "FORMERR",
}

Golden = dict[str, dict[str, str]]


def corefile(source: str) -> str:
    return f". {{\n errors\n kubernetes cluster.local {{\n  {source}\n }}\n}}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("malformed")
    directory = place / "cluster"
    directory.mkdir()
    (directory / "fixtures.yaml").write_text(FIXTURES.read_text())
    with peers.clusterdns(corefile(f"manifests {directory}"), place) as running:
        yield running


def read_golden() -> Golden:
    rows = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return {name: {"udp": udp, "tcp": tcp} for name, udp, tcp in rows}


def outcome(server: peers.Server, packet: bytes, transport: str) -> str:
    """Return the header of the reply in hexadecimal, "-" for none."""
    reply = None
    if transport == "udp":
        reply = peers.ask_udp(server.address, packet, SILENCE_S)
    else:
        with contextlib.suppress(OSError):
            reply = peers.ask_tcp(server.address, packet, SILENCE_S)
    return reply[:12].hex() if reply is not None else "-"


def canary(server: peers.Server) -> bool:
    """Tell whether a good query gets its good answer."""
    query = dns.message.make_query("web.demo.svc.cluster.local.", "A")
    reply = peers.ask_udp(server.address, query.to_wire(), 5)
    if reply is None:
        return False
    return [str(item) for r in dns.message.from_wire(reply).answer for item in r] == ["10.96.0.10"]


@pytest.mark.row("W3")
@pytest.mark.parametrize("transport", MEMBERS)
def test_every_packet_is_answered_as_by_coredns(server, transport, figure):
    golden = read_golden()
    assert set(golden) == set(PACKETS)
    found = {}
    for name, packet in PACKETS.items():
        ours, theirs = outcome(server, packet, transport), golden[name][transport]
        if name in ALLOWED:
            assert (ours[4], ours[7]) == ("8", "1"), f"{name}: {ALLOWED[name]}"
        elif ours != theirs:
            found[name] = (theirs, ours)
    assert {} == found
    assert canary(server)
    assert "panic" not in server.output
    figure(
        "W3",
        "{packets} packets over {runs} transports: as CoreDNS, {allowed} otherwise on purpose",
        packets=len(PACKETS), allowed=len(ALLOWED),
    )  # fmt: skip


@pytest.mark.peer
def test_the_golden_headers_are_those_of_coredns(tmp_path, request):
    manifests = [m for m in yaml.safe_load_all(FIXTURES.read_text()) if m]
    with (
        FakeApi(manifests) as api,
        peers.coredns(corefile(f"endpoint {api.url}"), tmp_path) as them,
    ):
        found = {
            name: {transport: outcome(them, packet, transport) for transport in MEMBERS}
            for name, packet in PACKETS.items()
        }
    if request.config.getoption("--record"):
        lines = ["# packet, header of CoreDNS 1.15.0's reply over UDP, over TCP; - is silence"]
        lines += [f"{name} {both['udp']} {both['tcp']}" for name, both in found.items()]
        GOLDEN.write_text("\n".join(lines) + "\n")
    assert read_golden() == found


@pytest.mark.parametrize("name", list(PACKETS))
def test_no_packet_takes_long(name):
    began = time.process_time()
    for _ in range(3):
        for packet in (PACKETS[name], PACKETS[name][:512]):
            reading.read_query(packet)
            with contextlib.suppress(FormError):
                reading.read_reply(packet)
    assert time.process_time() - began < 1.5


@given(st.binary(max_size=700))
@settings(max_examples=1000)
def test_the_gate_is_total(packet):
    check_gate(packet)


@given(st.sampled_from(sorted(PACKETS)), st.data())
@settings(max_examples=1000)
def test_the_gate_is_total_on_mutations(name, data):
    packet = bytearray(PACKETS[name][:2000])
    for _ in range(data.draw(st.integers(1, 8))):
        if packet:
            packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check_gate(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


def check_gate(packet: bytes) -> None:
    """Hold what must be true of any octets."""
    found = reading.read_query(packet)
    if isinstance(found, bytes):
        assert found[:2] == packet[:2]
        assert found[2] & 0x80
    if len(packet) < 12 or packet[2] & 0x80:
        assert found is None  # no reply to a reply
    if isinstance(found, Query) and found.question is not None:
        end = 12 + len(found.question.qname)
        assert packet[12:end] == found.question.qname
    AnswerTable().reply(packet, 0.0, [])
    with contextlib.suppress(FormError):
        reading.read_reply(packet)


@pytest.mark.row("W4")
def test_replies_are_never_answered(server, figure):
    """Packets with QR set, of all kinds: not an octet comes back."""
    count = scoreboard.size("REPLIES", 20_000, 1_000_000)
    packets = [
        packet[:2] + bytes((packet[2] | 0x80,)) + packet[3:]
        for packet in PACKETS.values()
        if 3 <= len(packet) < 1500
    ]
    came = 0
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.setblocking(False)
        for i in range(count):
            with contextlib.suppress(BlockingIOError):
                sock.send(packets[i % len(packets)])
            if i % 100 == 99:  # what the kernel drops would be no test
                with contextlib.suppress(BlockingIOError):
                    came += bool(sock.recv(512))
                if i % 1000 == 999:
                    assert canary(server)
        time.sleep(SILENCE_S)
        with contextlib.suppress(BlockingIOError):
            came += bool(sock.recv(512))
    assert 0 == came
    figure("W4", "{count:,} packets with QR set: 0 octets back", count=count)


@pytest.mark.row("W4")
@pytest.mark.parametrize("kind", ["query", "reply", "malformed", "short"])
def test_two_servers_do_not_talk_to_each_other(server, tmp_path, kind, figure):
    """A forger sends from one's address to the other; what goes between them is counted."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs root for a raw socket")
    query = dns.message.make_query("web.demo.svc.cluster.local.", "A").to_wire()
    packet = {
        "query": query,
        "reply": query[:2] + b"\x81\x80" + query[4:],
        "malformed": query[:12] + b"\xff" * 30,  # FORMERR goes to the other
        "short": query[:11],
    }[kind]
    with raw, peers.clusterdns(". {\n whoami\n}\n", tmp_path) as other, listening() as wire:
        head = struct.pack("!HHHH", other.port, server.port, 8 + len(packet), 0)
        raw.sendto(head + packet, (server.host, 0))
        time.sleep(0.5)
        ports = {server.port, other.port}
        seen = sum(ports == found for found in udp_ports(wire))
    assert 1 <= seen <= 2, "the forged one, and the reply to it"
    assert canary(server)
    figure("W4", "{runs} kinds of packets from one server to another: {seen} at most", seen=seen)


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """Yield a socket that gets every IPv4 packet of the loopback."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        sock.bind(("lo", 0))
        sock.setblocking(False)
        yield sock


def udp_ports(sock: socket.socket) -> Iterator[set[int]]:
    """Yield the two ports of each UDP packet that has come; on loopback each is seen twice."""
    with contextlib.suppress(BlockingIOError):
        while True:
            octets, (_, _, way, *_) = sock.recvfrom(64)
            start = 4 * (octets[0] & 15)
            if octets[9] == socket.IPPROTO_UDP and way != socket.PACKET_OUTGOING:
                yield {*struct.unpack_from("!HH", octets, start)}


def test_garbage_of_many_kinds_for_seconds(server):
    """Mutations over both transports; good queries in between are answered, nothing panics."""
    rng = random.Random(20261121)
    seeds = [p for p in PACKETS.values() if len(p) < 1500]
    deadline = time.monotonic() + FUZZ_S
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        while time.monotonic() < deadline:
            for _ in range(200):
                packet = bytearray(rng.choice(seeds))
                for _ in range(rng.randint(0, 6)):
                    if packet:
                        packet[rng.randrange(len(packet))] = rng.randrange(256)
                with contextlib.suppress(OSError):
                    sock.sendto(
                        packet[: rng.choice([len(packet), rng.randint(0, 1500)])], server.address
                    )
            with (
                contextlib.suppress(OSError),
                socket.create_connection(server.address, 1) as stream,
            ):
                packet = rng.choice(seeds)
                length = rng.choice([len(packet), rng.randrange(65536)])
                stream.sendall(struct.pack("!H", length) + packet)
            assert canary(server)
    assert server.process.poll() is None
    assert "panic" not in server.output
    assert "Traceback" not in server.output


def test_streams_that_lie_or_stall_hold_up_nobody(server):
    with contextlib.ExitStack() as stack:
        for i in range(200):
            sock = stack.enter_context(socket.create_connection(server.address, 2))
            sock.sendall(
                [b"", b"\0", b"\xff\xff", b"\0\x20abc", struct.pack("!H", 3) + b"abc"][i % 5]
            )
        began = time.monotonic()
        for _ in range(20):
            assert canary(server)
        assert time.monotonic() - began < 2


def test_a_query_from_port_0_is_not_answered_and_harms_nobody(server):
    """A datagram with source port 0 cannot be replied to; only a raw socket can send one."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs root for a raw socket")
    packet = dns.message.make_query("web.demo.svc.cluster.local.", "A").to_wire()
    with raw:
        head = struct.pack("!HHHH", 0, server.port, 8 + len(packet), 0)
        raw.sendto(head + packet, (server.host, 0))
    assert canary(server)
