"""Replies cut to what a client accepts, from the octets of the whole one.

The records of a body come in the order of the reply, and a compression pointer leads backward. So
the beginning of a body, up to the end of a record, is what ``response.render`` makes for a smaller
limit: no answer has to be built again for it. Where records end is found once for each body.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from typing import Final

from clusterdns.wire.message import TC
from clusterdns.wire.response import record_ends

_COUNTS: Final = struct.Struct("!HHHHH")  # flags, QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT


class Cuts:
    """Finds where bodies can be cut.

    ``max_octets`` bounds the bodies whose records are known; beyond, they are forgotten.
    """

    def __init__(self, max_octets: int) -> None:
        self._max_octets = max_octets
        self._octets = 0
        self._ends: dict[bytes, array[int]] = {}  # of the records of a body

    def cut(self, head: bytes, body: bytes, room: int, *, has_opt: bool) -> tuple[bytes, bytes]:
        """Return header (behind the ID) and body of a reply, TC set, that has ``room`` for a body.

        ``has_opt`` says that ``head`` counts an OPT record, which is not in the body.
        """
        ends = self._ends.get(body)
        if ends is None:
            ends = self._found(body)
        left = bisect_right(ends, max(room, 0))
        octets = ends[left - 1] if left else 0
        flags, questions, *counts = _COUNTS.unpack(head)
        counts[2] -= has_opt
        for i, count in enumerate(counts):
            counts[i] = min(count, left)
            left -= counts[i]
        counts[2] += has_opt
        return _COUNTS.pack(flags | TC, questions, *counts), body[:octets]

    def clear(self) -> None:
        """Forget all bodies."""
        self._ends.clear()
        self._octets = 0

    def _found(self, body: bytes) -> array[int]:
        if self._octets + len(body) > self._max_octets:
            self.clear()
        self._octets += len(body)
        ends = self._ends[body] = record_ends(body)
        return ends
