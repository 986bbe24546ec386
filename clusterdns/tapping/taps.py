"""Who in a server block is told of exchanges with upstream servers; shared by `Block.shared`.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from clusterdns.tapping.payload import Socket
from clusterdns.wire.message import Query
from clusterdns.wire.reading import Reply


class Exchanged(NamedTuple):
    """A query that went to an upstream server, and the reply if there was one."""

    socket: Socket
    packet: bytes  # the query as it was sent
    reply: Reply | None
    began_s: float  # monotonic
    seconds: float  # it took


class Tap(Protocol):
    """Who is told."""

    def forwarded(self, query: Query, exchanged: Exchanged) -> None:
        """Look at an exchange that a client's query has caused."""


class Taps:
    """All who are told in a server block."""

    def __init__(self) -> None:
        self.all: list[Tap] = []
