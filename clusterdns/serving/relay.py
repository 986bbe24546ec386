"""The relay in C for plain queries: which queries it may take, and those it hands over.

Most misses are alike: queries over UDP for names outside our zones, whose upstream reply is passed
on. ``_relay.c`` does that. Each zone of a server block whose chain would do only that
(``Plugin.relay``) gets a ``Lane`` with all that the C side needs. What C hands over - another form
of reply, no reply, an error, a second client with the same question - continues through the chain,
with the result so far (``Pool.arrive``).

Replies are counted when metrics are collected: the C side only adds up equal ones. It appends a
record of a reply to ``_told`` if an observer, such as `log`, wants to be told of its class; records
are reported together, 20 ms later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from clusterdns.caching.fresh import Fresh
from clusterdns.caching.options import DENIAL, SUCCESS
from clusterdns.chain.route import Forwarded, Route
from clusterdns.chain.view import Router, View
from clusterdns.errors import UpstreamError
from clusterdns.forwarding.exchange import Asked, Exchange, Mismatch
from clusterdns.forwarding.flight import Arrival, Pool
from clusterdns.forwarding.outside import Outside
from clusterdns.forwarding.upstream import Upstream
from clusterdns.host.interfaces import sockaddr
from clusterdns.metrics.tally import Profile, type_label
from clusterdns.observing.collector import RELAY
from clusterdns.serving import native, packetloop
from clusterdns.serving.observed import MANY, MANY_REPLIES, TELL_S
from clusterdns.serving.server import Listener
from clusterdns.serving.udp import Engine
from clusterdns.wire import reading, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.reading import Reply

if TYPE_CHECKING:
    from clusterdns.chain.route import Relayed
    from clusterdns.serving._drain import HandedOver, Lane, Part, Zone

MAX_TICK_S = 0.25  # between checks for expired queries and for servers up or down
TICKS = 10  # within the time limit of a reply
MAX_COUNTS = 4096  # then they are added up
MAX_UPSTREAMS = 65_535  # in the life of a worker: numbers have 16 bits
_MOST = 1 << 20  # queries under way without a limit: more than the C side takes
_POLICIES = {"sequential": 0, "round_robin": 1, "random": 2}
_COUNT = struct.Struct("=iHHHHHBBBBxx")  # struct count
# Expired queries are taken over a few at a time: each is asked again, and others have their turn.
_EXPIRED, _PAUSE_S = 16, 0.005
_MISMATCH = struct.Struct("=H")
_NOBODY = 65_535  # the server of a refused query
_log = logging.getLogger(__name__)


class _Track:
    """A lane, and the listener, view and zone of its queries."""

    def __init__(self, lane: Lane, server: Listener, view: View, route: Route) -> None:
        assert route.forwarded is not None
        self.lane = lane
        self.server = server
        self.view = view
        self.cached = route.cached
        self.passed = route.passed
        self.observers = tuple(route.observers)
        self.forwarded: Forwarded = route.forwarded
        self.pool = _pool_of(route.forwarded)
        self.zone = view.zone_label(route.zone)


class Relay:
    """The lanes of one worker."""

    def __init__(self, servers: Iterable[Listener], engines: Iterable[Engine]) -> None:
        self._servers = list(servers)
        self._engines = {each.number: each for each in engines}
        self._tracks: list[_Track] = []
        self._upstreams: list[Upstream] = []  # by number
        self._targets: dict[Upstream, bytes] = {}
        self._fresh: list[Fresh] = []
        self._left: list[HandedOver] = []  # handed over while the loop waited
        self._expired: deque[HandedOver] = deque()
        self._told: list[tuple[Lane, *Relayed]] = []  # appended by C
        self._telling: asyncio.TimerHandle | None = None
        self._untold = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tick_s = MAX_TICK_S

    def start(self) -> None:
        """Open the lanes, if C was compiled and a chain can be relayed."""
        if native.compiled is None:
            return
        for server in self._servers:
            zones = self._zones(server)
            for each in self._engines.values():
                if each.server is server:
                    each.zones = zones
        if self._tracks:
            loop = asyncio.get_running_loop()
            number = native.compiled.open()
            packetloop.register_in_c(number, self._collect, (self._left,), self._collect)
            patience_s = min(track.lane.patience for track in self._tracks)
            self._tick_s = min(patience_s / TICKS, MAX_TICK_S)
            self._timer = loop.call_later(self._tick_s, self._tick)

    @property
    def busy(self) -> int:
        """The number of queries under way."""
        return sum(track.lane.busy for track in self._tracks) + len(self._expired)

    async def finish(self, timeout_s: float) -> None:
        """Return when no query is under way, or after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110 - at the end only
            await asyncio.sleep(0.02)
        if self._timer is not None:
            self._timer.cancel()
        self._tell()

    # ---- lanes

    def _zones(self, server: Listener) -> dict[bytes, Zone]:
        """Return the lane of each zone of a listener; None for zones that take the chain."""
        router, found = server.router, dict[bytes, "Zone"]()
        if router.cookies is not None and router.cookies.sees_all:
            return found
        claimed: list[tuple[WireName, View]] = []
        parts: list[tuple[WireName, View, Part | None]] = []
        for zone, views in router.views.items():
            is_alone = len(views) == 1 and views[0].filter is None
            route = _route_of(views[0], zone) if is_alone else None
            found[zone] = None
            limits = views[0].limits if is_alone else None
            if route is not None:
                lane = self._open(server, views[0], route)
                found[zone] = _part(lane, route, zone) if zone in route.parts else lane
                parts += [(each, views[0], _part(lane, route, each)) for each in route.parts]
                claimed += [(each, views[0]) for each in route.claimed]
            elif limits is not None:  # C refuses queries over the limit, the chain takes others
                found[zone] = limits.buckets
                claimed += [(each, views[0]) for each in limits.free]
        for zone, view in claimed:
            if _view_of(router, zone) is view:
                found.setdefault(zone, None)
        for zone, view, part in parts:
            if _view_of(router, zone) is view:
                found.setdefault(zone, part)
        if router.limits:
            found[b""] = None  # C looks for limits
        return found

    def _open(self, server: Listener, view: View, route: Route) -> Lane:
        """Return a new lane."""
        assert native.compiled is not None
        assert route.forwarded is not None
        pool, cached = _pool_of(route.forwarded), route.cached
        under_way = pool.under_way
        known = cached.known if cached else ()
        lane: Lane = native.compiled.Lane(len(self._tracks), known, under_way, [], {})
        lane.patience = route.forwarded.patience_s
        lane.policy = _POLICIES[pool.rules.policy]
        lane.shuffles = route.shuffles
        lane.most_octets, lane.own_octets = view.most_octets, pool.octets
        lane.starts = route.starts
        lane.left = _octets_of(route.left)
        lane.is_minimal = route.is_minimal
        lane.limits = None if route.limits is None else route.limits.buckets
        lane.guarded = tuple(route.guarded)
        lane.held = tuple(each for pair in route.held for each in pair)
        lane.addresses = tuple(route.addresses)
        if cached is not None:
            lane.is_cached, lane.stale = True, cached.stale_s
            success, denial = cached.limits[SUCCESS], cached.limits[DENIAL]
            lane.success_least, lane.success_most = success.min_ttl, success.max_ttl
            lane.denial_least, lane.denial_most = denial.min_ttl, denial.max_ttl
            lane.failure = int(cached.failure_s)
            lane.success = cached.fresh[SUCCESS].young if cached.keeps[SUCCESS] else None
            lane.denial = cached.fresh[DENIAL].young if cached.keeps[DENIAL] else None
            self._fresh += [each for each in cached.fresh.values() if each not in self._fresh]
        if route.observers:
            lane.told, lane.wants = self._told, route.observed_classes
            lane.tells_replies = any(each.wants_replies for each in route.observers)
            lane.tells_exchanges = any(each.wants_exchanges for each in route.observers)
            lane.many = MANY_REPLIES if lane.tells_replies else MANY
        if server.collector is not None:
            lane.sampler = server.collector.sampler(server.tally.server, "udp", RELAY).parts
        track = _Track(lane, server, view, route)
        self._tracks.append(track)
        pool.lanes.append(lane)
        outside = view.block.shared(Outside)
        outside.add_relayed(under_way)
        outside.refresh_relay = self._refresh_all
        self._refresh(track)
        return lane

    def _refresh_all(self) -> None:
        for track in self._tracks:
            self._refresh(track)

    def _refresh(self, track: _Track) -> None:
        """Set the servers of a lane that are up, and its limit of queries under way."""
        pool, lane = track.pool, track.lane
        room = track.forwarded.room()
        others = pool.relayed - lane.busy
        lane.most = max(0, min((room or 0) - others, _MOST))
        lane.refuses = False  # the chain refuses and logs the first of each tick
        most = pool.rules.max_fails
        healthy = [each for each in pool.upstreams if not most or each.fails <= most]
        # Who knows no EDNS is asked by the chain, and so are those who share a policy with it.
        speak = all(each.knows_edns for each in healthy)
        targets = [self._target(each) for each in healthy] if speak else []
        if targets != lane.targets:
            lane.targets[:] = targets

    def _target(self, upstream: Upstream) -> bytes:
        """Return a server in the form of the C side: struct target."""
        found = self._targets.get(upstream)
        if found is None:
            number = len(self._upstreams)
            if number >= MAX_UPSTREAMS:
                return b""  # the chain asks it
            self._upstreams.append(upstream)
            to = sockaddr(upstream.host, upstream.port)
            source = upstream.source or ("::" if ":" in upstream.host else "0.0.0.0")
            found = struct.pack("!Hxx", number) + to + sockaddr(source, 0)
            self._targets[upstream] = found
        return found

    # ---- replies

    def _collect(self) -> None:
        """Pass on the replies received."""
        assert native.compiled is not None
        left = self._left + native.compiled.collect(time.monotonic())
        self._left.clear()
        if left:
            self._take_over(left)
        if self._told:
            self._see_to_told()
        self._bound_fresh()

    def _bound_fresh(self) -> None:
        """Start a new generation of kept replies where the young one is full."""
        for track in self._tracks:
            if track.cached is not None:
                lane, fresh = track.lane, track.cached.fresh
                fresh[SUCCESS].octets += lane.success_octets
                fresh[DENIAL].octets += lane.denial_octets
                lane.success_octets = lane.denial_octets = 0
        for each in self._fresh:
            if each.is_full:
                each.age()

    def _tick(self) -> None:
        """Take over expired queries, and refresh the lanes."""
        assert native.compiled is not None
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        is_idle = not self._expired
        self._expired += native.compiled.expire(time.monotonic())
        if is_idle:
            self._take_over_expired()
        self._refresh_all()
        for track in self._tracks:
            if len(track.lane.counts) > MAX_COUNTS:
                self._add_up(track)

    def _take_over_expired(self) -> None:
        some = [self._expired.popleft() for _ in range(min(_EXPIRED, len(self._expired)))]
        self._take_over(some)
        if self._expired:
            asyncio.get_running_loop().call_later(_PAUSE_S, self._take_over_expired)

    def _take_over(self, left: list[HandedOver]) -> None:
        """Continue queries in the chain, with their results so far."""
        for lane, packet, client, source, listener, server, seconds, octets, error, ours in left:
            if listener in self._engines:  # first: joined queries find its reply cached
                self._engines[listener].take((packet, client, source), seconds)
            query, upstream = reading.read_query(packet), self._upstreams[server]
            if isinstance(query, Query) and query.question is not None:
                track = self._tracks[lane.number]
                asked = track.pool.asked(query, query.question)
                found = _found(query.question, asked, upstream, octets, error)
                upstream.dials["misses", "udp"] += 1
                if isinstance(found, Reply):
                    upstream.took(found.rcode).observe(seconds)
                sent = Exchange.begin(query.ident, query.question, asked.flags, asked.edns).packet
                arrival = Arrival(upstream, found, seconds, time.monotonic(), sent, ours)
                track.pool.arrive(asked, arrival)

    # ---- observers

    def _see_to_told(self) -> None:
        """Report the records soon, or now if there are many."""
        if len(self._told) >= self._told[0][0].many:
            self._tell()
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        """Report the records to the observers now."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        records = self._told[:]
        self._told.clear()  # C holds this list
        untold = sum(track.lane.untold for track in self._tracks)
        if untold > self._untold:  # only if this was not called for thousands of replies
            _log.warning("%d relayed queries were not reported", untold - self._untold)
            self._untold = untold
        servers = [(each.host, each.port) for each in self._upstreams]
        for lane, some in groupby(records, lambda record: record[0]):
            same = [record[1:] for record in some]
            for observer in self._tracks[lane.number].observers:
                try:
                    observer.passed(same, servers)
                except Exception:  # a bug in an observer shall cost no reply
                    _log.exception("plugin/%s: cannot tell of queries", observer.name)

    # ---- counts

    def add_up(self) -> None:
        """Count relayed replies as the chain would have."""
        for track in self._tracks:
            self._add_up(track)

    def _add_up(self, track: _Track) -> None:
        counts = [*track.lane.counts.items()]
        track.lane.counts.clear()
        for octets, (times, seconds) in counts:
            if len(octets) == _MISMATCH.size:
                self._upstreams[_MISMATCH.unpack(octets)[0]].datagrams.mismatches += times
                continue
            listener, _, server, rtype, size, reply, rcode, has_opt, bucket, do = _COUNT.unpack(
                octets
            )
            for told in track.passed:
                told(times)
            if track.cached is not None:
                track.cached.misses += times
            is_refused, writer = server == _NOBODY, ""
            if is_refused:
                track.forwarded.refuse(times)
            else:
                upstream, writer = self._upstreams[server], track.view.writer
                upstream.dials["misses", "udp"] += times
                upstream.took(rcode).add(bucket, times, seconds)
            view, tally = track.view, track.server.tally
            if not view.is_measured or listener not in self._engines:
                continue
            profile = Profile(
                track.zone, view.block.view, type_label(rr.type_text(rtype)),
                rr.rcode_text(rcode), writer, bool(do), size, reply,
            )  # fmt: skip
            tally.once(profile, self._engines[listener].hits, bool(has_opt), times)
            tally.took(track.zone, view.block.view, times).add(bucket, times, seconds)


def _route_of(view: View, zone: WireName) -> Route | None:
    """Return the route of a zone, None if a plugin needs its queries or none forwards."""
    route = Route(zone)
    for plugin in view.chain:
        if not plugin.relay(route) or route.is_claimed:
            return None
        if route.forwarded is not None:
            return route
    return None


def _part(lane: Lane, route: Route, zone: WireName) -> Part | None:
    """Return what takes the queries for names in a zone that do not exist there, None for none."""
    passing = route.part_of(zone)
    if passing is None:
        return None
    return lane, passing.there, passing.spared, _octets_of(passing.types)


def _octets_of(types: Iterable[int]) -> bytes:
    return b"".join(rtype.to_bytes(2, "big") for rtype in types)


def _view_of(router: Router, zone: WireName) -> View | None:
    return router.choose(Question(zone, zone, rr.A)).view


def _found(
    question: Question, asked: Asked, upstream: Upstream, octets: bytes | None, error: int
) -> Reply | UpstreamError:
    """Return the result of a query: a reply or an error."""
    if octets is not None:
        ident = int.from_bytes(octets[:2], "big")
        exchange = Exchange.begin(ident, question, asked.flags, asked.edns)
        reply = exchange.read(octets)
        if reply is not None and exchange.accepts(reply):
            return reply
    if octets is not None or error < 0:
        return Mismatch(f"udp {upstream.text}: only replies to other questions")
    return upstream.failed(OSError(error, os.strerror(error)))


def _pool_of(forwarded: Forwarded) -> Pool:
    """Return the pool of a route, which has it as an opaque object."""
    assert isinstance(forwarded.pool, Pool)
    return forwarded.pool
