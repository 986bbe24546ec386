"""Exchanges with upstream servers: one query out, its reply back, over UDP or TCP.

``Exchange`` decides which octets are the reply to a query; ``order`` and ``Round`` in which turn
servers are asked. These are plain functions of their arguments. ``Upstream`` is one server with its
sockets, its health, and its counts. Every query over UDP has a socket, and so a source port, and a
random ID of its own: whoever wants to forge a reply has to guess both (RFC 5452). (CoreDNS:
plugin/pkg/proxy, pkg/up)
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import struct
import time
from collections import Counter, deque
from typing import NamedTuple

from clusterdns import message, rr
from clusterdns.errors import FormError, UpstreamError
from clusterdns.histogram import TIME_S, Histogram
from clusterdns.interfaces import host_and_port
from clusterdns.message import Edns, Question, Reply
from clusterdns.name import WireName

DIAL_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 1.0
MAX_SOCKETS = 1024  # exchanges under way with one server in a worker; others wait their turn
MAX_IDLE_CONNECTIONS = 64
_HEADER_FLAGS = 0x7FF0  # everything but QR and RCODE


class Exchange(NamedTuple):
    """A query that is out: its ID and question, and its octets."""

    ident: int
    question: Question
    packet: bytes

    @classmethod
    def begin(cls, question: Question, flags: int, edns: Edns | None) -> Exchange:
        """Return a new exchange with a random ID; ``flags`` are those of the client's query."""
        ident = secrets.randbits(16)
        packet = message.write_query(ident, flags & _HEADER_FLAGS, question, edns)
        return cls(ident, question, packet)

    def read(self, packet: bytes) -> Reply | None:
        """Return the reply in ``packet``, None if it is not one to this query.

        A reply to our ID and question whose records cannot be read counts as one cut short, without
        them: the client asks again over TCP. (CoreDNS: proxy/connect.go truncateResponse)
        """
        if len(packet) < message.HEADER_OCTETS or packet[:2] != self.packet[:2]:
            return None
        try:
            return message.read_reply(packet)
        except FormError:
            return self._read_cut(packet)

    def _read_cut(self, packet: bytes) -> Reply | None:
        """Return the reply that header and question alone make, None if they are not ours."""
        flags, questions = struct.unpack_from("!HH", packet, 2)
        asked = self.question.wire
        found = packet[message.HEADER_OCTETS : message.HEADER_OCTETS + len(asked)]
        if not flags & message.QR or questions != 1 or found.lower() != asked.lower():
            return None
        question = (self.question.qname, self.question.qtype, self.question.qclass)
        flags |= message.TC
        return Reply(self.ident, flags, flags & 15, (question,), (), (), (), None)

    def is_answered_by(self, reply: Reply) -> bool:
        """Tell whether a reply is to our question (CoreDNS: request.go Match)."""
        if not reply.flags & message.QR or len(reply.questions) != 1:
            return False
        qname, qtype, qclass = reply.questions[0]
        asked = self.question
        return (qname.lower(), qtype, qclass) == (asked.folded, asked.qtype, asked.qclass)


def order(policy: str, count: int, turn: int, rng: random.Random) -> list[int]:
    """Return the indexes of ``count`` servers in the order to ask them (CoreDNS: proxy policy).

    ``turn`` counts the queries so far.
    """
    indexes = list(range(count))
    if policy == "random":
        rng.shuffle(indexes)
    elif policy == "round_robin":
        first = indexes.pop(turn % count)
        indexes.insert(0, first)
    return indexes


class Round:
    """Which servers one query is sent to, one after the other (CoreDNS: forward.go ServeDNS).

    ``turns`` is gone through again and again, past servers that are down: those that have failed
    more than ``max_fails`` checks in a row, if that is not 0. Where all are down, the checks are
    not believed and any of them is taken, or none if the round ``fails_fast``.
    """

    def __init__(
        self, turns: list[int], *, max_fails: int, fails_fast: bool, rng: random.Random
    ) -> None:
        self.broken = 0  # how many times all were down
        self._turns = turns
        self._max_fails = max_fails
        self._fails_fast = fails_fast
        self._random = rng
        self._next = self._down = 0

    @property
    def is_over(self) -> bool:
        """Whether the last server was taken and the next is the first again."""
        return self._next >= len(self._turns)

    def take(self, fails: list[int]) -> int | None:
        """Return the index of the server to ask; ``fails`` are the failed checks of each."""
        while True:
            if self.is_over:
                self._next = self._down = 0
            found = self._turns[self._next]
            self._next += 1
            if not self._max_fails or fails[found] <= self._max_fails:
                return found
            self._down += 1
            if self._down == len(self._turns):
                self.broken += 1
                return None if self._fails_fast else self._random.choice(self._turns)


class Options(NamedTuple):
    """How exchanges with the servers of one ``forward`` are made; durations in seconds."""

    read_timeout_s: float = 2.0
    expire_s: float = 10.0
    max_age_s: float = 0.0
    max_idle: int = 0
    source: str = ""
    probe_interval_s: float = 0.5
    probe_recursion: bool = True
    probe_name: WireName = WireName(b"\0")
    probe_tcp: bool = False


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    opened_at: float
    used_at: float


class Upstream:
    """One upstream server, asked from one worker."""

    def __init__(self, host: str, port: int, options: Options) -> None:
        self.host = host
        self.port = port
        self.text = host_and_port(host, port)
        self.fails = 0  # health checks failed in a row
        self.probe_failures = 0
        self.durations: dict[str, Histogram] = {}  # by RCODE
        self.dials: Counter[tuple[str, str]] = Counter()  # (hits or misses, proto)
        self._options = options
        self._idle: deque[_Connection] = deque()
        self._probing: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(MAX_SOCKETS)

    async def ask(self, exchange: Exchange, proto: str) -> Reply:
        """Return the reply to a query.

        Raises:
            UpstreamError: there is none in time, or the network says why.
        """
        began = time.monotonic()
        over = self._ask_tcp if proto == "tcp" else self._ask_udp
        try:
            async with asyncio.timeout(self._options.read_timeout_s + DIAL_TIMEOUT_S), self._room:
                reply = await over(exchange)
        except TimeoutError as error:
            raise UpstreamError(f"read {proto} {self.text}: i/o timeout") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number).lower() if number else "connection closed"
            raise UpstreamError(f"{proto} {self.text}: {reason}") from error
        rcode = rr.RCODE_TEXT.get(reply.rcode) or str(reply.rcode)
        histogram = self.durations.get(rcode)
        if histogram is None:
            histogram = self.durations[rcode] = Histogram(TIME_S)
        histogram.observe(time.monotonic() - began)
        return reply

    def suspect(self) -> None:
        """Begin to check the server's health, until it is good again."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    def close(self) -> None:
        """Close idle connections and stop checking."""
        if self._probing is not None:
            self._probing.cancel()
        while self._idle:
            self._idle.pop().writer.close()

    async def _ask_udp(self, exchange: Exchange) -> Reply:
        loop = asyncio.get_running_loop()
        self.dials["misses", "udp"] += 1
        with self._socket(socket.SOCK_DGRAM) as sock:
            sock.connect((self.host, self.port))  # datagrams of others do not reach us; never waits
            sock.send(exchange.packet)
            async with asyncio.timeout(self._options.read_timeout_s):
                while True:
                    reply = exchange.read(await loop.sock_recv(sock, message.MAX_OCTETS))
                    if reply is not None:
                        return reply

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, kind)
        try:
            sock.setblocking(False)
            if self._options.source:
                sock.bind((self._options.source, 0))
        except OSError:
            sock.close()
            raise
        return sock

    async def _ask_tcp(self, exchange: Exchange) -> Reply:
        """Ask over a connection kept from before, or over a new one."""
        kept = self._kept()
        if kept is not None:
            self.dials["hits", "tcp"] += 1
            try:
                return await self._talk(kept, exchange)
            except TimeoutError:
                raise
            except (OSError, asyncio.IncompleteReadError):
                pass  # the server has closed it meanwhile: that is no failure
        self.dials["misses", "tcp"] += 1
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            sock = self._socket(socket.SOCK_STREAM)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
            except BaseException:
                sock.close()
                raise
            reader, writer = await asyncio.open_connection(sock=sock)
        now = time.monotonic()
        return await self._talk(_Connection(reader, writer, now, now), exchange)

    async def _talk(self, connection: _Connection, exchange: Exchange) -> Reply:
        """Exchange one query over a connection, and keep it unless something goes wrong."""
        reader, writer, opened_at, _ = connection
        try:
            writer.write(struct.pack("!H", len(exchange.packet)) + exchange.packet)
            await writer.drain()
            async with asyncio.timeout(self._options.read_timeout_s):
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = exchange.read(await reader.readexactly(length))
                    if reply is not None:
                        break
        except BaseException:
            writer.close()
            raise
        self._keep(_Connection(reader, writer, opened_at, time.monotonic()))
        return reply

    def _kept(self) -> _Connection | None:
        """Return an idle connection that has not expired; the oldest come first."""
        options, now = self._options, time.monotonic()
        while self._idle:
            connection = self._idle.popleft()
            is_old = options.max_age_s and now - connection.opened_at > options.max_age_s
            is_expired = now - connection.used_at > options.expire_s
            if not (is_expired or is_old or connection.reader.at_eof()):
                return connection
            connection.writer.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) >= (self._options.max_idle or MAX_IDLE_CONNECTIONS):
            connection.writer.close()
        else:
            self._idle.append(connection)

    async def _probe(self) -> None:
        """Ask for the name servers of the probe's name until there is a reply of any kind."""
        options = self._options
        question = Question(options.probe_name, options.probe_name, rr.NS)
        flags = message.RD if options.probe_recursion else 0
        over = self._ask_tcp if options.probe_tcp else self._ask_udp
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await over(Exchange.begin(question, flags, None))
                self.fails = 0
                return
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                self.fails += 1
                self.probe_failures += 1
            await asyncio.sleep(options.probe_interval_s)
