"""Keeps the objects of one kind equal to the API server's: list, watch, resume, list again.

A ``Reflector`` runs in a thread of its own, with blocking reads, and hands changes to a ``Sink``.
It starts with a streamed list (``sendInitialEvents``) if the server offers one, else with a paged
list, and continues with a watch from the list's version. A broken watch is resumed from its last
version. If the server no longer has that version, the kind is listed again; vanished objects are
removed at the end of the list, so that no name is missing in between. (client-go:
tools/cache/reflector.go)

An etcd that is restored from a backup goes back, and gives the versions that we know to other
changes. If it has as many of them by the time we ask again, it takes our version for one of its
own, and resumes the watch as if nothing were. So after a failure the object of the newest change
that we have followed is asked for first, and must be as that change left it; otherwise the kind is
listed again. client-go resumes, and keeps objects that have gone.

A silent watch is no failure. Servers send bookmarks every minute, but only after a change if etcd
reports no progress, which is its default. The kernel notices a dead peer (server.py); a server that
hangs is noticed because each silent watch is opened again.

An object that cannot be read is skipped and counted, and its last good state is kept.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from clusterdns.cluster import objects
from clusterdns.cluster.api import versions
from clusterdns.cluster.api.backoff import Backoff, Gate, Timing
from clusterdns.cluster.api.client import ApiClient, ApiReply, read_list, status_error
from clusterdns.cluster.api.jsonstream import Items, Lines, StreamError, load_line
from clusterdns.cluster.api.versions import Known
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.objects import MANIFEST_KINDS, PODS, SLICES, ObjectKey
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

PAGE = 500  # client-go's page
_INITIAL_END = "k8s.io/initial-events-end"
_NO_CHANGE: Final = (("", ""), Known(0, 0))
_log = logging.getLogger("kubernetes")

ObjectChange = tuple[ObjectKey, "tuple[Any, ...] | None"]


class Sink(Protocol):
    """Receives a reflector's changes; called in its thread, returns when they are applied."""

    def changed(self, kind: str, changes: list[ObjectChange]) -> None:
        """Apply objects that were added, changed or removed."""

    def listed(self, kind: str, keys: set[ObjectKey]) -> None:
        """End a list: objects that are not in ``keys`` are gone."""

    def refused(self, kind: str) -> None:
        """Take note that the API server does not let us list a kind."""


class Reflector:
    """Keeps the objects of one kind of one source."""

    def __init__(
        self, kind: str, source: Source, *, client: ApiClient, gate: Gate, sink: Sink,
        timing: Timing | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.known: dict[ObjectKey, Known] = {}
        self.version = ""  # resourceVersion to start the next watch from, "" for none
        self.is_watching = False
        self.event_at = self.bookmark_at = self.contact_at = 0.0  # monotonic, 0 for never
        self.busy_since = 0.0  # 0 while no request is under way
        self.triggers: list[tuple[ObjectKey, float]] = []  # of slices; the sink takes them out
        self.deleted: set[ObjectKey] | None = None  # since an audit began
        self.relists = self.reconnects = self.skipped = 0
        self._client, self._gate, self._sink = client, gate, sink
        self._timing = timing or Timing()
        self._paths = versions.paths_of(kind)
        self._selectors = versions.selectors_of(kind, source)
        self._keeps_zones = source.is_zonal
        self._keeps_external = source.is_external
        self._streams_lists = True
        self._listed_at = float("-inf")
        self._highest = 0  # highest version seen, to notice a server that went back
        self._last_deleted = _NO_CHANGE
        self._is_doubtful = False  # the server has failed: it may have gone back since
        self._backoff = Backoff(0.8, Gate.MAX_S, random.uniform)
        self._denial = Backoff(0.8, 30.0, random.uniform)
        self._reply: ApiReply | None = None
        self._wake = threading.Event()
        self._must_list = False
        self._last_error = ""
        self._is_news = False  # whether the last failure was the first of an outage

    @property
    def path(self) -> str:
        """The API path of the kind, in the version that the server has."""
        return self._paths[0]

    def run(self) -> None:
        """List and watch forever: the main of the thread."""
        while True:
            delay_s = self._turn()
            self.is_watching, self.busy_since = False, 0.0
            if delay_s:
                self._wake.wait(delay_s)
            self._wake.clear()

    def relist(self) -> None:
        """List everything again soon; callable from any thread."""
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
            if self.version and self._is_doubtful:
                self._ask_for_our_past()
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
            _log.exception("plugin/kubernetes: %s: listing again after a bug", self.kind)
            self.version = ""
            return self._denial.next()
        if time.monotonic() - started >= self._timing.settled:
            self._backoff.reset()
            self._denial.reset()
            return random.uniform(0, 0.2)
        return 0.0 if self._must_list else self._backoff.next()

    def _on_error(self, error: ApiError, lasted_s: float) -> float:
        """Log an error once; return how long to wait."""
        if self._must_list:
            return 0.0
        self._is_doubtful |= error.is_server or not error.code
        if lasted_s >= self._timing.settled:
            self._backoff.reset()
            self._denial.reset()
            self._last_error = ""
        if error.is_expired:
            _log.info("plugin/kubernetes: %s: %s: listing again", self.kind, error)
            # List at once after a watch, but not repeatedly: a list may be expired when it arrives.
            is_first = time.monotonic() - self._listed_at >= self._timing.settled
            has_watched, self.version = bool(self.version), ""
            return 0.0 if has_watched and is_first else self._backoff.next()
        is_refused = error.code in (400, 422) or error.is_event
        if self._streams_lists and not self.version and is_refused:
            # The server cannot stream a list, or its etcd cannot (before 3.4.25): use pages.
            self._streams_lists = False
            return 0.0
        is_absent = error.code == 404 and self.kind in versions.OPTIONAL and not self.known
        if is_absent and self._has_other_version():
            return 0.0
        text = f"{versions.absence_of(self.kind)}: {error}" if is_absent else self._explain(error)
        # A failure of the whole server is logged by the first reflector only.
        if text != self._last_error and (self._is_news or not error.is_server):
            _log.log(logging.WARNING if is_absent else logging.ERROR, "plugin/kubernetes: %s", text)
        self._last_error = text
        if is_absent:
            # The CRD may be installed later.
            self._sink.listed(self.kind, set())
        elif error.code in (403, 404, 405) and not self.known:
            self._sink.refused(self.kind)
        if error.code in (401, 403, 404, 405):
            return max(error.retry_after_s, self._denial.next())
        # While the server does not answer, only the gate decides when to ask again.
        return 0.0 if error.is_server and not error.code else self._backoff.next()

    def _has_other_version(self) -> bool:
        """Turn to the next version of the API group; tell whether it has not been tried yet."""
        self._paths.append(self._paths.pop(0))
        return self.path != versions.paths_of(self.kind)[0]

    def _explain(self, error: ApiError) -> str:
        if error.code != 403:
            return f"{'API server in trouble' if error.is_server else self.kind}: {error}"
        verb = "watch" if self.version or self._streams_lists else "list"
        return f"{versions.denial_of(self.kind, verb)}: {error}"

    def _ask_for_our_past(self) -> None:
        """Forget our version unless the server still has the newest change behind it.

        If a bookmark has led us further since, it tells nothing of what lies between.

        Raises:
            ApiError, StreamError: there is no answer.
        """
        key, mark = self._newest()
        if mark.version and not self._is_as_left(key, mark):
            name = "/".join(filter(None, key))
            _log.info(
                "plugin/kubernetes: %s: the server does not show change %d, of %s: listing again",
                self.kind, mark.version, name,
            )  # fmt: skip
            self.version = ""
        self._is_doubtful = False

    def _is_as_left(self, key: ObjectKey, mark: Known) -> bool:
        """Tell whether the server has this state of an object. Raises ApiError, StreamError."""
        if key not in self.known:
            return False  # it is gone, whether the server has gone back or not
        path, query = versions.narrowed(self.path, self._selectors, key)
        try:
            found = read_list(self._open(query, self._timing.list_silence, path), Items())
            manifests = [manifest for some in found for manifest in some]
        except ApiError as error:
            if error.code in (400, 403, 404, 405, 422):
                return True  # we may not ask for one object
            raise
        finally:
            self._close()
        return [(key, mark)] == [versions.mark_of(self.kind, each) for each in manifests]

    def _newest(self) -> tuple[ObjectKey, Known]:
        """Return the object of the newest change that we have followed, with what that made."""
        newest = max(self.known.items(), key=_version_of, default=_NO_CHANGE)
        return max(newest, self._last_deleted, key=_version_of)

    def _open(self, query: Mapping[str, str], silence_s: float, path: str = "") -> ApiReply:
        """Send a request when the gate allows it. Raises ApiError."""
        self._gate.enter()
        self.busy_since = time.monotonic()
        try:
            reply = self._client.get(
                path or self.path,
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
        """Read a watch until it ends; without a version, start with a streamed list.

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
            self._read(stream, b"\n")  # the last line may lack its newline
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
            self._streams_lists = False  # it ended inside the list: use pages from now on
            raise ApiError("the streamed list is truncated")

    def _read(self, stream: _Stream, octets: bytes) -> None:
        """Apply the events in some octets of a watch. Raises ApiError."""
        changes = stream.changes
        skipped = stream.lines.skipped
        is_listing = False
        try:
            for line in stream.lines.feed(octets):
                event = load_line(line)
                if event is None:
                    self._skip(f"a line without an event: {line[:60]!r}")
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
            self._skip("an event longer than the limit")
        now = time.monotonic()
        if not stream.lines.is_inside:
            stream.inside_since = now
        elif now - stream.inside_since > self._timing.line:
            raise ApiError(f"an event is incomplete after {self._timing.line:g} s")

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
        annotations = metadata.get("annotations")
        if not isinstance(annotations, dict) or annotations.get(_INITIAL_END) != "true":
            # The server ignored sendInitialEvents and sends a plain watch.
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
        """Apply one event; ``seen`` is None once the list is complete."""
        metadata = versions.metadata_of(manifest)
        if metadata is None or type_ not in ("ADDED", "MODIFIED", "DELETED"):
            self._skip(f"an event of unknown type: {type_!r:.40}")
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
            self._skip(f"an object of a kind other than {expected}: {manifest.get('kind')!r:.40}")
        elif type_ == "DELETED":
            if known is not None and (known.uid == mark.uid or mark.version > known.version):
                del self.known[key]
                self._last_deleted = key, mark
                changes.append((key, None))
                if self.deleted is not None:
                    self.deleted.add(key)
            if seen is not None:
                seen.discard(key)
        elif seen is None and known is not None and 0 < mark.version < known.version:
            pass  # late: our object is newer
        else:
            self._keep(key, mark, manifest, changes)
            if seen is not None:
                seen.add(key)

    def _keep(
        self, key: ObjectKey, mark: Known, manifest: Mapping[str, Any], changes: list[ObjectChange]
    ) -> None:
        """Keep an object that exists."""
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
            return  # a terminating Pod keeps its last state (CoreDNS: object/pod.go)
        changes.append((found, kept))
        if self.kind == SLICES and (trigger := versions.trigger_of(manifest)):
            self.triggers.append(trigger)

    def _advance(self, version: str) -> None:
        self.version = version
        self._highest = max(self._highest, versions.number_of(version))

    def _complete(self, version: str, seen: set[ObjectKey]) -> None:
        """End a list: forget vanished objects and continue from its version."""
        if not version:
            raise ApiError("a list without a resourceVersion")
        if 0 < versions.number_of(version) < self._highest:
            _log.error(
                "plugin/kubernetes: %s: the API server went back from version %d to %s: its "
                "objects replace ours", self.kind, self._highest, version,
            )  # fmt: skip
        for key in self.known.keys() - seen:
            del self.known[key]
        self.version, self._highest = version, versions.number_of(version)
        self._last_deleted, self._is_doubtful = _NO_CHANGE, False
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
        """List everything in pages, or in one piece if pages expire. Raises ApiError."""
        self.relists += 1
        try:
            version, seen = self._pages(
                {"limit": str(PAGE), "resourceVersion": "" if self.known else "0"}
            )
        except ApiError as error:
            if not error.is_expired:
                raise
            _log.info("plugin/kubernetes: %s: pages expired, listing in one piece", self.kind)
            version, seen = self._pages({})
        self._complete(version, seen)

    def _pages(self, query: dict[str, str]) -> tuple[str, set[ObjectKey]]:
        """Apply a list; return its version and its keys. Raises ApiError or StreamError."""
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
                self._skip("an item longer than the limit, or not an object")
            metadata = items.metadata
            following = metadata.get("continue")
            if not following:
                return str(metadata.get("resourceVersion") or ""), seen
            query = {**query, "continue": str(following), "resourceVersion": ""}


def _version_of(found: tuple[ObjectKey, Known]) -> int:
    return found[1].version


class _Stream:
    """A watch being read; ``seen`` are the keys of its list, None once it is complete."""

    def __init__(self, seen: set[ObjectKey] | None) -> None:
        self.seen = seen
        self.changes: list[ObjectChange] = []  # collected into pages: each call of the sink costs
        self.lines = Lines()
        self.inside_since = time.monotonic()
