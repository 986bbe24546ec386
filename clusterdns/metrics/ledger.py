"""Samples of many processes added up, with what those that have ended had counted.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable

from clusterdns.metrics.tally import Sample

# What is a state and not a count: it goes with the process that had it.
_STATES = frozenset(
    (
        "cache_entries",
        "clusterdns_kubernetes_event_age_seconds",
        "clusterdns_kubernetes_bookmark_age_seconds",
        "clusterdns_kubernetes_contact_age_seconds",
        "clusterdns_kubernetes_objects",
        "clusterdns_kubernetes_stale_objects",
        "clusterdns_kubernetes_snapshot_age_seconds",
        "hosts_entries",
        "hosts_reload_timestamp_seconds",
    )
)
# States that processes share: the largest counts, not the sum.
_SHARED = frozenset(("hosts_entries", "hosts_reload_timestamp_seconds"))


def add_up(samples: Iterable[Sample]) -> list[Sample]:
    """Return one sample for each metric and labels; histograms are added bucket by bucket."""
    sums: dict[tuple[str, tuple[str, ...]], float | tuple[float, ...]] = {}
    for metric, labels, value in samples:
        known = sums.get((metric, labels))
        if known is None:
            sums[metric, labels] = value
        elif isinstance(value, tuple) and isinstance(known, tuple):
            sums[metric, labels] = tuple(map(sum, zip(known, value, strict=True)))
        elif isinstance(value, (int, float)) and isinstance(known, (int, float)):
            sums[metric, labels] = max(known, value) if metric in _SHARED else known + value
    return [(*key, value) for key, value in sums.items()]


class Ledger:
    """The counts of processes that have ended: a counter must not fall when one does."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def close(self, samples: Iterable[Sample]) -> None:
        """Enter the last samples of a process."""
        counts = [sample for sample in samples if sample[0] not in _STATES]
        self._samples = add_up([*self._samples, *counts])

    def total(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return ``samples`` of living processes with those that have been entered."""
        return add_up([*self._samples, *samples])
