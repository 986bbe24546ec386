"""Hosts of Ingresses and routes, `ingress`: the real process and an API server.

A client that asks from 127.0.0.2 is inside, and from 127.0.0.1 outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from faultyapi import FaultyApi
from peers import Server
from scriptedupstream import ScriptedUpstream
from test_published import ask, serving
from test_watch import cluster, eventually, metric

INSIDE, OUTSIDE = "127.0.0.2", "127.0.0.1"
INGRESS = "ingress apps.test {\n    inside 127.0.0.2 10.0.0.0/8\n    fallthrough\n  }"
KINDS = ("ingresses", "gateways", "httproutes", "grpcroutes", "tlsroutes")


def of(kind: str, space: str, name: str, spec: dict, status: dict, **more: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": space, **more}, "spec": spec,
            "status": status}  # fmt: skip


def gateway(*, to: str = "192.0.2.90") -> dict[str, Any]:
    listeners = [{"name": "web", "port": 443, "protocol": "HTTPS", "hostname": "*.apps.test",
                  "allowedRoutes": {"namespaces": {"from": "All"}}}]  # fmt: skip
    spec = {"gatewayClassName": "envoy", "listeners": listeners}
    return of("Gateway", "edge", "web", spec, {"addresses": [{"value": to}]})


def balancer(*, cluster_ip: str = "10.96.0.90", to: str = "192.0.2.90") -> dict[str, Any]:
    spec = {"type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "ports": [{"port": 443}]}  # fmt: skip
    return of("Service", "edge", "envoy", spec, {"loadBalancer": {"ingress": [{"ip": to}]}})


def route(name: str, *hosts: str, kind: str = "HTTPRoute", **more: str) -> dict[str, Any]:
    parent = {"name": "web", "namespace": "edge"}
    status = {"parents": [{"parentRef": parent,
                           "conditions": [{"type": "Accepted", "status": "True"}]}]}  # fmt: skip
    return of(kind, "a", name, {"parentRefs": [parent], "hostnames": [*hosts]}, status, **more)


def ingress(name: str, *hosts: str, to: str = "192.0.2.90", **more: str) -> dict[str, Any]:
    spec = {"ingressClassName": "nginx", "rules": [{"host": host} for host in hosts]}
    return of("Ingress", "a", name, spec, {"loadBalancer": {"ingress": [{"ip": to}]}}, **more)


def both(server: Server, name: str) -> tuple[set[str], set[str]]:
    return ask(server, name, by=INSIDE)[1], ask(server, name, by=OUTSIDE)[1]


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute", "TLSRoute", "Ingress"])
def test_hosts_come_and_go_within_a_second(tmp_path, kind):
    made = ingress if kind == "Ingress" else lambda *a, **b: route(*a, kind=kind, **b)
    tls = gateway()
    if kind == "TLSRoute":
        tls["spec"]["listeners"][0]["protocol"] = "TLS"
    with (
        FaultyApi([*cluster(3), tls, balancer()]) as api,
        serving(tmp_path, api, INGRESS.replace("fallthrough", "")) as (server, port),
    ):
        assert ("NXDOMAIN", set()) == ask(server, "shop.apps.test.")
        api.apply(made("x", "shop.apps.test", "www.google.test"))
        eventually(lambda: both(server, "shop.apps.test.") == ({"10.96.0.90"}, {"192.0.2.90"}), 1)
        assert "NOERROR" != ask(server, "www.google.test.")[0]
        for _ in range(3):  # from the table, where it is used
            assert ({"10.96.0.90"}, {"192.0.2.90"}) == both(server, "shop.apps.test.")
        api.apply(made("y", "shop.apps.test", "also.apps.test", creationTimestamp="2026-03-01"))
        eventually(lambda: bool(ask(server, "also.apps.test.")[1]), 1)
        api.apply(balancer(cluster_ip="10.96.0.91"))
        eventually(lambda: both(server, "shop.apps.test.") == ({"10.96.0.91"}, {"192.0.2.90"}), 1)
        (line,) = [line for line in server.output.splitlines() if "www.google.test" in line]
        assert f"{kind} a/x: www.google.test is in none of the zones" in line
        assert 1 == metric(port, "clusterdns_ingress_left_out_hosts", reason="outside")
        assert 2 == metric(port, "clusterdns_ingress_hosts", zone="apps.test.")
        api.delete(kind, "x", "a")
        api.delete(kind, "y", "a")
        eventually(lambda: ask(server, "shop.apps.test.")[0] == "NXDOMAIN", 1)
        assert 0 == metric(port, "clusterdns_ingress_left_out_hosts")


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    found = ScriptedUpstream([])  # no name exists
    yield found
    found.stop()


def test_a_name_that_upstream_denied_is_answered_within_a_second(tmp_path, upstream):
    """Also inside, where the answer depends on the client, and with a cache that has the denial."""
    with (
        FaultyApi([*cluster(3), gateway(), balancer()]) as api,
        serving(tmp_path, api, INGRESS, f"forward . {upstream.address}") as (server, _),
    ):
        for by in (INSIDE, OUTSIDE) * 2:
            assert ("NXDOMAIN", set()) == ask(server, "shop.apps.test.", by=by)
        api.apply(route("x", "shop.apps.test"))
        eventually(lambda: both(server, "shop.apps.test.") == ({"10.96.0.90"}, {"192.0.2.90"}), 1)
        api.delete("HTTPRoute", "x", "a")
        eventually(lambda: ask(server, "shop.apps.test.", by=INSIDE)[0] == "NXDOMAIN", 1)


def test_a_client_never_gets_the_other_sides_answer(tmp_path):
    """Both ask the same names at the same time, while the Service's address changes."""
    with (
        FaultyApi([*cluster(3), gateway(), balancer(), route("x", "*.apps.test")]) as api,
        serving(tmp_path, api, INGRESS) as (server, _),
    ):
        eventually(lambda: ask(server, "a.apps.test.")[1] == {"192.0.2.90"}, 5)
        wrong: list[tuple[str, set[str]]] = []
        until = time.monotonic() + 2

        def client(by: str, may_be: str) -> None:
            i = 0
            while time.monotonic() < until:
                i += 1
                _, found = ask(server, f"{'abc'[i % 3]}.apps.test.", by=by)
                if not found or not all(each.startswith(may_be) for each in found):
                    wrong.append((by, found))

        clients = [
            threading.Thread(target=client, args=args)
            for args in ((INSIDE, "10.96."), (OUTSIDE, "192.0.2.")) * 2
        ]
        for each in clients:
            each.start()
        for i in range(10):
            api.apply(balancer(cluster_ip=f"10.96.0.{i + 1}"))
            time.sleep(0.15)
        for each in clients:
            each.join()
        assert [] == wrong
        eventually(lambda: both(server, "a.apps.test.") == ({"10.96.0.10"}, {"192.0.2.90"}), 1)


def test_without_the_definitions_there_are_none_until_they_are_there(tmp_path):
    """One line for each says so, and Ingresses are answered."""
    objects = [*cluster(3), gateway(), balancer(), ingress("i", "in.apps.test"),
               route("x", "shop.apps.test")]  # fmt: skip
    with FaultyApi(objects) as api:
        api.statuses.update(dict.fromkeys(KINDS[1:], (404, {})))
        with serving(tmp_path, api, INGRESS) as (server, _):
            assert ({"10.96.0.90"}, {"192.0.2.90"}) == both(server, "in.apps.test.")
            assert {"10.0.0.2"} == ask(server, "s2.a.svc.cluster.local.")[1]
            assert "NOERROR" != ask(server, "shop.apps.test.")[0]
            lines = [line for line in server.output.splitlines() if "CustomResource" in line]
            assert 4 == len(lines) and all("WARNING" in line for line in lines)
            asked = len(api.requests)
            time.sleep(3)
            assert len(api.requests) - asked < 15  # no loop
            api.statuses.clear()
            wanted = ({"10.96.0.90"}, {"192.0.2.90"})
            eventually(lambda: both(server, "shop.apps.test.") == wanted, 35)


def test_without_the_right_only_these_zones_fail(tmp_path):
    with FaultyApi([*cluster(3), ingress("i", "in.apps.test")]) as api:
        api.statuses["ingresses"] = (403, {})
        with serving(tmp_path, api, INGRESS) as (server, _):
            assert ("NXDOMAIN", set()) == ask(server, "nosuch.a.svc.cluster.local.")
            assert ("SERVFAIL", set()) == ask(server, "in.apps.test.")
            lines = [line for line in server.output.splitlines() if "ingresses" in line]
            assert len(lines) == 1 and "the ClusterRole needs the verbs list and watch" in lines[0]
            assert "plugins not ready" not in server.output
            del api.statuses["ingresses"]
            eventually(lambda: ask(server, "in.apps.test.")[1] == {"192.0.2.90"}, 35)


def test_a_gateway_that_comes_after_its_routes_changes_all_of_them_soon(tmp_path):
    """And names of the cluster are answered meanwhile."""
    routes = [route(f"r{i}", f"h{i}.apps.test") for i in range(2000)]
    with (
        FaultyApi([*cluster(3), balancer(), *routes]) as api,
        serving(tmp_path, api, INGRESS) as (server, port),
    ):
        api.apply(gateway())
        slowest, started = 0.0, time.monotonic()
        while metric(port, "clusterdns_ingress_hosts", zone="apps.test.") < 2000:
            asked = time.monotonic()
            ask(server, f"nosuch{asked}.a.svc.cluster.local.")
            slowest = max(slowest, time.monotonic() - asked)
            assert time.monotonic() - started < 10
        assert ({"10.96.0.90"}, {"192.0.2.90"}) == both(server, "h1999.apps.test.")
        assert slowest < 0.2  # all at once take longer on a busy machine
