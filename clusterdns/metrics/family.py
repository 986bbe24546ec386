"""Metric families: the description of metrics.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """One metric: its help, label names, and bucket bounds if it is a histogram.

    A gauge belongs to a living process: it is removed when the process ends. If processes share it,
    the largest value counts, not the sum.
    """

    help: str
    labels: tuple[str, ...] = ()
    is_gauge: bool = False
    bounds: tuple[float, ...] = ()
    is_shared: bool = False
