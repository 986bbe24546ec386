"""Observations of a few minutes: counts, latencies, the most frequent, the slowest.

A window is bounded: sketches have ``K`` places, counts by type and by return code have few, and
the rest is added up under ``other``. Workers send windows to the supervisor as plain values, and
``summary`` makes one answer of all.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from clusterdns.observing import sketch
from clusterdns.observing.sketch import Sketch
from clusterdns.wire import name, rr

K: Final = 100
# Upper bounds of latencies: five in each power of ten, from 1 µs to 63 s.
LATENCY_S: Final = tuple(float(f"{10 ** (k / 5 - 6):.3g}") for k in range(40))
_MOST_KINDS: Final = 64  # types or return codes counted by themselves
_OTHER: Final = -1
_BADVERS: Final = 16
_SHARES: Final = (0.5, 0.9, 0.99)
_SKETCHES: Final = ("names", "clients", "namespaces", "denied")
Plain = dict[str, Any]


class Window:
    """Observations since ``began``, a monotonic second."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.looked_at = 0
        self.paths: dict[str, int] = {}
        self.latency = [0] * (len(LATENCY_S))
        self.names = Sketch[tuple[bytes, int]](K)
        self.clients = Sketch[str](K)
        self.namespaces = Sketch[bytes](K)
        self.denied = Sketch[bytes](K)
        self.slow = Slowest(K)
        self._rcodes: dict[int, int] = {}
        self._types: dict[int, int] = {}

    def count(self, times: int, qtype: int, rcode: int, path: str) -> None:
        """Count a query that stands for so many."""
        self.looked_at += 1
        self.paths[path] = self.paths.get(path, 0) + times
        _count(self._types, qtype, times)
        _count(self._rcodes, rcode, times)

    def as_plain(self) -> Plain:
        """Return all as plain values, for ``summary``."""
        return {
            "began": self.began,
            "looked_at": self.looked_at,
            "paths": dict(self.paths),
            "latency": list(self.latency),
            "rcodes": _by_text(self._rcodes, rcode_text),
            "types": _by_text(self._types, rr.type_text),
            "names": (self.names.floor, self.names.counted()),
            "clients": (self.clients.floor, self.clients.counted()),
            "namespaces": (self.namespaces.floor, self.namespaces.counted()),
            "denied": (self.denied.floor, self.denied.counted()),
            "slow": self.slow.all(),
        }


class Slowest:
    """The slowest questions, each with the longest time it took and when that was."""

    __slots__ = ("_found", "_least", "k")

    def __init__(self, k: int) -> None:
        self.k = k
        self._found: dict[tuple[bytes, int], tuple[float, float]] = {}
        self._least = 0.0  # once it is full, what takes less is not among them

    def note(self, question: tuple[bytes, int], seconds: float, at: float) -> None:
        """Note that a question took so long, at a unix second."""
        if seconds <= self._least:
            return
        found = self._found
        if seconds > found.get(question, (0.0,))[0]:
            found[question] = (seconds, at)
        if len(found) > self.k:
            del found[min(found, key=lambda each: found[each])]
            self._least = min(found.values())[0]

    def all(self) -> dict[tuple[bytes, int], tuple[float, float]]:
        """Return seconds and unix second of each."""
        return dict(self._found)


class History:
    """Queries and latencies by time: ``steps`` stretches of ``step_s`` seconds at most."""

    def __init__(self, step_s: int = 5, steps: int = 120) -> None:
        self._step_s, self._steps = step_s, steps
        self._found: dict[int, dict[int, int]] = {}  # unix second -> latency bucket -> times
        self._last = 0

    def note(self, at: float, bucket: int, times: int) -> None:
        """Count queries of a unix second; what comes late belongs to the last stretch."""
        start = int(at) // self._step_s * self._step_s
        if start > self._last:
            self._last = start
            self._found[start] = {}
            if len(self._found) > self._steps:
                del self._found[next(iter(self._found))]
        counts = self._found[self._last]
        counts[bucket] = counts.get(bucket, 0) + times

    def as_plain(self, now: float) -> dict[int, dict[int, int]]:
        """Return the stretches that are not too long ago."""
        oldest = now - self._step_s * self._steps
        return {start: dict(counts) for start, counts in self._found.items() if start >= oldest}


def summary(
    windows: Iterable[Plain], histories: Iterable[Mapping[int, Mapping[int, int]]], now: float
) -> Plain:
    """Return windows of one or more workers as one answer, at a monotonic second.

    ``queries`` and the counts are scaled up: a hit that is looked at stands for many. ``error`` is
    by how much a count may be too high.
    """
    parts = [*windows]
    queries = sum(sum(part["paths"].values()) for part in parts)
    looked_at = sum(part["looked_at"] for part in parts)
    latency = [sum(counts) for counts in zip(*(p["latency"] for p in parts), strict=True)]
    latency = latency or [0] * len(LATENCY_S)
    rows = {word: sketch.merged((part[word] for part in parts), K) for word in _SKETCHES}
    p50, p90, p99 = (percentile(dict(enumerate(latency)), share) for share in _SHARES)
    return {
        "seconds": round(max((now - part["began"] for part in parts), default=0.0), 3),
        "sampled": max(1, round(queries / looked_at)) if looked_at else 1,
        "queries": queries,
        "paths": _added(part["paths"] for part in parts),
        "rcodes": _added(part["rcodes"] for part in parts),
        "types": _added(part["types"] for part in parts),
        "latency": {
            "p50": p50,
            "p90": p90,
            "p99": p99,
            "buckets": [[*pair] for pair in zip(LATENCY_S, latency, strict=True)],
        },
        "history": _history(histories),
        "names": [
            {"name": name.text(qname), "type": rr.type_text(qtype), "count": count, "error": error}
            for (qname, qtype), (count, error) in rows["names"]
        ],
        "clients": _rows("client", rows["clients"], str),
        "namespaces": _rows("namespace", rows["namespaces"], name.label_text),
        "denied": _rows("name", rows["denied"], name.text),
        "slow": _slowest(part["slow"] for part in parts),
    }


def _rows(word: str, rows: Iterable[Any], text: Callable[[Any], str]) -> list[Plain]:
    return [{word: text(key), "count": count, "error": error} for key, (count, error) in rows]


def rcode_text(rcode: int) -> str:
    """Return the mnemonic of the return code of a reply: 16 is BADVERS there (RFC 6891)."""
    return "BADVERS" if rcode == _BADVERS else rr.rcode_text(rcode)


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a latency."""
    return min(bisect_left(LATENCY_S, seconds), len(LATENCY_S) - 1)


def percentile(counts: Mapping[int, int], share: float) -> float:
    """Return the latency that a share of the queries did not exceed, in seconds; 0 for none.

    Within a bucket the latencies are taken as evenly spread.
    """
    left = share * sum(counts.values())
    for bucket in sorted(counts):
        times = counts[bucket]
        if times and left <= times:
            low = LATENCY_S[bucket - 1] if bucket else 0.0
            return float(f"{low + (LATENCY_S[bucket] - low) * left / times:.3g}")
        left -= times
    return 0.0


def _history(histories: Iterable[Mapping[int, Mapping[int, int]]]) -> list[list[float]]:
    found: dict[int, dict[int, int]] = {}
    for history in histories:
        for start, counts in history.items():
            found[start] = _added((found.get(start, {}), counts))
    return [
        [start, sum(counts.values()), percentile(counts, 0.5), percentile(counts, 0.99)]
        for start, counts in sorted(found.items())
    ]


def _slowest(parts: Iterable[Mapping[tuple[bytes, int], tuple[float, float]]]) -> list[Plain]:
    longest: dict[tuple[bytes, int], tuple[float, float]] = {}
    for part in parts:
        for question, (seconds, at) in part.items():
            longest[question] = max((seconds, at), longest.get(question, (0.0, 0.0)))
    most = heapq.nlargest(K, longest.items(), key=lambda item: item[1])
    return [
        {
            "name": name.text(qname),
            "type": rr.type_text(qtype),
            "seconds": round(seconds, 6),
            "at": round(at, 3),
        }
        for (qname, qtype), (seconds, at) in most
    ]


def _count(counts: dict[int, int], kind: int, times: int) -> None:
    if kind not in counts and len(counts) >= _MOST_KINDS:
        kind = _OTHER
    counts[kind] = counts.get(kind, 0) + times


def _by_text(counts: Mapping[int, int], text: Callable[[int], str]) -> dict[str, int]:
    return {("other" if kind == _OTHER else text(kind)): times for kind, times in counts.items()}


def _added(parts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    """Return the sums of counts with equal keys, the highest first."""
    sums: dict[Any, int] = {}
    for part in parts:
        for key, times in part.items():
            sums[key] = sums.get(key, 0) + times
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
