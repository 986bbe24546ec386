"""One metric family: what the exposition says of a metric besides its numbers.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """One metric: its help, label names, and bucket bounds if it is a histogram.

    A gauge is a state of a living process: it goes when the process ends. If processes share it,
    the largest value counts, not the sum.
    """

    help: str
    labels: tuple[str, ...] = ()
    is_gauge: bool = False
    bounds: tuple[float, ...] = ()
    is_shared: bool = False
