"""ICMP errors of upstream servers that cannot be reached, and TLS that is never made."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import dns.message
import dns.rcode
import faultyupstream as faulty
import peers
import pytest
from faultyupstream import Asked, FaultyUpstream

HOST, NETWORK = 1, 0  # codes of ICMP type 3 (RFC 792)


def unreachable(code: int):
    """Return the fault of a server for which a router says that it cannot be reached."""

    def act(asked: Asked) -> None:
        if asked.proto != "udp":
            return
        ours, theirs = socket.inet_aton("127.0.0.1"), socket.inet_aton("127.0.0.1")
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, ours, theirs)
        udp = struct.pack("!HHHH", asked.client[1], asked.upstream.port, 8 + len(asked.wire), 0)
        body = struct.pack("!BBHI", 3, code, 0, 0) + ip + udp
        total = sum(struct.unpack(f"!{len(body) // 2}H", body))
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.sendto(body[:2] + struct.pack("!H", total) + body[4:], asked.client)

    return act


@pytest.fixture(autouse=True)
def may_send_icmp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except PermissionError:
        pytest.skip("raw sockets need CAP_NET_RAW: run as root")


@pytest.mark.parametrize("pure", ["", "1"])
@pytest.mark.parametrize("code", [HOST, NETWORK])
def test_the_wait_ends_at_once(code, pure, tmp_path, monkeypatch):
    monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    with FaultyUpstream(unreachable(code)) as bad, FaultyUpstream(faulty.good) as right:
        text = f"""
            . {{
                forward . {bad.address} {right.address} {{
                    policy sequential
                    max_fails 0
                }}
            }}
            lone.test {{
                errors
                forward . {bad.address}
            }}
        """
        with peers.clusterdns(text, tmp_path) as server:
            took = []
            for i in range(5):
                began = time.monotonic()
                packet = faulty.query(f"n{i}.example.com.", i)
                reply = peers.ask_udp(server.address, packet, 8)
                took.append(time.monotonic() - began)
                assert reply is not None
                assert [faulty.address_of(f"n{i}.example.com.")] == faulty.addresses(reply)
            assert sorted(took)[2] < 0.05
            before, began = bad.total, time.monotonic()
            reply = peers.ask_udp(server.address, faulty.query("x.lone.test.", 9), 8)
            assert reply is not None
            assert dns.rcode.SERVFAIL == dns.message.from_wire(reply).rcode()
            assert 0.1 <= time.monotonic() - began < 1.0  # with a pause between its attempts
            assert bad.total >= before + 2


@pytest.mark.parametrize(
    ("options", "least_s", "connections"), [("", 4.8, 2), ("max_connect_attempts 1", 4.8, 1)]
)
def test_a_handshake_that_never_ends(options, least_s, connections, tmp_path):
    """A query has 5 s for all its attempts, and a connection half of it unless it is the only one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        port = listener.getsockname()[1]
        text = f"test {{\n forward . tls://127.0.0.1:{port} {{\n max_fails 0\n {options}\n}}\n}}\n"
        with peers.clusterdns(text, tmp_path) as server:
            began = time.monotonic()
            reply = peers.ask_udp(server.address, faulty.query("web.test.", 9), 8)
            took_s = time.monotonic() - began
            assert reply is not None
            assert dns.rcode.SERVFAIL == dns.message.from_wire(reply).rcode()
            assert least_s < took_s < 6
            listener.setblocking(False)
            made = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    made += 1
            assert connections == made
