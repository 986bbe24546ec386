"""The table of answers that may be repeated: what is asked leads to the rest of the message.

``AnswerTable.reply`` is the fast path and its specification: it is total on all octets, builds no
object per hit but the reply and its parts, and says None for a miss.

An answer depends on the folded name, type and class, DO and CD: together they are its key. So all
spellings of a name find one answer, and the reply repeats the question as it was asked. What the
client takes decides whether the reply is sent from here. Nothing else in a query matters, so any
OPT passes whose options get no answer: client subnet, EXPIRE, COOKIE, TCP keepalive, padding.

A remembered answer is a plain tuple ``(until, slot, heads, is_free, spared, body, ...)``: the
monotonic second it ends at, where its hits are counted, the header behind the ID for each kind of
plain query, whether it holds however the question is spelled, and the octets behind the question,
once per order ``loadbalance`` asks for. A body points into the question or into itself only, so the
ID does not matter to it. Where a plugin observes the hits (`log`), a 17th head is the note it is
told for each, see observed.py. The garbage collector stops tracking such tuples: a large table
costs no pauses. What is not free holds for a question in lower case; a spelling of its own has a
key of its own.

Below a name that does not exist, no name does (RFC 8020). What denied one name is kept under the
name it is due to, its cut, and answers for all others below it: `www.example.com` on a Pod's search
path is one of them, below `com.my-namespace.svc.cluster.local`. Where the pointers of the body lead
depends on how long the question is, so a cut has an answer for each length and type. Names that
begin with the octets ``spared`` are not denied.

The serial of an SOA moves every second in a cluster that changes all the time, and is in every
answer that denies something. It is replaced there, see ``Renewal``, and these answers stay.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from clusterdns.wire import message, name, reading
from clusterdns.wire.facts import EVERYTHING, Fixed, Renewal
from clusterdns.wire.message import AD, CD, EDNS_DO, HEADER_OCTETS, QR, RD, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Note, Response, render

Answer = tuple[Any, ...]  # (until, slot, heads, is_free, spared, body, ...), see above
Heads = tuple[Any, ...]  # 16 times octets, and a Note if there is an observer
# Hits to tell observers of: note, query, and the reply if somebody wants it.
Seen = list[tuple[Note, bytes, bytes | None]]
# The answers that last, those that pass, those below cuts, where hits are counted, the bounds of
# the payload size, whether EDNS options pass, where hits are noted that somebody observes, and
# whether with their replies.
Maps = tuple[
    dict[bytes, Answer], dict[bytes, Answer], dict[bytes, Answer], list[int], int, int, bool,
    list[Any] | None, bool,
]  # fmt: skip

MAX_TABLE_OCTETS = 64 * 2**20  # of the bodies that a worker remembers
_UNTIL, _SLOT, _HEADS, _IS_FREE, _SPARED, _BODY = range(6)

# The header behind the ID of a plain query: opcode QUERY, one question, RD, AD and CD as they like,
# no other flag, and at most one additional record. The number is RD + 2 AD + 4 OPT + 8 CD. Who sets
# DO understands AD as well, so a query with DO counts as one with AD.
_RD, _AD, _OPT, _CD = 1, 2, 4, 8
_FORMS = range(16)
_NOTE = 16  # in the heads
_FLAGS = ((_RD, RD), (_AD, AD), (_CD, CD))
_PLAIN = {
    struct.pack(
        "!HHHHH", sum(flag for bit, flag in _FLAGS if form & bit), 1, 0, 0, form >> 2 & 1
    ): form
    for form in _FORMS
}
# Behind the question in a key: CD + 2 DO.
_VARIANTS = tuple(bytes((i,)) for i in range(4))
_OPT_START = b"\0\0\x29"  # the root, type OPT
_OPT_HEAD = 9  # octets of an OPT before its RDLENGTH
_OPT_OCTETS = 11  # of one without options
_PLAIN_OPT_TTLS = (b"\0\0\0\0", b"\0\0\x80\0")  # version 0, and no flag but DO
# NSID, client subnet, EXPIRE, COOKIE, keepalive, padding.
_SILENT_OPTIONS = frozenset((3, 8, 9, 10, 11, 12))
NO_BOUNDS = (message.MAX_OCTETS, message.MAX_OCTETS)
_LONGEST = name.MAX_NAME_OCTETS + 4  # a question
_MAX_HEADS = 4096  # that are shared; what is more is forgotten
_MAX_RENEWED = 4096  # answers at a time: others wait meanwhile; what is more is forgotten
_ADDRESSES = (b"\0\1\0\1", b"\0\x1c\0\1")  # A and AAAA, IN: what may be answered by a cut


class AnswerTable:
    """Remembered answers, by folded question, DO and CD.

    Three shelves: what lasts until the cluster changes; what passes by itself, which is also where
    names that do not exist go; and what denies all below a cut. None can push out another, and a
    shelf that is full, of answers or of octets, starts anew. A passing answer is put on its shelf
    when it is asked for a second time, so a flood of names never asked again does not displace what
    is in use; nor does one of spellings, since what is not alike for all spellings passes too.
    ``octets`` bounds the bodies of all three.

    ``bounds`` are the least and the most octets that `bufsize` allows in a server block of the
    listener. Where they differ, what names a larger size is a miss: whose block it is for decides.
    ``passes_options`` is false where a plugin has to see queries with EDNS options, and
    ``keeps_replies`` is true where one observes the octets of replies.
    """

    def __init__(
        self,
        lasting: int = 131_072,
        passing: int = 32_768,
        octets: int = MAX_TABLE_OCTETS,
        *,
        bounds: tuple[int, int] = NO_BOUNDS,
        passes_options: bool = True,
        keeps_replies: bool = False,
    ) -> None:
        self._least, self._most = bounds
        self._keeps_replies = keeps_replies
        self._passes_options = passes_options
        self._lasting = _Shelf(lasting, octets // 2)
        self._passing = _Shelf(passing, octets // 4)
        self._denials = _Shelf(passing, octets // 4)
        self._seen: set[int] = set()
        self._heads: dict[tuple[Any, ...], Heads] = {}
        self._has_notes = False
        self.remembered = 0  # answers so far: none more, and a miss is one still

    def reply(
        self,
        packet: bytes,
        now: float,
        hits: list[int],
        stream: bool = False,
        seen: Seen | None = None,
    ) -> bytes | None:
        """Return the reply to ``packet`` or None for a miss; never raises.

        ``hits`` are the caller's counters, by slot; ``now`` is monotonic seconds; ``stream`` lifts
        the limit of a datagram. What somebody observes is appended to ``seen``; without that it is
        a miss.
        """
        form = _PLAIN.get(packet[2:HEADER_OCTETS])
        if form is None:
            return None
        # A label may hold a zero octet, too: such a name is found in no key.
        end = packet.find(0, HEADER_OCTETS) + 5
        question, opt, limit, extra, variant = packet[HEADER_OCTETS:end], b"", 512, 0, form >> 3
        if not 5 <= len(question) <= _LONGEST:
            return None
        if form & _OPT:
            opt = packet[end : end + _OPT_HEAD]
            # Most queries have no option: two octets that are zero end them.
            if len(packet) != end + _OPT_OCTETS or packet[-2:] != b"\0\0":
                extra = _silent_octets(packet, end + _OPT_HEAD)
            if extra < 0 or opt[:3] != _OPT_START or opt[5:] not in _PLAIN_OPT_TTLS:
                return None
            if opt[7]:
                variant, form = variant | 2, form | _AD
            if extra and not self._passes_options:
                return None
            limit = opt[3] << 8 | opt[4]
            if limit > self._least:
                if self._least != self._most:
                    return None
                limit = self._least
                opt = opt[:3] + limit.to_bytes(2, "big") + opt[5:]
            limit = min(max(512, limit), message.MAX_UDP_OCTETS)
            opt += b"\0\0"
        elif end != len(packet):
            return None
        key = question + _VARIANTS[variant]
        # A question in lower case, the most frequent by far, is a key as it is.
        answer = self._lasting.answers.get(key) or self._find(question, key)
        if answer is None or answer[_UNTIL] <= now:
            return None
        reply = _compose(answer, packet[:2], form, question, opt)
        if len(reply) > (message.MAX_OCTETS if stream else limit):
            return None
        if self._has_notes and len(answer[_HEADS]) > _NOTE:
            if seen is None:
                return None
            note = answer[_HEADS][_NOTE]
            seen.append((note, packet, reply if self._keeps_replies else None))
        slot = answer[_SLOT]
        if extra:
            hits[slot + 2] += 1
            hits[slot + 3] += extra
        else:
            hits[slot + (form >> 2 & 1)] += 1
        return reply

    def _find(self, question: bytes, key: bytes) -> Answer | None:
        """Return what passes, or is filed under the folded question; ``key`` is as it was asked."""
        answer: Answer | None
        folded = question[:-4].lower() + key[-5:]
        if folded == key:
            return self._passing.answers.get(key) or self._denial(key)
        answer = (
            self._lasting.answers.get(folded)
            or self._passing.answers.get(folded)
            or self._denial(folded)
        )
        return answer if answer and answer[_IS_FREE] else self._passing.answers.get(key)

    def _denial(self, key: bytes) -> Answer | None:
        """Return the answer of the cut that a question lies below, or None."""
        if key[-5:-1] not in _ADDRESSES:
            return None
        denials, i, end = self._denials.answers, 0, len(key) - 6
        below = key + bytes((end + 1,))
        while i < end:
            answer = denials.get(below[i:])
            if answer is not None:
                spared = answer[_SPARED]
                return None if spared and key.startswith(spared) else answer
            length = key[i]
            if not 0 < length < 64:
                return None
            i += 1 + length
        return None

    def maps(self, hits: list[int], seen: list[Any] | None = None) -> Maps:
        """Return what ``_drain.c`` looks into, and where it counts: struct Table."""
        answers = self._lasting.answers, self._passing.answers, self._denials.answers
        bounds = self._least, self._most
        return *answers, hits, *bounds, self._passes_options, seen, self._keeps_replies

    def remember(
        self,
        question: Question,
        response: Response,
        now: float,
        slot: Callable[[], int],
        note: Note | None = None,
    ) -> Answer | None:
        """Put a response on its shelf, if it may be repeated; return the answer that is there then.

        ``slot`` is asked for the number that hits are counted under only when it is; ``note`` is
        what observers are told for each hit.
        """
        if response.lifetime_s <= 0 or response.edns is not None or response.rcode > 15:
            return None
        qname, asked = question.qname, question.wire[-4:]
        if response.verbatim or qname.find(0) != len(qname) - 1:
            return None
        variant = _VARIANTS[question.cd | question.do << 1]
        is_free = _is_free(qname, response)
        is_common = is_free or qname == question.folded
        key = (question.folded if is_common else qname) + asked + variant
        if is_common and asked in _ADDRESSES and _is_cut(response.denies, question.folded):
            shelf, mark = self._denials, response.denies + variant
            key = response.denies + asked + variant + bytes((len(qname),))
        elif is_common and response.is_lasting:
            shelf, mark = self._lasting, b""
        else:
            shelf, mark = self._passing, key
        if mark and key not in shelf.answers and not self._is_seen(mark):
            return None
        known = shelf.answers.get(key)
        if known is not None and known[_UNTIL] > now and known[_IS_FREE] >= is_free:
            return known  # it missed for the form of its query, or for its length
        compiled = self._compile(question, response, note)
        if compiled is None:
            return None
        heads, bodies = compiled
        bodies = shelf.shared(key, bodies)
        if sum(map(len, bodies)) > shelf.max_octets:
            return None
        answer = (now + response.lifetime_s, slot(), heads, is_free, response.spared, *bodies)
        shelf.put(key, answer, response.facts)
        self.remembered += 1
        return answer

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Drop every answer that was decided from one of ``facts``, all for ``EVERYTHING``.

        Those of a ``Renewal``, which is no fact itself, are renewed: their octets replaced in each
        body. What lacks them is dropped, and what is too much, and what is signed.
        """
        changed = set(facts)
        if EVERYTHING in changed:
            self.clear()
            return
        renewals = [each for each in changed if isinstance(each, Renewal)]
        changed.update(Fixed(renewal.fact) for renewal in renewals)
        for shelf in (self._lasting, self._passing, self._denials):
            shelf.forget(changed)
        for renewal in renewals:
            left = _MAX_RENEWED
            for shelf in (self._denials, self._lasting, self._passing):
                left = shelf.renew(renewal, left)

    def clear(self) -> None:
        """Drop everything."""
        for shelf in (self._lasting, self._passing, self._denials):
            shelf.clear()

    def __len__(self) -> int:
        return len(self._lasting.answers) + len(self._passing.answers)

    @property
    def octets(self) -> int:
        """The octets of all bodies."""
        return self._lasting.octets + self._passing.octets + self._denials.octets

    def questions(self) -> list[bytes]:
        """Return the octets of every question remembered, but for those with DO or CD."""
        keys = [*self._lasting.answers, *self._passing.answers]
        return [key[:-1] for key in keys if not key[-1]]

    def _is_seen(self, key: bytes) -> bool:
        """Tell whether ``key`` was asked before, as far as a bounded memory knows."""
        mark = hash(key)
        if mark in self._seen:
            return True
        if len(self._seen) >= self._passing.limit:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def _compile(
        self, question: Question, response: Response, note: Note | None
    ) -> tuple[Heads, tuple[bytes, ...]] | None:
        """Return the heads and the bodies of a response, None if no message has room for it."""
        bodies = []
        for sections in response.orders or (response.sections,):
            counts, body, is_cut = render(question.qname, sections, message.MAX_OCTETS)
            if is_cut:
                return None
            bodies.append(body)
        key = (response.flags | response.rcode & 15, *counts)
        heads = self._heads.get((*key, note))
        if heads is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            made = tuple(_head(form, *key) for form in _FORMS)
            heads = made if note is None else (*made, note)
            self._heads[*key, note] = heads
            self._has_notes |= note is not None
        return heads, tuple(bodies)


def reply_to(query: Query, answer: Answer) -> bytes | None:
    """Return the reply that an answer makes for a query, None if it is too long for the client."""
    assert query.question is not None
    form, opt = sum(bit for bit, flag in _FLAGS if query.flags & flag), b""
    if query.edns is not None:
        form |= _OPT | (_AD if query.edns.flags & EDNS_DO else 0)
        opt = message.write_opt(message.reply_edns(query.edns))
    ident = query.ident.to_bytes(2, "big")
    reply = _compose(answer, ident, form, query.question.wire, opt)
    return reply if len(reply) <= query.limit else None


def _compose(answer: Answer, ident: bytes, form: int, question: bytes, opt: bytes) -> bytes:
    orders = len(answer) - _BODY
    body = answer[_BODY] if orders == 1 else answer[_BODY + ident[1] % orders]
    reply: bytes = ident + answer[_HEADS][form] + question + body + opt
    return reply


def _silent_octets(packet: bytes, start: int) -> int:
    """Return the octets of the options that end a packet, -1 if they may get an answer or an error.

    ``start`` is where their length is.
    """
    rest = packet[start:]
    if rest == b"\0\0":
        return 0
    if len(rest) < 2 or len(rest) - 2 != rest[0] << 8 | rest[1]:
        return -1
    i = 2
    while i < len(rest):
        if i + 4 > len(rest):
            return -1
        code, end = rest[i] << 8 | rest[i + 1], i + 4 + (rest[i + 2] << 8 | rest[i + 3])
        if code not in _SILENT_OPTIONS or end > len(rest):
            return -1
        if not reading.is_option(code, rest[i + 4 : end]):
            return -1
        i = end
    return len(rest) - 2


def _is_free(qname: bytes, response: Response) -> bool:
    """Tell whether a response is the same octets behind the question however that is spelled.

    Its plugin says that names follow the question's spelling; here it is seen that each owner is
    indeed the question's name or what it ends with, so that a pointer stands for it.
    """
    if not response.follows_case:
        return False
    owners = {record.owner for section in response.sections for record in section}
    return all(name.is_within(WireName(qname), WireName(owner)) for owner in owners)


def _is_cut(cut: bytes, folded: bytes) -> bool:
    return bool(cut) and folded.endswith(cut)


def _head(form: int, flags: int, answers: int, authorities: int, additionals: int) -> bytes:
    """Return the header behind the ID for a kind of plain query; AD only to who understands it."""
    flags |= QR | (RD if form & _RD else 0) | (CD if form & _CD else 0)
    if not form & _AD:
        flags &= ~AD
    return struct.pack("!HHHHH", flags, 1, answers, authorities, additionals + (form >> 2 & 1))


class _Shelf:
    """A bounded dict of answers, each filed under its facts.

    Most facts have one answer: its key is filed bare. A key stays under its other facts when one of
    them has dropped it, since it often comes back; what never does counts towards a bound.
    """

    __slots__ = ("_filed", "_filings", "answers", "limit", "max_octets", "octets")

    def __init__(self, limit: int, max_octets: int) -> None:
        self.limit = limit
        self.max_octets = max_octets
        self.octets = 0  # of all bodies
        self.answers: dict[bytes, Answer] = {}
        self._filed: dict[Hashable, bytes | dict[bytes, None]] = {}
        self._filings = 0  # keys under all facts

    def put(self, key: bytes, answer: Answer, facts: tuple[Hashable, ...]) -> None:
        self._drop(key)
        size = _octets(answer)
        is_full = len(self.answers) >= self.limit or self.octets + size > self.max_octets
        if is_full or self._filings >= 4 * self.limit:
            self.clear()
        self.answers[key] = answer
        self.octets += size
        for fact in facts:
            keys = self._filed.get(fact)
            if keys is None:
                self._filed[fact] = key
            elif isinstance(keys, dict):
                self._filings -= key in keys
                keys[key] = None
            elif keys != key:
                self._filed[fact] = {keys: None, key: None}
            else:
                self._filings -= 1
            self._filings += 1

    def shared(self, key: bytes, bodies: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return these bodies, or the equal ones that another variant of the question has."""
        for variant in _VARIANTS:
            other = self.answers.get(key[:-1] + variant)
            if other is not None and other[_BODY:] == bodies:
                found: tuple[bytes, ...] = other[_BODY:]
                return found
        return bodies

    def forget(self, facts: set[Hashable]) -> None:
        """Drop what is filed under any of these facts."""
        for fact in self._filed.keys() & facts:
            found = self._filed.pop(fact)
            keys = found if isinstance(found, dict) else (found,)
            self._filings -= len(keys)
            for key in keys:
                self._drop(key)

    def renew(self, renewal: Renewal, most: int) -> int:
        """Replace octets in the answers of a fact; return ``most`` less the number of these.

        What lacks them is dropped, and what is more than ``most``.
        """
        keys = self._filed.get(renewal.fact, ())
        for key in (keys,) if isinstance(keys, bytes) else keys:
            answer = self.answers.get(key)
            if answer is None:
                continue
            most -= 1
            bodies = [
                b.replace(renewal.old, renewal.new) for b in answer[_BODY:] if renewal.old in b
            ]
            if most < 0 or len(bodies) != len(answer) - _BODY:
                self._drop(key)
            else:
                self.answers[key] = (*answer[:_BODY], *bodies)
        return max(most, 0)

    def clear(self) -> None:
        self.answers.clear()
        self._filed.clear()
        self._filings = self.octets = 0

    def _drop(self, key: bytes) -> None:
        answer = self.answers.pop(key, None)
        if answer is not None:
            self.octets -= _octets(answer)


def _octets(answer: Answer) -> int:
    return sum(map(len, answer[_BODY:]))
