"""The most frequent of many: space-saving sketches (Metwally, Agrawal, El Abbadi 2005), weighted.

A sketch of ``k`` places counts at most ``k`` keys. A new key takes the place of the one counted
least, and inherits its count as its possible error. After n in all, each count is at least the true
one, and too high by its error at most, which is at most n / k; so each key with more than n / k is
in the sketch.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=tuple[object, ...] | bytes | str)


class Sketch(Generic[Key]):
    """The counts of the most frequent keys."""

    __slots__ = ("_counts", "_errors", "_least", "k")

    def __init__(self, k: int) -> None:
        self.k = k
        self._counts: dict[Key, int] = {}
        self._errors: dict[Key, int] = {}
        # A heap of each key with a count that it had: the true one is the same or higher.
        self._least: list[tuple[int, Key]] = []

    def add(self, key: Key, times: int = 1) -> None:
        """Count a key; takes O(log k) on average."""
        counts = self._counts
        if key in counts:
            counts[key] += times
        elif len(counts) < self.k:
            counts[key] = times
            heapq.heappush(self._least, (times, key))
        else:
            self._displace(key, times)

    def _displace(self, key: Key, times: int) -> None:
        counts, least = self._counts, self._least
        while True:
            count, other = least[0]
            now = counts[other]
            if now == count:
                break
            heapq.heapreplace(least, (now, other))
        del counts[other]
        self._errors.pop(other, None)
        counts[key] = count + times
        self._errors[key] = count
        heapq.heapreplace(least, (count + times, key))

    @property
    def floor(self) -> int:
        """The most that a key may have been seen that is not in the sketch."""
        return min(self._counts.values()) if len(self._counts) >= self.k else 0

    def counted(self) -> dict[Key, tuple[int, int]]:
        """Return count and error of each key."""
        errors = self._errors
        return {key: (count, errors.get(key, 0)) for key, count in self._counts.items()}


def merged(
    sketches: Iterable[tuple[int, Mapping[Key, tuple[int, int]]]], k: int
) -> list[tuple[Key, tuple[int, int]]]:
    """Return the ``k`` most frequent keys of several sketches, the most frequent first.

    Each sketch is its floor and what it has counted. A key that is missing in one may have been
    seen as often as its floor: that is added to count and error, so that both go on to hold.
    """
    parts = [*sketches]
    floors = sum(floor for floor, _ in parts)
    found: dict[Key, tuple[int, int]] = {}
    for floor, counted in parts:
        for key, (count, error) in counted.items():
            before, wrong = found.get(key, (floors, floors))
            found[key] = (before - floor + count, wrong - floor + error)
    return heapq.nsmallest(k, found.items(), key=lambda item: (-item[1][0], item[0]))
