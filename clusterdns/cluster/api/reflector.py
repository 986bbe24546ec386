"""One kind of object kept as the API server has it: list, watch, resume, begin anew.

A ``Reflector`` runs in a thread of its own, with blocking reads, and hands what changed to a
``Sink``. It begins with a streamed list (``sendInitialEvents``) where the server offers one, else
with a list in pages, and goes on with a watch from the version it has. A broken watch is taken up
again from there; a version that is gone means a new list, in which objects that are no longer there
are removed last, so that no name is ever missing in between. (client-go: tools/cache/reflector.go)

A watch that says nothing is no failure. Servers send bookmarks every minute, but where etcd reports
no progress, which is its default, only once something has changed. The kernel notices a dead peer
(server.py); a server that hangs is noticed since each silent watch is taken up again.

An object that cannot be read is skipped and counted, and what it said before stays.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from clusterdns.cluster import objects
from clusterdns.cluster.api import versions
from clusterdns.cluster.api.backoff import Backoff, Gate, Timing
from clusterdns.cluster.api.client import ApiClient, ApiReply, read_list, status_error
from clusterdns.cluster.api.jsonstream import Items, Lines, StreamError, load_line
from clusterdns.cluster.api.versions import Known
from clusterdns.cluster.objects import IMPORTS, MANIFEST_KINDS, PODS, SLICES, ObjectError, ObjectKey
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

PAGE = 500  # client-go's page
_INITIAL_END = "k8s.io/initial-events-end"
_log = logging.getLogger("kubernetes")

ObjectChange = tuple[ObjectKey, "tuple[Any, ...] | None"]


class Sink(Protocol):
    """Where a reflector's changes go; called in its thread, returns when they are taken in."""

    def changed(self, kind: str, changes: list[ObjectChange]) -> None:
        """Take in objects that have come, changed or gone."""

    def listed(self, kind: str, keys: set[ObjectKey]) -> None:
        """Take note that all objects have been told; those that are not in ``keys`` are gone."""


class Reflector:
    """Keeps one kind of one source."""

    def __init__(
        self, kind: str, source: Source, *, client: ApiClient, gate: Gate, sink: Sink,
        timing: Timing | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.known: dict[ObjectKey, Known] = {}
        self.version = ""  # resourceVersion that the next watch begins at, "" for none
        self.is_watching = False
        self.event_at = self.bookmark_at = self.contact_at = 0.0  # monotonic, 0 for never
        self.busy_since = 0.0  # 0 while no request is under way
        self.triggers: list[tuple[ObjectKey, float]] = []  # of slices, to be taken out by the sink
        self.deleted: set[ObjectKey] | None = None  # since an audit began
        self.relists = self.reconnects = self.skipped = 0
        self._client, self._gate, self._sink = client, gate, sink
        self._timing = timing or Timing()
        self._selectors = versions.selectors_of(kind, source)
        self._keeps_zones = source.is_zonal
        self._keeps_external = source.is_external
        self._streams_lists = True
        self._listed_at = float("-inf")
        self._highest = 0  # version of the last list or event, to notice a server that went back
        self._backoff = Backoff(0.8, Gate.MAX_S, random.uniform)
        self._denial = Backoff(0.8, 30.0, random.uniform)
        self._reply: ApiReply | None = None
        self._wake = threading.Event()
        self._must_list = False
        self._last_error = ""
        self._is_news = False  # whether the last failure was the first of a trouble

    def run(self) -> None:
        """Go on for ever: the main of the thread."""
        while True:
            delay_s = self._turn()
            self.is_watching, self.busy_since = False, 0.0
            if delay_s:
                self._wake.wait(delay_s)
            self._wake.clear()

    def relist(self) -> None:
        """Have everything listed again, soon; called from any thread."""
        self._must_list = True
        self._wake.set()
        reply = self._reply
        if reply is not None:
            reply.abort()

    def _turn(self) -> float:
        """List, or watch until it ends; return how long to wait before the next turn."""
        started = time.monotonic()
        try:
            if self._must_list:
                self._must_list, self.version = False, ""
            if self.version or self._streams_lists:
                self._watch()
            else:
                self._list()
                return 0.0
            self._last_error = ""
        except ApiError as error:
            return self._on_error(error, time.monotonic() - started)
        except StreamError as error:
            return self._on_error(ApiError(str(error)), time.monotonic() - started)
        except Exception:
            _log.exception("plugin/kubernetes: %s: list and watch anew", self.kind)
            self.version = ""
            return self._denial.next()
        if time.monotonic() - started >= self._timing.settled:
            self._backoff.reset()
            self._denial.reset()
            return random.uniform(0, 0.2)
        return 0.0 if self._must_list else self._backoff.next()

    def _on_error(self, error: ApiError, lasted_s: float) -> float:
        """Say what went wrong, once; return how long to wait."""
        if self._must_list:
            return 0.0
        if lasted_s >= self._timing.settled:
            self._backoff.reset()
            self._denial.reset()
            self._last_error = ""
        if error.is_expired:
            _log.info("plugin/kubernetes: %s: %s: listing anew", self.kind, error)
            # At once after a watch, but not again and again: lists may be old as they come.
            is_first = time.monotonic() - self._listed_at >= self._timing.settled
            has_watched, self.version = bool(self.version), ""
            return 0.0 if has_watched and is_first else self._backoff.next()
        is_refused = error.code in (400, 422) or error.is_event
        if self._streams_lists and not self.version and is_refused:
            # The server cannot stream a list, or its storage cannot (etcd before 3.4.25): in pages.
            self._streams_lists = False
            return 0.0
        text = self._explain(error)
        # What ails the server as a whole is told by the first that notices.
        if text != self._last_error and (self._is_news or not error.is_server):
            _log.error("plugin/kubernetes: %s", text)
        self._last_error = text
        if error.code == 404 and self.kind == IMPORTS and not self.known:
            # A cluster need not know ServiceImports, or may get to know them later.
            self._sink.listed(self.kind, set())
        if error.code in (401, 403, 404, 405):
            return max(error.retry_after_s, self._denial.next())
        # Where nobody answers, the gate alone says when to ask again.
        return 0.0 if error.is_server and not error.code else self._backoff.next()

    def _explain(self, error: ApiError) -> str:
        if error.code != 403:
            return f"{'API server in trouble' if error.is_server else self.kind}: {error}"
        verb = "watch" if self.version or self._streams_lists else "list"
        return f"{versions.denial_of(self.kind, verb)}: {error}"

    def _open(self, query: Mapping[str, str], silence_s: float) -> ApiReply:
        """Send a request when the server can be asked. Raises ApiError."""
        self._gate.enter()
        self.busy_since = time.monotonic()
        try:
            reply = self._client.get(
                versions.path_of(self.kind),
                {**self._selectors, **query},
                read_timeout_s=self._timing.head,
            )
        except ApiError as error:
            if error.is_server or not error.code:
                self._is_news = self._gate.failed(error.retry_after_s)
            else:
                self._gate.succeeded()
            raise
        except BaseException:
            self._gate.failed()
            raise
        self._gate.succeeded()
        reply.limit_silence(silence_s)
        self._reply = reply
        self._mark_contact()
        return reply

    def _close(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()

    def _mark_contact(self) -> None:
        self.contact_at = self.busy_since = time.monotonic()

    def _watch(self) -> None:
        """Read a watch until it ends; without a version, begin with everything there is.

        Raises:
            ApiError: it broke, or the server ended it with an error.
        """
        seconds = int(random.uniform(self._timing.shortest, self._timing.longest))
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        silence_s = self._timing.watch_silence
        stream = _Stream(None)
        if self.version:
            query["resourceVersion"] = self.version
            self.reconnects += 1
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            stream.seen = set()
            self.relists += 1
            silence_s = self._timing.first_silence
        reply = self._open(query, silence_s)
        self.is_watching = stream.seen is None
        try:
            for octets in reply.chunks():
                self._mark_contact()
                self._read(stream, octets)
            self._read(stream, b"\n")  # the last line may lack its end
        except ApiError as error:
            if not error.is_silence or stream.seen is not None or stream.lines.is_inside:
                raise
        finally:
            self._close()
            if stream.changes:
                self._sink.changed(self.kind, stream.changes)
            if stream.seen is not None and time.monotonic() - self.contact_at >= silence_s:
                self._streams_lists = False
        if stream.seen is not None:
            self._streams_lists = False  # an end before the end of the list: try the other way
            raise ApiError("the streamed list ended in the middle")

    def _read(self, stream: _Stream, octets: bytes) -> None:
        """Take in the events of some octets of a watch. Raises ApiError."""
        changes = stream.changes
        skipped = stream.lines.skipped
        is_listing = False
        try:
            for line in stream.lines.feed(octets):
                event = load_line(line)
                if event is None:
                    self._skip(f"a line that is no event: {line[:60]!r}")
                elif event.get("type") == "BOOKMARK":
                    self._take_bookmark(stream, event, changes)
                elif event.get("type") == "ERROR":
                    raise status_error(event.get("object"))
                else:
                    self._take(event.get("type"), event.get("object"), stream.seen, changes)
            is_listing = stream.seen is not None
        finally:
            if changes and not (is_listing and len(changes) < PAGE):
                self._sink.changed(self.kind, list(changes))
                changes.clear()
        if stream.lines.skipped > skipped:
            self._skip("an event that is too long")
        now = time.monotonic()
        if not stream.lines.is_inside:
            stream.inside_since = now
        elif now - stream.inside_since > self._timing.line:
            raise ApiError(f"an event is not complete after {self._timing.line:g} s")

    def _take_bookmark(
        self, stream: _Stream, event: Mapping[str, Any], changes: list[ObjectChange]
    ) -> None:
        metadata = versions.metadata_of(event.get("object"))
        if metadata is None or not isinstance(metadata.get("resourceVersion"), str):
            self._skip("a bookmark without a version")
            return
        self.bookmark_at = time.monotonic()
        if stream.seen is None:
            self._advance(metadata["resourceVersion"])
            return
        if (metadata.get("annotations") or {}).get(_INITIAL_END) != "true":
            # A server that does not know sendInitialEvents has taken this for a plain watch.
            raise ApiError("no streamed lists", 422)
        self._sink.changed(self.kind, list(changes))
        changes.clear()
        self._complete(metadata["resourceVersion"], stream.seen)
        stream.seen = None
        self.is_watching = True
        if self._reply is not None:
            self._reply.limit_silence(self._timing.watch_silence)

    def _take(
        self,
        type_: object,
        manifest: object,
        seen: set[ObjectKey] | None,
        changes: list[ObjectChange],
    ) -> None:
        """Take in one event; ``seen`` is None once the list is complete."""
        metadata = versions.metadata_of(manifest)
        if metadata is None or type_ not in ("ADDED", "MODIFIED", "DELETED"):
            self._skip(f"an event that is none of this kind: {type_!r:.40}")
            return
        assert isinstance(manifest, Mapping)
        self.event_at = time.monotonic()
        key, mark = versions.mark(self.kind, metadata)
        version = metadata.get("resourceVersion")
        known = self.known.get(key)
        if isinstance(version, str) and seen is None:
            self.version, self._highest = version, max(self._highest, mark.version)
        expected = MANIFEST_KINDS[self.kind]
        if manifest.get("kind", expected) != expected or not key[1]:
            self._skip(f"an object that is no {expected}: {manifest.get('kind')!r:.40}")
        elif type_ == "DELETED":
            if known is not None and (known.uid == mark.uid or mark.version > known.version):
                del self.known[key]
                changes.append((key, None))
                if self.deleted is not None:
                    self.deleted.add(key)
            if seen is not None:
                seen.discard(key)
        elif seen is None and known is not None and 0 < mark.version < known.version:
            pass  # late: what we have is younger
        else:
            self._keep(key, mark, manifest, changes)
            if seen is not None:
                seen.add(key)

    def _keep(
        self, key: ObjectKey, mark: Known, manifest: Mapping[str, Any], changes: list[ObjectChange]
    ) -> None:
        """Note an object that is there."""
        self.known[key] = mark
        try:
            found, kept = objects.cut(
                self.kind,
                manifest,
                keeps_zones=self._keeps_zones,
                keeps_external=self._keeps_external,
            )
        except ObjectError as error:
            self._skip(f"{'/'.join(key)}: {error}")
            return
        if self.kind == PODS and manifest["metadata"].get("deletionTimestamp"):
            return  # until it is gone it stays what it was (CoreDNS: object/pod.go)
        changes.append((found, kept))
        if self.kind == SLICES and (trigger := versions.trigger_of(manifest)):
            self.triggers.append(trigger)

    def _advance(self, version: str) -> None:
        self.version = version
        self._highest = max(self._highest, versions.number_of(version))

    def _complete(self, version: str, seen: set[ObjectKey]) -> None:
        """Take note of the end of a list."""
        if not version:
            raise ApiError("a list without a resourceVersion")
        if 0 < versions.number_of(version) < self._highest:
            _log.error(
                "plugin/kubernetes: %s: the API server has gone back from version %d to %s: taking "
                "what it has now as the truth", self.kind, self._highest, version,
            )  # fmt: skip
        for key in self.known.keys() - seen:
            del self.known[key]
        self.version, self._highest = version, versions.number_of(version)
        self._listed_at = time.monotonic()
        self._sink.listed(self.kind, seen)
        self._last_error = ""

    def _skip(self, what: str) -> None:
        self.skipped += 1
        if self.skipped & (self.skipped - 1) == 0:  # the 1st, 2nd, 4th, 8th...
            _log.warning(
                "plugin/kubernetes: %s: skipped %s (%d so far)", self.kind, what, self.skipped
            )

    def _list(self) -> None:
        """List everything in pages, or at once where pages expire. Raises ApiError."""
        self.relists += 1
        try:
            version, seen = self._pages(
                {"limit": str(PAGE), "resourceVersion": "" if self.known else "0"}
            )
        except ApiError as error:
            if not error.is_expired:
                raise
            _log.info("plugin/kubernetes: %s: pages expired, listing at once", self.kind)
            version, seen = self._pages({})
        self._complete(version, seen)

    def _pages(self, query: dict[str, str]) -> tuple[str, set[ObjectKey]]:
        """Return the version of a list, and the keys in it. Raises ApiError or StreamError."""
        seen: set[ObjectKey] = set()
        while True:
            items = Items()
            for manifests in read_list(self._open(query, self._timing.list_silence), items):
                self._mark_contact()
                changes: list[ObjectChange] = []
                for manifest in manifests:
                    self._take("ADDED", manifest, seen, changes)
                self._sink.changed(self.kind, changes)
            for _ in range(items.skipped):
                self._skip("an item that is too long, or none")
            metadata = items.fields.get("metadata") or {}
            following = metadata.get("continue")
            if not following:
                return str(metadata.get("resourceVersion") or ""), seen
            query = {**query, "continue": str(following), "resourceVersion": ""}


class _Stream:
    """A watch being read; ``seen`` are the keys of its list, None once that is complete."""

    def __init__(self, seen: set[ObjectKey] | None) -> None:
        self.seen = seen
        self.changes: list[
            ObjectChange
        ] = []  # of the list, until they are a page: handing over costs
        self.lines = Lines()
        self.inside_since = time.monotonic()
