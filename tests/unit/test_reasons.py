"""Extended DNS Errors of cluster names: not listed yet, and aliases in a circle."""

from __future__ import annotations

import asyncio

import beside
import dns.edns
import dns.message
import dns.rcode
import pytest
from inprocess import InProcess

COREFILE = "cluster.local {\nkubernetes {\nmanifests .\n}\n}"


def alias(service: str, target: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service, "namespace": "demo"},
        "spec": {"type": "ExternalName", "externalName": f"{target}.demo.svc.cluster.local"},
    }


WEB = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "demo"},
    "spec": {"clusterIP": "10.3.0.1", "ports": [{"port": 80}]},
}
DEMO = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}
MANIFESTS = [DEMO, WEB, alias("a", "b"), alias("b", "a"), alias("self", "self"), alias("to", "web")]


def reasons(reply: bytes | None) -> tuple[int, list[int]]:
    """Return the RCODE and the codes of extended errors."""
    assert reply is not None
    found = dns.message.from_wire(reply)
    return found.rcode(), [int(o.code) for o in found.options if isinstance(o, dns.edns.EDEOption)]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_name_is_not_denied_before_the_cluster_is_listed_and_the_reply_says_why(transport):
    async def main() -> None:
        async with InProcess(COREFILE, MANIFESTS, unlisted=["EndpointSlice"]) as server:
            for text in ("none.demo", "none.none"):
                for _ in range(3):
                    packet = beside.query(f"{text}.svc.cluster.local", edns=1232)
                    assert (2, [14]) == reasons(await server.ask_chain(packet, transport))
                    plain = beside.query(f"{text}.svc.cluster.local")
                    assert (2, []) == reasons(await server.ask_chain(plain, transport))
        async with InProcess(COREFILE, MANIFESTS) as server:
            packet = beside.query("none.demo.svc.cluster.local", edns=1232)
            assert (3, []) == reasons(await server.ask_chain(packet, transport))

    asyncio.run(main())


def test_aliases_in_a_circle_say_so():
    async def main() -> None:
        async with InProcess(COREFILE, MANIFESTS) as server:
            for text, codes in (("a", [0]), ("b", [0]), ("self", [0]), ("to", []), ("web", [])):
                for qtype in ("A", "AAAA"):
                    for _ in range(3):
                        packet = beside.query(f"{text}.demo.svc.cluster.local", qtype, edns=1232)
                        said = reasons(await server.ask_chain(packet, "udp"))
                        assert (0, codes) == said, (text, qtype)
                    plain = beside.query(f"{text}.demo.svc.cluster.local", qtype)
                    assert (0, []) == reasons(await server.ask_chain(plain, "udp"))

    asyncio.run(main())
