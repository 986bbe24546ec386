"""What deploy/ builds to, and what kubeadm installs for CoreDNS, as objects to compare."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = tuple(sorted({*(DEPLOY / "base").glob("*.yaml")} - {DEPLOY / "base" / "kustomization.yaml"}))
INSTALL_KUSTOMIZE = "go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"
CLUSTER_IP = "10.96.0.10"  # the tenth address of 10.96.0.0/12

Manifest = dict[str, Any]

# Written down from kubernetes' cmd/kubeadm/app/phases/addons/dns/manifests.go, without the image.
_KUBEADM = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:coredns", labels: {kubernetes.io/bootstrapping: rbac-defaults}}
rules:
  - {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:coredns", labels: {kubernetes.io/bootstrapping: rbac-defaults}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {k8s-app: kube-dns, kubernetes.io/cluster-service: "true", kubernetes.io/name: CoreDNS}
  annotations: {prometheus.io/port: "9153", prometheus.io/scrape: "true"}
spec:
  clusterIP: 10.96.0.10
  selector: {k8s-app: kube-dns}
  ports:
    - {name: dns, port: 53, protocol: UDP, targetPort: 53}
    - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 53}
    - {name: metrics, port: 9153, protocol: TCP, targetPort: 9153}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 2
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1}}
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      priorityClassName: system-cluster-critical
      serviceAccountName: coredns
      nodeSelector: {kubernetes.io/os: linux}
      dnsPolicy: Default
      tolerations:
        - {key: CriticalAddonsOnly, operator: Exists}
        - {key: node-role.kubernetes.io/control-plane, effect: NoSchedule}
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchExpressions: [{key: k8s-app, operator: In, values: [kube-dns]}]
      containers:
        - name: coredns
          imagePullPolicy: IfNotPresent
          args: ["-conf", /etc/coredns/Corefile]
          resources: {limits: {memory: 170Mi}, requests: {cpu: 100m, memory: 70Mi}}
          volumeMounts: [{name: config-volume, mountPath: /etc/coredns, readOnly: true}]
          ports:
            - {containerPort: 53, name: dns, protocol: UDP}
            - {containerPort: 53, name: dns-tcp, protocol: TCP}
            - {containerPort: 9153, name: metrics, protocol: TCP}
            - {containerPort: 8080, name: liveness-probe, protocol: TCP}
            - {containerPort: 8181, name: readiness-probe, protocol: TCP}
          livenessProbe:
            httpGet: {path: /health, port: liveness-probe}
            initialDelaySeconds: 60
            timeoutSeconds: 5
            successThreshold: 1
            failureThreshold: 5
          readinessProbe: {httpGet: {path: /ready, port: readiness-probe}}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}
            readOnlyRootFilesystem: true
      volumes:
        - name: config-volume
          configMap: {name: coredns, items: [{key: Corefile, path: Corefile}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        health {
           lameduck 5s
        }
        ready
        kubernetes cluster.local in-addr.arpa ip6.arpa {
           pods insecure
           fallthrough in-addr.arpa ip6.arpa
           ttl 30
        }
        prometheus :9153
        forward . /etc/resolv.conf {
           max_concurrent 1000
        }
        cache 30 {
           disable success cluster.local
           disable denial cluster.local
        }
        loop
        reload
        loadbalance
    }
"""
KUBEADM: tuple[Manifest, ...] = tuple(yaml.safe_load_all(_KUBEADM))
COREFILE: str = next(m["data"]["Corefile"] for m in KUBEADM if m["kind"] == "ConfigMap")


def load(*paths: Path) -> list[Manifest]:
    """Return the objects in files."""
    return [manifest for path in paths for manifest in yaml.safe_load_all(path.read_text())]


def named(manifests: Iterable[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return copies by kind and name; no two may have the same."""
    found: dict[tuple[str, str], Manifest] = {}
    for manifest in manifests:
        key = (manifest["kind"], manifest["metadata"]["name"])
        assert key not in found, key
        found[key] = deepcopy(manifest)
    return found


def build(overlay: str) -> list[Manifest]:
    """Return what kustomize makes of an overlay, or of ``base``; skip the test without it."""
    return deepcopy(_built(overlay))


@functools.cache
def _built(overlay: str) -> list[Manifest]:
    place = DEPLOY / ("base" if overlay == "base" else f"overlays/{overlay}")
    kustomize = os.environ.get("KUSTOMIZE") or shutil.which("kustomize")
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    commands = [[kustomize, "build"]] if kustomize else []
    commands += [[kubectl, "kustomize"]] if kubectl else []
    if not commands:
        pytest.skip(f"needs kustomize: {INSTALL_KUSTOMIZE}, or set KUSTOMIZE")
    built = []
    for command in commands:
        done = subprocess.run(
            [*command, str(place)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        built.append(list(yaml.safe_load_all(done.stdout)))
    assert all(found == built[0] for found in built)  # kubectl has a kustomize of its own
    return built[0]


def corefiles(manifests: Iterable[Manifest]) -> list[str]:
    """Return the Corefiles in ConfigMaps."""
    data = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    return [entries["Corefile"] for entries in data if "Corefile" in entries]


def is_within(expected: object, found: object) -> bool:
    """Tell whether all that ``expected`` says is in ``found``, which may say more in mappings."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            key in found and is_within(value, found[key]) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(expected) == len(found)
            and all(map(is_within, expected, found))
        )
    return expected == found


def content(manifest: Manifest) -> Manifest:
    """Return an object without what the API server and tools write about it."""
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations", {})
    kept = {key: text for key, text in annotations.items() if not key.startswith("kubectl.")}
    rest = {key: value for key, value in manifest.items() if key not in ("metadata", "status")}
    return {**rest, "labels": metadata.get("labels", {}), "annotations": kept}
