"""Who gets a query where several listeners fit: always the most specific one, whoever's it is."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

import dns.message
import peers
import pytest

from clusterdns.serving import native

A_ZONE = "$ORIGIN w.test.\n@ 5 SOA ns h 1 2 3 4 5\n@ 5 NS ns\nns 5 A 192.0.2.9\nwho 5 A 192.0.2.7\n"
QUERIES = 40  # by as many ports: one that is spread over two sockets meets both, but for 2^-39


@pytest.fixture(params=["in C", "in Python"])
def packet_path(request, monkeypatch):
    if request.param == "in Python":
        monkeypatch.setenv("CLUSTERDNS_PURE", "1")
    elif native.compiled is None:
        pytest.skip("not compiled: apt-get install gcc python3-dev, then pip install -e . again")


def asked(host: str, port: int, qname: str = "who.w.test") -> Counter[str]:
    """Return what came for equal queries: the RDATA of the answer, or the RCODE."""
    found: Counter[str] = Counter()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packet = dns.message.make_query(qname, "A").to_wire()
    for _ in range(QUERIES):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(3)
            client.connect((host, port))  # who replies from another address is not heard
            client.send(packet)
            reply = dns.message.from_wire(client.recv(512))
        texts = [str(rdata) for rrset in reply.answer for rdata in rrset]
        found[texts[0] if texts else f"{len(reply.additional)} additional"] += 1
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


@contextlib.contextmanager
def stranger(host: str, port: int) -> Iterator[socket.socket]:
    """Another process' socket on one of the host's addresses, shared as Go's servers share it."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.setblocking(False)
        yield sock


@pytest.mark.usefixtures("packet_path")
@pytest.mark.parametrize(
    ("bound", "host"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("lo", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")],
)
def test_a_block_with_bind_gets_all_that_is_sent_there(bound, host, tmp_path):
    (tmp_path / "a").write_text(A_ZONE)
    corefile = f"w.test {{\n bind {bound}\n file a\n}}\n. {{\n whoami\n}}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        assert {"192.0.2.7": QUERIES} == asked(host, server.port)


@pytest.mark.usefixtures("packet_path")
def test_another_process_keeps_its_address_whenever_it_comes(tmp_path):
    port = peers.free_port()
    with stranger("127.0.0.3", port) as first:
        corefile = f".:{port} {{\n whoami\n}}\nprobe.invalid {{\n whoami\n}}\n"
        with peers.clusterdns(corefile, tmp_path), stranger("127.0.0.1", port) as later:
            for i in range(QUERIES):
                with socket.socket(type=socket.SOCK_DGRAM) as client:
                    for host in ("127.0.0.1", "127.0.0.3"):
                        client.sendto(b"%d" % i, (host, port))
            for sock in (first, later):
                assert [b"%d" % i for i in range(QUERIES)] == [
                    sock.recv(512) for _ in range(QUERIES)
                ]


@pytest.mark.usefixtures("packet_path")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1"])
def test_replies_leave_by_the_address_that_was_asked(host, tmp_path):
    """Of hits, of misses, and of what an upstream server has answered."""
    (tmp_path / "a").write_text(A_ZONE)
    with peers.clusterdns("w.test {\n bind 127.0.0.1\n file a\n}\n", tmp_path) as upstream:
        corefile = f"w.test {{\n file a\n}}\n. {{\n forward . 127.0.0.1:{upstream.port}\n}}\n"
        corefile += f"x.test {{\n cache\n forward . 127.0.0.1:{upstream.port}\n}}\n"
        with peers.clusterdns(corefile, tmp_path) as server:
            assert {"192.0.2.7": QUERIES} == asked(host, server.port)
            assert {"0 additional": QUERIES} == asked(host, server.port, "a.example")
            assert {"0 additional": QUERIES} == asked(host, server.port, "a.x.test")


def test_a_reload_moves_a_family_to_the_block_that_names_it(tmp_path):
    (tmp_path / "a").write_text(A_ZONE)
    with peers.clusterdns(". {\n whoami\n}\n", tmp_path) as server:
        named = "w.test {\n bind 0.0.0.0\n file a\n}\n"
        for times, text in enumerate((named, ""), 1):
            next(tmp_path.glob("Corefile-*")).write_text(". {\n whoami\n}\n" + text)
            server.process.send_signal(signal.SIGUSR1)
            until(lambda times=times: server.output.count("Reloading complete") == times)
            found = asked("127.0.0.1", server.port)
            assert (QUERIES if text else 0) == found["192.0.2.7"]
