"""Facts: what an answer was decided from, and what is said of them when the cluster changes.

A fact is a tuple such as ``("service", namespace, name)``. Who remembers answers files them under
their facts; who knows the cluster names the facts that have changed.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

EVERYTHING = ("everything",)  # the fact that all answers depend on


class Renewal(NamedTuple):
    """Octets in the answers of a fact that are others now, as many as before."""

    fact: Hashable
    old: bytes
    new: bytes


class Fixed(NamedTuple):
    """The fact that an answer holds octets of a fact which cannot be renewed: they are signed."""

    fact: Hashable
