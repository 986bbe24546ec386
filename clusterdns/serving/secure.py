"""DNS over TLS (RFC 7858): encrypted connections of ``tcp``.

The handshake is done in steps, each when the client has sent something, so it never blocks the
loop; the turns of ``Streams`` bound how many steps are done in one turn. A client must complete it,
and send its first query, within the time limit of any new connection. (CoreDNS:
core/dnsserver/server_tls.go)
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import Any

from clusterdns.host.encryption import Encryption
from clusterdns.serving.connection import Connection, Crowd
from clusterdns.serving.server import Listener
from clusterdns.serving.tcp import Streams


class SecureSocket(ssl.SSLSocket):
    """A TLS socket that raises BlockingIOError like any other socket."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return decrypted octets, at most one record.

        Raises:
            BlockingIOError: nothing was received.
            OSError: the connection is broken, or the client requests new keys and does not read
                our part of that.
        """
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ANN401 - Buffer is of 3.12
        """Encrypt and send octets. Raises BlockingIOError or OSError; then send them again."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def close(self) -> None:
        """Send close_notify (RFC 8446 section 6.1), and close."""
        # Without waiting for the client's close_notify, or for room to send ours.
        with contextlib.suppress(OSError, ValueError):
            self.unwrap()
        super().close()


def secured(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a TLS socket before the handshake; it takes over ``sock``."""
    context.sslsocket_class = SecureSocket
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


class SecureStreams(Streams):
    """The TLS connections of one listening socket."""

    def __init__(
        self, server: Listener, sock: socket.socket, listeners: int, encryption: Encryption
    ) -> None:
        super().__init__(server, sock, listeners)
        self._encryption = encryption

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        return SecureConnection(self, secured(sock, self._encryption.context), client)


class SecureConnection(Connection):
    """One client's encrypted stream of queries."""

    def __init__(self, streams: Crowd, sock: ssl.SSLSocket, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
        self._secure_sock = sock
        self._is_secure = False

    def proceed(self, events: int, now: float) -> int:
        """Continue the handshake or queries; return the number of queries answered."""
        if self._is_secure:
            return super().proceed(events, now)
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self.close()
        elif not self._is_closed:  # since it was scheduled
            self._shake_hands()
        return 0

    def finish(self) -> None:
        """Close once the received queries are answered; before the handshake at once."""
        if self._is_secure:
            super().finish()
        else:
            self.close()

    def _shake_hands(self) -> None:
        try:
            self._secure_sock.do_handshake()
        except ssl.SSLWantReadError:
            self._set_events(select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._set_events(select.EPOLLOUT)
        except (OSError, ValueError):  # not TLS, no certificate, or closed
            self.close()
        else:
            self._is_secure = True
            self._set_events(select.EPOLLIN)
            self._begin()

    def _begin(self) -> None:
        """Start reading queries after the handshake."""
