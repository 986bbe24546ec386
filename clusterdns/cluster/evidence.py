"""The objects behind an answer as they are now: UID, version, and what of them gets no record.

The store keeps only what DNS needs. For a query that is explained, the whole objects are read from
the source of the store, its manifests on disk or its API server, one by one. ``of_objects`` makes
sentences of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from clusterdns.cluster import objects
from clusterdns.cluster.api import versions
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.objects import MANIFEST_KINDS, PODS, SERVICES, SLICES
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError, ClusterDNSError
from clusterdns.wire.trace import Object

MAX_OBJECTS = 50  # of one explanation
MOST_NAMED = 3
READ_TIMEOUT_S = 3.0
_SUFFIXES = (".yaml", ".yml", ".json")
Manifest = Mapping[str, Any]


class Reader(Protocol):
    """Reads whole objects of a source; the methods raise ClusterDNSError or OSError."""

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, None if it is not there."""

    def pods(self, namespace: str) -> list[Manifest]:
        """Return the Pods of a namespace."""


def reader(source: Source) -> Reader:
    """Return the reader of a source."""
    return OnDisk(Path(source.manifests)) if source.manifests else FromServer(source)


class OnDisk:
    """Reads manifests below a directory."""

    def __init__(self, root: Path) -> None:
        self._all = list(_manifests(root))

    def all(self) -> list[Manifest]:
        """Return all manifests."""
        return self._all

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object; of several the last, as in the store."""
        found = None
        for each in self._all:
            if _key(each) == (MANIFEST_KINDS[kind], namespace, name):
                found = each
        return found

    def pods(self, namespace: str) -> list[Manifest]:
        """Return the Pods of a namespace."""
        return [each for each in self._all if _key(each)[:2] == ("Pod", namespace)]


def _manifests(root: Path) -> Iterator[Manifest]:
    from clusterdns.cluster import manifests  # and with it PyYAML

    for path in sorted(root.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            try:
                yield from manifests.documents(path)
            except (manifests.ManifestError, OSError):
                continue  # the watcher has logged it


def _key(manifest: Manifest) -> tuple[str, str, str]:
    metadata = versions.metadata_of(manifest) or {}
    namespace = metadata.get("namespace") or "default"
    return str(manifest.get("kind")), str(namespace), str(metadata.get("name"))


class FromServer:
    """Reads from the API server of a source; the ClusterRole of a DNS server may list, not get."""

    def __init__(self, source: Source) -> None:
        from clusterdns.cluster.api.client import ApiClient  # and with it urllib3

        self._client = ApiClient(source)

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object; raises ApiError."""
        found = self._list(kind, namespace, {"fieldSelector": f"metadata.name={name}"})
        return found[0] | {"kind": MANIFEST_KINDS[kind]} if found else None

    def pods(self, namespace: str) -> list[Manifest]:
        """Return the Pods of a namespace, the first hundred; raises ApiError."""
        return [*self._list(PODS, namespace, {"limit": "100"})]

    def _list(self, kind: str, namespace: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        path = versions.within(versions.paths_of(kind)[0], namespace)
        reply = self._client.get(path, query, read_timeout_s=READ_TIMEOUT_S)
        try:
            items = json.loads(b"".join(reply.chunks())).get("items")
        except (ValueError, AttributeError) as error:
            raise ApiError(f"{path}: {error}") from error
        finally:
            reply.close()
        return [each for each in items or () if isinstance(each, dict)]


def of_objects(about: Iterable[Object], read: Reader) -> dict[Object, list[str]]:
    """Return sentences about each object; a source that cannot be read is among them."""
    found: dict[Object, list[str]] = {}
    for each in list(dict.fromkeys(about))[:MAX_OBJECTS]:
        try:
            found[each] = list(_of_object(each, read))
        except (ClusterDNSError, OSError) as error:
            found[each] = [f"{'/'.join(each)} cannot be read: {error}"]
    return found


def _of_object(about: Object, read: Reader) -> Iterator[str]:
    kind, namespace, name = about
    manifest = read.get(kind, namespace, name)
    title = f"{MANIFEST_KINDS[kind]} {namespace}/{name}"
    if manifest is None:
        yield f"{title} is not there any more"
        return
    metadata = versions.metadata_of(manifest) or {}
    uid, version = metadata.get("uid"), metadata.get("resourceVersion")
    yield f"{title}: UID {uid or '(none)'}, resourceVersion {version or '(none)'}"
    if kind == SLICES:
        try:
            for address, why in objects.left_out(manifest):
                yield f"{address} gets no record: it is {why}"
        except ObjectError as error:
            yield f"{title} cannot be read: {error}"


def why_empty(namespace: str, name: str, read: Reader) -> str:
    """Return why a Service has no ready endpoint, "" if that cannot be seen.

    Raises:
        ClusterDNSError, OSError: the source cannot be read.
    """
    manifest = read.get(SERVICES, namespace, name)
    selector = ((manifest or {}).get("spec") or {}).get("selector")
    if not isinstance(selector, dict) or not selector:
        return "the Service has no selector, so its EndpointSlices are made by hand"
    pods = read.pods(namespace)
    chosen = [pod for pod in pods if selector.items() <= objects.labels(pod).items()]
    words = ",".join(f"{key}={value}" for key, value in selector.items())
    if chosen:
        names = ", ".join(_key(pod)[2] for pod in chosen[:MOST_NAMED])
        return f"its selector {words} matches Pods, none of which is ready: {names}"
    others = [
        f"{_key(pod)[2]} ({','.join(f'{k}={v}' for k, v in objects.labels(pod).items())})"
        for pod in pods[:MOST_NAMED]
    ]
    there = f"; there are {', '.join(others)}" if others else ""
    return f"its selector {words} matches no Pod of the namespace{there}"
