"""A node for the control plane of ``controlplane``: Pods of cluster DNS become processes of this machine.

``Node`` does what a scheduler, a kubelet and kube-proxy would. A Pod is bound to the node; its image
says which command runs (one without a command never becomes ready), with the ConfigMap's Corefile; it is ready when ``/ready`` says
so, gets SIGTERM when it is deleted, and is gone when the process has ended. ``backends`` are the
addresses that the Service's EndpointSlices name as ready, as kube-proxy would route new flows.

Pods have no network of their own here: each has a loopback port for 53, and the Corefile is changed
where that needs it (``_localized``), in nothing else.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peers
import yaml
from controlplane import RBAC, ControlPlane, path_of

NAMESPACE, SERVICE, CONFIGMAP, NODE = "kube-system", "kube-dns", "coredns", "node-1"
DEFAULT = RBAC.with_name("configmap.yaml")
POLL_S = 0.2
HEARTBEAT_S = 5.0


class Pod:
    """A Pod that runs as a process."""

    def __init__(self, name: str, address: str, command: list[str], corefile: str, place: Path):
        self.name = name
        self.address = address
        self.port = peers.free_port()
        self._ready_port = peers.free_port()
        conf, log = place / f"{name}.Corefile", place / f"{name}.log"
        conf.write_text(self._localized(corefile))
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "-conf", str(conf)], cwd=place, stdout=output, stderr=output
            )
        self.is_told = False
        self.was_ready = False

    def _localized(self, corefile: str) -> str:
        """Return the Corefile with ports of its own, as if it had addresses of its own."""
        own = {
            r":53 \{": f":{self.port} {{\n    bind 127.0.0.1",
            r"^ *health\b": f"    health 127.0.0.1:{peers.free_port()}",
            r"^ *ready\b": f"    ready 127.0.0.1:{self._ready_port}",
            r":9153": f"127.0.0.1:{peers.free_port()}",
        }
        for pattern, text in own.items():
            corefile, found = re.subn(pattern, text, corefile, flags=re.MULTILINE)
            assert found, pattern
        return corefile

    def is_ready(self) -> bool:
        """Ask the readiness probe's question."""
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self._ready_port}/ready"
            with urllib.request.urlopen(url, timeout=1) as response:
                return bool(response.status == 200)
        return False


class Node:
    """The node; a context manager. ``corefile`` makes of the ConfigMap's text what a Pod is given."""

    def __init__(
        self,
        plane: ControlPlane,
        place: Path,
        programs: Mapping[str, list[str]],
        corefile: Callable[[str], str],
    ) -> None:
        self._plane = plane
        self._place = place
        self._programs = programs
        self._corefile = corefile
        self._addresses = iter(f"10.244.0.{i}" for i in range(2, 250))
        self._ports: dict[str, int] = {}
        self._heartbeat_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.pods: dict[str, Pod | None] = {}
        self.backends: list[int] = []
        self.images: dict[int, str] = {}  # by port
        self.error: BaseException | None = None

    def __enter__(self) -> Node:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        for pod in filter(None, self.pods.values()):
            pod.process.kill()
            pod.process.wait()

    @property
    def port_file(self) -> Path:
        """A file with the port of one backend: the cluster's DNS for a shell."""
        return self._place / "port"

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self._heartbeat()
                self._sync_pods()
                self._sync_service()
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in (404, 409):  # gone meanwhile, or changed: seen next time
                        self.error = RuntimeError(str(error))
            except Exception as error:
                self.error = error

    def _heartbeat(self) -> None:
        """Say that the node is alive, or the controllers take its Pods for lost."""
        if time.monotonic() < self._heartbeat_at + HEARTBEAT_S:
            return
        self._heartbeat_at = time.monotonic()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}
        kind = "application/strategic-merge-patch+json"
        path = f"/api/v1/nodes/{NODE}/status"
        self._plane.request("PATCH", path, {"status": status}, kind=kind)

    def _sync_pods(self) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        manifests = self._plane.request("GET", path)["items"]
        for manifest in manifests:
            manifest |= {"apiVersion": "v1", "kind": "Pod"}
            name = manifest["metadata"]["name"]
            if name not in self.pods:
                self.pods[name] = self._start(manifest)
            self._sync_pod(manifest, self.pods[name])

    def _start(self, manifest: dict[str, Any]) -> Pod | None:
        name = manifest["metadata"]["name"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        self._plane.request("POST", f"{path_of(manifest)}/{name}/binding", binding)
        command = self._programs.get(manifest["spec"]["containers"][0]["image"])
        if command is None:
            return None
        text = self._corefile(self._configuration())
        pod = Pod(name, next(self._addresses), command, text, self._place)
        self._ports[pod.address] = pod.port
        self.images[pod.port] = manifest["spec"]["containers"][0]["image"]
        return pod

    def _configuration(self) -> str:
        """Return the Corefile of the ConfigMap; kubeadm's for who does without, as kube-dns."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        for item in self._plane.request("GET", path)["items"]:
            if item["metadata"]["name"] == CONFIGMAP:
                return str(item["data"]["Corefile"])
        return str(yaml.safe_load(DEFAULT.read_text())["data"]["Corefile"])

    def _sync_pod(self, manifest: dict[str, Any], pod: Pod | None) -> None:
        if "deletionTimestamp" in manifest["metadata"]:
            if pod is not None and not pod.is_told:
                pod.process.send_signal(signal.SIGTERM)
                pod.is_told = True
            if pod is None or pod.process.poll() is not None:
                self._plane.delete(manifest, grace_s=0)
        elif pod is not None and not pod.was_ready and pod.is_ready():
            pod.was_ready = True
            self._plane.run_pod(manifest, pod.address)

    def _sync_service(self) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
        selector = f"?labelSelector=kubernetes.io/service-name%3D{SERVICE}"
        self.backends = [
            self._ports[address]
            for item in self._plane.request("GET", path + selector)["items"]
            for endpoint in item["endpoints"] or ()
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
        ]
        if self.backends:
            fresh = self.port_file.with_suffix(".new")
            fresh.write_text(str(self.backends[0]))
            fresh.replace(self.port_file)
