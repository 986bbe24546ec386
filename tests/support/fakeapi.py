"""A Kubernetes API server of this project's own: lists and watches over plain HTTP.

``FakeApi`` holds objects by resource and gives every change a resourceVersion. It serves what a
client needs to list and watch: label and field selectors, pages, bookmarks, ``sendInitialEvents``,
and 410 for a version it no longer has. One thread a connection, bounded by what a test opens.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterdns.cluster import selectors
from clusterdns.cluster.published import CLIENTS, GROUPS, MANIFEST_KINDS

Manifest = dict[str, Any]

# Resource -> (API path, apiVersion, kind)
RESOURCES = {
    "namespaces": ("/api/v1/namespaces", "v1", "Namespace"),
    "services": ("/api/v1/services", "v1", "Service"),
    "pods": ("/api/v1/pods", "v1", "Pod"),
    "endpointslices": (
        "/apis/discovery.k8s.io/v1/endpointslices",
        "discovery.k8s.io/v1",
        "EndpointSlice",
    ),
    "serviceimports": (
        "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
        "multicluster.x-k8s.io/v1alpha1",
        "ServiceImport",
    ),
    **{
        kind: (
            f"/apis/{group}/{version}/{kind}",
            f"{group}/{version}",
            MANIFEST_KINDS[kind],
        )
        for kind, (group, version, *_) in GROUPS.items()
        if kind != CLIENTS  # Pods, which are here already
    },
}
_BY_KIND = {kind: resource for resource, (_, _, kind) in RESOURCES.items()}
_NAMESPACED = re.compile(r"(.+)/namespaces/([^/]+)/(\w+)")
_BY_PATH = {path: resource for resource, (path, _, _) in RESOURCES.items()}


class FakeApi:
    """An API server; ``url`` is where it is. Use it as a context manager."""

    def __init__(self, objects: Iterable[Manifest] = ()) -> None:
        self.version = 1000
        self.objects: dict[str, dict[tuple[str, str], Manifest]] = {r: {} for r in RESOURCES}
        # version, resource, the object before and after; None where there was or is none
        self.history: list[tuple[int, str, Manifest | None, Manifest | None]] = []
        self.oldest = 0  # watches from before are told 410
        self.never_list: set[str] = set()  # resources whose list does not come
        self.requests: list[str] = []
        self.changed = threading.Condition()
        self.is_closing = False
        for manifest in objects:
            self.apply(manifest)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> FakeApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closing = True
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def apply(self, manifest: Manifest) -> None:
        """Create or replace an object."""
        resource = _BY_KIND[manifest["kind"]]
        metadata = manifest["metadata"]
        key = (metadata.get("namespace", "") or "", metadata["name"])
        with self.changed:
            before = self.objects[resource].get(key)
            self.version += 1
            _, version, kind = RESOURCES[resource]
            stored = {**manifest, "apiVersion": version, "kind": kind}
            stored["metadata"] = {
                "uid": f"{resource}-{key[0]}-{key[1]}",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                **metadata,
                "resourceVersion": str(self.version),
            }
            self.objects[resource][key] = stored
            self._record(resource, before, stored)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Remove an object."""
        resource = _BY_KIND[kind]
        with self.changed:
            gone = self.objects[resource].pop((namespace, name))
            self.version += 1
            self._record(resource, gone, None)

    def compact(self) -> None:
        """Forget all history: who watches from before has to list again."""
        with self.changed:
            self.oldest = self.version
            self.history.clear()
            self.changed.notify_all()

    def _record(self, resource: str, before: Manifest | None, after: Manifest | None) -> None:
        self.history.append((self.version, resource, before, after))
        self.changed.notify_all()

    def select(self, resource: str, query: Mapping[str, str]) -> list[Manifest]:
        """Return the objects that a request's selectors let through."""
        return [m for m in self.objects[resource].values() if is_selected(m, query)]


def event_of(
    before: Manifest | None, after: Manifest | None, version: int, query: Mapping[str, str]
) -> Manifest | None:
    """Return the event that a watch is sent for a change, None for none.

    An object that leaves the selection is gone for this watch, one that enters it is new.
    """
    was = before is not None and is_selected(before, query)
    if after is not None and is_selected(after, query):
        return {"type": "MODIFIED" if was else "ADDED", "object": after}
    if before is None or not was:
        return None
    metadata = {**before["metadata"], "resourceVersion": str(version)}
    return {"type": "DELETED", "object": {**before, "metadata": metadata}}


def is_selected(manifest: Manifest, query: Mapping[str, str]) -> bool:
    """Tell whether label and field selectors let an object through."""
    labels = manifest["metadata"].get("labels") or {}
    if not selectors.matches(selectors.parse(query.get("labelSelector", "")), labels):
        return False
    phase = (manifest.get("status") or {}).get("phase")
    terms = [term for term in query.get("fieldSelector", "").split(",") if term]
    for term in terms:
        if term == f"status.phase!={phase}":
            return False
        if term.startswith("metadata.name=") and term[14:] != manifest["metadata"]["name"]:
            return False
    namespace = query.get("namespace")  # of the path
    return namespace is None or namespace == manifest["metadata"].get("namespace")


def services(count: int) -> Iterator[Manifest]:
    """Yield Services s0, s1, ... , each with a slice of two endpoints, in the namespace `default`."""
    yield {"kind": "Namespace", "metadata": {"name": "default"}}
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    for i in range(count):
        name, low = f"s{i}", f"{i // 250}.{i % 250 + 1}"
        metadata = {"name": name, "namespace": "default"}
        address = f"10.96.{low}"
        yield {
            "kind": "Service",
            "metadata": metadata,
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports},
        }  # fmt: skip
        labels = {"kubernetes.io/service-name": name}
        yield {
            "kind": "EndpointSlice",
            "metadata": {**metadata, "name": f"{name}-a", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": [f"10.{net}.{low}"], "conditions": {"ready": True}} for net in (1, 2)
            ],
            "ports": ports,
        }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    api: FakeApi

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is no news here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        api = self.server.api
        api.requests.append(self.path)
        path = url.path
        if found := _NAMESPACED.fullmatch(path):
            path, query["namespace"] = f"{found[1]}/{found[3]}", found[2]
        resource = _BY_PATH.get(path)
        if resource is None:
            self._send(404, _status(404, "NotFound", f"{url.path} is not here"))
        elif query.get("watch") in ("true", "1"):
            self._watch(resource, query)
        elif resource in api.never_list:
            while not api.is_closing and resource in api.never_list:
                time.sleep(0.05)
            self.close_connection = True
        else:
            self._list(resource, query)

    def _list(self, resource: str, query: Mapping[str, str]) -> None:
        api = self.server.api
        _, version, kind = RESOURCES[resource]
        with api.changed:
            items = api.select(resource, query)
            at = api.version
        limit, start = int(query.get("limit", "0")), int(query.get("continue", "0") or "0")
        metadata = {"resourceVersion": str(at)}
        if limit and start + limit < len(items):
            metadata["continue"] = str(start + limit)
        items = items[start : start + limit] if limit else items[start:]
        body = {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items}
        self._send(200, body)

    def _watch(self, resource: str, query: Mapping[str, str]) -> None:
        api = self.server.api
        wants_all = query.get("sendInitialEvents") == "true"
        asked = int(query.get("resourceVersion") or "0")
        with api.changed:
            if not wants_all and asked and asked < api.oldest:
                expired = _status(410, "Expired", "too old resource version")
                self._send(200, {"type": "ERROR", "object": expired})
                return
            initial = api.select(resource, query) if wants_all else []
            at = api.version if wants_all or not asked else asked
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while wants_all and resource in api.never_list and not api.is_closing:
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            for manifest in initial:
                self._chunk({"type": "ADDED", "object": manifest})
            if wants_all:
                self._chunk(_bookmark(resource, at, is_end=True))
            self._follow(resource, query, at)
        self.close_connection = True

    def _follow(self, resource: str, query: Mapping[str, str], at: int) -> None:
        """Send the changes of a resource as they come."""
        api = self.server.api
        deadline = time.monotonic() + float(query.get("timeoutSeconds", "3600"))
        while not api.is_closing and time.monotonic() < deadline:
            with api.changed:
                if at < api.oldest:
                    expired = _status(410, "Expired", "too old resource version")
                    self._chunk({"type": "ERROR", "object": expired})
                    break
                news = [entry for entry in api.history if entry[0] > at]
                if not news:
                    api.changed.wait(0.5)
                    continue
            for version, kind, before, after in news:
                at = version
                event = event_of(before, after, version, query) if kind == resource else None
                if event is not None:
                    self._chunk(event)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Manifest) -> None:
        octets = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(octets), octets))
        self.wfile.flush()

    def _send(self, status: int, body: Manifest) -> None:
        octets = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)


def _status(code: int, reason: str, message: str) -> Manifest:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    }  # fmt: skip


def _bookmark(resource: str, version: int, *, is_end: bool) -> Manifest:
    _, api_version, kind = RESOURCES[resource]
    metadata: Manifest = {"resourceVersion": str(version)}
    if is_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return {
        "type": "BOOKMARK",
        "object": {"kind": kind, "apiVersion": api_version, "metadata": metadata},
    }
