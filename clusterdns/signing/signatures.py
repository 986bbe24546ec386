"""Signatures of RRsets: made with the keys of a zone, and kept as long as they hold.

What is signed is the canonical form of an RRset, so one signature serves every spelling of its
owner and every order of its records. Signatures are kept by the digest of what they cover, bounded
in number and in octets. Those of denials, whose names are without number, have a part of their own,
and cannot push out those of names that exist.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clusterdns.signing.keys import Key
from clusterdns.wire import canonical, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

# CoreDNS: plugin/dnssec/dnssec.go. Signatures begin three hours ago, so that clocks may differ,
# hold for eight days, and are made anew two days before they end.
BEGUN_S = 3 * 3600
HOLDS_S = 8 * 86400
RENEWED_S = 2 * 86400
ORIGINAL_TTL = 3600  # who signs on the fly sees TTLs that have run
LEAST_KEPT = 1024  # CoreDNS: plugin/pkg/cache/cache.go: 256 parts of 4 at the least
MAX_OCTETS = 32 * 2**20  # of kept signatures, each with what a dict needs
_OVERHEAD_OCTETS = 300


class _Kept(NamedTuple):
    """RDATA of the RRSIG records of an RRset, and the Unix second when they are to be renewed."""

    rdatas: tuple[bytes, ...]
    until: float

    @property
    def octets(self) -> int:
        return _OVERHEAD_OCTETS + sum(len(rdata) + 50 for rdata in self.rdatas)


class Signed(NamedTuple):
    """RRSIG records, and the seconds for which they may be repeated."""

    records: tuple[RR, ...]
    lifetime_s: float


class Signer:
    """Signs RRsets with the keys of its zones.

    With a KSK and a ZSK among them, KSKs sign the keys and ZSKs all else; otherwise each key signs
    everything.
    """

    def __init__(
        self, keys: Sequence[Key], capacity: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.keys = tuple(keys)
        is_split = any(key.is_ksk for key in keys) and any(key.is_zsk for key in keys)
        self._of_keys = tuple(key for key in keys if key.is_ksk or not is_split)
        self._of_others = tuple(key for key in keys if key.is_zsk or not is_split)
        capacity = max(capacity, LEAST_KEPT)
        self._denials = Shelf(capacity // 2, MAX_OCTETS // 2)
        self._others = Shelf(capacity - capacity // 2, MAX_OCTETS // 2)
        self._clock = clock
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Return how many RRsets have signatures that are kept."""
        return len(self._denials) + len(self._others)

    def sign(self, records: Sequence[RR], zone: WireName) -> Signed:
        """Return the signatures of an RRset in ``zone``; they have its owner and its TTL."""
        first, now = records[0], self._clock()
        octets = canonical.signed_octets(records, ORIGINAL_TTL)
        shelf = self._denials if first.rtype == rr.NSEC else self._others
        key = hashlib.blake2b(zone + octets, digest_size=16).digest()
        kept = shelf.get(key)
        if kept is None or kept.until <= now:
            self.misses += 1
            kept = self._made(first, octets, zone, now)
            shelf.put(key, kept)
        else:
            self.hits += 1
        made = (RR(first.owner, rr.RRSIG, first.ttl, rdata) for rdata in kept.rdatas)
        return Signed(tuple(made), kept.until - now)

    def _made(self, first: RR, octets: bytes, zone: WireName, now: float) -> _Kept:
        validity = int(now) - BEGUN_S, int(now) + HOLDS_S
        keys = self._of_keys if first.rtype == rr.DNSKEY else self._of_others
        rdatas = tuple(
            rrsig(key, first, octets, zone, original_ttl=ORIGINAL_TTL, validity=validity)
            for key in keys
        )
        return _Kept(rdatas, now + HOLDS_S - RENEWED_S)


def rrsig(
    key: Key,
    first: RR,
    octets: bytes,
    zone: WireName,
    *,
    original_ttl: int,
    validity: tuple[int, int],
) -> bytes:
    """Return the RDATA of the RRSIG by ``key`` of an RRset.

    ``first`` is a record of it, ``octets`` is what `canonical.signed_octets` says of all, and
    ``validity`` is inception and expiration in Unix seconds.
    """
    head = canonical.rrsig_head(
        first.owner, first.rtype, key.algorithm, original_ttl, validity, key.tag
    )
    head += zone
    return head + key.sign(head + octets)


class Shelf:
    """Kept signatures, bounded in number and octets; the least recently used make room."""

    def __init__(self, limit: int, max_octets: int) -> None:
        self._limit, self._max_octets = limit, max_octets
        self._kept: dict[bytes, _Kept] = {}  # the least recently used first
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> _Kept | None:
        """Return what is kept under a key, which thereby is the most recently used."""
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def put(self, key: bytes, kept: _Kept) -> None:
        """Keep signatures under a key."""
        self._drop(key)
        self._kept[key] = kept
        self._octets += kept.octets
        while len(self._kept) > self._limit or self._octets > self._max_octets:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._octets -= gone.octets
