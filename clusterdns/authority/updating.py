"""Dynamic updates (RFC 2136): the records of a zone that change, and what an UPDATE does to them.

``Records`` are copied before a change, so an update is applied whole or not at all. The checks come
in the order of RFC 2136 section 3, after those of who may do what; each returns an RCODE.
(CoreDNS: plugin/dynupdate/update.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from clusterdns.wire import name, rr
from clusterdns.wire.canonical import folded_rdata
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

YXDOMAIN, YXRRSET, NXRRSET, NOTZONE = 6, 7, 8, 10
CLASS_NONE, CLASS_ANY = 254, 255
# Signatures, keys and digests, which are wrong after a change of other records: SIG, KEY, NXT, DS,
# RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, TALINK, CDS, CDNSKEY, ZONEMD, TA, DLV.
UNSUPPORTED = frozenset((24, 25, 30, 43, 46, 47, 48, 50, 51, 58, 59, 60, 63, 32768, 32769))
_HEAD_OCTETS = 10  # of a record, between owner and RDATA


def is_meta(rtype: int) -> bool:
    """Tell whether a type is one of questions, or of no record in a zone (RFC 6895 section 3.1)."""
    return rtype in (0, rr.OPT) or 128 <= rtype <= 255


class Allowed(NamedTuple):
    """One rule of who may update: key and owner, folded, and types.

    ``owner`` is None for all names, ``types`` is None for all types.
    """

    key: WireName
    owner: WireName | None
    types: frozenset[int] | None

    def covers(self, key: WireName, owner: WireName, rtype: int) -> bool:
        """Tell whether the holder of a key may change an RRset."""
        is_here = self.key == key and self.owner in (None, owner)
        return is_here and (self.types is None or rtype in self.types)


RRset = dict[bytes, RR]  # by folded RDATA


class Records:
    """The records of one zone, by owner, type and RDATA."""

    def __init__(self, apex: WireName, records: Iterable[RR] = ()) -> None:
        self.apex = apex
        self.count = self.octets = 0
        self._names: dict[WireName, dict[int, RRset]] = {}
        self._own: set[WireName] = set()  # names that are ours alone, and may be changed
        for record in records:
            self.add(record)

    def __iter__(self) -> Iterator[RR]:
        """Yield all records, the SOA first."""
        top = self._names.get(self.apex, {})
        yield from top.get(rr.SOA, {}).values()
        for owner, rrsets in self._names.items():
            for rtype, found in rrsets.items():
                if (owner, rtype) != (self.apex, rr.SOA):
                    yield from found.values()

    def copy(self) -> Records:
        """Return a copy, whose changes do not show here."""
        other = Records(self.apex)
        other.count, other.octets, other._names = self.count, self.octets, dict(self._names)
        self._own.clear()
        return other

    def types(self, owner: WireName) -> set[int]:
        """Return the types that a name has."""
        return set(self._names.get(owner, ()))

    def rrset(self, owner: WireName, rtype: int) -> RRset:
        """Return an RRset, empty if there is none; it must not be changed."""
        return self._names.get(owner, {}).get(rtype, {})

    @property
    def soa(self) -> RR | None:
        """The SOA."""
        return next(iter(self.rrset(self.apex, rr.SOA).values()), None)

    def add(self, record: RR) -> bool:
        """Add a record; its RRset takes over its TTL (RFC 2181 section 5.2).

        Returns whether anything has changed.
        """
        owner = name.fold(record.owner)
        key = folded_rdata(record.rtype, record.rdata)
        known = self.rrset(owner, record.rtype)
        if key in known and known[key].ttl == record.ttl:
            return False
        rrset = self._writable(owner).setdefault(record.rtype, {})
        for other, old in rrset.items():
            rrset[other] = old._replace(ttl=record.ttl)
        if key not in rrset:
            rrset[key] = record._replace(rclass=rr.CLASS_IN)
            self.count += 1
            self.octets += _octets(record)
        return True

    def remove(self, owner: WireName, rtype: int, rdata: bytes | None = None) -> bool:
        """Remove an RRset, or its record with ``rdata``; tell whether there was one."""
        known = self.rrset(owner, rtype)
        key = None if rdata is None else folded_rdata(rtype, rdata)
        if not known or (key is not None and key not in known):
            return False
        gone = list(known.values()) if key is None else [known[key]]
        rrsets = self._writable(owner)
        for record in gone:
            self.count -= 1
            self.octets -= _octets(record)
            del rrsets[rtype][folded_rdata(rtype, record.rdata)]
        if not rrsets[rtype]:
            del rrsets[rtype]
        if not rrsets:
            del self._names[owner]
            self._own.discard(owner)
        return True

    def _writable(self, owner: WireName) -> dict[int, RRset]:
        if owner not in self._own:
            known = self._names.get(owner, {})
            self._names[owner] = {rtype: dict(found) for rtype, found in known.items()}
            self._own.add(owner)
        return self._names[owner]


def _octets(record: RR) -> int:
    return len(record.owner) + _HEAD_OCTETS + len(record.rdata)


def unmet(records: Records, prerequisites: Iterable[RR]) -> int:
    """Return the RCODE of the first prerequisite that is not met, 0 if all are (section 3.2)."""
    wanted = dict[tuple[WireName, int], set[bytes]]()
    for record in prerequisites:
        owner, rtype = name.fold(record.owner), record.rtype
        if record.ttl:
            return rr.FORMERR
        if not name.is_within(owner, records.apex):
            return NOTZONE
        if rtype in UNSUPPORTED:
            return rr.NOTIMP
        if is_meta(rtype) and (rtype != rr.ANY or record.rclass == rr.CLASS_IN):
            return rr.FORMERR
        if record.rclass == rr.CLASS_IN:
            wanted.setdefault((owner, rtype), set()).add(folded_rdata(rtype, record.rdata))
        elif record.rclass not in (CLASS_NONE, CLASS_ANY) or record.rdata:
            return rr.FORMERR
        elif failed := _unmet_existence(records, owner, rtype, record.rclass):
            return failed
    for (owner, rtype), rdata in wanted.items():
        if rdata != records.rrset(owner, rtype).keys():
            return NXRRSET
    return rr.NOERROR


def _unmet_existence(records: Records, owner: WireName, rtype: int, rclass: int) -> int:
    if rtype == rr.ANY:
        is_there, yes, no = bool(records.types(owner)), YXDOMAIN, rr.NXDOMAIN
    else:
        is_there, yes, no = bool(records.rrset(owner, rtype)), YXRRSET, NXRRSET
    if rclass == CLASS_ANY:
        return rr.NOERROR if is_there else no
    return yes if is_there else rr.NOERROR


def refused(apex: WireName, key: WireName, rules: Iterable[Allowed], updates: Iterable[RR]) -> int:
    """Return the RCODE of the first update that is outside the zone or not allowed, 0 for none."""
    own = [rule for rule in rules if rule.key == key]
    for record in updates:
        owner = name.fold(record.owner)
        if not name.is_within(owner, apex):
            return NOTZONE
        if not any(rule.covers(key, owner, record.rtype) for rule in own):
            return rr.REFUSED
    return rr.NOERROR


def invalid(apex: WireName, updates: Iterable[RR]) -> int:
    """Return the RCODE of the first update that is not well-formed, 0 for none (section 3.4.1)."""
    for record in updates:
        rtype, rclass = record.rtype, record.rclass
        if rclass == CLASS_ANY:
            is_good = (
                not record.ttl and not record.rdata and (rtype == rr.ANY or not is_meta(rtype))
            )
        elif rclass == CLASS_NONE:
            is_good = not record.ttl and not is_meta(rtype)
        else:
            is_good = rclass == rr.CLASS_IN and not is_meta(rtype) and _is_whole(record)
            if rtype == rr.SOA and is_good:
                is_good = name.fold(record.owner) == apex and bool(serial_of(record))
        if not is_good:
            return rr.FORMERR
        if rtype in UNSUPPORTED:
            return rr.NOTIMP
    return rr.NOERROR


def _is_whole(record: RR) -> bool:
    """Tell whether RDATA is what its type says; that of an unknown type may be anything."""
    rtype = dns.rdatatype.RdataType.make(record.rtype)
    try:
        dns.rdata.from_wire(dns.rdataclass.IN, rtype, record.rdata, 0, len(record.rdata))
    except (dns.exception.DNSException, ValueError):
        return False
    return True


def serial_of(soa: RR) -> int:
    """Return the serial of an SOA record."""
    return int.from_bytes(soa.rdata[-20:-16], "big")


def is_greater(serial: int, other: int) -> bool:
    """Tell whether a serial is greater than another (RFC 1982 section 3.2)."""
    return 0 < (serial - other) & 0xFFFFFFFF < 2**31


def applied(records: Records, updates: Iterable[RR]) -> Records | None:
    """Return the records after an update, None if it changes nothing (section 3.4.2).

    Unless an update has set the serial, it is one greater; it is never 0.
    """
    found = records.copy()
    has_changed = has_serial = False
    for record in updates:
        owner = name.fold(record.owner)
        if record.rclass == CLASS_ANY:
            has_changed |= _delete(found, owner, record.rtype)
        elif record.rclass == CLASS_NONE:
            has_changed |= _delete_one(found, owner, record)
        elif record.rtype == rr.SOA:
            has_serial |= _replace_soa(found, record)
        else:
            has_changed |= _add(found, owner, record)
    if not (has_changed or has_serial):
        return None
    if not has_serial:
        _increment(found)
    return found


def _delete(records: Records, owner: WireName, rtype: int) -> bool:
    """Delete an RRset or all of a name; the SOA and NS of the apex stay."""
    types = records.types(owner) if rtype == rr.ANY else {rtype}
    if owner == records.apex:
        types -= {rr.SOA, rr.NS}
    return sum(records.remove(owner, each) for each in types) > 0


def _delete_one(records: Records, owner: WireName, record: RR) -> bool:
    """Delete one record, but neither the SOA nor the last NS of the apex."""
    if owner == records.apex:
        is_last = record.rtype == rr.NS and len(records.rrset(owner, rr.NS)) <= 1
        if is_last or record.rtype == rr.SOA:
            return False
    return records.remove(owner, record.rtype, record.rdata)


def _add(records: Records, owner: WireName, record: RR) -> bool:
    """Add a record, but no alias beside other records, and none beside an alias."""
    types = records.types(owner)
    if record.rtype != rr.CNAME:
        return rr.CNAME not in types and records.add(record)
    if types - {rr.CNAME}:
        return False
    known = records.rrset(owner, rr.CNAME)
    if folded_rdata(rr.CNAME, record.rdata) not in known:
        records.remove(owner, rr.CNAME)
    return records.add(record)


def _replace_soa(records: Records, record: RR) -> bool:
    """Replace the SOA if the serial is greater; tell whether it is."""
    known = records.soa
    if known is None or not is_greater(serial_of(record), serial_of(known)):
        return False
    records.remove(records.apex, rr.SOA)
    return records.add(record)


def _increment(records: Records) -> None:
    known = records.soa
    assert known is not None, "a zone without an SOA is not loaded"
    serial = serial_of(known) + 1 & 0xFFFFFFFF or 1  # 0 is none (section 4.2)
    rdata = known.rdata[:-20] + serial.to_bytes(4, "big") + known.rdata[-16:]
    records.remove(records.apex, rr.SOA)
    records.add(known._replace(rdata=rdata))
