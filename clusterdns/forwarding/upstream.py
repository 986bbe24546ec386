"""One upstream server, asked from one worker: its queries under way, its health, its counts.

``Upstream.send`` starts an exchange and returns at once; its ``done`` is called with the reply or
an ``UpstreamError``. ``ask`` does the same, and waits. At most ``MAX_SOCKETS`` exchanges are under
way; later ones wait in a queue. One timer serves all exchanges with the full `read_timeout`.
(CoreDNS: plugin/pkg/proxy)
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from clusterdns.errors import FormError, UpstreamError
from clusterdns.forwarding.choice import Pace
from clusterdns.forwarding.connections import (
    DIAL_TIMEOUT_S,
    TLS_DIAL_TIMEOUT_S,
    Connections,
    Hear,
    Idle,
    TlsSettings,
    reason_of,
)
from clusterdns.forwarding.datagrams import Ask, Datagrams, Done
from clusterdns.forwarding.entropy import Idents
from clusterdns.forwarding.exchange import Exchange, Mismatch
from clusterdns.forwarding.health import PROBE_TIMEOUT_S, UpstreamHealth
from clusterdns.host.addresses import host_and_port
from clusterdns.metrics.histogram import TIME_S, Histogram
from clusterdns.wire import message, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.reading import Reply

if TYPE_CHECKING:
    from clusterdns.forwarding.https import WebConnections

NO_EDNS_S: Final = 300.0  # a server that refuses OPT records gets none for so long
MAX_SOCKETS = 1024  # exchanges under way with one server in a worker; others are queued


class UpstreamOptions(NamedTuple):
    """How exchanges with the servers of one ``forward`` are made; durations in seconds."""

    read_timeout_s: float = 2.0
    idle: Idle = Idle()
    source: str = ""
    tls_dial_timeout_s: float = TLS_DIAL_TIMEOUT_S
    probe_interval_s: float = 0.5
    probe_recursion: bool = True
    probe_name: WireName = WireName(b"\0")
    probe_tcp: bool = False


class Upstream:
    """One upstream server, asked from one worker."""

    def __init__(
        self,
        host: str,
        port: int,
        options: UpstreamOptions,
        tls: TlsSettings | None = None,
        web_method: str = "",
    ) -> None:
        """``web_method`` is that of HTTPS, "" where it is not spoken."""
        self.host = host
        self.port = port
        self.text = host_and_port(host, port)
        self.pace = Pace()
        self.durations: dict[str, Histogram] = {}  # by RCODE
        self.dials: Counter[tuple[str, str]] = Counter()  # (hits or misses, proto)
        self._options = options
        self._is_tls = tls is not None
        self._loop = asyncio.get_running_loop()  # each call of get_running_loop is a system call
        self._connections = self._made_connections(tls, web_method)
        self._idents = Idents()
        self.datagrams = Datagrams(
            (host, port), self.text, options.source, self._idents, self._finish
        )
        self.health = UpstreamHealth(self._send_probe, self.cancel, options.probe_interval_s)
        self._under_way: set[Ask] = set()
        self._queue: deque[Ask] = deque()
        self._expected: deque[Ask] = deque()  # ends after `read_timeout`, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._edns_again_at = 0.0

    def _made_connections(
        self, tls: TlsSettings | None, web_method: str
    ) -> Connections | WebConnections:
        options, address = self._options, (self.host, self.port)
        if tls is not None and web_method:
            from clusterdns.forwarding.https import WebConnections  # and HTTP

            return WebConnections(address, options.idle, tls, web_method, options.source)
        return Connections(
            address, options.idle, self.dials, source=options.source, tls=tls,
            dial_timeout_s=options.tls_dial_timeout_s if tls else DIAL_TIMEOUT_S,
        )  # fmt: skip

    async def ask(self, exchange: Exchange, proto: str) -> Reply:
        """Return the reply to a query.

        Raises:
            UpstreamError: no reply came in time, or the network failed.
        """
        future: asyncio.Future[Reply | UpstreamError] = self._loop.create_future()

        def done(found: Reply | UpstreamError) -> None:
            if not future.done():
                future.set_result(found)

        ask = self.send(exchange, proto, done)
        try:
            found = await future
        finally:
            self.cancel(ask)
        if isinstance(found, UpstreamError):
            raise found
        return found

    def begin(self, question: Question, flags: int, edns: message.Edns | None) -> Exchange:
        """Return a new exchange with a random ID."""
        return Exchange.begin(self._idents.take(), question, flags, edns)

    @property
    def knows_edns(self) -> bool:
        """Whether the server has not shown lately that it knows no OPT record."""
        return time.monotonic() >= self._edns_again_at

    def refuses_edns(self) -> None:
        """Note that the server replies to what it refuses with an OPT record."""
        self._edns_again_at = time.monotonic() + NO_EDNS_S

    def send(
        self, exchange: Exchange, proto: str, done: Done,
        *, timeout_s: float | None = None, is_probe: bool = False, hear: Hear | None = None,
    ) -> Ask:  # fmt: skip
        """Send a query; ``done`` is called once, later, within ``timeout_s`` and what a dial takes.

        ``hear`` is called with the address and port it is sent from.

        Other replies are dropped until then. If one of them had our ID and no other came, ``done``
        gets ``Mismatch``.
        """
        if self._is_tls:
            proto = self._connections.proto
        read_s = self._options.read_timeout_s
        limit_s = read_s if proto == "udp" else read_s + self._connections.dial_timeout_s
        if timeout_s is not None:
            limit_s = min(limit_s, timeout_s)
        ask = Ask(exchange, proto, min(limit_s, read_s), time.monotonic(), done)
        ask.is_probe, ask.hear = is_probe, hear
        if limit_s == read_s:
            self._expect(ask)
        else:
            ask.timer = self._loop.call_later(limit_s, self._time_out, ask)
        if len(self._under_way) < MAX_SOCKETS:
            self._start(ask)
        else:
            self._queue.append(ask)
        return ask

    def took(self, number: int) -> Histogram:
        """Return the durations of exchanges that ended with an RCODE."""
        rcode = rr.RCODE_TEXT.get(number) or str(number)
        histogram = self.durations.get(rcode)
        if histogram is None:
            histogram = self.durations[rcode] = Histogram(TIME_S)
        return histogram

    def failed(self, error: OSError) -> UpstreamError:
        """Return the error of a query over UDP that got no reply."""
        if error.errno == errno.ETIMEDOUT:
            return UpstreamError(f"read udp {self.text}: i/o timeout")
        return UpstreamError(f"udp {self.text}: {reason_of(error)}")

    @property
    def fails(self) -> int:
        """Probes failed in a row, 0 for a healthy server."""
        return self.health.fails

    @property
    def source(self) -> str:
        """The source address of queries, "" for any."""
        return self._options.source

    def cancel(self, ask: Ask) -> None:
        """Cancel a query; its ``done`` is not called."""
        if ask.is_out:
            self._end(ask)

    def suspect(self) -> None:
        """Start probes, until the server replies again."""
        if not self._is_retired:
            self.health.suspect()

    def close(self) -> None:
        """End all queries, close all connections, and stop the probes."""
        self.retire()
        waiting, self._queue = self._queue, deque()
        for ask in [*waiting, *self._under_way]:
            self._finish(ask, UpstreamError(f"{self.text}: closed"))
        if self._timer is not None:
            self._timer.cancel()
        self.datagrams.close()

    def retire(self) -> None:
        """Stop the probes and close idle connections; queries under way continue."""
        self._is_retired = True
        self.health.stop()
        self._connections.close()

    def revive(self) -> None:
        """Undo ``retire``."""
        self._is_retired = False
        self._connections.reopen()

    def _start(self, ask: Ask) -> None:
        """Send a query: over UDP at once, otherwise in a task of its own."""
        self._under_way.add(ask)
        if ask.proto != "udp":
            ask.task = self._loop.create_task(self._exchange(ask))
            return
        if not ask.is_probe:
            self.dials["misses", "udp"] += 1
        self.datagrams.send(ask)

    async def _exchange(self, ask: Ask) -> None:
        """Ask over a connection; raises only what ends the task."""
        found: Reply | UpstreamError
        try:
            found = await self._connections.exchange(ask.out, ask.timeout_s, ask.hear)
        except TimeoutError:
            found = self._timeout(ask)
        except UpstreamError as error:
            found = error
        except (OSError, asyncio.IncompleteReadError) as error:
            found = UpstreamError(f"{ask.proto} {self.text}: {reason_of(error)}")
        except FormError as error:
            found = UpstreamError(f"{ask.proto} {self.text}: bad reply: {error}")
        ask.task = None
        self._finish(ask, found)

    def _expect(self, ask: Ask) -> None:
        """Let a query end after `read_timeout`.

        Such queries end in the order of their start, so one timer, set for the oldest, serves all
        of them.
        """
        expected = self._expected
        while expected and not expected[0].is_out:
            expected.popleft()
        expected.append(ask)
        if self._timer is None:
            self._timer = self._loop.call_at(ask.began + self._options.read_timeout_s, self._expire)

    def _expire(self) -> None:
        """End queries that waited too long, and set the timer for the next."""
        self._timer = None
        now, expected = time.monotonic(), self._expected
        while expected:
            ask = expected[0]
            if ask.is_out:
                until = ask.began + self._options.read_timeout_s
                if until > now:
                    if self._timer is not None:  # set by a query sent in the meantime
                        self._timer.cancel()
                    self._timer = self._loop.call_at(until, self._expire)
                    return
                self._time_out(ask)
            if expected and expected[0] is ask:
                expected.popleft()

    def _time_out(self, ask: Ask) -> None:
        if ask.is_mismatched:
            self._finish(ask, Mismatch(f"{ask.proto} {self.text}: only replies to other questions"))
        else:
            self._finish(ask, self._timeout(ask))

    def _timeout(self, ask: Ask) -> UpstreamError:
        return UpstreamError(f"read {ask.proto} {self.text}: i/o timeout")

    def _finish(self, ask: Ask, found: Reply | UpstreamError) -> None:
        """End an exchange and call its ``done``."""
        if not ask.is_out:
            return
        self._end(ask)
        if isinstance(found, Reply) and not ask.is_probe:
            self.took(found.rcode).observe(time.monotonic() - ask.began)
        ask.done(found)

    def _end(self, ask: Ask) -> None:
        """Free the resources of a query, and start the next one."""
        ask.is_out = False
        if ask.timer is not None:
            ask.timer.cancel()
        if ask.task is not None:
            ask.task.cancel()
            ask.task = None
        self.datagrams.forget(ask)
        if ask in self._under_way:
            self._under_way.remove(ask)
            if self._queue:
                self._start(self._queue.popleft())
        elif ask in self._queue:
            self._queue.remove(ask)

    def _send_probe(self, done: Done) -> Ask:
        """Send a probe: an NS query for the probe's name."""
        options = self._options
        question = Question(options.probe_name, options.probe_name, rr.NS)
        exchange = self.begin(question, message.RD if options.probe_recursion else 0, None)
        proto = "tcp" if options.probe_tcp else "udp"
        return self.send(exchange, proto, done, timeout_s=PROBE_TIMEOUT_S, is_probe=True)
