"""The last queries, in memory: a ring bounded in octets, which waits for no reader.

A reader asks for what is newer than a number. Numbers are microseconds of a monotonic clock, and
one more where that would repeat one, so those of several workers can be put in one order, and one
number says how far a reader has come with all of them.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

MAX_OCTETS: Final = 2**20
_MAX_MARKS: Final = 4096  # with four a second, those of 17 minutes
# number, unix second, seconds, octets, type, class, rcode, port, stands for, listener, transport,
# path, octets of the host
_HEAD: Final = struct.Struct("<QddIHHHHHBBBB")
_SLOT: Final = 41  # octets of a bytes object besides its own, and its place
_MAX_OCTET: Final = 255
Plain = dict[str, Any]


class Seen(NamedTuple):
    """A query and its reply: ``number`` is 0 before it is in a ring.

    ``at`` is the unix second it came, ``seconds`` what the reply took, ``size`` its octets,
    ``stands_for`` the queries it was chosen from. ``listener``, ``transport`` and ``path`` are
    numbers that the owner of the ring knows. ``qname`` is folded.
    """

    number: int
    at: float
    seconds: float
    size: int
    qtype: int
    qclass: int
    rcode: int
    port: int
    stands_for: int
    listener: int
    transport: int
    path: int
    host: str
    qname: bytes


Numbers = tuple[int, float, float, int, int, int, int, int, int, int, int, int]


class Part(NamedTuple):
    """An answer to a reader: queries, the number it has come to, and how many it has missed."""

    seen: list[Seen]
    next: int
    lost: int


class Ring:
    """The last queries of one worker; ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float], max_octets: int = MAX_OCTETS) -> None:
        self._clock = clock
        self._max_octets = max_octets
        self._held: deque[bytes] = deque()
        self.octets = 0
        self._last = 0  # number given out last
        self._gone = 0  # number of the last query that has made room
        self._put = 0  # queries so far
        self._marks: deque[tuple[int, int]] = deque([(0, 0)], _MAX_MARKS)  # number, queries so far

    def put(self, numbers: Numbers, host: str, qname: bytes) -> None:
        """Add a query, with the numbers of ``Seen``; the oldest ones make room."""
        text = host.encode()[:_MAX_OCTET]
        self._last = number = max(self._last + 1, int(self._clock() * 1_000_000))
        octets = _HEAD.pack(number, *numbers[1:], len(text)) + text + qname
        self._held.append(octets)
        self._put += 1
        self.octets += len(octets) + _SLOT
        while self.octets > self._max_octets:
            gone = self._held.popleft()
            self.octets -= len(gone) + _SLOT
            self._gone = _HEAD.unpack_from(gone)[0]

    def __len__(self) -> int:
        return len(self._held)

    def mark(self) -> int:
        """Return the number that all queries so far have at most, and all later ones exceed.

        At a mark, a reader learns exactly how many queries it has missed since.
        """
        self._last = max(self._last, int(self._clock() * 1_000_000))
        if self._marks[-1][1] != self._put:
            self._marks.append((self._last, self._put))
        return self._last

    def since(self, number: int, limit: int, matches: Callable[[Seen], bool]) -> Part:
        """Return the first ``limit`` queries that are newer than ``number`` and match.

        For number 0 it is the last ``limit``, and none is lost.
        """
        end = self.mark()
        newer = deque[Seen]()
        for octets in reversed(self._held):
            seen = _read(octets)
            if seen.number <= number or (not number and len(newer) >= limit):
                break
            if matches(seen):
                newer.appendleft(seen)
        found = [*newer][:limit]
        if len(newer) > limit:
            end = found[-1].number
        return Part(found, end, self._lost(number) if number else 0)

    def _lost(self, number: int) -> int:
        """Return how many queries newer than ``number`` have made room for others.

        Between two marks it counts from the first: it may be too high.
        """
        if self._gone <= number:
            return 0
        marks = [*self._marks]
        place = max(0, bisect_right(marks, (number, self._put)) - 1)
        return max(0, self._put - len(self._held) - marks[place][1])


def merged(
    parts: Iterable[tuple[list[Plain], int, int]], since: int, limit: int
) -> tuple[list[Plain], int, int]:
    """Return the parts of several rings as one: queries with a ``number``, ``next`` and ``lost``.

    Queries beyond the number that all of them have come to are left for the next time.
    """
    all_parts = [*parts]
    end = min((upto for _, upto, _ in all_parts), default=since)
    found = [each for queries, _, _ in all_parts for each in queries if each["number"] <= end]
    found.sort(key=itemgetter("number"))
    if since and len(found) > limit:
        end = found[limit - 1]["number"]
        found = [each for each in found if each["number"] <= end]  # two may have the same
    elif not since:
        found = found[-limit:]
    return found, end, sum(lost for _, _, lost in all_parts)


def _read(octets: bytes) -> Seen:
    *numbers, length = _HEAD.unpack_from(octets)
    start = _HEAD.size + length
    return Seen._make((*numbers, octets[_HEAD.size : start].decode(), octets[start:]))
