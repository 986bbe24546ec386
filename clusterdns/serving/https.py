"""DNS over HTTPS (RFC 8484): connections of ``tcp``, or of ``secure``, whose octets are HTTP.

They go through a ``Session``, HTTP/2 or HTTP/1.1 as TLS has agreed on, and the queries in requests
through the table and the gate like all others. A request takes a hundred times as long as a
query on a stream, so a time limit ends the turn of a connection, and UDP is served before the next.
Queries that wait for the chain are counted until they are done, even if their stream was reset: a
client that resets streams gets no more work done than others (CVE-2023-44487).
(CoreDNS: core/dnsserver/server_https.go)
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator

from clusterdns.chain.block import WebBounds
from clusterdns.doh import carrier, http1, http2
from clusterdns.host.encryption import Encryption
from clusterdns.metrics.tally import Sample
from clusterdns.serving.connection import BATCH, MAX_IN_FLIGHT, MISSES, Connection, Stream
from clusterdns.serving.framing import frame
from clusterdns.serving.secure import SecureConnection
from clusterdns.serving.securesocket import SecureSocket
from clusterdns.serving.server import LATER, Listener
from clusterdns.serving.tcp import Streams
from clusterdns.wire import reading
from clusterdns.wire.message import Query

STRETCH_S = 0.001  # of one connection
# CoreDNS: core/dnsserver/server_https.go
DEFAULT_CONNECTIONS, DEFAULT_STREAMS = 200, 250
MAX_STREAMS = 1024  # of one connection; h2 counts them each time one is opened


class WebStreams(Streams):
    """The HTTP connections of one listening socket.

    Without ``encryption`` there is no TLS: for a proxy in front that has taken it off.
    """

    def __init__(
        self,
        server: Listener,
        sock: socket.socket,
        listeners: int,
        encryption: Encryption | None = None,
    ) -> None:
        super().__init__(server, sock, listeners)
        bounds = self._bounds()
        self.most = min(self.most, bounds.most_connections or self.most)
        self.most_streams = min(bounds.most_streams or DEFAULT_STREAMS, MAX_STREAMS)
        self.statuses: Counter[int] = Counter()
        self._encryption = encryption

    def _bounds(self) -> WebBounds:
        """Return the limits of connections and streams; 0 is none."""
        found = self.server.router.web
        if found.most_connections is None:
            found = found._replace(most_connections=DEFAULT_CONNECTIONS)
        return found

    def samples(self) -> list[Sample]:
        """Return how many replies had which status."""
        label = self.server.tally.server
        return [
            ("dns_https_responses_total", (label, str(status)), count)
            for status, count in self.statuses.items()
        ]

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        if self._encryption is None:
            return WebConnection(self, sock, client)
        return SecureWebConnection(self, SecureSocket(sock, self._encryption.web), client)


class WebConnection(Connection):
    """One client's stream of requests."""

    def __init__(self, streams: WebStreams, sock: Stream, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
        self._web = streams
        self._session: carrier.Session = http1.Server()
        self._most_in_flight = 1
        self._is_dry = True  # the session can do nothing before more octets or replies come

    def wind_down(self, now: float) -> int:
        """Read what has come, and `finish`; clients send again what GOAWAY leaves unanswered."""
        answered = 0 if self._is_due else self.proceed(select.EPOLLIN, now)
        self.finish()
        return answered

    def finish(self) -> None:
        """Answer what has come, take no further request, and close."""
        self._session.finish()
        self._send_output()
        super().finish()

    def _receive(self, octets: bytes, now: float) -> int:
        self._session.receive(octets)
        return self._answer_rest(now)

    def _answer_rest(self, now: float) -> int:
        """Go on with the session for a while; return how many queries were answered."""
        answered = 0
        with self._guarded():
            answered = self._step(now)
            self._send_output()
        self._settle()
        return answered

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Close the connection if its session fails: no octets may do more harm than that."""
        try:
            yield
            self._is_finishing |= self._session.is_over
            self._weigh()
        except Exception:
            self._server.note_panic()
            self.close()

    def _step(self, now: float) -> int:
        session, clock = self._session, self._server.clock
        began, answered, missed = clock(), 0, 0
        while answered < BATCH and missed < MISSES and self._in_flight < self._most_in_flight:
            self._is_dry = not session.step()
            while session.requests:
                request = session.requests.popleft()
                self.deadline = now + self._streams.idle_s
                if self._answer_request(request, now):
                    answered += 1
                else:
                    missed += 1
            if self._is_dry or clock() - began >= STRETCH_S:
                break
        if answered or missed:
            self._streams.is_active(self)
        return answered

    def _answer_request(self, request: carrier.Request, now: float) -> bool:
        """Answer a request, or have it wait; tell whether the table has answered."""
        packet = self._packet_of(request)
        if packet is None:
            return False
        streams = self._web
        reply, _, is_hit = streams.answer_to(self.host)(frame(packet), 0, 1, now)
        if is_hit:
            if streams.observed.seen:
                streams.observed.take(self._client)
            self._reply(request, reply[2:])
            return True
        query = reading.read_query(packet)
        if not isinstance(query, Query):
            self._reject(request)
            return False
        found = self._server.resolve_query(
            query,
            self._client,
            "tcp",
            streams.hits,
            functools.partial(self._answer_late, request),
            self._address,
        )
        if found == LATER:
            self._in_flight += 1
        else:
            self._reply(request, found)
        return False

    def _answer_late(self, request: carrier.Request, reply: bytes | None) -> None:
        """Answer a request that had to wait."""
        if self._is_wanted():
            with self._guarded():
                self._reply(request, reply)
                self._is_dry = False
                self._send_output()
        self._settle()

    def _packet_of(self, request: carrier.Request) -> bytes | None:
        """Return the message in a request; None if it has none, and is answered."""
        try:
            return carrier.query_of(request)
        except carrier.NoQueryError as error:
            self._refuse(request, error.status)
            return None

    def _reject(self, request: carrier.Request) -> None:
        """Answer a request whose message is no query."""
        self._refuse(request, carrier.BAD_REQUEST)

    def _reply(self, request: carrier.Request, reply: bytes | None) -> None:
        """Answer a request; None is no reply at all."""
        if reply is None:
            self._refuse(request, carrier.INTERNAL_ERROR)
            return
        self._web.statuses[carrier.OK] += 1
        self._session.reply(request.number, carrier.answer_with(reply, time.time()))

    def _refuse(self, request: carrier.Request, status: int) -> None:
        self._web.statuses[status] += 1
        answer = carrier.refusal(status, time.time(), request.method)
        self._session.reply(request.number, answer)

    def _send_output(self) -> None:
        if octets := self._session.output():
            self._send(octets)

    def _octets_held(self) -> int:
        return self._session.held + len(self._unsent)

    def _has_more(self) -> bool:
        return not self._is_dry


class SecureWebConnection(WebConnection, SecureConnection):
    """One client's encrypted stream of requests."""

    def _begin(self) -> None:
        """Speak what TLS has agreed on, HTTP/1.1 if it was nothing."""
        if self._secure_sock.selected_alpn_protocol() == "h2":
            self._session = http2.Server(self._web.most_streams)
            self._most_in_flight = MAX_IN_FLIGHT
            self._send_output()
            self._settle()
