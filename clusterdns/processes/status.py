"""How the server does: what the page of `status` shows, as plain values.

The workers and watchers are asked for their part, and what they do not say in time is left out.
Nothing here is a secret: the configuration and the log lines are those of ``config/inforce.py``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clusterdns import __version__
from clusterdns.cluster.source import Source
from clusterdns.config import inforce
from clusterdns.config.compile import Configuration
from clusterdns.host import logs
from clusterdns.metrics.histogram import TIME_S, quantile
from clusterdns.metrics.tally import Sample
from clusterdns.processes.generation import Generation, Watchers

PART_S = 2.0  # a process that takes longer is left out
MOST_ERRORS = 100
MOST_LINES = 2000  # of the configuration
_AGES = {
    "clusterdns_kubernetes_contact_age_seconds": "heard_s",
    "clusterdns_kubernetes_event_age_seconds": "event_s",
    "clusterdns_kubernetes_stale_objects": "stale",
    "clusterdns_kubernetes_objects": "objects",
}
Plain = dict[str, Any]


class Since(NamedTuple):
    """The supervisor's own part: Unix seconds of its start, reloads that failed.

    ``former_workers`` serve although those of the configuration in force should.
    """

    began: float
    reload_failures: int
    former_workers: list[str]


async def status(generation: Generation, watchers: Watchers, since: Since) -> Plain:
    """Return how the server does."""
    configuration = generation.configuration
    parts, watching, samples = await asyncio.gather(
        generation.states(PART_S),
        watchers.states(PART_S),
        watchers.samples(),
    )
    hidden = inforce.secret_words(configuration.blocks)
    processes = {"supervisor": {"recent": [*map(tuple, logs.recent())]}, **parts, **watching}
    not_ready = generation.not_ready()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "now": time.time(),
        "began": since.began,
        "workers": configuration.workers,
        "workers_answering": len(parts),
        "ready": not not_ready,
        "not_ready": not_ready,
        "reload_failures": since.reload_failures,
        "former_workers": since.former_workers,
        "listeners": [endpoint.label for endpoint in configuration.routers],
        "watch": [*_watch(configuration.sources, watchers, samples)],
        "upstreams": _upstreams(each for part in parts.values() for each in part["upstreams"]),
        "errors": _errors(processes, hidden),
        "configuration": _lines(configuration),
    }


def _watch(
    sources: Iterable[Source], watchers: Watchers, samples: Iterable[Sample]
) -> Iterator[Plain]:
    """Yield for each kind of objects whether it is known, and how fresh it is, in seconds."""
    ages = dict[tuple[str, ...], Plain]()
    for metric, labels, value in samples:
        if metric in _AGES:
            ages.setdefault(labels, {})[_AGES[metric]] = value
    for source in sources:
        known = watchers.known(source)
        for kind in source.kinds:
            found: Plain = {
                "source": inforce.scrubbed(source.title),
                "kind": kind,
                "is_known": kind in known,
                "is_on_disk": bool(source.manifests),
            }
            yield found | ages.get((source.title, kind), {})


def _upstreams(states: Iterable[Mapping[str, Any]]) -> list[Plain]:
    """Return each upstream server as all workers together see it; times in seconds."""
    found = dict[tuple[str, str], Plain]()
    for state in states:
        key = (state["plugin"], state["server"])
        one = found.setdefault(
            key,
            {"plugin": key[0], "server": key[1], "workers": 0, "down": 0, "fails": 0, "counts": {}},
        )
        one["workers"] += 1
        one["down"] += state["is_down"]
        one["fails"] = max(one["fails"], state["fails"])
        for rcode, counts in state["durations"].items():
            one["counts"][rcode] = _added(one["counts"].get(rcode, ()), counts)
    return [_measured(each) for _, each in sorted(found.items())]


def _added(some: Sequence[float], more: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(some, more, strict=True)] if some else [*more]


def _measured(upstream: Plain) -> Plain:
    """Return an upstream server with percentiles in place of counts."""
    counts: Mapping[str, Sequence[float]] = upstream.pop("counts")
    by_rcode = {rcode: int(sum(each[:-1])) for rcode, each in counts.items()}  # behind: the sum
    total: Sequence[float] = ()
    for each in counts.values():
        total = _added(total, each)
    down = upstream["down"]
    state = "down" if down else "failing" if upstream["fails"] else "up"
    return {
        **upstream,
        "state": state,
        "queries": sum(by_rcode.values()),
        "rcodes": {rcode: count for rcode, count in by_rcode.items() if rcode},
        **{f"p{p}": quantile(TIME_S, total[:-1], p / 100) for p in (50, 90, 99)},
    }


def _errors(processes: Mapping[str, Plain], hidden: Iterable[str]) -> list[Plain]:
    """Return the last warnings and errors of all processes, the newest first."""
    found = [
        (at, level, inforce.scrubbed(text, hidden), name)
        for name, part in processes.items()
        for at, level, text in part.get("recent", ())
    ]
    return [
        {"at": at, "level": level, "text": text, "process": name}
        for at, level, text, name in sorted(found, reverse=True)[:MOST_ERRORS]
    ]


def _lines(configuration: Configuration) -> list[Plain]:
    found = [line._asdict() for line in inforce.lines(configuration.blocks)]
    if len(found) > MOST_LINES:
        left = len(found) - MOST_LINES
        rest = inforce.Line("", 0, 0, f"... and {left} more lines")
        return [*found[:MOST_LINES], rest._asdict()]
    return found
