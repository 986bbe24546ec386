"""What every name has been and when, so that an answer can be told from a wrong one.

A state of a name is the set of its addresses, or None for a name that does not exist. An answer is
right if its state was in force at some time between ``STALE_S`` before the query and the reply. While
the server cannot know of changes, as in an outage of the API, that time begins before the outage.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Mapping

State = frozenset[str] | None

STALE_S = (
    1.0  # from a change to the last answer that does not know it; 0.1 at p99 on an idle machine
)


class Windows:
    """Stretches of time, each with a name, that overlap as they like."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float, str]] = []
        self._lock = threading.Lock()

    def add(self, start: float, end: float, name: str) -> None:
        with self._lock:
            self._found.append((start, end, name))

    def close(self, start: float, end: float, name: str) -> None:
        """Set the end of a stretch that was added with an open one."""
        with self._lock:
            self._found.remove((start, float("inf"), name))
            self._found.append((start, end, name))

    def touching(self, start: float, end: float) -> list[str]:
        """Return the names of the stretches that share a moment with this one."""
        with self._lock:
            return [name for a, b, name in self._found if a <= end and start <= b]

    def start_before(self, at: float) -> float:
        """Return the start of the stretches without a gap between them that ``at`` is in."""
        with self._lock:
            for a, b, _ in sorted(self._found, key=lambda found: -found[1]):
                if a <= at <= b:
                    at = a
            return at


class Model:
    """The states of all names over time. Any thread may ask, one changes them."""

    def __init__(self) -> None:
        self._history: dict[str, tuple[list[float], list[State]]] = {}
        self.blind: dict[str, Windows] = {"api": Windows(), "manifests": Windows()}

    def put(self, name: str, state: State, now: float) -> None:
        """Say what a name is from now on."""
        times, states = self._history.setdefault(name, ([], []))
        if not states or states[-1] != state:
            states.append(state)  # before its time: readers look at the times first
            times.append(now)

    def now(self, name: str) -> State:
        """Return what a name is."""
        return self._history[name][1][-1]

    def latest(self, name: str, count: int) -> list[State]:
        """Return the last states of a name, the newest last."""
        return self._history[name][1][-count:]

    def snapshot(self, suffix: str) -> dict[str, State]:
        """Return what the names below ``suffix`` are."""
        return {name: self.now(name) for name in self._history if name.endswith(suffix)}

    def restored(self, states: Mapping[str, State], now: float) -> None:
        """Set all names to what they were in a backup; those it does not know are gone."""
        for name in self._history:
            if name in states:
                self.put(name, states[name], now)

    def allowed(
        self, name: str, source: str, sent: float, received: float, *, forgives: bool = True
    ) -> Iterable[State]:
        """Return the states of which any may be the answer; those of an outage only if it forgives."""
        times, states = self._history[name]
        since = sent - self._slack(source)
        if forgives:
            since = self.blind[source].start_before(since)
        first = max(0, bisect.bisect_right(times, since - STALE_S) - 1)
        last = bisect.bisect_right(times, received)
        return states[first:last]

    def _slack(self, source: str) -> float:
        # A directory is looked through every second, and a removal is believed at the second look.
        return {"api": 0.0, "manifests": 3.0}[source]
