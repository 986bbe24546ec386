"""Changes of objects on their way from a watcher to the workers, over a local socket.

The watcher holds a ``Feeder``: the objects of one source, and a ``_Feed`` for each connected
worker. A feed remembers the keys of the objects that changed, not the changes, so several changes
of an object become one for a slow worker, and memory is bounded by the number of objects. The
thread that puts a change also sends it, which saves a wake-up of the event loop. When the socket is
full, the loop sends the rest.

A worker holds a ``Subscription``. When its connection breaks, it connects again and is sent all
objects; an object that was not sent before its kind is complete is removed.

The messages (channel.py) are ``("changes", [Change...])``, ``("synced", [kind...])``, and
``("refused", [kind...])`` for kinds that the API server does not let us list. The watcher accepts
connections of its own user only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import marshal
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

from clusterdns.cluster.objects import OBJECT_TYPES, Change, ObjectId, ObjectKey
from clusterdns.cluster.store import Fact, Store
from clusterdns.host import channel

_FRAME_WEIGHT = 256  # objects and endpoints in a frame: less than 1 ms of a worker's time
_FRAMES_A_TURN = 16  # then the other workers have their turn
_RETRY_S = 0.2
_INHERIT_S = 5.0  # 100,000 endpoints take one

Objects = MutableMapping[ObjectId, tuple[Any, ...]]


def listen() -> socket.socket:
    """Return a listening socket at a random abstract address, for the workers of this process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0clusterdns-{os.urandom(16).hex()}")
    sock.listen(128)
    sock.setblocking(False)
    return sock


def plain(value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return a ``ClusterObject`` as plain tuples: ``marshal`` writes no NamedTuple.

    Each field is text, a tuple of texts, or a tuple of tuples of texts and numbers.
    """
    if value is None:
        return None
    return tuple(
        tuple([tuple(item) if isinstance(item, tuple) else item for item in field])
        if isinstance(field, tuple)
        else field
        for field in value
    )


class Packed(MutableMapping[ObjectId, tuple[Any, ...]]):
    """Objects as octets: 100,000 endpoints take a fifth of the memory of their tuples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by kind
        self._octets: dict[ObjectId, bytes] = {}

    def __getitem__(self, at: ObjectId) -> tuple[Any, ...]:
        found: tuple[Any, ...] = marshal.loads(self._octets[at])
        return found

    def __setitem__(self, at: ObjectId, value: tuple[Any, ...]) -> None:
        if at not in self._octets:
            self.counts[at[0]] += 1
        self._octets[at] = marshal.dumps(value)

    def __delitem__(self, at: ObjectId) -> None:
        del self._octets[at]
        self.counts[at[0]] -= 1

    def __contains__(self, at: object) -> bool:
        return at in self._octets

    def __iter__(self) -> Iterator[ObjectId]:
        return iter(self._octets)

    def __len__(self) -> int:
        return len(self._octets)

    def take_over(self, other: Packed) -> None:
        """Become what ``other`` is, without a copy; it must not be changed from then on."""
        self.counts, self._octets = other.counts, other._octets

    def entries(self) -> Iterator[tuple[ObjectId, tuple[Any, ...]]]:
        """Yield the present objects; changes during the iteration are allowed."""
        for at, octets in list(self._octets.items()):
            yield at, marshal.loads(octets)


class Feeder:
    """The objects of one source, and the workers they are sent to.

    ``lock`` guards everything here; a thread that reads ``objects`` must hold it.
    """

    def __init__(self, listener: socket.socket, objects: Objects | None = None) -> None:
        self._listener = listener
        self.lock = threading.RLock()
        self.objects: Objects = {} if objects is None else objects
        self.marks: list[tuple[str, str]] = []  # "synced" or "refused", and a kind
        self.marked: Callable[[], None] | None = None  # called from any thread after a new one
        self._feeds: set[_Feed] = set()

    def start(self) -> None:
        """Accept connections in the running loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def put(self, kind: str, key: ObjectKey, value: tuple[Any, ...] | None) -> None:
        """Set an object, or remove it with None; an equal value is not sent."""
        self.put_all(kind, ((key, value),))

    def put_all(
        self, kind: str, changes: Iterable[tuple[ObjectKey, tuple[Any, ...] | None]]
    ) -> None:
        """Put objects of a kind and send them together; callable from any thread, like ``put``."""
        with self.lock:
            for key, value in changes:
                at = (kind, key)
                if self.objects.get(at) == value:
                    continue
                if value is None:
                    del self.objects[at]
                else:
                    self.objects[at] = value
                for feed in self._feeds:
                    feed.pending[at] = None
            self._tell()

    def synced(self, kind: str) -> None:
        """Note that all objects of a kind have been put once."""
        with self.lock:
            if ("synced", kind) not in self.marks:
                self._mark("synced", kind)

    def refused(self, kind: str) -> None:
        """Note that a kind cannot be listed; one that has been stays what it is."""
        with self.lock:
            if not any(kind == other for _, other in self.marks):
                self._mark("refused", kind)

    def _mark(self, word: str, kind: str) -> None:
        self.marks.append((word, kind))
        self._tell()
        if self.marked is not None:
            self.marked()

    @property
    def synced_kinds(self) -> list[str]:
        """The kinds whose objects have all been put once."""
        return [kind for word, kind in self.marks if word == "synced"]

    def break_off(self) -> None:
        """Close every connection; the workers connect again and are sent all objects."""
        with self.lock:
            for feed in list(self._feeds):
                feed.close()

    def drop(self, feed: _Feed) -> None:
        """Forget a worker whose connection has ended."""
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
            feed.listen()
            feed.tell()


class _Feed:
    """One worker's connection and the keys still to be sent; under the feeder's lock."""

    def __init__(
        self, feeder: Feeder, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.pending: dict[ObjectId, None] = {}
        self._feeder = feeder
        self._sock = sock
        self._loop = loop
        self._told = 0  # number of marks it was sent
        self._octets = memoryview(b"")
        self._is_waiting = False  # for room in the socket; then only the loop writes

    def tell(self) -> None:
        """Send pending changes, from any thread; if the socket is full, the loop sends the rest."""
        if not self._is_waiting and not self._send():
            self._is_waiting = True
            self._loop.call_soon_threadsafe(self._wait)

    def listen(self) -> None:
        """Notice the end of the worker, which sends nothing, even if nothing changes."""
        self._loop.add_reader(self._sock, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                octets = self._sock.recv(4096)
            except ConnectionError:
                octets = b""
            if not octets:
                self.close()

    def close(self) -> None:
        """Close the connection, in the thread of the loop."""
        with self._feeder.lock:
            self._feeder.drop(self)
            if self._sock.fileno() >= 0:
                self._loop.remove_reader(self._sock)
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
        """Send up to ``_FRAMES_A_TURN`` frames; tell whether nothing is left."""
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
            self._feeder.drop(self)
            self._loop.call_soon_threadsafe(self.close)
            return True
        return False

    def _next_frame(self) -> bytes:
        """Return the next frame, b"" if nothing is pending."""
        if self.pending:
            changes: list[Change] = []
            weight = 0
            while self.pending and weight < _FRAME_WEIGHT:
                at = next(iter(self.pending))
                del self.pending[at]
                value = self._feeder.objects.get(at)
                changes.append((*at, value))
                weight += 1 + sum(len(f) for f in value or () if isinstance(f, tuple))
            return channel.frame(("changes", changes))
        if self._told == len(self._feeder.marks):
            return b""
        word, kind = self._feeder.marks[self._told]
        self._told += 1
        return channel.frame((word, [kind]))


class Legacy(NamedTuple):
    """The knowledge of the watcher of the version before: objects, and which kinds are complete."""

    objects: Packed
    kinds: frozenset[str]


async def inherit(address: bytes, kinds: Iterable[str]) -> Legacy:
    """Return what another watcher of the same source knows of ``kinds``.

    A kind that it does not know, in ``_INHERIT_S``, is left out; so is one with an object that this
    version does not understand.
    """
    heard, odd = Packed(), set[str]()  # tuples would leave a heap of holes behind
    wanted = frozenset(kinds)
    complete, missing = set[str](), set(wanted)
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def take(message: channel.Message) -> None:
        word, items = message
        if word == "changes":
            odd.update(kind for kind, _, value in items if not _is_understood(kind, value))
            for kind, key, value in items:
                if value is not None:
                    heard[kind, key] = value
                else:
                    heard.pop((kind, key), None)
            return
        missing.difference_update(items)
        if word == "synced":
            complete.update(items)
        if not missing and not done.done():
            done.set_result(None)

    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_INHERIT_S):
            transport, frames = await loop.create_unix_connection(
                lambda: channel.Frames(take),
                address,  # type: ignore[arg-type] # octets are an address, too
            )
            try:
                await asyncio.wait((done, frames.ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                transport.abort()
    known = wanted & (complete - odd)
    for at in [at for at in heard if at[0] not in known]:
        del heard[at]
    return Legacy(heard, known)


def _is_understood(kind: str, value: tuple[Any, ...] | None) -> bool:
    """Tell whether an object has the fields that this version has."""
    if kind not in OBJECT_TYPES:
        return False
    try:
        OBJECT_TYPES[kind](*(value or ()))
    except TypeError:
        return value is None
    return True


class Subscription:
    """A worker's end: keeps a store equal to the watcher's objects, across broken connections.

    ``changed`` is called for each frame that changed facts, with these facts.
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
        self._marked = asyncio.Event()  # the watcher has said that a kind is complete, or refused
        self._address = address
        self._changed = changed
        self._clock = clock
        self._kinds = kinds
        self._heard: set[ObjectId] = set()  # on this connection, of incomplete kinds
        self._incomplete = set(kinds)

    async def run(self) -> None:
        """Read frames until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self._read()
            self.is_connected = False
            await asyncio.sleep(_RETRY_S)

    async def told(self, kinds: Collection[str]) -> None:
        """Return when every object of ``kinds`` has been heard."""
        while not self.store.has_all(kinds):
            self._marked.clear()
            await self._marked.wait()

    async def _read(self) -> None:
        """Take messages until the connection ends. Raises OSError if it cannot connect."""
        self._heard.clear()
        self._incomplete = set(self._kinds)
        loop = asyncio.get_running_loop()
        # One message for each turn of the loop: without this, a burst of 1,000 slices delayed
        # queries by up to 29 ms.
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
        if word in ("synced", "refused"):
            for kind in items:
                if word == "synced":
                    self._complete(kind)
                else:
                    self.store.refuse(kind)
            self._marked.set()
            if self.store.is_ready and not self.filled.is_set():
                self.filled.set()
                # Objects of a store are in no reference cycle; freeze spares the collector them.
                # With 10,000 Services a full collection took 90 ms.
                gc.freeze()
            return
        self._heard.update((kind, key) for kind, key, _ in items if kind in self._incomplete)
        self._apply(items)

    def _complete(self, kind: str) -> None:
        """Remove the objects of a kind that the watcher did not send before it was complete."""
        gone = [key for key in self.store.keys(kind) if (kind, key) not in self._heard]
        self._apply([(kind, key, None) for key in gone])
        self._heard = {at for at in self._heard if at[0] != kind}
        self._incomplete.discard(kind)
        self.store.synced(kind)

    def _apply(self, changes: list[Change]) -> None:
        seconds = int(self._clock())
        facts: list[Fact] = []
        for change in changes:
            facts += self.store.apply(change, seconds)
        if facts:
            self._changed(facts)
