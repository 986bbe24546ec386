"""Responses, how they are rendered, and the table of those that may be repeated.

The plugin chain makes a ``Response``; ``render`` turns it into octets with the compression of
miekg/dns, so that a reply is truncated exactly where CoreDNS truncates it. A response that is the
same for every client is remembered in an ``AnswerTable``: the question's octets lead to the rest of
the message. ``AnswerTable.reply`` is the fast path and its specification: it is total on all
octets, builds no object per hit but the reply and its parts, and says None for a miss.

A remembered answer is a plain tuple ``(until, slot, heads, body, ...)``: the monotonic second it
ends at, where its hits are counted, the header behind the ID for each kind of plain query, and the
octets behind the question, once per order ``loadbalance`` asks for. A body points into the question
or into itself only, so the ID does not matter to it. The garbage collector stops tracking such
tuples: a large table costs no pauses.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

from clusterdns import message, name, rr
from clusterdns.message import AA, AD, QR, RD, TC, Question
from clusterdns.rr import RR

Sections = tuple[tuple[RR, ...], tuple[RR, ...], tuple[RR, ...]]
Answer = tuple[Any, ...]  # (until, slot, heads, body, ...), see above

_MAX_POINTER = 0x3FFF  # RFC 1035 section 4.1.4
_RR_HEAD = struct.Struct("!HHIH")
# Names in the RDATA of these types are compressed; SRV targets are only pointed into (RFC 3597
# section 4, miekg/dns "cdomain-name"): octets before the first name, number of names.
_COMPRESSED = {
    rr.NS: (0, 1), 3: (0, 1), 4: (0, 1), rr.CNAME: (0, 1), rr.SOA: (0, 2), 7: (0, 1), 8: (0, 1),
    9: (0, 1), rr.PTR: (0, 1), 14: (0, 2), rr.MX: (2, 1),
}  # fmt: skip


class Response(NamedTuple):
    """What a chain says to a question: no ID, no question, no EDNS of the client.

    ``flags`` holds header bits but no RCODE; RD and CD are copied from the query unless
    ``verbatim``. ``bare`` is a return code the core makes a message of: it is never cached.
    ``lifetime_s`` bounds how long it may be repeated; 0 is never. ``facts`` are what it was
    decided from: a change of one of them forgets it. ``orders`` are the record orders to alternate
    between, if more than one. ``counters`` are the (metric, label values) that move by one each
    time it is repeated from the table. ``error`` is what the errors plugin logs.
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

    @property
    def sections(self) -> Sections:
        """The answer, authority and additional sections."""
        return self.answer, self.authority, self.additional

    def with_sections(self, sections: Sections) -> Response:
        """Return this response with other records and no alternative orders."""
        answer, authority, additional = sections
        return self._replace(answer=answer, authority=authority, additional=additional, orders=())

    @property
    def is_lasting(self) -> bool:
        """Whether it is about an existing name and holds until something changes."""
        return bool(self.answer) and self.lifetime_s == math.inf and bool(self.facts)


def failure(rcode: int, error: str = "") -> Response:
    """Return the bare response of a return code: no records, AA clear, never remembered."""
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

    ``limit`` counts the whole message without its OPT. Records are taken in order while they fit;
    the first that does not ends the message (CoreDNS: miekg/dns msg_truncate.go).
    """
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


def fit(response: Response, question: Question, limit: int) -> Response:
    """Return ``response`` as a client with this limit in octets would see it, TC set if cut."""
    counts, _, cut = render(question.qname, response.sections, limit)
    if not cut:
        return response
    answer, authority, additional = (s[:n] for s, n in zip(response.sections, counts, strict=True))
    return response.with_sections((answer, authority, additional))._replace(
        flags=response.flags | TC
    )


class _Writer:
    """The records behind a question being written, and where its names can be pointed to."""

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
        layout = _COMPRESSED.get(rtype)
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
            i += 1 + length
        self.octets += wire


# The header behind the ID of a plain query: opcode QUERY, one question, RD and AD as they like, no
# other flag, and at most one additional record. The number is RD + 2 AD + 4 OPT.
_PLAIN = {
    struct.pack(
        "!HHHHH", (RD if kind & 1 else 0) | (AD if kind & 2 else 0), 1, 0, 0, kind >> 2
    ): kind
    for kind in range(8)
}
_OPT_OCTETS = 11  # one OPT record without options
_MAX_LIMITS = 4096


class AnswerTable:
    """Remembered answers by question octets (name, type, class), for queries without DO and CD.

    Two shelves: what lasts until the cluster changes, and what passes by itself, which is also
    where names that do not exist go. Neither can push out the other, and a shelf that is full
    starts anew. A passing answer is put on its shelf when it is asked for a second time, so a flood
    of names never asked again does not displace what is in use; nor does one of spellings, since
    a name in mixed case passes too.
    """

    def __init__(self, lasting: int = 131_072, passing: int = 32_768) -> None:
        self._lasting = _Shelf(lasting)
        self._passing = _Shelf(passing)
        self._seen: set[int] = set()
        self._limits: dict[bytes, int] = {}
        self._heads: dict[tuple[int, ...], tuple[bytes, ...]] = {}

    def reply(
        self, packet: bytes, now: float, hits: list[int], stream: bool = False
    ) -> bytes | None:
        """Return the reply to ``packet`` or None for a miss; never raises.

        ``hits`` are the caller's counters, by slot; ``now`` is monotonic seconds; ``stream`` lifts
        the limit of a datagram.
        """
        kind = _PLAIN.get(packet[2:12])
        if kind is None:
            return None
        if kind < 4:
            question, opt, limit = packet[12:], b"", 512
        else:
            question, opt = packet[12:-_OPT_OCTETS], packet[-_OPT_OCTETS:]
            limit = self._limits.get(opt, 0)
        answer = self._lasting.answers.get(question) or self._passing.answers.get(question)
        if answer is None or answer[0] <= now:
            return None
        orders = len(answer) - 3
        body = answer[3] if orders == 1 else answer[3 + packet[1] % orders]
        reply: bytes = packet[:2] + answer[2][kind] + question + body + opt
        if len(reply) > limit and (limit == 0 or not stream):
            return None
        hits[answer[1] + (kind >> 2)] += 1
        return reply

    def admit_opt(self, opt: bytes) -> None:
        """Let queries with this OPT take the fast path if it is bare: version 0, no flags."""
        if len(opt) == _OPT_OCTETS and opt[:3] == b"\0\0\x29" and opt[5:] == b"\0\0\0\0\0\0":
            if len(self._limits) >= _MAX_LIMITS:
                self._limits.clear()
            self._limits[opt] = max(512, opt[3] << 8 | opt[4])

    def remember(
        self, question: Question, response: Response, now: float, slot: Callable[[], int]
    ) -> bool:
        """Put a response on its shelf, if it may be repeated; tell whether it was.

        ``slot`` is asked for the number that hits are counted under only when it is.
        """
        if response.lifetime_s <= 0 or question.do or question.cd or response.edns is not None:
            return False
        key = question.wire
        if response.is_lasting and question.qname == question.folded:
            shelf = self._lasting
        else:
            shelf = self._passing
            if not self._is_seen(key):
                return False
        known = shelf.answers.get(key)
        if known is not None and known[0] > now:  # it missed for its OPT or its length
            return True
        answer = (now + response.lifetime_s, slot(), *self._compile(question, response))
        shelf.put(key, answer, response.facts)
        return True

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Drop every answer that was decided from one of ``facts``."""
        for fact in facts:
            self._lasting.forget(fact)
            self._passing.forget(fact)

    def forget_passing(self) -> None:
        """Drop all negative and time-limited answers: a zone's SOA serial has moved."""
        self._passing.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._lasting.clear()
        self._passing.clear()

    def __len__(self) -> int:
        return len(self._lasting.answers) + len(self._passing.answers)

    def questions(self) -> list[bytes]:
        """Return the octets of every question remembered."""
        return [*self._lasting.answers, *self._passing.answers]

    def _is_seen(self, key: bytes) -> bool:
        """Tell whether ``key`` was asked before, as far as a bounded memory knows."""
        mark = hash(key)
        if mark in self._seen or key in self._passing.answers:
            return True
        if len(self._seen) >= self._passing.limit:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def _compile(self, question: Question, response: Response) -> Answer:
        """Return the heads and the bodies of a response, whatever its length."""
        bodies = []
        for sections in response.orders or (response.sections,):
            counts, body, _ = render(question.qname, sections, message.MAX_OCTETS)
            bodies.append(body)
        key = (response.flags | response.rcode & 15, *counts)
        heads = self._heads.get(key)
        if heads is None:
            heads = self._heads[key] = tuple(_head(kind, *key) for kind in range(8))
        return (heads, *bodies)


def _head(kind: int, flags: int, answers: int, authorities: int, additionals: int) -> bytes:
    """Return the header behind the ID for a kind of plain query; AD only to who understands it."""
    flags |= QR | (RD if kind & 1 else 0)
    if not kind & 2:
        flags &= ~AD
    return struct.pack("!HHHHH", flags, 1, answers, authorities, additionals + (kind >> 2))


class _Shelf:
    """A bounded dict of answers, each filed under its facts."""

    __slots__ = ("_filed", "answers", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.answers: dict[bytes, Answer] = {}
        self._filed: dict[Hashable, list[bytes]] = {}

    def put(self, key: bytes, answer: Answer, facts: tuple[Hashable, ...]) -> None:
        if key not in self.answers and len(self.answers) >= self.limit:
            self.clear()
        self.answers[key] = answer
        for fact in facts:
            keys = self._filed.setdefault(fact, [])
            # An answer that ended and came back is filed twice: to look for it would take as long
            # as a fact has answers, and they may be many.
            if len(keys) >= 2 * self.limit:
                keys[:] = [each for each in dict.fromkeys(keys) if each in self.answers]
            keys.append(key)

    def forget(self, fact: Hashable) -> None:
        for key in self._filed.pop(fact, ()):
            self.answers.pop(key, None)

    def clear(self) -> None:
        self.answers.clear()
        self._filed.clear()


def render_reply(
    query: message.Query, response: Response, limit: int, sections: Sections | None = None
) -> bytes:
    """Return the whole reply to ``query``: header, question, records that fit ``limit``, OPT.

    ``sections`` overrides the order of the records. (CoreDNS: request.go SizeAndDo and Scrub.)
    """
    opt = b""
    if query.edns is not None:
        opt = message.write_opt(message.reply_edns(query.edns, response.edns), response.rcode)
    question = query.question
    qname = question.qname if question else name.ROOT
    sections = sections or response.sections
    if not any(sections):
        counts, body, cut = (0, 0, 0), b"", False
    else:
        counts, body, cut = render(qname, sections, limit - len(opt))
    flags = QR | response.flags | query.flags & message.OPCODE_MASK | response.rcode & 15
    if not (response.verbatim or query.flags & AD or (question and question.do)):
        flags &= ~AD  # AD only to who understands it (RFC 6840 section 5.8)
    if not response.verbatim and query.opcode == message.OPCODE_QUERY:
        flags |= query.flags & (RD | message.CD)
    if cut:
        flags |= TC
    header = message.HEADER.pack(
        query.ident, flags, 1 if question else 0, *counts[:2], counts[2] + (1 if opt else 0)
    )
    return header + (question.wire if question else b"") + body + opt
