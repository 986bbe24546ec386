# Invariant: that of fuzz_message.py: the gate, the answer table and the reply walker are total, and say the same.
"""Fuzz the gate, the table and the reply walker: ``guided.py message_octets``."""

from __future__ import annotations

import random

import fuzz_message
import killers
import malformed

MAX_OCTETS = 8192
_table = fuzz_message.filled_table()


def seeds() -> list[bytes]:
    """Return the matrix of odd packets, and good ones."""
    found = [*malformed.packets().values(), *killers.seeds()]
    return [octets for octets in found if len(octets) <= MAX_OCTETS]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return a neighbor that knows what a message is made of."""
    return killers.mutate(rng, data)


def examine(data: bytes) -> None:
    """Hold the invariant for one packet."""
    fuzz_message.check(data, _table)
