"""The HTTP endpoints of the supervisor: health, readiness, metrics.

Each connection has one request, GET or HEAD, with a head of at most 8 KiB within one second, and
ends within five seconds: enough for a kubelet and a scraper. A new connection is always accepted.
If there are too many, of its address or in all, the one that has waited longest without a request
is closed: a probe sends its request at once, and idle connections of one client displace only each
other.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from clusterdns.chain.plugin import Respond
from clusterdns.errors import ClusterDNSError
from clusterdns.host import addresses

TIMEOUT_S = 5.0
HEAD_TIMEOUT_S = 1.0
MAX_HEAD_OCTETS = 8192
MAX_CONNECTIONS = 128
MAX_BY_ADDRESS = 32
BACKLOG = 1024  # connections that wait in the kernel in a burst
_log = logging.getLogger(__name__)


class AddressError(ClusterDNSError):
    """An HTTP address cannot be bound."""


class _Visit:
    """An open connection."""

    __slots__ = ("has_asked", "host", "transport")

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.host: str = (writer.get_extra_info("peername") or ("",))[0]
        self.transport = writer.transport
        self.has_asked = False


class Web:
    """The paths served at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.paths: dict[str, Respond] = {}
        self._servers: list[asyncio.Server] = []
        self._visits: list[_Visit] = []  # the oldest first

    async def start(self) -> None:
        """Listen. Raises AddressError."""
        host, port = split_address(self.address)
        try:
            server = await asyncio.start_server(
                self._serve,
                host or None,
                port,
                limit=MAX_HEAD_OCTETS,
                backlog=BACKLOG,
                reuse_port=True,
            )
        except (OSError, OverflowError) as error:
            raise AddressError(f"cannot listen on {self.address}: {error}") from error
        self._servers.append(server)

    def descriptors(self) -> list[int]:
        """Return the listening sockets' descriptors, which a forked process must close."""
        return [sock.fileno() for server in self._servers for sock in server.sockets]

    def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = self._enter(writer)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_S)
            visit.has_asked = True
            await asyncio.wait_for(self._answer(head, writer), TIMEOUT_S)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            pass  # the client is too slow, its request too long, or it has closed
        except asyncio.LimitOverrunError:
            pass
        except Exception:
            _log.exception("%s: cannot answer", self.address)
        finally:
            if visit in self._visits:
                self._visits.remove(visit)
            writer.close()

    def _enter(self, writer: asyncio.StreamWriter) -> _Visit:
        """Add a new connection, and close another one if there are too many."""
        visit = _Visit(writer)
        same = [each for each in self._visits if each.host == visit.host]
        if len(same) >= MAX_BY_ADDRESS:
            self._evict(same)
        elif len(self._visits) >= MAX_CONNECTIONS:
            self._evict(self._visits)
        self._visits.append(visit)
        return visit

    def _evict(self, some: list[_Visit]) -> None:
        """Close the first connection without a request, or else the first."""
        visit = next((each for each in some if not each.has_asked), some[0])
        self._visits.remove(visit)
        visit.transport.abort()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            status, content_type, body = 400, "text/plain", b"Bad Request"
        elif words[0] not in ("GET", "HEAD"):
            status, content_type, body = 405, "text/plain", b"Method Not Allowed"
        else:
            respond = self.paths.get(words[1].partition("?")[0])
            status, content_type, body = (
                await respond() if respond else (404, "text/plain", b"404 page not found\n")
            )
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if words[0] != "HEAD":
            writer.write(body)
        await writer.drain()


def split_address(address: str) -> tuple[str, int]:
    """Return the host, "" for all, and the port of ``host:port``.

    Raises:
        AddressError: the port is missing or not a number.
    """
    try:
        host, port = addresses.split(address)
        return host, addresses.read_port(port or "", least=0)
    except ValueError as error:
        raise AddressError(f"{address!r} is no host:port") from error
