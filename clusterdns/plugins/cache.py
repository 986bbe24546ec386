"""cache - keep the replies of the plugins behind for as long as their TTLs say.

Syntax:

    cache [TTL] [ZONES...] {
        success CAPACITY [TTL [MINTTL]]
        denial CAPACITY [TTL [MINTTL]]
        servfail DURATION
        disable success|denial [ZONES...]
        keepttl
        prefetch AMOUNT [DURATION [PERCENTAGE%]]
        serve_stale [DURATION [immediate [RESPTTL [RECHECK]]]]
        serve_stale DURATION verify [TIMEOUT [RESPTTL [RECHECK]]]
        serve_stale_policy prefer_positive
    }

TTL is the longest time in seconds that a reply is kept, by default 3600 for success and 1800 for
denial; MINTTL, by default 5, is the shortest. All records of a reply get the smallest TTL among
them, and of a denial the MINIMUM of its SOA if that is less, within these bounds. CAPACITY is the
number of replies kept, 9984 by default. `servfail` keeps SERVFAIL for DURATION, 5s by default.
`keepttl` answers with the original TTL instead of the remaining one.

`prefetch` refreshes a reply when PERCENTAGE (10% by default) of its TTL is left, if it was asked
for AMOUNT times without a pause longer than DURATION (1m by default). `serve_stale` answers with an
expired reply for DURATION (1h by default): at once, with a refresh in the background (`immediate`,
the default), or only if the refresh does not end within TIMEOUT (`verify`). Stale records have the
TTL RESPTTL, 0s by default. After a failed refresh none is tried for RECHECK. With `prefer_positive`
a denial never replaces a stale answer that may still be served.

Examples:

    . {
        cache 30 {
            success 9984 30
            denial 9984 5
            disable success cluster.local
            prefetch 2 1m 20%
            serve_stale 1h verify 500ms 30s 5s
        }
        whoami
    }

Differences from CoreDNS: answers that plugins give from memory (`kubernetes`, `file`) are not
cached, because the plugin costs no more and is never stale. Their TTLs are bounded all the same.
The least recently used of the replies asked for once makes room for a new one, where CoreDNS drops
a random one; all replies together take 2 KiB of memory each at most on average, so CAPACITY large
ones are not kept. Owner names are spelled as the current query spells the question. A client that
sends OPT is told of a stale answer by an Extended DNS Error, 3 or, for NXDOMAIN, 19 (RFC 8914). A
reply that has been verified takes the place of a stale denial. SERVFAIL is never served once it has
ended, and takes the place of no denial that holds. Where no upstream server answers, that is kept
for one second at first, then for twice as long each time, up to `servfail`; nothing else that
produced no message is kept. A reply is not refreshed in its first second, and at most 1024 are at a
time; a query for one that has ended meanwhile waits for the refresh, 0.5s at most. The MINIMUM of
an SOA bounds a denial (RFC 2308), and a reply without any record is a denial of 5s within the
bounds of `denial`; CoreDNS looks at no MINIMUM, and takes such a reply for a success. Zone
transfers keep their TTLs, which CoreDNS makes 5.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from typing import ClassVar, NamedTuple

from clusterdns.caching import rules
from clusterdns.caching.counts import Counts
from clusterdns.caching.fresh import Fresh
from clusterdns.caching.kept import CacheKey, Item, Kept, key_of
from clusterdns.caching.options import DENIAL, SUCCESS, read
from clusterdns.caching.rules import bounded, spelled, stale_edns, with_ttl
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Cached, Route
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding.exchange import response_of
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, reading, rr
from clusterdns.wire.message import AA, AD, OPCODE_QUERY, RA, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response

_BY_KIND = ("server", "type", "zones", "view")
_BY_ZONES = ("server", "zones", "view")
MAX_REFRESHES = 1024  # at a time, a few kilobytes each
FIRST_FAILURE_S = 1  # RFC 9520 section 3.2: one second at the least, five minutes at the most
FAILURES_APART_S = 30  # at most between the end of one and the next that counts as the same
PATIENCE_S = 0.5  # for a refresh over TCP: the server may not speak it
_UNANSWERED = Response(rr.SERVFAIL, flags=0, unanswered=True)
_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+")
_log = plugin_logger("cache")


class _Found(NamedTuple):
    """A kept reply that may be used at ``now``; ``left`` seconds of its TTL, <= 0 if stale."""

    cache_type: str
    key: CacheKey
    item: Item
    now: float
    left: int


class _Renewed(NamedTuple):
    """What a refresh has brought: the response, and the item it became, if any."""

    response: Response
    item: Item | None


class Cache(Plugin):
    """Keeps replies that had to be waited for."""

    families: ClassVar = {
        "cache_entries": Family("The number of elements in the cache.", _BY_KIND, is_gauge=True),
        "cache_requests_total": Family("The count of cache requests.", _BY_ZONES),
        "cache_hits_total": Family("The count of cache hits.", _BY_KIND),
        "cache_misses_total": Family(
            "The count of cache misses. Deprecated, derive misses from cache hits/requests "
            "counters.",
            _BY_ZONES,
        ),
        "cache_prefetch_total": Family(
            "The number of times the cache has prefetched a cached item.", _BY_ZONES
        ),
        "cache_drops_total": Family(
            "The number responses that are not cached, because the reply is malformed.", _BY_ZONES
        ),
        "cache_served_stale_total": Family(
            "The number of requests served from stale cache entries.", _BY_ZONES
        ),
        "cache_evictions_total": Family("The count of cache evictions.", _BY_KIND),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._options = options = read(directive, block.zones)
        first = directive.args[0] if directive.args else ""
        if _DURATION.fullmatch(first):
            _log.warning(
                "%s:%d: %r is taken for a zone; a TTL is a number of seconds without a unit",
                directive.file, directive.line, first,
            )  # fmt: skip
        self._zones, self._is_everywhere = options.zones, ROOT in options.zones
        stale_s = math.inf if options.prefers_positive else options.stale.up_to_s
        self._kept = {k: Kept(limits.capacity, stale_s) for k, limits in options.limits.items()}
        self._fresh = {k: Fresh(limits.capacity) for k, limits in options.limits.items()}
        self._relayed: list[Cached] = []
        self._refreshes: dict[CacheKey, asyncio.Task[_Renewed | None]] = {}
        self._worker: Worker | None = None
        self._counts = Counts(",".join(name.text(zone) for zone in self._zones))

    async def start(self, worker: Worker) -> None:
        """Take the clock that ages are measured by."""
        self._worker = worker
        self._counts.label(self._block.server, self._block.view)

    async def stop(self) -> None:
        """Give up the refreshes under way."""
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind know from memory, its TTLs bounded, or a kept reply.

        A kept reply that has to be refreshed is left to ``handle``, which can ask for it.
        """
        response = next(question)
        if response is not None and (response.bare or response is DROP):
            return response
        if not self._is_mine(question):
            return response
        if response is None:
            found = self._find(question)
            return None if found is None or self._is_due(found) else self._hit(question, found)
        self._counts.add("requests")
        self._counts.add("misses")
        outcome = rules.outcome(question, response, OPCODE_QUERY)
        found_here = bounded(response, rules.ttl_of(outcome, response, self._options))
        moves = self._counts.moves("requests", "misses")
        return found_here._replace(counters=(*found_here.counters, *moves))

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether TTLs are bounded for all names below ``cut``, or for none."""
        return not any(name.is_within(zone, cut) for zone in self._zones)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return a kept reply, or wait for one and keep it."""
        question = query.question
        if question is None or query.opcode != OPCODE_QUERY or not self._is_mine(question):
            return await next(query)
        if question.qtype in (rr.AXFR, rr.IXFR):
            return await next(query)  # a secondary server has to see the zone's own TTLs
        found = self._find(question)
        if found is None:
            response = await self._miss(query, question, next)
        elif not self._is_due(found):
            response = self._hit(question, found)
        elif found.left <= 0 and self._options.stale.verifies:
            response = await self._verify(query, question, found, next)
        else:
            self._counts.add("prefetch")
            self._refresh(query, question, found, next)
            response = self._hit(question, found)
        if not question.do and not query.flags & AD:
            response = response._replace(flags=response.flags & ~AD)
        return response

    def _is_mine(self, question: Question) -> bool:
        return self._is_everywhere or name.is_within_any(question.folded, self._zones)

    def _now(self) -> float:
        return self._worker.now() if self._worker else 0.0

    # ---- what is kept

    def _find(self, question: Question) -> _Found | None:
        """Return the kept reply to a question; a denial first, but SERVFAIL gives way."""
        key, now = key_of(question), self._now()
        if self._relayed:
            self._adopt(question, key)
        up_to_s = self._options.stale.up_to_s
        cache_type, item = SUCCESS, self._kept[SUCCESS].get(key)
        if up_to_s and self._options.prefers_positive and item is not None:
            good = item if item.answers else item.good
            if good is not None and good.is_usable(now, up_to_s):
                return _Found(cache_type, key, good, now, good.left(now))
        if item is not None and not item.is_usable(now, up_to_s):
            item = None
        denial = self._denial(key, now)
        if denial is not None and (item is None or denial.response.rcode != rr.SERVFAIL):
            cache_type, item = DENIAL, denial
        return None if item is None else _Found(cache_type, key, item, now, item.left(now))

    def _denial(self, key: CacheKey, now: float) -> Item | None:
        """Return the denial kept for a key, if it may be used: a failure not once it has ended."""
        denial = self._kept[DENIAL].get(key)
        if denial is None:
            return None
        is_failure = denial.response.rcode == rr.SERVFAIL
        stale_s = 0.0 if is_failure else self._options.stale.up_to_s
        return denial if denial.is_usable(now, stale_s) else None

    def _hit(self, question: Question, found: _Found) -> Response:
        """Return a kept reply to a question, and count it."""
        self._counts.add("requests")
        self._counts.add("hits", found.cache_type)
        prefetch, item = self._options.prefetch, found.item
        age = found.now - item.stored_at
        unseen_s = math.floor(age) + 1 - age  # then the TTL is one less
        if found.left <= 0:
            self._counts.add("served_stale")
            unseen_s = 0.0
        elif prefetch.amount:
            # Each look-up has to be seen until there are enough of them; then one a second will do.
            if item.sights_with(found.now, prefetch.window_s) < prefetch.amount:
                unseen_s = 0.0
            item.see(found.now, prefetch.window_s, unseen_s)
        return self._reply(question, found, unseen_s)

    def _reply(self, question: Question, found: _Found, lifetime_s: float) -> Response:
        """Return what is kept as a response that may be repeated for ``lifetime_s``."""
        item, stale_ttl, edns = found.item, self._options.stale.ttl, None
        ttl = item.ttl if self._options.keeps_ttl else max(found.left, 0)
        if found.left <= 0:
            ttl = stale_ttl or ttl
            edns = stale_edns(item.response.rcode)
        rcode, flags, answer, authority, additional = item.response[:5]
        is_of_one_name = all(
            r.rtype in (rr.A, rr.AAAA) and r.owner.lower() == question.folded for r in answer
        )
        return Response(
            rcode,
            flags & (AA | RA | AD),
            spelled(question, answer, ttl),
            with_ttl(authority, ttl),
            with_ttl(additional, ttl),
            edns=edns,
            lifetime_s=lifetime_s,
            counters=self._counts.moves("requests", "hits", found.cache_type),
            follows_case=is_of_one_name and not authority and not additional,
        )

    async def _miss(self, query: Query, question: Question, next: HandleNext) -> Response:
        """Return the reply of the plugins behind, and keep it."""
        under_way = self._refreshes.get(key_of(question))
        if under_way is not None:
            await asyncio.wait((under_way,), timeout=PATIENCE_S)
            found = self._find(question)
            if found is not None and found.left > 0:
                return self._hit(question, found)
        self._counts.add("requests")
        self._counts.add("misses")
        asked = query.asking(question)
        asked.flags |= AD  # so that the upstream says whether it has validated
        response = await next(asked)
        if response.unanswered:
            self._keep_failure(question)
        if response.bare or response is DROP:
            return response
        return self._take(question, response, query.opcode).response

    def _keep_failure(self, question: Question) -> None:
        """Keep that nobody answered: a second at first, twice as long each time it comes again.

        The longest time is that of `servfail`. A denial that still holds stays.
        """
        if self._is_disabled(DENIAL, question):
            return
        key, now = key_of(question), self._now()
        last, ttl = self._kept[DENIAL].get(key), FIRST_FAILURE_S
        if last is not None:
            if last.response.rcode != rr.SERVFAIL and last.left(now) > 0:
                return
            if last.response.unanswered and now - last.stored_at <= last.ttl + FAILURES_APART_S:
                ttl = 2 * last.ttl
        ttl = min(ttl, int(self._options.servfail_s))
        if ttl > 0:
            self._put(DENIAL, key, Item(_UNANSWERED, now, ttl))

    def _take(
        self, question: Question, response: Response, opcode: int, *, renews: bool = False
    ) -> _Renewed:
        """Return a reply with its TTLs bounded, and keep it if it may be kept."""
        outcome = rules.outcome(question, response, opcode)
        ttl = rules.ttl_of(outcome, response, self._options)
        response = bounded(response, ttl)
        cache_type = rules.kept_as(outcome, question, response)
        if response.lifetime_s == math.inf or response.facts:
            cache_type = None  # from memory, and never stale
        # A refresh that denies what is kept takes its place even where denials are not to be kept:
        # else what is gone would be served for as long as stale replies are (seen on CoreDNS).
        if (
            cache_type is None
            or ttl <= 0
            or (not renews and self._is_disabled(cache_type, question))
        ):
            return _Renewed(response, None)
        key, prefers_positive = key_of(question), self._options.prefers_positive
        answers = not prefers_positive or rules.is_answer(question, response)
        item = Item(response, self._now(), ttl, answers=answers)
        if cache_type == SUCCESS:
            if prefers_positive and not item.answers:
                previous = self._kept[SUCCESS].get(key)
                if previous is not None:
                    item.keep_good(previous)
            if item.answers if prefers_positive else renews:
                self._kept[DENIAL].remove(key)
        self._put(cache_type, key, item)
        return _Renewed(response, item)

    def _put(self, cache_type: str, key: CacheKey, item: Item) -> None:
        self._counts.add("evictions", cache_type, self._kept[cache_type].put(key, item))

    def _is_disabled(self, cache_type: str, question: Question) -> bool:
        zones = self._options.limits[cache_type].disabled
        return bool(zones) and name.is_within_any(question.folded, zones)

    # ---- refreshes

    def _is_due(self, found: _Found) -> bool:
        """Tell whether the plugins behind shall be asked for what is kept (CoreDNS: handler.go)."""
        prefetch, stale, item = self._options.prefetch, self._options.stale, found.item
        if found.left > 0:
            # Not in its first second: else it would be asked for all the time.
            is_late = found.left < item.ttl and found.left <= prefetch.threshold(item.ttl)
            if not prefetch.amount or not is_late or not self._may_refresh(found.key):
                return False
            return item.sights_with(found.now, prefetch.window_s) >= prefetch.amount
        if stale.recheck_s and found.now < item.retry_at:
            return False
        if stale.verifies and not stale.recheck_s and found.key in self._refreshes:
            return True  # the same refresh will do for another client
        return self._may_refresh(found.key)

    def _may_refresh(self, key: CacheKey) -> bool:
        return key not in self._refreshes and len(self._refreshes) < MAX_REFRESHES

    def _refresh(
        self, query: Query, question: Question, found: _Found, next: HandleNext
    ) -> asyncio.Task[_Renewed | None]:
        """Ask the plugins behind again, as a task of its own (CoreDNS: tryPrefetch)."""
        asked = query.asking(question)
        asked.flags |= AD
        if found.left > 0 or not self._options.stale.verifies:
            asked.transport = "tcp"  # there is no client whose limit would count
        task = asyncio.get_running_loop().create_task(self._renew(asked, question, found, next))
        self._refreshes[found.key] = task
        task.add_done_callback(functools.partial(self._ended, found.key))
        return task

    def _ended(self, key: CacheKey, task: asyncio.Task[_Renewed | None]) -> None:
        del self._refreshes[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("refresh of %s failed: %r", name.text(key), error, exc_info=error)

    async def _renew(
        self, asked: Query, question: Question, found: _Found, next: HandleNext
    ) -> _Renewed | None:
        """Return what takes the place of a kept reply, or None if there is nothing better."""
        response = await next(asked)
        is_stale, options, fresh = found.left <= 0, self._options, None
        if not response.bare and response is not DROP:
            is_better = rules.is_better(question, response, asked.opcode, options)
            if is_better or not is_stale:
                fresh = self._take(question, response, asked.opcode, renews=True)
            elif options.prefers_positive:
                self._take(question, response, asked.opcode, renews=True)
        has_failed = is_stale and fresh is None and options.stale.recheck_s
        found.item.retry_at = self._now() + options.stale.recheck_s if has_failed else -math.inf
        if (
            fresh is not None
            and fresh.item is not None
            and not (is_stale and options.stale.verifies)
        ):
            fresh.item.inherit(found.item, found.now + min(found.left, 0))
        return fresh

    async def _verify(
        self, query: Query, question: Question, found: _Found, next: HandleNext
    ) -> Response:
        """Return what a refresh brings in time, else the stale reply."""
        task = self._refreshes.get(found.key)
        is_other = task is not None  # of another client: its reply has that client's flags
        if task is None:
            task = self._refresh(query, question, found, next)
        timeout_s = self._options.stale.timeout_s or None
        await asyncio.wait((task,), timeout=timeout_s)
        fresh = task.result() if task.done() and not task.cancelled() else None
        if fresh is None:
            return self._hit(question, found)
        self._counts.add("requests")
        self._counts.add("hits", found.cache_type)
        if fresh.item is None or not (timeout_s or is_other):
            return fresh.response
        now = self._now()
        renewed = found._replace(item=fresh.item, now=now, left=fresh.item.left(now))
        return self._reply(question, renewed, 0.0)

    # ---- queries that do not come by here

    def relay(self, route: Route) -> bool:
        """Enter what is known, and where replies are to be kept until they are asked for again."""
        if not name.is_within_any(route.zone, self._zones):
            return not any(name.is_within(zone, route.zone) for zone in self._zones)
        route.cached = Cached(route, self._options, self._kept, self._fresh)
        self._relayed.append(route.cached)
        return True

    def _adopt(self, question: Question, key: CacheKey) -> None:
        """Keep as items what came for a question while the chain did not look."""
        for cache_type, fresh in self._fresh.items():
            raw = fresh.take(key)
            if raw is not None:
                response = response_of(reading.read_reply(raw.octets))
                if (
                    rules.kept_as(rules.outcome(question, response), question, response)
                    == cache_type
                ):
                    answers = rules.is_answer(question, response)
                    self._put(
                        cache_type, key, Item(response, raw.stored_at, raw.ttl, answers=answers)
                    )

    def samples(self) -> list[Sample]:
        """Return what was asked, found, refreshed and pushed out, and how many replies are kept."""
        for cached in self._relayed:
            self._counts.add("requests", times=cached.misses)
            self._counts.add("misses", times=cached.misses)
            cached.misses = 0
        entries = dict[str, int]()
        for cache_type, fresh in self._fresh.items():
            self._counts.add("evictions", cache_type, fresh.evictions())
            entries[cache_type] = len(fresh) + len(self._kept[cache_type])
        return self._counts.samples(entries)
