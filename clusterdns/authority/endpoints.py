"""DNSEndpoint objects -> live zones.

``Published`` follows a store: it takes one object at a time, and changes the names that the object
has or had. Each name belongs to the oldest objects: of each type, the records of the oldest object
that has some count, and an alias tolerates no other type; what loses is kept, and takes over when
the winner goes. Records that are not served are counted by reason, and told once.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from clusterdns.authority import targets
from clusterdns.authority.answering import longest
from clusterdns.authority.leftout import (
    CONFLICT,
    INVALID,
    LIMIT,
    OUTSIDE,
    SENTENCES,
    TYPE,
)
from clusterdns.authority.livezone import LiveZone
from clusterdns.cluster.objects import ObjectKey
from clusterdns.cluster.published import DNS_ENDPOINTS, DNSEndpoint
from clusterdns.cluster.store import Fact
from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

MAX_OCTETS: Final = 64 * 2**20  # of memory for the records of all objects
MAX_RRSET_OCTETS: Final = 32 * 1024  # of an RRset, so that it fits into a message
MAX_OBJECTS: Final = 64  # the oldest ones that are looked at for a name: the work of a change
_RECORD_OCTETS = 900  # of memory for a record beside its owner and RDATA; measured with one a name
REASONS: Final = (OUTSIDE, INVALID, TYPE, CONFLICT, LIMIT)


class _Held(NamedTuple):
    """An object: when it was created, its records by owner, and how many were left out, and why."""

    created: str
    names: dict[WireName, tuple[RR, ...]]
    left_out: Counter[str]
    octets: int


class Published:
    """The zones of one `endpoint`, and what its objects say of them."""

    kinds: Collection[str] = (DNS_ENDPOINTS,)
    has_work = False

    def __init__(
        self,
        zones: Iterable[WireName],
        *,
        ttl: int,
        namespaces: Collection[str] = (),
        changed: Callable[[WireName], None] = lambda _zone: None,
        tell: Callable[[str], None] = lambda _sentence: None,
        settled: Callable[[], None] = lambda: None,
        most_octets: int = MAX_OCTETS,
    ) -> None:
        self.zones = {zone: LiveZone(zone, ttl) for zone in zones}
        self.settle = settled
        self._ttl = ttl
        self._namespaces = frozenset(namespaces)
        self._changed, self._tell = changed, tell
        self._held: dict[ObjectKey, _Held] = {}
        # Objects that have records of a name, by age and key: the oldest first.
        self._owners: dict[WireName, list[tuple[str, ObjectKey]]] = {}
        self._lost: dict[WireName, Counter[str]] = {}  # records of a name that are not served
        self._octets, self._most_octets = 0, most_octets

    def take(
        self, kind: str, key: ObjectKey, value: tuple[Any, ...] | None, seconds: int
    ) -> list[Fact]:
        """Take an object, see ``store.Follower``."""
        if self._namespaces and key[0] not in self._namespaces:
            return []
        old = self._held.pop(key, None)
        new = self._read(key, DNSEndpoint(*value), old) if value is not None else None
        if new is not None:
            self._held[key] = new
        self._octets += (new.octets if new else 0) - (old.octets if old else 0)
        zones = set[WireName]()
        for owner in _changed_names(old, new):
            zone = longest(owner, self.zones)
            if zone is not None:
                self._rank(owner, key, old, new)
                self._put(owner, key, self.zones[zone])
                zones.add(zone)
        for zone in zones:
            self.zones[zone].move(seconds)
            self._changed(zone)
        return [("zone", name.text(zone)) for zone in zones]

    def objects_of(self, owner: WireName) -> list[ObjectKey]:
        """Return the objects that have records of a name, the oldest first."""
        return [key for _, key in self._owners.get(owner, ())]

    def counts(self) -> tuple[Mapping[WireName, int], Mapping[str, int]]:
        """Return the number of names by zone, and of records that are not served by reason."""
        names: Counter[WireName] = Counter()
        left_out: Counter[str] = Counter()
        for owner, ranks in self._owners.items():
            names[longest(owner, self.zones) or owner] += 1
            for _, key in ranks[MAX_OBJECTS:]:
                left_out[LIMIT] += len(self._held[key].names[owner])
        for held in self._held.values():
            left_out += held.left_out
        for lost in self._lost.values():
            left_out += lost
        return names, left_out

    def _read(self, key: ObjectKey, found: DNSEndpoint, old: _Held | None) -> _Held:
        """Return an object's records in our zones; tell of what is left out."""
        names: dict[WireName, list[RR]] = {}
        left_out: Counter[str] = Counter()
        room = self._most_octets - self._octets + (old.octets if old else 0)
        octets = 0
        before = old.left_out if old else Counter[str]()
        for owner_text, type_text, ttl, target in found.records:
            made = self._record(owner_text, type_text, ttl, target)
            if isinstance(made, RR):
                octets += _RECORD_OCTETS + len(made.owner) + len(made.rdata)
                if octets <= room:
                    names.setdefault(name.fold(made.owner), []).append(made)
                    continue
                octets, made = room, LIMIT
            left_out[made] += 1
            if left_out[made] == 1 and made not in before:
                self._tell(f"{_title(key)}: {owner_text:.253} {type_text:.10} {SENTENCES[made]}")
        return _Held(found.created, {each: tuple(some) for each, some in names.items()},
                     left_out, min(octets, room))  # fmt: skip

    def _record(self, owner_text: str, type_text: str, ttl: int, target: str) -> RR | str:
        """Return a record, or why it is not served."""
        rtype = targets.TYPES.get(type_text.upper())
        try:
            owner = name.parse(owner_text)
            zone = longest(name.fold(owner), self.zones)
            if zone is None:
                return OUTSIDE
            if rtype is None:
                return TYPE
            if rtype == rr.CNAME and name.fold(owner) == zone:
                return INVALID  # beside the SOA (RFC 1034 section 3.6.2)
            return RR(owner, rtype, ttl or self._ttl, targets.rdata_of(rtype, target))
        except (FormError, ValueError):
            return INVALID

    def _rank(self, owner: WireName, key: ObjectKey, old: _Held | None, new: _Held | None) -> None:
        """Enter an object among those that have records of a name, or remove it."""
        ranks = self._owners.setdefault(owner, [])
        if old is not None and owner in old.names:
            del ranks[bisect.bisect_left(ranks, (old.created, key))]
        if new is not None and owner in new.names:
            bisect.insort(ranks, (new.created, key))
        if not ranks:
            del self._owners[owner]

    def _put(self, owner: WireName, key: ObjectKey, zone: LiveZone) -> None:
        """Decide anew about a name that an object has or had."""
        served: dict[int, list[RR]] = {}
        lost: Counter[str] = Counter()
        ranks = self._owners.get(owner, [])
        if (
            len(ranks) > MAX_OBJECTS
            and key in self._held
            and ranks[MAX_OBJECTS] <= (self._held[key].created, key)
        ):
            self._tell(f"{_title(key)}: {name.text(owner)} {SENTENCES[LIMIT]}")
        for _, each in ranks[:MAX_OBJECTS]:
            records = self._held[each].names[owner]
            kept = _kept(records, served)
            if len(kept) < len(records):
                lost[CONFLICT] += len(records) - len(kept)
                if each == key:
                    self._tell(f"{_title(key)}: {name.text(owner)} {SENTENCES[CONFLICT]}")
            for record in kept:
                served.setdefault(record.rtype, []).append(record)
        bounded = [record for some in served.values() for record in _bounded(some)]
        lost[LIMIT] = sum(map(len, served.values())) - len(bounded)
        if +lost:
            self._lost[owner] = +lost
        else:
            self._lost.pop(owner, None)
        zone.put(owner, bounded)


def _changed_names(old: _Held | None, new: _Held | None) -> list[WireName]:
    """Return the names whose records, or whose age, an object changes."""
    before, after = (held.names if held else {} for held in (old, new))
    has_age_changed = old is not None and new is not None and old.created != new.created
    return [
        owner
        for owner in dict.fromkeys((*before, *after))
        if has_age_changed or before.get(owner) != after.get(owner)
    ]


def _kept(records: tuple[RR, ...], older: Mapping[int, object]) -> list[RR]:
    """Return the records that may stand beside types of older objects, and beside each other."""
    if rr.CNAME in older:
        return []
    alias = next((record for record in records if record.rtype == rr.CNAME), None)
    if alias is not None:
        return [] if older else [alias]
    return [record for record in records if record.rtype not in older]


def _bounded(records: list[RR]) -> list[RR]:
    octets = 0
    for i, record in enumerate(records):
        octets += 12 + len(record.rdata)
        if octets > MAX_RRSET_OCTETS:
            return records[:i]
    return records


def _title(key: ObjectKey) -> str:
    return f"DNSEndpoint {'/'.join(key)}"
