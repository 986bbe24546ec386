"""Queries over UDP to one upstream server: a socket for each, in one epoll set.

Every query has a random source port and a random ID of its own, and a forger of replies has to
guess both (RFC 5452). After hits, misses are the most frequent work of a worker, so a query needs
no task, no transport and no ``loop.add_reader``: the event loop polls the epoll set as one file.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from clusterdns.errors import UpstreamError
from clusterdns.forwarding.connections import Hear, open_socket, reason_of
from clusterdns.forwarding.entropy import Idents
from clusterdns.forwarding.exchange import Exchange
from clusterdns.wire import message
from clusterdns.wire.reading import Reply

_IP_RECVERR: Final = 11  # linux/in.h, linux/in6.h; Python has no names for them
_IPV6_RECVERR: Final = 25
_BATCH: Final = 64  # sockets read at once, and datagrams of one socket that are no reply

Done = Callable[["Reply | UpstreamError"], None]


class Ask:
    """One query to one server; it ends when ``done`` is called or it is canceled."""

    __slots__ = (
        "began", "done", "hear", "is_mismatched", "is_out", "is_probe", "out", "proto", "sock",
        "task", "timeout_s", "timer",
    )  # fmt: skip

    def __init__(
        self, out: Exchange, proto: str, timeout_s: float, began: float, done: Done
    ) -> None:
        self.out = out
        self.proto = proto
        self.timeout_s = timeout_s
        self.began = began
        self.done = done
        self.is_probe = False  # CoreDNS does not count probes
        self.sock: socket.socket | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None  # None: the timer for `read_timeout` ends it
        self.is_out = True
        self.hear: Hear | None = None  # is told our end of the socket
        self.is_mismatched = False  # a reply had our ID, but answered another question


class Datagrams:
    """The UDP sockets of one server; ``finish`` is called once for each query.

    ``mismatches`` counts datagrams that answer none of our questions.
    """

    def __init__(
        self, address: tuple[str, int], text: str, source: str, idents: Idents,
        finish: Callable[[Ask, Reply | UpstreamError], None],
    ) -> None:  # fmt: skip
        self.mismatches = 0
        self._address = address
        self._text = text
        self._source = source
        self._idents = idents
        self._finish = finish
        self._loop = asyncio.get_running_loop()  # each call of get_running_loop is a system call
        self._epoll: select.epoll | None = None
        self._readable: dict[int, Ask] = {}  # by file descriptor

    def send(self, ask: Ask) -> None:
        """Send a query from a new socket; ``finish`` is called for a failure later, not here."""
        try:
            sock = ask.sock = open_socket(self._address[0], socket.SOCK_DGRAM)
            self._idents.bind(sock, self._source)
            _hear_errors(sock)
            sock.connect(self._address)  # excludes datagrams of other senders; does not wait
            if ask.hear is not None:
                ask.hear(sock.getsockname()[:2])
            sock.send(ask.out.packet)
            number = sock.fileno()
            (self._epoll or self._open_epoll()).register(number, select.EPOLLIN)
            self._readable[number] = ask
        except OSError as error:
            self._loop.call_soon(self._finish, ask, self._failure(error))

    def forget(self, ask: Ask) -> None:
        """Close the socket of a query, if it has one."""
        if ask.sock is not None:
            self._readable.pop(ask.sock.fileno(), None)
            ask.sock.close()
            ask.sock = None

    def close(self) -> None:
        """Close the epoll set; all queries must be forgotten before."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _open_epoll(self) -> select.epoll:
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._drain)
        return self._epoll

    def _drain(self) -> None:
        """Read the readable sockets; the kernel removes closed ones from the set."""
        if self._epoll is None:
            return
        if len(self._readable) == 1:  # no need to poll
            self._read(*self._readable.values())
            return
        for number, _ in self._epoll.poll(0, _BATCH):
            ask = self._readable.get(number)
            if ask is not None:
                self._read(ask)

    def _read(self, ask: Ask) -> None:
        """Read datagrams until one is the reply."""
        sock, out = ask.sock, ask.out
        if sock is None:
            return
        for _ in range(_BATCH):
            try:
                reply = out.read(sock.recv(message.MAX_OCTETS))
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error, such as "port unreachable"
                self._finish(ask, self._failure(error))
                return
            if reply is not None and out.accepts(reply):
                self._finish(ask, reply)
                return
            self.mismatches += 1
            if reply is not None:
                ask.is_mismatched = True

    def _failure(self, error: OSError) -> UpstreamError:
        return UpstreamError(f"udp {self._text}: {reason_of(error)}")


def _hear_errors(sock: socket.socket) -> None:
    """Let every ICMP error end the wait, also for an unreachable host or network (ip(7))."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
