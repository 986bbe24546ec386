"""`endpoint` and `ingress` with a real API server, which validates objects and keeps their status.

The definitions are minimal ones of this project's own: names, versions, status, no schema. The
rights are those of ``deploy/base`` and of the two components, and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peers
import pytest
import yaml
from controlplane import ControlPlane, path_of
from deployed import DEPLOY
from test_ingress_hosts import both
from test_published import ask
from test_watch import eventually

from clusterdns.cluster.published import CLIENTS, GROUPS, INGRESSES, MANIFEST_KINDS

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

WATCHED = MANIFEST_KINDS.keys() - {CLIENTS}  # by `endpoint` and `ingress`
COMPONENTS = ("published-names", "ingress-hosts")
COREFILE = """. {{
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
    }}
    endpoint records.test
    ingress hosts.test {{
        inside 127.0.0.2
    }}
}}
"""
WITHIN_S = 45  # a definition that was not there is looked for every 30 s


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        for space in ("edge", "shop"):
            running.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        yield running


def definition(kind: str) -> dict[str, Any]:
    group, version, *_ = GROUPS[kind]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind}.{group}",
            # Without it the API server refuses definitions of its own groups.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": MANIFEST_KINDS[kind], "plural": kind},
            "versions": [
                {"name": version, "served": True, "storage": True, "subresources": {"status": {}},
                 "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }  # fmt: skip


def made(plane: ControlPlane, kind: str, space: str, name: str, spec: Any, status: Any) -> None:
    """Create an object, and then give it a status as its controller does."""
    versions = {"Ingress": "networking.k8s.io/v1", "Service": "v1",
                "DNSEndpoint": "externaldns.k8s.io/v1alpha1"}  # fmt: skip
    manifest = {"apiVersion": versions.get(kind, "gateway.networking.k8s.io/v1"), "kind": kind,
                "metadata": {"name": name, "namespace": space}, "spec": spec}  # fmt: skip
    plane.apply(manifest)
    if status:
        path = f"{path_of(manifest)}/{name}/status"
        plane.request("PATCH", path, {"status": status}, kind="application/merge-patch+json")


def route_spec(*hosts: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web",
              "namespace": "edge"}  # fmt: skip
    status = {"parents": [{"parentRef": parent, "controllerName": "test/it",
                           "conditions": [{"type": "Accepted", "status": "True"}]}]}  # fmt: skip
    return {"parentRefs": [parent], "hostnames": [*hosts]}, status


def test_names_of_a_real_cluster(plane, tmp_path):
    """Rights and definitions come while it runs; each is noticed, and nothing loops."""
    corefile = COREFILE.format(kubeconfig=plane.dns_kubeconfig)
    balanced = {"loadBalancer": {"ingress": [{"ip": "192.0.2.90"}]}}
    service = {"type": "LoadBalancer", "clusterIP": "10.96.0.90",
               "ports": [{"port": 443, "protocol": "TCP"}]}  # fmt: skip
    made(plane, "Service", "edge", "envoy", service, balanced)
    rules = [{"host": host} for host in ("shop.hosts.test", "www.google.test")]
    made(plane, "Ingress", "shop", "it", {"rules": [
        {**each, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {
            "service": {"name": "x", "port": {"number": 80}}}}]}} for each in rules]},
        balanced)  # fmt: skip
    inside_outside = ({"10.96.0.90"}, {"192.0.2.90"})
    with peers.clusterdns(corefile, tmp_path) as server:
        for refused in ("shop.hosts.test.", "a.records.test."):
            assert ("SERVFAIL", set()) == ask(server, refused)
        assert {"10.96.0.1"} == ask(server, "kubernetes.default.svc.cluster.local.")[1]
        for component in COMPONENTS:
            for each in yaml.safe_load_all(
                (DEPLOY / "components" / component / "rbac.yaml").read_text()
            ):
                plane.apply(each)
        eventually(lambda: both(server, "shop.hosts.test.") == inside_outside, WITHIN_S)
        assert "NOERROR" != ask(server, "www.google.test.")[0]
        eventually(lambda: ask(server, "a.records.test.")[0] == "NXDOMAIN", WITHIN_S)
        for kind in WATCHED - {INGRESSES}:  # which Kubernetes itself has
            plane.apply(definition(kind))
        eventually(lambda: _is_there(plane, "Gateway"), 20)
        eventually(lambda: _is_there(plane, "DNSEndpoint"), 20)
        listener = {"name": "web", "port": 443, "protocol": "HTTPS", "hostname": "*.hosts.test",
                    "allowedRoutes": {"namespaces": {"from": "All"}}}  # fmt: skip
        made(plane, "Gateway", "edge", "web", {"gatewayClassName": "it", "listeners": [listener]},
             {"addresses": [{"type": "IPAddress", "value": "192.0.2.90"}]})  # fmt: skip
        made(plane, "HTTPRoute", "shop", "first", *route_spec("first.hosts.test"))
        made(plane, "DNSEndpoint", "shop", "a", {"endpoints": [
            {"dnsName": "a.records.test", "recordType": "A", "targets": ["192.0.2.7"]}]},
            {})  # fmt: skip
        eventually(lambda: both(server, "first.hosts.test.") == inside_outside, WITHIN_S)
        eventually(lambda: ask(server, "a.records.test.")[1] == {"192.0.2.7"}, WITHIN_S)
        for kind in ("HTTPRoute", "GRPCRoute"):  # from now on they are watched
            host = f"{kind.lower()}.hosts.test"
            made(plane, kind, "shop", "soon", *route_spec(host, "www.google.test"))
            eventually(lambda host=host: both(server, f"{host}.") == inside_outside, 3)
        spec, status = route_spec("rejected.hosts.test")
        status["parents"][0]["conditions"][0]["status"] = "False"
        made(plane, "HTTPRoute", "shop", "rejected", spec, status)
        made(plane, "HTTPRoute", "shop", "last", *route_spec("last.hosts.test"))
        eventually(lambda: ask(server, "last.hosts.test.")[1], 3)
        assert ("NXDOMAIN", set()) == ask(server, "rejected.hosts.test.")
        plane.delete({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                      "metadata": {"name": "web", "namespace": "edge"}})  # fmt: skip
        eventually(lambda: ask(server, "last.hosts.test.")[0] == "NXDOMAIN", 3)
        plane.delete({"apiVersion": "externaldns.k8s.io/v1alpha1", "kind": "DNSEndpoint",
                      "metadata": {"name": "a", "namespace": "shop"}})  # fmt: skip
        eventually(lambda: ask(server, "a.records.test.")[0] == "NXDOMAIN", 3)
        said = server.output.splitlines()
        kinds = len(WATCHED)
        assert kinds == sum("not allowed to watch" in line for line in said), server.output
        assert kinds - 1 == sum("CustomResourceDefinition" in line for line in said), server.output
        assert not any("Recovered" in line for line in said), server.output


def _is_there(plane: ControlPlane, kind: str) -> bool:
    version = {"DNSEndpoint": "externaldns.k8s.io/v1alpha1"}.get(
        kind, "gateway.networking.k8s.io/v1"
    )
    found = plane.request("GET", path_of({"apiVersion": version, "kind": kind, "metadata": {}}))
    return bool(found["kind"] == f"{kind}List")
