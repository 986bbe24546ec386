"""TCP: frames on a stream (RFC 1035 section 4.2.2, RFC 7766) and connections with their limits.

Queries of one connection are answered as they are done, not in turn: a slow one does not hold up
the others (RFC 7766 section 6.2.1.1). A connection that sends no whole query for ten seconds, does
not read its replies, or is one too many, is closed; the one that has been quiet for longest goes
first. (CoreDNS: core/dnsserver/server.go ReadTimeout, IdleTimeout)
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import OrderedDict

from clusterdns.server import LATER, Server

MAX_CONNECTIONS = 1024
BATCH = 64  # queries of one connection answered at a stretch
MAX_IN_FLIGHT = 64  # queries of one connection that wait at one time
FIRST_TIMEOUT_S = 3.0
IDLE_TIMEOUT_S = 10.0
_SWEEP_S = 1.0
_HIGH_WATER_OCTETS = 256 * 1024  # replies a client has not read; then its queries are not read
_LENGTH = struct.Struct("!H")


def take(buffer: bytearray) -> bytes | None:
    """Take the first message off ``buffer`` and return it, or None while it is not whole."""
    if len(buffer) < 2:
        return None
    end = 2 + (buffer[0] << 8 | buffer[1])
    if end > len(buffer):
        return None
    found = bytes(buffer[2:end])
    del buffer[:end]  # moves no octets: a bytearray keeps where it starts
    return found


def frame(reply: bytes) -> bytes:
    """Return a message with its length in front."""
    return _LENGTH.pack(len(reply)) + reply


class Streams:
    """The TCP connections of one listening socket."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.hits = server.tally.channel("tcp", "2" if sock.family == socket.AF_INET6 else "1")
        self.connections: OrderedDict[Connection, None] = OrderedDict()  # the quietest one first
        self._sock = sock
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), sock=self._sock, backlog=1024
        )
        self._sweep = loop.call_later(_SWEEP_S, self._close_quiet)

    def stop(self) -> None:
        """Accept no more, and close what has no query in flight."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.finish()

    def abort(self) -> None:
        """Close everything."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            connection.abort()

    def admit(self, connection: Connection) -> None:
        """Enter a connection, at the price of the quietest one if there are too many."""
        if len(self.connections) >= MAX_CONNECTIONS:
            next(iter(self.connections)).abort()
        self.connections[connection] = None

    def _close_quiet(self) -> None:
        now = self.server.clock()
        for connection in [c for c in self.connections if c.is_overdue(now)]:
            connection.abort()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_S, self._close_quiet)


class Connection(asyncio.Protocol):
    """One client's stream of queries."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._server = streams.server
        self._buffer = bytearray()
        self._in_flight = 0
        self._is_finishing = False
        self._is_unread = False
        self._deadline = streams.server.clock() + FIRST_TIMEOUT_S
        self._transport: asyncio.Transport | None = None
        self._client = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the connection."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER_OCTETS)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if not peer:  # it was gone before we looked
            transport.abort()
            return
        self._client = peer[:2]
        self._streams.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._transport = None
        self._streams.connections.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Answer the whole queries that have come."""
        self._buffer += data
        self._proceed()

    def eof_received(self) -> bool:
        """Keep the connection while replies are outstanding: half-closed is not gone."""
        self._is_finishing = True
        self._proceed()
        return True

    def pause_writing(self) -> None:
        """Take no more queries from a client that does not read its replies."""
        self._is_unread = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_unread = False
        self._proceed()

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has been quiet for too long."""
        return now >= self._deadline

    def finish(self) -> None:
        """Close once the queries that have come are answered."""
        self._is_finishing = True
        self._proceed()

    def abort(self) -> None:
        """Close at once."""
        self._streams.connections.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def _proceed(self) -> None:
        """Answer what may be answered now, and read, wait or close accordingly."""
        if self._transport is None:
            return
        answered, replies, began = 0, bytearray(), self._server.clock()
        packet = None
        while answered < BATCH and not self._is_unread and self._in_flight < MAX_IN_FLIGHT:
            packet = take(self._buffer)
            if packet is None:
                break
            answered += 1
            reply = self._reply(packet, began)
            if reply:
                replies += frame(reply)
            if len(replies) > _HIGH_WATER_OCTETS:
                break
        if answered:
            self._note_activity(began)
        if replies:
            self._transport.write(replies)
            taken = (self._server.clock() - began) / answered
            self._server.tally.batches.observe(taken, answered)
        self._adjust(packet is not None)

    def _adjust(self, has_more: bool) -> None:
        """Read on, wait until some queries are done, come back soon, or close."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        is_held = self._is_unread or self._in_flight >= MAX_IN_FLIGHT
        if has_more and not is_held:
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._proceed)  # others get their turn first
        elif is_held:
            transport.pause_reading()
        elif not self._is_finishing:
            transport.resume_reading()
        elif not self._in_flight:
            transport.close()

    def _note_activity(self, now: float) -> None:
        self._deadline = now + IDLE_TIMEOUT_S
        if self in self._streams.connections:
            self._streams.connections.move_to_end(self)

    def _reply(self, packet: bytes, now: float) -> bytes | None:
        server, hits = self._server, self._streams.hits
        reply = server.table.reply(packet, now, hits, True)
        if reply is None:
            reply = server.resolve(packet, self._client, "tcp", hits, self._done)
            if reply == LATER:
                self._in_flight += 1
        return reply

    def _done(self, reply: bytes | None) -> None:
        self._in_flight -= 1
        if reply is not None and self._transport is not None:
            self._transport.write(frame(reply))
        self._proceed()
