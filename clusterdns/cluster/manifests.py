"""The watcher of a directory of manifests.

Every half second it compares inode, size and time of each file with those of its last reading, and
reads changed files again. The objects of all files pass ``objects.cut`` and the selectors of the
source, as those of an API server do, and the differences are fed to the workers. A file that cannot
be read or parsed is reported once, and its last good content stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from clusterdns.cluster import objects, selectors
from clusterdns.cluster.api import versions
from clusterdns.cluster.feed import Feeder, plain
from clusterdns.cluster.objects import MANIFEST_KINDS, NAMESPACES, PODS, ObjectError, ObjectId
from clusterdns.cluster.source import Source
from clusterdns.errors import ClusterDNSError
from clusterdns.host.stamp import Stamp

POLL_S = 0.5
MAX_FILE_OCTETS = 256 * 2**20
_SUFFIXES = frozenset((".yaml", ".yml", ".json"))
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_log = logging.getLogger(__name__)

Objects = dict[ObjectId, tuple[Any, ...]]


class ManifestError(ClusterDNSError):
    """A file without readable manifests; prints as ``file:line: reason``."""

    def __init__(self, path: Path, reason: object, line: int = 0) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")


async def watch(source: Source, listener: socket.socket) -> None:
    """Feed the workers from ``source`` until cancelled."""
    feeder, directory = Feeder(listener), Directory(source)
    feeder.start()
    while True:
        if directory.refresh():
            found = directory.objects()
            for kind, key in [at for at in feeder.objects if at not in found]:
                feeder.put(kind, key, None)
            for (kind, key), value in found.items():
                feeder.put(kind, key, value)
        for kind in source.kinds:
            feeder.synced(kind)
        await asyncio.sleep(POLL_S)


class Directory:
    """The objects of the manifests below a directory, as last read."""

    def __init__(self, source: Source) -> None:
        self._root = Path(source.manifests)
        self._source = source
        self._selectors = {
            kind: selectors.parse(versions.selectors_of(kind, source)["labelSelector"])
            for kind in source.kinds
        }
        self._signatures: dict[Path, Stamp] = {}
        self._files: dict[Path, Objects] = {}
        self._homeless: frozenset[str] = frozenset()
        self._last_error = ""

    def refresh(self) -> bool:
        """Read the files that changed; tell whether any object may have changed."""
        try:
            seen = dict(_files(self._root))
        except OSError as error:
            self._complain(str(error))
            return False
        has_changed = False
        for gone in self._signatures.keys() - seen.keys():
            del self._signatures[gone]
            has_changed |= self._files.pop(gone, None) is not None
        for path, signature in seen.items():
            if self._signatures.get(path) == signature:
                continue
            self._signatures[path] = signature
            try:
                self._files[path] = self._read(path)
                has_changed = True
            except (OSError, ManifestError) as error:
                self._complain(str(error))
        return has_changed

    def objects(self) -> Objects:
        """Return the objects of all files; of two with one key, the last file's counts."""
        found: Objects = {}
        for path in sorted(self._files):
            found.update(self._files[path])
        spaces = {key[1] for kind, key in found if kind == NAMESPACES}
        homeless = frozenset(key[0] for kind, key in found if kind != NAMESPACES) - spaces
        for name in sorted(homeless - self._homeless):
            _log.warning("manifests: no Namespace %r among them: its names do not exist", name)
        self._homeless = homeless
        return found

    def _read(self, path: Path) -> Objects:
        """Return the objects of one file. Raises ManifestError or OSError."""
        found: Objects = {}
        known = self._files.get(path, {})
        for manifest in documents(path):
            for kind, selector in self._selectors.items():
                if manifest.get("kind") != MANIFEST_KINDS[kind]:
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

    def _complain(self, error: str) -> None:
        """Log an error, once until it changes."""
        if error != self._last_error:
            _log.error("manifests: %s", error)
        self._last_error = error


def _files(root: Path) -> Iterator[tuple[Path, Stamp]]:
    """Return the files with manifests below ``root``, without hidden ones, and their stamps."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no directory")
    for path in root.rglob("*"):
        if path.suffix in _SUFFIXES and not _is_hidden(path.relative_to(root)):
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                stat = path.stat()
                if path.is_file():
                    yield path, Stamp.of(stat)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def documents(path: Path) -> Iterator[Mapping[str, Any]]:
    """Return every manifest of a file, and each item of a List.

    Raises:
        ManifestError: it is no YAML or JSON, or not of the shape of manifests.
    """
    if path.stat().st_size > MAX_FILE_OCTETS:
        raise ManifestError(path, f"larger than {MAX_FILE_OCTETS} octets")
    text = path.read_bytes()
    try:
        documents = [json.loads(text)] if path.suffix == ".json" else yaml.load_all(text, _Loader)
        for document in documents:
            yield from _flatten(document, path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ManifestError(path, error.problem, line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
