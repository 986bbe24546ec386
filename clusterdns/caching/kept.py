"""Replies kept by `cache`, in a store bounded in replies and in octets.

A reply that was asked for again is protected: only protected replies evict it, so a flood of names
that are asked for once evicts only names of the flood. The AnswerTable answers names in use, and
asks this store at most once a second for each, so the order of use alone would not protect them.
(Segmented LRU: Karedla, Love, Wherry 1994.)

Pure: no sockets, clock, threads or randomness; ``now`` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

from cachetools import LRUCache

from clusterdns.wire.message import Question
from clusterdns.wire.response import Response

# The question's octets, folded, and one more if DO or CD is set (CoreDNS: plugin/cache hash).
CacheKey = bytes

# Measured with tracemalloc on 64-bit CPython 3.11, thousands of replies as `forward` reads them: an
# item without records; a record without its RDATA; an owner name without its octets.
ITEM_OCTETS: Final = 920
RECORD_OCTETS: Final = 136
NAME_OCTETS: Final = 40
AVERAGE_OCTETS: Final = 2048  # for each reply of the capacity: about eight records
PROTECTED: Final = 0.8  # of either bound


class Item:
    """A kept reply: when it was stored, its TTL, and how often it was asked for.

    ``answers`` tells that it answers its question; if not, ``good`` is the last reply that did.
    ``retry_at`` is when a failed refresh may be repeated.
    """

    __slots__ = (
        "_unseen", "answers", "good", "octets", "response", "retry_at", "sights", "stored_at", "ttl"
    )  # fmt: skip

    def __init__(self, response: Response, now: float, ttl: int, *, answers: bool = True) -> None:
        self.response = response
        self.stored_at = now
        self.ttl = ttl
        self.answers = answers
        self.good: Item | None = None
        self.octets = octets(response)
        self.retry_at = -math.inf
        self.sights = 0
        self._unseen = -math.inf

    def left(self, now: float) -> int:
        """Return the whole seconds left of its TTL; 0 or less once it has ended."""
        return self.ttl - math.floor(now - self.stored_at)

    def is_usable(self, now: float, stale_s: float) -> bool:
        """Tell whether its TTL lasts, or ended less than ``stale_s`` ago."""
        left = self.left(now)
        return left > 0 or -left < int(stale_s)

    def sights_with(self, now: float, window_s: float) -> int:
        """Return how often it was asked for, and now, without a pause over ``window_s``."""
        return self.sights + 1 if now - self._unseen <= window_s else 1

    def see(self, now: float, window_s: float, unseen_s: float) -> None:
        """Count one lookup; lookups of the next ``unseen_s`` may not be counted."""
        self.sights = self.sights_with(now, window_s)
        self._unseen = now + unseen_s

    def keep_good(self, older: Item) -> None:
        """Keep the last reply that answered the question."""
        self.good = older if older.answers else older.good
        self.octets += self.good.octets if self.good is not None else 0

    def inherit(self, older: Item, now: float) -> None:
        """Take the count of lookups of the reply that this one renews."""
        self.sights, self._unseen = older.sights, max(older._unseen, now)


class Kept:
    """Items by key, at most ``capacity`` and of ``capacity`` times AVERAGE_OCTETS octets.

    ``stale_s`` is how long after its end an item may be used.
    """

    def __init__(self, capacity: int, stale_s: float = 0.0) -> None:
        self.until: dict[CacheKey, float] = {}  # monotonic second from which an item is unusable
        self._capacity = capacity
        self._stale_s = stale_s
        self._limit = capacity * AVERAGE_OCTETS
        # This dict finds an item in one lookup; the other two keep the order of use. They have one
        # limit together.
        self._items: dict[CacheKey, Item] = {}
        self._once: LRUCache[CacheKey, Item] = LRUCache(self._limit, _octets_of)
        self._again: LRUCache[CacheKey, Item] = LRUCache(self._limit, _octets_of)

    def get(self, key: CacheKey) -> Item | None:
        """Return the item of a key, even if ended; it becomes protected."""
        item = self._items.get(key)
        if item is None:
            return None
        if key in self._again:
            return self._again[key]
        del self._once[key]
        self._again[key] = item
        self._demote()
        return item

    def put(self, key: CacheKey, item: Item) -> int:
        """Keep an item under its key; return how many items were evicted."""
        segment = self._again if key in self._items and key in self._again else self._once
        self.remove(key)
        if item.octets > self._limit:
            return 0
        evicted = 0
        while len(self._items) >= self._capacity or self.octets + item.octets > self._limit:
            victim, _ = (self._once or self._again).popitem()
            del self._items[victim], self.until[victim]
            evicted += 1
        self._items[key] = segment[key] = item
        self.until[key] = item.stored_at + item.ttl + self._stale_s
        if segment is self._again:
            self._demote()
        return evicted

    def remove(self, key: CacheKey) -> None:
        """Remove an item, if it is kept."""
        if self._items.pop(key, None) is not None:
            del self.until[key]
            del (self._again if key in self._again else self._once)[key]

    @property
    def octets(self) -> int:
        """The memory of all items, as estimated when they were stored."""
        return int(self._once.currsize + self._again.currsize)

    def __len__(self) -> int:
        return len(self._items)

    def _demote(self) -> None:
        """Unprotect the items unused for longest while too many are protected."""
        again = self._again
        most, most_octets = self._capacity * PROTECTED, self._limit * PROTECTED
        while len(again) > 1 and (len(again) > most or again.currsize > most_octets):
            key, item = again.popitem()
            self._once[key] = item


def key_of(question: Question) -> CacheKey:
    """Return the key of a question's reply."""
    return question.key


def octets(response: Response) -> int:
    """Return an estimate of the memory of a response from an upstream server, in octets."""
    found, last = ITEM_OCTETS, b""
    for section in response.sections:
        for record in section:
            found += RECORD_OCTETS + len(record.rdata)
            if record.owner is not last:  # records of one name share its octets
                last = record.owner
                found += NAME_OCTETS + len(last)
    return found


def _octets_of(item: Item) -> int:
    return item.octets
