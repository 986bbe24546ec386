"""Queries of one ``forward`` on their way to its servers, and the clients that wait for replies.

``Pool.ask`` returns a future for each client's query. Equal queries share one ``Flight``: the
octets sent upstream differ only in ID and letter case, and so do the replies. A flight asks one
server after the other, in the order of the policy, until one replies. No client owns it, so one
that cancels does not affect the others. Callbacks of the servers drive it; it has no task.
(CoreDNS: plugin/forward/forward.go ServeDNS)

Sharing also denies a forger many simultaneous queries for one name, and so many IDs to hit (RFC
5452 section 5).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clusterdns.errors import UpstreamError
from clusterdns.forwarding.choice import EXPLORE, FASTEST, Round, hedge_s, order
from clusterdns.forwarding.exchange import HEADER_FLAGS, Exchange, Mismatch
from clusterdns.forwarding.upstream import Upstream
from clusterdns.wire import message, rr
from clusterdns.wire.message import Edns, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.reading import Reply
from clusterdns.wire.response import Response, failure, response_of

if TYPE_CHECKING:
    from clusterdns.serving._drain import Lane

DEADLINE_S = 5.0
STALE_S, MAX_ARRIVED = 1.0, 1024  # of the replies to relayed queries, kept for the chain
FAILED_S = 1.0  # pace of a failed query, even if it failed at once
LAME_S = 0.5  # pace of a SERVFAIL or REFUSED where another server answered
PAUSE_S = 0.05  # between rounds if attempts are unlimited
FLAP_S = 0.1  # between rounds otherwise, if the last server failed at once: routes may return
MAX_WAITERS = 1024  # of one flight; more start another, so that no reply wakes too many
ATTEMPTS_PER_SERVER = 2
_ELSEWHERE = frozenset((rr.SERVFAIL, rr.REFUSED))  # `fastest`: ask another server

_Key = tuple[WireName, int, int, int, Edns | None, str]


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
    """The result, after ``seconds``, of a query sent without a flight; ``at`` is monotonic."""

    upstream: Upstream
    found: Reply | UpstreamError
    seconds: float
    at: float


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

    def __init__(self, rules: Rules, upstreams: Sequence[Upstream]) -> None:
        self.rules = rules
        self.upstreams = tuple(upstreams)
        self.random = random.Random()
        self.broken = self.joined = 0
        self.hedges: Counter[str] = Counter()  # by server
        self.loop = asyncio.get_running_loop()  # each call of get_running_loop is a system call
        self._turn = 0
        self.lanes: list[Lane] = []  # lanes for plain queries, see relay.py
        self._arrived: dict[_Key, Arrival] = {}
        self._flights: dict[_Key, Flight] = {}
        self._all: set[Flight] = set()

    def ask(
        self, query: Query, question: Question, tell: Tell | None = None
    ) -> asyncio.Future[Response]:
        """Return the future of the reply to a client's query; it may be canceled.

        ``tell`` is called for each exchange with a server that this query causes.
        """
        rules = self.rules
        proto = "tcp" if rules.force_tcp else "udp" if rules.prefer_udp else query.transport
        flags = query.flags & HEADER_FLAGS
        key = (question.folded, question.qtype, question.qclass, flags, query.edns, proto)
        flight = self._flights.get(key)
        if flight is None or len(flight.waiters) >= MAX_WAITERS:
            flight = Flight(self, key, question, tell)
            self._all.add(flight)
            if question.qtype != rr.HINFO:  # each probe of `loop` must be sent
                self._flights[key] = flight
            future = flight.join(question.qname)
            arrival = self._arrived.pop(key, None)
            if arrival is not None and arrival.at > time.monotonic() - STALE_S:
                flight.arrive(arrival)
            elif not self._is_relayed(question, key):
                flight.begin()
            return future
        self.joined += 1
        return flight.join(question.qname)

    @property
    def relayed(self) -> int:
        """The number of queries under way in the relay."""
        return sum(lane.busy for lane in self.lanes)

    def _is_relayed(self, question: Question, key: _Key) -> bool:
        """Tell whether the relay has an equal query under way; if so, request its reply."""
        *_, flags, edns, proto = key
        if proto != "udp" or not self.lanes:
            return False
        asked = question.folded_wire
        sent = flags.to_bytes(2, "big") + (message.write_opt(edns) if edns else b"")
        for lane in self.lanes:
            if lane.under_way.get(asked) == sent:
                lane.under_way[asked] = True
                return True
        return False

    def arrive(self, query: Query, question: Question, flags: int, arrival: Arrival) -> None:
        """Take the result of a relayed query that is handed over to the chain.

        Queries that joined it get the result at once; the query itself comes through the chain.
        """
        flags &= HEADER_FLAGS
        key = (question.folded, question.qtype, question.qclass, flags, query.edns, "udp")
        if len(self._arrived) >= MAX_ARRIVED:  # they are taken in the same turn of the loop
            self._arrived.clear()
        flight = self._flights.get(key)
        if flight is not None and not flight.has_begun:
            flight.arrive(arrival)
        if self._flights.get(key) is None:  # else the query joins that flight
            self._arrived[key] = arrival

    def turns(self, upstreams: Sequence[Upstream]) -> Round:
        """Return the round of a new query."""
        rules = self.rules
        paces = [upstream.pace for upstream in upstreams] if rules.policy == FASTEST else ()
        self._turn += 1
        return Round(
            order(rules.policy, len(upstreams), self._turn, self.random, paces),
            max_fails=rules.max_fails,
            fails_fast=rules.fails_fast,
            rng=self.random,
        )

    def landed(self, flight: Flight) -> None:
        """Forget a flight: the next equal query starts a new one."""
        self._all.discard(flight)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def close(self) -> None:
        """End every flight."""
        for flight in [*self._all]:
            flight.abandon("plugin/forward: stopping")


class Flight:
    """One question on its way to the servers."""

    __slots__ = (
        "_attempts", "_deadline", "_error", "_exchange", "_hedge", "_is_over", "_lame", "_last",
        "_loop", "_out", "_pool", "_question", "_tell", "_turns", "_upstreams", "key", "waiters",
    )  # fmt: skip

    def __init__(self, pool: Pool, key: _Key, question: Question, tell: Tell | None = None) -> None:
        self.key = key
        self._tell = tell
        self.waiters: list[tuple[asyncio.Future[Response], bytes]] = []
        self._pool = pool
        self._question = question
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
        self._lame: list[Upstream] = []  # their failure led to another server
        self._out = 0  # exchanges under way
        self._hedge: asyncio.TimerHandle | None = None
        self._is_over = False

    def join(self, qname: bytes) -> asyncio.Future[Response]:
        """Return the future of one more client, which spells the name as ``qname``."""
        future: asyncio.Future[Response] = self._loop.create_future()
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
        self._send(upstream, self.key[5], left_s)
        if self._pool.rules.policy == FASTEST:
            if is_first and self._pool.random.random() < EXPLORE:
                self._explore(upstream, left_s)
            self._plan_hedge(upstream)

    def abandon(self, why: str) -> None:
        """End without a reply."""
        self._error, self._last = why, None
        self._give_up()

    def _send(self, upstream: Upstream, proto: str, left_s: float) -> None:
        exchange = self._exchange
        if exchange is None:
            exchange = self._exchange = upstream.begin(self._question, self.key[3], self.key[4])
        else:
            exchange = self._exchange = upstream.repeat(exchange)
        began, local, tell = time.monotonic(), list[tuple[str, int]](), self._tell

        def done(found: Reply | UpstreamError) -> None:
            seconds = time.monotonic() - began
            if tell is not None:
                ours = local[-1] if local else None
                tell(Attempt(upstream, proto, ours, exchange.packet, found, began, seconds))
            self._done(upstream, proto, found, seconds)

        self._out += 1
        hear = None if tell is None else local.append
        upstream.send(exchange, proto, done, timeout_s=left_s, hear=hear)

    def _done(
        self, upstream: Upstream, proto: str, found: Reply | UpstreamError, seconds: float
    ) -> None:
        """Take the result of an exchange."""
        self._out -= 1
        if isinstance(found, Reply):
            self._replied(upstream, proto, found, seconds)
        elif isinstance(found, Mismatch):
            self._last = Response(rr.FORMERR, flags=0, lifetime_s=0)
            if not self._out:
                self._give_up()
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
        if reply.flags & message.TC and proto == "udp" and rules.prefer_udp and left_s > 0:
            self._send(upstream, "tcp", left_s)
            return
        response = response_of(reply)._replace(source=upstream.text)
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
            self._send(self._pool.random.choice(others), self.key[5], left_s)

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
        failed = failure(rr.SERVFAIL, self._error)._replace(unanswered=True)
        self._land(self._last or failed)

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
        asked = self._question.qname
        for future, qname in self.waiters:
            if not future.done():
                future.set_result(response if qname == asked else _spelled(response, asked, qname))
        self.waiters.clear()


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
