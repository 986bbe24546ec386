"""DNS over gRPC: connections of HTTP/2, each of whose calls has one query.

With TLS, as `tls` says, or without: then the client begins with HTTP/2 at once. (CoreDNS:
core/dnsserver/server_grpc.go)
"""

from __future__ import annotations

import socket
from typing import Final

from clusterdns.chain.block import WebBounds
from clusterdns.doh import carrier, grpc, http2
from clusterdns.metrics.tally import Sample
from clusterdns.serving.connection import MAX_IN_FLIGHT, Connection, Stream
from clusterdns.serving.https import WebConnection, WebStreams
from clusterdns.serving.secure import SecureConnection
from clusterdns.serving.securesocket import SecureSocket

# CoreDNS: core/dnsserver/server_grpc.go
DEFAULT_CONNECTIONS: Final = 200
DEFAULT_STREAMS: Final = 256


class CallStreams(WebStreams):
    """The gRPC connections of one listening socket."""

    def _bounds(self) -> WebBounds:
        found = self.server.router.calls
        most, streams = found.most_connections, found.most_streams
        return WebBounds(
            DEFAULT_CONNECTIONS if most is None else most,
            DEFAULT_STREAMS if streams is None else streams,
        )

    def samples(self) -> list[Sample]:
        """Return nothing: CoreDNS has no metrics of gRPC servers."""
        return []

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        if self._encryption is None:
            return CallConnection(self, sock, client)
        return SecureCallConnection(self, SecureSocket(sock, self._encryption.web), client)


class CallConnection(WebConnection):
    """One client's stream of calls."""

    def __init__(self, streams: CallStreams, sock: Stream, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
        self._session = http2.Server(streams.most_streams, grpc.MOST_OCTETS)
        self._most_in_flight = MAX_IN_FLIGHT

    def _packet_of(self, request: carrier.Request) -> bytes | None:
        try:
            return grpc.packet_of(request)
        except grpc.CallError as error:
            self._fail(request, error)
            return None

    def _reject(self, request: carrier.Request) -> None:
        self._fail(request, grpc.CallError(grpc.UNKNOWN, "dns: request rejected"))

    def _reply(self, request: carrier.Request, reply: bytes | None) -> None:
        if reply is None:
            self._fail(request, grpc.CallError(grpc.UNKNOWN, "no reply"))
        else:
            self._session.reply(request.number, grpc.answer_with(reply))

    def _fail(self, request: carrier.Request, error: grpc.CallError) -> None:
        self._session.reply(request.number, grpc.failure(error))


class SecureCallConnection(CallConnection, SecureConnection):
    """One client's encrypted stream of calls."""

    def __init__(self, streams: CallStreams, sock: SecureSocket, client: tuple[str, int]) -> None:
        super().__init__(streams, sock, client)
