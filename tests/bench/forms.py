"""Forms of a query that dnsperf's text input cannot say: flags, EDNS, letter case, as whole packets.

``write_packets`` writes what dnsperf reads with ``-B``: each query behind two octets of its length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import dns.name
import dns.rdatatype

RD, AD, CD, DO = 0x0100, 0x0020, 0x0010, 0x8000
BINARY = "-B"  # dnsperf's option
_CLASS_IN, _OPT = 1, 41


class Form(NamedTuple):
    """Header flags, and the OPT: its size (None: no OPT), version, flags, options as octets."""

    flags: int = RD
    size: int | None = None
    version: int = 0
    edns_flags: int = 0
    options: bytes = b""

    def packet(self, qname: str, qtype: str) -> bytes:
        """Return a query of this form; its ID is 0, dnsperf sets one."""
        header = struct.pack("!HHHHHH", 0, self.flags, 1, 0, 0, self.size is not None)
        question = struct.pack("!HH", dns.rdatatype.from_text(qtype), _CLASS_IN)
        return header + dns.name.from_text(qname).to_wire() + question + self._opt()

    def _opt(self) -> bytes:
        if self.size is None:
            return b""
        ttl = self.version << 16 | self.edns_flags
        head = struct.pack("!BHHIH", 0, _OPT, self.size, ttl, len(self.options))
        return head + self.options


def write_packets(path: Path, form: Form, questions: Iterable[tuple[str, str]]) -> None:
    """Write the queries of a form, their lengths in front."""
    octets = bytearray()
    for question in questions:
        packet = form.packet(*question)
        octets += struct.pack("!H", len(packet)) + packet
    path.write_bytes(octets)
