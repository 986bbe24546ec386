"""Records of TLS 1.3 that no library sends: requests for new keys, one after the other.

``begin`` shakes hands by Python's library, which then writes down its secret; ``key_updates`` makes
records from that (RFC 8446 sections 4.6.3, 5.2, 7.1 and 7.2).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import certificates
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_HANDSHAKE, _APPLICATION_DATA = b"\x16", b"\x17"
# A ClientHello of 131,396 octets, the longest that OpenSSL takes, of which none has come yet.
LONG_HELLO = bytes.fromhex("1603010004 01020144")


class Begun(NamedTuple):
    """A connection after the handshake, and how the next record is encrypted."""

    sock: socket.socket
    secret: bytes
    cipher: str
    number: int = 0  # of records with these keys


@contextlib.contextmanager
def begin(port: int, authority: Path) -> Iterator[Begun]:
    """Connect, and shake hands."""
    context = certificates.client_context(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    from_server, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    with (
        tempfile.NamedTemporaryFile("r") as secrets,
        socket.create_connection(("127.0.0.1", port), 5) as sock,
    ):
        context.keylog_filename = secrets.name
        tls = context.wrap_bio(from_server, to_server, server_hostname="dns.test")
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            sock.sendall(to_server.read())
            from_server.write(sock.recv(65_536))
        sock.sendall(to_server.read())
        lines = [line.split() for line in secrets]
        found = next(line[2] for line in lines if line and line[0] == "CLIENT_TRAFFIC_SECRET_0")
        cipher = tls.cipher()
        assert cipher is not None
        yield Begun(sock, bytes.fromhex(found), cipher[0])


def key_updates(begun: Begun, count: int) -> tuple[bytes, Begun]:
    """Return records that each say that the next one has new keys, and what is valid then."""
    parts = []
    for _ in range(count):
        parts.append(_record(begun, b"\x18\0\0\1\0" + _HANDSHAKE))
        secret = _derived(begun, begun.secret, b"traffic upd", len(begun.secret))
        begun = begun._replace(secret=secret, number=0)
    return b"".join(parts), begun


def data(begun: Begun, octets: bytes) -> tuple[bytes, Begun]:
    """Return a record with octets for the application, and what is valid then."""
    return _record(begun, octets + _APPLICATION_DATA), begun._replace(number=begun.number + 1)


def _record(begun: Begun, inner: bytes) -> bytes:
    """Return an encrypted record."""
    key = _derived(begun, begun.secret, b"key", 32 if "256_GCM" in begun.cipher else 16)
    iv = int.from_bytes(_derived(begun, begun.secret, b"iv", 12), "big")
    head = _APPLICATION_DATA + struct.pack("!HH", 0x0303, len(inner) + 16)
    return head + AESGCM(key).encrypt((iv ^ begun.number).to_bytes(12, "big"), inner, head)


def _derived(begun: Begun, secret: bytes, label: bytes, length: int) -> bytes:
    """Return HKDF-Expand-Label of a secret (RFC 8446 section 7.1)."""
    sort = hashes.SHA384() if begun.cipher.endswith("SHA384") else hashes.SHA256()
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + b"\0"
    return HKDFExpand(sort, length, info).derive(secret)
