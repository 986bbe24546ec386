"""What of a cluster decides how exactly its answers can be compared: ``compare.Rules`` by question.

Everything is exact unless CoreDNS itself leaves it open (a Go map's order, a shuffle, the moment its
cache was filled); this file says where it does.
"""

from __future__ import annotations

import collections

import compare
from clusters import IMPORT_NAME, Cluster, Manifest
from questions import Asked, Manner

SRV = 33
_CD = 0x0010


class Allowances:
    """The rules of a cluster as it is now. ``age_s`` grows with the time since the first query."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._index = Index(cluster)
        self._seen: set[tuple[str, int, int, bool, bool]] = set()  # what CoreDNS may have cached

    def rules(
        self, asked: Asked, manner: Manner, age_s: float, whole: bytes | None
    ) -> compare.Rules:
        """Return the rules for the next reply to a question; the first one is from no cache."""
        qname = asked.qname.lower()
        wants_dnssec = bool(manner.opt) and bool(manner.opt[7] & 0x80)
        key = (qname, asked.qtype, asked.qclass, wants_dnssec, bool(manner.flags & _CD))
        is_outside = self._is_outside(qname)
        is_cached = self._cluster.has_cache and (key in self._seen or is_outside)
        self._seen.add(key)
        is_moved = asked.qtype != SRV
        return compare.Rules(
            is_ordered=self._index.is_ordered(qname, is_moved=is_moved),
            is_additional_ordered=self._index.is_ordered(qname, is_moved=True),
            age_s=age_s if is_cached else None,
            is_outside=is_outside,
            whole=compare.parse(whole) if whole else None,
        )

    def _is_outside(self, qname: str) -> bool:
        """Tell whether an upstream server may have had a part in the answer."""
        if not self._cluster.has_forward:
            return False
        is_served = any(
            qname.rstrip(".").endswith(end)
            for end in ("cluster.local", "second.example", "in-addr.arpa", "ip6.arpa")
        )
        falls = any(option.startswith("fallthrough") for option in self._cluster.options)
        is_reverse = qname.endswith(".arpa.")
        return not is_served or falls or is_reverse or self._index.is_alias(qname)


class Index:
    """What of a cluster decides how exactly its answers can be compared."""

    def __init__(self, cluster: Cluster) -> None:
        self._is_shuffled = cluster.has_loadbalance
        self._slices: collections.Counter[str] = collections.Counter()  # by "service.namespace"
        self._headless: set[str] = set()
        self._targets: dict[str, str] = {}  # of ExternalName
        self._aliases: set[str] = set()  # Services that may be answered with names outside
        for manifest in cluster.manifests:
            self._note(manifest)

    def _note(self, manifest: Manifest) -> None:
        metadata, spec = manifest["metadata"], manifest.get("spec") or {}
        name = f"{metadata['name']}.{metadata.get('namespace')}"
        if manifest["kind"] == "EndpointSlice":
            labels = metadata["labels"]
            service = labels.get("kubernetes.io/service-name") or labels[IMPORT_NAME]
            name = f"{service}.{metadata['namespace']}"
            self._slices[name] += 1
            if manifest["addressType"] == "FQDN":
                self._aliases.add(name)
        elif spec.get("type") == "ExternalName":
            self._targets[name] = spec["externalName"].lower()
            self._aliases.add(name)
        elif spec.get("clusterIP") == "None" or spec.get("type") == "Headless":
            self._headless.add(name)

    def is_alias(self, qname: str) -> bool:
        """Tell whether names outside may have a part in the answer about a Service."""
        labels = _left_of_svc(qname)
        return ".".join(labels[-2:]) in self._aliases

    def is_ordered(self, qname: str, *, is_moved: bool, depth: int = 0) -> bool:
        """Tell whether the order of an answer is specified.

        That of one Service's own addresses is, and of one slice's endpoints; across slices CoreDNS
        has the order of a Go map. ``is_moved``: loadbalance would move the records.
        """
        labels = _left_of_svc(qname)
        if (is_moved and self._is_shuffled) or len(labels) < 2 or depth > 12:
            return False
        name = ".".join(labels[-2:])
        if name in self._targets:
            target = self._targets[name]
            inner = _left_of_svc(target)
            return not inner or self.is_ordered(target, is_moved=is_moved, depth=depth + 1)
        if name in self._aliases:
            return False
        return self._slices[name] <= 1 or (len(labels) != 3 and name not in self._headless)


def _left_of_svc(qname: str) -> list[str]:
    labels = qname.lower().rstrip(".").split(".")
    return labels[: labels.index("svc")] if "svc" in labels else []
