"""Hosts of Ingresses and routes: which ones an object has, which count, and what a change forgets."""

from __future__ import annotations

import asyncio
import random

import pytest
from inprocess import InProcess, in_table, said

from clusterdns.authority.hosts import Hosts, common_host
from clusterdns.authority.hostzone import HostZone
from clusterdns.cluster import objects
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.published import (
    GATEWAYS,
    GRPC_ROUTES,
    HTTP_ROUTES,
    INGRESSES,
    PUBLISHED,
    TLS_ROUTES,
    Gateway,
    Ingress,
    Route,
)
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question

APEX = name.fold(name.parse("apps.test"))
ANY, EDGE = ("", "", "HTTPS", "All"), ("edge", "web")
KINDS = (INGRESSES, GATEWAYS, HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES)
COREFILE = """.:53 {{
    kubernetes cluster.local {{
        manifests .
    }}
    ingress apps.test {{
        {option}
    }}
    forward . 192.0.2.1
    cache
}}
"""


def hosts(**more) -> Hosts:
    zone = HostZone(APEX, 30, [name.fold(name.parse("ns.dns.apps.test"))])
    return Hosts([zone], **({"kinds": KINDS} | more))


def ingress(*its: str, to: tuple[str, ...] = ("192.0.2.1",), created="1", of="") -> tuple:
    return tuple(Ingress(created, of, its, to))


def route(*its: str, at: tuple[tuple[str, str, str], ...] = ((*EDGE, ""),), created="1") -> tuple:
    return tuple(Route(created, its, at))


def gateway(*listeners: tuple[str, str, str, str], to=("192.0.2.9",), of="envoy") -> tuple:
    return tuple(Gateway("1", of, listeners or (ANY,), to))


def served(found: Hosts) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each host, as its first claim has them."""
    return {
        name.text(owner)[:-1]: tuple(
            each for one in found.carriers(claims[0], owner) for each in one.addresses
        )
        for owner, claims in found._claims.items()
    }


COMMON = [
    ("a.test", "", "a.test"),
    ("", "a.test", "a.test"),
    ("", "", ""),
    ("a.test", "a.test", "a.test"),
    ("a.test", "b.test", ""),
    ("x.a.test", "*.a.test", "x.a.test"),
    ("y.x.a.test", "*.a.test", "y.x.a.test"),
    ("a.test", "*.a.test", ""),
    ("xa.test", "*.a.test", ""),
    ("*.a.test", "x.a.test", "x.a.test"),
    ("*.a.test", "*.a.test", "*.a.test"),
    ("*.x.a.test", "*.a.test", "*.x.a.test"),
    ("*.a.test", "*.x.a.test", "*.x.a.test"),
    ("*.b.test", "*.a.test", ""),
]


@pytest.mark.parametrize(("host", "pattern", "expected"), COMMON)
def test_what_a_route_and_a_listener_have_in_common(host, pattern, expected):
    assert expected == common_host(host, pattern)


def test_a_route_has_the_hosts_of_listeners_that_take_it():
    found = hosts()
    found.take(HTTP_ROUTES, ("shop", "r"), route("a.apps.test", "A.B.apps.test."), 1)
    assert {} == served(found)  # the Gateway is not known yet, so nothing is left out
    assert {} == dict(found.counts()[1])
    found.take(GATEWAYS, EDGE, gateway(), 1)
    assert {"a.apps.test": ("192.0.2.9",), "a.b.apps.test": ("192.0.2.9",)} == served(found)
    found.take(GATEWAYS, EDGE, gateway(("", "*.b.apps.test", "HTTP", "All")), 1)
    assert {"a.b.apps.test"} == served(found).keys()
    assert {"listener": 1} == dict(found.counts()[1])
    for listener in (
        ("", "", "TLS", "All"),  # for TLSRoutes
        ("", "", "TCP", "All"),
        ("", "", "HTTPS", "Same"),  # for routes of its own namespace
    ):
        found.take(GATEWAYS, EDGE, gateway(listener), 1)
        assert {} == served(found), listener
    for listener in (("", "", "example.org/own", "All"), ("", "", "HTTPS", "Selector")):
        found.take(GATEWAYS, EDGE, gateway(listener), 1)
        assert 2 == len(served(found)), listener
    found.take(TLS_ROUTES, ("shop", "t"), route(), 1)
    found.take(GATEWAYS, EDGE, gateway(("", "t.apps.test", "TLS", "All"), to=("192.0.2.8",)), 1)
    assert {"t.apps.test": ("192.0.2.8",)} == served(found)
    found.take(GATEWAYS, EDGE, gateway(("one", "*.apps.test", "HTTPS", "All")), 1)
    sections = (((*EDGE, "one"),), 2), (((*EDGE, "two"),), 0), (((*EDGE, ""),), 2)
    for at, count in sections:
        found.take(HTTP_ROUTES, ("shop", "r"), route("a.apps.test", "b.apps.test", at=at), 1)
        assert count == len(served(found)), at
    found.take(GATEWAYS, EDGE, None, 1)
    assert {} == served(found)


def test_each_host_of_a_route_leads_to_the_gateways_that_have_it():
    found = hosts()
    at = ((*EDGE, ""), ("edge", "other", ""))
    found.take(HTTP_ROUTES, ("shop", "r"), route("a.apps.test", "b.apps.test", at=at), 1)
    found.take(GATEWAYS, EDGE, gateway(("", "a.apps.test", "HTTP", "All")), 1)
    found.take(GATEWAYS, ("edge", "other"), gateway(to=("192.0.2.10",)), 1)
    expected = {"a.apps.test": ("192.0.2.9", "192.0.2.10"), "b.apps.test": ("192.0.2.10",)}
    assert expected == served(found)


def test_the_oldest_object_counts_and_one_without_address_last():
    told: list[str] = []
    found = hosts(tell=told.append)
    found.take(GATEWAYS, EDGE, gateway(), 1)

    def take(text: str, what: tuple | None, kind: str = INGRESSES) -> tuple[str, ...]:
        found.take(kind, ("shop", text), what, 1)
        return served(found).get("a.apps.test", ("none",))

    assert ("192.0.2.3",) == take("c", ingress("a.apps.test", to=("192.0.2.3",), created="3"))
    assert ("192.0.2.3",) == take("a", ingress("a.apps.test", to=(), created="0"))
    assert [] == told  # it may yet get the same address
    assert ("192.0.2.2",) == take("b", ingress("a.apps.test", to=("192.0.2.2",), created="2"))
    assert {"conflict": 1} == dict(found.counts()[1])
    assert ("192.0.2.9",) == take("r", route("a.apps.test", created="1"), HTTP_ROUTES)
    assert {"conflict": 2} == dict(found.counts()[1])
    assert ("192.0.2.2",) == take("r", None, HTTP_ROUTES)
    assert ("192.0.2.2",) == take("d", ingress("a.apps.test", to=("192.0.2.2",), created="4"))
    assert {"conflict": 1} == dict(found.counts()[1])  # d leads to where b does
    assert ("192.0.2.3",) == take("b", None)
    assert ("192.0.2.5",) == take("a", ingress("a.apps.test", to=("192.0.2.5",), created="0"))
    assert ("192.0.2.3",) == take("a", None)
    assert ("192.0.2.2",) == take("c", None)
    assert ("none",) == take("d", None)
    assert ({}, {}) == tuple(map(dict, found.counts()))
    assert not any("a.apps.test. belongs" in each and "shop/d" in each for each in told)


def test_what_there_was_no_room_for_comes_when_there_is():
    calls: list[None] = []
    found = hosts(most_hosts=3, later=lambda: calls.append(None))
    for key in "abcd":
        some = [f"{key}{i}.apps.test" for i in range(2)]
        found.take(INGRESSES, ("shop", key), ingress(*some, created=key), 1)
    assert ({APEX: 3}, {"limit": 5}) == tuple(map(dict, found.counts()))
    assert not found.has_work
    found.take(INGRESSES, ("shop", "c"), None, 2)  # had no host: there is no room yet
    assert not found.has_work
    assert [] == calls
    found.take(INGRESSES, ("shop", "a"), None, 2)
    assert [None] == calls
    while found.has_work:
        found.work(2)
    assert ({APEX: 3}, {"limit": 1}) == tuple(map(dict, found.counts()))
    assert [] == [each for each in ("b0", "b1", "d0") if not is_there(found, f"{each}.apps.test")]


def is_there(found: Hosts, host: str) -> bool:
    return bool(found.claims(name.fold(name.parse(host))))


def test_what_is_left_out_is_told_once_and_counted():
    told: list[str] = []
    found = hosts(tell=told.append, most_hosts=3)
    its = (
        "www.google.test",
        "evil.test",
        "x" * 64 + ".apps.test",
        *(f"n{i}.apps.test" for i in range(5)),
    )
    for _ in range(2):
        found.take(INGRESSES, ("shop", "x"), ingress(*its), 1)
    assert {"outside": 2, "invalid": 1, "limit": 2} == dict(found.counts()[1])
    assert {APEX: 3} == dict(found.counts()[0])
    assert 3 == len(told)
    assert "Ingress shop/x: www.google.test is in none of the zones" == told[0]
    found.take(INGRESSES, ("shop", "x"), None, 2)
    found.take(INGRESSES, ("shop", "y"), ingress("y.apps.test"), 3)
    assert {APEX: 1} == dict(found.counts()[0])  # the room is there again


def test_classes_and_namespaces():
    found = hosts(ingress_classes=["nginx"], gateway_classes=["envoy"], namespaces=["shop"])
    found.take(INGRESSES, ("shop", "a"), ingress("a.apps.test", of="nginx"), 1)
    found.take(INGRESSES, ("shop", "b"), ingress("b.apps.test", of="other"), 1)
    found.take(INGRESSES, ("else", "c"), ingress("c.apps.test", of="nginx"), 1)
    found.take(HTTP_ROUTES, ("shop", "r"), route("r.apps.test"), 1)
    found.take(GATEWAYS, EDGE, gateway(of="other"), 1)
    assert {"a.apps.test"} == served(found).keys()
    found.take(GATEWAYS, EDGE, gateway(), 1)
    assert {"a.apps.test", "r.apps.test"} == served(found).keys()
    found.take(GATEWAYS, EDGE, gateway(of="other"), 1)
    assert {"a.apps.test"} == served(found).keys()


def test_a_gateway_with_many_routes_is_read_in_parts():
    called: list[bool] = []
    found = hosts(later=lambda: called.append(True))
    for i in range(1000):
        found.take(HTTP_ROUTES, ("shop", f"r{i}"), route(f"r{i}.apps.test"), 1)
    found.take(GATEWAYS, EDGE, gateway(), 1)
    assert found.has_work and called == [True] and 0 < len(served(found)) < 200
    rounds = 0
    while found.has_work:
        assert [("zone", "apps.test.")] == found.work(2)
        rounds += 1
    assert 1000 == len(served(found)) and 5 < rounds < 50
    found.take(GATEWAYS, EDGE, gateway(("", "r7.apps.test", "HTTP", "All")), 1)
    found.take(HTTP_ROUTES, ("shop", "r999"), None, 1)  # while it is due
    while found.has_work:
        found.work(2)
    assert {"r7.apps.test"} == served(found).keys()
    assert 998 == found.counts()[1]["listener"]
    assert [] == found.work(3)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_came_and_went_it_is_as_if_made_at_once(seed):
    rng = random.Random(seed)
    its = [f"{label}.apps.test" for label in ("a", "b", "*", "*.b", "c.b", "x.c.b")] + ["o.test"]
    listeners = [ANY, ("", "*.b.apps.test", "HTTP", "All"), ("s", "a.apps.test", "TLS", "Same")]
    now: dict[tuple[str, tuple[str, str]], tuple] = {}
    found = hosts()
    for _ in range(150):
        kind, key = rng.choice(KINDS), (rng.choice(("edge", "shop")), rng.choice("uvw"))
        some, created = rng.sample(its, rng.randrange(4)), str(rng.randrange(5))
        to = tuple(rng.sample(["192.0.2.1", "lb.test", "::1"], rng.randrange(3)))
        value: tuple | None = None
        if rng.random() < 0.7:
            at = tuple(("edge", text, rng.choice(("", "s"))) for text in rng.sample("uvw", 2))
            value = {INGRESSES: ingress(*some, to=to, created=created),
                     GATEWAYS: gateway(*rng.sample(listeners, 2), to=to)}.get(
                kind, route(*some, at=at, created=created))  # fmt: skip
        now[kind, key] = value  # type: ignore[assignment]
        found.take(kind, key, value, 1)
        while found.has_work:
            found.work(1)
    anew = hosts()
    for (kind, key), value in rng.sample([*now.items()], len(now)):
        anew.take(kind, key, value, 1)
        while anew.has_work:
            anew.work(1)
    assert served(anew) == served(found)
    assert anew.counts() == found.counts()
    for text in (
        *its,
        "q.apps.test",
        "b.apps.test",
        "c.b.apps.test",
        "q.b.apps.test",
        "z.c.b.apps.test",
    ):
        owner = name.fold(name.parse(text))
        if name.is_within(owner, APEX):
            both = [each.zones[APEX].owner_of(Question(owner, owner, 1)) for each in (anew, found)]
            assert both[0][0] == both[1][0], text
    for kind, key in now:
        found.take(kind, key, None, 1)
    assert ({}, {}) == tuple(map(dict, found.counts()))
    assert not (found._routes or found._held or found._objects or found._gateways)


def manifest(kind: str, space: str, text: str, spec: dict, status: dict, **metadata) -> dict:
    group = "networking.k8s.io/v1" if kind == "Ingress" else "gateway.networking.k8s.io/v1"
    if kind == "Service":
        group = "v1"
    return {"apiVersion": group, "kind": kind, "spec": spec, "status": status,
            "metadata": {"name": text, "namespace": space, **metadata}}  # fmt: skip


def its_ingress(*its: str, to: str = "192.0.2.1", **metadata) -> dict:
    status = {"loadBalancer": {"ingress": [{"ip": to}]}}
    return manifest(
        "Ingress", "shop", "x", {"rules": [{"host": host} for host in its]}, status, **metadata
    )


def balancer(text: str, cluster_ip: str, to: str) -> dict:
    spec = {"type": "LoadBalancer", "clusterIP": cluster_ip, "ports": [{"port": 443}]}
    return manifest("Service", "edge", text, spec, {"loadBalancer": {"ingress": [{"ip": to}]}})


TOO_MUCH = [
    ("Ingress", INGRESSES, {"rules": [{"host": f"h{i}.test"} for i in range(1001)]}, {}),
    ("Gateway", GATEWAYS, {"listeners": [{"name": f"l{i}"} for i in range(65)]}, {}),
    ("HTTPRoute", HTTP_ROUTES, {"hostnames": [f"h{i}.test" for i in range(17)]}, {}),
    ("HTTPRoute", HTTP_ROUTES, {"hostnames": ["x" * 140_000]}, {}),
    ("HTTPRoute", HTTP_ROUTES, {}, {"parents": [
        {"parentRef": {"name": f"g{i}"}, "conditions": [{"type": "Accepted", "status": "True"}]}
        for i in range(33)]}),
    ("Gateway", GATEWAYS, {"listeners": [{"allowedRoutes": {"namespaces": "All"}}]}, {}),
    ("HTTPRoute", HTTP_ROUTES, {"hostnames": [7]}, {}),
    ("Ingress", INGRESSES, {"rules": [7]}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("word", "kind", "spec", "status"), TOO_MUCH)
def test_an_object_that_is_too_large_or_wrong_is_skipped(word, kind, spec, status):
    with pytest.raises(ObjectError):
        objects.cut(kind, manifest(word, "shop", "x", spec, status))


def run(steps, *manifests: dict, option: str = "", unlisted: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        corefile = COREFILE.format(option=option)
        async with InProcess(corefile, manifests, unlisted=unlisted) as server:
            await steps(server)

    asyncio.run(main())


def test_a_change_of_a_service_forgets_the_answers_that_depend_on_it():
    async def steps(server: InProcess) -> None:
        server.apply(its_ingress("a.apps.test"))
        assert ("NOERROR", ["192.0.2.1"]) == await said(server, "a.apps.test")
        assert in_table(server, "a.apps.test")
        server.apply(balancer("lb", "10.96.0.1", "192.0.2.1"))
        assert ("NOERROR", ["10.96.0.1"]) == await said(server, "a.apps.test")
        assert in_table(server, "a.apps.test")
        server.apply(balancer("lb", "10.96.0.2", "192.0.2.1"))
        assert ("NOERROR", ["10.96.0.2"]) == await said(server, "a.apps.test")
        server.apply(balancer("second", "10.96.0.3", "192.0.2.1"))
        assert ("NOERROR", ["192.0.2.1"]) == await said(server, "a.apps.test")
        server.apply(balancer("lb", "10.96.0.2", "192.0.2.1"), is_gone=True)
        assert ("NOERROR", ["10.96.0.3"]) == await said(server, "a.apps.test")
        server.apply(its_ingress("a.apps.test", to="192.0.2.2"))
        assert ("NOERROR", ["192.0.2.2"]) == await said(server, "a.apps.test")
        server.apply(its_ingress("a.apps.test"), is_gone=True)
        assert ("NXDOMAIN", []) == await said(server, "a.apps.test")

    run(steps, option="inside *")


@pytest.mark.parametrize(
    ("option", "expected"),
    [("", "192.0.2.1"), ("inside 10.0.0.0/8", "192.0.2.1"), ("inside 127.0.0.0/8", "10.96.0.1"),
     ("inside 10.0.0.0/8\ninside *", "10.96.0.1")],
)  # fmt: skip
def test_clients_get_their_side(option, expected):
    async def steps(server: InProcess) -> None:
        assert ("NOERROR", [expected]) == await said(server, "a.apps.test")
        assert ("NOERROR", []) == await said(server, "a.apps.test", "AAAA")
        for _ in range(2):  # what does not last is kept when it is asked for again
            assert ("NXDOMAIN", []) == await said(server, "b.apps.test")
        if "127" not in option:  # the class of those inside has a table of its own
            assert in_table(server, "b.apps.test")

    run(steps, its_ingress("a.apps.test"), balancer("lb", "10.96.0.1", "192.0.2.1"), option=option)


def test_before_the_first_list_only_these_zones_fail(monkeypatch):
    monkeypatch.setattr("clusterdns.authority.publishing.START_TIMEOUT_S", 0.05)

    async def steps(server: InProcess) -> None:
        assert ("SERVFAIL", []) == await said(server, "a.apps.test")
        assert not in_table(server, "a.apps.test")
        assert ("NXDOMAIN", []) == await said(server, "x.demo.svc.cluster.local")
        assert all(plugin.is_ready for plugin in server.configuration.plugins)

    run(steps, unlisted=("HTTPRoute",))


def test_only_named_resources_are_watched():
    for option, expected in (
        ("resources Ingress", {INGRESSES}),
        ("resources GRPCRoute TLSRoute", {GRPC_ROUTES, TLS_ROUTES, GATEWAYS}),
        ("ttl 5", set(KINDS)),
    ):
        compiled = compile_text(
            COREFILE.format(option=option), "Corefile", port=53, environ={}, warn=print
        )
        (source,) = compiled.sources
        assert expected == set(source.kinds) & PUBLISHED and source.is_external
    text = ".:53 {\n kubernetes cluster.local {\n manifests .\n }\n}\n"
    (source,) = compile_text(text, "Corefile", port=53, environ={}, warn=print).sources
    assert not set(source.kinds) & PUBLISHED and not source.is_external


MISTAKES = [
    ("service is for the plugin k8s_external", "resources Service"),
    ("wants Ingress, HTTPRoute, GRPCRoute, TLSRoute", "resources httproutes"),
    ("wants NAMESPACE/NAME", "service envoy"),
    ("wants SERVICE.NAMESPACE", "apex dns"),
    ("unknown property", "kubeconfig x"),
    ("from 1 to 86400", "ttl 0"),
    ("inside", "inside"),
    ("10.0.0.0/99", "inside 10.0.0.0/99"),
]


@pytest.mark.parametrize(("expected", "option"), MISTAKES)
def test_mistakes(expected, option):
    with pytest.raises(ConfigError, match=f"(?i){expected}"):
        compile_text(COREFILE.format(option=option), "Corefile", port=53, environ={}, warn=print)


def test_it_needs_a_cluster():
    with pytest.raises(ConfigError, match="needs the kubernetes plugin"):
        compile_text("apps.test {\ningress\n}\n", "Corefile", port=53, environ={}, warn=print)


def test_a_transfer_is_what_clients_outside_get():
    async def steps(server: InProcess) -> None:
        (plugin,) = [each for each in server.configuration.plugins if each.name == "ingress"]
        first, *between, last = plugin.transfer(APEX)
        assert first == last and rr.SOA == first.rtype
        found = sorted((name.text(each.owner), each.rtype) for each in between)
        expected = [("a.apps.test.", rr.A), ("alias.apps.test.", rr.CNAME), ("apps.test.", rr.NS)]
        assert expected == found  # no address of this server is known, and no alias at the apex
        assert {b"\xc0\0\2\1"} == {each.rdata for each in between if each.rtype == rr.A}
        assert plugin.transfer(name.fold(name.parse("else.test"))) is None

    alias = its_ingress("alias.apps.test", "apps.test")
    alias["metadata"]["name"] = "alias"
    alias["status"] = {"loadBalancer": {"ingress": [{"hostname": "lb.cloud.test"}]}}
    manifests = its_ingress("a.apps.test"), alias, balancer("lb", "10.96.0.1", "192.0.2.1")
    run(steps, *manifests, option="inside *\nservice edge/lb\nsecondary none.edge")


def test_nothing_is_transferred_before_the_first_list(monkeypatch):
    monkeypatch.setattr("clusterdns.authority.publishing.START_TIMEOUT_S", 0.05)

    async def steps(server: InProcess) -> None:
        (plugin,) = [each for each in server.configuration.plugins if each.name == "ingress"]
        with pytest.raises(LookupError, match="not been listed"):
            plugin.transfer(APEX)

    run(steps, unlisted=("Ingress",))
