"""The table of answers that may be repeated: the question's octets lead to the rest of the message.

``AnswerTable.reply`` is the fast path and its specification: it is total on all octets, builds no
object per hit but the reply and its parts, and says None for a miss.

A remembered answer is a plain tuple ``(until, slot, heads, body, ...)``: the monotonic second it
ends at, where its hits are counted, the header behind the ID for each kind of plain query, and the
octets behind the question, once per order ``loadbalance`` asks for. A body points into the question
or into itself only, so the ID does not matter to it. The garbage collector stops tracking such
tuples: a large table costs no pauses.

Below a name that does not exist, no name does (RFC 8020). What denied one name is kept under the
name it is due to, its cut, and answers for all others below it: `www.example.com` on a Pod's search
path is one of them, below `com.my-namespace.svc.cluster.local`. Where the pointers of the body lead
depends on how long the question is, so a cut has an answer for each length and type.

The serial of an SOA moves every second in a cluster that changes all the time, and is in every
answer that denies something. It is replaced there, see ``Renewal``, and these answers stay.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from clusterdns.wire import message, name
from clusterdns.wire.facts import EVERYTHING, Renewal
from clusterdns.wire.message import AD, QR, RD, Question
from clusterdns.wire.response import Response, render

Kept = TypeVar("Kept")
Answer = tuple[Any, ...]  # (until, slot, heads, body, ...), see above
# The answers that last and that pass, limits by OPT, and where hits are counted.
Maps = tuple[dict[bytes, Answer], dict[bytes, Answer], dict[bytes, int | bytes], list[int]]
Cut = dict[tuple[int, bytes], Answer]  # by octets of the question, and its type and class

# The header behind the ID of a plain query: opcode QUERY, one question, RD and AD as they like, no
# other flag, and at most one additional record. The number is RD + 2 AD + 4 OPT.
_PLAIN = {
    struct.pack(
        "!HHHHH", (RD if kind & 1 else 0) | (AD if kind & 2 else 0), 1, 0, 0, kind >> 2
    ): kind
    for kind in range(8)
}
_OPT_OCTETS = 11  # one OPT record without options
NO_BOUNDS = (message.MAX_OCTETS, message.MAX_OCTETS)
_MAX_LIMITS = 4096
_MAX_CUTS = 4096
_MAX_RENEWED = 4096  # answers at a time: others wait meanwhile; what is more is forgotten
_ADDRESSES = (b"\0\1\0\1", b"\0\x1c\0\1")  # A and AAAA, IN: what may be answered by a cut
_NS_DNS = b"\2ns\3dns"  # begins the only names that exist below one that does not, see respond.py


class AnswerTable:
    """Remembered answers by question octets (name, type, class), for queries without DO and CD.

    Two shelves: what lasts until the cluster changes, and what passes by itself, which is also
    where names that do not exist go. Neither can push out the other, and a shelf that is full
    starts anew. A passing answer is put on its shelf when it is asked for a second time, so a flood
    of names never asked again does not displace what is in use; nor does one of spellings, since
    a name in mixed case passes too.
    """

    def __init__(self, lasting: int = 131_072, passing: int = 32_768) -> None:
        self._lasting: _Shelf[Answer] = _Shelf(lasting)
        self._passing: _Shelf[Answer] = _Shelf(passing)
        self._cuts: _Shelf[tuple[Cut, tuple[Hashable, ...]]] = _Shelf(_MAX_CUTS)
        self._below_cuts = 0  # answers in all of them
        self._seen: set[int] = set()
        self._limits: dict[bytes, int | bytes] = {}  # by OPT: octets, or the OPT of the reply
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
            bound = self._limits.get(opt, 0)
            if isinstance(bound, bytes):
                opt, limit = bound, _octets_of(bound)
            else:
                limit = bound
        answer = self._lasting.answers.get(question) or self._passing.answers.get(question)
        if answer is None:
            answer = self._denial(question)
        if answer is None or answer[0] <= now:
            return None
        orders = len(answer) - 3
        body = answer[3] if orders == 1 else answer[3 + packet[1] % orders]
        reply: bytes = packet[:2] + answer[2][kind] + question + body + opt
        if len(reply) > limit and (limit == 0 or not stream or len(reply) > message.MAX_OCTETS):
            return None
        hits[answer[1] + (kind >> 2)] += 1
        return reply

    def _denial(self, question: bytes) -> Answer | None:
        """Return the answer of the cut that a question lies below, or None.

        What is asked for again gets a place of its own.
        """
        cuts, asked = self._cuts.answers, question[-4:]
        if asked not in _ADDRESSES or question[:7] == _NS_DNS:
            return None
        i, end = 0, len(question) - 5
        while i < end:
            found = cuts.get(question[i:-4])
            if found is not None:
                break
            length = question[i]
            if not 0 < length < 64:
                return None
            i += 1 + length
        else:
            return None
        answer = found[0].get((end, asked)) if end < name.MAX_NAME_OCTETS else None
        if answer is not None and self._is_seen(question):
            self._passing.put(question, answer, found[1])
        return answer

    def maps(self, hits: list[int]) -> Maps:
        """Return what ``_drain.c`` looks into, and where it counts: struct Table."""
        return self._lasting.answers, self._passing.answers, self._limits, hits

    def admit_opt(self, opt: bytes, bounds: tuple[int, int] = NO_BOUNDS) -> None:
        """Let queries with this OPT take the fast path if it is bare: version 0, no flags.

        ``bounds`` are the least and the most that `bufsize` allows in a server block of the
        listener. Where they differ, what names a larger size stays a miss: whose block it is for
        decides.
        """
        if len(opt) != _OPT_OCTETS or opt[:3] != b"\0\0\x29" or opt[5:] != b"\0\0\0\0\0\0":
            return
        least, most = bounds
        if len(self._limits) >= _MAX_LIMITS:
            self._limits.clear()
        if (opt[3] << 8 | opt[4]) <= least:
            self._limits[opt] = _octets_of(opt)
        elif least == most:
            self._limits[opt] = opt[:3] + least.to_bytes(2, "big") + opt[5:]

    def remember(
        self, question: Question, response: Response, now: float, slot: Callable[[], int]
    ) -> bool:
        """Put a response on its shelf, if it may be repeated; tell whether it was.

        ``slot`` is asked for the number that hits are counted under only when it is.
        """
        if response.lifetime_s <= 0 or question.do or question.cd or response.edns is not None:
            return False
        key = question.wire
        if response.denies and key[-4:] in _ADDRESSES and key[:-4].endswith(response.denies):
            return self._remember_denial(question, response, now, slot)
        if response.is_lasting and question.qname == question.folded:
            shelf: _Shelf[Answer] = self._lasting
        else:
            shelf = self._passing
            if not self._is_seen(key):
                return False
        known = shelf.answers.get(key)
        if known is not None and known[0] > now:  # it missed for its OPT or its length
            return True
        compiled = self._compile(question, response)
        if compiled is None:
            return False
        answer = (now + response.lifetime_s, slot(), *compiled)
        shelf.put(key, answer, response.facts)
        return True

    def _remember_denial(
        self, question: Question, response: Response, now: float, slot: Callable[[], int]
    ) -> bool:
        """File a name error under the name it is due to, from the second one on."""
        found = self._cuts.answers.get(response.denies)
        if found is None:
            if not self._is_seen(response.denies):
                return False
            if len(self._cuts.answers) >= _MAX_CUTS:
                self._forget_cuts()
            found = ({}, response.facts)
            self._cuts.put(response.denies, found, response.facts)
        at = (len(question.qname) - 1, question.wire[-4:])
        known = found[0].get(at)
        if known is not None and known[0] > now:
            return True
        if self._below_cuts >= self._passing.limit:  # lengths times types times cuts
            self._forget_cuts()
            return False
        self._below_cuts += at not in found[0]
        compiled = self._compile(question, response)
        if compiled is not None:
            found[0][at] = (now + response.lifetime_s, slot(), *compiled)
        return compiled is not None

    def _forget_cuts(self) -> None:
        self._cuts.clear()
        self._below_cuts = 0

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Drop every answer that was decided from one of ``facts``, all for ``EVERYTHING``.

        Those of a ``Renewal``, which is no fact itself, are renewed.
        """
        changed = set(facts)
        if EVERYTHING in changed:
            self.clear()
            return
        self._lasting.forget(changed)
        self._passing.forget(changed)
        for answers, _ in self._cuts.forget(changed):
            self._below_cuts -= len(answers)
        for each in changed:
            if isinstance(each, Renewal):
                self._renew(each)

    def _renew(self, renewal: Renewal) -> None:
        """Replace octets in the answers of a fact; drop what lacks them, and what is too much."""
        known: dict[int, tuple[Answer, Answer | None]] = {}  # a cut's answer is in many places
        left = _MAX_RENEWED

        def renewed(answer: Answer) -> Answer | None:
            nonlocal left
            left -= 1
            if left < 0:
                return None
            found = known.get(id(answer))
            if found is None:
                found = known[id(answer)] = (answer, _renewed(answer, renewal))
            return found[1]

        def renewed_cut(cut: tuple[Cut, tuple[Hashable, ...]]) -> tuple[Cut, tuple[Hashable, ...]]:
            found = {at: new for at, answer in cut[0].items() if (new := renewed(answer))}
            self._below_cuts -= len(cut[0]) - len(found)
            return found, cut[1]

        self._cuts.renew(renewal.fact, renewed_cut)
        self._lasting.renew(renewal.fact, renewed)
        self._passing.renew(renewal.fact, renewed)

    def clear(self) -> None:
        """Drop everything."""
        self._lasting.clear()
        self._passing.clear()
        self._forget_cuts()

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

    def _compile(self, question: Question, response: Response) -> Answer | None:
        """Return the heads and the bodies of a response, None if no message has room for it."""
        bodies = []
        for sections in response.orders or (response.sections,):
            counts, body, is_cut = render(question.qname, sections, message.MAX_OCTETS)
            if is_cut:
                return None
            bodies.append(body)
        key = (response.flags | response.rcode & 15, *counts)
        heads = self._heads.get(key)
        if heads is None:
            heads = self._heads[key] = tuple(_head(kind, *key) for kind in range(8))
        return (heads, *bodies)


def _octets_of(opt: bytes) -> int:
    """Return how many octets a datagram may have for a client with this OPT."""
    return max(message.MIN_UDP_OCTETS, opt[3] << 8 | opt[4])


def _renewed(answer: Answer, renewal: Renewal) -> Answer | None:
    """Return an answer with octets replaced in each of its bodies, None where one lacks them."""
    _, old, new = renewal
    bodies = [body.replace(old, new) for body in answer[3:] if old in body]
    return (*answer[:3], *bodies) if len(bodies) == len(answer) - 3 else None


def _head(kind: int, flags: int, answers: int, authorities: int, additionals: int) -> bytes:
    """Return the header behind the ID for a kind of plain query; AD only to who understands it."""
    flags |= QR | (RD if kind & 1 else 0)
    if not kind & 2:
        flags &= ~AD
    return struct.pack("!HHHHH", flags, 1, answers, authorities, additionals + (kind >> 2))


class _Shelf(Generic[Kept]):
    """A bounded dict of answers, each filed under its facts.

    Most facts have one answer: its key is filed bare. A key stays under its other facts when one of
    them has dropped it, since it often comes back; what never does counts towards a bound.
    """

    __slots__ = ("_filed", "_filings", "answers", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.answers: dict[bytes, Kept] = {}
        self._filed: dict[Hashable, bytes | dict[bytes, None]] = {}
        self._filings = 0  # keys under all facts

    def put(self, key: bytes, answer: Kept, facts: tuple[Hashable, ...]) -> None:
        is_full = key not in self.answers and len(self.answers) >= self.limit
        if is_full or self._filings >= 4 * self.limit:
            self.clear()
        self.answers[key] = answer
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

    def forget(self, facts: set[Hashable]) -> list[Kept]:
        """Drop what is filed under any of these facts, and return it."""
        gone = []
        for fact in self._filed.keys() & facts:
            found = self._filed.pop(fact)
            keys = found if isinstance(found, dict) else (found,)
            self._filings -= len(keys)
            for key in keys:
                answer = self.answers.pop(key, None)
                if answer is not None:
                    gone.append(answer)
        return gone

    def renew(self, fact: Hashable, renewed: Callable[[Kept], Kept | None]) -> None:
        """Put another answer for each that is filed under a fact; drop it where there is none."""
        keys = self._filed.get(fact, ())
        for key in (keys,) if isinstance(keys, bytes) else keys:
            answer = self.answers.get(key)
            new = None if answer is None else renewed(answer)
            if new is not None:
                self.answers[key] = new
            elif answer is not None:
                del self.answers[key]

    def clear(self) -> None:
        self.answers.clear()
        self._filed.clear()
        self._filings = 0
