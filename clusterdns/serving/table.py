"""The table of answers that may be repeated: from a question to the rest of its reply.

``AnswerTable.reply`` is the fast path, and the specification of the one in C: it accepts any
octets, builds no object but the reply and its parts, and returns None for a miss.

The key of an answer is the folded name, type, class, DO and CD. All letter cases of a name find one
answer, and the reply repeats the question as asked. A reply that is too long for the client is a
miss, and ``known`` cuts it. Nothing else in a query matters, so an OPT is accepted with any flags
and options, since no option gets an answer. An EDNS version but 0 gets BADVERS, whatever is asked.

An answer is a plain tuple ``(until, slot, heads, is_free, spared, children, body, ...)``: the
monotonic second of its end, the slot its hits are counted in, the header behind the ID for each
form of plain query, whether it holds for any letter case of the question, which names it does not
deny, and the octets behind the question, one body for each order of ``loadbalance``. Pointers in a
body lead into the question or the body, so the ID does not matter. If a plugin observes the hits
(`log`), a 17th head is the note for each hit, see observed.py, or None; an 18th are the buckets of
`ratelimit` if the hit counts for its client. The garbage collector does not track
such tuples, but for those with children, so a large table causes no pauses. An answer that is not
free holds for a question in lower case; other letter cases have keys of their own.

Names that exist prove which do not (the idea of RFC 8198). A denial is kept under its node, the
closest name above that exists, if all labels right below that are known: ``children``, see
response.py. It answers for all names below the node, except those at and below its children. So no
name is remembered: one denial answers for all random names in a namespace or below a Service, for
random addresses in a reverse zone, and for `www.example.com` on a Pod's search path. A new Service
becomes a child, and the denial stays. If the chain has to look at
some of the names, the denial is kept under the topmost name that does not exist, its cut, below
which no name exists (RFC 8020), without ``children``. Pointers in the body depend on the length of
the question, so a node or cut has a denial for each length and type. Names that begin with the
octets ``spared`` are not denied.

The serial of an SOA is in every denial, and moves up to once a second. It is replaced inside the
answers, see ``Renewal``, and they stay.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

from clusterdns.chain.limits import ANSWER, STAY_SILENT, Judge
from clusterdns.serving.cut import Cuts
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.facts import EVERYTHING, Fixed, Renewal
from clusterdns.wire.message import (
    AD,
    CD,
    EDNS_DO,
    HEADER_OCTETS,
    QR,
    RD,
    TC,
    Edns,
    Query,
    Question,
)  # fmt: skip
from clusterdns.wire.name import WireName
from clusterdns.wire.response import (
    Addresses,
    Children,
    Node,
    Note,
    Response,
    render,
    render_orders,
)

Answer = tuple[Any, ...]  # (until, slot, heads, is_free, spared, children, body, ...), see above
Heads = tuple[Any, ...]  # 16 times octets, and a Note if there is an observer
# Hits to report to observers: note, query, and the reply if an observer wants it. A hit that is
# looked at has for a note how many it stands for, and always the reply; see sampling.py.
Seen = list[tuple[Note | int, bytes, bytes | None]]
Shelves = tuple[dict[bytes, Answer], dict[bytes, Answer], dict[bytes, Answer]]
ByAddress = dict[bytes, Shelves | tuple[()]]  # () without a table
# Lasting answers, passing answers, denials, hit counters, bounds of the payload size,
# whether EDNS options are accepted, the list of observed hits, whether these have replies, and the
# parts of a sampler, and by address the shelves of a client's class, see classes.py, or None.
Maps = tuple[
    dict[bytes, Answer], dict[bytes, Answer], dict[bytes, Answer], list[int], int, int, bool,
    list[Any] | None, bool, tuple[bytearray, list[Any]] | None, ByAddress | None,
]  # fmt: skip

MAX_TABLE_OCTETS: Final = 64 * 2**20  # of all bodies in a worker
CUT_SHARE: Final = 8  # bodies of an eighth of these octets are also kept for cuts
MAX_LASTING: Final = 131_072  # answers
MAX_PASSING: Final = 32_768
_UNTIL, _SLOT, _HEADS, _IS_FREE, _SPARED, _CHILDREN, _BODY = range(7)

# The form of a plain query, by its header behind the ID: opcode QUERY, one question, any of RD, AD
# and CD, no other flag, and at most one additional record. It is RD + 2 AD + 4 OPT + 8 CD. A client
# that sets DO understands AD, so a query with DO counts as one with AD.
_RD: Final = 1
_AD: Final = 2
_OPT: Final = 4
_CD: Final = 8
_FORMS: Final = range(16)
_NOTE: Final = 16  # index in the heads
_BUCKETS: Final = 17
_FLAGS: Final = ((_RD, RD), (_AD, AD), (_CD, CD))
_PLAIN: Final = {
    struct.pack(
        "!HHHHH", sum(flag for bit, flag in _FLAGS if form & bit), 1, 0, 0, form >> 2 & 1
    ): form
    for form in _FORMS
}
# Behind the question in a key: CD + 2 DO.
_VARIANTS: Final = tuple(bytes((i,)) for i in range(4))
_SETS: Final = (set, frozenset)
_LENGTHS: Final = tuple(bytes((i,)) for i in range(256))  # of the name, in the key of a denial
_OPT_START: Final = b"\0\0\x29"  # the root, type OPT
_OPT_HEAD: Final = 9  # octets of an OPT before its RDLENGTH
_OPT_OCTETS: Final = 11  # of one without options
_PLAIN_OPT_TTLS: Final = (b"\0\0\0\0", b"\0\0\x80\0")  # version 0, and no flag but DO
_DO: Final = EDNS_DO >> 8  # in its octet
# CoreDNS: pkg/edns, size 0.
BAD_VERSION_OPT: Final = message.write_opt(Edns(0, 0, 0), rr.BADVERS)
NO_BOUNDS: Final = (message.MAX_OCTETS, message.MAX_OCTETS)
_LONGEST: Final = name.MAX_NAME_OCTETS + 4  # a question
_MAX_HEADS: Final = 4096  # shared heads; then they are forgotten
_MAX_RENEWED = 4096  # answers in one call, which queries wait for; the rest is dropped
_CLASS_IN: Final = b"\0\1"  # of the questions that a node or a cut may answer
_ANSWER_OCTETS: Final = 400  # with its key and its place in dicts, without the body
_CHILD_OCTETS = 64  # of a label in a frozenset, with its place there


class AnswerTable:
    """Remembered answers, by folded question, DO and CD.

    There are three shelves: lasting answers, which a change of the cluster ends; passing answers,
    which end by time, and denials of single names; and denials of names below a node or a cut. None
    displaces another, and a shelf that is full, in answers or in octets, is cleared. A passing
    answer is kept when it is asked for a second time, so a flood of names asked for once does not
    displace answers in use; nor does a flood of letter cases, as an answer that is not free is
    passing, too. ``octets`` bounds the bodies of all three.

    ``bounds`` are the least and the most octets that `bufsize` allows in a server block of the
    listener. If they differ, a query that names more than the least is a miss: its
    server block decides.
    ``passes_options`` is false if a plugin has to see queries with EDNS options;
    ``keeps_replies`` is true if one observes the octets of replies.
    """

    def __init__(
        self,
        lasting: int = MAX_LASTING,
        passing: int = MAX_PASSING,
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
        self._has_more = False  # heads with a note or buckets
        self._cuts = Cuts(octets // CUT_SHARE)
        self.remembered = 0  # answers kept so far; if unchanged, a miss is still a miss

    def reply(
        self,
        packet: bytes,
        now: float,
        hits: list[int],
        stream: bool = False,
        seen: Seen | None = None,
        host: Callable[[], str] | None = None,
    ) -> bytes | None:
        """Return the reply to ``packet``, None for a miss, b"" to send none; never raises.

        ``hits`` are the caller's counters, by slot; ``now`` is monotonic seconds; ``stream`` lifts
        the limit of a datagram. An observed hit is appended to ``seen``; if that is None, it is a
        miss. ``host`` returns the address of the client, whose rate may be limited.
        """
        form = _PLAIN.get(packet[2:HEADER_OCTETS])
        if form is None:
            return None
        # A label may hold a zero octet: no key has such a name.
        end = packet.find(0, HEADER_OCTETS) + 5
        if not HEADER_OCTETS + 5 <= end <= HEADER_OCTETS + _LONGEST:
            return None
        question, opt, limit, extra, variant = packet[HEADER_OCTETS:end], b"", 512, 0, form >> 3
        if form & _OPT:
            opt = packet[end : end + _OPT_HEAD]
            # Most queries have no option, and end with two zero octets.
            if len(packet) != end + _OPT_OCTETS or packet[-2:] != b"\0\0":
                extra = _silent_octets(packet, end + _OPT_HEAD)
            if extra < 0 or opt[:3] != _OPT_START:
                return None
            if opt[5:] not in _PLAIN_OPT_TTLS:
                if opt[6]:  # without the table, cookies are checked first
                    passes = self._passes_options
                    return _bad_version(packet[:2], form, question) if passes else None
                opt = opt[:5] + bytes((0, 0, opt[7], 0))
            if opt[7] & _DO:
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
        # A question in lower case, by far the most frequent, is the key.
        answer = self._lasting.answers.get(key) or self._find(question, key)
        if answer is None or answer[_UNTIL] <= now:
            return None
        reply = _compose(answer, packet[:2], form, question, opt)
        if len(reply) > (message.MAX_OCTETS if stream else limit):
            return None
        if self._has_more and len(answer[_HEADS]) > _NOTE:
            note = answer[_HEADS][_NOTE]
            if note is not None and seen is None:
                return None
            verdict = ANSWER if stream or host is None else _judge(answer, host, now)
            if verdict != ANSWER:
                cut = packet[:2] + _CUT_HEADS[form] + question + opt
                return b"" if verdict == STAY_SILENT else cut
            if note is not None and seen is not None:
                seen.append((note, packet, reply if self._keeps_replies else None))
        slot = answer[_SLOT]
        if extra:
            hits[slot + 2] += 1
            hits[slot + 3] += extra
        else:
            hits[slot + (form >> 2 & 1)] += 1
        return reply

    def known(self, query: Query, now: float, hits: list[int]) -> bytes | None:
        """Return the reply to a query that ``reply`` missed for its length or form, or None.

        It is cut to the client's limit, with TC. The caller has made sure that the chain would
        answer the question from memory, and that nobody observes.
        """
        question = query.question
        if question is None or query.sign is not None:
            return None
        wire, variant = question.wire, _VARIANTS[question.cd | question.do << 1]
        lasting, passing = self._lasting.answers, self._passing.answers
        key = question.folded_wire + variant
        answer = lasting.get(key) or passing.get(key)
        if question.qname != question.folded and not (answer and answer[_IS_FREE]):
            answer = passing.get(wire + variant)
        if answer is None or answer[_UNTIL] <= now or _is_noted(answer[_HEADS]):
            return None
        extra = query.octets - HEADER_OCTETS - len(wire)
        if query.edns is not None:
            extra -= _OPT_OCTETS
        slot = answer[_SLOT]
        if extra:
            hits[slot + 2] += 1
            hits[slot + 3] += extra
        else:
            hits[slot + (query.edns is not None)] += 1
        return self.reply_to(query, answer)

    def reply_to(self, query: Query, answer: Answer) -> bytes:
        """Return the reply of an answer to a query, cut if it is too long for the client."""
        assert query.question is not None
        flags, opt = query.flags, b""
        form = flags >> 8 & _RD | flags >> 4 & _AD | flags >> 1 & _CD
        if query.edns is not None:
            form |= _OPT | (_AD if query.edns.flags & EDNS_DO else 0)
            opt = message.write_opt(message.reply_edns(query.edns, None, query.cookie))
        ident, question = query.ident.to_bytes(2, "big"), query.question.wire
        head, body = answer[_HEADS][form], _body(answer, ident)
        room = query.limit - HEADER_OCTETS - len(question) - len(opt)
        if len(body) > room:
            head, body = self._cuts.cut(head, body, room, has_opt=bool(opt))
        reply: bytes = ident + head + question + body + opt
        return reply

    def _find(self, question: bytes, key: bytes) -> Answer | None:
        """Return a passing answer, or one for the folded question; ``key`` is as asked."""
        answer: Answer | None
        folded = key.lower()
        if folded != key:  # an octet of the type or class may look like a capital, too
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
        """Return the denial of the cut or the node above a question, or None.

        The first one counts: a node with the next label among its children is a miss.
        """
        if key[-3:-1] != _CLASS_IN:
            return None
        find, i, left, end = self._denials.answers.get, 0, 0, len(key) - 6
        below = key + _LENGTHS[end + 1]
        while i < end:
            answer = find(below[i:])
            if answer is not None:
                spared, children = answer[_SPARED], answer[_CHILDREN]
                if spared and key.startswith(spared):
                    return None
                if children is None:
                    return answer
                if isinstance(children, _SETS):  # by far the most frequent, so without a call
                    return answer if i and key[left + 1 : i] not in children else None
                return None if not i or _may_have(children, key, left, i) else answer
            length = key[i]
            if not 0 < length < 64:
                return None
            left = i
            i += 1 + length
        return None

    @property
    def shelves(self) -> Shelves:
        """The dicts of lasting and passing answers, and of denials."""
        return self._lasting.answers, self._passing.answers, self._denials.answers

    def maps(
        self,
        hits: list[int],
        seen: list[Any] | None = None,
        sampler: tuple[bytearray, list[Any]] | None = None,
        classes: ByAddress | None = None,
    ) -> Maps:
        """Return the dicts and counters for ``_drain.c``: struct Table."""
        bounds = self._least, self._most
        options = self._passes_options, seen, self._keeps_replies, sampler, classes
        return *self.shelves, hits, *bounds, *options

    def remember(
        self,
        question: Question,
        response: Response,
        now: float,
        slot: Callable[[], int],
        note: Note | None = None,
        buckets: Judge | None = None,
    ) -> Answer | None:
        """Put a response on its shelf if it may be repeated; return its answer there.

        ``slot`` returns the slot of its hits, and is called only if it is kept; ``note`` is for the
        observers of each hit, ``buckets`` for what each counts in.
        """
        if response.lifetime_s <= 0 or response.edns is not None or response.rcode > 15:
            return None
        qname = question.qname
        asked = message.QUESTION_TAIL.pack(question.qtype, question.qclass)
        if response.verbatim or qname.find(0) != len(qname) - 1:
            return None
        variant = _VARIANTS[question.cd | question.do << 1]
        is_free = _is_free(qname, response)
        is_common = is_free or qname == question.folded
        key = (question.folded if is_common else qname) + asked + variant
        facts, base = response.facts, _base(response, question.folded)
        if base is not None and is_common and asked[2:] == _CLASS_IN:
            shelf, mark, facts = self._denials, base.owner + variant, base.facts
            key = base.owner + asked + variant + bytes((len(qname),))
        elif is_common and response.is_lasting:
            shelf, mark = self._lasting, b""
        else:
            shelf, mark = self._passing, key
        if mark and key not in shelf.answers and not self._is_seen(mark):
            return None
        known = shelf.answers.get(key)
        children = base.children if base is not None and shelf is self._denials else None
        is_known = known is not None and known[_UNTIL] > now and known[_CHILDREN] is children
        if known is not None and is_known and known[_IS_FREE] >= is_free:
            return known  # the query's form or the reply's length made it a miss
        compiled = self._compile(question, response, note, buckets)
        if compiled is None:
            return None
        heads, bodies = compiled
        bodies = shelf.shared(key, bodies)
        answer = (
            now + response.lifetime_s,
            slot(),
            heads,
            is_free,
            response.spared,
            children,
            *bodies,
        )
        size = _octets(answer)
        if size > shelf.max_octets:
            return None
        shelf.put(key, answer, facts, size)
        self.remembered += 1
        return answer

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Drop every answer that depends on one of ``facts``; all of them for ``EVERYTHING``.

        For a ``Renewal`` the octets are replaced in each body. Answers without these octets,
        signed ones, and those beyond a limit are dropped.
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
        """Drop all answers."""
        for shelf in (self._lasting, self._passing, self._denials):
            shelf.clear()
        self._cuts.clear()

    def lighten(self, most: int) -> None:
        """Drop what takes a lot of memory: shelves of more than ``most`` octets, and cut bodies."""
        for shelf in (self._lasting, self._passing, self._denials):
            if shelf.octets + _ANSWER_OCTETS * len(shelf.answers) > most:
                shelf.clear()
        self._cuts.clear()

    def __len__(self) -> int:
        return len(self._lasting.answers) + len(self._passing.answers)

    @property
    def octets(self) -> int:
        """The octets of all bodies."""
        return self._lasting.octets + self._passing.octets + self._denials.octets

    def questions(self) -> list[bytes]:
        """Return the octets of every question kept, except those with DO or CD."""
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
        self,
        question: Question,
        response: Response,
        note: Note | None,
        buckets: Judge | None,
    ) -> tuple[Heads, tuple[bytes, ...]] | None:
        """Return the heads and the bodies of a response, None if it fits no message."""
        orders, flags = response.orders, response.flags | response.rcode & 15
        if orders:
            counts, bodies, is_cut = render_orders(question.qname, orders, message.MAX_OCTETS)
            if is_cut:
                return None  # each order may leave another number
        else:
            counts, body, is_cut = render(question.qname, response.sections, message.MAX_OCTETS)
            bodies = (body,)
            if is_cut:
                flags |= TC
        key = (flags, *counts)
        heads = self._heads.get((*key, note, buckets))
        if heads is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            made = tuple(_head(form, *key) for form in _FORMS)
            more = (note, buckets) if buckets is not None else (note,) if note is not None else ()
            heads = (*made, *more)
            self._heads[*key, note, buckets] = heads
            self._has_more |= bool(more)
        return heads, bodies


def _judge(answer: Answer, host: Callable[[], str], now: float) -> int:
    """Return what happens to a hit of a client, by its rate."""
    heads = answer[_HEADS]
    return ANSWER if len(heads) <= _BUCKETS else int(heads[_BUCKETS].judge(host(), now))


def _is_noted(heads: Heads) -> bool:
    return len(heads) > _NOTE and heads[_NOTE] is not None


def _bad_version(ident: bytes, form: int, question: bytes) -> bytes | None:
    """Return BADVERS for an EDNS version that is not 0 (RFC 6891 section 6.1.3).

    None if the question is not well-formed, or may be refused for its class.
    """
    i, root = 0, len(question) - 5
    while i < root and question[i] <= name.MAX_LABEL_OCTETS:
        i += 1 + question[i]
    if i != root or question[-2:] != _CLASS_IN:
        return None
    return ident + _head(form & ~_AD, 0, 0, 0, 0) + question + BAD_VERSION_OPT


def _compose(answer: Answer, ident: bytes, form: int, question: bytes, opt: bytes) -> bytes:
    reply: bytes = ident + answer[_HEADS][form] + question + _body(answer, ident) + opt
    return reply


def _body(answer: Answer, ident: bytes) -> bytes:
    orders = len(answer) - _BODY
    body: bytes = answer[_BODY] if orders == 1 else answer[_BODY + ident[1] % orders]
    return body


def _may_have(children: Children, key: bytes, left: int, end: int) -> bool:
    """Tell whether the name of a key may exist; its label up to ``end`` is right below a node."""
    label = key[left + 1 : end]
    if isinstance(children, Addresses):
        return children.may_have(label, key[:-5])
    if isinstance(children, bytes):
        return any(octet in label for octet in children)
    return label in children


def _silent_octets(packet: bytes, start: int) -> int:
    """Return the length of the options of a packet, -1 if they get an error.

    ``start`` is the offset of RDLENGTH.
    """
    rest = packet[start:]
    if rest == b"\0\0":
        return 0
    if len(rest) < 2 or len(rest) - 2 != rest[0] << 8 | rest[1]:
        return -1
    i, count = 2, 0
    while i < len(rest):
        count += 1
        if i + 4 > len(rest) or count > reading.MAX_OPTIONS:
            return -1
        code, end = rest[i] << 8 | rest[i + 1], i + 4 + (rest[i + 2] << 8 | rest[i + 3])
        if end > len(rest) or not reading.is_option(code, rest[i + 4 : end]):
            return -1
        i = end
    return len(rest) - 2


def _is_free(qname: bytes, response: Response) -> bool:
    """Tell whether the octets behind the question are equal for every letter case of it.

    The plugin claims so (``follows_case``); this verifies that each owner is the question's name or
    a suffix of it, so that it is a pointer, or shares no label with it.
    """
    if not response.follows_case:
        return False
    if not response.authority and not response.additional and len(response.answer) == 1:
        owner = response.answer[0].owner
        if owner == qname:  # by far the most frequent
            return True
    owners = {record.owner for section in response.sections for record in section}
    return all(
        name.is_within(WireName(qname), WireName(owner)) or not name.is_akin(qname, owner)
        for owner in owners
    )


def _base(response: Response, folded: bytes) -> Node | None:
    """Return the node that a denial is filed under, the cut where there is none, or None."""
    node, cut = response.node, response.denies
    if node is not None and folded.endswith(node.owner):
        return node
    return Node(cut, None, response.facts) if cut and folded.endswith(cut) else None


def _head(form: int, flags: int, answers: int, authorities: int, additionals: int) -> bytes:
    """Return the header behind the ID for a form of plain query; AD only if it understands AD."""
    flags |= QR | (RD if form & _RD else 0) | (CD if form & _CD else 0)
    if not form & _AD:
        flags &= ~AD
    return struct.pack("!HHHHH", flags, 1, answers, authorities, additionals + (form >> 2 & 1))


_CUT_HEADS: Final = tuple(_head(form, TC, 0, 0, 0) for form in _FORMS)


class _Shelf:
    """A bounded dict of answers, each filed under its facts.

    Most facts have one answer, whose key is filed without a set. When one fact drops an answer, its
    key stays filed under the other facts, since it often returns; a bound counts such keys.
    """

    __slots__ = ("_filed", "_filings", "_sharing", "answers", "limit", "max_octets", "octets")

    def __init__(self, limit: int, max_octets: int) -> None:
        self.limit = limit
        self.max_octets = max_octets
        self.octets = 0  # of all bodies, and of each set of children that is not alive
        self._sharing: dict[int, int] = {}  # answers with such a set, by its id
        self.answers: dict[bytes, Answer] = {}
        self._filed: dict[Hashable, bytes | dict[bytes, None]] = {}
        self._filings = 0  # keys under all facts

    def put(self, key: bytes, answer: Answer, facts: tuple[Hashable, ...], size: int) -> None:
        """Keep an answer of ``size`` octets, as ``_octets`` says."""
        self._drop(key)
        is_full = len(self.answers) >= self.limit or self.octets + size > self.max_octets
        if is_full or self._filings >= 4 * self.limit:
            self.clear()
        self.answers[key] = answer
        if isinstance(answer[_CHILDREN], frozenset):
            size = _body_octets(answer) + self._share(answer, 1)
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
        """Return these bodies, or equal ones of another variant of the question."""
        find, stem = self.answers.get, key[:-1]
        for variant in _VARIANTS:
            other = find(stem + variant)
            if other is not None and other[_BODY:] == bodies:
                found: tuple[bytes, ...] = other[_BODY:]
                return found
        return bodies

    def forget(self, facts: set[Hashable]) -> None:
        """Drop the answers filed under any of these facts."""
        for fact in self._filed.keys() & facts:
            found = self._filed.pop(fact)
            keys = found if isinstance(found, dict) else (found,)
            self._filings -= len(keys)
            for key in keys:
                self._drop(key)

    def renew(self, renewal: Renewal, most: int) -> int:
        """Replace octets in the answers of a fact; return ``most`` minus their number.

        Answers without these octets, and those beyond ``most``, are dropped.
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
        self._sharing.clear()
        self._filings = self.octets = 0

    def _drop(self, key: bytes) -> None:
        answer = self.answers.pop(key, None)
        if answer is not None:
            self.octets -= _body_octets(answer) + self._share(answer, -1)

    def _share(self, answer: Answer, more: int) -> int:
        """Note an answer more or less that has its children; return their octets if it is the only.

        Many denials have the same set: one for each length and type.
        """
        children = answer[_CHILDREN]
        if not isinstance(children, frozenset):
            return 0
        before = self._sharing.pop(id(children), 0)
        if before + more:
            self._sharing[id(children)] = before + more
        return 0 if before and before + more else _child_octets(children)


def _octets(answer: Answer) -> int:
    """Return the octets of the bodies, and of children that are not alive."""
    return _child_octets(answer[_CHILDREN]) + _body_octets(answer)


def _body_octets(answer: Answer) -> int:
    if len(answer) == _BODY + 1:  # by far the most frequent
        return len(answer[_BODY])
    return sum(map(len, answer[_BODY:]))


def _child_octets(children: Children | None) -> int:
    return _CHILD_OCTETS * len(children) if isinstance(children, frozenset) else 0
