"""k8s_external: what the watch keeps, serials, and answers that a change of the cluster forgets."""

from __future__ import annotations

import asyncio

import dns.message
import dns.rcode
from inprocess import InProcess

from clusterdns.cluster import feed, objects
from clusterdns.cluster.store import EXTERNAL_SERIAL, Store
from clusterdns.config.compile import compile_text
from clusterdns.wire.facts import Renewal

COREFILE = """.:53 {{
    kubernetes cluster.local {{
        manifests .
    }}
    k8s_external example.org 10.in-addr.arpa {{
        {option}
    }}
}}
"""
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "demo"}}


def service(*ips: str, hostname: str = "") -> dict:
    ingress = [{"hostname": hostname}] if hostname else []
    return {
        "kind": "Service",
        "metadata": {"name": "lb", "namespace": "demo"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.0.0.1"],
            "externalIPs": list(ips),
            "ports": [
                {"name": "a", "port": 80, "protocol": "TCP"},
                {"name": "b", "port": 81, "protocol": "TCP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    }


async def said(server: InProcess, qname: str, rtype: str) -> tuple[str, list[str]]:
    packet = dns.message.make_query(qname, rtype, id=1).to_wire()
    reply = server.ask_table(packet, "udp") or await server.ask_chain(packet, "udp")
    assert reply is not None
    found = dns.message.from_wire(reply)
    records = [str(item) for rrset in found.answer for item in rrset]
    return dns.rcode.to_text(found.rcode()), records


def run(steps, *manifests: dict, option: str = "") -> None:
    async def main() -> None:
        corefile = COREFILE.format(option=option)
        async with InProcess(corefile, [NAMESPACE, *manifests]) as server:
            await steps(server)

    asyncio.run(main())


def test_external_addresses_are_kept_only_where_they_are_wanted():
    manifest = service("192.0.2.1", hostname="lb.test")
    for is_kept, expected in ((False, ()), (True, ("192.0.2.1", "lb.test"))):
        _, found = objects.cut("services", manifest, keeps_external=is_kept)
        assert expected == found.external_addresses
    for directive, expected in (("k8s_external example.org", True), ("loop", False)):
        text = f".:53 {{\n kubernetes cluster.local {{\n manifests .\n }}\n {directive}\n}}\n"
        compiled = compile_text(text, "Corefile", port=53, environ={}, warn=print)
        assert [expected] == [source.is_external for source in compiled.sources]


def test_the_serial_moves_with_external_addresses_and_ports_only():
    store = Store(["services"])

    def apply(manifest: dict | None, seconds: int) -> list:
        kept = objects.cut("services", manifest, keeps_external=True)[1] if manifest else None
        value = None if kept is None else feed.plain(kept)
        facts = store.apply(("services", ("demo", "lb"), value), seconds)
        return [f for f in facts if isinstance(f, Renewal) and f.fact == EXTERNAL_SERIAL]

    assert apply(service(), 1) == []
    assert len(apply(service("192.0.2.1"), 2)) == 1
    other = service("192.0.2.1")
    other["spec"]["clusterIPs"] = ["10.0.0.2"]
    assert apply(other, 3) == []
    assert len(apply(None, 4)) == 1
    assert store.external_serial == 4


def test_a_change_is_answered_at_once():
    async def steps(server: InProcess) -> None:
        for _ in range(3):  # until the table has it
            assert ("NXDOMAIN", []) == await said(server, "lb.demo.example.org", "A")
            assert ("NXDOMAIN", []) == await said(server, "1.2.0.10.in-addr.arpa", "PTR")
        server.apply(service("10.0.2.1"))
        for _ in range(3):
            assert ("NOERROR", ["10.0.2.1"]) == await said(server, "LB.demo.example.org", "A")
            assert ["lb.demo.example.org."] == (await said(server, "1.2.0.10.in-addr.arpa", "PTR"))[
                1
            ]
        server.apply(service("10.0.2.2"))
        assert ("NOERROR", ["10.0.2.2"]) == await said(server, "lb.demo.example.org", "A")
        assert "NXDOMAIN" == (await said(server, "1.2.0.10.in-addr.arpa", "PTR"))[0]
        server.apply(service("10.0.2.2"), is_gone=True)
        assert "NXDOMAIN" == (await said(server, "lb.demo.example.org", "A"))[0]

    run(steps, service())


def test_a_host_name_is_one_alias_and_shares_the_weight():
    async def steps(server: InProcess) -> None:
        assert ["lb.test."] == (await said(server, "lb.demo.example.org", "A"))[1]
        expected = ["0 50 80 lb.test.", "0 50 81 lb.test."]
        assert expected == (await said(server, "lb.demo.example.org", "SRV"))[1]

    run(steps, service(hostname="lb.test"))
