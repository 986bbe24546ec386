"""SipHash-2-4 (Aumasson, Bernstein 2012), a keyed hash of 64 bits.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct

KEY_OCTETS = 16
_MASK = (1 << 64) - 1
_BEGIN = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def siphash(key: bytes, octets: bytes) -> bytes:
    """Return the hash of ``octets`` in little-endian order; ``key`` has ``KEY_OCTETS``."""
    k0, k1 = struct.unpack("<QQ", key)
    state = (_BEGIN[0] ^ k0, _BEGIN[1] ^ k1, _BEGIN[2] ^ k0, _BEGIN[3] ^ k1)
    padded = octets + bytes(-(len(octets) + 1) % 8) + bytes((len(octets) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        v0, v1, v2, v3 = _mix((*state[:3], state[3] ^ word), 2)
        state = v0 ^ word, v1, v2, v3
    v0, v1, v2, v3 = _mix((state[0], state[1], state[2] ^ 0xFF, state[3]), 4)
    return struct.pack("<Q", v0 ^ v1 ^ v2 ^ v3)


def _mix(state: tuple[int, int, int, int], rounds: int) -> tuple[int, int, int, int]:
    v0, v1, v2, v3 = state
    for _ in range(rounds):
        v0, v2 = v0 + v1 & _MASK, v2 + v3 & _MASK
        v1, v3 = _rotated(v1, 13) ^ v0, _rotated(v3, 16) ^ v2
        v0 = _rotated(v0, 32)
        v2, v0 = v2 + v1 & _MASK, v0 + v3 & _MASK
        v1, v3 = _rotated(v1, 17) ^ v2, _rotated(v3, 21) ^ v0
        v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> 64 - bits) & _MASK
