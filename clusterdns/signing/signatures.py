"""Signatures of RRsets, made with the keys of a zone and cached while they are valid.

A signature covers the canonical form of an RRset, so it is the same for every spelling of the owner
and every order of the records. The cache is keyed by the digest of that form, and bounded in number
and octets. Signatures of denials have a part of their own: their names are unlimited, and must not
evict the signatures of names that exist.
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

# CoreDNS: plugin/dnssec/dnssec.go. Inception lies three hours back, since clocks differ; signatures
# are valid for eight days, and replaced two days before they expire.
BEGUN_S = 3 * 3600
HOLDS_S = 8 * 86400
RENEWED_S = 2 * 86400
ORIGINAL_TTL = 3600  # the plugin cannot know the original TTLs
LEAST_KEPT = 1024  # CoreDNS: plugin/pkg/cache/cache.go: 256 parts of 4 at the least
MAX_OCTETS = 32 * 2**20  # of all cached signatures
_OVERHEAD_OCTETS = 300  # of an entry of a dict, with its key and tuples


class _Kept(NamedTuple):
    """The RDATA of the RRSIG records of an RRset, and the Unix second to replace them at."""

    rdatas: tuple[bytes, ...]
    until: float

    @property
    def octets(self) -> int:
        return _OVERHEAD_OCTETS + sum(len(rdata) + 50 for rdata in self.rdatas)


class Signed(NamedTuple):
    """RRSIG records, and the seconds until they are to be replaced."""

    records: tuple[RR, ...]
    lifetime_s: float


class Signer:
    """Signs RRsets with keys.

    If there are both KSKs and ZSKs, the KSKs sign DNSKEY and the ZSKs all other RRsets; otherwise
    each key signs every RRset.
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
        """Return the number of RRsets with cached signatures."""
        return len(self._denials) + len(self._others)

    def sign(self, records: Sequence[RR], zone: WireName) -> Signed:
        """Return the signatures of an RRset of ``zone``, with its owner and its TTL."""
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

    ``first`` is one of its records, ``octets`` the canonical form of all (`signed_octets`), and
    ``validity`` inception and expiration in Unix seconds.
    """
    head = canonical.rrsig_head(
        first.owner, first.rtype, key.algorithm, original_ttl, validity, key.tag
    )
    head += zone
    return head + key.sign(head + octets)


class Shelf:
    """Cached signatures, bounded in number and octets; the least recently used is evicted."""

    def __init__(self, limit: int, max_octets: int) -> None:
        self._limit, self._max_octets = limit, max_octets
        self._kept: dict[bytes, _Kept] = {}  # the least recently used first
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> _Kept | None:
        """Return the entry of a key, which becomes the most recently used."""
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def put(self, key: bytes, kept: _Kept) -> None:
        """Cache the signatures of a key."""
        self._drop(key)
        self._kept[key] = kept
        self._octets += kept.octets
        while len(self._kept) > self._limit or self._octets > self._max_octets:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._octets -= gone.octets
