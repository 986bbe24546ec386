"""DNS over HTTPS: connections that live, clients that misbehave, and what others notice of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import beside
import certificates
import dns.message
import peers
import pytest
import webclient
from webclient import HTTP1, HTTP2

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

COREFILE = """. {{
    hosts {{
        192.0.2.1 www.test
    }}
}}
https://.:{port} {{
    tls server.pem server.key
    prometheus 127.0.0.1:{metrics}
    https {{
        {bounds}
    }}
    timeouts {{
        read 1s
        idle 2s
    }}
    hosts {{
        192.0.2.1 www.test
        fallthrough
    }}
    erratic {{
        drop 0
        truncate 0
        delay 1 300ms
    }}
}}
"""
HIT, MISS = beside.query("www.test"), beside.query("slow.test")


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certs"))


@contextlib.contextmanager
def serving(
    certs: Path, bounds: str = "max_streams 250"
) -> Iterator[tuple[peers.Server, int, int]]:
    """Yield a server, and its ports of HTTPS and of metrics."""
    port, metrics = peers.free_port(), peers.free_port()
    text = COREFILE.format(port=port, metrics=metrics, bounds=bounds)
    with peers.clusterdns(text, certs) as server:
        yield server, port, metrics
        assert "panic" not in server.output


def is_right(reply: webclient.Reply) -> bool:
    return reply.status == 200 and b"\xc0\x00\x02\x01" in reply.body


def is_closed(sock: socket.socket, timeout_s: float = 5) -> bool:
    """Tell whether the server closes a connection in time, whatever it says before."""
    sock.settimeout(timeout_s)
    with contextlib.suppress(ConnectionError):
        try:
            while sock.recv(65_536):
                pass
        except TimeoutError:
            return False
    return True


@pytest.mark.parametrize("version", [HTTP1, HTTP2])
def test_a_connection_lives(version, certs):
    """Hits, queries that wait, errors, and large bodies, on one connection until it is idle."""
    with serving(certs) as (_, port, metrics):
        with webclient.Web(port, certs / "ca.pem", version) as web:
            replies = web.ask_all([webclient.get(HIT), webclient.post(HIT)] * 20)
            assert all(is_right(each) for each in replies)
            sock = web._sock
            slow = [webclient.post(MISS), webclient.get(HIT)] * 2
            began = time.monotonic()
            assert [200] * 4 == [each.status for each in web.ask_all(slow)]
            assert (time.monotonic() - began < 0.55) == (version == HTTP2)  # others do not wait
            assert web.ask(webclient.Request(target=b"/")).status == 404
            assert web.ask(webclient.post(b"x" * 70_000)).status == 400
            assert web.ask(webclient.post(HIT)).status == 200
            assert web._sock is sock
            assert is_closed(sock)  # idle
        counted = beside.samples(metrics, "coredns_dns_https_responses_total")
        counted = {dict(key[1:])["status"]: value for key, value in counted.items()}
        assert {"200": 45, "404": 1, "400": 1} == counted


def test_many_streams_at_one_time(certs):
    """250 queries that wait, on one connection, are answered; 64 at a time."""
    with serving(certs) as (_, port, _), webclient.Web(port, certs / "ca.pem") as web:
        names = [beside.query(f"slow{i}.test") for i in range(250)]
        replies = web.ask_all([webclient.post(each) for each in names])
        found = {dns.message.from_wire(each.body).question[0].name.to_text() for each in replies}
        assert len(found) == 250


def test_without_tls(certs):
    text = COREFILE.replace("tls server.pem server.key", "").format(
        port=(port := peers.free_port()), metrics=peers.free_port(), bounds=""
    )
    with (
        peers.clusterdns(text, certs),
        webclient.Web(port, None, HTTP1) as web,
    ):
        assert is_right(web.ask(webclient.get(HIT)))


def flood(port: int, certs: Path, octets: bytes, until: float) -> int:
    """Send octets again and again, on new connections if the server closes; return how often."""
    times = 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), webclient.connect(port, certs / "ca.pem") as sock:
            sock.sendall(webclient.PREFACE + webclient.frame(webclient.SETTINGS))
            sock.settimeout(0.01)
            while time.monotonic() < until:
                sock.sendall(octets)
                times += 1
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(65_536):
                        break
    return times


def opening(sort: str) -> bytes:
    """Return one round of an attack."""
    block = webclient.block(webclient.post(b""))
    get = webclient.block(webclient.get(MISS))
    ends = webclient.END_HEADERS | webclient.END_STREAM
    frames = []
    for stream in range(1, 401, 2):
        if sort == "rapid reset":
            frames.append(webclient.frame(webclient.HEADERS, ends, stream, get))
            frames.append(webclient.frame(webclient.RST_STREAM, 0, stream, bytes(4)))
        elif sort == "half requests":
            frames.append(webclient.frame(webclient.HEADERS, webclient.END_HEADERS, stream, block))
        elif sort == "hits":
            hit = webclient.block(webclient.get(HIT))
            frames.append(webclient.frame(webclient.HEADERS, ends, stream, hit))
        elif sort == "continuation":
            first = webclient.frame(webclient.HEADERS, 0, stream, b"")
            frames.append(first + webclient.frame(webclient.CONTINUATION, 0, stream) * 200)
        else:
            frames.append(webclient.frame(webclient.PING, body=bytes(8)) * 10)
    return b"".join(frames)


@pytest.mark.parametrize("sort", ["rapid reset", "half requests", "hits", "continuation", "ping"])
def test_floods_leave_udp_alone(sort, certs):
    """A client that floods ends its connections; UDP is answered, and so are other clients."""
    with serving(certs) as (server, port, _):
        until = time.monotonic() + 3
        octets = opening(sort)
        threads = [
            threading.Thread(target=flood, args=(port, certs, octets, until)) for _ in range(4)
        ]
        for each in threads:
            each.start()
        took = []
        while time.monotonic() < until:
            began = time.monotonic()
            assert peers.ask_udp(server.address, HIT, 2), sort
            took.append(time.monotonic() - began)
            time.sleep(0.01)
        with webclient.Web(port, certs / "ca.pem") as web:
            assert is_right(web.ask(webclient.get(HIT)))
        for each in threads:
            each.join()
        took.sort()
        assert took[len(took) // 2] < 0.05, took
        assert peers.ask_udp(server.address, HIT, 2)


def test_clients_that_misbehave(certs):
    """Who sends nothing, half of something, or nonsense is closed in time; memory is bounded."""
    with serving(certs) as (server, port, _), contextlib.ExitStack() as stack:
        beginnings = (
            b"", webclient.PREFACE[:10], webclient.PREFACE,
            webclient.PREFACE + webclient.frame(webclient.SETTINGS) + b"\0\0\x10\1\4",
            webclient.PREFACE + webclient.frame(webclient.SETTINGS) + webclient.frame(
                webclient.HEADERS, webclient.END_HEADERS, 1, webclient.block(webclient.post(b""))),
        )  # fmt: skip
        socks = []
        for i in range(40):
            sock = stack.enter_context(webclient.connect(port, certs / "ca.pem"))
            sock.sendall(beginnings[i % len(beginnings)])
            socks.append(sock)
        for i in range(20):
            sock = stack.enter_context(webclient.connect(port, certs / "ca.pem", HTTP1))
            sock.sendall((b"GET /dns-query HTTP/1.1\r\nhost: a", b"\xff" * 100)[i % 2])
            socks.append(sock)
        with webclient.Web(port, certs / "ca.pem") as web:
            assert is_right(web.ask(webclient.get(HIT)))
        began = time.monotonic()
        assert all(is_closed(sock, 8) for sock in socks)
        assert time.monotonic() - began < 4
        assert server.process.poll() is None


def test_a_client_without_room(certs):
    """Who asks and makes no room for replies is closed when it is idle; others are answered."""
    with serving(certs) as (_, port, _), webclient.connect(port, certs / "ca.pem") as sock:
        no_room = webclient.frame(webclient.SETTINGS, body=struct.pack("!HI", 4, 0))
        sock.sendall(webclient.PREFACE + no_room)
        block = webclient.block(webclient.get(HIT))
        ends = webclient.END_HEADERS | webclient.END_STREAM
        for stream in range(1, 401, 2):
            sock.sendall(webclient.frame(webclient.HEADERS, ends, stream, block))
        with webclient.Web(port, certs / "ca.pem") as web:
            assert is_right(web.ask(webclient.get(HIT)))
        assert is_closed(sock, 8)


def test_connections_are_bounded(certs):
    """The quietest connection gives way to a new one."""
    with serving(certs, "max_connections 5") as (_, port, _), contextlib.ExitStack() as stack:
        webs = [stack.enter_context(webclient.Web(port, certs / "ca.pem")) for _ in range(8)]
        for web in webs:
            assert is_right(web.ask(webclient.get(HIT)))
        socks = [web._sock for web in webs]
        for sock in socks:
            sock.settimeout(0.2)
        gone = [is_closed(sock, 0.2) for sock in socks]
        assert [True] * 3 + [False] * 5 == gone


def test_replies_outlive_a_reload(certs):
    """A query under way is answered by the old generation, which then says GOAWAY or closes."""
    with serving(certs) as (server, port, _), webclient.Web(port, certs / "ca.pem") as web:
        assert is_right(web.ask(webclient.get(HIT)))
        asked = threading.Thread(target=lambda: found.append(web.ask(webclient.post(MISS))))
        found: list[webclient.Reply] = []
        asked.start()
        time.sleep(0.1)
        conf = next(certs.glob(f"Corefile-*{server.port}"))
        conf.write_text(conf.read_text().replace("192.0.2.1", "192.0.2.7"))
        server.process.send_signal(10)  # SIGUSR1
        asked.join()
        assert [200] == [each.status for each in found]
        deadline = time.monotonic() + 10
        while True:
            # A connection that the old generation has accepted, but not yet agreed on, is closed.
            with (
                contextlib.suppress(OSError),
                webclient.Web(port, certs / "ca.pem") as other,
            ):
                if b"\xc0\x00\x02\x07" in other.ask(webclient.get(HIT)).body:
                    return
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)


def test_a_key_of_two_transports(certs):
    """One block may be served in all manners, each on its port."""
    ports = [peers.free_port() for _ in range(2)]
    text = (
        f".:{{PORT}} tls://.:{ports[0]} https://.:{ports[1]} {{\n"
        "tls server.pem server.key\nhosts {\n192.0.2.1 www.test\n}\n}\n"
    )
    with peers.clusterdns(text, certs) as server:
        assert peers.ask_udp(server.address, HIT)
        with webclient.Web(ports[1], certs / "ca.pem") as web:
            assert is_right(web.ask(webclient.get(HIT)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://.:53 {\nwhoami\n}\n.:53 {\nwhoami\n}\n", "the port is that of https://:53, too"),
        ("https3://. {\nwhoami\n}\n", "https3:// is not supported"),
        ("https://. {\nhttps {\nmax_stream 1\n}\n}\n", "max_streams"),
    ],
)
def test_mistakes(text, reason):
    with pytest.raises(ConfigError, match=rf"^f:\d+: .*{reason}"):
        compile_text(text, "f", port=53, environ={}, warn=print)
