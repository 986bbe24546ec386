"""forward over HTTPS: servers of HTTP/2 and HTTP/1.1, and such that are not to be trusted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import beside
import certificates
import dns.message
import dns.rcode
import dns.rrset
import peers
import pytest

from clusterdns.doh import carrier, http1, http2

COREFILE = """. {{
    errors
    prometheus 127.0.0.1:{metrics}
    forward . {to} {{
        tls ca.pem
        tls_servername dns.test
        max_connect_attempts 2
        {more}
    }}
}}
"""
Behave = Callable[["FakeServer", bytes], "carrier.Answer | bytes | None"]


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certs"))


class FakeServer:
    """A server of HTTPS that does to each query what ``behave`` says.

    That is the reply to a DNS message, or octets as they are to be sent, or None for the end of the
    connection. ``queries`` and ``connections`` count, ``seen`` are the requests.
    """

    def __init__(self, certs: Path, behave: Behave, *versions: str) -> None:
        self.behave = behave
        self.connections = 0
        self.seen: list[carrier.Request] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certs / "server.pem", certs / "server.key")
        self._context.set_alpn_protocols(versions or ["h2", "http/1.1"])
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._is_over = False

    @property
    def queries(self) -> int:
        return len(self.seen)

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        self._sock.close()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as tls:
            self.connections += 1
            is_new = tls.selected_alpn_protocol() == "h2"
            session: carrier.Session = http2.Server(100) if is_new else http1.Server()
            tls.sendall(session.output())
            while not self._is_over:
                octets = tls.recv(65_536)
                session.receive(octets)
                if not octets or not self._step(session, tls):
                    return

    def _step(self, session: carrier.Session, tls: ssl.SSLSocket) -> bool:
        while session.step():
            while session.requests:
                request = session.requests.popleft()
                self.seen.append(request)
                found = self.behave(self, carrier.query_of(request))
                if found is None:
                    return False
                if isinstance(found, carrier.Answer):
                    session.reply(request.number, found)
                else:
                    tls.sendall(found)
        tls.sendall(session.output())
        return True


def reply_to(packet: bytes, address: str = "192.0.2.1") -> bytes:
    query = dns.message.from_wire(packet)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return reply.to_wire()


def right(server: FakeServer, packet: bytes) -> carrier.Answer:
    return carrier.answer_with(reply_to(packet), time.time())


@contextlib.contextmanager
def forwarding(certs: Path, *servers: FakeServer, more: str = "") -> Iterator[peers.Server]:
    """Run clusterdns with these servers upstream; the probe of its start is not counted."""
    to = " ".join(f"https://127.0.0.1:{each.port}" for each in servers)
    text = COREFILE.format(to=to, more=more, metrics=peers.free_port())
    behaved = [each.behave for each in servers]
    for each in servers:
        each.behave = right
    with peers.clusterdns(text, certs) as found:
        for each, behave in zip(servers, behaved, strict=True):
            each.behave, each.connections, each.seen = behave, 0, []
        yield found
        assert "Traceback" not in found.output, found.output


def ask(server: peers.Server, name: str = "www.test", timeout_s: float = 8) -> dns.message.Message:
    wire = peers.ask_udp(server.address, beside.query(name), timeout_s)
    assert wire is not None
    return dns.message.from_wire(wire)


def is_right(reply: dns.message.Message) -> bool:
    return reply.rcode() == 0 and reply.answer[0][0].to_text() == "192.0.2.1"


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("version", ["h2", "http/1.1"])
def test_one_connection_is_kept(version, method, certs):
    """Requests are as RFC 8484 has them, with the ID 0; one connection serves them all."""
    with (
        FakeServer(certs, right, version) as fake,
        forwarding(certs, fake, more=f"doh_method {method}") as server,
    ):
        for i in range(20):
            assert is_right(ask(server, f"www{i}.test"))
        assert (20, 0) == (fake.queries, fake.connections)  # the one of the start is used
        assert {method.encode()} == {each.method for each in fake.seen}
        assert {b"\0\0"} == {carrier.query_of(each)[:2] for each in fake.seen}


@pytest.mark.parametrize(("version", "most"), [("h2", 2), ("http/1.1", 50)])
def test_queries_at_one_time(version, most, certs):
    """Over HTTP/2 they share a connection, and none waits for another to be opened."""

    def slow(server: FakeServer, packet: bytes) -> carrier.Answer:
        return right(server, packet)

    with FakeServer(certs, slow, version) as fake, forwarding(certs, fake) as server:
        found: list[bool] = []
        threads = [
            threading.Thread(target=lambda i=i: found.append(is_right(ask(server, f"w{i}.test"))))
            for i in range(50)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert [True] * 50 == found
        assert fake.connections <= most


def once(trouble: carrier.Answer | bytes | None) -> Behave:
    """Return what does some harm to the first query, and is right from then on."""

    def behave(server: FakeServer, packet: bytes) -> carrier.Answer | bytes | None:
        return trouble if server.queries == 1 else right(server, packet)

    return behave


@pytest.mark.parametrize("version", ["h2", "http/1.1"])
def test_a_kept_connection_that_is_closed_is_no_failure(version, certs):
    with FakeServer(certs, once(None), version) as fake, forwarding(certs, fake) as server:
        assert is_right(ask(server))
        assert (2, 1) == (fake.queries, fake.connections)


GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)  # nothing was looked at


def test_a_server_that_leaves(certs):
    """What it says it has not looked at is asked of its successor."""
    with FakeServer(certs, once(GOAWAY)) as fake, forwarding(certs, fake) as server:
        assert is_right(ask(server))
        assert is_right(ask(server, "other.test"))
        assert (3, 1) == (fake.queries, fake.connections)


BAD = {
    "status": carrier.Answer(503, [(b"content-length", b"2")], b"no"),
    "text": carrier.Answer(200, [(b"content-length", b"5")], b"hello"),
    "long": carrier.Answer(200, [(b"content-length", b"70000")], b"x" * 70_000),
    "empty": carrier.Answer(200, [(b"content-length", b"0")], b""),
    "nonsense": b"\xff" * 100,
    "flood": (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 5000,
    "settings": (b"\0\0\x3c\x04\0\0\0\0\0" + b"\x77\x77\0\0\0\1" * 10) * 1200,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_replies(name, certs):
    """A server that says nonsense has failed: the other one is asked."""
    bad = FakeServer(certs, lambda server, packet: BAD[name])
    good = FakeServer(certs, right)
    with bad, good, forwarding(certs, bad, good, more="policy sequential") as server:
        began = time.monotonic()
        for i in range(5):
            assert is_right(ask(server, f"www{i}.test")), server.output
        assert time.monotonic() - began < 2
        assert bad.queries


def test_a_reply_to_another_question(certs):
    def behave(server: FakeServer, packet: bytes) -> carrier.Answer:
        return carrier.answer_with(reply_to(beside.query("forged.test")), 0)

    with FakeServer(certs, behave) as fake, forwarding(certs, fake) as server:
        assert ask(server).rcode() == dns.rcode.FORMERR


def test_silence(certs):
    """Two times `read_timeout` without a reply are a failure, and what is late is taken back."""
    fake = FakeServer(certs, lambda server, packet: b"")
    with fake, forwarding(certs, fake, more="read_timeout 300ms") as server:
        began = time.monotonic()
        assert ask(server).rcode() == dns.rcode.SERVFAIL
        assert 0.5 < time.monotonic() - began < 2
        fake.behave = right
        assert is_right(ask(server, "other.test"))
        assert "i/o timeout" in server.output


def test_the_wrong_server_is_not_asked(certs):
    """A certificate of another name, or of no authority, ends it."""
    fake = FakeServer(certs, right)
    text = COREFILE.format(
        to=f"https://127.0.0.1:{fake.port}", more="", metrics=peers.free_port()
    ).replace("tls_servername dns.test", "tls_servername other.test")
    with fake, peers.clusterdns(text, certs) as server:
        assert ask(server).rcode() == dns.rcode.SERVFAIL
        assert "certificate verify failed" in server.output
        assert fake.queries == 0


def test_idle_connections_are_closed(certs):
    with (
        FakeServer(certs, right) as fake,
        forwarding(certs, fake, more="expire 200ms") as server,
    ):
        assert is_right(ask(server))
        time.sleep(0.5)
        assert is_right(ask(server, "other.test"))
        assert fake.connections >= 1
