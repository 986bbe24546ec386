"""The HTTP endpoints of the supervisor: health, readiness, metrics.

One request a connection, GET or HEAD, head of at most 8 KiB, everything within five seconds: enough
for a kubelet and a scraper, and nothing to hold on to for anybody else.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from clusterdns.chain.plugin import Respond
from clusterdns.errors import ClusterDNSError

TIMEOUT_S = 5.0
MAX_HEAD_OCTETS = 8192
MAX_CONNECTIONS = 128
_log = logging.getLogger(__name__)


class AddressError(ClusterDNSError):
    """An HTTP address that cannot be listened on."""


class Web:
    """The paths served at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.paths: dict[str, Respond] = {}
        self._servers: list[asyncio.Server] = []
        self._open = 0

    async def start(self) -> None:
        """Listen. Raises AddressError."""
        host, port = split_address(self.address)
        try:
            server = await asyncio.start_server(
                self._serve, host or None, port, limit=MAX_HEAD_OCTETS, reuse_port=True
            )
        except (OSError, OverflowError) as error:
            raise AddressError(f"cannot listen on {self.address}: {error}") from error
        self._servers.append(server)

    def descriptors(self) -> list[int]:
        """Return the listening sockets' descriptors, which a forked process must close."""
        return [sock.fileno() for server in self._servers for sock in server.sockets]

    def stop(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                await asyncio.wait_for(self._answer(reader, writer), TIMEOUT_S)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            pass  # a client that is too slow, too long, or gone: nobody is left to tell
        except asyncio.LimitOverrunError:
            pass
        except Exception:
            _log.exception("%s: cannot answer", self.address)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            status, kind, body = 400, "text/plain", b"Bad Request"
        elif words[0] not in ("GET", "HEAD"):
            status, kind, body = 405, "text/plain", b"Method Not Allowed"
        else:
            respond = self.paths.get(words[1].partition("?")[0])
            status, kind, body = (
                await respond() if respond else (404, "text/plain", b"404 page not found\n")
            )
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {kind}",
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
        AddressError: there is no port, or it is no number.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{address!r} is no host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
