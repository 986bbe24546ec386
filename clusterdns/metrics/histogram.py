"""Histograms as plain integers: counts per bucket and a sum.

They become metric families at a scrape (exposition.py). Bounds are CoreDNS's.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

TIME_S: Final = tuple(0.00025 * 2**k for k in range(16))  # 250 µs to 8.192 s
SLIM_TIME_S: Final = (0.00025, 0.0025, 0.025, 0.25, 2.5)
DEFAULT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # client_golang
PROGRAMMING_S: Final = tuple(0.001 * 2**k for k in range(20))  # 1 ms to 524 s
SIZE_OCTETS: Final = (
    0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16000, 32000, 48000, 64000,
)  # fmt: skip


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the value that a ``share`` of the observations does not exceed, None without any.

    Between two bounds it is interpolated, as Prometheus does; above the last one it is that.
    """
    rank = share * sum(counts)
    least = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and count >= rank:
            return least + (bound - least) * rank / count
        rank -= count
        least = bound
    return bounds[-1] if any(counts) else None


class Histogram:
    """Counts of observations by upper bound, the last one unbounded."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value`` as seen ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add(self, bucket: int, times: int, total: float) -> None:
        """Count observations whose bucket and sum are known."""
        self.counts[bucket] += times
        self.total += total

    def sample(self) -> tuple[float, ...]:
        """Return the counts per bucket, not added up, and the sum behind them."""
        return (*self.counts, self.total)
