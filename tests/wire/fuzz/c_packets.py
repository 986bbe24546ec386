# Invariant: that of fuzz_drain.py: whatever datagrams come, C answers, leaves and counts what Python would.
"""Fuzz UDP in C: ``guided.py c_packets``. The first octet chooses a table, then come datagrams.

Each datagram has its length in front. Coverage is that of the C code if clang is installed.
"""

from __future__ import annotations

import random
import struct

import fuzz_drain
import killers

MAX_OCTETS = 2048
BATCH = 8
_module = fuzz_drain.built()
_tables = [fuzz_drain.filled_table(**limits) for limits in fuzz_drain.LIMITS]
_sockets = fuzz_drain.Sockets()


def joined(way: int, packets: list[bytes]) -> bytes:
    """Return datagrams as an input."""
    return bytes((way,)) + b"".join(struct.pack("!H", len(p)) + p for p in packets)


def parted(data: bytes) -> tuple[int, list[bytes]]:
    """Return the first octet and the datagrams of an input."""
    packets, at = [], 1
    while at + 2 <= len(data) and len(packets) < BATCH:
        length = int.from_bytes(data[at : at + 2])
        packets.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return data[0] if data else 0, packets


def seeds() -> list[bytes]:
    """Return some queries that hit, and the matrix of odd packets."""
    some = fuzz_drain.seeds(_tables[0])
    rng = random.Random(1)
    return [joined(i, rng.sample(some, 3)) for i in range(200)]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return an input with one datagram changed, come or gone."""
    way, packets = parted(data)
    if not packets or rng.random() < 0.1:
        return seeds_at(rng)
    i = rng.randrange(len(packets))
    if rng.random() < 0.1:
        packets.insert(i, rng.choice(packets))
    elif rng.random() < 0.1:
        del packets[i]
    else:
        packets[i] = killers.mutate(rng, packets[i])
    return joined(rng.choice((way, way, rng.randrange(256))), packets)


def seeds_at(rng: random.Random) -> bytes:
    return joined(rng.randrange(256), [rng.choice(killers.seeds())])


def examine(data: bytes) -> None:
    """Hold the invariant for one batch."""
    way, packets = parted(data)
    packets = [packet for packet in packets if packet]
    if _module is not None and packets:
        fuzz_drain.check(_module, _tables[way % len(_tables)], _sockets, packets)
