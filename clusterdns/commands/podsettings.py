"""Resolver settings of a Pod, from its namespace, or from its manifest.

kubelet makes them (Kubernetes: pkg/kubelet/network/dns/dns.go): `dnsPolicy` chooses the base, and
`dnsConfig` adds to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clusterdns.errors import ClusterDNSError
from clusterdns.host import resolvconf
from clusterdns.host.resolvconf import ResolvConf

DEFAULT_SERVER = "10.96.0.10"  # kubeadm's Service kube-dns
DEFAULT_ZONE = "cluster.local"
NODE = Path("/etc/resolv.conf")
_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label
_SUFFIXES = (".yaml", ".yml", ".json")


def of_pod(
    text: str, *, manifests: Path | None, zone: str = DEFAULT_ZONE, server: str = DEFAULT_SERVER
) -> ResolvConf:
    """Return the settings of a Pod given as ``NAMESPACE`` or ``NAMESPACE/POD``.

    With a Pod, its manifest below ``manifests`` decides.

    Raises:
        ClusterDNSError: there is no such Pod, or it is no name of a namespace.
        OSError: a file cannot be read.
    """
    namespace, _, pod = text.partition("/")
    if not _NAMESPACE.fullmatch(namespace):
        raise ClusterDNSError(
            f"{text!r}: a namespace has lower-case letters, digits and hyphens, at most 63"
        )
    if manifests is not None and not manifests.exists():
        raise ClusterDNSError(f"--manifests {manifests}: no such file or directory")
    base = resolvconf.pod_search(namespace, zone, server=server)
    if not pod:
        return base
    if manifests is None:
        raise ClusterDNSError(f"{text}: the manifest of a Pod is read from --manifests, give one")
    for manifest in _pods(manifests):
        metadata = manifest.get("metadata") or {}
        if (metadata.get("namespace") or "default", metadata.get("name")) == (namespace, pod):
            return _applied(base, manifest.get("spec") or {})
    raise ClusterDNSError(f"{manifests}: no Pod {pod!r} in the namespace {namespace!r}")


def _pods(root: Path) -> Iterable[Mapping[str, Any]]:
    from clusterdns.cluster import manifests  # and with it PyYAML

    files = [root] if root.is_file() else sorted(root.rglob("*"))
    for path in files:
        if path.suffix in _SUFFIXES and path.is_file():
            yield from (each for each in manifests.documents(path) if each.get("kind") == "Pod")


def _applied(base: ResolvConf, spec: Mapping[str, Any]) -> ResolvConf:
    """Return the settings for the `dnsPolicy` and the `dnsConfig` of a Pod's spec."""
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    if policy == "None":
        base = ResolvConf()
    elif policy == "Default":  # the node's: this host stands for it
        base = resolvconf.parse(NODE.read_text("utf-8", "replace"))
    added = spec.get("dnsConfig") or {}
    options = [_option(each) for each in added.get("options") or ()]
    merged = ResolvConf(
        tuple(dict.fromkeys((*base.nameservers, *map(str, added.get("nameservers") or ())))),
        tuple(dict.fromkeys((*base.search, *map(str, added.get("searches") or ())))),
    )
    lines = [line for line in resolvconf.text(base).splitlines() if line.startswith("options ")]
    settings = resolvconf.parse("\n".join([*lines, f"options {' '.join(options)}"]))
    return settings._replace(
        nameservers=merged.nameservers[: resolvconf.MAX_NAMESERVERS], search=merged.search
    )


def _option(option: Mapping[str, Any]) -> str:
    name, value = str(option.get("name") or ""), option.get("value")
    return name if value is None else f"{name}:{value}"
