"""The event loop of a worker: asyncio's, but its wait for events answers queries.

Where each query is a wake-up of its own, going around asyncio's loop once costs more than its
answer: a handle, its context, timers, the time. ``PacketSelector.wait`` waits on the same epoll and
looks after what is in ``readers`` by itself, in C where ``_drain.c`` was compiled; it returns when
something has been scheduled, when another descriptor is ready, or when it is time. A query for a
Service costs 1.18 times what it does the echo server of the benchmarks at 5,000 a second, and 1.10
times at 20,000; it was 1.63 and 1.34.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import select
import selectors
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVarTuple

from clusterdns.serving import native

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from clusterdns.serving._drain import Reader, RelayReader

BATCH = 64  # descriptors looked after at a stretch
Ts = TypeVarTuple("Ts")
_log = logging.getLogger(__name__)


class PacketSelector(selectors.EpollSelector):
    """asyncio's selector; ``readers`` says how descriptors are looked after meanwhile.

    What is read in Python has a function that tells whether asyncio has something to do then; what
    is read in C has its arguments, and such a function for what is left over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Reader | RelayReader | Callable[[], bool]] = {}
        self.has_work = False  # something has been scheduled
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))
        self._wait: Callable[[float, dict[int, Any]], list[int]] = self.wait
        if native.compiled is not None:
            self._wait = functools.partial(native.compiled.wait, self._epoll.fileno())

    def close(self) -> None:
        """Let go of both descriptors."""
        self._epoll.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready of asyncio's own."""
        if not self.readers or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        try:
            wait_s = math.inf if timeout is None else timeout
            self._wait(wait_s, self.readers)
        except Exception:  # a bug of ours: from now on asyncio calls for each event
            _log.exception("packet loop")
            self.readers.clear()
        return super().select(0)

    def wait(self, timeout_s: float, readers: Mapping[int, Callable[[], bool]]) -> list[int]:
        """Wait until there is something for asyncio; return the descriptors that have ended it.

        The specification of what ``_drain.c`` does, and what runs where it was not compiled.
        """
        found, now = list[int](), time.monotonic()
        end = now + timeout_s
        while not found and now <= end:
            events = self._epoll.poll(None if end == math.inf else end - now, BATCH)
            if not events:
                break
            for number, _ in events:
                read = readers.get(number)
                if read is None or read():
                    found.append(number)
            now = time.monotonic()
        return found

    def call(self, read: Callable[[], None]) -> bool:
        """Read, and tell whether asyncio has something to do now."""
        self.has_work = False
        try:
            read()
        except Exception:
            _log.exception("packet loop")
            return True
        return self.has_work


class PacketLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a ``PacketSelector``."""

    def __init__(self) -> None:
        self.packets = PacketSelector()
        super().__init__(self.packets)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Do as asyncio does, and end the wait."""
        self.packets.has_work = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Do as asyncio does, and end the wait: it may have been for longer."""
        self.packets.has_work = True
        return super().call_at(when, callback, *args, context=context)


def register(sock: FileDescriptorLike, read: Callable[[], None]) -> None:
    """Call ``read`` when a socket is readable, while the loop waits if it is a worker's."""
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, read)
    if isinstance(loop, PacketLoop):
        loop.packets.readers[_number(sock)] = functools.partial(loop.packets.call, read)


def register_in_c(
    sock: FileDescriptorLike,
    read: Callable[[], None],
    arguments: tuple[Any, ...],
    see_to: Callable[[], None],
) -> None:
    """Let C read when a socket is readable, and call ``see_to`` for the packets it leaves."""
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, read)
    if isinstance(loop, PacketLoop):
        packets = loop.packets
        reader: Any = (*arguments, functools.partial(packets.call, see_to))
        packets.readers[_number(sock)] = reader


def unregister(sock: FileDescriptorLike) -> None:
    """Stop calling for a socket; call this before it is closed."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(sock)
    if isinstance(loop, PacketLoop):
        loop.packets.readers.pop(_number(sock), None)


def _number(sock: FileDescriptorLike) -> int:
    return sock if isinstance(sock, int) else sock.fileno()
