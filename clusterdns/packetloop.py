"""The event loop of a worker: asyncio's, but its wait for events answers queries.

Where each query is a wake-up of its own, going around asyncio's loop once costs more than its
answer: a handle, its context, timers, the time. ``wait`` of ``_drain.c`` waits on the same epoll
and looks after the sockets in ``PacketSelector.readers`` by itself; it returns when something is
left over for Python, when another descriptor is ready, or when it is time. A query for a Service
costs 1.18 times what it does the echo server of the benchmarks at 5,000 a second, and 1.10 times at
20,000; it was 1.63 and 1.34.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, TypeVarTuple

from clusterdns import extension

if TYPE_CHECKING:
    from clusterdns._drain import HandedOver, Reader

Ts = TypeVarTuple("Ts")
_log = logging.getLogger(__name__)


class PacketSelector(selectors.EpollSelector):
    """asyncio's selector; ``readers`` says how descriptors are looked after meanwhile.

    A UDP socket has a ``Reader``, the relay a list for what it hands over, and what is read in
    Python a function that tells whether asyncio has something to do then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Reader | list[HandedOver] | Callable[[], bool]] = {}
        self.has_work = False  # something has been scheduled

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or has left something over for Python."""
        if not self.readers or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        left = self._wait(math.inf if timeout is None else timeout)
        found = super().select(0)
        ready = {key.fd for key, _ in found}
        for number in left:
            if number not in ready and isinstance(self.readers.get(number), tuple | list):
                found.append((self.get_key(number), selectors.EVENT_READ))
        return found

    def _wait(self, timeout_s: float) -> list[int]:
        assert extension.compiled is not None
        try:
            found: list[int] = extension.compiled.wait(self.fileno(), timeout_s, self.readers)
        except Exception:  # a bug of ours: from now on asyncio calls for each event
            _log.exception("packet loop")
            self.readers.clear()
            return []
        return found

    def call(self, read: Callable[[], None]) -> bool:
        """Read, and tell whether asyncio has something to do now."""
        self.has_work = False
        read()
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


def attend(number: int, reader: Reader | list[HandedOver]) -> None:
    """Have the wait of the running loop look after a descriptor that asyncio knows already.

    In any other loop, and where nothing was compiled, asyncio goes on calling for it.
    """
    _attended()[number] = reader


def attend_with(number: int, read: Callable[[], None]) -> None:
    """Have the wait call ``read``, likewise."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, PacketLoop):
        _attended()[number] = functools.partial(loop.packets.call, read)


def forget(number: int) -> None:
    """Leave a descriptor to asyncio, if it is not closed now."""
    _attended().pop(number, None)


def _attended() -> dict[int, Reader | list[HandedOver] | Callable[[], bool]]:
    loop = asyncio.get_running_loop()
    if isinstance(loop, PacketLoop) and extension.compiled is not None:
        return loop.packets.readers
    return {}
