"""The Services in front of the cluster's DNS server, as manifests have them."""

from __future__ import annotations

from pathlib import Path

from clusterdns.cluster import evidence, objects
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.objects import SERVICES, Service

NAMES = frozenset(("kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default"))
LABEL = ("k8s-app", "kube-dns")  # kubeadm's, and most installers'


def addresses(root: Path) -> frozenset[str]:
    """Return the cluster addresses of Services with the name or the label of a DNS Service."""
    found = set[str]()
    for manifest in evidence.OnDisk(root).all():
        if manifest.get("kind") != "Service":
            continue
        try:
            (_, name), service = objects.cut(SERVICES, manifest)
        except ObjectError:
            continue
        if name in NAMES or LABEL in objects.labels(manifest).items():
            assert isinstance(service, Service)
            found |= {each for each in service.addresses if each not in ("", "None")}
    return frozenset(found)
