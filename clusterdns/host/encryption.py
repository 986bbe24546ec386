"""TLS: certificates of a listener, authentication of its clients as set by `tls`, and clients.

The handshake precedes the question, so all server blocks of a listener must have the same TLS.
(CoreDNS 1.15.0: core/dnsserver/tls.go)
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import NamedTuple

MAX_PEM_OCTETS = 4 * 2**20  # all public authorities have 200 KiB
_MODES = {
    "nocert": ssl.CERT_NONE,
    "verify_if_given": ssl.CERT_OPTIONAL,
    "require_and_verify": ssl.CERT_REQUIRED,
}
CLIENT_AUTH = tuple(_MODES)


class Encryption:
    """The TLS of a server block, from PEM files; it requires TLS 1.2.

    ``refresh`` reads the files again. Only the contexts hold keys.
    """

    def __init__(
        self, certificate: Path, key: Path, authority: Path | None, client_auth: str
    ) -> None:
        """Read the files.

        Raises:
            ValueError: a file is missing or unusable; names the file and the reason.
        """
        self.client_auth = client_auth
        self._certificate, self._key, self._authority = certificate, key, authority
        self._contents = self._read()

    @property
    def context(self) -> ssl.SSLContext:
        """The context of new connections of DNS over TLS."""
        return self._contents.context

    @property
    def web(self) -> ssl.SSLContext:
        """The context of new connections of DNS over HTTPS: with ALPN."""
        return self._contents.web

    def refresh(self) -> None:
        """Read the files again.

        Raises:
            ValueError: they are unusable, and the last good ones stay in force.
        """
        self._contents = self._read()

    def conflict(self, other: Encryption) -> str:
        """Return why two server blocks cannot share a listener, "" if they can."""
        ours, theirs = self._contents, other._contents
        if self.client_auth != other.client_auth:
            return "client authentication policies differ"
        if ours.authorities != theirs.authorities:
            return "client CA pools differ"
        if ours.chain != theirs.chain:
            return "server certificates differ"
        return ""

    def _read(self) -> _Contents:
        certificate, key, authority = self._certificate, self._key, self._authority
        chain = _text(certificate)
        _text(key)  # OpenSSL opens it itself, and would wait for a FIFO
        context, web = [_context(certificate, key, authority, self.client_auth) for _ in range(2)]
        web.set_alpn_protocols(["h2", "http/1.1"])  # RFC 7301; the first that the client supports
        known = None if authority is None else frozenset(context.get_ca_certs(binary_form=True))
        return _Contents(context, web, known, chain)


class _Contents(NamedTuple):
    context: ssl.SSLContext
    web: ssl.SSLContext
    authorities: frozenset[bytes] | None  # CAs of clients, in DER; None is the system's
    chain: str  # the file of our certificates, PEM


def client_context() -> ssl.SSLContext:
    """Return what a client trusts before it is told more: nothing; the caller loads authorities.

    It requires TLS 1.2 and a name in the SAN (RFC 9525 section 2). It is not strict about
    certificates of authorities, as Python is by default since 3.13: private authorities without a
    key usage or key identifier are common, and Go accepts them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _context(
    certificate: Path, key: Path, authority: Path | None, client_auth: str
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = _MODES[client_auth]
    try:
        # An encrypted key is refused: nobody can type its password.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ValueError(f"{certificate} {key}: {_reason(error)}") from error
    if authority is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return context
    try:
        context.load_verify_locations(cadata=_text(authority))
    except (OSError, ValueError) as error:
        raise ValueError(f"{authority}: {_reason(error)}") from error
    return context


def _text(path: Path) -> str:
    try:
        return check_pem(path).decode("ascii", "ignore")  # comments may have other letters
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error


def check_pem(path: Path) -> bytes:
    """Return the octets of a file of certificates or a key, before OpenSSL opens it.

    It would wait for a FIFO, and read a device for as long as there is memory.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    if status.st_size > MAX_PEM_OCTETS:
        raise OSError(f"it is larger than {MAX_PEM_OCTETS} octets")
    return path.read_bytes()


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return (reason or str(error)).replace("_", " ").lower()
