"""Comparison of our objects with the API server's, to find watches that lost an event.

Every few minutes it lists the names, UIDs and versions of all objects - metadata only, in pages,
with pauses - and compares them. It checks the differences of all kinds again after ``_GRACE_S``,
since changes may be on their way. An object that still differs, and is not newer than the list, is
a divergence: it is counted, and its kind is listed again. CoreDNS has no such audit (coredns #3587,
#3879).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clusterdns.cluster.api import versions
from clusterdns.cluster.api.backoff import Gate
from clusterdns.cluster.api.client import ApiClient, ApiReply, read_list
from clusterdns.cluster.api.jsonstream import Items, StreamError
from clusterdns.cluster.api.reflector import PAGE, Reflector
from clusterdns.cluster.api.versions import Known
from clusterdns.cluster.objects import ObjectKey
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_PAUSE_S = 0.05  # between pages
_GRACE_S = 2.0  # for changes on their way
_SILENCE_S = 30.0
_log = logging.getLogger("kubernetes")


class _Compared(NamedTuple):
    """How a kind differs from a list of some version; ``before`` was ours when that began."""

    reflector: Reflector
    suspects: dict[ObjectKey, Known | None]
    version: int
    before: int


class Auditor:
    """Compares the kinds of one source, one after another, forever."""

    def __init__(
        self, source: Source, reflectors: Iterable[Reflector], client: ApiClient, gate: Gate
    ) -> None:
        self.audits: dict[str, int] = {}
        self.divergences: dict[str, int] = {}
        self._source = source
        self._reflectors = list(reflectors)
        self._client = client
        self._gate = gate

    def run(self) -> None:
        """Audit so often that what is lost is found within ``audit_s``: the main of the thread."""
        period_s = self._source.audit_s
        while True:
            # Replicas that started together shall not audit together.
            time.sleep(max(period_s / 4, period_s * random.uniform(0.6, 1.0) - _GRACE_S))
            try:
                self.audit([r for r in self._reflectors if r.is_watching and self._gate.is_open])
            except Exception:
                _log.exception("plugin/kubernetes: audit failed")

    def audit(self, reflectors: Sequence[Reflector]) -> int:
        """Compare kinds, list those again that diverged; return how many objects differed."""
        try:
            compared = [found for each in reflectors if (found := self._compared(each))]
            if any(found.suspects for found in compared):
                time.sleep(_GRACE_S)
            return sum(map(self._judge, compared))
        finally:
            for each in reflectors:
                each.deleted = None

    def _compared(self, reflector: Reflector) -> _Compared | None:
        """Return how one kind differs from the server's, None if that does not answer."""
        before = versions.number_of(reflector.version)
        reflector.deleted = set()
        try:
            suspects, version = self._compare(reflector)
        except (ApiError, StreamError) as error:
            _log.warning("plugin/kubernetes: %s: audit failed: %s", reflector.kind, error)
            return None
        return _Compared(reflector, suspects, version, before)

    def _judge(self, compared: _Compared) -> int:
        """List a kind again if it has diverged; return how many objects differ."""
        reflector, suspects, version, before = compared
        wrong = [at for at in suspects.items() if _is_wrong(reflector, *at, version)]
        found = len(wrong) + (0 < version < before)
        kind = reflector.kind
        self.audits[kind] = self.audits.get(kind, 0) + 1
        if found:
            self.divergences[kind] = self.divergences.get(kind, 0) + found
            names = ", ".join("/".join(filter(None, key)) for key, _ in wrong[:3])
            _log.warning(
                "plugin/kubernetes: %s: %d objects differ from the API server's (%s): "
                "listing again", kind, found, names,
            )  # fmt: skip
            reflector.relist()
        return found

    def _compare(self, reflector: Reflector) -> tuple[dict[ObjectKey, Known | None], int]:
        """Return the objects that differ, None if gone from the server, and the list's version."""
        suspects: dict[ObjectKey, Known | None] = {}
        there: set[int] = set()  # hashes of keys take a fifth of the memory of keys
        query = {"limit": str(PAGE), **versions.selectors_of(reflector.kind, self._source)}
        while True:
            items = Items()
            for manifests in read_list(self._open(reflector.path, query), items):
                for manifest in manifests:
                    found = versions.mark_of(reflector.kind, manifest)
                    if found is None:
                        continue
                    there.add(hash(found[0]))
                    if reflector.known.get(found[0]) != found[1]:
                        suspects[found[0]] = found[1]
            metadata = items.metadata
            version = versions.number_of(metadata.get("resourceVersion"))
            if not metadata.get("continue"):
                break
            query["continue"] = str(metadata["continue"])
            time.sleep(_PAUSE_S)
        suspects |= {key: None for key in reflector.known.copy() if hash(key) not in there}
        return suspects, version

    def _open(self, path: str, query: dict[str, str]) -> ApiReply:
        return self._client.get(path, query, read_timeout_s=_SILENCE_S, accept=METADATA_ONLY)


def _is_wrong(reflector: Reflector, key: ObjectKey, theirs: Known | None, version: int) -> bool:
    """Tell whether a difference remains and our object is not newer than the list."""
    ours = reflector.known.get(key)
    if ours == theirs or (ours is not None and ours.version > version):
        return False
    return ours is not None or key not in (reflector.deleted or ())
