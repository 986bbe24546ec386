"""Delays before an API server is asked again, so that a failing one is not flooded.

``Backoff`` is one reflector's own: delays that grow with each failure in a row, with jitter.
``Gate`` is the server's, shared by all its reflectors: while the server fails, one
reflector probes it with growing delays and the others wait; the first success releases all of them.
An outage costs one request every few seconds, however many kinds are watched, and ends within
``Gate.MAX_S`` of the server's return; client-go takes up to a minute.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Timing(NamedTuple):
    """Time limits of a reflector in seconds; tests make them short."""

    head: float = 15.0  # until a reply begins
    list_silence: float = 30.0
    first_silence: float = 10.0  # of a streamed list; after that the list is paged
    watch_silence: float = 90.0  # then the watch is opened again: see Reflector
    line: float = 60.0  # a line that takes longer ends the watch
    shortest: float = 300.0  # how long the server is asked to keep a watch open
    longest: float = 600.0
    settled: float = 10.0  # a watch that lasted so long resets the backoff


class Backoff:
    """Delays in seconds that double from ``first_s`` to ``most_s``, the upper half random."""

    def __init__(
        self, first_s: float, most_s: float, uniform: Callable[[float, float], float]
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._uniform = uniform
        self._next_s = first_s

    def next(self) -> float:
        """Return the next delay."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._most_s)
        return self._uniform(delay_s / 2, delay_s)

    def reset(self) -> None:
        """Start again with the first delay."""
        self._next_s = self._first_s


class Gate:
    """Whether one API server may be asked, and by which thread."""

    FIRST_S = 0.4
    MAX_S = 4.0  # after a first success: a long outage stays cheap
    START_MAX_S = 1.0  # before it: nothing is served yet, and a list takes up to a second, too

    def __init__(self) -> None:
        self.is_open = True
        self._has_succeeded = False
        self._is_probed = False
        self._retry_at = 0.0
        self._delay_s = self.FIRST_S
        self._changed = threading.Condition()

    def enter(self) -> None:
        """Block until this thread may ask; it must then call ``succeeded`` or ``failed``."""
        with self._changed:
            while not self.is_open:
                left_s = self._retry_at - time.monotonic()
                if left_s <= 0 and not self._is_probed:
                    self._is_probed = True
                    return
                # The time limits of a request bound how long a probe takes.
                self._changed.wait(left_s if left_s > 0 else None)

    def succeeded(self) -> None:
        """Note that the server has answered."""
        with self._changed:
            self._has_succeeded = True
            self._is_probed = False
            self._delay_s = self.FIRST_S
            if not self.is_open:
                self.is_open = True
                self._changed.notify_all()

    def failed(self, at_least_s: float = 0) -> bool:
        """Note that it has not; tell whether this is the first failure of an outage."""
        with self._changed:
            was_open, self.is_open = self.is_open, False
            self._is_probed = False
            most_s = self.MAX_S if self._has_succeeded else self.START_MAX_S
            self._delay_s = min(self._delay_s, most_s)
            delay_s = max(at_least_s, random.uniform(self._delay_s * 0.7, self._delay_s))
            self._retry_at = max(self._retry_at, time.monotonic() + delay_s)
            self._delay_s = min(2 * self._delay_s, most_s)
            self._changed.notify_all()
            return was_open
