"""Responses, and how they are rendered.

The plugin chain makes a ``Response``; ``render`` turns it into octets with the compression of
miekg/dns, so that a reply is truncated exactly where CoreDNS truncates it. Responses that are equal
for every client are kept in an ``AnswerTable``, see table.py.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Hashable, Iterator, Mapping, Set
from typing import Any, Final, NamedTuple

from clusterdns.wire import message, name, rr
from clusterdns.wire.message import AA, AD, QR, RD, TC, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rdata import NAMES
from clusterdns.wire.reading import Reply
from clusterdns.wire.rr import RR

# Data for the observers of a server block, kept with an answer, for each hit. The garbage collector
# tracks nothing in it.
Note = tuple[Any, ...]


class Addresses(NamedTuple):
    """The names that may exist in a reverse zone, alive.

    They are those at and below ``labels`` right below the zone, and those of the addresses in
    ``services`` and ``endpoints``. No label begins with a digit. The keys are the canonical text of
    addresses.
    """

    labels: frozenset[bytes]
    services: Mapping[str, object]
    endpoints: Mapping[str, object]

    def may_have(self, label: bytes, wire: bytes) -> bool:
        """Tell whether a folded name, with this label right below the zone, may exist."""
        if label in self.labels:
            return True
        address = name.plain_address(wire)
        return address is None or address in self.services or address in self.endpoints


class Passing(NamedTuple):
    """The questions in a reverse zone that are for the next plugin: for no name ``there``, alive.

    Others are those of ``types``, and for names that begin with the octets ``spared``.
    """

    there: Addresses
    spared: bytes
    types: tuple[int, ...]

    def has(self, question: Question, zone: WireName) -> bool:
        """Tell whether a question in ``zone`` is surely for the next plugin."""
        folded, left = question.folded, len(question.folded) - len(zone)
        if not left or question.qtype in self.types or folded.startswith(self.spared):
            return False
        above = name.labels(folded[:left] + name.ROOT)[-1]
        return not self.there.may_have(above, folded)


# The labels that may exist below a name: those of a set, those that hold any of some octets,
# or as `Addresses` says. A label too many is no mistake, a missing one is.
Children = Set[bytes] | bytes | Addresses


class Node(NamedTuple):
    """A name that exists, folded, with all labels that names may have right below it.

    ``children`` is true for as long as none of ``facts`` changes: either it is alive, so that who
    made it adds what comes and removes what goes, or a frozenset that holds as long as the facts.
    """

    owner: bytes
    children: Children | None
    facts: tuple[Hashable, ...]


Sections = tuple[tuple[RR, ...], tuple[RR, ...], tuple[RR, ...]]

_MAX_POINTER: Final = 0x3FFF  # RFC 1035 section 4.1.4
_POINTER: Final = 0xC0
_HEAD_OCTETS: Final = 10  # of a record behind its owner, and where in it
_RDLENGTH: Final = 8
_QNAME: Final = b"\xc0\x0c"  # a pointer to the name in the question
_RR_HEAD: Final = struct.Struct("!HHIH")
_FLAGS_KEPT: Final = (
    message.AA | message.TC | message.RD | message.RA | message.Z | message.AD | message.CD
)
# Names compressed in RDATA (RFC 3597 section 4): octets before them, and their number.
_COMPRESSED: Final = {
    rtype: (names.before, names.number) for rtype, names in NAMES.items() if names.is_compressed
}


class Response(NamedTuple):
    """The response of a chain: no ID, no question, no EDNS of the client.

    ``flags`` holds header bits but no RCODE; RD and CD are copied from the query unless
    ``verbatim``. ``bare`` marks a return code without message: the server makes one, never cached.
    ``lifetime_s`` bounds how long it may be repeated; 0 is never. It depends on ``facts``: a change
    of one removes it from the table. ``orders`` are the record orders to alternate between, if more
    than one. ``counters`` are (metric, label values), each incremented when the table repeats it.
    The `errors` plugin logs ``error``. ``denies`` is the topmost name, folded, that does not exist:
    no name at or below it exists (RFC 8020), except names that begin with ``spared``. ``node`` is
    the closest name above that exists, if all labels right below it are known: except its children,
    and ``spared``, all names below it get this denial. ``follows_case`` tells that for another
    letter case of the question only the letter case of the question's name, and of its suffixes,
    changes. ``source`` is the upstream server that replied.
    ``following`` are the answer sections of the further messages of a reply over TCP.
    ``unanswered`` marks a failure without any upstream reply: `cache` may keep it for a moment,
    since the next query would probably fail too (RFC 9520).
    ``personal`` tells that other clients may get another one: only their table keeps it, no cache.
    """

    rcode: int = rr.NOERROR
    flags: int = AA
    answer: tuple[RR, ...] = ()
    authority: tuple[RR, ...] = ()
    additional: tuple[RR, ...] = ()
    edns: message.Edns | None = None
    verbatim: bool = False
    bare: bool = False
    lifetime_s: float = math.inf
    facts: tuple[Hashable, ...] = ()
    orders: tuple[Sections, ...] = ()
    counters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    error: str = ""
    denies: bytes = b""
    spared: bytes = b""
    node: Node | None = None
    follows_case: bool = False
    source: str = ""
    following: Iterator[tuple[RR, ...]] | None = None
    unanswered: bool = False
    personal: bool = False

    @property
    def sections(self) -> Sections:
        """The answer, authority and additional sections."""
        return self.answer, self.authority, self.additional

    def with_sections(self, sections: Sections) -> Response:
        """Return this response with other records and no alternative orders."""
        answer, authority, additional = sections
        return self._replace(answer=answer, authority=authority, additional=additional, orders=())

    def counted(self, moves: tuple[tuple[str, tuple[str, ...]], ...]) -> Response:
        """Return this response with more counters; ``_replace`` would take three times as long."""
        return Response._make((*self[:_COUNTERS], self.counters + moves, *self[_COUNTERS + 1 :]))

    @property
    def is_lasting(self) -> bool:
        """Whether its name exists and it holds until a fact changes."""
        return bool(self.answer) and self.lifetime_s == math.inf and bool(self.facts)


_COUNTERS: Final = Response._fields.index("counters")


def failure(rcode: int, error: str = "") -> Response:
    """Return the bare response of a return code: no records, AA clear, never kept."""
    return Response(rcode, flags=0, bare=True, lifetime_s=0, error=error)


def uncompressed_octets(question: Question | None, response: Response) -> int:
    """Return the length of the reply without compression and OPT, as CoreDNS counts it."""
    size = message.HEADER_OCTETS + (len(question.qname) + 4 if question else 0)
    for section in response.sections:
        for record in section:
            size += len(record.owner) + 10 + len(record.rdata)
    return size


def render(
    qname: bytes, sections: Sections, limit: int
) -> tuple[tuple[int, int, int], bytes, bool]:
    """Return the record counts, the octets behind the question, and whether records were left out.

    ``limit`` counts the whole message without its OPT. Records are written in order;
    the first that does not fit ends the message (CoreDNS: miekg/dns msg_truncate.go).
    """
    if sections[0] and not sections[1] and not sections[2]:
        body = _addresses(qname, sections[0])
        if body and message.HEADER_OCTETS + len(qname) + 4 + len(body) <= limit:
            return (len(sections[0]), 0, 0), body, False
    writer = _Writer(qname)
    counts = [0, 0, 0]
    for i, section in enumerate(sections):
        for record in section:
            mark = len(writer.octets)
            writer.write(record)
            if writer.offset > limit:
                del writer.octets[mark:]
                return (counts[0], counts[1], counts[2]), bytes(writer.octets), True
            counts[i] += 1
    return (counts[0], counts[1], counts[2]), bytes(writer.octets), False


def render_orders(
    qname: bytes, orders: tuple[Sections, ...], limit: int
) -> tuple[tuple[int, int, int], tuple[bytes, ...], bool]:
    """Return what ``render`` returns for the first order, with a body for each order.

    The others are made of the pieces of the first where that is possible: ten addresses behind SRV
    records of the same names take a tenth of the time of ``render`` for each.
    """
    first = orders[0]
    counts, body, is_cut = render(qname, first, limit)
    if len(orders) == 1 or is_cut:
        return counts, (body,), is_cut
    pieces, blocks, can_move = _pieces(body, first)
    bodies = [body]
    for order in orders[1:]:
        octets = b""
        for i, section in enumerate(order):
            if section == first[i]:
                octets += blocks[i]
                continue
            parts = [pieces[record] for record in section if record in pieces]
            if not can_move[i] or not len(parts) == len(section) == len(first[i]):
                octets = render(qname, order, limit)[1]
                break
            octets += b"".join(parts)
        bodies.append(octets)
    return counts, tuple(bodies), False


def _pieces(
    body: bytes, sections: Sections
) -> tuple[dict[RR, bytes], tuple[bytes, ...], tuple[bool, ...]]:
    """Return the octets of each record and section, and whether the records of each can move.

    They can where each owner is a pointer to a name in front of the section and no RDATA has a
    name: then none adds a name that others would point to.
    """
    pieces, blocks, can_move = dict[RR, bytes](), list[bytes](), list[bool]()
    ends, start, i = record_ends(body), 0, 0
    for section in sections:
        before, are_free = start, True
        for record in section:
            end = ends[i]
            are_free = are_free and body[start] >= _POINTER and record.rtype not in NAMES
            pieces[record] = body[start:end]
            start, i = end, i + 1
        blocks.append(body[before:start])
        can_move.append(are_free)
    return pieces, tuple(blocks), tuple(can_move)


def record_ends(body: bytes) -> array[int]:
    """Return the offsets behind each record of a body that we have rendered."""
    ends, i = array("L"), 0
    while i < len(body):
        while 0 < body[i] < _POINTER:
            i += 1 + body[i]
        i += 1 if not body[i] else 2
        i += _HEAD_OCTETS + (body[i + _RDLENGTH] << 8 | body[i + _RDLENGTH + 1])
        ends.append(i)
    return ends


def fit(response: Response, question: Question, limit: int) -> Response:
    """Return ``response`` cut to a limit in octets, with TC set if records were left out."""
    counts, _, cut = render(question.qname, response.sections, limit)
    if not cut:
        return response
    answer, authority, additional = (s[:n] for s, n in zip(response.sections, counts, strict=True))
    return response.with_sections((answer, authority, additional))._replace(
        flags=response.flags | TC
    )


def _addresses(qname: bytes, answer: tuple[RR, ...]) -> bytes:
    """Return the octets of an answer section of nothing but addresses of ``qname``, else b"".

    Most answers are such; this takes a third of the time of ``_Writer``, which writes the same.
    """
    if len(qname) == 1:
        return b""  # the root is no pointer
    body = b""
    for owner, rtype, ttl, rdata, rclass in answer:
        if (rtype != rr.A and rtype != rr.AAAA) or owner != qname:
            return b""
        body += _QNAME + _RR_HEAD.pack(rtype, rclass, ttl, len(rdata)) + rdata
    return body


class _Writer:
    """Writes the records behind a question, and keeps the offsets of names for pointers."""

    __slots__ = ("_names", "_start", "octets")

    def __init__(self, qname: bytes) -> None:
        self.octets = bytearray()
        self._start = message.HEADER_OCTETS + len(qname) + 4
        self._names: dict[bytes, int] = {}
        i = 0
        while qname[i]:
            self._names[qname[i:]] = message.HEADER_OCTETS + i
            i += 1 + qname[i]

    @property
    def offset(self) -> int:
        return self._start + len(self.octets)

    def write(self, record: RR) -> None:
        owner, rtype, ttl, rdata, rclass = record
        self._write_name(owner, True)
        octets = self.octets
        layout = _COMPRESSED.get(rtype)  # SRV targets are pointed to only, as in miekg/dns
        octets += _RR_HEAD.pack(rtype, rclass, ttl, len(rdata))
        if layout is None:
            if rtype == rr.SRV:
                octets += rdata[:6]
                self._write_name(rdata[6:], False)
            else:
                octets += rdata
            return
        start = len(octets)
        i, names = layout
        octets += rdata[:i]
        for _ in range(names):
            end = name.end(rdata, i)
            self._write_name(rdata[i:end], True)
            i = end
        octets += rdata[i:]
        struct.pack_into("!H", octets, start - 2, len(octets) - start)

    def _write_name(self, wire: bytes, compress: bool) -> None:
        offset, known, i = self.offset, self._names, 0
        while length := wire[i]:
            suffix = wire[i:]
            target = known.get(suffix)
            if target is None:
                if offset + i <= _MAX_POINTER:
                    known[suffix] = offset + i
            elif compress:
                self.octets += wire[:i]
                self.octets += struct.pack("!H", 0xC000 | target)
                return
            else:
                break  # of a name that is known, all parents are that can be
            i += 1 + length
        self.octets += wire


def render_reply(
    query: message.Query, response: Response, limit: int, sections: Sections | None = None
) -> bytes:
    """Return the whole reply to ``query``: header, question, records that fit ``limit``, OPT.

    ``sections`` overrides the order of the records. (CoreDNS: request.go SizeAndDo and Scrub.)
    """
    opt = b""
    if query.edns is not None:
        edns = message.reply_edns(query.edns, response.edns, query.cookie)
        opt = message.write_opt(edns, response.rcode)
    question = query.question
    qname = question.qname if question else name.ROOT
    sections = sections or response.sections
    if not any(sections):
        counts, body, cut = (0, 0, 0), b"", False
    else:
        counts, body, cut = render(qname, sections, limit - len(opt))
    flags = QR | response.flags | query.flags & message.OPCODE_MASK | response.rcode & 15
    if not (response.verbatim or query.flags & AD or (question and question.do)):
        flags &= ~AD  # AD only for clients that understand it (RFC 6840 section 5.8)
    if not response.verbatim and query.opcode == message.OPCODE_QUERY:
        flags |= query.flags & (RD | message.CD)
    if cut:
        flags |= TC
    header = message.HEADER.pack(
        query.ident, flags, 1 if question else 0, *counts[:2], counts[2] + (1 if opt else 0)
    )
    return header + (question.wire if question else b"") + body + opt


def response_of(reply: Reply) -> Response:
    """Return an upstream's reply as a response with lifetime 0."""
    return Response(
        reply.rcode,
        reply.flags & _FLAGS_KEPT,
        reply.answer,
        reply.authority,
        reply.additional,
        edns=reply.edns,
        verbatim=True,
        lifetime_s=0,
    )
