"""Queries of one ``forward`` on their way to its servers, and the clients that wait for replies.

``Pool.ask`` returns a future for each client's query. Equal queries share one ``Flight``: the
octets sent upstream differ only in ID and letter case, and so do the replies. A flight asks one
server after the other, in the order of the policy, until one replies. No client owns it, so one
that cancels does not affect the others. Callbacks of the servers drive it; it has no task.
``exchange.Asked`` says what is sent. (CoreDNS: plugin/forward/forward.go ServeDNS)

Sharing also denies a forger many simultaneous queries for one name, and so many IDs to hit (RFC
5452 section 5).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Final, NamedTuple

from clusterdns.errors import UpstreamError
from clusterdns.forwarding.choice import EXPLORE, FASTEST, Round, hedge_s, order
from clusterdns.forwarding.exchange import REFUSALS, Asked, Exchange, Mismatch
from clusterdns.forwarding.outside import OWN_OCTETS
from clusterdns.forwarding.upstream import Upstream
from clusterdns.wire import message, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.reading import Reply
from clusterdns.wire.response import Response, failure, response_of

if TYPE_CHECKING:
    from clusterdns.serving._drain import Lane

DEADLINE_S = 5.0
STALE_S: Final = 1.0  # of the replies to relayed queries, kept for the chain
MAX_ARRIVED: Final = 1024
FAILED_S: Final = 1.0  # pace of a failed query, even if it failed at once
LAME_S: Final = 0.5  # pace of a SERVFAIL or REFUSED where another server answered
PAUSE_S: Final = 0.05  # between rounds if attempts are unlimited
FLAP_S: Final = 0.1  # otherwise, if the last server failed at once: routes may return
# Of one flight; more start another. At most 8192 queries wait in a worker, so a question has three
# flights at most, and a forger must send 2^29 replies (RFC 5452 section 7).
MAX_WAITERS = 4096
MAX_PROBES: Final = 16  # equal HINFO queries under way: loop.MAX_PASSED
_CHAIN: Final = b""  # a flight, in `under_way`
_RELAYED_FLAGS: Final = message.RD | message.AD | message.CD
ATTEMPTS_PER_SERVER: Final = 2
_ELSEWHERE: Final = frozenset((rr.SERVFAIL, rr.REFUSED))  # `fastest`: ask another server


class Rules(NamedTuple):
    """How one ``forward`` chooses and asks servers."""

    policy: str = "random"
    max_fails: int = 2
    max_attempts: int | None = None  # None: two for each server; 0: no limit
    fails_fast: bool = False
    failover: frozenset[int] = frozenset()
    force_tcp: bool = False
    prefer_udp: bool = False


class Arrival(NamedTuple):
    """The result, after ``seconds``, of a query sent without a flight; ``at`` is monotonic.

    ``packet`` is the query, but for its ID; ``local`` our address, if a tap wants it.
    """

    upstream: Upstream
    found: Reply | UpstreamError
    seconds: float
    at: float
    packet: bytes
    local: tuple[str, int] | None


class Attempt(NamedTuple):
    """An exchange of a flight with a server; ``local`` is our address, if it was sent."""

    upstream: Upstream
    proto: str
    local: tuple[str, int] | None
    packet: bytes
    found: Reply | UpstreamError
    began: float  # monotonic
    seconds: float


Tell = Callable[[Attempt], None]


class Pool:
    """The servers of one ``forward`` in one worker, and the flights under way."""

    def __init__(
        self, rules: Rules, upstreams: Sequence[Upstream],
        octets: int = OWN_OCTETS, options: Set[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.rules = rules
        self.upstreams = tuple(upstreams)
        self.octets = octets  # of replies, as our OPT says
        self.under_way: dict[bytes, bytes | bool] = {}  # questions, see relay.py
        self.random = random.Random()
        self.broken = self.joined = 0
        self.hedges: Counter[str] = Counter()  # by server
        self.loop = asyncio.get_running_loop()  # each call of get_running_loop is a system call
        self._turn = 0
        self.lanes: list[Lane] = []  # lanes for plain queries, see relay.py
        self._options = options
        self._arrived: dict[Asked, Arrival] = {}
        self._flights: dict[Asked, Flight] = {}
        self._probes: Counter[Asked] = Counter()
        self._all: set[Flight] = set()

    def ask(
        self, query: Query, question: Question, tell: Tell | None = None
    ) -> asyncio.Future[Response]:
        """Return the future of the reply to a client's query; it may be canceled.

        ``tell`` is called for each exchange with a server that this query causes.
        """
        rules = self.rules
        proto = "tcp" if rules.force_tcp else "udp" if rules.prefer_udp else query.transport
        asked = Asked.of(query, question, proto, self.octets, self._options)
        flight = self._flights.get(asked)
        if flight is not None and not self._needs_its_own(asked, flight):
            self.joined += 1
            return flight.join(question.qname, query.limit)
        flight = self._flights[asked] = Flight(self, asked, question, tell)
        self._all.add(flight)
        if asked.qtype == rr.HINFO:
            self._probes[asked] += 1
        future = flight.join(question.qname, query.limit)
        arrival = self._arrived.pop(asked, None)
        wire = question.key if self._is_plain(asked) else b""
        if arrival is not None and arrival.at > time.monotonic() - STALE_S:
            if wire:
                self.under_way.setdefault(wire, _CHAIN)
            flight.arrive(arrival)
        elif not (wire and self._is_relayed(wire, asked)):
            flight.begin()
        return future

    def _needs_its_own(self, asked: Asked, flight: Flight) -> bool:
        """Tell whether a query must not join an equal flight: each probe of `loop` must be sent."""
        if asked.qtype == rr.HINFO and self._probes[asked] < MAX_PROBES:
            return True
        return len(flight.waiters) >= MAX_WAITERS

    @property
    def relayed(self) -> int:
        """The number of queries under way in the relay."""
        return sum(lane.busy for lane in self.lanes)

    def _is_relayed(self, wire: bytes, asked: Asked) -> bool:
        """Tell whether the relay has an equal query under way; if so, request its reply.

        If not, note the flight, so that the relay sends no equal query.
        """
        if self.under_way.setdefault(wire, _CHAIN) != asked.flags.to_bytes(2, "big"):
            return False
        self.under_way[wire] = True
        return True

    def _is_plain(self, asked: Asked) -> bool:
        """Tell whether the relay might send the same."""
        edns = asked.edns
        is_bare = edns is not None and not edns.options
        is_alike = asked.proto == "udp" and not asked.flags & ~_RELAYED_FLAGS and is_bare
        return is_alike and asked.qtype != rr.HINFO and bool(self.lanes)

    def asked(self, query: Query, question: Question) -> Asked:
        """Return what the relay sends of a query."""
        return Asked.of(query, question, "udp", self.octets, self._options)

    def arrive(self, asked: Asked, arrival: Arrival) -> None:
        """Take the result of a relayed query that is handed over to the chain.

        Queries that joined it get the result at once; the query itself comes through the chain.
        """
        if len(self._arrived) >= MAX_ARRIVED:  # they are taken in the same turn of the loop
            self._arrived.clear()
        flight = self._flights.get(asked)
        if flight is not None and not flight.has_begun:
            flight.arrive(arrival)
        if self._flights.get(asked) is None:  # else the query joins that flight
            self._arrived[asked] = arrival

    def turns(self, upstreams: Sequence[Upstream]) -> Round:
        """Return the round of a new query."""
        rules = self.rules
        paces = [upstream.pace for upstream in upstreams] if rules.policy == FASTEST else ()
        self._turn += 1
        turns = order(rules.policy, len(upstreams), self._turn, self.random, paces)
        if (taker := trace.scribe()) is not None:
            taker.note(_order_text(rules, [upstreams[i] for i in turns]))
        return Round(
            turns,
            max_fails=rules.max_fails,
            fails_fast=rules.fails_fast,
            rng=self.random,
        )

    def landed(self, flight: Flight) -> None:
        """Forget a flight: the next equal query starts a new one."""
        self._all.discard(flight)
        asked = flight.asked
        if self._flights.get(asked) is flight:
            del self._flights[asked]
        if asked.qtype == rr.HINFO:
            self._probes -= Counter([asked])  # which drops what comes to nothing
        wire = flight.question.key if self._is_plain(asked) else b""
        if wire and self.under_way.get(wire) == _CHAIN:
            del self.under_way[wire]

    def close(self) -> None:
        """End every flight."""
        for flight in [*self._all]:
            flight.abandon("plugin/forward: stopping")


class Flight:
    """One question on its way to the servers."""

    __slots__ = (
        "_attempts", "_cut", "_deadline", "_error", "_exchange", "_hedge", "_is_forged", "_is_over",
        "_lame", "_last", "_loop", "_most", "_out", "_pool", "_tell", "_turns", "_upstreams",
        "asked", "question", "waiters",
    )  # fmt: skip

    def __init__(
        self, pool: Pool, asked: Asked, question: Question, tell: Tell | None = None
    ) -> None:
        self.asked = asked
        self._tell = tell
        self.question = question
        self.waiters: list[tuple[asyncio.Future[Response], bytes]] = []
        self._pool = pool
        self._loop = pool.loop
        self._deadline = time.monotonic() + DEADLINE_S
        self._upstreams = pool.upstreams  # later queries see a new list of servers
        self._turns = pool.turns(self._upstreams) if self._upstreams else None
        most = pool.rules.max_attempts
        if most is None:
            most = ATTEMPTS_PER_SERVER * len(self._upstreams)
        self._attempts: float = most or math.inf  # left
        self._exchange: Exchange | None = None
        self._error = "no healthy proxies" if self._upstreams else "no upstream server is known"
        self._last: Response | None = None
        self._most = 0  # octets that a waiter accepts, at most
        self._cut: Response | None = None  # truncated; the whole reply is requested
        self._lame: list[Upstream] = []  # their failure led to another server
        self._out = 0  # exchanges under way
        self._is_forged = False  # there were only replies to other questions from some server
        self._hedge: asyncio.TimerHandle | None = None
        self._is_over = False

    def join(self, qname: bytes, limit: int) -> asyncio.Future[Response]:
        """Return the future of one more client, which spells the name as ``qname``.

        ``limit`` is the number of octets that it accepts.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        self._most = max(self._most, limit)
        self.waiters.append((future, qname))
        return future

    @property
    def has_begun(self) -> bool:
        """Whether a server has been asked, or none was available."""
        return self._exchange is not None or self._is_over

    def arrive(self, arrival: Arrival) -> None:
        """Start with the result of an equal query."""
        if self._turns is None:
            self._give_up()
            return
        if arrival.upstream in self._upstreams:
            self._turns.begin_with(self._upstreams.index(arrival.upstream))
        if self._tell is not None:
            began = arrival.at - arrival.seconds
            self._tell(
                Attempt(
                    arrival.upstream, "udp", arrival.local, arrival.packet, arrival.found, began,
                    arrival.seconds,
                )
            )  # fmt: skip
        self._deadline -= arrival.seconds
        self._out += 1
        self._done(arrival.upstream, "udp", arrival.found, arrival.seconds)

    def begin(self) -> None:
        """Ask the next server, or end if there is none."""
        if self._is_over:
            return
        left_s = self._deadline - time.monotonic()
        if left_s <= 0 or self._attempts <= 0 or self._turns is None:
            self._give_up()
            return
        taken = self._turns.take([upstream.fails for upstream in self._upstreams])
        if taken is None:
            self._give_up()
            return
        upstream = self._upstreams[taken]
        is_first = self._exchange is None
        self._send(upstream, self.asked.proto, left_s)
        if self._pool.rules.policy == FASTEST:
            if is_first and self._pool.random.random() < EXPLORE:
                self._explore(upstream, left_s)
            self._plan_hedge(upstream)

    def abandon(self, why: str) -> None:
        """End without a reply."""
        self._error, self._last, self._cut, self._is_forged = why, None, None, False
        self._give_up()

    def _send(self, upstream: Upstream, proto: str, left_s: float, *, has_opt: bool = True) -> None:
        asked = self.asked
        edns = asked.edns if has_opt and upstream.knows_edns else None
        exchange = self._exchange = upstream.begin(self.question, asked.flags, edns)
        began, local, tell = time.monotonic(), list[tuple[str, int]](), self._tell

        def done(found: Reply | UpstreamError) -> None:
            seconds = time.monotonic() - began
            if tell is not None:
                ours = local[-1] if local else None
                tell(Attempt(upstream, proto, ours, exchange.packet, found, began, seconds))
            if isinstance(found, Reply) and self._repeats(upstream, proto, exchange, found):
                return
            if isinstance(found, Reply) and not has_opt and found.rcode not in REFUSALS:
                upstream.refuses_edns()
            self._done(upstream, proto, found, seconds)

        self._out += 1
        hear = None if tell is None else local.append
        upstream.send(exchange, proto, done, timeout_s=left_s, hear=hear)

    def _repeats(self, upstream: Upstream, proto: str, exchange: Exchange, reply: Reply) -> bool:
        """Tell whether a server that does not know OPT records is asked again, without one."""
        left_s = self._deadline - time.monotonic()
        if self._is_over or left_s <= 0 or not exchange.is_refused_by(reply):
            return False
        self._out -= 1
        self._send(upstream, proto, left_s, has_opt=False)
        return True

    def _done(
        self, upstream: Upstream, proto: str, found: Reply | UpstreamError, seconds: float
    ) -> None:
        """Take the result of an exchange."""
        self._out -= 1
        if isinstance(found, Reply):
            self._replied(upstream, proto, found, seconds)
        elif self._cut is not None and not self._out:
            self._give_up()
        elif isinstance(found, Mismatch):
            # The right reply is lost, maybe to a socket full of forged ones: ask again. A forger
            # must not bring a server into disrepute, so it is neither slow nor failed.
            self._is_forged = True
            self._attempts -= 1
            if not self._is_over:
                self._next(seconds)
        else:
            self._failed(upstream, found, seconds)

    def _failed(self, upstream: Upstream, error: UpstreamError, seconds: float) -> None:
        """Ask the next server, and probe the failed one."""
        if self._pool.rules.max_fails:
            upstream.suspect()
        upstream.pace.late(max(seconds, FAILED_S))
        if self._is_over:
            return
        self._error = str(error)
        self._attempts -= 1
        self._next(seconds)

    def _next(self, seconds: float = FLAP_S) -> None:
        """Ask another server, unless every server had its turn and one has replied.

        ``seconds`` is the time in which the last one failed.
        """
        assert self._turns is not None
        if self._out:  # another exchange is under way
            return
        if self._turns.is_over:
            if self._last is not None:
                self._give_up()
                return
            if self._attempts == math.inf:  # a server that refuses at once would be asked for 5 s
                self._loop.call_later(PAUSE_S, self.begin)
                return
            if seconds < FLAP_S and self._attempts > 0:
                self._loop.call_later(FLAP_S, self.begin)
                return
        self.begin()

    def _replied(self, upstream: Upstream, proto: str, reply: Reply, seconds: float) -> None:
        upstream.pace.replied(seconds)
        if self._is_over:
            return
        rules = self._pool.rules
        left_s = self._deadline - time.monotonic()
        response = response_of(reply)._replace(source=upstream.text)
        if reply.flags & message.TC and proto == "udp" and left_s > 0:
            if not rules.prefer_udp and self._most > self._pool.octets:
                self._cut = response
            if rules.prefer_udp or self._cut is not None:
                self._send(upstream, "tcp", left_s)
                return
        if reply.rcode not in rules.failover:
            if rules.policy != FASTEST or reply.rcode not in _ELSEWHERE:
                for lame in self._lame:
                    lame.pace.late(LAME_S)
                self._land(response)
                return
            if self._lame and not self._out:
                self._land(response)
                return
        self._lame.append(upstream)
        self._last = response
        self._next()

    def _explore(self, asked: Upstream, left_s: float) -> None:
        """Ask another server as well, to measure it; no client waits for it."""
        most = self._pool.rules.max_fails
        others = [u for u in self._upstreams if u is not asked and (not most or u.fails <= most)]
        if others:
            self._send(self._pool.random.choice(others), self.asked.proto, left_s)

    def _plan_hedge(self, upstream: Upstream) -> None:
        """Schedule a query to the next server if this one takes much longer than usual."""
        if self._hedge is not None:
            self._hedge.cancel()
        most = self._pool.rules.max_fails
        delay_s = hedge_s(u.pace for u in self._upstreams if not most or u.fails <= most)
        self._hedge = self._loop.call_later(delay_s, self._ask_another, upstream, delay_s)

    def _ask_another(self, upstream: Upstream, late_s: float) -> None:
        most = ATTEMPTS_PER_SERVER * len(self._upstreams)
        if self._is_over or not self._out or self._out >= most:
            return
        upstream.pace.late(late_s)
        self._pool.hedges[upstream.text] += 1
        self.begin()

    def _give_up(self) -> None:
        """End with the last reply or the last error."""
        if self._is_forged:
            failed = Response(rr.FORMERR, flags=0, lifetime_s=0)
        else:
            failed = failure(rr.SERVFAIL, self._error)._replace(unanswered=True)
        self._land(self._last or self._cut or failed)

    def _land(self, response: Response) -> None:
        """Give the reply to all waiting clients."""
        if self._is_over:
            return
        self._is_over = True
        if self._hedge is not None:
            self._hedge.cancel()
        if self._turns is not None:
            self._pool.broken += self._turns.broken
        self._pool.landed(self)
        asked = self.question.qname
        for future, qname in self.waiters:
            if not future.done():
                future.set_result(response if qname == asked else _spelled(response, asked, qname))
        self.waiters.clear()


def _order_text(rules: Rules, upstreams: Sequence[Upstream]) -> str:
    """Return the order of the servers of a query, and which of them are down."""
    said = []
    for each in upstreams:
        is_down = rules.max_fails and each.fails > rules.max_fails
        said.append(f"{each.text} (down: {each.fails} failed checks)" if is_down else each.text)
    return f"`policy {rules.policy}` asks in this order: {', '.join(said)}"


def _spelled(response: Response, asked: bytes, qname: bytes) -> Response:
    """Return a response with the name in another client's letter case, where it has ours.

    Records whose owner is a pointer to the question have the letter case of the question.
    """
    if not any(record.owner == asked for section in response.sections for record in section):
        return response
    answer, authority, additional = (
        tuple(r._replace(owner=qname) if r.owner == asked else r for r in section)
        for section in response.sections
    )
    return response.with_sections((answer, authority, additional))
