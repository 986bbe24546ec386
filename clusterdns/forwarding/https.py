"""HTTPS connections to one upstream server (RFC 8484), kept for the next query.

A connection of HTTP/2 carries many queries; while it is opened, queries wait for it. One of
HTTP/1.1 carries one query at a time. If the server closes a connection, or refuses a query
unprocessed, the query is sent again over another connection, unless that one was new. (CoreDNS:
plugin/pkg/proxy/connect.go lookupDoH)
"""

from __future__ import annotations

import asyncio
import logging
import time

from clusterdns.doh import carrier, http1, http2
from clusterdns.doh.carrier import Asked, ClientSession, Delivery
from clusterdns.errors import UpstreamError
from clusterdns.forwarding.connections import (
    MAX_IDLE_CONNECTIONS,
    SWEEP_LEAST_S,
    TLS_DIAL_TIMEOUT_S,
    Hear,
    Idle,
    TlsSettings,
    open_stream,
)
from clusterdns.forwarding.exchange import Exchange, Mismatch
from clusterdns.host.addresses import host_and_port
from clusterdns.wire import message
from clusterdns.wire.reading import Reply

_READ_OCTETS = 65_536
_STEPS = 16  # of received octets, in one turn
_MAX_DIALS = 8  # dials under way to a server of HTTP/1.1
_HTTP_ID = 0  # makes equal queries equal for HTTP caches (RFC 8484 section 4.1)
_log = logging.getLogger(__name__)


class ChannelPool:
    """Connections of HTTP to one server; a subclass opens them."""

    def __init__(self, address: tuple[str, int], idle: Idle) -> None:
        self.text = host_and_port(*address)
        self._address = address
        self._idle_limits = idle
        self._channels: list[Channel] = []
        self._dialing: set[asyncio.Task[Channel]] = set()
        self._most_dials = 1
        self._is_closed = False
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def _dial(self) -> Channel:
        """Return a new connection. Raises OSError, TimeoutError."""
        raise NotImplementedError

    def close(self) -> None:
        """Close idle connections now, and the others when their queries are done."""
        self._is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for task in self._dialing:
            task.cancel()
        self._close_idle()

    def reopen(self) -> None:
        """Keep idle connections again."""
        self._is_closed = False

    async def _ask(self, query: Asked, hear: Hear | None) -> Delivery:
        while True:
            channel = self._free()
            if channel is None:
                channel = await self._dialed()
                if not channel.room:  # other queries took the room
                    continue
            if hear is not None:
                hear(channel.address)
            is_new = not channel.has_replied
            found = await channel.ask(query)
            self._close_idle()
            if found.status > 0:
                return found
            if is_new and found.status != carrier.AGAIN:
                raise ConnectionResetError(f"{self.text} has closed the connection")

    def _free(self) -> Channel | None:
        """Return a connection with room for one more query."""
        limits, now = self._idle_limits, time.monotonic()
        self._close_idle()
        for channel in self._channels:
            is_old = limits.max_age_s and now - channel.opened_at > limits.max_age_s
            if channel.room and not is_old:
                return channel
        return None

    async def _dialed(self) -> Channel:
        """Return a new connection, which other waiting queries may share."""
        if len(self._dialing) < self._most_dials:
            task = asyncio.get_running_loop().create_task(self._opened())
            task.add_done_callback(self._forget)
            self._dialing.add(task)
        done, _ = await asyncio.wait(self._dialing, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = ConnectionAbortedError() if task.cancelled() else task.exception()
            if error is not None:
                raise error
        return done.pop().result()

    def _forget(self, task: asyncio.Task[Channel]) -> None:
        """Forget a dial that is over, even if no query waits for it any more."""
        self._dialing.discard(task)
        if not task.cancelled():
            task.exception()

    def _close_idle(self) -> None:
        """Close ended connections, and idle ones that are too old or too many."""
        limits, now = self._idle_limits, time.monotonic()
        most = 0 if self._is_closed else limits.most or MAX_IDLE_CONNECTIONS
        kept, idle = list[Channel](), 0
        for channel in self._channels:
            is_expired = now - channel.used_at > limits.expire_s
            is_old = limits.max_age_s and now - channel.opened_at > limits.max_age_s
            if channel.is_idle and (channel.is_over or is_expired or is_old or idle >= most):
                channel.close()
                continue
            idle += channel.is_idle
            if not channel.is_over:
                kept.append(channel)
        self._channels = kept

    def _sweep_later(self) -> None:
        loop, delay_s = asyncio.get_running_loop(), max(SWEEP_LEAST_S, self._idle_limits.expire_s)
        self._sweep_timer = loop.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were idle for too long."""
        self._sweep_timer = None
        self._close_idle()
        if self._channels:
            self._sweep_later()

    async def _opened(self) -> Channel:
        channel = await self._dial()
        self._channels.append(channel)
        if self._sweep_timer is None and not self._is_closed:
            self._sweep_later()
        return channel


class WebConnections(ChannelPool):
    """Connections to one server, like ``connections.Connections`` for TCP and TLS."""

    proto = "https"
    dial_timeout_s = 0.0  # no separate limit: an exchange has one limit for all

    def __init__(
        self, address: tuple[str, int], idle: Idle, tls: TlsSettings, method: str, source: str = ""
    ) -> None:
        super().__init__(address, idle)
        self._tls = tls
        self._method = method
        self._source = source

    async def exchange(self, out: Exchange, timeout_s: float, hear: Hear | None = None) -> Reply:
        """Return the reply to a query within ``timeout_s``, connecting included.

        ``hear`` is called with our address of the connection.

        Raises:
            Mismatch: the reply is to another question.
            UpstreamError: the server sent an HTTP error.
            TimeoutError: no reply came in time.
            FormError: the reply cannot be read.
            OSError: the network failed, or TLS (ssl.SSLError).
        """
        out = out.again(_HTTP_ID)
        authority = self._tls.server_name or self.text
        query = carrier.request_for(out.packet, self._method, authority)
        async with asyncio.timeout(timeout_s):
            found = await self._ask(query, hear)
        if found.status != carrier.OK:
            raise UpstreamError(f"{self.proto} {self.text}: HTTP status {found.status}")
        if found.body is None or len(found.body) < message.HEADER_OCTETS:
            raise UpstreamError(f"{self.proto} {self.text}: no DNS message")
        # The ID has no use here; a caching server may send that of another query.
        reply = out.read_whole(out.packet[:2] + found.body[2:])
        if reply is None or not out.accepts(reply):
            raise Mismatch(f"{self.proto} {self.text}: a reply to another question")
        return reply

    async def _dial(self) -> Channel:
        async with asyncio.timeout(TLS_DIAL_TIMEOUT_S):
            reader, writer = await open_stream(self._address, self._source, self._tls)
        is_new = writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        self._most_dials = 1 if is_new else _MAX_DIALS
        return Channel(reader, writer, http2.Client() if is_new else http1.Client())


class Channel:
    """One connection: its session, and the waiters for its replies."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: ClientSession
    ) -> None:
        self.opened_at = self.used_at = time.monotonic()
        self.has_replied = False
        self._reader, self._writer, self._session = reader, writer, session
        self._waiting: dict[int, asyncio.Future[Delivery]] = {}
        self._send()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def room(self) -> int:
        """The number of further queries it may take now."""
        return self._session.room

    @property
    def address(self) -> tuple[str, int]:
        """Our address and port of the connection."""
        found: tuple[str, int] = self._writer.get_extra_info("sockname")[:2]
        return found

    @property
    def is_idle(self) -> bool:
        """Whether no query is under way."""
        return not self._waiting

    @property
    def is_over(self) -> bool:
        """Whether it takes no further query."""
        return self._session.is_over or (self.is_idle and not self._session.room)

    async def ask(self, query: Asked) -> Delivery:
        """Return the result of a request; it is canceled if nobody waits for it."""
        number = self._session.ask(query)
        future: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send()
        try:
            return await future
        finally:
            self.used_at = time.monotonic()
            if self._waiting.pop(number, None) is not None:
                self._session.cancel(number)
                self._send()
                if self._session.is_over:
                    self.close()

    def close(self) -> None:
        """Close the connection."""
        self._reading.cancel()
        self._end()

    async def _read(self) -> None:
        """Deliver replies until the connection ends."""
        try:
            while not self._session.is_over:
                octets = await self._reader.read(_READ_OCTETS)
                self._session.receive(octets)
                await self._step()
                if not octets:
                    break
        except OSError:
            pass
        except Exception:  # a bug of ours or of a package ends this connection only
            _log.exception("plugin/forward: a reply over HTTPS")
        self._end()

    async def _step(self) -> None:
        steps = 0
        while self._session.step():
            self._deliver()
            steps += 1
            if steps % _STEPS == 0:
                await asyncio.sleep(0)  # others have their turn
        self._deliver()
        self._send()

    def _deliver(self) -> None:
        while self._session.deliveries:
            found = self._session.deliveries.popleft()
            self.has_replied |= found.status > 0
            future = self._waiting.pop(found.number, None)
            if future is not None and not future.done():
                future.set_result(found)

    def _send(self) -> None:
        if octets := self._session.output():
            self._writer.write(octets)

    def _end(self) -> None:
        """Fail all queries that still wait."""
        self._writer.close()
        waiting, self._waiting = self._waiting, {}
        for number, future in waiting.items():
            if not future.done():
                future.set_result(Delivery(number, 0, None))
