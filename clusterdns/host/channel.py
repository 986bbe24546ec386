"""Messages between processes of this program: frames over a local socket.

A frame is four octets of length and a ``marshal`` dump of one tuple, whose first item is its type.
Both ends are this program under one user. A ``Channel`` is one end of a socket pair, between the
supervisor and a process it has forked; a feed to the workers is made of the same frames.
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
    """Return a message as a frame."""
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
        """Return the channel over ``sock``, which it then owns."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send a message; it is lost if the other end is closed."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def messages(self) -> AsyncIterator[Message]:
        """Yield the messages of the other end, until it closes."""
        while True:
            try:
                yield await read(self._reader)
            except (asyncio.IncompleteReadError, OSError):
                return

    async def close(self) -> None:
        """Close this end once all messages are sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Frames(asyncio.Protocol):
    """Passes messages to ``take``, one in each turn of the loop, so that others have their turns.

    ``ended`` is done when the connection ends, also if ``take`` raises. A StreamReader would need
    three turns of the loop for a message.
    """

    def __init__(self, take: Callable[[Message], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._take = take
        self._held = bytearray()
        self._is_paused = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Add received octets."""
        self._held += data
        self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """End ``ended``."""
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def _hand_on(self) -> None:
        """Pass on a message, and pause reading while there may be another one."""
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
