"""deploy/lab: Pods with injected resolv.conf at a real API server, and the same lab in namespaces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import controlplane
import pytest
import yaml
from controlplane import ControlPlane, path_of

from clusterdns.config import check, configmap

LAB = Path(__file__).resolve().parents[2] / "deploy" / "lab"
ADDRESS = "10.96.0.11"
INJECTED = {
    "nameservers": [ADDRESS],
    "searches": ["uit.svc.cluster.local", "svc.cluster.local", "cluster.local"],
    "options": [{"name": "ndots", "value": "5"}],
}


class LabPlane(ControlPlane):
    """A control plane whose API server knows MutatingAdmissionPolicies."""

    def _run(self, name: str, *arguments: str) -> None:
        if name == "kube-apiserver":
            arguments += (
                "--feature-gates=MutatingAdmissionPolicy=true",
                "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
            )
        super()._run(name, *arguments)


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[ControlPlane]:
    with LabPlane(tmp_path_factory.mktemp("plane")) as running:
        running.apply(next(manifests("namespace.yaml")))
        yield running


def manifests(file: str) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((LAB / file).read_text())


def create(plane: ControlPlane, manifest: dict[str, Any], *, query: str = "") -> dict[str, Any]:
    """Create an object; what comes back is what the API server made of it."""
    path = path_of(manifest).replace("policys", "policies") + query
    found = plane.request("POST", path, manifest)
    assert isinstance(found, dict)
    return found


def test_the_servers_corefile_can_be_served():
    found = check.check(configmap.read(LAB / "server.yaml"), port=53)
    assert ([".:53"], [], []) == (found.zones, found.refused, found.warnings)


@pytest.mark.peer
@pytest.mark.timeout(120)
@pytest.mark.parametrize("file", ["server.yaml", "pods.yaml"])
def test_the_api_server_takes_every_object(plane, file):
    for manifest in manifests(file):
        kind, made = manifest["kind"], create(plane, manifest, query="?dryRun=All")
        assert manifest["metadata"]["name"] == made["metadata"]["name"], kind
        if kind == "Pod":
            for word in ("dnsPolicy", "dnsConfig"):
                assert manifest["spec"].get(word) == made["spec"].get(word), kind


def test_pods_have_every_policy_and_the_servers_address():
    found = list(manifests("pods.yaml"))
    policies = {pod["spec"]["dnsPolicy"] for pod in found}
    assert {"None", "Default", "ClusterFirst", "ClusterFirstWithHostNet"} == policies
    service = next(each for each in manifests("server.yaml") if each["kind"] == "Service")
    assert ADDRESS == service["spec"]["clusterIP"]
    for pod in found:
        if pod["spec"]["dnsPolicy"] == "None":
            config = pod["spec"]["dnsConfig"]
            assert [ADDRESS] == config["nameservers"]
            assert "dns-lab.svc.cluster.local" == config["searches"][0]


@pytest.mark.peer
@pytest.mark.timeout(120)
def test_injection_is_into_pods_of_labeled_namespaces_that_ask_the_cluster(plane):
    for name, labels in (("uit", {"dns": "clusterdns"}), ("other", {})):
        metadata = {"name": name, "labels": labels}
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    for manifest in manifests("injection.yaml"):
        create(plane, manifest)
    deadline = time.monotonic() + 30  # the API server takes a policy up after a while
    while dns_of(plane, "uit") != ("None", INJECTED):
        assert time.monotonic() < deadline, dns_of(plane, "uit")
        time.sleep(0.2)
    assert ("ClusterFirst", None) == dns_of(plane, "other")
    assert ("Default", None) == dns_of(plane, "uit", dnsPolicy="Default")
    own = {"options": [{"name": "ndots", "value": "2"}]}
    assert ("ClusterFirst", own) == dns_of(plane, "uit", dnsConfig=own)
    assert ("ClusterFirst", None) == dns_of(plane, "uit", hostNetwork=True)


def dns_of(plane: ControlPlane, namespace: str, **spec: object) -> tuple[str, object]:
    """Return what a new Pod's DNS is after admission; the Pod is not made."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}], **spec},
    }
    try:
        made = create(plane, pod, query="?dryRun=All")["spec"]
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(error.read().decode())
    return made["dnsPolicy"], made.get("dnsConfig")


@pytest.mark.peer
def test_kubectl_makes_one_stream_of_it():
    done = subprocess.run(
        [controlplane.kubectl(), "kustomize", str(LAB)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    kinds = sorted(document["kind"] for document in yaml.safe_load_all(done.stdout))
    listed = yaml.safe_load((LAB / "kustomization.yaml").read_text())["resources"]
    assert sorted(m["kind"] for file in listed for m in manifests(file)) == kinds


# ---- without Kubernetes

FOUND = {
    "uit": {
        "web": "10.96.1.1",
        "web.uit": "10.96.1.1",
        "web.uit.svc": "10.96.1.1",
        "web.uit.svc.cluster.local": "10.96.1.1",
        "db-1.db": "10.244.2.11",
        "www.example.com": "192.0.2.80 2001:db8::80",
        "nothing": "-",
    },
    "default": {
        "web": "-",
        "web.uit": "10.96.1.1",
        "web.uit.svc": "10.96.1.1",
        "web.uit.svc.cluster.local": "10.96.1.1",
        "db-1.db": "-",
        "www.example.com": "192.0.2.80 2001:db8::80",
        "nothing": "-",
    },
}


def netns(*arguments: str) -> str:
    """Run the script, or skip the test where namespaces cannot be made."""
    probe = "command -v nsenter && unshare -mnpf --mount-proc ip link add probe type bridge"
    if subprocess.run(["sh", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare, nsenter and ip, and root: apt-get install util-linux iproute2")
    done = subprocess.run(
        ["sh", str(LAB / "netns.sh"), *arguments],
        env={**os.environ, "CLUSTERDNS": f"{sys.executable} -m clusterdns"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_short_names_resolve_by_the_search_path_of_the_namespace():
    before = Path("/etc/resolv.conf").read_bytes()
    text = netns()
    libraries = {"glibc"} | ({"musl"} if shutil.which("musl-gcc") else set())
    sections = re.split(r"^a Pod in namespace (\w+):\n", text, flags=re.MULTILINE)[1:]
    assert list(FOUND) == sections[::2]
    for namespace, section in zip(sections[::2], sections[1::2], strict=True):
        assert f"| search {namespace}.svc.cluster.local svc.cluster.local cluster.local" in section
        rows = re.findall(r"^  (glibc|musl) +(\S+) +(.+?) *$", section, re.MULTILINE)
        for library in sorted(libraries):
            found = {host: result for each, host, result in rows if each == library}
            assert FOUND[namespace] == found, library
    assert before == Path("/etc/resolv.conf").read_bytes()


def test_a_command_runs_as_in_a_pod():
    assert "10.96.1.1 web.uit.svc.cluster.local" in " ".join(
        netns("uit", "getent", "hosts", "web").split()
    )
    assert "default.svc.cluster.local" in netns("default", "cat", "/etc/resolv.conf")


def test_nothing_is_left_behind():
    netns("uit", "true")
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=False)
    assert "lo" in links.stdout.split()
    assert "cluster" not in links.stdout.split()
