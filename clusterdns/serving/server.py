"""One listener of a worker: from the octets of a query to those of the reply.

The engines of the transports ask ``table`` first, which repeats answers. Misses come to
``resolve``: the gate, the checks of the core, the view's chain from memory, then the reply is
rendered and kept. A query that memory cannot answer takes the chain that may wait, as a task; their
number is bounded. (CoreDNS: core/dnsserver/server.go)
"""

from __future__ import annotations

import asyncio
import functools
import logging
import traceback
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Final

from clusterdns.chain.limits import ANSWER, STAY_SILENT, Judge, RateLimits
from clusterdns.chain.plugin import DROP
from clusterdns.chain.view import REFUSED, Choice, Router, View
from clusterdns.metrics.tally import DROPPED, OPT_OCTETS, Profile, Tally, type_label
from clusterdns.observing.collector import CHAIN, Collector
from clusterdns.observing.sampling import FAILED, KINDS_AT_ONCE, SLOW_S, Sampler, kind_of
from clusterdns.serving import native
from clusterdns.serving.classes import MAX_CLASSES, ClassTables, ask_as
from clusterdns.serving.table import (
    BAD_VERSION_OPT,
    MAX_LASTING,
    MAX_PASSING,
    MAX_TABLE_OCTETS,
    Answer,
    AnswerTable,
)
from clusterdns.wire import message, reading, rr
from clusterdns.wire.cookies import CLIENT_ONLY, INVALID, MALFORMED, NONE, Cookies
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure, render_reply, uncompressed_octets

MAX_WAITING: Final = 8192  # queries waiting for a chain, a few kilobytes each
_SERVFAIL: Final = failure(rr.SERVFAIL)
NOT_IMPLEMENTED: Final = failure(rr.NOTIMP)
_FORMERR: Final = failure(rr.FORMERR)
_BADCOOKIE: Final = failure(rr.BADCOOKIE)
_NOTHING: Final = Response(flags=0, lifetime_s=0)
_CUT: Final = Response(flags=message.TC, lifetime_s=0)  # to a client over its limit
_NO_HEADER: Final = bytes(message.HEADER_OCTETS)
_log = logging.getLogger(__name__)

LATER: Final = b""  # no reply yet


Send = Callable[[bytes | None], None]


class Listener:
    """Answers the queries of one listener."""

    def __init__(
        self,
        router: Router,
        label: str,
        clock: Callable[[], float],
        address: tuple[str, int] = ("", 0),
        table_octets: int = MAX_TABLE_OCTETS,
        collector: Collector | None = None,
    ) -> None:
        self.address = (address[0] or "::", address[1])  # Go's name for a socket of all addresses
        self.table = self._made_table(router, table_octets)
        self.classes: ClassTables | None = None
        if router.classes:
            share = table_octets // MAX_CLASSES
            make = functools.partial(self._made_table, router, share, MAX_CLASSES)
            self.classes = ClassTables(router.classes, self.table, make, clock)
        self.tally = Tally(label)
        self.clock = clock
        self.panics = 0
        self.router = router
        self.collector = collector  # looks at queries of the chain, too
        self._samplers: dict[str, Sampler] = {}  # by transport
        self._waiting: set[asyncio.Task[None]] = set()
        self._composing = asyncio.Lock()  # of replies of several messages
        self._places: set[str] = set()
        if native.compiled is not None:
            for limits in router.limits:
                limits.compile(native.compiled.Buckets)
            if router.cookies is not None:
                router.cookies.hash = native.compiled.siphash

    @staticmethod
    def _made_table(router: Router, octets: int, parts: int = 1) -> AnswerTable:
        """Return a new table, one of so many ``parts``."""
        return AnswerTable(
            MAX_LASTING // parts,
            MAX_PASSING // parts,
            octets,
            bounds=router.bounds,
            passes_options=not router.reads_options and router.cookies is None,
            keeps_replies=router.keeps_replies,
        )

    @property
    def front(self) -> AnswerTable | ClassTables:
        """The table that transports ask first, or those of the classes of clients."""
        return self.table if self.classes is None else self.classes

    def table_of(self, host: str) -> AnswerTable | None:
        """Return the table of a client, None if its class has none."""
        classes = self.classes
        return self.table if classes is None else classes.table(classes.asker(host))

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Remove the answers that depend on any of ``facts``, and the classes of these clients."""
        self.table.forget(facts)
        if self.classes is not None:
            self.classes.forget(facts)

    def lighten(self, most: int) -> None:
        """Drop what takes a lot of memory, as ``AnswerTable.lighten``; classes share ``most``."""
        self.table.lighten(most)
        if self.classes is not None:
            self.classes.lighten(most // MAX_CLASSES)

    def clear(self) -> None:
        """Remove all answers, and the classes of all clients."""
        self.table.clear()
        if self.classes is not None:
            self.classes.clear()

    def resolve(
        self,
        packet: bytes,
        client: tuple[str, int],
        transport: str,
        hits: list[int],
        send: Send,
        address: tuple[str, int] | None = None,
        more: Callable[[bytes], Awaitable[bool]] | None = None,
        waited_s: float = 0.0,
    ) -> bytes | None:
        """Return the reply to a query the table missed, None to send none, or ``LATER``.

        ``LATER`` means that the chain waits, and ``send`` is called with the reply or None.
        ``hits`` are the slots to count in, ``address`` is ours on a stream, ``more`` and
        ``waited_s`` as in ``Query``. Never raises.
        """
        router = self.router
        query = reading.read_query(
            packet,
            takes_updates=router.takes_updates,
            takes_cookies=router.cookies is not None,
        )
        if not isinstance(query, Query):
            return query
        query.waited_s = waited_s
        return self.resolve_query(query, client, transport, hits, send, address, more)

    def resolve_query(
        self,
        query: Query,
        client: tuple[str, int],
        transport: str,
        hits: list[int],
        send: Send,
        address: tuple[str, int] | None = None,
        more: Callable[[bytes], Awaitable[bool]] | None = None,
    ) -> bytes | None:
        """As ``resolve``, for a query that has passed the gate."""
        query.client, query.transport = client[:2], transport
        query.server, query.more = address or self.address, more
        if self.classes is not None:
            ask_as(query, self.classes.asker(client[0]))
        if self.collector is None:
            return self._resolve_safely(query, hits, send)
        began = self.clock() - query.waited_s
        reply = self._resolve_safely(query, hits, send)
        if reply:
            sampler = self._samplers.get(query.transport) or self._sampler(query.transport)
            kind = KINDS_AT_ONCE[reply[3] & 15] if query.waited_s < SLOW_S else FAILED
            if not sampler.skips(kind):
                _look_at(sampler, kind, query, reply, began, self.clock())
        return reply

    def _resolve_safely(self, query: Query, hits: list[int], send: Send) -> bytes | None:
        try:
            return self._resolve(query, hits, send)
        except Exception:  # a bug of ours: SERVFAIL, counted, one traceback
            self.note_panic()
            return self._write(query, None, _SERVFAIL, hits)

    def _sampler(self, transport: str) -> Sampler:
        """Return what chooses the queries of a transport that the collector sees."""
        assert self.collector is not None  # it wants to see queries
        made = self.collector.sampler(self.tally.server, transport, CHAIN)
        self._samplers[transport] = made
        return made

    def note_batch(self, began: float, answered: int) -> None:
        """Note the time of a batch answered since ``began``."""
        if answered:
            self.tally.batches.observe((self.clock() - began) / answered, answered)

    def _resolve(self, query: Query, hits: list[int], send: Send) -> bytes | None:
        question, cookies = query.question, self.router.cookies
        if cookies is not None:
            refusal = self.check_cookie(query, cookies)
            if refusal is not None:
                return self._write(query, None, refusal, hits)
        if question is None:
            return self._write(query, None, _SERVFAIL, hits)
        if question.qclass != rr.CLASS_IN and not self.router.opens_classes:
            return self._write(query, None, REFUSED, hits)
        if query.edns is not None and query.edns.version != 0:
            return bad_version(query)
        choice = self.router.choose(question, query)
        view = choice.view
        if view is None or not view.chain:
            return self._write(query, None, REFUSED, hits)
        if query.changes is not None and not view.takes_updates:
            return self._write(query, None, NOT_IMPLEMENTED, hits)
        view.bound(query)
        limits = view.limits if query.transport == "udp" and query.changes is None else None
        if limits is not None and limits.covers(question.folded):
            verdict, limits = self._judge(query, limits), None
            if verdict != ANSWER:
                return self._refuse(query, verdict)
        may_repeat = choice.is_shared and not view.observers and view.may_know(query)
        table = self.table if self.classes is None else self.table_of(query.client[0])
        if may_repeat and table is not None:
            known = table.known(query, self.clock(), hits)
            if known is not None:
                return known
        began = self.clock() if view.observers else 0.0
        response = view.answer(question) if view.may_know(query) else None
        if limits is not None and limits.covers_response(question.folded, response):
            verdict = self._judge(query, limits)
            if verdict != ANSWER:
                return self._refuse(query, verdict)
        if response is None:
            return self._wait(query, view, hits, send)
        for observer in view.observers:
            observer.told(query, response, self.clock() - began)
        if response is DROP:
            return None
        profile = self._profile(query, view, response)
        answer = None  # already rendered
        if table is not None:
            answer = self._remember(table, query, response, choice, profile)
        if table is None or answer is None or query.sign is not None:
            return self._write(query, view, response, hits, profile)
        self.tally.once(profile, hits, query.edns is not None)
        return table.reply_to(query, answer)

    def check_cookie(self, query: Query, cookies: Cookies) -> Response | None:
        """Give a query the option for its reply; return the response if it gets no other.

        A query without a question only asks for a cookie (RFC 7873 section 5.4).
        """
        said, query.cookie = cookies.judge(query.edns, query.client[0])
        is_bare = query.question is None and query.edns is not None
        is_udp = query.transport == "udp"
        if said == MALFORMED or (is_bare and said == NONE):
            return _FORMERR
        has_failed = said == INVALID if is_bare else said in (INVALID, CLIENT_ONLY)
        if has_failed and is_udp and (is_bare or cookies.is_required):
            return _BADCOOKIE
        if is_bare:
            return _NOTHING
        over_tcp = cookies.over_tcp
        if said == NONE and is_udp and over_tcp is not None and query.client[0] in over_tcp:
            return _CUT
        return None

    def _judge(self, query: Query, limits: RateLimits) -> int:
        """Return what happens to a query, by the rate of its client."""
        return limits.buckets.judge(query.client[0], self.clock())

    def _refuse(self, query: Query, verdict: int) -> bytes | None:
        """Return what a client over its limit gets: an empty reply with TC, or none."""
        return None if verdict == STAY_SILENT else render_reply(query, _CUT, query.limit)

    def _remember(
        self,
        table: AnswerTable,
        query: Query,
        response: Response,
        choice: Choice,
        profile: Profile,
    ) -> Answer | None:
        """Put the response into the table if it may be repeated; return its answer there."""
        question, view = query.question, choice.view
        if question is None or not choice.is_shared:
            return None
        qtype = question.qtype
        if response.node is not None and not self._is_alike(choice, response.node.owner, qtype):
            response = response._replace(node=None)
        is_cut = bool(response.denies) and response.node is None
        if is_cut and not self._is_alike(choice, response.denies, qtype):
            response = response._replace(denies=b"")
        size = message.HEADER_OCTETS + len(question.wire)  # of the queries that hit
        answer = table.remember(
            question,
            response,
            self.clock(),
            lambda: self.tally.slot(Profile(*profile[:6], size, profile[7], response.counters)),
            None if view is None else self.router.note(view, question, response),
            None if view is None else _buckets(view, question, response),
        )
        if answer is not None and self.tally.is_full:
            self.clear()  # their slots are counted anew
            self.tally.restart()
        return answer

    def _is_alike(self, choice: Choice, owner: bytes, qtype: int) -> bool:
        """Tell whether all names below ``owner`` that are denied get the same answer for a type."""
        above, view = WireName(owner), choice.view
        is_plain = choice.is_plain and view is not None and view.treats_alike(above, qtype)
        return is_plain and self.router.is_whole(above)

    def _write(
        self,
        query: Query,
        view: View | None,
        response: Response,
        hits: list[int],
        profile: Profile | None = None,
    ) -> bytes | None:
        """Return the rendered reply, and count it."""
        if response is DROP:
            return None
        profile = profile or self._profile(query, view, response)
        self.tally.once(profile, hits, query.edns is not None)
        return rendered(query, response)

    def _profile(self, query: Query, view: View | None, response: Response) -> Profile:
        question = query.question
        rtype = type_label(rr.type_text(question.qtype)) if question else "other"
        size = query.octets - (OPT_OCTETS if query.edns is not None else 0)
        rcode = rr.rcode_text(response.rcode)
        if view is None:
            return Profile(DROPPED, "", rtype, rcode, "", False, size, size)
        if not view.is_measured:
            return Profile("", "", "", "", "", False, 0, 0)
        zone = view.zone_label(question.folded) if question else "."
        plugin, reply_size = "", 0
        if not response.bare:
            plugin, reply_size = view.writer, uncompressed_octets(question, response)
        do = question is not None and question.do
        return Profile(zone, view.block.view, rtype, rcode, plugin, do, size, reply_size)

    def _wait(self, query: Query, view: View, hits: list[int], send: Send) -> bytes | None:
        """Start the chain that may wait; refuse if too many queries wait."""
        if len(self._waiting) >= MAX_WAITING:
            return self._write(query, view, _SERVFAIL, hits)
        task = asyncio.get_running_loop().create_task(self._handle(query, view, hits, send))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return LATER

    async def _handle(self, query: Query, view: View, hits: list[int], send: Send) -> None:
        began = self.clock() - query.waited_s
        try:
            response = await view.handle(query)
            if response.following is not None:
                response = await self._send_all_but_last(query, response)
            reply = self._write(query, view, response, hits)
        except Exception:
            self.note_panic()
            reply = self._write(query, None, _SERVFAIL, hits)
        if view.is_measured and query.question is not None:
            zone = view.zone_label(query.question.folded)
            self.tally.waited(zone, view.block.view, self.clock() - began)
        if self.collector is not None and reply:
            sampler = self._samplers.get(query.transport) or self._sampler(query.transport)
            now = self.clock()
            kind = kind_of(reply[3] & 15, now - began)
            _look_at(sampler, kind, query, reply, began, now)
        send(reply)

    async def _send_all_but_last(self, query: Query, response: Response) -> Response:
        """Send the messages of a reply, each when there is room; return the last one.

        A message takes some milliseconds, so all replies of several messages together make one in
        a turn of the loop: else a few whole zones at one time would hold up all that is read.
        Stops if the client has closed.
        """
        sections = iter(response.following or ())
        while True:
            async with self._composing:
                await asyncio.sleep(0)
                section = next(sections, None)
                if section is None:
                    return response._replace(following=None)
                part = render_reply(query, response, query.limit)
                if query.sign is not None:
                    part = query.sign(part)
            if query.more is None or not await query.more(part):
                return DROP
            response = response._replace(answer=section)

    async def finish(self, timeout_s: float) -> None:
        """Return when no query waits, or after ``timeout_s``."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=timeout_s)

    def note_panic(self) -> None:
        """Count a bug, and log its traceback once for each place in the code."""
        self.panics += 1
        text = traceback.format_exc()
        place = text.rpartition("\n  File ")[2].partition("\n")[0]
        if place not in self._places and len(self._places) < 100:
            self._places.add(place)
            _log.error("Recovered from panic in server: %s\n%s", self.tally.server, text)


def _look_at(
    sampler: Sampler, kind: int, query: Query, reply: bytes, began: float, now: float
) -> None:
    """Keep a query with its reply for the collector, if it is one that is looked at."""
    question = query.question
    for _, stands_for in sampler.draw(kind):
        if question is not None:
            packet = _NO_HEADER + question.wire
            sampler.add((stands_for, packet, query.client, now - began, began, reply))


def rendered(query: Query, response: Response) -> bytes:
    """Return the reply to a query in octets, signed if the query is."""
    orders = response.orders
    sections = orders[(query.ident & 0xFF) % len(orders)] if orders else None
    reply = render_reply(query, response, query.limit, sections)
    return reply if query.sign is None else query.sign(reply)


def _buckets(view: View, question: Question, response: Response) -> Judge | None:
    """Return the buckets that each repeat of a response counts in, None if it does not count."""
    limits, qname = view.limits, question.folded
    if limits is None:
        return None
    is_covered = limits.covers(qname) or limits.covers_response(qname, response)
    return limits.buckets if is_covered else None


def bad_version(query: Query) -> bytes:
    """Return BADVERS for an EDNS version that is not 0 (RFC 6891 section 6.1.3)."""
    flags = message.QR | query.flags & message.OPCODE_MASK
    if query.opcode == message.OPCODE_QUERY:
        flags |= query.flags & (message.RD | message.CD)
    wire = query.question.wire if query.question else b""
    return message.HEADER.pack(query.ident, flags, 1, 0, 0, 1) + wire + BAD_VERSION_OPT
