"""Replies that were asked for once so far, as received octets.

``_relay.c`` files them here; the second query for one takes it out, decodes it and keeps it as an
item. Most external names are asked for once, and cost a dict entry each. Two generations bound
them: when the young generation is full, in replies or in octets, it becomes the old one, and the
old one is dropped.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PART: Final = 8  # of the capacity of `cache`, for each generation
AVERAGE_OCTETS: Final = 512  # for each reply of a generation


class Raw(NamedTuple):
    """A reply's header, question and records; ``until`` and ``stored_at`` are monotonic seconds."""

    until: float
    stored_at: float
    ttl: int
    octets: bytes


class Fresh:
    """Replies by question octets, folded: at most a quarter of ``capacity``."""

    def __init__(self, capacity: int) -> None:
        self.young: dict[bytes, tuple[float, float, int, bytes]] = {}
        self.old: dict[bytes, tuple[float, float, int, bytes]] = {}
        self.octets = 0  # of the young ones, taken or not
        self._evicted = 0
        self.limit = max(1, capacity // PART)

    def take(self, key: bytes) -> Raw | None:
        """Remove and return a reply, even if its TTL has ended."""
        found = self.young.pop(key, None)
        older = self.old.pop(key, None)
        found = found or older
        return None if found is None else Raw(*found)

    @property
    def is_full(self) -> bool:
        """Whether a new generation is due."""
        return len(self.young) >= self.limit or self.octets >= self.limit * AVERAGE_OCTETS

    def age(self) -> None:
        """Start a new generation; call this when it is due. The dicts stay the same objects."""
        self.octets = 0
        self._evicted += len(self.old)
        self.old.clear()
        self.old.update(self.young)
        self.young.clear()

    def evictions(self) -> int:
        """Return how many replies were dropped since the last call."""
        evicted, self._evicted = self._evicted, 0
        return evicted

    def __len__(self) -> int:
        return len(self.young) + len(self.old)
