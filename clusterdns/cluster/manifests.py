"""The watcher of a directory of manifests.

Every half second it compares inode, size and time of each file with those of its last reading, and
reads changed files again. The objects of all files pass ``objects.cut`` and the selectors of the
source, as those of an API server do, and the differences are fed to the workers. A file that cannot
be read or parsed is reported once, and its last good content stays in force.

A file may be read while it is being written, or be gone for a moment. So what takes objects away
has to stay like that for a while, and an empty file takes nothing away: ``kubectl get ... > FILE``
leaves it empty for as long as the API server takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clusterdns.cluster import objects, selectors, yamltext
from clusterdns.cluster.api import versions
from clusterdns.cluster.feed import Feeder, plain
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.objects import MANIFEST_KINDS, NAMESPACES, PODS, ObjectId
from clusterdns.cluster.published import PUBLISHED
from clusterdns.cluster.source import Source
from clusterdns.cluster.yamltext import YamlError
from clusterdns.errors import ClusterDNSError
from clusterdns.host.filetree import FileTree
from clusterdns.host.stamp import Stamp

POLL_S = 0.5
SETTLE_S, GONE_S = 0.9, 0.2  # how long a file is like that: with fewer objects, gone
UNSETTLED_POLL_S = 0.1
MAX_FILE_OCTETS = 256 * 2**20
_SUFFIXES = frozenset((".yaml", ".yml", ".json"))
_log = logging.getLogger(__name__)

Objects = dict[ObjectId, tuple[Any, ...]]


class ManifestError(ClusterDNSError):
    """A file without readable manifests; prints as ``file:line: reason``."""

    def __init__(self, path: Path, reason: object, line: int = 0) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")


async def watch(source: Source, feeder: Feeder, before: Mapping[ObjectId, tuple[Any, ...]]) -> None:
    """Feed the workers from ``source`` until cancelled.

    ``before`` are objects known to the version of this program before. They stay as long as a file
    cannot be read, since they may be its.
    """
    directory = Directory(source)
    feeder.start()
    is_news = bool(before)
    while True:
        if directory.refresh() or is_news or (before and not directory.has_unread):
            before, is_news = (before if directory.has_unread else {}), False
            found = {**before, **directory.objects()}
            for kind, key in [at for at in feeder.objects if at not in found]:
                feeder.put(kind, key, None)
            for (kind, key), value in found.items():
                feeder.put(kind, key, value)
        if directory.is_read:
            for kind in source.kinds:
                feeder.synced(kind)
        await asyncio.sleep(UNSETTLED_POLL_S if directory.is_unsettled else POLL_S)


class Directory:
    """The objects of the manifests below a directory, as last read."""

    def __init__(self, source: Source) -> None:
        self._root = Path(source.manifests)
        self._source = source
        self._selectors = {
            kind: selectors.parse(versions.selectors_of(kind, source)["labelSelector"])
            for kind in source.kinds
        }
        self.is_read = False  # the directory has been listed, be it once
        self._signatures: dict[Path, Stamp] = {}
        self._files: dict[Path, Objects] = {}
        # Changes that would remove objects, None for a missing file, and the time they were first
        # seen.
        self._losses: dict[Path, tuple[Stamp | None, float]] = {}
        self._homeless: frozenset[str] = frozenset()
        self._complaints: set[str] = set()

    def refresh(self) -> bool:
        """Read the files that changed; tell whether any object may have changed."""
        try:
            tree = FileTree(self._root, _SUFFIXES)
        except OSError as error:
            self._complain([f"{self._root}: {error.strerror or error}"])
            return False
        self.is_read = True
        self._complain([f"{path}: {reason}" for path, reason in tree.unread.items()])
        before, self._losses = self._losses, {}
        has_changed = False
        for path in self._signatures.keys() - tree.files.keys():
            if not tree.may_hold(path) and self._is_settled(path, None, before):
                del self._signatures[path]
                has_changed |= self._files.pop(path, None) is not None
        for path, stamp in tree.files.items():
            if self._signatures.get(path) == stamp:
                continue
            found = self._read(path, stamp)
            if found is None:
                self._signatures[path] = stamp
            elif self._files.get(path, {}).keys() <= found.keys() or self._is_settled(
                path, stamp, before
            ):
                self._signatures[path], self._files[path] = stamp, found
                has_changed = True
        return has_changed

    def _is_settled(
        self, path: Path, stamp: Stamp | None, before: Mapping[Path, tuple[Stamp | None, float]]
    ) -> bool:
        """Tell whether a file that takes objects away has been like that for long enough."""
        now = time.monotonic()
        last, since = before.get(path, (stamp, now))
        since = since if last == stamp else now
        self._losses[path] = stamp, since
        return now - since >= (GONE_S if stamp is None else SETTLE_S)

    @property
    def has_unread(self) -> bool:
        """Whether a file or directory could not be read yet, not even once."""
        return bool(self._complaints or self._signatures.keys() - self._files.keys())

    @property
    def is_unsettled(self) -> bool:
        """Whether something takes objects away, if it stays so."""
        return bool(self._losses)

    def objects(self) -> Objects:
        """Return the objects of all files; of two with one key, the last file's counts."""
        found: Objects = {}
        for path in sorted(self._files):
            found.update(self._files[path])
        spaces = {key[1] for kind, key in found if kind == NAMESPACES}
        # Those that only publish names of their own need no Namespace for that.
        housed = frozenset(key[0] for kind, key in found if kind not in (NAMESPACES, *PUBLISHED))
        homeless = housed - spaces
        for name in sorted(homeless - self._homeless):
            _log.warning("manifests: no Namespace %r among them: its names do not exist", name)
        self._homeless = homeless
        return found

    def _read(self, path: Path, stamp: Stamp) -> Objects | None:
        """Return the objects of one file, None if it cannot be read; says why."""
        try:
            if not stamp.octets and self._files.get(path):
                raise ManifestError(path, "is empty: what it held stays")
            return self._parse(path)
        except (OSError, ManifestError) as error:
            _log.error("manifests: %s", error)
            return None

    def _parse(self, path: Path) -> Objects:
        """Return the objects of one file. Raises ManifestError or OSError."""
        found: Objects = {}
        known = self._files.get(path, {})
        for manifest in documents(path):
            for kind, selector in self._selectors.items():
                if manifest.get("kind") != MANIFEST_KINDS[kind]:
                    continue
                if not versions.is_of(kind, manifest):
                    continue
                if not selectors.matches(selector, objects.labels(manifest)):
                    continue
                try:
                    self._keep(kind, manifest, known, found)
                except ObjectError as error:
                    _log.warning("manifests: %s: %s", path, error)
        return found

    def _keep(self, kind: str, manifest: Mapping[str, Any], known: Objects, found: Objects) -> None:
        """Put one object into ``found``. Raises ObjectError."""
        key, kept = objects.cut(
            kind,
            manifest,
            keeps_zones=self._source.is_zonal,
            keeps_external=self._source.is_external,
        )
        if kind == PODS and "deletionTimestamp" in manifest["metadata"]:
            # A terminating Pod keeps its last state until it is gone, and is left out if it was
            # terminating when first seen (CoreDNS: object/informer.go, errPodTerminating).
            if kept is not None and (kind, key) in known:
                found[kind, key] = known[kind, key]
        elif kept is not None:
            found[kind, key] = plain(kept) or ()

    def _complain(self, reasons: Iterable[str]) -> None:
        """Log what is wrong with the directory, each reason until it is gone once."""
        now = set(reasons)
        for reason in sorted(now - self._complaints):
            _log.error("manifests: %s", reason)
        self._complaints = now


def documents(path: Path) -> Iterator[Mapping[str, Any]]:
    """Return every manifest of a file, and each item of a List.

    Raises:
        ManifestError: it is no YAML or JSON, or not of the shape of manifests.
    """
    with path.open("rb") as file:
        text = file.read(MAX_FILE_OCTETS + 1)
    if len(text) > MAX_FILE_OCTETS:
        raise ManifestError(path, f"larger than {MAX_FILE_OCTETS} octets")
    try:
        found = [json.loads(text)] if path.suffix == ".json" else yamltext.documents(text)
        for document in found:
            yield from _flatten(document, path)
    except YamlError as error:
        raise ManifestError(path, error, error.line) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(path, error) from error


def _flatten(document: object, path: Path) -> Iterator[Mapping[str, Any]]:
    if document is None:
        return
    if not isinstance(document, Mapping):
        raise ManifestError(path, f"{document!r:.40} is no Kubernetes object")
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _flatten(item, path)
    else:
        yield document
