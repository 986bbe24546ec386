"""A real Kubernetes control plane without nodes: etcd, kube-apiserver, kube-controller-manager.

``ControlPlane`` runs them on loopback ports. There is no kubelet: ``run_pod`` does what one would, by
patching a Pod's status, and the endpoint controllers make EndpointSlices of it. ``dns_kubeconfig`` is
for the user whom ``deploy/base/rbac.yaml`` gives its rights, and no others.

The binaries are those of Kubernetes 1.34, which ``tests/node/build.sh`` builds from its Go modules.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import certificates
import peers
import pytest
import yaml

KUBERNETES = "v1.34.2"  # as in tests/node/env.sh
ADMIN, DNS = "admin-token", "dns-token"
INSTALL_ETCD = "apt-get install etcd-server"
RBAC = Path(__file__).resolve().parents[2] / "deploy" / "base" / "rbac.yaml"
_BIN = peers._CACHE / f"kubernetes-{KUBERNETES}" / "bin"
_PROGRAMS = ("kube-apiserver", "kube-controller-manager")


def binaries() -> dict[str, str]:
    """Return the paths of the three programs, or skip the test if one cannot be had.

    KUBERNETES_BIN names a directory that has kube-apiserver and kube-controller-manager.
    """
    etcd = shutil.which("etcd")
    if etcd is None:
        pytest.skip(f"needs etcd: {INSTALL_ETCD}")
    place = Path(os.environ.get("KUBERNETES_BIN", _BIN))
    if not all((place / name).exists() for name in _PROGRAMS):
        pytest.skip("needs kube-apiserver: `make control-plane` builds it, or set KUBERNETES_BIN")
    return {"etcd": etcd, **{name: str(place / name) for name in _PROGRAMS}}


def kubectl() -> str:
    """Return the path of kubectl, or skip the test."""
    named = (
        os.environ.get("KUBECTL") or shutil.which("kubectl") or shutil.which("kubectl", path=_BIN)
    )
    if named is None:
        pytest.skip("needs kubectl: `make control-plane` builds it, or set KUBECTL")
    return named


class ControlPlane:
    """The three processes; a context manager that yields once the API server is ready."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.binaries = binaries()
        self.port = peers.free_port()
        self.etcd_port, self._peer_port = peers.free_port(), peers.free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._context = certificates.client_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def __enter__(self) -> ControlPlane:
        try:
            self._prepare()
            self.start_etcd()
            self.start_api()
            self._start_controllers()
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
            for manifest in (node, *yaml.safe_load_all(RBAC.read_text())):
                self.apply(manifest)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            process = self.processes.pop(name, None)
            if process is not None:
                process.kill()
                process.wait()

    # ---- processes

    def _prepare(self) -> None:
        key = self.place / "sa.key"
        subprocess.run(
            ["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True
        )
        (self.place / "tokens.csv").write_text(
            f'{ADMIN},admin,1,"system:masters"\n'
            f'{DNS},system:serviceaccount:kube-system:coredns,2,"system:authenticated"\n'
        )
        for name, token in (("admin", ADMIN), ("dns", DNS)):
            self.kubeconfig(name, token)

    def kubeconfig(self, name: str, token: str) -> Path:
        """Write a kubeconfig with a token and return its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path = self.place / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    @property
    def dns_kubeconfig(self) -> Path:
        """The configuration of the user that `deploy/base/rbac.yaml` is about."""
        return self.place / "dns.kubeconfig"

    def start_etcd(self) -> None:
        """Start etcd, with what it had before."""
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd",
            f"--data-dir={self.place / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def start_api(self) -> None:
        """Start the API server and wait until it is ready."""
        key = self.place / "sa.key"
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self.place / 'certs'}",
            "--service-cluster-ip-range=10.96.0.0/12",
            f"--token-auth-file={self.place / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--disable-admission-plugins=ServiceAccount",
        )
        self._until(lambda: self.request("GET", "/readyz", raw=True) == "ok", 90)

    def kill_api(self) -> None:
        """End the API server as a crash would."""
        process = self.processes.pop("kube-apiserver")
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _start_controllers(self) -> None:
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.place / 'admin.kubeconfig'}",
            f"--service-account-private-key-file={self.place / 'sa.key'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--controllers=*,-nodeipam,-route,-cloud-node-lifecycle",
        )

    def _run(self, name: str, *arguments: str) -> None:
        with (self.place / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.binaries[name], *arguments], cwd=self.place, stdout=log, stderr=log
            )

    def _until(self, holds: Any, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if holds():
                    return
            except urllib.error.HTTPError as error:
                error.close()
            except OSError:
                pass  # it does not listen yet
            if time.monotonic() > deadline:
                log = (self.place / "kube-apiserver.log").read_text("utf-8", "replace")
                raise RuntimeError(f"not ready within {timeout_s:g} s:\n{log[-3000:]}")
            time.sleep(0.1)

    # ---- objects

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        kind: str = "application/json",
        raw: bool = False,
    ) -> Any:
        """Return what the API server says, decoded. Raises HTTPError."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": kind},
        )
        with urllib.request.urlopen(request, timeout=10, context=self._context) as response:
            text = response.read().decode()
        return text if raw else json.loads(text)

    def apply(self, manifest: dict[str, Any]) -> Any:
        """Create an object, or replace what there is by it."""
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}?fieldManager=tests&force=true"
        return self.request("PATCH", path, manifest, kind="application/apply-patch+yaml")

    def delete(self, manifest: dict[str, Any], *, grace_s: int | None = None) -> None:
        """Delete an object."""
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}{query}"
        try:
            self.request("DELETE", path)
        except urllib.error.HTTPError as error:
            error.close()

    def run_pod(self, manifest: dict[str, Any], address: str, *, is_ready: bool = True) -> None:
        """Say of a Pod what its kubelet would: it runs, has an address, and is ready or not."""
        ready = "True" if is_ready else "False"
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}/status"
        patch = "application/strategic-merge-patch+json"
        self.request("PATCH", path, {"status": status}, kind=patch)


_PLURALS = {
    "Endpoints": "endpoints",
    "Ingress": "ingresses",
    "EndpointSlice": "endpointslices",
    "NetworkPolicy": "networkpolicies",
}


def path_of(manifest: dict[str, Any]) -> str:
    """Return the API path of the objects of a manifest's kind in its namespace."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    namespace = manifest["metadata"].get("namespace")
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{_PLURALS.get(kind, kind.lower() + 's')}"


def pods(namespace: str, app: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield Pods that a Service with the selector ``app`` takes."""
    for i in range(count):
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{app}-{i}", "namespace": namespace, "labels": {"app": app}},
            "spec": {
                "nodeName": "node-1",
                "containers": [{"name": "main", "image": "none"}],
                "hostname": f"{app}-{i}",
                "subdomain": app,
                "terminationGracePeriodSeconds": 30,
            },
        }


def service(
    namespace: str, name: str, *, ports: Sequence[dict[str, Any]] = (), **spec: Any
) -> dict[str, Any]:
    """Return a Service with the selector ``app: name``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"app": name},
            "ports": list(ports) or [{"name": "http", "port": 80, "protocol": "TCP"}],
            **spec,
        },
    }
