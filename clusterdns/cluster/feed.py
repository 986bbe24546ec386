"""How a watcher's events reach the workers: frames over a local socket.

The watcher holds a ``Feeder``: the objects of one source, and a ``_Feed`` for each worker that has
connected. A feed remembers which objects its worker has not been told about, not what happened to
them: a slow worker makes changes merge and the memory stays bounded by the number of objects. The
thread that puts a change sends it, which saves a wake-up of the loop of the process, while the
socket takes it. What it does not take goes from the loop when it does.

A worker holds a ``Subscription``. When its connection breaks, it connects again and is told
everything; what it then has not heard of when its kind is complete is gone. Replaying the events is
the same as relisting.

The messages (channel.py) are ``("events", [Event...])`` and ``("synced", [kind...])``. That both
ends run under one user is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from clusterdns.cluster.objects import Event, ObjectKey
from clusterdns.cluster.store import Fact, Store
from clusterdns.host import channel

_FRAME_WEIGHT = 256  # objects and endpoints in a frame: less than 1 ms of a worker's time
_FRAMES_A_TURN = 16  # then other workers are told
_RETRY_S = 0.2

Objects = MutableMapping[tuple[str, ObjectKey], tuple[Any, ...]]


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
    """The objects of one source, and the workers that want to hear of them.

    ``lock`` is held around everything here; who reads ``objects`` from a thread takes it, too.
    """

    def __init__(self, listener: socket.socket, objects: Objects | None = None) -> None:
        self._listener = listener
        self.lock = threading.RLock()
        self.objects: Objects = {} if objects is None else objects
        self.synced_kinds: list[str] = []
        self._feeds: set[_Feed] = set()

    def start(self) -> None:
        """Take connections from now on, in the running loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def put(self, kind: str, key: ObjectKey, fields: tuple[Any, ...] | None) -> None:
        """Set an object, or remove it with None; what is the same already is told to nobody."""
        self.put_all(kind, ((key, fields),))

    def put_all(
        self, kind: str, changes: Iterable[tuple[ObjectKey, tuple[Any, ...] | None]]
    ) -> None:
        """Put objects of a kind, and tell of them together; from any thread, like ``put``."""
        with self.lock:
            for key, fields in changes:
                at = (kind, key)
                if self.objects.get(at) == fields:
                    continue
                if fields is None:
                    del self.objects[at]
                else:
                    self.objects[at] = fields
                for feed in self._feeds:
                    feed.pending[at] = None
            self._tell()

    def synced(self, kind: str) -> None:
        """Note that all objects of a kind have been put once."""
        with self.lock:
            if kind not in self.synced_kinds:
                self.synced_kinds.append(kind)
                self._tell()

    def break_off(self) -> None:
        """Close every connection; workers connect again and are told everything anew."""
        with self.lock:
            for feed in list(self._feeds):
                feed.close()

    def drop(self, feed: _Feed) -> None:
        """Forget a worker that has gone."""
        self._feeds.discard(feed)

    def _tell(self) -> None:
        for feed in list(self._feeds):
            feed.tell()

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
        feed = _Feed(self, sock, asyncio.get_running_loop())
        with self.lock:
            feed.pending.update(dict.fromkeys(self.objects))
            self._feeds.add(feed)
            feed.tell()


class _Feed:
    """One worker's connection, and what it has still to be told; under the feeder's lock."""

    def __init__(
        self, feeder: Feeder, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.pending: dict[tuple[str, ObjectKey], None] = {}
        self._feeder = feeder
        self._sock = sock
        self._loop = loop
        self._told = 0  # how many of the synced kinds
        self._octets = memoryview(b"")
        self._is_waiting = False  # for room in the socket: then the loop writes, and nobody else

    def tell(self) -> None:
        """Send what there is to tell, from any thread, or have the loop do it later."""
        if not self._is_waiting and not self._send():
            self._is_waiting = True
            self._loop.call_soon_threadsafe(self._wait)

    def close(self) -> None:
        self._feeder.drop(self)
        if self._is_waiting and self._sock.fileno() >= 0:  # only in the loop's own thread
            self._loop.remove_writer(self._sock)
        self._sock.close()

    def _wait(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_writer(self._sock, self._write)

    def _write(self) -> None:
        with self._feeder.lock:
            if self._send() and self._sock.fileno() >= 0:
                self._is_waiting = False
                self._loop.remove_writer(self._sock)

    def _send(self) -> bool:
        """Send some frames; tell whether nothing is left."""
        try:
            for _ in range(_FRAMES_A_TURN):
                if not self._octets:
                    self._octets = memoryview(self._next_frame())
                if not self._octets:
                    return True
                self._octets = self._octets[self._sock.send(self._octets) :]
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return True
        return False

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
        self._heard: set[tuple[str, ObjectKey]] = (
            set()
        )  # objects of incomplete kinds, this connection
        self._incomplete = set(kinds)

    async def run(self) -> None:
        """Read frames until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self._read()
            self.is_connected = False
            await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        """Take messages until the connection ends. Raises OSError if there is none."""
        self._heard.clear()
        self._incomplete = set(self._kinds)
        loop = asyncio.get_running_loop()
        # One message a turn of the loop: a burst of 1,000 slices had queries wait for up to 29 ms.
        transport, frames = await loop.create_unix_connection(
            lambda: channel.Frames(self._take),
            self._address,  # type: ignore[arg-type] # octets are an address, too
        )
        self.is_connected = True
        try:
            await frames.ended
        finally:
            transport.abort()

    def _take(self, message: channel.Message) -> None:
        word, items = message
        if word == "synced":
            for kind in items:
                self._complete(kind)
            if self.store.is_synced and not self.filled.is_set():
                self.filled.set()
                # No object of a store is in a cycle, and the collector cannot tell: with 10,000
                # Services a full collection took 90 ms.
                gc.freeze()
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
