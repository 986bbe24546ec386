"""The watcher of a Kubernetes API server: it hands changes from reflectors to the workers.

One thread for each kind lists and watches (``Reflector``), and one compares from time to time
(``Auditor``). Their changes go to the workers through a ``Feeder``; its lock guards all that the
threads and the event loop share. The thread that read a change also sends it. Objects arrive here
cut down to DNS facts, and are kept packed.

If a snapshot file is configured, the objects are written to it every few seconds after a change. If
the server is unreachable at start, the file is served until the first list.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from clusterdns.cluster.api import snapshot
from clusterdns.cluster.api.audit import Auditor
from clusterdns.cluster.api.backoff import Gate, Timing
from clusterdns.cluster.api.client import ApiClient
from clusterdns.cluster.api.reflector import ObjectChange, Reflector
from clusterdns.cluster.feed import Feeder, Legacy, Packed, plain
from clusterdns.cluster.objects import NAMESPACES, SERVICES, SLICES, ObjectKey
from clusterdns.cluster.source import Source
from clusterdns.host import libc
from clusterdns.metrics.histogram import PROGRAMMING_S, Histogram
from clusterdns.metrics.tally import Sample

TICK_S = 1.0
SNAPSHOT_S = 10.0  # between two writes of the file
SNAPSHOT_SHARE = 0.02  # largest share of the time spent writing it
UNREACHABLE_S = 4.0  # no list for so long after the start: the snapshot is served
STUCK_S = 240.0  # longer than any request may be silent: the thread hangs
_log = logging.getLogger("kubernetes")


class Watch:
    """Watches one API server; the ``Sink`` of its reflectors."""

    def __init__(
        self, source: Source, listener: socket.socket, *, client: ApiClient | None = None,
        timing: Timing | None = None,
    ) -> None:  # fmt: skip
        self.objects = Packed()
        self.feeder = Feeder(listener, self.objects)
        self.client = client or ApiClient(source)
        self.gate = Gate()
        self.reflectors = {
            kind: Reflector(
                kind, source, client=self.client, gate=self.gate, sink=self, timing=timing
            )
            for kind in source.kinds
        }
        self.auditor = Auditor(source, self.reflectors.values(), self.client, self.gate)
        self.programming: dict[str, Histogram] = {}  # by kind of Service
        self._source = source
        self._threads: list[threading.Thread] = []
        self._listed: set[str] = set()  # kinds listed by the server, not by the snapshot
        self._refused: set[str] = set()  # kinds that it does not let us list
        self._is_changed = False
        self._snapshot_written = 0.0  # Unix time of the snapshot being served, 0 for none
        self._snapshot_failures = 0
        self._snapshot_took_s = 0.0
        self._has_tried_snapshot = False

    async def run(self) -> None:
        """Feed the workers until cancelled."""
        # Each thread's own heap would never return memory.
        libc.share_one_heap()
        self.feeder.start()
        for reflector in self.reflectors.values():
            self._spawn(reflector.run, reflector.kind)
        if self._source.audit_s:
            self._spawn(self.auditor.run, "audit")
        started = saved = time.monotonic()
        is_trimmed = False
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if self._lacks_snapshot(now - started):
                self._load_snapshot()
            elif self._is_due(now - saved):
                saved, self._is_changed = now, False
                await asyncio.to_thread(self._save_snapshot)
            if not is_trimmed and self._is_settled:
                is_trimmed = True
                libc.return_free_memory()  # the buffers of the lists

    @property
    def is_well(self) -> bool:
        """Whether all threads live and none hangs."""
        oldest = time.monotonic() - STUCK_S
        return all(thread.is_alive() for thread in self._threads) and not any(
            0 < reflector.busy_since < oldest for reflector in self.reflectors.values()
        )

    def changed(self, kind: str, changes: list[ObjectChange]) -> None:
        """Put changes; called in a reflector's thread."""
        self.feeder.put_all(kind, [(key, plain(value)) for key, value in changes])
        self._is_changed = True
        triggers = self.reflectors[kind].triggers
        if triggers:
            with self.feeder.lock:
                self._observe(triggers)
            triggers.clear()

    def _observe(self, triggers: list[tuple[ObjectKey, float]]) -> None:
        """Observe how long changes took to arrive (CoreDNS: kubernetes/object/metrics.go)."""
        now = time.time()
        for service, at in triggers:
            value = self.objects.get((SERVICES, service))
            if value is not None:
                kind = "headless_with_selector" if value[1][:1] == ("None",) else "cluster_ip"
                histogram = self.programming.setdefault(kind, Histogram(PROGRAMMING_S))
                histogram.observe(max(0.0, now - at))

    def listed(self, kind: str, keys: set[ObjectKey]) -> None:
        """Remove the objects of a kind that are not among ``keys``: the list is complete."""
        with self.feeder.lock:
            gone = [key for one, key in self.objects if one == kind and key not in keys]
            self.feeder.put_all(kind, [(key, None) for key in gone])
            self.feeder.synced(kind)
            self._is_changed = True
            self._listed.add(kind)
            self._refused.discard(kind)
            if self._snapshot_written and self._is_complete:
                self._snapshot_written = 0.0
                _log.info("plugin/kubernetes: the API server has answered: all objects are fresh")

    def refused(self, kind: str) -> None:
        """Go on without a kind that we may not list; names that need it are SERVFAIL."""
        with self.feeder.lock:
            if kind not in self._listed:
                self._refused.add(kind)
                self.feeder.refused(kind)

    def samples(self) -> list[Sample]:
        """Return the counts, and how fresh each kind is."""
        found: list[Sample] = []
        for kind, reflector in self.reflectors.items():
            labels = (self._source.title, kind)
            for name, at in (
                ("event", reflector.event_at),
                ("bookmark", reflector.bookmark_at),
                ("contact", reflector.contact_at),
            ):
                if at:
                    age_s = time.monotonic() - at
                    found.append((f"clusterdns_kubernetes_{name}_age_seconds", labels, age_s))
            counts = {
                "stale_objects": 0 if self._is_fresh(reflector) else self.objects.counts[kind],
                "objects": self.objects.counts[kind],
                "relists_total": reflector.relists,
                "reconnects_total": reflector.reconnects,
                "skipped_objects_total": reflector.skipped,
                "audits_total": self.auditor.audits.get(kind, 0),
                "audit_divergences_total": self.auditor.divergences.get(kind, 0),
            }
            found += [(f"clusterdns_kubernetes_{n}", labels, count) for n, count in counts.items()]
        if self._snapshot_written:
            age_s = max(0.0, time.time() - self._snapshot_written)
            labels = (self._source.title,)  # type: ignore[assignment]
            found.append(("clusterdns_kubernetes_snapshot_age_seconds", labels, age_s))
        requests = "kubernetes_rest_client_requests_total"
        found += [(requests, labels, n) for labels, n in self.client.requests.copy().items()]
        duration = "kubernetes_rest_client_request_duration_seconds"
        found.append((duration, ("GET", self.client.host), self.client.durations.sample()))
        for service_kind, histogram in self.programming.copy().items():
            name = "kubernetes_dns_programming_duration_seconds"
            found.append((name, (service_kind,), histogram.sample()))
        return found

    @property
    def _is_complete(self) -> bool:
        """Whether the server has listed every kind."""
        return len(self._listed) == len(self.reflectors)

    @property
    def _is_settled(self) -> bool:
        """Whether the server has listed every kind that it lets us list."""
        return len(self._listed | self._refused) == len(self.reflectors)

    def _is_fresh(self, reflector: Reflector) -> bool:
        return reflector.is_watching and reflector.kind in self._listed

    def _spawn(self, main: Any, name: str) -> None:  # noqa: ANN401 - a bound method
        thread = threading.Thread(target=main, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _lacks_snapshot(self, since_s: float) -> bool:
        """Tell whether to read the snapshot now."""
        if not self._source.snapshot or self._is_complete or self._has_tried_snapshot:
            return False
        return not self.gate.is_open or since_s >= UNREACHABLE_S

    def _is_due(self, since_s: float) -> bool:
        """Tell whether to write the snapshot now."""
        if not (self._source.snapshot and self._is_changed):
            return False
        is_whole = self._is_settled and not self._refused & {NAMESPACES, SERVICES, SLICES}
        return is_whole and since_s >= max(SNAPSHOT_S, self._snapshot_took_s / SNAPSHOT_SHARE)

    def _save_snapshot(self) -> None:
        started = time.monotonic()
        try:
            snapshot.write(
                Path(self._source.snapshot),
                self._source,
                [kind for kind in self._source.kinds if kind in self._listed],
                self.objects.entries(),
                time.time(),
            )
        except OSError as error:
            self._snapshot_failures += 1
            if self._snapshot_failures == 1:
                _log.error("plugin/kubernetes: snapshot not written: %s", error)
            self._is_changed = True
        self._snapshot_took_s = time.monotonic() - started

    def inherit(self, legacy: Legacy) -> None:
        """Feed what another watcher knew, until the server has answered; before `run`."""
        self._has_tried_snapshot = legacy.kinds.issuperset(self._source.kinds)
        self.objects.take_over(legacy.objects)
        for kind in legacy.kinds:
            self.feeder.synced(kind)

    def _put_known(self, entries: Collection[snapshot.Saved], kinds: Iterable[str]) -> None:
        """Feed objects of kinds that the server has not listed yet."""
        with self.feeder.lock:
            for kind in self._source.kinds:
                self.feeder.put_all(kind, (
                    (at[1], value) for at, value in entries
                    if at[0] == kind and kind not in self._listed and at not in self.objects
                ))  # fmt: skip
        for kind in kinds:
            self.feeder.synced(kind)

    def _load_snapshot(self) -> None:
        """Serve the snapshot until the server has answered."""
        self._has_tried_snapshot = True
        try:
            found = snapshot.read(Path(self._source.snapshot), self._source)
        except FileNotFoundError:
            return
        except (OSError, snapshot.SnapshotError) as error:
            _log.error("plugin/kubernetes: snapshot not used: %s", error)
            return
        self._put_known(found.entries, found.kinds)
        self._snapshot_written = found.written
        _log.warning(
            "plugin/kubernetes: the API server cannot be reached: serving %d objects from the "
            "snapshot of %.0f s ago", len(found.entries), max(0.0, time.time() - found.written),
        )  # fmt: skip
