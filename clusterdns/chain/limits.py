"""Rate limits by client: how many queries each may send, and which of them count.

``Buckets`` is the specification of the type in ``_limit.c``. Each client has an entry of three
words, in memory that all workers share: the hash of its network with a secret, the second until
which its queries so far are paid for, and how many queries in a row were over the limit. A query
moves that second on by 1 / rate; one that comes when it lies too far ahead is over the limit. An
entry has its place in one set of ``WAYS``, and a new client takes the entry whose second is the
earliest, so a query costs the same however many clients there are. The first query over the limit
gets an empty reply with TC, which an honest client takes to TCP, and then every ``slip``-th one;
the others get no reply.
"""

from __future__ import annotations

import functools
import ipaddress
import mmap
from collections.abc import Callable
from typing import NamedTuple, Protocol

from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

ANSWER, TRUNCATE, STAY_SILENT = range(3)  # what happens to a query
WAYS = 4
ENTRY_OCTETS = 24
MAX_NETWORKS = 64  # that are exempt: each is compared
_ARPA = WireName(b"\x04arpa\0")


class Rates(NamedTuple):
    """Settings of buckets; ``bits4`` and ``bits6`` are the prefix lengths of a client's network.

    ``exempt`` are networks: octets of their address, and length of their prefix.
    """

    rate: int  # queries a second
    burst: int  # queries at one time
    slip: int = 2  # 0: no reply at all
    bits4: int = 32
    bits6: int = 128
    exempt: tuple[tuple[bytes, int], ...] = ()

    @property
    def interval_s(self) -> float:
        """The seconds that a query takes up."""
        return 1 / self.rate

    @property
    def slack_s(self) -> float:
        """How far ahead of now a client may be; half a query more, since it adds up fractions."""
        return (self.burst - 0.5) / self.rate


class Judge(Protocol):
    """Buckets in Python or in C."""

    truncated: int
    dropped: int

    def judge(self, host: str, now: float) -> int:
        """Return what happens to a query of a client; it counts."""


Memory = mmap.mmap | bytearray
# Of C: memory, secret, interval, slack, slip, bits of IPv4 and IPv6, exempt networks.
MakeBuckets = Callable[
    [Memory, bytes, float, float, int, int, int, tuple[tuple[bytes, int], ...]], Judge
]


class Buckets:
    """The buckets of all clients; ``memory`` has ``ENTRY_OCTETS`` for each entry, all zero."""

    def __init__(self, memory: Memory, secret: bytes, rates: Rates) -> None:
        octets = memoryview(memory).cast("B")
        self._words, self._seconds = octets.cast("Q"), octets.cast("d")
        self._sets = len(octets) // ENTRY_OCTETS // WAYS
        self._secret = secret
        self._rates = rates
        self._interval_s, self._slack_s = rates.interval_s, rates.slack_s
        self.truncated = self.dropped = 0

    def judge(self, host: str, now: float) -> int:
        """Return what happens to a query of a client; it counts."""
        network = _network(host, self._rates)
        if not network:
            return ANSWER
        key = hash(self._secret + network) & (1 << 64) - 1 | 1
        at, is_known = self._entry(key)
        until = max(self._seconds[at + 1], now) if is_known else now
        if until - now > self._slack_s:
            return self._refuse(at + 2)
        self._words[at], self._words[at + 2] = key, 0
        self._seconds[at + 1] = until + self._interval_s
        return ANSWER

    def _entry(self, key: int) -> tuple[int, bool]:
        """Return the first word of a client's entry, or of the one it takes, and if it has one."""
        first = key // 2 % self._sets * WAYS * 3
        places = range(first, first + 3 * WAYS, 3)
        for at in places:
            if self._words[at] == key:
                return at, True
        return min(places, key=lambda at: self._seconds[at + 1]), False

    def _refuse(self, at: int) -> int:
        over = self._words[at]
        self._words[at] = over + 1
        if self._rates.slip and over % self._rates.slip == 0:
            self.truncated += 1
            return TRUNCATE
        self.dropped += 1
        return STAY_SILENT


@functools.lru_cache(maxsize=4096)
def _network(host: str, rates: Rates) -> bytes:
    """Return the network of a client, b"" if it is exempt or ``host`` is no address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return b""
    mapped = getattr(address, "ipv4_mapped", None)
    octets = (mapped or address).packed
    if any(_masked(octets, bits) == own for own, bits in rates.exempt if len(own) == len(octets)):
        return b""
    return _masked(octets, rates.bits4 if len(octets) == 4 else rates.bits6)


def _masked(octets: bytes, bits: int) -> bytes:
    behind = 8 * len(octets) - bits
    return (int.from_bytes(octets, "big") >> behind << behind).to_bytes(len(octets), "big")


class RateLimits:
    """The limits of a server block: its buckets, and which queries count.

    ``free`` are the zones whose names do not count: the cluster's, and those the operator names.
    Of the reverse zones among them, which other addresses lie in, too, only what the cluster knows
    is free. With ``counts_errors`` name errors in the free zones count, too.
    """

    def __init__(
        self, rates: Rates, memory: Memory, secret: bytes, *, counts_errors: bool = False
    ) -> None:
        self.rates = rates
        self.free: tuple[WireName, ...] = ()
        self.buckets: Judge = Buckets(memory, secret, rates)
        self._memory = memory
        self._secret = secret
        self._counts_errors = counts_errors

    def compile(self, make: MakeBuckets) -> None:
        """Use the buckets in C, in the same memory."""
        if isinstance(self.buckets, Buckets):
            rates = self.rates
            self.buckets = make(
                self._memory, self._secret, rates.interval_s, rates.slack_s, rates.slip,
                rates.bits4, rates.bits6, rates.exempt,
            )  # fmt: skip

    def covers(self, qname: WireName) -> bool:
        """Tell whether a query for a folded name counts, whatever its response."""
        return not name.is_within_any(qname, self.free)

    def covers_response(self, qname: WireName, response: Response | None) -> bool:
        """Tell whether a query in a free zone counts for its response; None: it takes a wait."""
        if response is None or not response.facts:
            return name.is_within(qname, _ARPA)
        return self._counts_errors and response.rcode == rr.NXDOMAIN

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether all names below ``cut`` count, or none."""
        return not any(name.is_below(zone, cut) for zone in self.free)
