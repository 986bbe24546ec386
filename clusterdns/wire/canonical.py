"""The canonical order and form of names and records, used by DNSSEC (RFC 4034).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
from collections.abc import Iterable, Sequence

from clusterdns.wire import name
from clusterdns.wire.name import WireName
from clusterdns.wire.rdata import names_in
from clusterdns.wire.rr import RR

# Types whose names in RDATA are folded (RFC 4034 section 6.2, without HINFO and NSEC by RFC 6840
# section 5.1): NS MD MF CNAME SOA MB MG MR PTR MINFO MX RP AFSDB RT SIG PX NXT NAPTR KX SRV DNAME
# A6 RRSIG.
_FOLDED = frozenset(
    (2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 17, 18, 21, 24, 26, 30, 33, 35, 36, 38, 39, 46)
)
_RRSIG_HEAD = struct.Struct("!HBBIIIH")
_RR_HEAD = struct.Struct("!HHIH")
SHA1, SHA256 = 1, 2  # digest types of DS


def order_key(wire: bytes) -> bytes:
    """Return octets that sort in the canonical order of names (RFC 4034 section 6.1).

    Labels are compared from the right, and a shorter one comes first: each ends with a zero octet,
    and zero octets inside labels are escaped.
    """
    labels = name.labels(wire.lower())
    labels.reverse()
    return b"\0".join(each.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1") for each in labels)


class Chain:
    """Names in canonical order: the owners of the NSEC records of a zone."""

    __slots__ = ("_keys", "_names")

    def __init__(self, names: Iterable[WireName]) -> None:
        ordered = sorted((order_key(each), each) for each in names)
        self._keys = [key for key, _ in ordered]
        self._names = [each for _, each in ordered]

    def __bool__(self) -> bool:
        """Tell whether the chain has a name."""
        return bool(self._names)

    def at_or_before(self, wire: WireName) -> WireName:
        """Return the last name at or before ``wire``; before the first comes the last.

        Raises:
            IndexError: the chain is empty.
        """
        return self._names[bisect.bisect_right(self._keys, order_key(wire)) - 1]


def next_name(owner: bytes) -> bytes:
    """Return the name that directly follows another in canonical order, folded."""
    return _behind(owner) if len(owner) + 2 > name.MAX_NAME_OCTETS else b"\1\0" + owner.lower()


def next_sibling(owner: bytes) -> bytes:
    """Return the name that follows another and all below it, folded; not for the root."""
    return _behind(owner)


def _behind(owner: bytes) -> bytes:
    length, folded = owner[0], owner.lower()
    label, rest = folded[1 : 1 + length], folded[1 + length :]
    if length < name.MAX_LABEL_OCTETS and len(owner) < name.MAX_NAME_OCTETS:
        label += b"\0"
    else:  # it cannot be longer, so the last octet is incremented
        label = label.rstrip(b"\xff")
        if not label:
            return _behind(rest)
        last = label[-1] + 1
        label = label[:-1] + bytes((ord("[") if last == ord("A") else last,))
    return bytes((len(label),)) + label + rest


def rrsig_head(
    owner: bytes, rtype: int, algorithm: int, original_ttl: int, validity: tuple[int, int], tag: int
) -> bytes:
    """Return the RDATA of an RRSIG up to the signer's name (RFC 4034 section 3.1).

    ``validity`` is inception and expiration, in Unix seconds.
    """
    inception, expiration = (seconds & 0xFFFFFFFF for seconds in validity)
    labels = name.count_labels(owner) - owner.startswith(b"\1*")
    return _RRSIG_HEAD.pack(rtype, algorithm, labels, original_ttl, expiration, inception, tag)


def signed_octets(records: Sequence[RR], original_ttl: int) -> bytes:
    """Return the records of an RRset as signed, in canonical form (RFC 4034 section 3.1.8.1)."""
    owner, rtype, _, _, rclass = records[0]
    parts: list[bytes] = []
    for rdata in sorted({folded_rdata(rtype, record.rdata) for record in records}):
        parts += (owner.lower(), _RR_HEAD.pack(rtype, rclass, original_ttl, len(rdata)), rdata)
    return b"".join(parts)


def folded_rdata(rtype: int, rdata: bytes) -> bytes:
    """Return RDATA with its names in lower case, if its type is one with folded names."""
    if rtype not in _FOLDED:
        return rdata
    try:
        start, count = names_in(rtype, rdata, 0, len(rdata))
        end = start
        for _ in range(count):
            end = name.end(rdata, end)
    except IndexError:
        return rdata  # malformed: signed as it is
    return rdata[:start] + rdata[start:end].lower() + rdata[end:]


def type_bitmap(types: Iterable[int]) -> bytes:
    """Return the type bitmap of an NSEC record (RFC 4034 section 4.1.2)."""
    windows: dict[int, bytearray] = {}
    for rtype in types:
        octets = windows.setdefault(rtype >> 8, bytearray(32))
        octets[(rtype & 255) >> 3] |= 0x80 >> (rtype & 7)
    found = b""
    for window, octets in sorted(windows.items()):
        filled = octets.rstrip(b"\0")
        found += bytes((window, len(filled))) + filled
    return found


def key_tag(dnskey: bytes) -> int:
    """Return the key tag of the RDATA of a DNSKEY (RFC 4034 appendix B)."""
    padded = dnskey + b"\0" * (len(dnskey) % 2)
    total = sum(padded[0::2]) * 256 + sum(padded[1::2])
    return (total + (total >> 16)) & 0xFFFF


def ds_rdata(owner: bytes, dnskey: bytes, digest_type: int) -> bytes:
    """Return the RDATA of a DS, or CDS, of a DNSKEY (RFC 4034 section 5.1)."""
    made = hashlib.sha1 if digest_type == SHA1 else hashlib.sha256
    digest = made(owner.lower() + dnskey, usedforsecurity=False).digest()
    return struct.pack("!HBB", key_tag(dnskey), dnskey[3], digest_type) + digest
