"""The HTTP endpoints of the supervisor: health, readiness, metrics, and the page of `status`.

Each connection has one request, GET or HEAD, with a head of at most 8 KiB within one second, and
ends within five seconds, enough for a kubelet and a scraper, or within twenty where names are
explained. A new connection is always accepted. If there are too many, of its address or in all, the
one that has waited longest without a request is closed: a probe sends its request at once, and idle
connections of one client displace only each other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from clusterdns.chain.plugin import Respond
from clusterdns.errors import ClusterDNSError
from clusterdns.host import addresses

TIMEOUT_S = 5.0
SITE_TIMEOUT_S = 20.0  # an upstream server that is silent is waited for, too
HEAD_TIMEOUT_S = 1.0
MAX_HEAD_OCTETS = 8192
MAX_CONNECTIONS = 128
MAX_BY_ADDRESS = 32
BACKLOG = 1024  # connections that wait in the kernel in a burst
_log = logging.getLogger(__name__)


class AddressError(ClusterDNSError):
    """An HTTP address cannot be bound."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(reason)
        self.at = address


class Request(NamedTuple):
    """The line of a request, and its header fields, lower-cased; "" for one that is repeated."""

    path: str
    query: str
    fields: Mapping[str, str]


class Reply(NamedTuple):
    """A response, with header fields of its own."""

    status: int
    content_type: str
    body: bytes
    fields: Sequence[tuple[str, str]] = ()


Site = Callable[[Request], Awaitable[Reply]]


class _Visit:
    """An open connection."""

    __slots__ = ("has_asked", "host", "transport")

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.host: str = (writer.get_extra_info("peername") or ("",))[0]
        self.transport = writer.transport
        self.has_asked = False


class Web:
    """The paths served at one address, from `bind` or ``sockets`` and `start` on."""

    def __init__(self, address: str, sockets: Iterable[socket.socket] = ()) -> None:
        self.address = address
        self.paths: dict[str, Respond] = {}
        self.site: Site | None = None  # what answers for all other paths
        self._sockets = list(sockets)
        self._servers: list[asyncio.Server] = []
        self._visits: list[_Visit] = []  # the oldest first

    async def bind(self) -> None:
        """Bind the sockets, unless there are some. Raises AddressError."""
        if not self._sockets:
            # A name may take a while to be found.
            loop = asyncio.get_running_loop()
            self._sockets = await loop.run_in_executor(None, bound, self.address)

    async def start(self) -> None:
        """Listen. Raises AddressError."""
        if self._servers:
            return
        await self.bind()
        try:
            for sock in self._sockets:
                self._servers.append(
                    await asyncio.start_server(
                        self._serve, sock=sock.dup(), limit=MAX_HEAD_OCTETS, backlog=BACKLOG
                    )
                )
        except OSError as error:
            raise AddressError(self.address, f"cannot listen on {self.address}: {error}") from error

    def descriptors(self) -> list[int]:
        """Return the descriptors of the listening sockets."""
        return [sock.fileno() for sock in self._sockets]

    async def pause(self) -> None:
        """Leave new requests in the sockets, and end those under way; `start` goes on."""
        self._close_servers()
        deadline = time.monotonic() + HEAD_TIMEOUT_S
        while self._visits and time.monotonic() < deadline:  # noqa: ASYNC110 - for a moment
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        """Stop listening."""
        self._close_servers()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = self._enter(writer)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_S)
            visit.has_asked = True
            timeout_s = SITE_TIMEOUT_S if self.site else TIMEOUT_S
            await asyncio.wait_for(self._answer(head, writer), timeout_s)
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
        line, *rest = head.decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3:
            reply = Reply(400, "text/plain", b"Bad Request")
        elif words[0] not in ("GET", "HEAD"):
            reply = Reply(405, "text/plain", b"Method Not Allowed", (("Allow", "GET, HEAD"),))
        else:
            reply = await self._reply(words[1], rest)
        lines = (
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {value}" for name, value in reply.fields),
            "Connection: close",
        )
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if words[0] != "HEAD":
            writer.write(reply.body)
        await writer.drain()

    async def _reply(self, target: str, lines: Iterable[str]) -> Reply:
        path, _, query = target.partition("?")
        if respond := self.paths.get(path):
            return Reply(*await respond())
        if self.site is not None:
            return await self.site(Request(path, query, _fields(lines)))
        return Reply(404, "text/plain", b"404 page not found\n")


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """Return the header fields of a request; one that is repeated has no value."""
    found = dict[str, str]()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            key = name.lower()
            found[key] = "" if key in found else value.strip()
    return found


def bound(address: str) -> list[socket.socket]:
    """Return listening sockets of all IP addresses that ``host:port`` stands for.

    Raises:
        AddressError: none can be bound, or one is taken.
    """
    host, port = split_address(address)
    made = list[socket.socket]()
    missing: OSError | None = None
    try:
        flags = socket.AI_PASSIVE
        for family, kind, _, _, at in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        ):
            try:
                made.append(_listening(family, kind, at))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error  # a host without IPv6
        if missing is not None and not made:
            raise missing
    except (OSError, OverflowError) as error:
        for sock in made:
            sock.close()
        raise AddressError(address, f"cannot listen on {address}: {error}") from error
    return made


def _listening(family: int, kind: int, at: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(at)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def split_address(address: str) -> tuple[str, int]:
    """Return the host, "" for all, and the port of ``host:port``.

    Raises:
        AddressError: the port is missing or not a number.
    """
    try:
        host, port = addresses.split(address)
        return host, addresses.read_port(port or "", least=0)
    except ValueError as error:
        raise AddressError(address, f"{address!r} is no host:port") from error
