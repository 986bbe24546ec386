"""DNS over TLS (RFC 7858): the connections of ``tcp``, whose octets are encrypted.

The handshake is done in steps, whenever the client has sent something, so it never holds up the
loop; the turns of ``Streams`` bound how many are done at a stretch. A client must be through with
it, and with its first query, by the deadline of any new connection.
(CoreDNS: core/dnsserver/server_tls.go)
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import Any

from clusterdns.serving.connection import Connection, Crowd
from clusterdns.serving.server import Listener
from clusterdns.serving.tcp import Streams


class SecureSocket(ssl.SSLSocket):
    """A TLS socket that says it would block as any other socket does."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return decrypted octets, at most one record.

        Raises:
            BlockingIOError: nothing has come.
            OSError: the connection is of no use any more. So is one whose client wants new keys,
                and does not read what we say to that.
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
        """Say that no more follows (RFC 8446 section 6.1), and close."""
        # Nobody waits for the client's part, nor for room to say ours.
        with contextlib.suppress(OSError, ValueError):
            self.unwrap()
        super().close()


def secured(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a TLS socket that has not begun the handshake; ``sock`` is used up."""
    context.sslsocket_class = SecureSocket
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


class SecureStreams(Streams):
    """The TLS connections of one listening socket."""

    def __init__(
        self, server: Listener, sock: socket.socket, listeners: int, context: ssl.SSLContext
    ) -> None:
        super().__init__(server, sock, listeners)
        self._context = context

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        return SecureConnection(self, secured(sock, self._context), client)


class SecureConnection(Connection):
    """One client's encrypted stream of queries."""

    def __init__(self, streams: Crowd, sock: ssl.SSLSocket, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
        self._secure_sock = sock
        self._is_secure = False

    def proceed(self, events: int, now: float) -> int:
        """Go on with the handshake, or with queries; return how many were answered."""
        if self._is_secure:
            return super().proceed(events, now)
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self.close()
        elif not self._is_closed:  # while it was due
            self._shake_hands()
        return 0

    def finish(self) -> None:
        """Close once the queries that have come are answered; none has before the handshake."""
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
        except (OSError, ValueError):  # not TLS, no certificate, or gone
            self.close()
        else:
            self._is_secure = True
            self._set_events(select.EPOLLIN)
            self._begin()

    def _begin(self) -> None:
        """Do what comes after the handshake."""
