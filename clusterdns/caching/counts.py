"""The counts of `cache`, under CoreDNS's names and labels (CoreDNS: plugin/cache/metrics.go).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from clusterdns.metrics.tally import Sample

Moves = tuple[tuple[str, tuple[str, ...]], ...]  # (metric, labels) of counters incremented together


class Counts:
    """The counts of one `cache`, by what happened and by success or denial."""

    def __init__(self, zones: str) -> None:
        self._zones = zones
        self._server = self._view = ""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._known_moves: dict[tuple[str, ...], Moves] = {}

    def label(self, server: str, view: str) -> None:
        """Set the labels, which are known once the listeners are."""
        self._server, self._view = server, view

    def add(self, what: str, cache_type: str = "", times: int = 1) -> None:
        """Count ``what``, of ``cache_type`` `success`, `denial` or none."""
        self._counts[what, cache_type] += times

    def moves(self, first: str, second: str, cache_type: str = "") -> Moves:
        """Return the two counters that a repeated reply increments."""
        found = self._known_moves.get((first, second, cache_type))
        if found is None:
            found = self._known_moves[first, second, cache_type] = (
                (f"cache_{first}_total", self._labels("")),
                (f"cache_{second}_total", self._labels(cache_type)),
            )
        return found

    def samples(self, entries: Mapping[str, int]) -> list[Sample]:
        """Return all counts, and how many successes and denials are kept."""
        found: list[Sample] = [
            (f"cache_{what}_total", self._labels(cache_type), count)
            for (what, cache_type), count in self._counts.items()
            if count
        ]
        if any(entries.values()):  # like CoreDNS, none before the first
            found += [
                ("cache_entries", self._labels(cache_type), n) for cache_type, n in entries.items()
            ]
        return found

    def _labels(self, cache_type: str) -> tuple[str, ...]:
        rest = (self._zones, self._view)
        return (self._server, cache_type, *rest) if cache_type else (self._server, *rest)
