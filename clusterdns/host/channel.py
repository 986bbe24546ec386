"""Messages between processes of this program: frames over a local socket.

A frame is four octets of length and a ``marshal`` dump of one tuple, whose first item says what it
is. Both ends are this program under one user. A ``Channel`` is one end of a socket pair, between
the supervisor and a process it has forked; a feed to the workers is made of the same frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

_LENGTH = struct.Struct("!I")
_log = logging.getLogger(__name__)
Message = tuple[Any, ...]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def frame(message: Message) -> bytes:
    """Return a message with its length in front."""
    octets = marshal.dumps(message)
    return _LENGTH.pack(len(octets)) + octets


async def read(reader: asyncio.StreamReader) -> Message:
    """Return the next message. Raises IncompleteReadError or OSError at the end of the stream."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    message: Message = marshal.loads(await reader.readexactly(length))
    return message


class Channel:
    """One end, opened in a running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Return the channel over ``sock``, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send a message; to an end that has gone, it is lost."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the other end sends, until it goes."""
        while True:
            try:
                yield await read(self._reader)
            except (asyncio.IncompleteReadError, OSError):
                return

    async def close(self) -> None:
        """Close this end once everything is sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Frames(asyncio.Protocol):
    """Hands on messages as they come, one a turn of the loop, so that others get theirs.

    ``ended`` is done when the connection is; one over which ``take`` raises ends, too. A reader of
    streams would take three turns of the loop for a message.
    """

    def __init__(self, take: Callable[[Message], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._take = take
        self._held = bytearray()
        self._is_paused = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of a new connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take octets in."""
        self._held += data
        self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def _hand_on(self) -> None:
        """Hand on a message, and read no more while there may be another one."""
        if self._transport is None:
            return
        held = self._held
        end = _LENGTH.size
        if len(held) >= end:
            end += _LENGTH.unpack_from(held)[0]
        if len(held) >= end:
            octets = bytes(held[_LENGTH.size : end])
            del held[:end]
            try:
                self._take(marshal.loads(octets))
            except Exception:
                _log.exception("a message is not understood: connecting anew")
                self._transport.abort()
                return
            if held:
                if not self._is_paused:
                    self._is_paused = True
                    self._transport.pause_reading()
                self._loop.call_soon(self._hand_on)
                return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
