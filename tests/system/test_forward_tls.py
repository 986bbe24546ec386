"""forward over TLS: Unbound as the server, and servers of our own that are not to be trusted.

Certificates are made by openssl for each run.
"""

from __future__ import annotations

import collections
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import peers
import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.plugins.forward import Forward

INSTALL_OPENSSL = "apt-get install openssl"
INSTALL_UNBOUND = "apt-get install unbound"
UNBOUND = """
server:
  interface: 127.0.0.1@{port}
  tls-port: {port}
  tls-service-key: "{certs}/server.key"
  tls-service-pem: "{certs}/server.pem"
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{certs}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
  local-zone: "example.com." static
  local-data: "www.example.com. 300 IN A 192.0.2.1"
remote-control:
  control-enable: no
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    """Make an authority, certificates of a server (127.0.0.1, dns.test) and a client, and one of
    a server that is named by its CN alone (dns.test).
    """
    if not shutil.which("openssl"):
        pytest.skip(f"needs openssl: {INSTALL_OPENSSL}")
    made = tmp_path_factory.mktemp("certs")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=made, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=test authority")  # fmt: skip
    (made / "server.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:dns.test\n")
    (made / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    (made / "bare.ext").write_text("basicConstraints=CA:FALSE\n")
    for who, subject in (("server", "server"), ("client", "client"), ("bare", "dns.test")):
        openssl("req", *key, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj",
                f"/CN={subject}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", f"{who}.ext", "-out",
                f"{who}.pem")  # fmt: skip
    return made


@pytest.fixture(scope="module")
def unbound(certs) -> Iterator[int]:
    """Run Unbound, which speaks nothing but TLS; yield its port."""
    if not shutil.which("unbound"):
        pytest.skip(f"needs Unbound: {INSTALL_UNBOUND}")
    port = peers.free_port()
    (certs / "unbound.conf").write_text(UNBOUND.format(port=port, certs=certs))
    process = subprocess.Popen(
        ["unbound", "-c", certs / "unbound.conf"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def corefile(servers: str, options: str, metrics: int = 0) -> str:
    lines = f"prometheus 127.0.0.1:{metrics}\n" if metrics else ""
    return f". {{\n errors\n{lines} forward . {servers} {{\n{options}\n}}\n}}\n"


def ask(server: peers.Server, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query("www.example.com.", "A").to_wire()
    over = peers.ask_tcp if tcp else peers.ask_udp
    wire = over(server.address, query, 8)
    assert wire is not None
    return dns.message.from_wire(wire)


def dials(port: int) -> collections.Counter[str]:
    """Return how often a connection was there or was not, by `hits tcp-tls` and the like."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    found = collections.Counter[str]()
    for line in text.splitlines():
        if line.startswith("coredns_proxy_conn_cache_"):
            what = line.partition("cache_")[2].partition("_")[0]
            proto = line.partition('proto="')[2].partition('"')[0]
            found[f"{what} {proto}"] += int(float(line.rpartition(" ")[2]))
    return found


@pytest.mark.peer
@pytest.mark.parametrize("run", [peers.clusterdns, peers.coredns])
def test_one_connection_carries_all_queries(run, certs, unbound, tmp_path):
    """Both servers, whatever the client speaks and the options say of TCP and UDP."""
    metrics = peers.free_port()
    text = corefile(f"tls://127.0.0.1:{unbound}", f"tls {certs}/ca.pem\n prefer_udp", metrics)
    with run(text, tmp_path) as server:
        for i in range(6):
            reply = ask(server, tcp=bool(i % 2))
            assert ["192.0.2.1"] == [str(rdata) for rdata in reply.answer[0]]
        found = dials(metrics)
    # The question that tells that the server runs is one of them.
    assert {"misses tcp-tls": 1, "hits tcp-tls": 6} == {k: n for k, n in found.items() if n}


@pytest.mark.parametrize(
    ("servers", "options", "error"),
    [
        ("tls://127.0.0.1:{}", "tls {certs}/ca.pem", ""),
        ("tls://127.0.0.1:{}", "tls {certs}/ca.pem\n tls_servername dns.test", ""),
        ("tls://127.0.0.1%dns.test:{}", "tls {certs}/ca.pem", ""),
        ("tls://127.0.0.1:{}", "tls {certs}/ca.pem\n tls_servername dns.TEST.", ""),
        ("tls://127.0.0.1%dns.test.:{}", "tls {certs}/ca.pem", ""),
        ("tls://127.0.0.1:{}", "tls {certs}/ca.pem\n tls_servername evil.test.", "mismatch"),
        ("tls://127.0.0.1:{}", "tls {certs}/ca.pem\n tls_servername evil.test", "mismatch"),
        ("tls://127.0.0.1%evil.test:{}", "tls {certs}/ca.pem", "mismatch"),
        ("tls://127.0.0.1:{}", "", "unable to get local issuer certificate"),
        ("tls://127.0.0.1:{}", "tls {certs}/client.pem", "unable to get local issuer"),
    ],
)
def test_the_server_has_to_prove_who_it_is(servers, options, error, certs, unbound, tmp_path):
    text = corefile(servers.format(unbound), options.format(certs=certs))
    with peers.clusterdns(text, tmp_path) as server:
        reply = ask(server)
        if not error:
            assert reply.answer
            return
        assert (dns.rcode.SERVFAIL, []) == (reply.rcode(), reply.answer)
        assert f"A: tcp-tls 127.0.0.1:{unbound}: certificate verify failed: " in server.output
        assert error in server.output


class TlsServer:
    """A server over TLS in a thread of its own; ``opened`` are the first octets of connections."""

    def __init__(
        self, certs: Path, *, who: str = "server", wants_client: bool = False, breaks: int = 0
    ) -> None:
        self.queries: list[tuple[str, str]] = []
        self.opened: list[bytes] = []
        self._breaks = breaks
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certs / f"{who}.pem", certs / f"{who}.key")
        if wants_client:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(certs / "ca.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.datagrams = socket.socket(type=socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.datagrams.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(10)
            self.opened.append(sock.recv(3, socket.MSG_PEEK))
            if len(self.opened) <= self._breaks:
                return
            with self._context.wrap_socket(sock, server_side=True) as stream:
                while wire := peers.read_frame(stream):
                    query = dns.message.from_wire(wire)
                    question = query.question[0]
                    self.queries.append(
                        (str(question.name), dns.rdatatype.to_text(question.rdtype))
                    )
                    reply = dns.message.make_response(query)
                    reply.answer.append(
                        dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.1")
                    )
                    octets = reply.to_wire()
                    stream.sendall(struct.pack("!H", len(octets)) + octets)


@contextlib.contextmanager
def tls_server(certs: Path, **options) -> Iterator[TlsServer]:
    made = TlsServer(certs, **options)
    try:
        yield made
    finally:
        made.stop()


def test_a_certificate_without_san_proves_no_name(certs, tmp_path):
    """RFC 9525 section 2: the CN is no name of a server, as it is none to Go."""
    with tls_server(certs, who="bare") as upstream:
        options = f"tls {certs}/ca.pem\n tls_servername dns.test"
        with peers.clusterdns(
            corefile(f"tls://127.0.0.1:{upstream.port}", options), tmp_path
        ) as server:
            assert ask(server).rcode() == dns.rcode.SERVFAIL
            assert "certificate verify failed: Hostname mismatch" in server.output
        assert [] == upstream.queries


@pytest.mark.parametrize(
    "name", ["a..b", f"{'x' * 64}.test", ".test", "dns.test..", "b\xfcch.test"]
)
@pytest.mark.parametrize(
    "text", ["tls://192.0.2.1 {{\n tls_servername {}\n}}", "tls://192.0.2.1%{}"]
)
def test_a_server_name_that_nobody_can_prove_is_a_mistake(text, name):
    corefile = f". {{\n forward . {text.format(name)}\n}}\n"
    with pytest.raises(ConfigError, match=r"Corefile:\d: .*no TLS server name"):
        compile_text(corefile, "Corefile", port=53, environ={}, warn=print)


def test_what_is_not_trusted_gets_nothing_in_plain_text(certs, tmp_path):
    """Every connection begins with a TLS handshake, there is no datagram, and no query."""
    with tls_server(certs) as upstream:
        text = corefile(f"tls://127.0.0.1:{upstream.port}", "max_fails 0")
        with peers.clusterdns(text, tmp_path) as server:
            for tcp in (False, True):
                assert ask(server, tcp=tcp).rcode() == dns.rcode.SERVFAIL
        assert upstream.opened
        assert {b"\x16\x03\x01"} == set(upstream.opened)  # RFC 8446 section 5.1: handshake
        assert [] == upstream.queries
        upstream.datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            upstream.datagrams.recv(512)


def test_a_server_without_tls_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        seen.append(sock.recv(4096))
                        sock.sendall(b"\0\x0cno tls here.")

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        with peers.clusterdns(
            corefile(f"tls://127.0.0.1:{port}", "max_fails 0"), tmp_path
        ) as server:
            assert ask(server).rcode() == dns.rcode.SERVFAIL
            assert f"tcp-tls 127.0.0.1:{port}: tls: " in server.output
        assert seen
        assert not any(b"example" in octets for octets in seen)


@pytest.mark.parametrize(
    ("files", "rcode"), [("client.pem client.key ca.pem", 0), ("ca.pem", dns.rcode.SERVFAIL)]
)
def test_the_client_proves_who_it_is(files, rcode, certs, tmp_path):
    """Relative paths start from ``root``."""
    with tls_server(certs, wants_client=True) as upstream:
        forward = f"forward . tls://127.0.0.1:{upstream.port} {{\n tls {files}\n}}"
        with peers.clusterdns(f". {{\n root {certs}\n {forward}\n}}\n", tmp_path) as server:
            assert ask(server).rcode() == rcode


def test_health_is_checked_over_tls(certs, tmp_path):
    with tls_server(certs, breaks=3) as upstream:
        options = f"tls {certs}/ca.pem\n health_check 100ms\n max_connect_attempts 1"
        text = corefile(f"tls://127.0.0.1:{upstream.port}", options)
        with peers.clusterdns(text, tmp_path) as server:
            ask(server)
            deadline = time.monotonic() + 5
            while (".", "NS") not in upstream.queries:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert ask(server).answer


def test_old_versions_are_not_spoken(certs):
    text = f". {{\n forward . tls://192.0.2.1 {{\n tls {certs}/ca.pem\n}}\n}}\n"
    made = compile_text(text, "Corefile", port=53, environ={}, warn=print)
    (plugin,) = made.plugins
    assert isinstance(plugin, Forward)
    context = plugin._settings.tls
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [("192.0.2.1", 853, "tls", "")] == plugin._destinations
