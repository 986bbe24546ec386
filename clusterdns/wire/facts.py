"""Facts: the parts of the cluster that an answer depends on.

A fact is a tuple such as ``("service", namespace, name)``. The answer table
files answers under their facts; the cluster store names the facts that changed.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

EVERYTHING = ("everything",)  # the fact that all answers depend on


class Renewal(NamedTuple):
    """Octets to replace in the answers of a fact, by octets of the same length."""

    fact: Hashable
    old: bytes
    new: bytes


class Fixed(NamedTuple):
    """The fact that an answer holds octets of a fact which cannot be renewed: they are signed."""

    fact: Hashable
