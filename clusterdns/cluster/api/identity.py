"""Who we are to an API server over TLS, and how it proves who it is.

Certificates and keys are files, or octets out of a kubeconfig. Octets stay in memory: the root of a
container may be read-only, files in a temporary directory are removed by others, and a key must not
be left on a disk.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError
from clusterdns.host.encryption import client_context
from clusterdns.host.stamp import Stamp, read_regular

MAX_OCTETS = 4 * 2**20  # of a file
Pem = Path | bytes


class Identity(NamedTuple):
    """Our certificate and its key, and who may have signed the server's, None for the system's CAs.

    ``server_name`` is what the server proves to be, if not the host of its URL.
    """

    certificate: Pem | None = None
    key: Pem | None = None
    authority: Pem | None = None
    server_name: str = ""
    is_verified: bool = True

    @property
    def files(self) -> list[Path]:
        """The files it is made of, which may be written anew."""
        parts = (self.certificate, self.key, self.authority)
        return [part for part in parts if isinstance(part, Path)]

    def context(self) -> ssl.SSLContext:
        """Return how connections are made; TLS 1.2 is the least.

        Raises:
            ApiError: a file cannot be read, or holds no certificate or key.
        """
        context = client_context()
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.authority is None:
            context.load_default_certs()
        else:
            self._trust(context, self.authority)
        if self.certificate is not None and self.key is not None:
            self._show(context, self.certificate, self.key)
        return context

    def _trust(self, context: ssl.SSLContext, authority: Pem) -> None:
        text = read(authority, "certificate-authority-data").decode("ascii", "ignore")
        try:
            context.load_verify_locations(cadata=text)
        except (OSError, ValueError):
            name = _name(authority, "certificate-authority-data")
            raise ApiError(f"{name}: holds no certificate") from None

    def _show(self, context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
        names = _name(certificate, "client-certificate-data"), _name(key, "client-key-data")
        octets = read(certificate, names[0]) + b"\n" + read(key, names[1])
        try:
            load_chain(context, octets)
        except (OSError, ValueError) as error:
            raise ApiError(f"{' '.join(names)}: {_reason(error)}") from None


def identity_of(source: Source) -> Identity:
    """Return the files that `tls` names for an endpoint."""
    certificate, key, authority = map(Path, source.tls) if source.tls else (None, None, None)
    return Identity(certificate, key, authority)


def load_chain(context: ssl.SSLContext, octets: bytes) -> None:
    """Take a certificate and its key, which OpenSSL reads from a file, from one in memory.

    Raises:
        OSError: they are none, do not belong together, or the key has a password (ssl.SSLError).
        ValueError: the key has a password.
    """
    number = os.memfd_create("certificate")  # no program that we run inherits it
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(octets)
        # Nobody is there to type a password.
        context.load_cert_chain(f"/proc/self/fd/{number}", password=lambda: "")
    finally:
        os.close(number)


def read(part: Pem, name: str) -> bytes:
    """Return the octets of a certificate or key; ``name`` is for those that are no file.

    Raises:
        ApiError: the file cannot be read.
    """
    if isinstance(part, bytes):
        return part
    try:
        found = read_regular(part, MAX_OCTETS)
    except OSError as error:
        raise ApiError(f"{part}: {error.strerror or error}") from None
    assert found is not None  # no stamp was given
    return found[1]


class Stamps:
    """Files that may be written anew: tells whether one has been."""

    def __init__(self, paths: list[Path]) -> None:
        self._found = dict(self._look(paths))

    @property
    def have_changed(self) -> bool:
        """Whether a file is another one than at first; one that is gone is not."""
        now = dict(self._look(list(self._found)))
        return any(stamp is not None and stamp != self._found[path] for path, stamp in now.items())

    def _look(self, paths: list[Path]) -> Iterator[tuple[Path, Stamp | None]]:
        for path in paths:
            yield path, Stamp.at(path)


def _name(part: Pem, name: str) -> str:
    return str(part) if isinstance(part, Path) else name


def _reason(error: Exception) -> str:
    """Return what OpenSSL says, which tells nothing of what it has read."""
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return reason.replace("_", " ").lower() or "no certificate with its key"
