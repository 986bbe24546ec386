"""cache - keep the replies of the next plugins for their TTLs.

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

Differences from CoreDNS: answers of plugins from memory (`kubernetes`, `file`) are not cached,
because asking the plugin costs no more and is never stale; their TTLs are bounded, too. Of the
replies asked for once, the least recently used one is evicted; CoreDNS evicts a random one. The
memory of all replies is bounded at 2 KiB for each of CAPACITY, so fewer large replies are kept.
Owner names have the letter case of the current question. A client with EDNS gets an Extended DNS
Error with a stale answer: 3 or, for NXDOMAIN, 19 (RFC 8914). A verified reply replaces a stale
denial. An expired SERVFAIL is never served, and SERVFAIL does not replace a denial that is still
valid. If no upstream server replies, that failure is kept for one second, and twice as long each
time it repeats, up to `servfail`; other failures without a message are not kept. A reply is not
refreshed in its first second, and at most 1024 refreshes are under way; a query for a reply that
expires in the meantime waits for the refresh, 0.5s at most. The MINIMUM of an SOA bounds a denial
(RFC 2308), and a reply without any record is a denial of 5s within the bounds of `denial`; CoreDNS
ignores MINIMUM, and treats such a reply as a success. Zone transfers keep their TTLs, which CoreDNS
sets to 5.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from typing import ClassVar

from clusterdns.caching import rules
from clusterdns.caching.counts import Counts
from clusterdns.caching.kept import CacheKey, key_of
from clusterdns.caching.options import read
from clusterdns.caching.rules import bounded, spelled, stale_edns, with_ttl
from clusterdns.caching.shelf import Found, Renewed, Shelf
from clusterdns.caching.spared import Spared
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Cached, Route
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, AD, OPCODE_QUERY, RA, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response

_BY_KIND = ("server", "type", "zones", "view")
_BY_ZONES = ("server", "zones", "view")
MAX_REFRESHES = 1024  # under way, a few kilobytes each
PATIENCE_S = 0.5  # for a refresh over TCP: the server may not speak it
_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+")
_log = plugin_logger("cache")


class Cache(Plugin):
    """Keeps replies of plugins that wait."""

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
        self._spared = block.shared(Spared)
        self._relayed: list[Cached] = []
        self._refreshes: dict[CacheKey, asyncio.Task[Renewed | None]] = {}
        self._worker: Worker | None = None
        self._counts = Counts(",".join(name.text(zone) for zone in self._zones))
        self._shelf = Shelf(options, self._counts)

    async def start(self, worker: Worker) -> None:
        """Take the clock for ages."""
        self._worker = worker
        self._counts.label(self._block.server, self._block.view)

    async def stop(self) -> None:
        """Cancel the refreshes under way."""
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin from memory with bounded TTLs, or a kept reply.

        For a kept reply that is due for a refresh it returns None: ``handle`` refreshes it.
        """
        response = next(question)
        if response is not None and (response.bare or response is DROP):
            return response
        if not self._is_mine(question):
            return response
        if response is None:
            if self._spared.spares(question.folded):
                return None
            found = self._shelf.find(question, self._now())
            return None if found is None or self._is_due(found) else self._hit(question, found)
        return self._passed(question, response)

    def _passed(self, question: Question, response: Response) -> Response:
        """Return a response that is not kept with bounded TTLs, and count it."""
        self._counts.add("requests")
        self._counts.add("misses")
        outcome = rules.outcome(question, response, OPCODE_QUERY)
        found_here = bounded(response, rules.ttl_of(outcome, response, self._options))
        moves = self._counts.moves("requests", "misses")
        return found_here.counted(moves)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why no reply is kept, for `explain`."""
        if self._spared.spares(question.folded):
            return "names of the cluster are never kept"
        if not self._is_mine(question):
            return f"it keeps replies in {trace.names_text(self._zones)} only"
        return "what is answered from memory is not kept"

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether TTLs are bounded for all names below ``cut``, or for none."""
        return not any(name.is_below(zone, cut) for zone in self._zones)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return a kept reply, or wait for one and keep it."""
        question = query.question
        if question is None or query.opcode != OPCODE_QUERY or not self._is_mine(question):
            return await next(query)
        if question.qtype in (rr.AXFR, rr.IXFR):
            return await next(query)  # a transfer keeps the TTLs of the zone
        if self._spared.spares(question.folded):
            response = await next(query)
            is_left = response.bare or response is DROP
            return response if is_left else self._passed(question, response)
        found = self._shelf.find(question, self._now())
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
        if not question.do and not query.flags & AD and response is not DROP:
            response = response._replace(flags=response.flags & ~AD)
        return response

    def _is_mine(self, question: Question) -> bool:
        if self._spared.is_in_zones(question.folded):
            return False
        return self._is_everywhere or name.is_within_any(question.folded, self._zones)

    def _now(self) -> float:
        return self._worker.now() if self._worker else 0.0

    # ---- what is kept

    def _hit(self, question: Question, found: Found) -> Response:
        """Return a kept reply to a question, and count it."""
        self._counts.add("requests")
        self._counts.add("hits", found.cache_type)
        prefetch, item = self._options.prefetch, found.item
        age = found.now - item.stored_at
        if (taker := trace.scribe()) is not None:
            left = f"{found.left} s of its TTL left" if found.left > 0 else "stale"
            kept = item.response
            note = taker.note if kept.answer and not kept.rcode else taker.blame
            what = trace.response_text(kept)
            note(f"kept as {found.cache_type} for {age:.0f} s, {left}: {what}")
        unseen_s = math.floor(age) + 1 - age  # then the TTL is one less
        if found.left <= 0:
            self._counts.add("served_stale")
            unseen_s = 0.0
        elif prefetch.amount:
            # Each lookup is counted until there are enough for `prefetch`; then one a second.
            if item.sights_with(found.now, prefetch.window_s) < prefetch.amount:
                unseen_s = 0.0
            item.see(found.now, prefetch.window_s, unseen_s)
        return self._reply(question, found, unseen_s)

    def _reply(self, question: Question, found: Found, lifetime_s: float) -> Response:
        """Return a kept reply as a response that may be repeated for ``lifetime_s``."""
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
        """Return the reply of the next plugin, and keep it."""
        if (taker := trace.scribe()) is not None:
            taker.note("no reply is kept")
        under_way = self._refreshes.get(key_of(question))
        if under_way is not None:
            await asyncio.wait((under_way,), timeout=PATIENCE_S)
            found = self._shelf.find(question, self._now())
            if found is not None and found.left > 0:
                return self._hit(question, found)
        self._counts.add("requests")
        self._counts.add("misses")
        asked = query.asking(question)
        asked.flags |= AD  # so that the upstream reports whether it has validated
        response = await next(asked)
        if response.unanswered:
            self._shelf.keep_failure(question, self._now())
        if response.bare or response.personal or response is DROP:
            return response
        return self._shelf.take(
            question, response, query.opcode, self._now(), renews=False
        ).response

    # ---- refreshes

    def _is_due(self, found: Found) -> bool:
        """Tell whether a kept reply shall be refreshed (CoreDNS: handler.go)."""
        prefetch, stale, item = self._options.prefetch, self._options.stale, found.item
        if found.left > 0:
            # Not in its first second, or it would be refreshed permanently.
            is_late = found.left < item.ttl and found.left <= prefetch.threshold(item.ttl)
            if not prefetch.amount or not is_late or not self._may_refresh(found.key):
                return False
            return item.sights_with(found.now, prefetch.window_s) >= prefetch.amount
        if stale.recheck_s and found.now < item.retry_at:
            return False
        if stale.verifies and not stale.recheck_s and found.key in self._refreshes:
            return True  # one refresh serves all clients
        return self._may_refresh(found.key)

    def _may_refresh(self, key: CacheKey) -> bool:
        return key not in self._refreshes and len(self._refreshes) < MAX_REFRESHES

    def _refresh(
        self, query: Query, question: Question, found: Found, next: HandleNext
    ) -> asyncio.Task[Renewed | None]:
        """Ask the next plugin again, in a task of its own (CoreDNS: tryPrefetch)."""
        asked = query.asking(question)
        asked.flags |= AD
        if found.left > 0 or not self._options.stale.verifies:
            asked.transport = "tcp"  # without the limit of a client
        task = asyncio.get_running_loop().create_task(self._renew(asked, question, found, next))
        self._refreshes[found.key] = task
        task.add_done_callback(functools.partial(self._ended, found.key))
        return task

    def _ended(self, key: CacheKey, task: asyncio.Task[Renewed | None]) -> None:
        del self._refreshes[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("refresh of %s failed: %r", name.text(key), error, exc_info=error)

    async def _renew(
        self, asked: Query, question: Question, found: Found, next: HandleNext
    ) -> Renewed | None:
        """Return the reply that replaces a kept one, or None if there is no better one."""
        response = await next(asked)
        is_stale, options, fresh = found.left <= 0, self._options, None
        if not (response.bare or response.personal or response is DROP):
            is_better = rules.is_better(question, response, asked.opcode, options)
            if is_better or not is_stale:
                fresh = self._shelf.take(question, response, asked.opcode, self._now(), renews=True)
            elif options.prefers_positive:
                self._shelf.take(question, response, asked.opcode, self._now(), renews=True)
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
        self, query: Query, question: Question, found: Found, next: HandleNext
    ) -> Response:
        """Return the result of a refresh if it comes in time, else the stale reply."""
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
        """Enter the kept replies, and where the relay keeps new ones."""
        if not name.is_within_any(route.zone, self._zones):
            if not any(name.is_within(zone, route.zone) for zone in self._zones):
                return True
            return route.refuse("keeps some names of the zone only, so none takes the relay in C")
        route.cached = Cached(route, self._options, self._shelf.kept, self._shelf.fresh)
        self._relayed.append(route.cached)
        self._shelf.is_relayed = True
        return True

    def samples(self) -> list[Sample]:
        """Return the counts of requests, hits, refreshes, evictions and entries."""
        for cached in self._relayed:
            self._counts.add("requests", times=cached.misses)
            self._counts.add("misses", times=cached.misses)
            cached.misses = 0
        return self._counts.samples(self._shelf.count())
