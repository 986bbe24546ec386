"""Readers of DNS messages: the gate for queries, and the walker for replies.

``read_query`` is the gate of all transports, and the only parser of queries that the table does
not answer: length, QR, opcode, counts, one strict question, the rest of the sections, OPT, in that
order (CoreDNS: miekg/dns acceptfunc.go, server.go). ``read_reply`` walks the reply of an upstream
server. Both do work linear in the packet's length, and raise no other error than ``FormError``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from clusterdns.errors import FormError
from clusterdns.wire import name, rdata, rr
from clusterdns.wire.message import (
    AD,
    CD,
    EDNS_DO,
    EXTENDED_ERROR,
    HEADER,
    HEADER_OCTETS,
    MAX_OCTETS,
    OPCODE_MASK,
    OPCODE_NOTIFY,
    OPCODE_QUERY,
    OPCODE_UPDATE,
    QR,
    QUESTION_TAIL,
    RA,
    RD,
    TC,
    Edns,
    Query,
    Question,
    Signed,
    Unread,
)  # fmt: skip
from clusterdns.wire.rr import RR

# The most that a name of 255 octets can need (miekg/dns maxCompressionPointers). Without this
# limit, 64 KiB of records that all enter a chain of 8,000 pointers cost 5 s.
MAX_POINTERS: Final = 126
# Of a query's OPT: two dozen are defined. 16,000 of them, as 64 KiB hold, would cost 11 ms.
MAX_OPTIONS: Final = 64
# Allowed lengths of options in octets: LLQ, UL, EXPIRE, TCP-KEEPALIVE, EDE.
_OPTION_OCTETS: Final = {
    1: range(18, MAX_OCTETS),
    2: (4, 8),
    9: (0, *range(4, 512)),
    11: (0, 2),
    EXTENDED_ERROR: range(2, MAX_OCTETS),
}
_OPT_START: Final = b"\0\0\x29"  # the root, type OPT
_OPT_BODY: Final = struct.Struct("!HI")  # payload size; version and flags


class Reply(NamedTuple):
    """A decoded message from an upstream server; names in RDATA are uncompressed."""

    ident: int
    flags: int
    rcode: int
    questions: tuple[tuple[bytes, int, int], ...]
    answer: tuple[RR, ...]
    authority: tuple[RR, ...]
    additional: tuple[RR, ...]
    edns: Edns | None


def read_query(
    packet: bytes, *, takes_updates: bool = False, takes_cookies: bool = False
) -> Query | bytes | None:
    """Return the query in ``packet``, the error reply to send at once, or None to stay silent.

    ``takes_updates`` lets UPDATE in, whose sections may have any number of records.
    """
    if len(packet) < HEADER_OCTETS:
        return None
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(packet)
    if flags & QR:
        return None  # a reply to a reply could loop between two servers (CVE-2024-2169)
    is_update = takes_updates and flags & OPCODE_MASK == OPCODE_UPDATE << 11
    if not is_update and flags & OPCODE_MASK not in (OPCODE_QUERY << 11, OPCODE_NOTIFY << 11):
        return _reject(ident, flags, rr.NOTIMP)
    if takes_cookies and (flags & OPCODE_MASK, questions, answers, authorities) == (0, 0, 0, 0):
        return _read_cookie_query(packet, ident, flags, additionals)
    if questions != 1 or (not is_update and (answers > 1 or authorities > 1 or additionals > 2)):
        return _reject(ident, flags, rr.FORMERR)
    if len(packet) == HEADER_OCTETS:
        return Query(ident, flags, None, None, HEADER_OCTETS)
    try:
        qname, end = _read_plain_name(packet, HEADER_OCTETS)
        if end + 4 <= len(packet):
            qtype, qclass = QUESTION_TAIL.unpack_from(packet, end)
            end += 4
        else:
            qtype, end = _read_short(packet, end)
            qclass, end = _read_short(packet, end)
    except FormError:
        return _reject(ident, flags, rr.FORMERR)
    try:
        if is_update:
            edns, signed = _walk_update(packet, end, answers + authorities, additionals)
        elif additionals == 1 and not answers and not authorities and _is_bare_opt(packet, end):
            size, ttl = _OPT_BODY.unpack_from(packet, end + 3)
            edns, signed = Edns(size, ttl >> 16 & 0xFF, ttl & 0xFFFF), None
        else:
            edns, signed = _read_rest(packet, end, answers + authorities, additionals)
    except FormError:
        return _reject(ident, flags, rr.FORMERR, packet[HEADER_OCTETS:end])
    question = Question(
        qname, name.fold(qname), qtype, qclass,
        edns is not None and bool(edns.flags & EDNS_DO), bool(flags & CD),
    )  # fmt: skip
    query = Query(ident, flags, question, edns, len(packet))
    query.signed = signed
    if is_update:
        query.changes = Unread(packet, end, answers, authorities)
    if qtype == rr.IXFR and (answers, authorities) == (0, 1):
        query.serial = _read_serial(packet, end)
    return query


def _is_bare_opt(packet: bytes, start: int) -> bool:
    """Tell whether a packet ends with an OPT without options; most do."""
    return (
        len(packet) == start + 11
        and packet[start : start + 3] == _OPT_START
        and (packet[-2:] == b"\0\0")
    )


def _read_cookie_query(packet: bytes, ident: int, flags: int, additionals: int) -> Query | bytes:
    """Return a query that has no question, only an OPT, with a cookie (RFC 7873 section 5.4)."""
    edns = None
    if additionals == 1:
        try:
            edns, _ = _read_rest(packet, HEADER_OCTETS, 0, 1)
        except FormError:
            edns = None
    if edns is None:
        return _reject(ident, flags, rr.FORMERR)
    return Query(ident, flags, None, edns, len(packet))


def _read_serial(packet: bytes, offset: int) -> int | None:
    """Return the serial of the SOA at ``offset``, None if there is none.

    The gate has read the section, but a counted record may be missing.
    """
    try:
        _, offset = read_name(packet, offset, {})
        rtype, _, _, start, end = _read_record_head(packet, offset)
    except FormError:
        return None
    if rtype != rr.SOA or end - start < 20:
        return None
    return int.from_bytes(packet[end - 20 : end - 16], "big")


def _reject(ident: int, flags: int, rcode: int, question: bytes = b"") -> bytes:
    """Return the reply to a rejected request: no OPT, and its flags without AA and Z."""
    opcode = flags & OPCODE_MASK if rcode == rr.NOTIMP else 0
    flags = QR | opcode | flags & (TC | RD | RA | AD | CD) | rcode
    return HEADER.pack(ident, flags, 1 if question else 0, 0, 0, 0) + question


def _read_plain_name(packet: bytes, start: int) -> tuple[bytes, int]:
    """Return the uncompressed name at ``start`` and its end; a question has no pointer."""
    i, last = start, len(packet)
    while i < last:
        length = packet[i]
        if length == 0:
            if i + 1 - start > name.MAX_NAME_OCTETS:
                break
            return packet[start : i + 1], i + 1
        if length > name.MAX_LABEL_OCTETS:
            raise FormError(i, "label type in a question")
        i += 1 + length
    raise FormError(min(i, last), "name does not end")


def _read_short(packet: bytes, offset: int) -> tuple[int, int]:
    """Return the 16-bit number at ``offset``; 0 behind the end, as in miekg/dns."""
    if offset == len(packet):
        return 0, offset
    if offset + 2 > len(packet):
        raise FormError(offset, "half a number")
    return packet[offset] << 8 | packet[offset + 1], offset + 2


def _read_rest(
    packet: bytes, offset: int, before: int, additionals: int
) -> tuple[Edns | None, Signed | None]:
    """Return the last OPT of a query, and the place of its first TSIG record.

    All records are walked.
    """
    edns, signed, names = None, None, dict[int, bytes]()
    for i in range(before + additionals):
        if offset == len(packet):
            break  # fewer records than counted; miekg/dns accepts that
        if signed is not None:
            signed = signed._replace(is_last=False)
        owner = offset
        _, offset = read_name(packet, offset, names)
        rtype, size, ttl, start, offset = _read_record_head(packet, offset)
        if rtype == rr.TSIG and i >= before and signed is None:
            signed = Signed(packet, owner, True)
        if rtype == rr.OPT:
            options = packet[start:offset]
            _check_options(options)
            if i >= before:
                edns = Edns(size, ttl >> 16 & 0xFF, ttl & 0xFFFF, options)
        else:
            _read_rdata(packet, rtype, start, offset, names)
    return edns, signed


def _walk_update(
    packet: bytes, offset: int, before: int, additionals: int
) -> tuple[Edns | None, Signed | None]:
    """Return the OPT of an UPDATE and the place of its first TSIG record.

    Names and RDATA are stepped over: who may not update causes no more work than that.
    """
    edns, signed = None, None
    for i in range(before + additionals):
        if offset == len(packet):
            break  # fewer records than counted; miekg/dns accepts that
        if signed is not None:
            signed = signed._replace(is_last=False)
        owner, offset = offset, _behind_name(packet, offset)
        rtype, size, ttl, start, offset = _read_record_head(packet, offset)
        if i < before:
            continue
        if rtype == rr.TSIG and signed is None:
            signed = Signed(packet, owner, True)
        elif rtype == rr.OPT:
            options = packet[start:offset]
            _check_options(options)
            edns = Edns(size, ttl >> 16 & 0xFF, ttl & 0xFFFF, options)
    return edns, signed


def _behind_name(packet: bytes, offset: int) -> int:
    """Return the offset behind a name that may be compressed."""
    while offset < len(packet):
        length = packet[offset]
        if length >= 0xC0:
            return offset + 2
        offset += 1 + length
        if not length:
            return offset
        if length > name.MAX_LABEL_OCTETS:
            break
    raise FormError(offset, "name does not end")


def read_update(changes: Unread) -> tuple[tuple[RR, ...], tuple[RR, ...]]:
    """Return the prerequisites and the updates of an UPDATE; RDATA may be empty.

    Raises:
        FormError: they are malformed.
    """
    packet, offset, *counts = changes
    names = dict[int, bytes]()
    sections: list[tuple[RR, ...]] = []
    for count in counts:
        section = []
        for _ in range(count if offset < len(packet) else 0):
            owner, offset = read_name(packet, offset, names)
            rtype, rclass, ttl, start, offset = _read_record_head(packet, offset)
            octets = _read_rdata(packet, rtype, start, offset, names) if start < offset else b""
            section.append(RR(owner, rtype, ttl, octets, rclass))
        sections.append(tuple(section))
    return sections[0], sections[1]


def _read_record_head(packet: bytes, offset: int) -> tuple[int, int, int, int, int]:
    """Return type, class, TTL, and the start and end of the RDATA."""
    start = offset + 10
    if start > len(packet):
        raise FormError(offset, "record cut short")
    rtype, rclass, ttl, length = struct.unpack_from("!HHIH", packet, offset)
    if start + length > len(packet):
        raise FormError(start, "RDATA cut short")
    return rtype, rclass, ttl, start, start + length


def _check_options(options: bytes) -> None:
    i = count = 0
    while i < len(options):
        count += 1
        if count > MAX_OPTIONS:
            raise FormError(i, "too many EDNS options")
        if i + 4 > len(options):
            raise FormError(i, "EDNS option cut short")
        start = i + 4
        end = start + (options[i + 2] << 8 | options[i + 3])
        if end > len(options):
            raise FormError(i, "EDNS option longer than its record")
        if not is_option(options[i] << 8 | options[i + 1], options[start:end]):
            raise FormError(i, "EDNS option that is none")
        i = end


def is_option(code: int, data: bytes) -> bool:
    """Tell whether the gate accepts an option with this data (miekg/dns edns.go)."""
    if code == 8:  # client subnet (RFC 7871 section 6): family, source and scope prefix length
        if len(data) < 4:
            return False
        most = {0: 0, 1: 32, 2: 128}.get(data[0] << 8 | data[1])
        return most is not None and data[2] <= most and (data[3] <= most or most == 0)
    shape = _OPTION_OCTETS.get(code)
    return shape is None or len(data) in shape


def read_name(packet: bytes, offset: int, names: dict[int, bytes]) -> tuple[bytes, int]:
    """Return the name at ``offset``, decompressed, and the offset behind it.

    ``names`` caches the names at pointer targets of this packet, and at most ``MAX_POINTERS``
    pointers are followed, so the work is linear for any chain. A pointer
    must lead backwards (RFC 1035 section 4.1.4).
    """
    parts: list[bytes] = []
    rest: bytes = name.ROOT
    i, end, octets, lowest, pointers = offset, 0, 0, offset, 0
    while True:
        if i >= len(packet):
            raise FormError(i, "name does not end")
        length = packet[i]
        if length == 0:
            end = end or i + 1
            break
        if length <= name.MAX_LABEL_OCTETS:
            parts.append(packet[i : i + 1 + length])
            octets += 1 + length
            i += 1 + length
            if octets >= name.MAX_NAME_OCTETS:
                raise FormError(i, "name too long")
            continue
        if length < 0xC0 or i + 1 >= len(packet):
            raise FormError(i, "bad label type")
        end = end or i + 2
        target = (length & 0x3F) << 8 | packet[i + 1]
        if target in names:
            rest = names[target]
            break
        pointers += 1
        if target >= lowest or pointers > MAX_POINTERS:
            raise FormError(i, "pointer does not lead backwards, or one of too many")
        i = lowest = target
    wire = b"".join(parts) + rest
    if len(wire) > name.MAX_NAME_OCTETS:
        raise FormError(offset, "name too long")
    if offset < 0x4000:
        names[offset] = wire
    return wire, end


def _read_rdata(packet: bytes, rtype: int, start: int, end: int, names: dict[int, bytes]) -> bytes:
    """Return the RDATA between ``start`` and ``end`` with its names uncompressed."""
    if (rtype == rr.A and end - start != 4) or (rtype == rr.AAAA and end - start != 16):
        raise FormError(start, "address of the wrong length")
    if rtype not in rdata.WITH_NAMES or (start == end and rtype not in rdata.NEVER_EMPTY):
        return packet[start:end]
    try:
        offset, count = rdata.names_in(rtype, packet, start, end)
    except IndexError as error:
        raise FormError(start, "RDATA cut short") from error
    if offset > end:
        raise FormError(start, "RDATA of the wrong length")
    parts = [packet[start:offset]]
    while count and (count > 0 or offset < end):
        wire, offset = read_name(packet, offset, names)
        parts.append(wire)
        count -= 1
    if offset > end or (rtype == rr.SOA and end - offset != 20):
        raise FormError(start, "RDATA of the wrong length")
    parts.append(packet[offset:end])
    return b"".join(parts)


def read_reply(packet: bytes) -> Reply:
    """Return the decoded reply of an upstream server.

    Raises:
        FormError: it is not a well-formed DNS message.
    """
    if len(packet) < HEADER_OCTETS:
        raise FormError(len(packet), "shorter than a header")
    ident, flags, questions, *counts = HEADER.unpack_from(packet)
    names = dict[int, bytes]()
    offset, asked = HEADER_OCTETS, []
    for _ in range(questions):
        qname, offset = read_name(packet, offset, names)
        if offset + 4 > len(packet):
            raise FormError(offset, "question cut short")
        asked.append((qname, *struct.unpack_from("!HH", packet, offset)))
        offset += 4
    sections: list[tuple[RR, ...]] = []
    edns = None
    for count in counts:
        section = []
        for _ in range(count):
            owner, offset = read_name(packet, offset, names)
            rtype, rclass, ttl, start, offset = _read_record_head(packet, offset)
            if rtype == rr.OPT:
                edns = Edns(rclass, ttl >> 16 & 0xFF, ttl & 0xFFFF, packet[start:offset], ttl >> 24)
                continue
            section.append(
                RR(owner, rtype, ttl, _read_rdata(packet, rtype, start, offset, names), rclass)
            )
        sections.append(tuple(section))
    rcode = flags & 15 | (edns.extended_rcode << 4 if edns else 0)
    answer, authority, additional = sections
    return Reply(ident, flags, rcode, tuple(asked), answer, authority, additional, edns)
