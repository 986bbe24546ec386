"""DNS messages: the gate that reads a query, the walker that reads a reply, and their headers.

Every octet that comes from the network passes here and nowhere else. ``read_query`` is the gate of
all transports: length, QR, opcode, counts, one strict question, the rest of the sections, OPT, in
that order (CoreDNS: miekg/dns acceptfunc.go, server.go). ``read_reply`` walks what an upstream
server sent. Both do work linear in the packet's length and raise ``FormError`` at worst.

dnslib prints messages this process has rendered itself (``to_text``) and never sees a byte that
came from outside: one 64 KiB packet costs it 20 s, and 667 octets exhaust its stack.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from clusterdns.errors import FormError
from clusterdns.wire import name, rdata, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
OPCODE_MASK, OPCODE_QUERY, OPCODE_NOTIFY = 0x7800, 0, 4
EDNS_DO = 0x8000
HEADER = struct.Struct("!HHHHHH")
HEADER_OCTETS = 12
MIN_UDP_OCTETS = 512  # RFC 1035 section 4.2.1
MAX_OCTETS = 65535
# What a name of 255 octets could need (miekg/dns maxCompressionPointers). Without it, a chain of
# 8,000 that every record of a 64 KiB message enters at its end cost 5 s.
MAX_POINTERS = 126

_EXTENDED_ERROR = 15  # RFC 8914 section 2
# How many octets an option may have: LLQ, UL, EXPIRE, TCP-KEEPALIVE, EDE.
_OPTION_OCTETS = {
    1: range(18, MAX_OCTETS),
    2: (4, 8),
    9: (0, *range(4, 512)),
    11: (0, 2),
    _EXTENDED_ERROR: range(2, MAX_OCTETS),
}


class Edns(NamedTuple):
    """An OPT record (RFC 6891): the payload size, version, flags, and options as octets."""

    size: int
    version: int
    flags: int
    options: bytes = b""
    extended_rcode: int = 0


class Question(NamedTuple):
    """What is asked: the name as the client spelled it, folded, type, class, and DO and CD."""

    qname: bytes
    folded: WireName
    qtype: int
    qclass: int = rr.CLASS_IN
    do: bool = False
    cd: bool = False

    @property
    def wire(self) -> bytes:
        """The question section: name, type and class."""
        return self.qname + struct.pack("!HH", self.qtype, self.qclass)

    @property
    def folded_wire(self) -> bytes:
        """The question section with the name folded: alike for all who ask the same."""
        return self.folded + struct.pack("!HH", self.qtype, self.qclass)


class Labels(Protocol):
    """What plugins say of a query by label, such as ``kubernetes/namespace``; see `metadata`."""

    def value(self, label: str) -> str | None:
        """Return what a label stands for, None if nobody has said so."""

    def put(self, label: str, value: Callable[[], str]) -> None:
        """Let a label stand for what ``value`` returns."""


class Query:
    """A request that passed the gate, and who sent it.

    ``question`` is None for a bare header (QDCOUNT 1, 12 octets). ``octets`` is its length.
    ``client`` (address, port) and ``transport`` ("udp" or "tcp") are set by who received it;
    ``server`` is the address and port it came to, ``::`` for a socket of all addresses. ``depth``
    is how many queries of our own lead from the client's to this one. ``metadata`` are its labels
    where the server block collects them. ``serial`` is what an IXFR has already (RFC 1995
    section 3). ``more``, on a stream, sends one of several messages of a reply and returns when
    there is room for the next, or False when the client has gone.
    """

    __slots__ = (
        "client", "depth", "edns", "flags", "ident", "metadata", "more", "octets", "question",
        "serial", "server", "transport",
    )  # fmt: skip

    def __init__(
        self, ident: int, flags: int, question: Question | None, edns: Edns | None, octets: int
    ) -> None:
        self.ident = ident
        self.flags = flags
        self.question = question
        self.edns = edns
        self.octets = octets
        self.client: tuple[str, int] = ("", 0)
        self.server: tuple[str, int] = ("", 0)
        self.transport = "udp"
        self.depth = 0
        self.metadata: Labels | None = None
        self.serial: int | None = None
        self.more: Callable[[bytes], Awaitable[bool]] | None = None

    def asking(self, question: Question) -> Query:
        """Return this query with another question: the client, flags and EDNS stay."""
        other = Query(self.ident, self.flags, question, self.edns, self.octets)
        other.client, other.transport, other.depth = self.client, self.transport, self.depth
        other.server, other.metadata = self.server, self.metadata
        return other

    @property
    def limit(self) -> int:
        """The octets a reply may have (CoreDNS: request.go Size; no upper clamp for UDP)."""
        if self.transport == "tcp":
            return MAX_OCTETS
        return max(MIN_UDP_OCTETS, self.edns.size if self.edns else 0)

    @property
    def opcode(self) -> int:
        """OPCODE of the header."""
        return (self.flags & OPCODE_MASK) >> 11


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


def read_query(packet: bytes) -> Query | bytes | None:
    """Return the query in ``packet``, the error reply to send at once, or None to stay silent."""
    if len(packet) < HEADER_OCTETS:
        return None
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(packet)
    if flags & QR:
        return None  # never answer an answer: two servers would play ping-pong (CVE-2024-2169)
    if flags & OPCODE_MASK not in (OPCODE_QUERY << 11, OPCODE_NOTIFY << 11):
        return _reject(ident, flags, rr.NOTIMP)
    if questions != 1 or answers > 1 or authorities > 1 or additionals > 2:
        return _reject(ident, flags, rr.FORMERR)
    if len(packet) == HEADER_OCTETS:
        return Query(ident, flags, None, None, HEADER_OCTETS)
    try:
        qname, end = _read_plain_name(packet, HEADER_OCTETS)
        qtype, end = _read_short(packet, end)
        qclass, end = _read_short(packet, end)
    except FormError:
        return _reject(ident, flags, rr.FORMERR)
    try:
        edns = _read_edns(packet, end, answers + authorities, additionals)
    except FormError:
        return _reject(ident, flags, rr.FORMERR, packet[HEADER_OCTETS:end])
    question = Question(
        qname, name.fold(qname), qtype, qclass,
        edns is not None and bool(edns.flags & EDNS_DO), bool(flags & CD),
    )  # fmt: skip
    query = Query(ident, flags, question, edns, len(packet))
    if qtype == rr.IXFR and (answers, authorities) == (0, 1):
        query.serial = _read_serial(packet, end)
    return query


def _read_serial(packet: bytes, offset: int) -> int | None:
    """Return the serial of the SOA at ``offset``, None if there is none.

    The gate has been there, but a record that was counted may be missing.
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
    """Return the reply of a request that no plugin sees: no OPT, flags copied but for AA and Z."""
    opcode = flags & OPCODE_MASK if rcode == rr.NOTIMP else 0
    flags = QR | opcode | flags & (TC | RD | RA | AD | CD) | rcode
    return HEADER.pack(ident, flags, 1 if question else 0, 0, 0, 0) + question


def _read_plain_name(packet: bytes, start: int) -> tuple[bytes, int]:
    """Return the uncompressed name at ``start`` and where it ends; a question holds no pointer."""
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
    """Return the 16-bit number at ``offset``; 0 where the packet ends, as miekg/dns reads it."""
    if offset == len(packet):
        return 0, offset
    if offset + 2 > len(packet):
        raise FormError(offset, "half a number")
    return packet[offset] << 8 | packet[offset + 1], offset + 2


def _read_edns(packet: bytes, offset: int, before: int, additionals: int) -> Edns | None:
    """Return the OPT of a query, walking all its records; the last of several OPTs counts."""
    edns, names = None, dict[int, bytes]()
    for i in range(before + additionals):
        if offset == len(packet):
            break  # the counts lied; miekg/dns takes the records there are
        _, offset = read_name(packet, offset, names)
        rtype, size, ttl, start, offset = _read_record_head(packet, offset)
        if rtype == rr.OPT:
            options = packet[start:offset]
            _check_options(options)
            if i >= before:
                edns = Edns(size, ttl >> 16 & 0xFF, ttl & 0xFFFF, options)
        else:
            _read_rdata(packet, rtype, start, offset, names)
    return edns


def _read_record_head(packet: bytes, offset: int) -> tuple[int, int, int, int, int]:
    """Return type, class, TTL, and where the RDATA of the record starts and ends."""
    start = offset + 10
    if start > len(packet):
        raise FormError(offset, "record cut short")
    rtype, rclass, ttl, length = struct.unpack_from("!HHIH", packet, offset)
    if start + length > len(packet):
        raise FormError(start, "RDATA cut short")
    return rtype, rclass, ttl, start, start + length


def _check_options(options: bytes) -> None:
    i = 0
    while i < len(options):
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
    """Tell whether the gate takes an option with this data (miekg/dns edns.go)."""
    if code == 8:  # client subnet (RFC 7871 section 6): family, source and scope prefix length
        if len(data) < 4:
            return False
        most = {0: 0, 1: 32, 2: 128}.get(data[0] << 8 | data[1])
        return most is not None and data[2] <= most and (data[3] <= most or most == 0)
    shape = _OPTION_OCTETS.get(code)
    return shape is None or len(data) in shape


def read_name(packet: bytes, offset: int, names: dict[int, bytes]) -> tuple[bytes, int]:
    """Return the name at ``offset``, decompressed, and the offset behind it.

    ``names`` remembers what the pointer targets of this packet stand for, and pointers are followed
    ``MAX_POINTERS`` times at most, which keeps the work linear however they are chained. A pointer
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
        FormError: it is no well-formed DNS message.
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


def write_query(ident: int, flags: int, question: Question, edns: Edns | None) -> bytes:
    """Return a query with the given ID, header flags (RD, AD, CD), question and OPT."""
    header = HEADER.pack(ident, flags, 1, 0, 0, 0 if edns is None else 1)
    return header + question.wire + (b"" if edns is None else write_opt(edns))


def write_opt(edns: Edns, rcode: int = 0) -> bytes:
    """Return an OPT record with the upper bits of ``rcode`` in its TTL (RFC 6891 section 6.1.3)."""
    ttl = (rcode >> 4) << 24 | edns.version << 16 | edns.flags
    head = struct.pack("!BHHIH", 0, rr.OPT, edns.size, ttl, len(edns.options))
    return head + edns.options


def extended_error(info_code: int, text: str = "") -> Edns:
    """Return an OPT that tells a client why it gets what it gets (RFC 8914 section 2)."""
    said = struct.pack("!H", info_code) + text.encode()
    return Edns(0, 0, 0, struct.pack("!HH", _EXTENDED_ERROR, len(said)) + said)


def reply_edns(asked: Edns, own: Edns | None = None) -> Edns:
    """Return the OPT of a reply to a query with the OPT ``asked`` (CoreDNS: request.go SizeAndDo).

    The client's own payload size and flags (the low eight cleared) come back, and none of its
    options. ``own`` is the OPT the reply already has, whose options stay.
    """
    if own is not None:
        return Edns(asked.size, 0, (own.flags & 0xFF00) | (asked.flags & EDNS_DO), own.options)
    return Edns(asked.size, 0, asked.flags & 0xFF00)


def options(octets: bytes) -> list[tuple[int, bytes]]:
    """Return the options of an OPT that passed the gate: (code, data), in their order."""
    found, i = [], 0
    while i < len(octets):
        end = i + 4 + (octets[i + 2] << 8 | octets[i + 3])
        found.append((octets[i] << 8 | octets[i + 1], octets[i + 4 : end]))
        i = end
    return found


def to_text(packet: bytes) -> str:
    """Return a message this process rendered in dig's notation."""
    import dnslib  # type: ignore[import-untyped]  # printing is the command line's business; a worker never pays for the import

    return str(dnslib.DNSRecord.parse(packet))
