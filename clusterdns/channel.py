"""Messages between processes of this program: frames over a local socket.

A frame is four octets of length and a ``marshal`` dump of one tuple, whose first item says what it
is. Both ends are this program under one user. A ``Channel`` is one end of a socket pair, between
the supervisor and a process it has forked; a feed to the workers is made of the same frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

_LENGTH = struct.Struct("!I")
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
