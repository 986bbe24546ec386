"""Certificates of a client that change: which one a server is shown; no sockets."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import certificates
import pytest

from clusterdns.corefile.parser import Directive
from clusterdns.errors import ConfigError
from clusterdns.forwarding.connections import TlsFiles, tls_context

LINE = Directive("tls", ("mine.pem", "mine.key", "ca.pem"), (), "Corefile", 3, False)


@pytest.fixture
def directory(tmp_path) -> Path:
    made = certificates.make(tmp_path)
    put(made, "client")
    return made


def put(directory: Path, who: str) -> None:
    for suffix in ("pem", "key"):
        shutil.copy(directory / f"{who}.{suffix}", directory / f"mine.{suffix}")


def shown(context: ssl.SSLContext, directory: Path) -> str:
    """Return the name in the certificate that a server gets in a handshake."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem", directory / "server.key")
    server.load_verify_locations(directory / "ca.pem")
    server.verify_mode = ssl.CERT_OPTIONAL
    server.verify_flags &= ~ssl.VERIFY_X509_STRICT
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(theirs, ours, server_hostname="dns.test")
    accepting = server.wrap_bio(ours, theirs, server_side=True)
    for _ in range(4):
        for half in (client, accepting):
            try:
                half.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dict(part[0] for part in accepting.getpeercert()["subject"])["commonName"]


def test_a_certificate_that_has_changed_is_shown_and_a_wrong_one_is_not(directory):
    context = tls_context(LINE.args, LINE, directory)
    files = TlsFiles((context,), LINE.args, LINE, directory)
    assert "client" == shown(context, directory)
    assert not files.refresh()
    put(directory, "other")
    assert files.refresh()
    assert "other" == shown(context, directory)
    (directory / "mine.key").write_bytes((directory / "client.key").read_bytes())
    with pytest.raises(ConfigError, match="Corefile:3: tls"):
        files.refresh()
    assert "other" == shown(context, directory)
    (directory / "mine.pem").unlink()
    with pytest.raises(ConfigError):
        files.refresh()
    put(directory, "client")
    assert files.refresh()
    assert "client" == shown(context, directory)
