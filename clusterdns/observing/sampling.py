"""Which queries are looked at: of each kind one of ``every`` in a row, at a random place in it.

A hit costs a microsecond or two, to look at one costs several. So ``every`` follows the rate: all
are looked at while they are few, and of many about as many. Denials are a kind of their own, and so
are failures and slow replies: while these are few, each of them is seen, whatever else is asked. A
place at random keeps apart what always comes in the same order, such as A and AAAA of one name. The
chosen query stands for ``every``.

The state is in octets that ``_sample.c`` changes, too; ``draw`` is its specification.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final

from clusterdns.wire import rr

PLAIN, DENIED, FAILED = KINDS = range(3)  # FAILED also has the slow ones
SLOW_S: Final = 0.1
BUDGET: Final = 32  # of a kind looked at between two ticks, and as many again after each doubling
MAX_EVERY: Final = 1 << 14
MAX_RECORDS: Final = 4096  # then no hit is looked at: nobody has taken them
# Numbers of the state of each kind: struct row in _sample.c.
_EVERY, _LEFT, _BEHIND, _WINDOW, _TAKEN, _BUDGET, _RANDOM, _START, _COUNTED, _NUMBERS = range(10)
STATE_OCTETS: Final = 4 * _NUMBERS * len(KINDS)

# How many queries it stands for, query, client, seconds it took, monotonic second it began, reply.
Record = tuple[int, bytes, tuple[str, int], float, float, bytes]


Parts = tuple[bytearray, list[Record]]  # as C gets a sampler


def kind_of(rcode: int, seconds: float = 0.0) -> int:
    """Return the kind of a reply that took so long."""
    if seconds < SLOW_S:
        if not rcode:
            return PLAIN
        if rcode == rr.NXDOMAIN:
            return DENIED
    return FAILED


KINDS_AT_ONCE: Final = tuple(kind_of(rcode) for rcode in range(16))  # by the bits in the header


class Sampler:
    """The queries of one socket, one lane of the relay or one chain that are looked at.

    ``listener`` and ``transport`` are theirs, ``path`` says where the answers are from.
    """

    def __init__(self, listener: str, transport: str, path: str, seed: int = 1) -> None:
        self.listener, self.transport, self.path = listener, transport, path
        self.state = bytearray(STATE_OCTETS)
        self.records: list[Record] = []
        numbers = memoryview(self.state).cast("i")
        self._rows = [numbers[kind * _NUMBERS :][:_NUMBERS] for kind in KINDS]
        for kind, row in enumerate(self._rows):
            row[_EVERY], row[_BUDGET] = 1, BUDGET
            row[_RANDOM] = ((seed + kind) * 0x9E3779B1 & 0x7FFFFFFF) or 1
            _begin(row, 0)

    @property
    def parts(self) -> Parts:
        """The state and the list of records, for C."""
        return self.state, self.records

    def every(self, kind: int = PLAIN) -> int:
        """Return out of how many of a kind one is looked at."""
        return self._rows[kind][_EVERY]

    def skips(self, kind: int) -> bool:
        """Tell whether the next query of a kind is not looked at; otherwise ``draw`` comes next.

        That is nearly always so where it matters, and costs less than ``draw`` says it.
        """
        row = self._rows[kind]
        left = row[_LEFT]
        if left > 1:
            row[_LEFT] = left - 1
            return True
        return False

    def draw(self, kind: int, queries: int = 1) -> list[tuple[int, int]]:
        """Return which of the next ``queries`` of a kind are looked at; each stands for so many."""
        row = self._rows[kind]
        left = row[_LEFT]
        if left > queries:
            row[_LEFT] = left - queries
            return []
        found, at = list[tuple[int, int]](), 0
        while row[_LEFT] <= queries - at:
            at += row[_LEFT]
            row[_LEFT] = 0
            found.append((at - 1, row[_WINDOW]))
            row[_TAKEN] += 1
            if row[_TAKEN] >= row[_BUDGET] and row[_EVERY] < MAX_EVERY:
                row[_EVERY] *= 2
                row[_TAKEN] = 0
            _begin(row, row[_BEHIND])
        row[_LEFT] -= queries - at
        return found

    def add(self, record: Record) -> None:
        """Keep a query that is looked at."""
        if len(self.records) < MAX_RECORDS:
            self.records.append(record)

    def take(self) -> list[Record]:
        """Return the queries looked at, and forget them."""
        records = self.records[:]
        self.records.clear()  # C holds this list
        return records

    def adapt(self) -> None:
        """Set ``every`` of each kind by how many there were since the last time."""
        for row in self._rows:
            queries, every = _count(row), 1
            while every * BUDGET < queries and every < MAX_EVERY:
                every *= 2
            row[_TAKEN] = 0
            is_less = every < row[_EVERY]
            row[_EVERY] = every
            if is_less:  # do not wait for the end of a long row
                _begin(row, 0)
            row[_COUNTED], row[_START] = 0, row[_LEFT]


def _count(row: memoryview[int]) -> int:
    """Return how many queries there were of a kind."""
    return row[_COUNTED] + row[_START] - row[_LEFT]


def _begin(row: memoryview[int], behind: int) -> None:
    """Begin a new row, ``behind`` queries from now; xorshift32 chooses the place in it."""
    row[_COUNTED] = _count(row)
    x = row[_RANDOM] & 0xFFFFFFFF
    x ^= x << 13 & 0xFFFFFFFF
    x ^= x >> 17
    x ^= x << 5 & 0xFFFFFFFF
    row[_RANDOM] = x - (1 << 32) if x >= 1 << 31 else x
    every = row[_EVERY]
    place = x >> 8 & (every - 1)
    row[_LEFT] = row[_START] = behind + place + 1
    row[_BEHIND] = every - 1 - place
    row[_WINDOW] = every
