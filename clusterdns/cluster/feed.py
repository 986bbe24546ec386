"""How a watcher's events reach the workers: frames over a local socket.

The watcher holds a ``Feeder``: the objects of one source, and a ``_Feed`` for each worker that has
connected. A feed remembers which objects its worker has not been told about, not what happened to
them: a slow worker makes changes merge and the memory stays bounded by the number of objects.

A worker holds a ``Subscription``. When its connection breaks, it connects again and is told
everything; what it then has not heard of when its kind is complete is gone. Replaying the events is
the same as relisting.

The messages (channel.py) are ``("events", [Event...])`` and ``("synced", [kind...])``. That both
ends run under one user is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, MutableMapping
from typing import Any

from clusterdns import channel
from clusterdns.cluster.objects import Event, Key
from clusterdns.cluster.store import Fact, Store

_FRAME_WEIGHT = 1024  # objects and endpoints in a frame: about 2 ms of a worker's time
_RETRY_S = 0.2

Objects = MutableMapping[tuple[str, Key], tuple[Any, ...]]


def listen() -> socket.socket:
    """Return a socket that workers of this process can connect to, at an address nobody knows."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0clusterdns-{os.urandom(16).hex()}")
    sock.listen(128)
    sock.setblocking(False)
    return sock


def plain(value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return a slim object as tuples of no type of their own, which is what ``marshal`` can write.

    A field is text, a tuple of texts, or a tuple of tuples of texts and numbers.
    """
    if value is None:
        return None
    return tuple(
        tuple([tuple(item) if isinstance(item, tuple) else item for item in field])
        if isinstance(field, tuple)
        else field
        for field in value
    )


class Feeder:
    """The objects of one source, and the workers that want to hear of them."""

    def __init__(self, listener: socket.socket, objects: Objects | None = None) -> None:
        self._listener = listener
        self.objects: Objects = {} if objects is None else objects
        self.synced_kinds: list[str] = []
        self._feeds: set[_Feed] = set()

    def start(self) -> None:
        """Take connections from now on, in the running loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def put(self, kind: str, key: Key, fields: tuple[Any, ...] | None) -> None:
        """Set an object, or remove it with None; what is the same already is told to nobody."""
        at = (kind, key)
        if self.objects.get(at) == fields:
            return
        if fields is None:
            del self.objects[at]
        else:
            self.objects[at] = fields
        for feed in self._feeds:
            feed.pending[at] = None
            feed.wake()

    def synced(self, kind: str) -> None:
        """Note that all objects of a kind have been put once."""
        if kind not in self.synced_kinds:
            self.synced_kinds.append(kind)
            for feed in self._feeds:
                feed.wake()

    def break_off(self) -> None:
        """Close every connection; workers connect again and are told everything anew."""
        for feed in list(self._feeds):
            feed.close()

    def drop(self, feed: _Feed) -> None:
        """Forget a worker that has gone."""
        self._feeds.discard(feed)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            sock.close()
            return
        sock.setblocking(False)
        feed = _Feed(self, sock)
        feed.pending.update(dict.fromkeys(self.objects))
        self._feeds.add(feed)
        feed.wake()


class _Feed:
    """One worker's connection, and what it has still to be told."""

    def __init__(self, feeder: Feeder, sock: socket.socket) -> None:
        self.pending: dict[tuple[str, Key], None] = {}
        self._feeder = feeder
        self._sock = sock
        self._told = 0  # how many of the synced kinds
        self._octets = memoryview(b"")
        self._is_writing = False

    def wake(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            asyncio.get_running_loop().add_writer(self._sock, self._write)

    def close(self) -> None:
        self._feeder.drop(self)
        asyncio.get_running_loop().remove_writer(self._sock)
        self._sock.close()

    def _write(self) -> None:
        try:
            if not self._octets:
                self._octets = memoryview(self._next_frame())
            if self._octets:
                self._octets = self._octets[self._sock.send(self._octets) :]
                return
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._is_writing = False
        asyncio.get_running_loop().remove_writer(self._sock)

    def _next_frame(self) -> bytes:
        """Return the next frame, b"" when there is nothing to tell."""
        if self.pending:
            events: list[Event] = []
            weight = 0
            while self.pending and weight < _FRAME_WEIGHT:
                at = next(iter(self.pending))
                del self.pending[at]
                fields = self._feeder.objects.get(at)
                events.append((*at, fields))
                weight += 1 + sum(len(f) for f in fields or () if isinstance(f, tuple))
            return channel.frame(("events", events))
        kinds = self._feeder.synced_kinds[self._told :]
        self._told += len(kinds)
        return channel.frame(("synced", kinds)) if kinds else b""


class Subscription:
    """A worker's end: keeps one store as the watcher says, across broken connections.

    ``changed`` is called with the facts of every frame that changed some.
    """

    def __init__(
        self,
        address: str | bytes,
        store: Store,
        *,
        kinds: tuple[str, ...],
        changed: Callable[[list[Fact]], None],
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self.is_connected = False
        self.filled = asyncio.Event()
        self._address = address
        self._changed = changed
        self._clock = clock
        self._kinds = kinds
        self._heard: set[tuple[str, Key]] = set()  # objects of incomplete kinds, this connection
        self._incomplete = set(kinds)

    async def run(self) -> None:
        """Read frames until cancelled."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._read()
            self.is_connected = False
            await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._address)
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        self._heard.clear()
        self._incomplete = set(self._kinds)
        self.is_connected = True
        try:
            while True:
                self._take(*await channel.read(reader))
        finally:
            writer.close()

    def _take(self, word: str, items: list[Any]) -> None:
        if word == "synced":
            for kind in items:
                self._complete(kind)
            if self.store.is_synced:
                self.filled.set()
            return
        self._heard.update((kind, key) for kind, key, _ in items if kind in self._incomplete)
        self._apply(items)

    def _complete(self, kind: str) -> None:
        """Remove what the watcher did not speak of before it said that a kind is complete."""
        gone = [key for key in self.store.keys(kind) if (kind, key) not in self._heard]
        self._apply([(kind, key, None) for key in gone])
        self._heard = {at for at in self._heard if at[0] != kind}
        self._incomplete.discard(kind)
        self.store.synced(kind)

    def _apply(self, events: list[Event]) -> None:
        seconds = int(self._clock())
        facts: list[Fact] = []
        for event in events:
            facts += self.store.apply(event, seconds)
        if facts:
            self._changed(facts)
