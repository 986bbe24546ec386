"""gRPC connections to one upstream server, kept for the next query.

A connection carries many calls. They are opened, kept and closed as those of HTTPS are. (CoreDNS:
plugin/grpc/proxy.go)
"""

from __future__ import annotations

import asyncio

from clusterdns.doh import grpc, http2
from clusterdns.errors import FormError, UpstreamError
from clusterdns.forwarding.connections import (
    TLS_DIAL_TIMEOUT_S,
    Idle,
    TlsSettings,
    open_stream,
    reason_of,
)
from clusterdns.forwarding.exchange import Exchange, Mismatch
from clusterdns.forwarding.https import Channel, ChannelPool
from clusterdns.wire import rr
from clusterdns.wire.message import CD, QR, RD
from clusterdns.wire.reading import Reply

IDLE_S = 1800.0  # grpc-go closes an idle connection after 30 minutes


class CallConnections(ChannelPool):
    """Connections to one server; without ``tls`` they are not encrypted."""

    def __init__(self, address: tuple[str, int], tls: TlsSettings | None) -> None:
        super().__init__(address, Idle(expire_s=IDLE_S))
        self._tls = tls
        name = tls.server_name if tls is not None else ""
        self._authority = name or self.text

    async def exchange(self, out: Exchange) -> Reply:
        """Return the reply to a query; it waits for as long as the caller does.

        Raises:
            Mismatch: the reply is to another question.
            UpstreamError: the call has failed.
            FormError: the reply cannot be read.
            OSError: the network failed, or TLS (ssl.SSLError).
        """
        query = grpc.request_for(out.packet, self._authority, is_tls=self._tls is not None)
        try:
            packet = grpc.reply_of(await self._ask(query, None))
        except grpc.CallError as error:
            if error.status == grpc.NOT_FOUND:
                question = (out.question.qname, out.question.qtype, out.question.qclass)
                flags = QR | int.from_bytes(out.packet[2:4], "big") & (RD | CD)
                return Reply(out.ident, flags, rr.NXDOMAIN, (question,), (), (), (), None)
            raise UpstreamError(f"grpc {self.text}: {error}") from error
        reply = out.read_whole(packet)
        if reply is None or not out.accepts(reply):
            raise Mismatch(f"grpc {self.text}: a reply to another question")
        return reply

    async def _dial(self) -> Channel:
        async with asyncio.timeout(TLS_DIAL_TIMEOUT_S):
            reader, writer = await open_stream(self._address, "", self._tls)
        return Channel(reader, writer, http2.Client(grpc.MOST_OCTETS))


async def ask(connections: CallConnections, out: Exchange, until_s: float) -> Reply:
    """Return the reply of one server by a time of the loop.

    Raises:
        Mismatch: the reply is to another question.
        UpstreamError: there is none, or it cannot be read.
    """
    try:
        async with asyncio.timeout_at(until_s):
            return await connections.exchange(out)
    except TimeoutError as error:
        raise UpstreamError(f"grpc {connections.text}: i/o timeout") from error
    except OSError as error:
        raise UpstreamError(f"grpc {connections.text}: {reason_of(error)}") from error
    except FormError as error:
        raise UpstreamError(f"grpc {connections.text}: bad reply: {error}") from error
