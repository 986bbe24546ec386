"""DNS over TLS: queries, clients that must show a certificate, and clients that misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import time
import urllib.request
from pathlib import Path

import beside
import certificates
import dns.message
import peers
import pytest
import tlsrecords

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.host.encryption import client_context

COREFILE = """. {{
    whoami
}}
tls://.:{port} {{
    tls server.pem server.key ca.pem {{
        client_auth {mode}
    }}
    prometheus 127.0.0.1:{metrics}
    timeouts {{
        read 1s
        idle 2s
    }}
    log
    hosts {{
        192.0.2.1 www.test
    }}
}}
"""
HOSTS = "192.0.2.1"


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certs"))


@contextlib.contextmanager
def secure(port: int, certs: Path, who: str = ""):
    context = certificates.client_context(certs / "ca.pem")
    if who:
        context.load_cert_chain(certs / f"{who}.pem", certs / f"{who}.key")
    with (
        socket.create_connection(("127.0.0.1", port), 5) as sock,
        context.wrap_socket(sock, server_hostname="dns.test") as found,
    ):
        yield found


def framed(*names: str) -> bytes:
    asked = [beside.query(name) for name in names]
    return b"".join(struct.pack("!H", len(each)) + each for each in asked)


def address_in(wire: bytes | None) -> str:
    assert wire is not None
    return dns.message.from_wire(wire).answer[0][0].to_text()


def corefile(port: int, mode: str = "nocert", metrics: int = 0) -> str:
    return COREFILE.format(port=port, mode=mode, metrics=metrics or peers.free_port())


def test_queries(certs):
    """One connection has many queries, hits and misses; they are counted as the listener's own."""
    port, metrics = peers.free_port(), peers.free_port()
    with peers.clusterdns(corefile(port, metrics=metrics), certs) as server:
        with secure(port, certs) as sock:
            sock.sendall(framed(*["www.test"] * 1000))  # more than one record, and one batch
            for _ in range(1000):
                assert address_in(peers.read_frame(sock)) == HOSTS
            for octet in framed("www.test"):
                sock.sendall(bytes([octet]))
            assert address_in(peers.read_frame(sock)) == HOSTS
            sock.settimeout(5)
            assert sock.recv(1) == b""  # idle; and with a close_notify, else this raises
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        label = f'server="tls://:{port}"'
        counts = [line for line in lines if line.startswith("coredns_dns_requests_total{")]
        counts = [line for line in counts if label in line and 'proto="tcp"' in line]
        assert sum(float(line.rpartition(" ")[2]) for line in counts) == 1001
        assert f"tls://.:{port}" in server.output
        assert ' "A IN www.test. tcp ' in server.output


def test_a_client_that_reads_late(certs):
    """Octets the socket does not take are sent again as TLS wants it, and none is lost."""
    port, times = peers.free_port(), 10_000
    more = "".join(f"192.0.2.{i} www.test\n" for i in range(2, 40))
    text = corefile(port).replace("hosts {", "hosts {\n" + more).replace("    log\n", "")
    with peers.clusterdns(text, certs), secure(port, certs) as sock:
        sock.settimeout(10)
        sock.sendall(framed("www.test") * times)
        time.sleep(0.5)  # until the server's buffers are full: 6 MB of replies
        sizes = {len(peers.read_frame(sock) or b"") for _ in range(times)}
    assert len(sizes) == 1
    assert min(sizes) > 39 * 16


def test_clients_certificates(certs):
    port = peers.free_port()
    with peers.clusterdns(corefile(port, "require_and_verify"), certs):
        with secure(port, certs, "client") as sock:
            sock.sendall(framed("www.test"))
            assert address_in(peers.read_frame(sock)) == HOSTS
        with pytest.raises(OSError), secure(port, certs) as sock:
            sock.sendall(framed("www.test"))
            sock.recv(1)  # TLS 1.3: the client learns it here


def test_clients_that_misbehave(certs):
    """Who never shakes hands, sends no TLS, or stops half-way is closed; others are answered."""
    port = peers.free_port()
    with peers.clusterdns(corefile(port), certs) as server, contextlib.ExitStack() as stack:
        silent = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(50)]
        for i, sock in enumerate(silent):
            stack.enter_context(sock)
            sock.sendall((b"", b"\x16\x03\x01", framed("www.test"), b"\x16\x03\x01\x02\0")[i % 4])
        with secure(port, certs) as sock:
            sock.sendall(framed("www.test"))
            assert address_in(peers.read_frame(sock)) == HOSTS
        began = time.monotonic()
        for sock in silent:
            sock.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(100):  # an alert may come first
                    pass
        assert time.monotonic() - began < 4
        assert "panic" not in server.output


def test_requests_for_new_keys_hold_nobody_up(certs):
    """Who asks for new keys and nothing else is closed after 16 records, as by Go.

    OpenSSL goes on for as long as records come: one client held a worker in a single read.
    """
    port = peers.free_port()
    with peers.clusterdns(corefile(port), certs) as server:
        with tlsrecords.begin(port, certs / "ca.pem") as begun:
            for _ in range(3):
                octets, begun = tlsrecords.key_updates(begun, 15)
                asked, begun = tlsrecords.data(begun, framed("www.test"))
                begun.sock.sendall(octets + asked)
            octets, begun = tlsrecords.key_updates(begun, 15)
            begun.sock.sendall(octets)
            begun.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                while begun.sock.recv(65_536):  # replies, encrypted
                    pass
            octets, begun = tlsrecords.key_updates(begun, 5)
            with contextlib.suppress(ConnectionResetError):
                begun.sock.sendall(octets)
                while begun.sock.recv(65_536):
                    pass
        with tlsrecords.begin(port, certs / "ca.pem") as begun:
            octets, _ = tlsrecords.key_updates(begun, 20_000)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                begun.sock.sendall(octets)
                while begun.sock.recv(65_536):
                    pass
            assert time.monotonic() - began < 0.9, "until it was idle"
        assert peers.ask_udp(server.address, framed("www.test")[2:], 2)


def test_room_is_not_made_for_a_long_first_message(certs):
    """OpenSSL would keep 128 KiB for the nine octets that announce as much."""
    with peers.clusterdns(corefile(port := peers.free_port()), certs):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(tlsrecords.LONG_HELLO)
            with contextlib.suppress(ConnectionResetError):
                assert not sock.recv(100)
        assert time.monotonic() - began < 0.9, "until it had waited for too long"


def test_old_versions_are_refused(certs):
    port = peers.free_port()
    with peers.clusterdns(corefile(port), certs):
        context = certificates.client_context(certs / "ca.pem")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", port), 5) as sock,
            context.wrap_socket(sock, server_hostname="dns.test") as found,
        ):
            assert found.version() == "TLSv1.2"
            found.sendall(framed("www.test"))
            assert address_in(peers.read_frame(found)) == HOSTS
        # A version of 1.1 in the ClientHello, with one cipher and no extensions (RFC 4346 7.4.1.2).
        hello = b"\x03\x02" + bytes(32) + b"\0" + b"\0\x02\xc0\x09" + b"\x01\0"
        message = b"\x01" + len(hello).to_bytes(3, "big") + hello
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"\x16\x03\x01" + struct.pack("!H", len(message)) + message)
            got = sock.recv(100)
        assert (got[0], got[5:7]) == (21, b"\x02\x46")  # alert, fatal, protocol_version


MISTAKES = (
    ("tls", "obtains no certificates"),
    ("tls a", "wants CERT KEY"),
    ("tls none.pem server.key", "none.pem: No such file"),
    ("tls server.pem none.key", "none.key: No such file"),
    ("tls server.pem other.key", "key values mismatch"),
    ("tls server.ext server.key", "server.ext"),
    ("tls server.pem server.key server.ext", "server.ext"),
    ("tls server.pem server.key {\nclient_auth\n}", "client_auth"),
    ("tls server.pem server.key {\nclient_auth x\n}", "wants one of"),
    ("tls server.pem server.key {\nclient_auth require\n}", "verifies no certificate"),
    ("tls server.pem server.key {\nkeylog x\n}", "keys"),
    ("tls server.pem server.key {\nx\n}", "unknown"),
)


def compiled(text: str):
    return compile_text(text, "f", port=53, environ={}, warn=print)


@pytest.mark.parametrize(("line", "reason"), MISTAKES)
def test_mistakes(line, reason, certs):
    with pytest.raises(ConfigError, match=r"^f:\d+: .*" + reason):
        compiled(f"tls://. {{\nroot {certs}\n{line}\nwhoami\n}}\n")


CONFLICTS = (
    ("tls server.pem server.key", "", "TLS is configured for only one server block"),
    ("tls server.pem server.key", "tls other.pem other.key", "server certificates differ"),
    ("tls server.pem server.key", "tls server.pem server.key ca.pem", "client CA pools differ"),
    ("tls server.pem server.key ca.pem",
     "tls server.pem server.key ca.pem {\nclient_auth verify_if_given\n}",
     "client authentication policies differ"),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other", "reason"), CONFLICTS)
def test_conflicts(one, other, reason, certs):
    text = "".join(
        f"tls://{zone} {{\nroot {certs}\n{each}\nwhoami\n}}\n"
        for zone, each in (("a.test", one), ("b.test", other))
    )
    expected = (
        "conflicting TLS configuration for shared listener tls://:853 between zones "
        f'"a.test." and "b.test.": {reason}'
    )
    with pytest.raises(ConfigError) as caught:
        compiled(text)
    assert expected in str(caught.value)
    compiled(text.replace("tls://b.test", "tls://b.test:854"))


def test_a_port_is_served_in_one_way(certs):
    with pytest.raises(ConfigError, match="the port is that of dns://:853, too"):
        compiled("a.test:853 {\nwhoami\n}\ntls://b.test {\nwhoami\n}\n")


def test_reload_turns_a_port_over(certs, tmp_path):
    """A port that was plain is encrypted after a reload, and plain again after another."""
    port = peers.free_port()
    plain = f". {{\nwhoami\n}}\n.:{port} {{\nroot {certs}\nhosts {{\n192.0.2.1 www.test\n}}\n}}\n"
    encrypted = plain.replace(f".:{port} {{", f"tls://.:{port} {{\ntls server.pem server.key")
    with peers.clusterdns(plain, tmp_path) as server:
        conf = next(tmp_path.glob("Corefile-*"))
        for text in (encrypted, plain):
            conf.write_text(text)
            server.process.send_signal(10)  # SIGUSR1
            deadline = time.monotonic() + 10
            while True:
                assert time.monotonic() < deadline, server.output
                with contextlib.suppress(OSError, AssertionError):
                    if text is plain:
                        got = peers.ask_udp(("127.0.0.1", port), beside.query("www.test"), 0.3)
                    else:
                        with secure(port, certs) as sock:
                            sock.sendall(framed("www.test"))
                            got = peers.read_frame(sock)
                    if got:
                        break
                time.sleep(0.05)
            assert address_in(got) == HOSTS


def issuer_of(port: int, authority: Path, version: str = "") -> bytes:
    """Return the certificate that a new connection is shown; it is of this authority."""
    context = certificates.client_context(authority)
    if version:
        context.set_alpn_protocols([version])
    with (
        socket.create_connection(("127.0.0.1", port), 5) as sock,
        context.wrap_socket(sock, server_hostname="dns.test") as found,
    ):
        return found.getpeercert(binary_form=True) or b""


def test_certificates_that_change(tmp_path):
    """New ones are in force for new connections without a reload; bad ones are not, and are told."""
    now, later = (certificates.make(make_folder(tmp_path / name)) for name in ("now", "later"))
    port, web = peers.free_port(), peers.free_port()
    text = corefile(port).replace(f"tls://.:{port}", f"tls://.:{port} https://.:{web}")
    with peers.clusterdns(text, now) as server:
        before = issuer_of(port, now / "ca.pem")
        (now / "server.pem").write_text("no certificate")
        wait_for(lambda: "the last good ones stay in force: " in server.output)
        assert before == issuer_of(port, now / "ca.pem")
        for name in ("server.key", "ca.pem", "server.pem"):  # as a Secret's volume is changed
            (now / f"{name}.new").write_bytes((later / name).read_bytes())
            (now / f"{name}.new").rename(now / name)
        wait_for(lambda: "certificates have changed and are in force" in server.output)
        assert before != issuer_of(port, later / "ca.pem")
        assert issuer_of(port, later / "ca.pem") == issuer_of(web, later / "ca.pem", "h2")
    assert "panic" not in server.output


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def wait_for(is_so, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("what", ["fifo", "device", "giant"])
def test_certificates_that_end_never(what, tmp_path):
    """The last good ones stay in force: nobody waits for a FIFO, or reads a device to its end."""
    folder = certificates.make(make_folder(tmp_path / "own"))
    port = peers.free_port()
    text = corefile(port)
    for name in ("server.pem", "server.key", "ca.pem"):
        text = text.replace(name, f"{folder}/{name}")
    with peers.clusterdns(text, tmp_path) as server:
        path = folder / "server.pem"
        path.unlink()
        if what == "fifo":
            os.mkfifo(path)
        elif what == "device":
            path.symlink_to("/dev/zero")
        else:
            with path.open("wb") as file:
                file.truncate(2**32)
        wait_for(lambda: "certificates have changed, the last good ones stay" in server.output)
        with secure(port, folder) as sock:
            sock.sendall(framed("www.test"))
            assert address_in(peers.read_frame(sock)) == HOSTS
        server.process.send_signal(signal.SIGUSR1)
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(conf.read_text() + "\nother.test {\n    whoami\n}\n")
        server.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "Reload failed" in server.output)
        assert "killing it" not in server.output


def test_private_authorities_are_trusted_as_by_go():
    """Python 3.13 is strict by default: an authority without a key usage would be refused."""
    assert not client_context().verify_flags & ssl.VERIFY_X509_STRICT
