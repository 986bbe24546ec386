"""The replies that one `cache` keeps, and the lookup of a reply to a question.

(CoreDNS: plugin/cache/cache.go, handler.go)

Pure: no sockets, clock, threads or randomness; ``now`` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from clusterdns.caching import rules
from clusterdns.caching.counts import Counts
from clusterdns.caching.fresh import Fresh
from clusterdns.caching.kept import CacheKey, Item, Kept, key_of
from clusterdns.caching.options import DENIAL, SUCCESS, CacheOptions
from clusterdns.wire import name, reading, rr
from clusterdns.wire.message import Question
from clusterdns.wire.response import Response, response_of

FIRST_FAILURE_S: Final = 1  # RFC 9520 section 3.2: between one second and five minutes
FAILURES_APART_S: Final = 30  # a failure within this time of the last one's end doubles its time
_UNANSWERED: Final = Response(rr.SERVFAIL, flags=0, unanswered=True)


class Found(NamedTuple):
    """A kept reply that may be used at ``now``; ``left`` seconds of its TTL, <= 0 if stale."""

    cache_type: str
    key: CacheKey
    item: Item
    now: float
    left: int


class Renewed(NamedTuple):
    """The result of a refresh: the response, and the item it became, if any."""

    response: Response
    item: Item | None


class Shelf:
    """Successes and denials, both those asked for again and those asked for once."""

    def __init__(self, options: CacheOptions, counts: Counts) -> None:
        self._options = options
        self._counts = counts
        stale_s = math.inf if options.prefers_positive else options.stale.up_to_s
        self.kept = {k: Kept(limits.capacity, stale_s) for k, limits in options.limits.items()}
        self.is_relayed = False  # whether the relay files replies in ``fresh``
        self.fresh = {k: Fresh(limits.capacity) for k, limits in options.limits.items()}

    def find(self, question: Question, now: float) -> Found | None:
        """Return the kept reply to a question: a denial, else a success, else SERVFAIL."""
        key = key_of(question)
        if self.is_relayed:
            self._adopt(question, key)
        up_to_s = self._options.stale.up_to_s
        cache_type, item = SUCCESS, self.kept[SUCCESS].get(key)
        if up_to_s and self._options.prefers_positive and item is not None:
            good = item if item.answers else item.good
            if good is not None and good.is_usable(now, up_to_s):
                return Found(cache_type, key, good, now, good.left(now))
        if item is not None and not item.is_usable(now, up_to_s):
            item = None
        denial = self._denial(key, now)
        if denial is not None and (item is None or denial.response.rcode != rr.SERVFAIL):
            cache_type, item = DENIAL, denial
        return None if item is None else Found(cache_type, key, item, now, item.left(now))

    def _denial(self, key: CacheKey, now: float) -> Item | None:
        """Return the usable denial of a key; a failure is never used stale."""
        denial = self.kept[DENIAL].get(key)
        if denial is None:
            return None
        is_failure = denial.response.rcode == rr.SERVFAIL
        stale_s = 0.0 if is_failure else self._options.stale.up_to_s
        return denial if denial.is_usable(now, stale_s) else None

    def keep_failure(self, question: Question, now: float) -> None:
        """Keep a failure without reply: for a second at first, doubled each time it repeats.

        The longest time is that of `servfail`. A denial whose TTL lasts is not replaced.
        """
        if self._is_disabled(DENIAL, question):
            return
        key = key_of(question)
        last, ttl = self.kept[DENIAL].get(key), FIRST_FAILURE_S
        if last is not None:
            if last.response.rcode != rr.SERVFAIL and last.left(now) > 0:
                return
            if last.response.unanswered and now - last.stored_at <= last.ttl + FAILURES_APART_S:
                ttl = 2 * last.ttl
        ttl = min(ttl, int(self._options.servfail_s))
        if ttl > 0:
            self._put(DENIAL, key, Item(_UNANSWERED, now, ttl))

    def take(
        self,
        question: Question,
        response: Response,
        opcode: int,
        now: float,
        *,
        renews: bool = False,
    ) -> Renewed:
        """Return a reply with its TTLs bounded, and keep it if it may be kept.

        ``renews`` tells that it was requested to replace a kept one.
        """
        outcome = rules.outcome(question, response, opcode)
        ttl = rules.ttl_of(outcome, response, self._options)
        response = rules.bounded(response, ttl)
        cache_type = rules.kept_as(outcome, question, response)
        if response.lifetime_s == math.inf or response.facts:
            cache_type = None  # from memory, so never stale
        # A denial replaces the reply it refreshes even if denials are not kept; otherwise a removed
        # name would be served as long as stale replies are (seen on CoreDNS).
        is_kept = cache_type and ttl > 0 and (renews or not self._is_disabled(cache_type, question))
        if not cache_type or not is_kept:
            return Renewed(response, None)
        key, prefers_positive = key_of(question), self._options.prefers_positive
        answers = not prefers_positive or rules.is_answer(question, response)
        item = Item(response, now, ttl, answers=answers)
        if cache_type == SUCCESS:
            if prefers_positive and not item.answers:
                previous = self.kept[SUCCESS].get(key)
                if previous is not None:
                    item.keep_good(previous)
            if item.answers if prefers_positive else renews:
                self.kept[DENIAL].remove(key)
        self._put(cache_type, key, item)
        return Renewed(response, item)

    def _put(self, cache_type: str, key: CacheKey, item: Item) -> None:
        self._counts.add("evictions", cache_type, self.kept[cache_type].put(key, item))

    def _is_disabled(self, cache_type: str, question: Question) -> bool:
        zones = self._options.limits[cache_type].disabled
        return bool(zones) and name.is_within_any(question.folded, zones)

    def _adopt(self, question: Question, key: CacheKey) -> None:
        """Keep the replies to a question that the relay filed, as items."""
        for cache_type, fresh in self.fresh.items():
            raw = fresh.take(key)
            if raw is None:
                continue
            response = response_of(reading.read_reply(raw.octets))
            outcome = rules.outcome(question, response)
            if rules.kept_as(outcome, question, response) == cache_type:
                answers = rules.is_answer(question, response)
                self._put(cache_type, key, Item(response, raw.stored_at, raw.ttl, answers=answers))

    def count(self) -> dict[str, int]:
        """Return how many successes and denials are kept; count evictions of the relay."""
        found = dict[str, int]()
        for cache_type, fresh in self.fresh.items():
            self._counts.add("evictions", cache_type, fresh.evictions())
            found[cache_type] = len(fresh) + len(self.kept[cache_type])
        return found
