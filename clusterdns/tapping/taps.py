"""The taps of a server block on exchanges with upstream servers; see `Block.shared`.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from clusterdns.tapping.payload import Socket
from clusterdns.wire.message import Query
from clusterdns.wire.reading import Reply


class Exchanged(NamedTuple):
    """A query to an upstream server, and its reply if there was one."""

    socket: Socket
    packet: bytes  # the query as it was sent
    reply: Reply | None
    began_s: float  # monotonic
    seconds: float  # it took


class Tap(Protocol):
    """Is told of exchanges."""

    def forwarded(self, query: Query, exchanged: Exchanged) -> None:
        """Record an exchange that a client's query caused."""


class Taps:
    """All taps of a server block."""

    def __init__(self) -> None:
        self.all: list[Tap] = []
