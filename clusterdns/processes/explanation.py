"""An explanation by the running server: a worker explains, the supervisor adds the watch.

``explain`` is asked over the local socket (inquiry.py). The page asks ``explained``: the objects of
the cluster behind an answer are read by a child process, because the supervisor must not wait for
them, nor keep them in memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clusterdns import __version__
from clusterdns.cluster.source import Source
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.tally import Sample
from clusterdns.processes.generation import Generation, Watchers
from clusterdns.processes.inquiry import InquiryError
from clusterdns.processes.process import compute
from clusterdns.serving import explained as told

WORKER_S = 10.0  # of a chain that waits for upstream servers
EVIDENCE_S = 4.0  # of reading objects and files; an explanation without them is better than none
_AGES = {
    "clusterdns_kubernetes_contact_age_seconds": "heard from",
    "clusterdns_kubernetes_event_age_seconds": "last event",
    "clusterdns_kubernetes_stale_objects": "stale objects",
}
Plain = dict[str, Any]


async def explain(generation: Generation, watchers: Watchers, request: Plain) -> Plain:
    """Return the explanation of a query as plain values, with the reply in hexadecimal.

    The request has ``packet`` in hexadecimal, ``client``, ``transport`` and ``listener``, a label
    or "" for the first listener.

    Raises:
        InquiryError: no worker answers, or there is no such listener.
        ValueError, KeyError, TypeError: the request lacks something.
    """
    bytes.fromhex(request["packet"])
    asked = {word: str(request[word]) for word in ("packet", "client", "transport", "listener")}
    asked["listener"] = _listener(generation, asked["listener"])
    found = await generation.ask("explain", asked, WORKER_S)
    if found is None:
        raise InquiryError(f"no worker has answered in {WORKER_S:g} s")
    configuration = generation.configuration
    found["sources"] = {
        each: _shown(source) for each, source in configuration.sources_by_plugin.items()
    }
    found["watch"] = [*_ages(await watchers.samples()), *_of_manifests(configuration.sources)]
    found["not_ready"] = generation.not_ready()
    return found


def about(generation: Generation) -> Plain:
    """Return what tells one running server from another."""
    configuration = generation.configuration
    files = dict.fromkeys(view.block.file for view in configuration.views)
    return {
        "version": __version__,
        "directory": str(Path.cwd()),
        "files": list(files),
        "listeners": [endpoint.label for endpoint in configuration.routers],
    }


async def explained(generation: Generation, watchers: Watchers, request: Plain) -> Plain:
    """Return what `clusterdns explain --json` prints, with the lines that it prints otherwise.

    The request has ``name``, ``type`` and ``client``.

    Raises:
        InquiryError: a value is wrong, or no worker answers.
        KeyError: the request lacks one.
    """
    client = str(request["client"])
    try:
        packet = told.query(str(request["name"]), str(request["type"]), client)
    except ClusterDNSError as error:
        raise InquiryError(str(error)) from error
    asked = {"packet": packet.hex(), "client": client, "transport": "udp", "listener": ""}
    found = await explain(generation, watchers, asked)
    del found["sources"]
    found["server"] = {"pid": os.getpid(), **about(generation)}
    text = found.pop("packet", None)
    reply = bytes.fromhex(text) if text else None
    for sources in (generation.configuration.sources_by_plugin, {}, None):
        done = await compute(functools.partial(_complete, found, reply, sources), EVIDENCE_S)
        if done is not None:
            return done
    raise InquiryError("the explanation could not be completed in time")


def _complete(found: Plain, reply: bytes | None, sources: Mapping[str, Source] | None) -> Plain:
    done = told.complete(found, reply, sources)
    return {**done, "lines": [*told.report(done)]}


def _listener(generation: Generation, wanted: str) -> str:
    labels = [endpoint.label for endpoint in generation.configuration.routers]
    for label in labels:
        if not wanted or wanted in (label, label.partition("://")[2]):
            return label
    raise InquiryError(f"no listener {wanted}; there are {', '.join(labels)}")


def _shown(source: Source) -> Plain:
    """Return a source, without its password, to the command that reads its objects."""
    found = source._replace(endpoint_user="", snapshot="")._asdict()
    if source.manifests:
        found["manifests"] = str(Path(source.manifests).absolute())
    return found


def _ages(samples: list[Sample]) -> Iterator[str]:
    """Yield how fresh each kind of objects of an API server is."""
    found: dict[tuple[str, ...], list[str]] = {}
    for metric, labels, value in samples:
        if metric in _AGES and isinstance(value, int | float):
            unit = " s ago" if metric.endswith("_seconds") else ""
            shown = f"{value:.1f}" if unit else f"{value:.0f}"
            found.setdefault(labels, []).append(f"{_AGES[metric]} {shown}{unit}")
    for (source, kind), ages in sorted(found.items()):
        yield f"{kind} of {source}: {', '.join(ages)}"


def _of_manifests(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        if source.manifests:
            yield f"manifests {source.manifests}: compared with the disk twice a second"
