"""TCP and TLS connections to one upstream server, kept for the next query.

A connection carries one query at a time (RFC 7766, RFC 7858; CoreDNS: plugin/pkg/proxy). A
connection that the server closed in the meantime is no failure: the query is sent over a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from clusterdns.corefile.parser import Directive
from clusterdns.errors import ConfigError
from clusterdns.forwarding.exchange import Exchange, Mismatch
from clusterdns.host.encryption import check_pem, client_context
from clusterdns.host.stamp import Stamp
from clusterdns.wire.reading import Reply

DIAL_TIMEOUT_S = 2.0
TLS_DIAL_TIMEOUT_S = 2.5  # with the handshake: half the time a query has (CoreDNS: forward.go)
MAX_IDLE_CONNECTIONS = 64
SWEEP_LEAST_S = 0.05
RECHECK_S = 5.0  # between checks of certificates


Hear = Callable[[tuple[str, int]], None]


class TlsSettings(NamedTuple):
    """How a server is authenticated: the context with its CAs, and its name."""

    context: ssl.SSLContext
    server_name: str


class Idle(NamedTuple):
    """How long idle connections are kept, in seconds, and how many; 0 is the default limit."""

    expire_s: float = 10.0
    max_age_s: float = 0.0
    most: int = 0


def tls_context(files: tuple[str, ...], line: Directive, root: Path) -> ssl.SSLContext:
    """Return the context for ``[CA]`` or ``CERT KEY [CA]``; the default is the system's CAs.

    (CoreDNS: plugin/pkg/tls) Raises ConfigError.
    """
    if len(files) > 3:
        raise line.error("wants [CA] or CERT KEY [CA]")
    context = client_context()
    try:
        _load(context, files, root)
    except ssl.SSLError as error:
        raise line.error(f"{' '.join(files)}: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise line.error(f"{' '.join(files)}: {error}") from error
    return context


def _load(context: ssl.SSLContext, files: tuple[str, ...], root: Path) -> None:
    """Load ``[CA]`` or ``CERT KEY [CA]`` into a context. Raises OSError, ValueError."""
    paths = [str(root / file) for file in files]
    for path in paths:
        check_pem(Path(path))
    if len(paths) in (1, 3):
        context.load_verify_locations(paths[-1])
    else:
        context.load_default_certs()
    if len(paths) > 1:
        context.load_cert_chain(paths[0], paths[1], password=lambda: "")


class TlsFiles:
    """The files of contexts of `tls_context`: what has changed there counts for new connections.

    An authority that is removed stays trusted until the next reload: OpenSSL forgets none.
    """

    def __init__(
        self,
        contexts: Sequence[ssl.SSLContext],
        files: tuple[str, ...],
        line: Directive,
        root: Path,
    ) -> None:
        self._contexts, self._files, self._line, self._root = contexts, files, line, root
        self._stamps = self._look()

    def _look(self) -> list[Stamp | None]:
        return [Stamp.at(self._root / file) for file in self._files]

    def refresh(self) -> bool:
        """Read the files again if they have changed; tell whether they have.

        Raises:
            ConfigError: they cannot be used, and the last good ones stay in force.
        """
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        tls_context(self._files, self._line, self._root)  # or they would be half taken
        for context in self._contexts:
            _load(context, self._files, self._root)
        return True

    async def follow(self, log: logging.LoggerAdapter[logging.Logger]) -> None:
        """Read the files again whenever they have changed."""
        while self._files:
            await asyncio.sleep(RECHECK_S)
            try:
                if self.refresh():
                    log.info("certificates have changed and are in force")
            except (ConfigError, OSError) as error:
                log.error("certificates have changed, the last good ones stay in force: %s", error)


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    opened_at: float
    used_at: float


class Connections:
    """Idle connections to one server; ``dials`` counts hits and misses by protocol."""

    def __init__(
        self, address: tuple[str, int], idle: Idle, dials: Counter[tuple[str, str]],
        *, source: str = "", tls: TlsSettings | None = None, dial_timeout_s: float = DIAL_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.proto = "tcp" if tls is None else "tcp-tls"
        self._address = address
        self._idle_limits = idle
        self._source = source
        self._tls = tls
        self.dial_timeout_s = dial_timeout_s
        self._dials = dials
        self._idle: deque[_Connection] = deque()
        self._is_closed = False
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def exchange(self, out: Exchange, timeout_s: float, hear: Hear | None = None) -> Reply:
        """Return the reply to a query, over an idle or a new connection.

        ``hear`` is told our end of the connection.

        Raises:
            Mismatch: only replies to other questions came in time.
            TimeoutError: no reply came in time.
            FormError: the reply cannot be read.
            OSError: the network failed, or TLS (ssl.SSLError); or IncompleteReadError.
        """
        kept = self._kept()
        if kept is not None:
            self._dials["hits", self.proto] += 1
            try:
                return await self._talk(kept, out, timeout_s, hear)
            except TimeoutError:
                raise
            except (OSError, asyncio.IncompleteReadError):
                pass  # the server closed an idle connection: no failure
        self._dials["misses", self.proto] += 1
        return await self._talk(await self._dial(), out, timeout_s, hear)

    def close(self) -> None:
        """Close idle connections now, and the others when their query is done."""
        self._is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        while self._idle:
            self._idle.pop().writer.close()

    def reopen(self) -> None:
        """Keep idle connections again."""
        self._is_closed = False

    async def _dial(self) -> _Connection:
        async with asyncio.timeout(self.dial_timeout_s):
            reader, writer = await open_stream(self._address, self._source, self._tls)
        now = time.monotonic()
        return _Connection(reader, writer, now, now)

    async def _talk(
        self, connection: _Connection, out: Exchange, timeout_s: float, hear: Hear | None
    ) -> Reply:
        """Exchange one query over a connection, and keep it unless something goes wrong."""
        reader, writer, opened_at, _ = connection
        if hear is not None:
            hear(writer.get_extra_info("sockname")[:2])
        is_wrong = False
        try:
            writer.write(struct.pack("!H", len(out.packet)) + out.packet)
            async with asyncio.timeout(timeout_s):
                await writer.drain()
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = out.read_whole(await reader.readexactly(length))
                    if reply is not None and out.accepts(reply):
                        break
                    is_wrong = is_wrong or reply is not None
        except TimeoutError as error:
            writer.close()
            if is_wrong:
                raise Mismatch("only replies to other questions") from error
            raise
        except BaseException:
            writer.close()
            raise
        self._keep(_Connection(reader, writer, opened_at, time.monotonic()))
        return reply

    def _kept(self) -> _Connection | None:
        """Return an idle connection that has not expired, the oldest first."""
        limits, now = self._idle_limits, time.monotonic()
        while self._idle:
            connection = self._idle.popleft()
            is_old = limits.max_age_s and now - connection.opened_at > limits.max_age_s
            is_expired = now - connection.used_at > limits.expire_s
            if not (is_expired or is_old or connection.reader.at_eof()):
                return connection
            connection.writer.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        if self._is_closed or len(self._idle) >= (self._idle_limits.most or MAX_IDLE_CONNECTIONS):
            connection.writer.close()
        else:
            self._idle.append(connection)
            if self._sweep_timer is None:
                self._sweep_later()

    def _sweep_later(self) -> None:
        loop, delay_s = asyncio.get_running_loop(), max(SWEEP_LEAST_S, self._idle_limits.expire_s)
        self._sweep_timer = loop.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were idle for too long or that the server closed."""
        self._sweep_timer = None
        fresh = []
        while (connection := self._kept()) is not None:
            fresh.append(connection)
        self._idle.extend(fresh)
        if fresh:
            self._sweep_later()


def open_socket(host: str, socket_type: int, source: str = "") -> socket.socket:
    """Return a non-blocking socket bound to its source address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket_type | socket.SOCK_NONBLOCK)
    if source:
        try:
            sock.bind((source, 0))
        except OSError:
            sock.close()
            raise
    return sock


async def open_stream(
    address: tuple[str, int], source: str, tls: TlsSettings | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a server from its source address, and shake hands if ``tls`` says how."""
    sock = open_socket(address[0], socket.SOCK_STREAM, source)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
        if tls is None:
            return await asyncio.open_connection(sock=sock)
        return await asyncio.open_connection(
            sock=sock, ssl=tls.context, server_hostname=tls.server_name or address[0]
        )
    except BaseException:
        sock.close()
        raise


def reason_of(error: OSError | asyncio.IncompleteReadError) -> str:
    """Return the reason of a failed exchange."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or str(error)).replace('_', ' ').lower()}"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else "connection closed"
