"""DNSEndpoint objects: what is kept of them, which records count, and what a change forgets."""

from __future__ import annotations

import asyncio
import random

import pytest
from inprocess import InProcess, in_table, said

from clusterdns.authority import endpoints, targets
from clusterdns.authority.endpoints import Published
from clusterdns.authority.livezone import LiveZone
from clusterdns.authority.zone import Zone
from clusterdns.cluster import objects, published
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.published import DNS_ENDPOINTS
from clusterdns.cluster.store import Store
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError, FormError
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.rr import RR

APEX = name.fold(name.parse("apps.test"))
WEB = name.fold(name.parse("web.apps.test"))
COREFILE = """.:53 {{
    kubernetes cluster.local {{
        manifests .
    }}
    endpoint apps.test {{
        {option}
    }}
}}
"""
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "demo"}}


def endpoint(key: str, *records: tuple[str, str, str], created: str = "2026-01-01") -> dict:
    space, _, text = key.rpartition("/")
    return {
        "apiVersion": "externaldns.k8s.io/v1alpha1",
        "kind": "DNSEndpoint",
        "metadata": {"name": text, "namespace": space or "demo", "creationTimestamp": created},
        "spec": {
            "endpoints": [
                {"dnsName": owner, "recordType": rtype, "targets": [target]}
                for owner, rtype, target in records
            ]
        },
    }


def run(steps, *manifests: dict, option: str = "", unlisted: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        corefile = COREFILE.format(option=option)
        async with InProcess(corefile, [NAMESPACE, *manifests], unlisted=unlisted) as server:
            await steps(server)

    asyncio.run(main())


TARGETS = [
    ("A", "192.0.2.1", b"\xc0\0\2\1"),
    ("AAAA", "2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
    ("A", "2001:db8::1", None),
    ("AAAA", "192.0.2.1", None),
    ("A", "web.test", None),
    ("CNAME", "web.test", b"\3web\4test\0"),
    ("CNAME", "Web.Test.", b"\3Web\4Test\0"),
    ("CNAME", "", None),
    ("NS", "a b", None),
    ("PTR", "a..b", None),
    ("MX", "10 mail.test", b"\0\x0a\4mail\4test\0"),
    ("MX", "mail.test", None),
    ("MX", "65536 mail.test", None),
    ("MX", "-1 mail.test", None),
    ("SRV", "1 2 443 web.test.", b"\0\1\0\2\1\xbb\3web\4test\0"),
    ("SRV", "1 2 web.test.", None),
    ("TXT", "plain text", b"\x0aplain text"),
    ("TXT", '"a" "b c"', b"\1a\3b c"),
    ("TXT", r'"say \"x\" \\ \065"', b'\x0bsay "x" \\ A'),
    ("TXT", '"not closed', None),
    ("TXT", "", b"\0"),
    ("TXT", "x" * 300, b"\xff" + b"x" * 255 + b"\x2d" + b"x" * 45),
    ("TXT", "x" * 5000, None),
]


@pytest.mark.parametrize(("rtype", "target", "expected"), TARGETS)
def test_targets(rtype, target, expected):
    if expected is None:
        with pytest.raises((FormError, ValueError)):
            targets.rdata_of(targets.TYPES[rtype], target)
    else:
        assert expected == targets.rdata_of(targets.TYPES[rtype], target)


def test_an_object_is_cut_to_its_records():
    manifest = endpoint("demo/x", ("a.apps.test", "A", "192.0.2.1"))
    manifest["spec"]["endpoints"].append(
        {"dnsName": "b.apps.test", "recordType": "TXT", "recordTTL": 2**40 + 7, "targets": ["t"],
         "providerSpecific": [{"name": "x", "value": "y"}], "setIdentifier": "s"}
    )  # fmt: skip
    key, found = objects.cut(DNS_ENDPOINTS, manifest)
    assert ("demo", "x") == key
    records = (("a.apps.test", "A", 0, "192.0.2.1"), ("b.apps.test", "TXT", 7, "t"))
    assert published.DNSEndpoint("2026-01-01", records) == found
    for wrong in ({"dnsName": 5}, {"targets": "x"}, {"recordTTL": "5"}, {"targets": [None, 5]}):
        manifest["spec"]["endpoints"] = [{"dnsName": "a", "recordType": "A"} | wrong]
        with pytest.raises(ObjectError):
            objects.cut(DNS_ENDPOINTS, manifest)
    assert () == objects.cut(DNS_ENDPOINTS, {"metadata": {"name": "x"}})[1].records


@pytest.mark.parametrize("targets", [["192.0.2.1"] * 1001, ["x" * 70_000, "y" * 70_000]])
def test_an_object_that_is_too_large_is_skipped(targets):
    manifest = endpoint("demo/x")
    manifest["spec"]["endpoints"] = [{"dnsName": "a", "recordType": "TXT", "targets": targets}]
    with pytest.raises(ObjectError, match="too many"):
        objects.cut(DNS_ENDPOINTS, manifest)


def value(*records: tuple[str, str, str], created: str = "1") -> tuple:
    return (created, tuple((owner, rtype, 0, target) for owner, rtype, target in records))


def test_the_oldest_object_counts_and_the_next_one_takes_over():
    found = Published([APEX], ttl=30)
    web = name.fold(name.parse("web.apps.test"))

    def served() -> list[tuple[int, bytes]]:
        return sorted((each.rtype, each.rdata[-1:]) for each in found.zones[APEX].records()
                      if each.owner == web)  # fmt: skip

    def take(text: str, what: tuple | None) -> None:
        found.take(DNS_ENDPOINTS, ("demo", text), what, 1)

    take("b", value(("web.apps.test", "A", "192.0.2.2"), created="2"))
    take("c", value(("web.apps.test", "A", "192.0.2.3"), ("web.apps.test", "TXT", "x"),
                    created="3"))  # fmt: skip
    assert [(rr.A, b"\2"), (rr.TXT, b"x")] == served()
    assert {"conflict": 1} == dict(found.counts()[1])
    take("a", value(("web.apps.test", "CNAME", "a.test"), created="1"))
    assert [(rr.CNAME, b"\0")] == served()  # alone: it is the oldest
    assert {"conflict": 3} == dict(found.counts()[1])
    take("a", None)
    take("b", value(("web.apps.test", "A", "192.0.2.2"), created="4"))  # made anew: it is younger
    assert [(rr.A, b"\3"), (rr.TXT, b"x")] == served()
    take("d", value(("web.apps.test", "CNAME", "d.test"), created="5"))
    assert [(rr.A, b"\3"), (rr.TXT, b"x")] == served()
    take("c", None)
    assert [(rr.A, b"\2")] == served()
    take("b", None)
    assert [(rr.CNAME, b"\0")] == served()
    take("d", None)
    assert [] == served() and {} == dict(found.counts()[1])


def test_what_is_left_out_is_told_once_and_counted():
    told: list[str] = []
    found = Published([APEX], ttl=30, tell=told.append, most_octets=3000)
    records = [
        ("www.google.test", "A", "192.0.2.1"),
        ("www.google.test", "AAAA", "2001:db8::1"),
        ("a.apps.test", "NAPTR", "x"),
        ("a.apps.test", "A", "nonsense"),
        ("apps.test", "CNAME", "x.test"),
        ("x" * 64 + ".apps.test", "A", "192.0.2.1"),
        *((f"n{i}.apps.test", "A", "192.0.2.1") for i in range(4)),
    ]
    for _ in range(2):
        found.take(DNS_ENDPOINTS, ("demo", "x"), value(*records), 1)
    names, left_out = found.counts()
    assert {"outside": 2, "type": 1, "invalid": 3, "limit": 1} == dict(left_out)
    assert {APEX: 3} == dict(names)
    assert 4 == len(told) and told[0].startswith(
        "DNSEndpoint demo/x: www.google.test A is in none of"
    )
    found.take(DNS_ENDPOINTS, ("demo", "x"), None, 2)
    assert ({}, {}) == tuple(map(dict, found.counts()))
    found.take(DNS_ENDPOINTS, ("demo", "y"), value(records[-1]), 3)
    assert {APEX: 1} == dict(found.counts()[0])  # the room is there again


def test_many_objects_with_one_name_cost_no_more_than_few(monkeypatch):
    """A change costs what the oldest objects do, however many a tenant makes."""
    told: list[str] = []
    found = Published([APEX], ttl=30, tell=told.append)
    read = list[object]()
    kept = endpoints._kept
    monkeypatch.setattr(endpoints, "_kept", lambda *args: read.append(args) or kept(*args))

    def take(i: int, what: tuple | None) -> int:
        read.clear()
        found.take(DNS_ENDPOINTS, ("demo", f"{i:05}"), what, 1)
        return len(read)

    types = ("A", "192.0.2.1"), ("TXT", "x")
    for i in range(500):
        created = f"{500 - i:05}"  # each is older than all before
        rtype, target = types[i % 2]
        assert take(i, value(("web.apps.test", rtype, target), created=created)) <= 64
    assert {"conflict": 62, "limit": 500 - 64} == dict(found.counts()[1])
    assert ("demo", "00499") == found.objects_of(WEB)[0]
    assert take(600, value(("web.apps.test", "A", "192.0.2.9"), created="9")) == 64
    assert any("demo/00600" in each and "one too many" in each for each in told)
    for i in range(500):
        take(i, None)
    assert {} == dict(found.counts()[1]) and [("demo", "00600")] == found.objects_of(WEB)


def test_an_rrset_fits_into_a_message():
    found = Published([APEX], ttl=30)
    texts = [("t.apps.test", "TXT", f"{i:04}" * 500) for i in range(60)]
    for i in range(0, 60, 20):
        found.take(DNS_ENDPOINTS, ("demo", "x"), value(*texts[: i + 20]), 1)
    octets = sum(len(each.rdata) for each in found.zones[APEX].records() if each.rtype == rr.TXT)
    assert 30_000 < octets < 33_000
    assert 60 - octets // 2008 == found.counts()[1]["limit"]


@pytest.mark.parametrize("seed", range(20))
def test_a_live_zone_answers_like_one_made_at_once(seed):
    """Whatever came and went before."""
    rng = random.Random(seed)
    labels = ("a", "b", "*", "c.a", "*.b", "x.c.a", "y.x.b", "")
    owners = [name.fold(name.parse(f"{label}.apps.test".strip("."))) for label in labels]
    zone, now = LiveZone(APEX, 30), dict[bytes, list[RR]]()
    for _ in range(60):
        owner = rng.choice(owners)
        now[owner] = [
            RR(owner, rtype, 30, rdata)
            for rtype, rdata in (
                (rr.A, b"\1\2\3\4"), (rr.TXT, b"\1x"), (rr.NS, b"\1n\4test\0"),
                (rr.CNAME, b"\1a" + APEX),
            )
            if rng.random() < (0.3 if rtype in (rr.A, rr.TXT) else 0.05)
        ]  # fmt: skip
        zone.put(owner, now[owner])
        zone.move(7)
    whole = Zone(APEX, [zone.soa, *(each for some in now.values() for each in some)])
    whole.is_strict = True
    for text in (*labels, "q", "q.a", "q.c.a", "q.b", "d.q.b", "q.x.b", "*.a"):
        owner = name.fold(name.parse(f"{text}.apps.test".strip(".")))
        for qtype in (rr.A, rr.TXT, rr.NS, rr.SOA, rr.CNAME):
            question = Question(owner, owner, qtype)
            assert whole.find(question) == zone.find(question), (text, qtype)
    for owner in owners:
        zone.put(owner, [])
    assert 2 == len(list(zone.records())) and not zone._ancestors and not zone._names_below


def test_answers_are_kept_and_a_change_forgets_those_of_its_zone():
    async def steps(server: InProcess) -> None:
        server.apply(endpoint("x", ("web.apps.test", "A", "192.0.2.1")))
        assert ("NOERROR", ["192.0.2.1"]) == await said(server, "web.apps.test")
        assert in_table(server, "web.apps.test")
        assert ("NXDOMAIN", []) == await said(server, "new.apps.test")
        server.apply(endpoint("other", ("web.elsewhere.test", "A", "192.0.2.9")))
        assert in_table(server, "web.apps.test")
        server.apply(endpoint("y", ("new.apps.test", "A", "192.0.2.2")))
        assert ("NOERROR", ["192.0.2.2"]) == await said(server, "new.apps.test")
        server.apply(endpoint("x", ("web.apps.test", "A", "192.0.2.3")))
        assert ("NOERROR", ["192.0.2.3"]) == await said(server, "web.apps.test")
        server.apply(endpoint("x"), is_gone=True)
        assert ("NXDOMAIN", []) == await said(server, "web.apps.test")

    run(steps)


def test_before_the_first_list_only_these_zones_fail(monkeypatch):
    monkeypatch.setattr("clusterdns.authority.publishing.START_TIMEOUT_S", 0.05)

    async def steps(server: InProcess) -> None:
        assert ("SERVFAIL", []) == await said(server, "web.apps.test")
        assert not in_table(server, "web.apps.test")
        assert ("NXDOMAIN", []) == await said(server, "x.demo.svc.cluster.local")
        assert all(plugin.is_ready for plugin in server.configuration.plugins)

    run(steps, unlisted=("DNSEndpoint",))


def test_kinds_are_watched_only_for_the_plugin_and_others_keep_their_store():
    for directive, expected in (("endpoint apps.test", True), ("loop", False)):
        text = f".:53 {{\n kubernetes cluster.local {{\n manifests .\n }}\n {directive}\n}}\n"
        compiled = compile_text(text, "Corefile", port=53, environ={}, warn=print)
        assert [expected] == [DNS_ENDPOINTS in source.kinds for source in compiled.sources]
    store = Store(("services",))  # of a block without the plugin
    assert [] == store.apply((DNS_ENDPOINTS, ("a", "b"), ("1", ())), 1)
    assert {} == store.published


MISTAKES = [
    ("needs the kubernetes plugin", "endpoint apps.test"),
    ("unknown property", "kubernetes cluster.local {\nmanifests .\n}\nendpoint {\nttl 5\nx\n}"),
    ("from 1 to 86400", "kubernetes cluster.local {\nmanifests .\n}\nendpoint {\nttl 0\n}"),
    ("octets", "kubernetes cluster.local {\nmanifests .\n}\nendpoint " + "x" * 60 + ("." + "x" * 60) * 3),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "body"), MISTAKES)
def test_mistakes(expected, body):
    with pytest.raises(ConfigError, match=expected):
        compile_text(f"apps.test {{\n{body}\n}}\n", "Corefile", port=53, environ={}, warn=print)
