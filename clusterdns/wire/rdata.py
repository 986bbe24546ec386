"""Where RDATA holds domain names: one table for reading, compressing and folding them.

An upstream server may compress any of these names, though RFC 3597 section 4 forbids some, and a
pointer is valid only inside its message. ``names_in`` finds them; message.py writes them out in
full, response.py compresses those of RFC 1035, zone.py folds and follows some.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from clusterdns.wire import rr

MD, MF, MB, MG, MR, MINFO, RP, AFSDB, RT, NSAP_PTR, SIG, PX = (
    3,
    4,
    7,
    8,
    9,
    14,
    17,
    18,
    21,
    23,
    24,
    26,
)
NXT, NAPTR, KX, A6, IPSECKEY, HIP, TALINK, SVCB, HTTPS, DSYNC = (
    30,
    35,
    36,
    38,
    45,
    55,
    58,
    64,
    65,
    66,
)
LP: Final = 107
TKEY: Final = 249
AMTRELAY: Final = 260


class Names(NamedTuple):
    """Names in the RDATA of a type: ``number`` of them, in sequence.

    ``before`` octets and then ``strings`` character-strings precede them. ``is_compressed`` marks
    the types of RFC 1035, whose names a server may compress when it writes.
    """

    before: int
    number: int = 1
    strings: int = 0
    is_compressed: bool = False


_ONE, _TWO = Names(0, is_compressed=True), Names(0, 2, is_compressed=True)
NAMES: Final[dict[int, Names]] = {
    rr.NS: _ONE, MD: _ONE, MF: _ONE, rr.CNAME: _ONE, rr.SOA: _TWO, MB: _ONE, MG: _ONE, MR: _ONE,
    rr.PTR: _ONE, MINFO: _TWO, rr.MX: Names(2, is_compressed=True), RP: Names(0, 2),
    AFSDB: Names(2), RT: Names(2), NSAP_PTR: Names(0), SIG: Names(18), PX: Names(2, 2),
    NXT: Names(0), rr.SRV: Names(6), NAPTR: Names(4, strings=3), KX: Names(2),
    rr.DNAME: Names(0), rr.RRSIG: Names(18), rr.NSEC: Names(0), TALINK: Names(0, 2), SVCB: Names(2),
    HTTPS: Names(2), DSYNC: Names(5), LP: Names(2), TKEY: Names(0), rr.TSIG: Names(0),
}  # fmt: skip
# Types whose RDATA itself tells whether and where it holds names.
_VARYING: Final = frozenset((A6, IPSECKEY, HIP, AMTRELAY))
WITH_NAMES: Final = NAMES.keys() | _VARYING
# Types that we write or follow need their names; others may be empty (RFC 2136).
NEVER_EMPTY: Final = frozenset(rtype for rtype, names in NAMES.items() if names.is_compressed) | {
    rr.SRV,
    rr.DNAME,
}
_GATEWAY_IS_NAME: Final = 3  # RFC 4025 section 2.3, RFC 8777 section 4.2.3


def names_in(rtype: int, octets: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the offset of the names between ``start`` and ``end``, and their number.

    The number -1 means as many names as there is room for.

    Raises:
        IndexError: the octets end too early to tell.
    """
    found = NAMES.get(rtype)
    if found is not None:
        start += found.before
        for _ in range(found.strings):
            start += 1 + octets[start]
        return start, found.number
    if start == end or rtype not in _VARYING:
        return start, 0
    if rtype == A6:  # RFC 2874 section 3.1: a prefix length, the rest of the address, a name
        length = octets[start]
        return start + 1 + (128 - min(length, 128) + 7) // 8, 1 if length else 0
    if rtype == HIP:  # RFC 8005 section 5: HIT, algorithm, key, rendezvous servers
        return start + 4 + octets[start] + (octets[start + 2] << 8 | octets[start + 3]), -1
    if rtype == IPSECKEY:
        return start + 3, 1 if octets[start + 1] == _GATEWAY_IS_NAME else 0
    return start + 2, 1 if octets[start + 1] & 0x7F == _GATEWAY_IS_NAME else 0
