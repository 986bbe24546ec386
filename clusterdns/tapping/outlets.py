"""Connections to readers of Frame Streams, which never block.

``put`` adds frames to a bounded queue and returns at once; frames that do not fit are dropped and
counted. A task writes the queue, many frames at a time. A connection begins with a handshake
(READY, ACCEPT, START) and ends with another (STOP, FINISH); a control frame is four zero octets, a
length, its kind, and the kinds of content. (Frame Streams: fstrm control.h; CoreDNS: plugin/dnstap)

``Caller`` connects to one reader, and reconnects. ``Hub`` lets readers connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from clusterdns.errors import UpstreamError
from clusterdns.host.addresses import host_and_port
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end

CONTENT = b"protobuf:dnstap.Dnstap"
PATIENCE_S = 4.0  # for a handshake, and for a stalled reader (CoreDNS: tcpTimeout)
FAREWELL_S = 1.0  # for the last frames at the end
GATHER_S = 0.02  # between two writes: each costs as much as a query
RETRY_S, MAX_RETRY_S = 0.5, 10.0  # between attempts to connect, doubled each time
REPORT_S = 10.0  # between log lines about dropped frames (CoreDNS: errorCheckInterval)
QUEUE_FRAMES, QUEUE_OCTETS = (
    10_000,
    16 * 2**20,
)  # bounds of the queue (CoreDNS: queueSize); octets are ours
MAX_READERS = 16  # of one hub
_CHUNK_OCTETS = 64 * 1024
_ACCEPT, _START, _STOP, _READY, _FINISH = range(1, 6)
_MAX_CONTROL_OCTETS = 512
_log = plugin_logger("dnstap")


class Place(NamedTuple):
    """The address of a reader: a path, or a host and port, with TLS if there is a context."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"{'tls' if self.tls else 'tcp'}://{host_and_port(self.host, self.port)}"


class Queue:
    """Frames waiting for one reader, bounded in number and octets."""

    def __init__(self, times: int = 1) -> None:
        self.dropped = 0
        self._most = (QUEUE_FRAMES * times, QUEUE_OCTETS * times)
        self._frames: deque[bytes] = deque()
        self._octets = 0
        self.has_some = asyncio.Event()

    def put(self, frames: Sequence[bytes]) -> None:
        """Add frames while there is room, and drop the others."""
        most, most_octets = self._most
        for i, frame in enumerate(frames):
            if len(self._frames) >= most or self._octets + len(frame) > most_octets:
                self.dropped += len(frames) - i
                break
            self._frames.append(frame)
            self._octets += len(frame)
        if self._frames:
            self.has_some.set()

    def take(self) -> tuple[bytes, int]:
        """Return the octets of the oldest frames, some 64 KiB, and their number."""
        taken, size = list[bytes](), 0
        while self._frames and size < _CHUNK_OCTETS:
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._octets -= size
        if not self._frames:
            self.has_some.clear()
        return b"".join(taken), len(taken)


class Connection:
    """One connection to a reader, from its handshake to its end."""

    def __init__(
        self, queue: Queue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._queue = queue
        self._reader = reader
        self._writer = writer
        self._is_open = False

    async def open(self) -> None:
        """Agree on the content.

        Raises:
            OSError: the connection broke, or its time limit expired (TimeoutError).
            UpstreamError: the reader does not want dnstap messages, or does not speak the protocol.
        """
        async with asyncio.timeout(PATIENCE_S):
            self._writer.write(_control(_READY, CONTENT))
            contents = await self._hear(_ACCEPT)
            if contents and CONTENT not in contents:
                raise UpstreamError("the reader takes no dnstap messages")
            self._writer.write(_control(_START, CONTENT))
            await self._writer.drain()
        self._is_open = True

    async def pump(self) -> None:
        """Write the queue until the reader closes.

        Raises:
            OSError: the connection broke, or the reader stalled (TimeoutError).
        """
        gone = asyncio.create_task(self._reader.read(1))  # ends when the reader closes
        try:
            while not gone.done():
                some = asyncio.create_task(self._queue.has_some.wait())
                try:
                    await asyncio.wait((some, gone), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    some.cancel()
                if not gone.done():
                    await self._write()
                    await asyncio.sleep(0 if self._queue.has_some.is_set() else GATHER_S)
            self._is_open = False
        except OSError:
            self._is_open = False
            raise
        finally:
            gone.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await gone

    async def _write(self) -> None:
        octets, count = self._queue.take()
        try:
            self._writer.write(octets)
            async with asyncio.timeout(PATIENCE_S):
                await self._writer.drain()
        except OSError:
            self._queue.dropped += count
            raise

    async def close(self) -> None:
        """Write the rest and end the stream, if the reader responds in time."""
        with contextlib.suppress(OSError, UpstreamError):
            async with asyncio.timeout(FAREWELL_S):
                while self._is_open and self._queue.has_some.is_set():
                    await self._write()
                if self._is_open:
                    self._writer.write(_control(_STOP))
                    await self._hear(_FINISH)
        self._writer.transport.abort()

    async def _hear(self, wanted: int) -> list[bytes]:
        """Return the content types of the next control frame, which must be ``wanted``."""
        try:
            escape, size = struct.unpack("!II", await self._reader.readexactly(8))
            if escape or not 4 <= size <= _MAX_CONTROL_OCTETS:
                raise UpstreamError("the reader does not speak Frame Streams")
            octets = await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise UpstreamError("the reader has closed the connection") from error
        (kind,) = struct.unpack_from("!I", octets)
        if kind != wanted:
            raise UpstreamError(f"the reader sent control frame {kind}, not {wanted}")
        return _contents(octets)


class Caller:
    """Sends frames to one reader; connects, and reconnects when it is lost."""

    def __init__(self, place: Place, *, times: int = 1, buffer_octets: int = 0) -> None:
        """``times`` scales the queue; ``buffer_octets`` is the buffer of the socket."""
        self._place = place
        self._times = times
        self._buffer_octets = buffer_octets
        self._queue: Queue | None = None
        self._task: asyncio.Task[None] | None = None
        self._reported = self._dropped = 0
        self._report_at = 0.0

    async def start(self) -> None:
        """Connect, in the background."""
        self._queue = Queue(self._times)
        self._task = asyncio.create_task(self._run(self._queue))

    async def stop(self) -> None:
        """Write the rest, and close."""
        await end(self._task)

    def put(self, frames: Sequence[bytes]) -> None:
        """Queue frames for the reader."""
        if self._queue is not None:
            self._queue.put(frames)
            if self._queue.dropped > self._reported and time.monotonic() > self._report_at:
                self._report(self._queue)

    @property
    def dropped(self) -> int:
        """The number of frames dropped."""
        return self._queue.dropped if self._queue is not None else 0

    def _report(self, queue: Queue) -> None:
        _log.warning("Dropped dnstap messages: %d", queue.dropped - self._reported)
        self._reported, self._report_at = queue.dropped, time.monotonic() + REPORT_S

    async def _run(self, queue: Queue) -> None:
        wait_s = RETRY_S
        is_told = False
        while True:
            connection = None
            try:
                connection = await self._connect(queue)
                wait_s, is_told = RETRY_S, False
                await connection.pump()
                _log.warning("%s: the reader has closed the connection", self._place)
            except (OSError, UpstreamError) as error:
                if not is_told:  # once for each outage
                    _log.error("No connection to dnstap endpoint: %s: %s", self._place, _why(error))
                is_told = True
            finally:
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _connect(self, queue: Queue) -> Connection:
        place = self._place
        async with asyncio.timeout(PATIENCE_S):
            if place.path:
                reader, writer = await asyncio.open_unix_connection(place.path)
            else:
                name = place.host if place.tls is not None else None
                reader, writer = await asyncio.open_connection(
                    place.host, place.port, ssl=place.tls, server_hostname=name
                )
        connection = Connection(queue, reader, writer)
        try:
            self._widen(writer)
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        return connection

    def _widen(self, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        if self._buffer_octets and sock is not None and not self._place.path:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_octets)


class Hub:
    """Sends frames to all readers that connect; each has a queue of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._queues: dict[asyncio.Task[None], Queue] = {}
        self._gone = 0  # frames dropped for closed readers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen for readers; log an error if that fails."""
        place = self._place
        try:
            if place.path:
                self._server = await asyncio.start_unix_server(self._welcome, place.path)
            else:
                self._server = await asyncio.start_server(
                    self._welcome, place.host or None, place.port, ssl=place.tls, reuse_port=True
                )
        except OSError as error:
            _log.error("Failed to start dnstap listener: %s: %s", place, _why(error))

    async def stop(self) -> None:
        """Close all connections, and stop listening."""
        if self._server is not None:
            self._server.close()
        for task in [*self._queues]:
            await end(task)

    def put(self, frames: Sequence[bytes]) -> None:
        """Queue frames for every reader."""
        for queue in self._queues.values():
            queue.put(frames)

    @property
    def dropped(self) -> int:
        """The number of frames dropped for all readers."""
        return self._gone + sum(queue.dropped for queue in self._queues.values())

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        queue = Queue()
        connection = Connection(queue, reader, writer)
        if len(self._queues) >= MAX_READERS:
            writer.transport.abort()
            return
        try:
            await connection.open()
            self._queues[task] = queue
            await connection.pump()
        except (OSError, UpstreamError) as error:
            _log.warning("%s: lost a reader: %s", self._place, _why(error))
        except asyncio.CancelledError:
            pass
        finally:
            self._queues.pop(task, None)
            self._gone += queue.dropped
            await connection.close()


def _control(kind: int, *contents: bytes) -> bytes:
    fields = b"".join(struct.pack("!II", 1, len(each)) + each for each in contents)
    return struct.pack("!III", 0, 4 + len(fields), kind) + fields


def _contents(octets: bytes) -> list[bytes]:
    """Return the content types of a control frame, up to a truncated one."""
    found, i = list[bytes](), 4
    while i + 8 <= len(octets):
        field, size = struct.unpack_from("!II", octets, i)
        i += 8
        if field == 1:
            found.append(octets[i : i + size])
        i += size
    return found


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower() if error.errno > 0 else str(error)
    return str(error)
