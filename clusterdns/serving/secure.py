"""DNS over TLS (RFC 7858): encrypted connections of ``tcp``.

The handshake is done in steps, each when the client has sent something, so it never blocks the
loop; the turns of ``Streams`` bound how many steps are done in one turn, and ``SecureSocket`` the
work of each. A client must complete it,
and send its first query, within the time limit of any new connection. (CoreDNS:
core/dnsserver/server_tls.go)
"""

from __future__ import annotations

import select
import socket

from clusterdns.host.encryption import Encryption
from clusterdns.serving.connection import Connection, Crowd
from clusterdns.serving.securesocket import SecureSocket
from clusterdns.serving.server import Listener
from clusterdns.serving.tcp import Streams


class SecureStreams(Streams):
    """The TLS connections of one listening socket."""

    def __init__(
        self, server: Listener, sock: socket.socket, listeners: int, encryption: Encryption
    ) -> None:
        super().__init__(server, sock, listeners)
        self._encryption = encryption

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        return SecureConnection(self, SecureSocket(sock, self._encryption.context), client)


class SecureConnection(Connection):
    """One client's encrypted stream of queries."""

    def __init__(self, streams: Crowd, sock: SecureSocket, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
        self._secure_sock = sock
        self._is_secure = False

    def proceed(self, events: int, now: float) -> int:
        """Continue the handshake or queries; return the number of queries answered."""
        if self._is_closed:  # since it was scheduled
            return 0
        answered = 0
        if self._is_secure:
            answered = super().proceed(events, now)
        elif events & (select.EPOLLERR | select.EPOLLHUP):
            self.close()
        else:
            answered = self._shake_hands(now)
        self._weigh()
        if self._secure_sock.is_at_end and not self._is_finishing:
            self.finish()
        return answered

    def finish(self) -> None:
        """Close once the received queries are answered; before the handshake at once."""
        if self._is_secure:
            super().finish()
        else:
            self.close()

    def _octets_held(self) -> int:
        return super()._octets_held() + self._secure_sock.held

    def _shake_hands(self, now: float) -> int:
        """Go on with the handshake, and with queries behind it; return how many were answered."""
        try:
            self._is_secure = self._secure_sock.do_handshake()
        except BlockingIOError:
            pass
        except (OSError, ValueError):  # not TLS, no certificate, or closed
            self.close()
            return 0
        if not self._is_secure:
            waits = select.EPOLLOUT if self._secure_sock.has_unsent else 0
            self._set_events(select.EPOLLIN | waits)
            return 0
        self._set_events(select.EPOLLIN)
        self._begin()
        return super().proceed(select.EPOLLIN, now)

    def _begin(self) -> None:
        """Start reading queries after the handshake."""
