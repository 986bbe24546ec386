"""Which of several upstream servers is asked, and in which turn.

``order`` is the policy of one query, ``Round`` goes through it past servers that are down, and
``Pace`` keeps the measured speed of a server. With `policy fastest` servers are put in bands of
speed: within the first band they share the load, and now and then another is asked as well, so that
one that has become fast again is found out. (CoreDNS: plugin/forward/policy.go, forward.go)

Pure: no sockets, clock, threads or randomness; all of it comes as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

FASTEST = "fastest"
POLICIES = ("random", "round_robin", "sequential", FASTEST)
BAND = 1.5  # as slow as this times the fastest is as good as the fastest,
BAND_S = 0.01  # and so is a difference that nobody notices
EXPLORE = 0.02  # of the queries go to a server at random as well
HEDGE_LEAST_S = 0.1
HEDGE_FACTOR = 4  # times the smoothed round trip: beyond the 99th percentile of most servers
_GAIN = 0.125  # RFC 6298 section 2
_LATE_GAIN = 0.5  # one that does not reply is left soon


class Random(Protocol):
    """The methods of a random generator that the policies use."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""

    def shuffle(self, x: list[int]) -> None:
        """Put a list in random order."""

    def choice(self, seq: list[int]) -> int:
        """Return any element."""


class Pace:
    """How long a server takes, smoothed; ``seconds`` is None until it has replied or been late."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def replied(self, seconds: float) -> None:
        """Take in the round trip of a reply."""
        known = self.seconds
        self.seconds = seconds if known is None else known + _GAIN * (seconds - known)

    def late(self, seconds: float) -> None:
        """Take in that there was no reply for so long."""
        known = self.seconds
        if known is None:
            self.seconds = seconds
        elif seconds > known:
            self.seconds = known + _LATE_GAIN * (seconds - known)


def hedge_s(paces: Iterable[Pace]) -> float:
    """Return after how many seconds another server is asked as well: the best sets the measure."""
    best = min((pace.seconds or 0.0 for pace in paces), default=0.0)
    return max(HEDGE_LEAST_S, HEDGE_FACTOR * best)


def order(policy: str, count: int, turn: int, rng: Random, paces: Sequence[Pace] = ()) -> list[int]:
    """Return the indexes of ``count`` servers in the order to ask them (CoreDNS: proxy policy).

    ``turn`` counts the queries so far; ``paces``, one a server, matter to `fastest` only.
    """
    indexes = list(range(count))
    if count == 1:
        return indexes
    if policy == "random":
        rng.shuffle(indexes)
    elif policy == "round_robin":
        first = indexes.pop(turn % count)
        indexes.insert(0, first)
    elif policy == FASTEST:
        return _by_pace(indexes, rng, [pace.seconds or 0.0 for pace in paces])
    return indexes


def _by_pace(indexes: list[int], rng: Random, seconds: list[float]) -> list[int]:
    """Return the first band in random order, then the others, the fastest first.

    A server that nothing is known of counts as fast: that is how something becomes known of it.
    """
    rng.shuffle(indexes)
    best = min(seconds[i] for i in indexes)
    edge = max(best * BAND, best + BAND_S)
    return sorted(indexes, key=lambda i: 0.0 if seconds[i] <= edge else seconds[i])


class Round:
    """Which servers one query is sent to, one after the other (CoreDNS: forward.go ServeDNS).

    ``turns`` is gone through again and again, past servers that are down: those that have failed
    more than ``max_fails`` checks in a row, if that is not 0. Where all are down, the checks are
    not believed and any of them is taken, or none if the round ``fails_fast``.
    """

    __slots__ = ("_down", "_fails_fast", "_max_fails", "_next", "_random", "_turns", "broken")

    def __init__(self, turns: list[int], *, max_fails: int, fails_fast: bool, rng: Random) -> None:
        self.broken = 0  # how many times all were down
        self._turns = turns
        self._max_fails = max_fails
        self._fails_fast = fails_fast
        self._random = rng
        self._next = self._down = 0

    @property
    def is_over(self) -> bool:
        """Whether the last server was taken and the next is the first again."""
        return self._next >= len(self._turns)

    def begin_with(self, index: int) -> None:
        """Take note that this server has been asked first."""
        self._turns.remove(index)
        self._turns.insert(0, index)
        self._next = 1

    def take(self, fails: list[int]) -> int | None:
        """Return the index of the server to ask; ``fails`` are the failed checks of each."""
        while True:
            if self.is_over:
                self._next = self._down = 0
            found = self._turns[self._next]
            self._next += 1
            if not self._max_fails or fails[found] <= self._max_fails:
                return found
            self._down += 1
            if self._down == len(self._turns):
                self.broken += 1
                return None if self._fails_fast else self._random.choice(self._turns)
