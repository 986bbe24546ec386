"""Ingresses, Gateways and routes, cut down to hosts, owners and addresses."""

from __future__ import annotations

from typing import Any

import pytest

from clusterdns.cluster import objects, published
from clusterdns.cluster.api import versions
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.published import GATEWAYS, HTTP_ROUTES, INGRESSES, TLS_ROUTES

METADATA = {"name": "x", "namespace": "demo", "creationTimestamp": "2026-01-01T00:00:00Z"}
CREATED = METADATA["creationTimestamp"]


def parent(name: str, *, status: str = "True", **more: str) -> dict[str, Any]:
    conditions = [
        {"type": "ResolvedRefs", "status": "True"},
        {"type": "Accepted", "status": status},
    ]
    return {"parentRef": {"name": name, **more}, "conditions": conditions}


def test_an_ingress():
    manifest = {
        "metadata": METADATA,
        "spec": {
            "ingressClassName": "nginx",
            "rules": [{"host": "a.test"}, {"http": {}}, {"host": "*.b.test"}, {"host": "a.test"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.test"}]}},
    }
    expected = published.Ingress(CREATED, "nginx", ("a.test", "*.b.test"), ("192.0.2.1", "lb.test"))
    assert (("demo", "x"), expected) == objects.cut(INGRESSES, manifest)
    del manifest["spec"]["ingressClassName"], manifest["status"]
    manifest["metadata"] = METADATA | {"annotations": {"kubernetes.io/ingress.class": "old"}}
    found = objects.cut(INGRESSES, manifest)[1]
    assert ("old", ()) == (found.ingress_class, found.addresses)


def test_a_gateway():
    listeners = [
        {"name": "http", "port": 80},
        {"name": "web", "hostname": "*.test", "protocol": "HTTPS",
         "allowedRoutes": {"namespaces": {"from": "All"}}},
    ]  # fmt: skip
    manifest = {
        "metadata": METADATA,
        "spec": {"gatewayClassName": "istio", "listeners": listeners},
        "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}]},
    }
    kept = (("http", "", "", "Same"), ("web", "*.test", "HTTPS", "All"))
    expected = published.Gateway(CREATED, "istio", kept, ("192.0.2.1",))
    assert expected == objects.cut(GATEWAYS, manifest)[1]


def test_a_route_belongs_to_gateways_that_have_accepted_it():
    parents = [
        parent("ours"),
        parent("ours"),
        parent("far", namespace="infra", sectionName="web"),
        parent("refused", status="False"),
        parent("mesh", group="", kind="Service"),
        {"parentRef": {"name": "unheard"}},
    ]
    manifest = {
        "metadata": METADATA,
        "spec": {"hostnames": ["a.test"], "parentRefs": [{"name": "never"}]},
        "status": {"parents": parents},
    }
    expected = published.Route(
        CREATED, ("a.test",), (("demo", "ours", ""), ("infra", "far", "web"))
    )
    assert expected == objects.cut(HTTP_ROUTES, manifest)[1]
    manifest["spec"]["hostnames"] = [f"{i}.test" for i in range(1001)]
    with pytest.raises(ObjectError, match="too many"):
        objects.cut(HTTP_ROUTES, manifest)


def test_other_groups_have_kinds_of_the_same_name():
    for version, expected in (("networking.k8s.io/v1", True), ("config.example.org/v1", False)):
        assert expected == versions.is_of(INGRESSES, {"kind": "Ingress", "apiVersion": version})
    assert versions.is_of("services", {"kind": "Service"})
    (first, *others) = versions.paths_of(TLS_ROUTES)
    assert "/apis/gateway.networking.k8s.io/v1/tlsroutes" == first and others
