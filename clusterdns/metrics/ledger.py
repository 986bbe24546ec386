"""Samples of many processes added up, with the counts of ended processes.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample


def add_up(samples: Iterable[Sample], families: Mapping[str, Family]) -> list[Sample]:
    """Return one sample for each metric and labels; histograms are added bucket by bucket.

    ``families`` are by the names in samples; a metric without one is a counter.
    """
    sums: dict[tuple[str, tuple[str, ...]], float | tuple[float, ...]] = {}
    for metric, labels, value in samples:
        known = sums.get((metric, labels))
        if known is None or not _is_alike(known, value):
            sums[metric, labels] = value  # of another version of this program, before a hand-over
        elif isinstance(value, tuple) and isinstance(known, tuple):
            sums[metric, labels] = tuple(map(sum, zip(known, value, strict=True)))
        elif isinstance(value, (int, float)) and isinstance(known, (int, float)):
            family = families.get(metric)
            is_shared = family is not None and family.is_shared
            sums[metric, labels] = max(known, value) if is_shared else known + value
    return [(*key, value) for key, value in sums.items()]


def _is_alike(one: float | tuple[float, ...], other: float | tuple[float, ...]) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other)
    return not isinstance(one, tuple) and not isinstance(other, tuple)


class Ledger:
    """The counts of processes that have ended: a counter must not fall when one does.

    ``families`` distinguish counters from gauges; more may be added later.
    """

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = families
        self._samples: list[Sample] = []

    @property
    def closed(self) -> list[Sample]:
        """The counts of all processes that have ended."""
        return self._samples

    def close(self, samples: Iterable[Sample]) -> None:
        """Add the last samples of an ended process."""
        counts = [sample for sample in samples if not self._is_state(sample[0])]
        self._samples = add_up([*self._samples, *counts], self._families)

    def total(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return ``samples`` of living processes plus those of ended ones."""
        return add_up([*self._samples, *samples], self._families)

    def _is_state(self, metric: str) -> bool:
        family = self._families.get(metric)
        return family is not None and family.is_gauge
