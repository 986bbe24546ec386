"""The choice of the upstream server for a query, and of the next ones.

``order`` is the policy of one query, ``Round`` goes through it past servers that are down, and
``Pace`` keeps the measured speed of a server. `policy fastest` puts servers into bands of speed:
those of the first band share the load, and from time to time another server is asked as well, to
notice when it has become fast again. (CoreDNS: plugin/forward/policy.go, forward.go)

Pure: no sockets, clock, threads or randomness; they are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

FASTEST: Final = "fastest"
POLICIES: Final = ("random", "round_robin", "sequential", FASTEST)
BAND: Final = 1.5  # the first band: up to this factor of the fastest,
BAND_S: Final = 0.01  # or this difference, which nobody notices
EXPLORE: Final = 0.02  # share of the queries that another, random server is asked as well
HEDGE_LEAST_S: Final = 0.1
HEDGE_FACTOR: Final = 4  # times the smoothed round trip: beyond the 99th percentile of most servers
_GAIN: Final = 0.125  # RFC 6298 section 2
_LATE_GAIN: Final = 0.5  # of a lost reply: leave a silent server soon


class Random(Protocol):
    """The methods of a random generator that the policies use."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""

    def shuffle(self, x: list[int]) -> None:
        """Put a list in random order."""

    def choice(self, seq: list[int]) -> int:
        """Return any element."""


class Pace:
    """The smoothed time a server takes; ``seconds`` is None before the first result."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def replied(self, seconds: float) -> None:
        """Add the round trip of a reply."""
        known = self.seconds
        self.seconds = seconds if known is None else known + _GAIN * (seconds - known)

    def late(self, seconds: float) -> None:
        """Add a time without reply."""
        known = self.seconds
        if known is None:
            self.seconds = seconds
        elif seconds > known:
            self.seconds = known + _LATE_GAIN * (seconds - known)


def hedge_s(paces: Iterable[Pace]) -> float:
    """Return the seconds after which another server is asked as well, by the fastest pace."""
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

    A server without a pace counts as fast, so that it gets one.
    """
    rng.shuffle(indexes)
    best = min(seconds[i] for i in indexes)
    edge = max(best * BAND, best + BAND_S)
    return sorted(indexes, key=lambda i: 0.0 if seconds[i] <= edge else seconds[i])


class Round:
    """The servers of one query, one after the other (CoreDNS: forward.go ServeDNS).

    It repeats ``turns`` without the servers that are down: those with more than ``max_fails``
    failed checks in a row, unless that is 0. If all are down, it ignores the checks and takes any
    server, or none if it ``fails_fast``.
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
        """Whether every server had its turn and the next is the first again."""
        return self._next >= len(self._turns)

    def begin_with(self, index: int) -> None:
        """Note that this server was asked first."""
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
