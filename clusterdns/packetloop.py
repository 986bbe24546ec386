"""The event loop of a worker: asyncio's, but its wait for events answers queries.

Where each query is a wake-up of its own, going around asyncio's loop once costs more than its
answer: a handle, its context, timers, the time. ``wait`` of ``_drain.c`` waits on the same epoll
and looks after the sockets in ``PacketSelector.readers`` by itself; it returns when something is
left over for Python, when another descriptor is ready, or when it is time. A query for a Service
costs 1.18 × what it does the echo server of the benchmarks at 5,000 a second, and 1.10 × at 20,000;
it was 1.63 and 1.34.
"""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
from typing import TYPE_CHECKING

from clusterdns import extension

if TYPE_CHECKING:
    from clusterdns._drain import HandedOver, Reader

_log = logging.getLogger(__name__)


class PacketSelector(selectors.EpollSelector):
    """asyncio's selector; ``readers`` says how descriptors are looked after meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Reader | list[HandedOver]] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or has left something over for Python."""
        if not self.readers or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        left = self._wait(math.inf if timeout is None else timeout)
        found = super().select(0)
        ready = {key.fd for key, _ in found}
        for number in left:
            if number in self.readers and number not in ready:
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


class PacketLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a ``PacketSelector``."""

    def __init__(self) -> None:
        self.packets = PacketSelector()
        super().__init__(self.packets)


def readers() -> dict[int, Reader | list[HandedOver]]:
    """Return the readers of the running loop; those of another loop are nobody's."""
    loop = asyncio.get_running_loop()
    return loop.packets.readers if isinstance(loop, PacketLoop) else {}
