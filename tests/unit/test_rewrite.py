"""`rewrite`: what it remembers and forgets, what it leaves to others, and its options."""

from __future__ import annotations

import asyncio

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from inprocess import InProcess

from clusterdns.chain.route import Route
from clusterdns.config.compile import compile_text
from clusterdns.plugins import rewrite
from clusterdns.wire import name, rr


def service(address: str) -> dict:
    return {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                 "ports": [{"port": 80, "protocol": "TCP"}]},
    }  # fmt: skip


NAMESPACE = {"kind": "Namespace", "metadata": {"name": "demo"}}
COREFILE = """. {{
    {rules}
    kubernetes cluster.local {{
        manifests {directory}
    }}
}}
"""


def corefile(directory, *rules: str) -> str:
    return COREFILE.format(directory=directory, rules="\n".join(f"rewrite {r}" for r in rules))


def packet(qname: str, qtype: str = "A") -> bytes:
    return dns.message.make_query(qname, qtype, id=1).to_wire()


RULES = [
    "name suffix .corp.test .demo.svc.cluster.local",
    "name suffix .corp.test .demo.svc.cluster.local answer auto",
    "name exact web.corp.test web.demo.svc.cluster.local",
    r"name regex (.*)\.corp\.test\.$ {1}.demo.svc.cluster.local answer auto",
    r"name regex (.*)\.corp\.test {1}.demo.svc.cluster.local answer name (.*)\.demo.* {1}.corp.test",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rewritten_name_is_a_hit_until_its_service_changes(rule, tmp_path):
    async def run() -> None:
        async with InProcess(corefile(tmp_path, rule), [NAMESPACE, service("10.96.0.1")]) as server:
            table, asked = server.server.table, packet("web.corp.test.")
            hits = [0] * 100

            def resolve() -> dns.message.Message:
                reply = server.server.resolve(asked, ("127.0.0.1", 53), "udp", hits, print)
                return dns.message.from_wire(reply)

            resolve()
            hit = table.reply(asked, server.now(), hits)
            assert hit is not None
            first = dns.message.from_wire(hit)
            assert ["10.96.0.1"] == [str(each) for each in first.answer[0]]
            assert "web.corp.test." == str(first.question[0].name)
            server.apply(service("10.96.0.2"))
            assert table.reply(asked, server.now(), hits) is None
            assert ["10.96.0.2"] == [str(each) for each in resolve().answer[0]]
            server.apply(service("10.96.0.2"), is_gone=True)
            assert table.reply(asked, server.now(), hits) is None
            assert dns.rcode.NXDOMAIN == resolve().rcode()

    asyncio.run(run())


def plugin_of(*rules: str) -> rewrite.Rewrite:
    text = ".:53 {\n" + "\n".join(f"rewrite {rule}" for rule in rules) + "\nwhoami\n}\n"
    configuration = compile_text(text, "Corefile", port=53, environ={}, warn=print)
    return next(each for each in configuration.plugins if isinstance(each, rewrite.Rewrite))


def wire(text: str) -> name.WireName:
    return name.fold(name.parse(text))


@pytest.mark.parametrize(
    ("rule", "claimed"),
    [
        ("name exact web.corp.test other.", "web.corp.test."),
        ("name suffix .corp.test .b.", "corp.test."),
        ("name suffix corp.test b.", "test."),
        (r"name regex (.*)\.corp\.test\.$ {1}.b.", "corp.test."),
        (r"name regex ^(a|b)[.]corp[.]test[.]$ {1}.b.", "corp.test."),
        ("ttl suffix .corp.test 10", "corp.test."),
        ("rcode exact corp.test NXDOMAIN NOERROR", "corp.test."),
        (r"name regex (.*)\.corp\.test {1}.b.", None),
        ("name prefix a b", None),
        (r"name regex a\.x\.$|b\.y\.$ c.", None),
        (r"name regex (?i)a\.x\.$ c.", None),
        ("name substring a b", None),
        ("cname a. b.", None),
        ("edns0 nsid set", None),
        ("class IN CH", None),
    ],
)
def test_what_is_left_to_the_relay(rule, claimed):
    route = Route(name.ROOT)
    assert plugin_of(rule).relay(route) is (claimed is not None)
    assert [wire(claimed)] == route.claimed if claimed else True


def test_types_are_left_to_the_relay():
    route = Route(name.ROOT)
    assert plugin_of("type AAAA A", "type ANY HINFO", "class CH IN").relay(route)
    assert [rr.AAAA, rr.ANY] == route.left
    assert plugin_of("type AAAA A", "type A AAAA").relay(others := Route(name.ROOT))
    assert [rr.AAAA, rr.A] == others.left  # the relay takes all other types


@pytest.mark.parametrize(
    ("rule", "cut", "is_alike"),
    [
        ("name suffix .corp.test .b.", "com.cluster.local.", True),
        ("name suffix .corp.test .b.", "a.corp.test.", False),
        ("name suffix .a.corp.test .b.", "corp.test.", False),
        ("name exact x.com.cluster.local b.", "com.cluster.local.", False),
        ("name prefix a b", "com.cluster.local.", False),
        ("name regex corp b", "com.cluster.local.", False),
        ("type A AAAA", "com.cluster.local.", True),
    ],
)
def test_which_denials_hold_for_all_names_below(rule, cut, is_alike):
    assert plugin_of(rule).treats_alike(wire(cut)) is is_alike


def test_options_are_echoed_to_who_sent_them(tmp_path):
    async def run(rule: str, data: bytes | None) -> bytes | None:
        async with InProcess(corefile(tmp_path, rule), [NAMESPACE]) as server:
            query = dns.message.make_query("a.cluster.local.", "A", use_edns=0)
            if data is not None:
                query.use_edns(0, options=[dns.edns.GenericOption(65001, data)])
            sent: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            server.server.resolve(
                query.to_wire(), ("127.0.0.1", 53), "udp", [0] * 100, sent.set_result
            )
            reply = dns.message.from_wire(await sent)
            return next((o.data for o in reply.options if o.otype == 65001), None)

    assert b"x" == asyncio.run(run("edns0 local set 65001 x", None))
    assert b"x" == asyncio.run(run("edns0 local set 65001 x", b"mine"))
    assert b"mine" == asyncio.run(run("edns0 local set 65001 x revert", b"mine"))
    assert asyncio.run(run("edns0 local set 65001 x revert", None)) is None
    assert asyncio.run(run("edns0 local unset 65001", b"mine")) is None
    assert b"udp" == asyncio.run(run("edns0 local replace 65001 {protocol}", b"mine"))
