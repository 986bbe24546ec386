"""Whole zones signed: the keys, a chain of NSEC records, and the signatures of every RRset.

At and below zone cuts only DS and NSEC are signed (RFC 4035 section 2.2). A thread signs beside the
one that answers queries, so it yields between RRsets. (CoreDNS: plugin/sign/signer.go)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from clusterdns.signing.keys import Key
from clusterdns.signing.signatures import rrsig
from clusterdns.wire import canonical, name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

# Made here, so those of another signer are left out. CoreDNS keeps NSEC, and then has it twice.
_MADE = frozenset((rr.DNSKEY, rr.RRSIG, rr.NSEC, rr.CDS, rr.CDNSKEY))
_OF_CUTS = frozenset((rr.NS, rr.DS))  # the types of a zone cut in this zone
_SERIAL = slice(-20, -16)  # in the RDATA of an SOA
_MINIMUM = slice(-4, None)

RRsets = dict[WireName, dict[int, list[RR]]]


class Terms(NamedTuple):
    """Inception and expiration of signatures, and the serial of the SOA: Unix seconds."""

    inception: int
    expiration: int
    serial: int


def signed(
    apex: WireName,
    records: Iterable[RR],
    keys: Sequence[Key],
    terms: Terms,
    pause: Callable[[], None],
) -> Iterator[RR]:
    """Yield the records of a signed zone, the SOA first, names in canonical order.

    ``pause`` is called for each RRset; it may raise to stop.

    Raises:
        ValueError: there is no SOA at the apex.
    """
    rrsets = _rrsets(records)
    top = rrsets.get(apex, {})
    if rr.SOA not in top:
        raise ValueError(f"no SOA record of {name.text(apex)}")
    (soa,) = top[rr.SOA]
    minimum = int.from_bytes(soa.rdata[_MINIMUM], "big")
    top[rr.SOA] = [soa._replace(rdata=_of_serial(soa.rdata, terms.serial))]
    _add_keys(top, apex, keys, soa.ttl)
    cuts = {owner for owner, types in rrsets.items() if rr.NS in types and owner != apex}
    chain = [owner for owner in _ordered(rrsets) if not _is_below(owner, cuts)]
    behind = dict(zip(chain, [*chain[1:], apex], strict=True))
    for owner in _ordered(rrsets):
        types = rrsets[owner]
        if owner not in behind:
            for rrset in types.values():
                yield from rrset
            continue
        own = types.keys() & _OF_CUTS if owner in cuts else types.keys()
        bitmap = canonical.type_bitmap((*own, rr.RRSIG, rr.NSEC))
        types[rr.NSEC] = [RR(owner, rr.NSEC, minimum, behind[owner] + bitmap)]
        for rtype in sorted(types, key=_rank):
            yield from types[rtype]
            if owner not in cuts or rtype in (rr.DS, rr.NSEC):
                pause()
                yield from _signatures(types[rtype], apex, keys, terms)


def _rrsets(records: Iterable[RR]) -> RRsets:
    found: RRsets = {}
    for record in records:
        if record.rtype not in _MADE:
            rrset = found.setdefault(name.fold(record.owner), {}).setdefault(record.rtype, [])
            if record not in rrset[:1]:  # a transfer has its SOA twice
                rrset.append(record)
    return found


def _ordered(rrsets: RRsets) -> list[WireName]:
    return sorted(rrsets, key=canonical.order_key)


def _is_below(owner: WireName, cuts: set[WireName]) -> bool:
    return any(parent in cuts for parent in name.parents(owner)[1:])


def _rank(rtype: int) -> tuple[bool, bool, int]:
    """Return the sort key of the types of an owner: SOA, NS, the others."""
    return rtype != rr.SOA, rtype != rr.NS, rtype


def _of_serial(rdata: bytes, serial: int) -> bytes:
    return rdata[: _SERIAL.start] + struct.pack("!I", serial & 0xFFFFFFFF) + rdata[_SERIAL.stop :]


def _add_keys(types: dict[int, list[RR]], apex: WireName, keys: Sequence[Key], ttl: int) -> None:
    """Add DNSKEY at the apex, and CDS and CDNSKEY for the parent zone (RFC 7344, RFC 8078)."""
    for key in keys:
        record = key.at(apex, ttl)
        types.setdefault(rr.DNSKEY, []).append(record)
        types.setdefault(rr.CDNSKEY, []).append(record._replace(rtype=rr.CDNSKEY))
        for digest_type in (canonical.SHA1, canonical.SHA256):
            rdata = canonical.ds_rdata(apex, record.rdata, digest_type)
            types.setdefault(rr.CDS, []).append(RR(apex, rr.CDS, ttl, rdata))


def _signatures(
    rrset: Sequence[RR], apex: WireName, keys: Sequence[Key], terms: Terms
) -> Iterator[RR]:
    first = rrset[0]
    octets = canonical.signed_octets(rrset, first.ttl)
    validity = terms.inception, terms.expiration
    for key in keys:
        rdata = rrsig(key, first, octets, apex, original_ttl=first.ttl, validity=validity)
        yield RR(first.owner, rr.RRSIG, first.ttl, rdata)
