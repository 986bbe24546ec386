"""Through a real control plane: what users do to Services and Pods, and what clusterdns then says.

CoreDNS watches the same API server beside it, and the answers of both are compared after every step.
Both have the rights of ``deploy/base/rbac.yaml`` and nothing more.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator

import controlplane
import dns.message
import dns.rcode
import peers
import pytest
from controlplane import ControlPlane, pods, service

pytestmark = [pytest.mark.peer, pytest.mark.timeout(240)]

ZONE = "cluster.local."
COREFILE = """. {{
    errors
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods {pods}
    }}
}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def corefile(plane: ControlPlane, *, pods_mode: str = "verified") -> str:
    kubeconfig, ready = plane.dns_kubeconfig, peers.free_port()
    return COREFILE.format(kubeconfig=kubeconfig, ready=ready, pods=pods_mode)


@pytest.fixture(scope="module")
def servers(plane, tmp_path_factory) -> Iterator[tuple[peers.Server, peers.Server]]:
    place = tmp_path_factory.mktemp("servers")
    with (
        peers.clusterdns(corefile(plane), place) as ours,
        peers.coredns(corefile(plane), place) as theirs,
    ):
        yield ours, theirs


def ask(server: peers.Server, qname: str, rtype: str = "A") -> dns.message.Message:
    query = dns.message.make_query(qname, rtype).to_wire()
    reply = peers.ask_udp(server.address, query)
    assert reply is not None, server.output
    return dns.message.from_wire(reply)


def answers(server: peers.Server, qname: str, rtype: str = "A") -> list[str]:
    return sorted(str(item) for rrset in ask(server, qname, rtype).answer for item in rrset)


def outline(server: peers.Server, qname: str, rtype: str) -> tuple[int, list[str]]:
    return ask(server, qname, rtype).rcode(), answers(server, qname, rtype)


def settle(
    servers: tuple[peers.Server, peers.Server], qname: str, expected: list[str], rtype: str = "A"
) -> None:
    """Wait until clusterdns says what is expected, then CoreDNS, then compare all about the name."""
    ours, theirs = servers
    for server in (ours, theirs):
        deadline = time.monotonic() + 15
        while answers(server, qname, rtype) != expected:
            assert time.monotonic() < deadline, (answers(server, qname, rtype), server.output)
            time.sleep(0.02)
    for kind in ("A", "AAAA", "SRV", "CNAME", "TXT"):
        assert outline(theirs, qname, kind) == outline(ours, qname, kind)


def test_the_names_that_kubernetes_own_tests_ask(plane, servers):
    """test/e2e/network/dns.go: the cluster itself, Services, their ports, Pods by host name, PTR."""
    namespace = "dns-test"
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    headless = service(namespace, "dns-test-service", clusterIP="None")
    regular = service(namespace, "test-service-2")
    for manifest in (headless, regular):
        plane.apply(manifest)
    for app in ("dns-test-service", "test-service-2"):
        for i, pod in enumerate(pods(namespace, app, 1)):
            plane.apply(pod)
            plane.run_pod(pod, f"10.2.{len(app)}.{i + 1}")
    path = f"/api/v1/namespaces/{namespace}/services/test-service-2"
    address = plane.request("GET", path)["spec"]["clusterIP"]
    settle(servers, f"dns-test-service.{namespace}.svc.{ZONE}", ["10.2.16.1"])
    settle(servers, f"test-service-2.{namespace}.svc.{ZONE}", [address])
    settle(servers, f"dns-test-service-0.dns-test-service.{namespace}.svc.{ZONE}", ["10.2.16.1"])
    settle(servers, f"kubernetes.default.svc.{ZONE}", ["10.96.0.1"])
    for name in ("dns-test-service", "test-service-2"):
        qname = f"_http._tcp.{name}.{namespace}.svc.{ZONE}"
        assert outline(servers[1], qname, "SRV") == outline(servers[0], qname, "SRV")
        assert answers(servers[0], qname, "SRV")
    pointer = ".".join(reversed(address.split("."))) + ".in-addr.arpa."
    settle(servers, pointer, [f"test-service-2.{namespace}.svc.{ZONE}"], "PTR")
    settle(servers, f"10-2-16-1.{namespace}.pod.{ZONE}", ["10.2.16.1"])


def test_an_external_name_and_its_change(plane, servers):
    external = service("default", "elsewhere", type="ExternalName", externalName="a.example.com")
    external["spec"].pop("selector")
    qname = f"elsewhere.default.svc.{ZONE}"
    plane.apply(external)
    settle(servers, qname, ["a.example.com."], "CNAME")
    external["spec"]["externalName"] = "b.example.com"
    plane.apply(external)
    settle(servers, qname, ["b.example.com."], "CNAME")


def test_create_scale_roll_fail_terminate_delete(plane, servers):
    qname = f"web.default.svc.{ZONE}"
    assert ask(servers[0], qname).rcode() == dns.rcode.NXDOMAIN  # asked before it is there
    web = service("default", "web", clusterIP="None")
    plane.apply(web)
    running = list(pods("default", "web", 4))
    for i, pod in enumerate(running[:2]):
        plane.apply(pod)
        plane.run_pod(pod, f"10.3.0.{i + 1}")
    settle(servers, qname, ["10.3.0.1", "10.3.0.2"])
    for i, pod in enumerate(running[2:], 2):  # scale out
        plane.apply(pod)
        plane.run_pod(pod, f"10.3.0.{i + 1}")
    settle(servers, qname, [f"10.3.0.{i}" for i in range(1, 5)])
    plane.run_pod(running[0], "10.3.0.1", is_ready=False)  # fails its readiness probe
    settle(servers, qname, ["10.3.0.2", "10.3.0.3", "10.3.0.4"])
    plane.run_pod(running[0], "10.3.0.1")
    settle(servers, qname, [f"10.3.0.{i}" for i in range(1, 5)])
    plane.delete(running[1])  # terminates: its grace period goes by, nobody ends it
    settle(servers, qname, ["10.3.0.1", "10.3.0.3", "10.3.0.4"])
    plane.delete(running[1], grace_s=0)
    plane.apply(running[1])  # rolled: the same name at another address
    plane.run_pod(running[1], "10.3.0.22")
    settle(servers, qname, ["10.3.0.1", "10.3.0.22", "10.3.0.3", "10.3.0.4"])
    plane.delete(web)
    settle(servers, qname, [])
    assert ask(servers[0], qname).rcode() == dns.rcode.NXDOMAIN
    for pod in running:
        plane.delete(pod, grace_s=0)


def test_publish_not_ready_addresses(plane, servers):
    early = service("default", "early", clusterIP="None", publishNotReadyAddresses=True)
    plane.apply(early)
    for pod in pods("default", "early", 1):
        plane.apply(pod)
        plane.run_pod(pod, "10.4.0.1", is_ready=False)
    settle(servers, f"early.default.svc.{ZONE}", ["10.4.0.1"])


def test_a_killed_api_server_and_a_compaction_cost_no_answer(plane, servers):
    """API server killed with -9 and started again; etcd compacted, so that a resume is told 410."""
    ours, _ = servers
    plane.apply(service("default", "steady"))
    path = "/api/v1/namespaces/default/services/steady"
    address = plane.request("GET", path)["spec"]["clusterIP"]
    settle(servers, f"steady.default.svc.{ZONE}", [address])
    revision = plane.request("GET", path)["metadata"]["resourceVersion"]
    plane.kill_api()
    compact(plane, int(revision))
    for _ in range(50):
        assert answers(ours, f"steady.default.svc.{ZONE}") == [address]
        time.sleep(0.02)
    plane.start_api()
    plane.apply(service("default", "after"))
    after = plane.request("GET", "/api/v1/namespaces/default/services/after")["spec"]["clusterIP"]
    settle(servers, f"after.default.svc.{ZONE}", [after])
    assert ours.process.poll() is None


def compact(plane: ControlPlane, revision: int) -> None:
    """Have etcd forget its history; clients that resume from before are told so."""
    url = f"http://127.0.0.1:{plane.etcd_port}/v3/kv/compaction"
    body = json.dumps({"revision": revision, "physical": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as response:
        assert response.status == 200


def test_a_start_without_rights_says_which(plane, tmp_path):
    kubeconfig = plane.kubeconfig("nobody", "no-such-token")
    text = corefile(plane).replace(str(plane.dns_kubeconfig), str(kubeconfig))
    with peers.clusterdns(text, tmp_path) as server:
        deadline = time.monotonic() + 10
        while "401" not in server.output and "Unauthorized" not in server.output:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)
        assert ask(server, f"kubernetes.default.svc.{ZONE}").rcode() == dns.rcode.SERVFAIL
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_the_binaries_are_kubernetes(plane):
    assert plane.request("GET", "/version")["major"] == "1"
    assert controlplane.KUBERNETES.startswith("v1.")
