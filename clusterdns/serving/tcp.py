"""TCP: a listening socket, and its connections, served in turns (RFC 7766).

The connections of a listening socket are in an epoll set of their own, which is registered with
asyncio's loop. One call reads every readable connection and answers all its whole queries at once:
a system call to receive, the lookups, one to send. A query on each of 100 connections takes 7.8 µs,
and 9.4 without C; with asyncio's transports it was 10.0 and 10.4 (lower quartile of 11 rounds).

A number of octets and a time bound each turn, and UDP is served between two turns. If there are too
many connections, one makes room, see ``Crowd``; one that is quiet for too long is closed.
(CoreDNS: core/dnsserver/server.go ReadTimeout, IdleTimeout)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import select
import socket

from clusterdns.metrics.tally import Sample
from clusterdns.serving import packetloop
from clusterdns.serving.connection import BATCH, REPLY_OCTETS, Connection, Crowd
from clusterdns.serving.server import Listener

MAX_CONNECTIONS = 4096  # two kilobytes each; at most half of all descriptors, see `_most_of`
FEWEST_CONNECTIONS = 128
TURN_S = 0.002  # bounds of a turn, besides REPLY_OCTETS
_BACKLOG = 1024
_ACCEPTS = 16  # connections accepted in one turn
_SWEEP_S = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Streams(Crowd):
    """One listening socket, and its connections, served in turns."""

    def __init__(self, server: Listener, sock: socket.socket, listeners: int = 1) -> None:
        super().__init__(server, sock.family)
        self.most = _most_of(listeners)
        self._sock = sock
        self._is_listening = False
        self._is_coming_back = False
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start to accept connections."""
        self._sock.setblocking(False)
        self._sock.listen(_BACKLOG)
        self._listen()
        packetloop.register(self.poll, self._look_after)
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._close_quiet)

    def stop(self, *, is_last: bool = False) -> None:
        """Accept no more, and close connections when they have their replies.

        ``is_last`` says that no other process accepts after this one: clients that have connected
        already are served, and later ones refused by the kernel.
        """
        self.is_stopping = True
        if is_last:
            for _ in range(_BACKLOG // _ACCEPTS):
                self._accept()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._pause()
        self._sock.close()
        began, answered = self.server.clock(), 0
        for connection in list(self.connections.values()):
            answered += connection.wind_down(began)
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        self.observed.tell()

    def abort(self) -> None:
        """Close all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections.values()):
            connection.close()
        packetloop.unregister(self.poll)
        self.poll.close()
        self.observed.tell()

    def _look_after(self) -> None:
        """Serve the connections that are readable or writable."""
        if not self.due:
            for number, events in self.poll.poll(0, BATCH):
                connection = self.connections.get(number)
                if connection is not None:
                    self.due.append((connection, events))
                elif number == self._sock.fileno():
                    self._accept()
        self._take_turn()

    def go_on_with(self, connection: Connection) -> None:
        """Serve the queries a connection has sent already, in its turn."""
        self.due.append((connection, 0))
        self._come_back()

    def _come_back(self) -> None:
        if not self._is_coming_back:
            self._is_coming_back = True
            asyncio.get_running_loop().call_soon(self._take_turn_again)

    def _take_turn_again(self) -> None:
        self._is_coming_back = False
        self._take_turn()

    def _take_turn(self) -> None:
        """Serve the connections that are due, until it is UDP's turn."""
        clock, due = self.server.clock, self.due
        began, answered, octets = clock(), 0, self.replied
        while due and self.replied - octets < REPLY_OCTETS:
            connection, events = due.popleft()
            answered += connection.proceed(events, began) if events else connection.go_on(began)
            if clock() - began >= TURN_S:
                break
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        if due:
            self._come_back()

    def _accept(self) -> None:
        """Accept new connections; close the quietest ones if there are too many."""
        for _ in range(_ACCEPTS):
            try:
                sock, client = self._sock.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:  # there is none, or it is closed already
                if error.errno in _EXHAUSTED:
                    self._pause()
                return
            if len(self.connections) >= self.most and not self.make_room():
                sock.close()
                continue
            try:
                connection = self._connection(sock, client[:2])
            except OSError:  # it is closed already
                sock.close()
                continue
            self.enter(connection)
            self.poll.register(connection.number, select.EPOLLIN)

    def samples(self) -> list[Sample]:
        """Return the metrics of one protocol, none by default."""
        return []

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        return Connection(self, sock, client)

    def _listen(self) -> None:
        if not self._is_listening:
            self.poll.register(self._sock, select.EPOLLIN)
            self._is_listening = True

    def _pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        if self._is_listening:
            self.poll.unregister(self._sock)
            self._is_listening = False

    def _close_quiet(self) -> None:
        now = self.server.clock()
        for connection in [c for c in self.connections.values() if c.is_over(now)]:
            connection.close()
        if self._sock.fileno() >= 0:
            self._listen()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_S, self._close_quiet)


def _most_of(listeners: int) -> int:
    """Return the limit of connections of one of ``listeners`` listening sockets in a process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(MAX_CONNECTIONS, soft // 2 // listeners))
