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
    """The fact of an answer whose octets cannot be renewed, because they are signed."""

    fact: Hashable
