"""deploy/switch.sh and rollback.sh at a real control plane, and what clients notice: nothing.

The Deployment is `deploy/base`'s with CoreDNS's image; ``fakenode`` runs its Pods as processes, a real
CoreDNS or clusterdns. A client asks whichever Pods are ready, 2,000 times a second, all the while.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import controlplane
import dns.message
import peers
import pytest
import yaml
from casefile import Scripted
from controlplane import ControlPlane, pods, service
from fakenode import Node
from scriptedupstream import ScriptedUpstream
from steadyclient import QUERIES_S, QUESTIONS, TIMEOUT_S, Client, outline

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(240)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COREDNS, CLUSTERDNS = "registry.k8s.io/coredns/coredns:v1.15.0", "registry.example/clusterdns:1"
KUBE_DNS = "registry.k8s.io/dns/k8s-dns-kube-dns:1.26.4"
BROKEN = "registry.example/clusterdns:broken"
LEAST_S = 10.0
DEPLOYMENT = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"


@pytest.mark.parametrize("arguments", [[], ["--nonsense", "a"], ["a", "b"]])
def test_wrong_usage(arguments):
    command = ["sh", str(DEPLOY / "switch.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "usage: " in done.stderr


class Cluster:
    """A control plane with CoreDNS deployed, its node, and the scripts pointed at it."""

    def __init__(self, plane: ControlPlane, place: Path, upstream: ScriptedUpstream) -> None:
        self.plane = plane
        programs = {
            COREDNS: [str(peers.coredns_path())],
            CLUSTERDNS: [sys.executable, "-m", "clusterdns"],
            KUBE_DNS: [str(peers.coredns_path())],  # what it answers is not what is tested
        }

        def corefile(text: str) -> str:
            return text.replace(
                "pods insecure", f"pods insecure\n kubeconfig {kubeconfig}"
            ).replace("forward . /etc/resolv.conf", f"forward . {upstream.address}")

        kubeconfig = plane.dns_kubeconfig
        self.node = Node(plane, place, programs, corefile)

    def deploy(self, corefile: str = "") -> None:
        """Put kubeadm's CoreDNS in place, or back in place, and wait for its Pods."""
        for file in ("configmap.yaml", "deployment.yaml", "service.yaml"):
            for manifest in yaml.safe_load_all((DEPLOY / "base" / file).read_text()):
                if manifest["kind"] == "Deployment":
                    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = COREDNS
                if manifest["kind"] == "ConfigMap" and corefile:
                    manifest["data"]["Corefile"] = corefile
                self.plane.apply(manifest)
        self.kubectl("rollout", "status", "deployment/coredns", "--timeout=60s")
        deadline = time.monotonic() + 20
        while len(self.node.backends) != 2 or self.image() != COREDNS:
            assert time.monotonic() < deadline, self.node.error
            time.sleep(0.1)

    def image(self) -> str:
        found = self.plane.request("GET", DEPLOYMENT)
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    def annotations(self) -> dict[str, str]:
        return dict(self.plane.request("GET", DEPLOYMENT)["metadata"]["annotations"])

    @property
    def _kubectl(self) -> str:
        return f"{controlplane.kubectl()} --kubeconfig {self.plane.place / 'admin.kubeconfig'}"

    def kubectl(self, *arguments: str) -> None:
        command = [*self._kubectl.split(), "-n", "kube-system", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=90)

    def follow(self, commands: str, place: Path) -> None:
        """Run the commands of a guide, one after the other, until one fails."""
        tools = [Path(self._kubectl.split()[0]).parent, Path(sys.executable).parent]
        if not (place / "deploy").exists():
            (place / "deploy").symlink_to(DEPLOY)
        environ = {
            "IMAGE": CLUSTERDNS,
            "KUBECONFIG": str(self.plane.place / "admin.kubeconfig"),
            "PATH": ":".join([*map(str, tools), os.environ["PATH"]]),
        }
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=place,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a script; it verifies with dig at one of the ready Pods."""
        port = self.node.port_file
        verify = f'dig +short @127.0.0.1 -p "$(cat {port})" "$NAME" | grep -x 10.96.0.1'
        environ = {
            "KUBECTL": self._kubectl,
            "CLUSTERDNS": f"{sys.executable} -m clusterdns",
            "NAME": "kubernetes.default.svc.cluster.local",
            "VERIFY": verify,
            **environ,
        }
        return subprocess.run(
            ["sh", str(DEPLOY / script), *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("switch")
    record = Scripted("www.example.com.", "answer", 300, 1, 1, "192.0.2.80")
    upstream = ScriptedUpstream([record])
    peers.coredns_path()  # skips without one
    with ControlPlane(place) as plane:
        running = Cluster(plane, place, upstream)
        _fill(plane)
        with running.node:
            running.deploy()
            _settle(running.node)
            yield running
    upstream.stop()


def _fill(plane: ControlPlane) -> None:
    """Make what is asked for."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "uit"}})
    plane.apply(service("uit", "web", clusterIP="10.96.1.1"))
    plane.apply(service("uit", "db", clusterIP="None"))
    for i, pod in enumerate(pods("uit", "db", 2)):
        plane.apply(pod)
        plane.run_pod(pod, f"10.244.1.{i + 1}")


def _settle(node: Node) -> None:
    """Wait until every backend knows both Pods: their EndpointSlice may come after the DNS Pods."""
    query = dns.message.make_query("db.uit.svc.cluster.local.", "A").to_wire()
    deadline = time.monotonic() + 20
    for port in node.backends:
        while True:
            with contextlib.suppress(ConnectionRefusedError):  # it has not bound its port yet
                reply = peers.ask_udp(("127.0.0.1", port), query)
                if reply and sum(map(len, dns.message.from_wire(reply).answer)) == 2:
                    break
            assert time.monotonic() < deadline, node.error
            time.sleep(0.1)


def test_switch_and_back_under_load_loses_no_query_and_changes_no_answer(cluster):
    assert COREDNS == cluster.image()
    client, started = Client(cluster.node), time.monotonic()
    client.start()
    try:
        time.sleep(1)
        there = cluster.run("switch.sh", CLUSTERDNS)
        switched, noted = cluster.image(), cluster.annotations()
        time.sleep(3)
        back = cluster.run("rollback.sh")
        time.sleep(max(3.0, LEAST_S - (time.monotonic() - started)))
    finally:
        client.stop()
    seconds = time.monotonic() - started
    print(there.stdout, there.stderr, back.stdout, back.stderr, sep="\n---\n")
    print(f"{client.sent} queries in {seconds:.1f} s, by port {dict(client.sent_by_port)}")
    for at, port, question in client.lost:
        print(f"lost after {at - started:.3f} s, at {cluster.node.images.get(port)}: {question}")
    assert (0, 0) == (there.returncode, back.returncode), there.stderr + back.stderr
    assert f"switched: {COREDNS} -> {CLUSTERDNS}\n" in there.stderr
    assert f"gone back: {CLUSTERDNS} -> {COREDNS}\n" in back.stderr
    assert (CLUSTERDNS, COREDNS) == (switched, cluster.image())
    assert COREDNS == noted["clusterdns/image-before"]
    assert "clusterdns/image-before" not in cluster.annotations()
    assert ([], []) == (client.lost, client.errors)
    assert client.sent > (seconds - TIMEOUT_S - 1) * QUERIES_S
    assert len(client.sent_by_port) >= 6  # two Pods before, two of ours, two after
    for question, replies in zip(QUESTIONS, client.replies, strict=True):
        assert 1 == len({outline(reply) for reply in replies}), question
    assert cluster.node.error is None


def test_dry_run_changes_nothing(cluster):
    cluster.deploy()
    before = cluster.plane.request("GET", DEPLOYMENT)["metadata"]["generation"]
    done = cluster.run("switch.sh", "--dry-run", CLUSTERDNS)
    assert 0 == done.returncode, done.stderr
    assert "nothing was changed" in done.stderr
    assert "clusterdns can serve it as it is" in done.stdout
    assert before == cluster.plane.request("GET", DEPLOYMENT)["metadata"]["generation"]
    assert "clusterdns/image-before" not in cluster.annotations()
    done = cluster.run("rollback.sh", "--dry-run", CLUSTERDNS)
    assert 0 == done.returncode, done.stderr
    assert COREDNS == cluster.image()


def test_a_corefile_that_cannot_be_served_stops_it(cluster):
    cluster.deploy(".:53 {\n    route53 example.org.:Z1\n    whoami\n}\n")
    done = cluster.run("switch.sh", CLUSTERDNS)
    try:
        assert 1 == done.returncode
        assert "route53: reads zones from Amazon Route 53, which clusterdns does not" in done.stdout
        assert "nothing was changed" in done.stderr
        assert COREDNS == cluster.image()
    finally:
        cluster.deploy()


def test_pods_that_do_not_become_ready_are_taken_back(cluster):
    cluster.deploy()
    done = cluster.run("switch.sh", BROKEN, TIMEOUT="6s")
    assert 1 == done.returncode
    assert f"not switched: {COREDNS} is back in place" in done.stderr
    assert COREDNS == cluster.image()


def test_pods_that_do_not_answer_are_taken_back(cluster):
    cluster.deploy()
    done = cluster.run("switch.sh", CLUSTERDNS, VERIFY="exit 1", TIMEOUT="30s")
    assert 1 == done.returncode
    assert f"not switched: {COREDNS} is back in place" in done.stderr
    assert COREDNS == cluster.image()


def test_nothing_to_do_and_nothing_noted_down(cluster):
    cluster.deploy()
    assert "nothing to do" in cluster.run("switch.sh", COREDNS).stderr
    done = cluster.run("switch.sh", CLUSTERDNS, DEPLOYMENT="elsewhere")
    assert 1 == done.returncode


def test_the_guides_way_from_kube_dns_and_back(cluster, tmp_path):
    """What deploy/migrate.md says, word by word; no query is lost."""
    there, back = re.findall(r"^```sh\n(.*?)^```", (DEPLOY / "migrate.md").read_text(), re.M | re.S)
    stubs = {"stubDomains": '{"acme.local": ["192.0.2.53"]}'}
    metadata = {"name": "kube-dns", "namespace": "kube-system"}
    cluster.plane.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": stubs}
    )
    deployment = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())
    deployment["metadata"]["name"] = "kube-dns"
    # kube-dns's label is CoreDNS's; what tells the Pods apart is the hash of their ReplicaSet.
    deployment["spec"]["template"]["spec"]["containers"][0] |= {
        "name": "kubedns",
        "image": KUBE_DNS,
    }
    cluster.plane.apply(deployment)
    cluster.kubectl("rollout", "status", "deployment/kube-dns", "--timeout=60s")
    cluster.kubectl("delete", "deployment/coredns", "configmap/coredns")
    client = Client(cluster.node)
    time.sleep(8)  # the old Pods are gone
    client.start()
    try:
        for commands, image in ((there, CLUSTERDNS), (back, KUBE_DNS)):
            cluster.follow(commands, tmp_path)
            deadline = time.monotonic() + 30
            while {cluster.node.images[port] for port in cluster.node.backends} != {image}:
                assert time.monotonic() < deadline, cluster.node.error
                time.sleep(0.1)
            time.sleep(2)
    finally:
        client.stop()
    assert ([], []) == (client.lost, client.errors)
    assert "acme.local" in (tmp_path / "Corefile").read_text()
