"""Which hits are looked at: one of each ``every`` in a row, at a random place among them.

A hit costs a microsecond or two, to look at one costs several. So ``every`` follows the rate: all
hits are looked at while they are few, and of many about as many. A place at random keeps apart what
always comes in the same order, such as A and AAAA of one name. The chosen hit stands for ``every``.

The state is in octets that ``_drain.c`` changes, too; ``draw`` is its specification.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final

BUDGET: Final = 64  # hits looked at between two ticks, and as many again after each doubling
MAX_EVERY: Final = 1 << 14
MAX_RECORDS: Final = 4096  # then no hit is looked at: nobody has taken them
# Numbers of the state: struct sampler in _packet.h.
_EVERY, _LEFT, _BEHIND, _WINDOW, _TAKEN, _BUDGET, _RANDOM = range(7)

# How many hits it stands for, query, client, seconds it took, monotonic second it began, reply.
Record = tuple[int, bytes, tuple[str, int], float, float, bytes]


Parts = tuple[bytearray, list[Record]]  # as C gets a sampler


class Sampler:
    """The hits of one socket, or of one lane of the relay, that are looked at.

    ``listener`` and ``transport`` are theirs, ``path`` says where the answers are from.
    """

    def __init__(self, listener: str, transport: str, path: str, seed: int = 1) -> None:
        self.listener, self.transport, self.path = listener, transport, path
        self.state = bytearray(4 * 7)
        self.records: list[Record] = []
        self.taken_up = 0  # hits since the last tick, as counted by the collector
        self._numbers = memoryview(self.state).cast("i")
        self._numbers[_EVERY], self._numbers[_BUDGET] = 1, BUDGET
        self._numbers[_RANDOM] = (seed * 0x9E3779B1 & 0x7FFFFFFF) or 1
        self._begin(0)

    @property
    def parts(self) -> Parts:
        """The state and the list of records, for C."""
        return self.state, self.records

    @property
    def every(self) -> int:
        """Out of how many hits one is looked at."""
        return self._numbers[_EVERY]

    def draw(self, hits: int = 1) -> list[tuple[int, int]]:
        """Return which of the next ``hits`` are looked at, and how many each stands for."""
        numbers = self._numbers
        if numbers[_LEFT] > hits:
            numbers[_LEFT] -= hits
            return []
        found, at = list[tuple[int, int]](), 0
        while numbers[_LEFT] <= hits - at:
            at += numbers[_LEFT]
            found.append((at - 1, numbers[_WINDOW]))
            numbers[_TAKEN] += 1
            if numbers[_TAKEN] >= numbers[_BUDGET] and numbers[_EVERY] < MAX_EVERY:
                numbers[_EVERY] *= 2
                numbers[_TAKEN] = 0
            self._begin(numbers[_BEHIND])
        numbers[_LEFT] -= hits - at
        return found

    def add(self, record: Record) -> None:
        """Keep a hit that is looked at."""
        if len(self.records) < MAX_RECORDS:
            self.records.append(record)

    def take(self) -> list[Record]:
        """Return the hits looked at, and forget them."""
        records = self.records[:]
        self.records.clear()  # C holds this list
        return records

    def adapt(self, hits: int) -> None:
        """Set ``every`` by the hits since the last tick."""
        numbers, every = self._numbers, 1
        while every * BUDGET < hits and every < MAX_EVERY:
            every *= 2
        numbers[_TAKEN] = 0
        is_less = every < numbers[_EVERY]
        numbers[_EVERY] = every
        if is_less:  # do not wait for the end of a long row
            self._begin(0)

    def _begin(self, behind: int) -> None:
        """Begin a new row, ``behind`` hits from now; xorshift32 chooses the place in it."""
        numbers = self._numbers
        x = numbers[_RANDOM] & 0xFFFFFFFF
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        numbers[_RANDOM] = x - (1 << 32) if x >= 1 << 31 else x
        every = numbers[_EVERY]
        place = x >> 8 & (every - 1)
        numbers[_LEFT], numbers[_BEHIND] = behind + place + 1, every - 1 - place
        numbers[_WINDOW] = every
