"""Messages between processes of this program: frames over a local socket.

A frame is four octets of length and a ``marshal`` dump of one tuple, whose first item is its type.
Both ends are this program under one user. A ``Channel`` is one end of a socket pair, between the
supervisor and a process it has forked; a feed to the workers is made of the same frames.
"""

from __future__ import annotations

import asyncio
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


class Channel(asyncio.Protocol):
    """One end, opened in a running loop.

    ``held`` are the octets received that `messages` has not yielded yet: a process that another
    program takes the place of leaves them to it, with the socket.
    """

    def __init__(self, held: bytes = b"") -> None:
        self.held = bytearray(held)
        self._has_news = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, sock: socket.socket, held: bytes = b"") -> Channel:
        """Return the channel over ``sock``, which it then owns."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(lambda: cls(held), sock=sock)
        return channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Add received octets."""
        self.held += data
        self._has_news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End `messages`."""
        self._has_news.set()
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def descriptor(self) -> int:
        """The descriptor of the socket; -1 once it is closed."""
        assert self._transport is not None
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    @property
    def is_sent(self) -> bool:
        """Whether the kernel has taken all messages."""
        return self._transport is None or not self._transport.get_write_buffer_size()

    def send(self, message: Message) -> None:
        """Send a message; it is lost if the other end is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    async def messages(self) -> AsyncIterator[Message]:
        """Yield the messages of the other end, until it closes."""
        while True:
            while (message := self._next()) is not None:
                yield message
            if self._ended.done():
                return
            self._has_news.clear()
            await self._has_news.wait()

    def _next(self) -> Message | None:
        """Return the next message, None if none is complete."""
        end = _LENGTH.size
        if len(self.held) >= end:
            end += _LENGTH.unpack_from(self.held)[0]
        if len(self.held) < max(end, _LENGTH.size + 1):
            return None
        octets = bytes(self.held[_LENGTH.size : end])
        del self.held[:end]
        message: Message = marshal.loads(octets)
        return message

    async def close(self) -> None:
        """Close this end once all messages are sent."""
        if self._transport is not None:
            self._transport.close()
            await self._ended


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
