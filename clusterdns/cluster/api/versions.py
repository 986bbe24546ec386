"""Metadata of objects and kinds beside their DNS facts: API paths, selectors, UIDs, versions.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from clusterdns.cluster.objects import (
    IMPORT_NAME_LABEL,
    IMPORT_SLICES,
    IMPORTS,
    NAMESPACES,
    PODS,
    SERVICE_NAME_LABEL,
    SLICES,
    ObjectKey,
    labels,
)
from clusterdns.cluster.published import CLIENTS, GROUPS, PUBLISHED
from clusterdns.cluster.source import Source

# API group of the kinds outside the core group, and its versions, the one to try first in front.
_GROUPS: dict[str, tuple[str, ...]] = {
    SLICES: ("discovery.k8s.io", "v1"),
    IMPORT_SLICES: ("discovery.k8s.io", "v1"),
    IMPORTS: ("multicluster.x-k8s.io", "v1alpha1"),
    **GROUPS,
}
_RESOURCES = {IMPORT_SLICES: SLICES, CLIENTS: PODS}  # where that is not the kind
# Kinds of CustomResourceDefinitions that may be missing.
OPTIONAL = PUBLISHED - {CLIENTS} | {IMPORTS}
LAST_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
POD_FIELDS = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"


class Known(NamedTuple):
    """The metadata kept of an object: a hash of its UID, and its version."""

    uid: int
    version: int


def paths_of(kind: str) -> list[str]:
    """Return the API paths of a kind, in all namespaces: one for each version that may be there."""
    group, *versions = _GROUPS.get(kind, ("", "v1"))
    if not group:
        return [f"/api/v1/{_resource(kind)}"]
    return [f"/apis/{group}/{version}/{_resource(kind)}" for version in versions]


def within(path: str, namespace: str) -> str:
    """Return the API path of a kind in one namespace; "" is that of kinds without."""
    head, _, resource = path.rpartition("/")
    return f"{head}/namespaces/{namespace}/{resource}" if namespace else path


def narrowed(path: str, selectors: Mapping[str, str], key: ObjectKey) -> tuple[str, dict[str, str]]:
    """Return the path and the selector that list one object; etcd then reads no other."""
    namespace, name = key
    terms = (f"metadata.name={name}", selectors.get("fieldSelector", ""))
    return within(path, namespace), {"fieldSelector": ",".join(filter(None, terms))}


def is_of(kind: str, manifest: Mapping[str, Any]) -> bool:
    """Tell whether a manifest of the right word is of the group of a published kind.

    `Ingress` and `Gateway` are kinds of other groups, too.
    """
    group, slash, _ = str(manifest.get("apiVersion") or "").partition("/")
    return kind not in PUBLISHED or (group if slash else "") == _GROUPS[kind][0]


def selectors_of(kind: str, source: Source) -> dict[str, str]:
    """Return the query parameters that select objects (CoreDNS: controller.go)."""
    selector = source.selector if kind not in PUBLISHED else ""
    if kind in (NAMESPACES, IMPORTS):
        selector = source.namespace_selector
    elif kind == IMPORT_SLICES:
        selector = ",".join(filter(None, (selector, IMPORT_NAME_LABEL)))
    return {
        "labelSelector": selector,
        "fieldSelector": POD_FIELDS if kind in (PODS, CLIENTS) else "",
    }


def denial_of(kind: str, verb: str) -> str:
    """Return the log line for a right that the ClusterRole lacks."""
    group, resource = _GROUPS.get(kind, ("", ""))[0], _resource(kind)
    return (
        f"not allowed to {verb} {resource}: the ClusterRole needs the verbs list and watch "
        f'for resource "{resource}" in API group "{group}"'
    )


def absence_of(kind: str) -> str:
    """Return the log line for a kind that the API server does not have."""
    return (
        f"{_resource(kind)}: the API server has no such resource in API group "
        f'"{_GROUPS[kind][0]}": there are none until its CustomResourceDefinition is installed'
    )


def _resource(kind: str) -> str:
    return _RESOURCES.get(kind, kind)


def trigger_of(manifest: Mapping[str, Any]) -> tuple[ObjectKey, float] | None:
    """Return the Service of a slice and the Unix time of the change that triggered its update."""
    metadata = metadata_of(manifest) or {}
    annotations, namespace = metadata.get("annotations"), metadata.get("namespace")
    text = annotations.get(LAST_TRIGGER) if isinstance(annotations, Mapping) else None
    service = labels(manifest).get(SERVICE_NAME_LABEL)
    if not isinstance(text, str) or not isinstance(service, str) or not isinstance(namespace, str):
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return ((namespace, service), at.timestamp()) if at.tzinfo else None


def mark_of(kind: str, manifest: object) -> tuple[ObjectKey, Known] | None:
    """Return an object's key with its UID and version, None if it has no name."""
    metadata = metadata_of(manifest)
    found = mark(kind, metadata) if metadata is not None else None
    return found if found and found[0][1] else None


def metadata_of(manifest: object) -> Mapping[str, Any] | None:
    """Return the metadata of an object, None if it has none."""
    metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
    return metadata if isinstance(metadata, dict) else None


def mark(kind: str, metadata: Mapping[str, Any]) -> tuple[ObjectKey, Known]:
    """Return the key of an object, ("", "") without one, with its UID and version."""
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        return ("", ""), Known(0, 0)
    key = ("", name) if kind == NAMESPACES else (namespace or "default", name)
    return key, Known(hash(str(metadata.get("uid"))), number_of(metadata.get("resourceVersion")))


def number_of(version: object) -> int:
    """Return a resourceVersion as a comparable number (KEP-5504), 0 if it is none."""
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 20:
        return int(version)
    return 0
