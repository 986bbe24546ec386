"""How long queries wait at a given rate: ``paced.c`` is the client, here are its input and output.

dnsperf 2.10 tells an average only, and stops sending when too many replies are owed. ``paced`` is
an open loop: query n is sent at n/rate seconds whatever the server does, so that one that stalls for
a while has all the queries of that while against it (no coordinated omission). How late the client
itself was to send is told beside, for it shows whether the schedule was kept.
"""

from __future__ import annotations

import array
import math
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import dns.name
import dns.rcode
import dns.rdatatype
import measure

LOST = 2**32 - 1
SOCKETS = 4
_NO_REPLY = 255
_RECORD_FIELDS = 3


class Waits(NamedTuple):
    """What each query met, in the order they were due; times in nanoseconds."""

    start_ns: int  # CLOCK_MONOTONIC
    rate: int
    waited: Sequence[int]  # from when it was sent to its reply, ``LOST`` without one
    late: Sequence[int]  # from when it was due to when it was sent
    rcodes: dict[str, int]

    @property
    def lost(self) -> int:
        """How many queries had no reply."""
        return sum(1 for ns in self.waited if ns == LOST)

    def between(self, from_ns: int, to_ns: int) -> Sequence[int]:
        """Return the waits of what was due between two times of CLOCK_MONOTONIC."""
        first, last = ((at - self.start_ns) * self.rate // 10**9 for at in (from_ns, to_ns))
        return self.waited[max(0, first) : max(0, last)]


def quantiles_us(waits: Sequence[int]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the maximum in microseconds; infinite where a query was lost."""
    ordered = sorted(waits)
    named = {"p50_us": 0.5, "p99_us": 0.99, "p99_9_us": 0.999, "max_us": 1.0}
    last = len(ordered) - 1
    found = {title: ordered[min(last, int(q * len(ordered)))] for title, q in named.items()}
    return {title: math.inf if ns == LOST else round(ns / 1000, 1) for title, ns in found.items()}


def compile_paced(directory: Path) -> Path:
    """Return the client, compiled."""
    path = directory / "paced"
    source = Path(__file__).with_name("paced.c")
    command = [measure.compiler() or "cc", "-O2", "-Wall", "-o", str(path), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return path


def write_packets(path: Path, questions: Iterable[tuple[str, str]]) -> None:
    """Write a plain query for each question, its length in front."""
    types: dict[str, bytes] = {}
    octets = bytearray()
    for qname, qtype in questions:
        if qtype not in types:
            types[qtype] = struct.pack("!HH", dns.rdatatype.from_text(qtype), 1)
        packet = b"\0\0\1\0\0\1\0\0\0\0\0\0" + dns.name.from_text(qname).to_wire() + types[qtype]
        octets += struct.pack("!H", len(packet)) + packet
    path.write_bytes(octets)


class Client:
    """The compiled client; several may run at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = compile_paced(directory)

    def start(
        self, port: int, packets: Path, *, rate: int, seconds: float, sockets: int = SOCKETS
    ) -> subprocess.Popen[bytes]:
        """Begin to ask a server at 127.0.0.1; ``finish`` has what came of it."""
        command = [self._path, port, packets, rate, seconds, sockets]
        with measure.pinned(measure.LOAD_CORE):
            return subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )

    @staticmethod
    def finish(process: subprocess.Popen[bytes], *, rate: int, timeout_s: float) -> Waits:
        """Return what a started client has seen, once it has ended."""
        try:
            octets, complaint = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        if process.returncode or complaint:
            raise RuntimeError(f"paced ended with {process.returncode}: {complaint.decode()}")
        (start_ns,) = struct.unpack_from("=q", octets)
        fields = array.array("I", octets[8:])
        waited, late, codes = (fields[i::_RECORD_FIELDS] for i in range(_RECORD_FIELDS))
        counts = Counter(codes)
        counts.pop(_NO_REPLY, None)
        rcodes = {dns.rcode.to_text(dns.rcode.Rcode(code)): n for code, n in counts.items()}
        return Waits(start_ns, rate, waited, late, rcodes)

    def ask(
        self, port: int, packets: Path, *, rate: int, seconds: float, sockets: int = SOCKETS
    ) -> Waits:
        """Return what queries at a rate met."""
        process = self.start(port, packets, rate=rate, seconds=seconds, sockets=sockets)
        return self.finish(process, rate=rate, timeout_s=seconds + 30)
