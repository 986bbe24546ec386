# Invariant: whatever octets an API server sends, a watch skips or takes each event, or ends with ApiError;
# a list gives the items that json finds in it, however it was cut into chunks, or raises StreamError.
"""Fuzz the JSON of an API server: ``guided.py watch_stream``.

The first octet says how the rest comes: as a list, or as a watch of a kind, in chunks of some size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
from typing import Any

import guided

from clusterdns.cluster.api import reflector
from clusterdns.cluster.api.jsonstream import Items, StreamError
from clusterdns.cluster.objects import MANIFEST_KINDS
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

KINDS = tuple(MANIFEST_KINDS)
WORDS = (
    b'"type":', b'"object":', b'"metadata":', b'"annotations":', b'"labels":', b'"items":', b"null", b"[]",
    b"{}", b"[1]", b"7", b"-1e999", b'"DELETED"', b'"BOOKMARK"', b'"ERROR"', b'"resourceVersion":"9"',
    b'"uid":', b'"deletionTimestamp":', b"\n", b'"\\ud800"', b"NaN", b'"code":', b"true", b'"spec":', b'"',
    b'"details":', b'"retryAfterSeconds":', b'"status":', b'"endpoints":', b'"ports":', b'"conditions":',
)  # fmt: skip
VALUES = (
    None, True, 0, -7, 1e308, 2**70, "", "a", "9", "None", "\ud800", "10.0.0.1", "::1", "x" * 300, [], [1], ["a"],
    [None], {}, {"a": "b"}, {"name": "n"}, [[]], [{}], "ADDED", "DELETED", "BOOKMARK", "Pod", "TCP", "true",
)  # fmt: skip
SOURCE = Source(manifests="", kinds=tuple(MANIFEST_KINDS))
CHUNKS = (3, 29, 500, 5000)
logging.disable(logging.CRITICAL)


class Sink:
    """Takes what a reflector says."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    def changed(self, kind: str, changes: list[Any]) -> None:
        self.changes += changes

    def __getattr__(self, _: str) -> Any:
        return lambda *args: None


def _event(kind: str, **metadata: Any) -> bytes:
    named = {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7", **metadata}
    spec = {"clusterIP": "10.0.0.1", "ports": [{"name": "p", "port": 1, "protocol": "TCP"}]}
    manifest = {
        "kind": kind, "metadata": named, "spec": spec, "addressType": "IPv4",
        "ports": spec["ports"], "endpoints": [{"addresses": ["10.0.0.2"], "hostname": "h"}],
        "status": {"podIP": "10.0.0.3", "phase": "Running"},
    }  # fmt: skip
    return json.dumps({"type": "ADDED", "object": manifest}).encode() + b"\n"


def seeds() -> list[bytes]:
    """Return a watch and a list of each kind."""
    bookmark = {
        "metadata": {"resourceVersion": "9", "annotations": {reflector._INITIAL_END: "true"}}
    }
    found = []
    for i, kind in enumerate(KINDS):
        labels = {"kubernetes.io/service-name": "a"}
        event = _event(MANIFEST_KINDS[kind], labels=labels)
        watch = event + json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n"
        watch += event.replace(b"ADDED", b"DELETED").replace(b'"7"', b'"11"')
        found.append(bytes((2 * i + 1,)) + watch)
        item = json.dumps(json.loads(event)["object"]).encode()
        found.append(
            bytes((2 * i,))
            + b'{"metadata":{"continue":"x"},"items":['
            + item
            + b", "
            + item
            + b"]}"
        )
    status = {
        "kind": "Status",
        "code": 410,
        "reason": "Expired",
        "details": {"retryAfterSeconds": 1},
    }
    return [*found, b"\1" + json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return a stream with one value of one line changed, or other octets."""
    head, lines = data[:1], data[1:].split(b"\n")
    i = rng.randrange(len(lines))
    with contextlib.suppress(ValueError, RecursionError):
        if rng.random() < 0.8:
            value = guided.varied(rng, json.loads(lines[i]), VALUES)
            lines[i] = json.dumps(value).encode()
            return rng.choice((head, head, rng.randbytes(1))) + b"\n".join(lines)
    return guided.mutated(rng, data, WORDS)


def examine(data: bytes) -> None:
    """Hold the invariant for one stream."""
    if not data:
        return
    how, octets = data[0], data[1:]
    size = CHUNKS[how >> 5 & 3]
    chunks = [octets[i : i + size] for i in range(0, len(octets), size)]
    kind = KINDS[(how >> 1 & 15) % len(KINDS)]
    if how & 1:
        watch(kind, chunks)
    else:
        check_list(chunks, octets)


def watch(kind: str, chunks: list[bytes]) -> None:
    sink: Any = Sink()
    found = reflector.Reflector(kind, SOURCE, client=None, gate=None, sink=sink)  # type: ignore[arg-type]
    for seen in (set(), None):
        stream = reflector._Stream(seen)
        with contextlib.suppress(ApiError):
            for chunk in [*chunks, b"\n"]:
                found._read(stream, chunk)
    for key, value in sink.changes:
        assert len(key) == 2
        assert value is None or isinstance(value, tuple)


def check_list(chunks: list[bytes], octets: bytes) -> None:
    items, taken = Items(), []
    try:
        for chunk in chunks:
            taken += items.feed(chunk)
        taken += items.end()
    except StreamError:
        return
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.loads(octets)
        if isinstance(whole, dict) and octets.count(b'"items"') == 1 and octets.isascii():
            expected = whole.get("items")
            if isinstance(expected, list):
                assert [item for item in expected if isinstance(item, dict)] == taken
