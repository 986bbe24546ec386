"""policy: ways around its rules that were open once, each tried by the client of a Pod."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest
from inprocess import InProcess, in_packet_loop
from manifests import made, pod, service
from scriptedupstream import ScriptedUpstream

from clusterdns.chain.classes import NOBODY
from clusterdns.ruling.rules import ALLOW, NXDOMAIN, REFUSE, Rule, Rules, Target
from clusterdns.serving.server import LATER
from clusterdns.wire import name, rr

DEV, VAULT = "127.0.1.2", "127.0.1.4"
SECRETS = (b"\x0a\x4d\x00\x01", bytes.fromhex("fd00") + bytes(13) + b"\x77")


CLUSTER = (
    *(made("Namespace", "", each) for each in ("dev", "vault")),
    service("vault", "crown", "10.77.0.1", type="LoadBalancer", externalIPs=["10.77.0.1"]),
    service("vault", "six", "fd00::77"),
    pod("dev", "p", DEV),
    pod("vault", "p", VAULT),
)


class Server(InProcess):
    """A server that clients ask from their addresses."""

    async def ask(self, client: str, packet: bytes, transport: str = "udp") -> bytes:
        done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        reply = self.server.resolve(
            packet, (client, 4000), transport, self._hits[transport], done.set_result,
            more=_taken,
        )  # fmt: skip
        reply = await done if reply == LATER else reply
        assert reply is not None
        return reply

    async def rcode(self, client: str, qname: str, rtype: str = "A", **how: str) -> str:
        packet = dns.message.make_query(qname, rtype).to_wire()
        return dns.rcode.to_text(
            dns.message.from_wire(await self.ask(client, packet, **how)).rcode()
        )


async def _taken(_octets: bytes) -> bool:
    return True


def run(corefile: str, main: Any, manifests: Iterable[Mapping[str, Any]] = CLUSTER) -> None:
    async def with_server() -> None:
        async with Server(corefile, manifests) as server:
            await main(server)

    in_packet_loop(with_server())


HIDING = """.:53 {
    chaos
    policy {
        allow to own
        nxdomain to namespace *
    }
    kubernetes cluster.local in-addr.arpa {
        manifests .
    }
    cache 30
}
"""


@pytest.mark.parametrize("opcode", dns.opcode.Opcode)
@pytest.mark.parametrize("rdclass", [dns.rdataclass.IN, dns.rdataclass.CH, dns.rdataclass.ANY])
def test_no_class_and_no_opcode_goes_around_the_rules(
    opcode: dns.opcode.Opcode, rdclass: dns.rdataclass.RdataClass
) -> None:
    async def main(server: Server) -> None:
        for qname, rtype in (
            ("crown.vault.svc.cluster.local", "A"), ("_http._tcp.crown.vault.svc.cluster.local", "SRV"),
            ("1.0.77.10.in-addr.arpa", "PTR"),
        ):  # fmt: skip
            query = dns.message.make_query(qname, rtype, rdclass)
            query.set_opcode(opcode)
            for client, _ in itertools.product((VAULT, DEV), range(2)):
                reply = await server.ask(client, query.to_wire())
                asked = 12 + len(dns.message.make_query(qname, rtype).to_wire()[12:])
                has_told = SECRETS[0] in reply[asked:] or b"crown" in reply[asked:]
                is_query = opcode == dns.opcode.QUERY
                assert not has_told or client == VAULT
                assert has_told or not is_query or client == DEV or rtype == "SRV"

    run(HIDING, main)


def test_chaos_still_answers_where_no_rule_is_about_it() -> None:
    async def main(server: Server) -> None:
        query = dns.message.make_query("version.bind", "TXT", "CH").to_wire()
        assert dns.message.from_wire(await server.ask(DEV, query)).answer

    run(HIDING, main)


def test_the_namespace_of_one_cluster_is_not_that_of_another(tmp_path: Path) -> None:
    """A Pod of `vault` there is no Pod of `vault` here."""

    class Two(Server):
        def _put(self, source: Any, manifest: Mapping[str, Any], *, is_gone: bool) -> None:
            if manifest["kind"] != "Pod" or source.manifests == str(tmp_path / "a"):
                super()._put(source, manifest, is_gone=is_gone)

    text = "".join(
        f"""{each}.test:53 {{
    policy {{
        allow to own
        nxdomain to namespace *
    }}
    kubernetes {each}.test {{
        manifests {tmp_path / each}
    }}
}}
"""
        for each in "ab"
    )
    for each in "ab":
        (tmp_path / each).mkdir()

    async def main() -> None:
        async with Two(text, CLUSTER) as server:
            assert "NOERROR" == await server.rcode(VAULT, "crown.vault.svc.a.test")
            assert "NXDOMAIN" == await server.rcode(VAULT, "crown.vault.svc.b.test")

    in_packet_loop(main())


def test_each_block_knows_for_itself_that_pods_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterdns.plugins.policy.START_TIMEOUT_S", 0.05)
    rules = "nxdomain from namespace dev to namespace vault"
    text = "".join(
        f"{zone}.test:53 {{\npolicy {{\n{rules}\n{option}\n}}\nkubernetes {zone}.test {{\n"
        "manifests .\n}\n}\n"
        for zone, option in (("a", ""), ("b", "unsynced unknown"), ("c", "unsynced allow"))
    )

    async def main() -> None:
        async with Server(text, CLUSTER, unlisted=("Pod",)) as server:
            found = [await server.rcode(DEV, f"crown.vault.svc.{zone}.test") for zone in "abc"]
            assert ["SERVFAIL", "NOERROR", "NOERROR"] == found

    in_packet_loop(main())


def test_of_zones_within_each_other_the_longest_has_the_namespace() -> None:
    text = """.:53 {
    policy {
        nxdomain to namespace vault
    }
    k8s_external example.org eu.example.org
    kubernetes cluster.local {
        manifests .
    }
}
"""

    async def main(server: Server) -> None:
        for zone in ("example.org", "eu.example.org"):
            assert "NXDOMAIN" == await server.rcode(DEV, f"crown.vault.{zone}"), zone

    run(text, main)


@pytest.mark.parametrize("types", ["", "type A AAAA", "type AAAA"])
def test_no_address_comes_with_a_record_that_names_it(types: str) -> None:
    rules = f"policy {{\nrefuse {types} to zone six.vault.svc.cluster.local\n}}"
    text = f".:53 {{\n{rules}\nkubernetes cluster.local {{\nmanifests .\n}}\n"
    text += 'template IN SRV web.test {\nanswer "web.test. 60 IN SRV 1 1 1 six.vault.svc.cluster.local."\n'
    text += 'additional "six.vault.svc.cluster.local. 60 IN AAAA fd00::77"\n}\n}\n'

    async def main(server: Server) -> None:
        for qname in ("_http._tcp.six.vault.svc.cluster.local", "web.test"):
            query = dns.message.make_query(qname, "SRV").to_wire()
            assert SECRETS[1] not in await server.ask(DEV, query), qname

    run(text, main)


TRANSFERRED = """.:53 {{
    policy {{
        {rules}
    }}
    kubernetes cluster.local 10.in-addr.arpa {{
        manifests .
    }}
    transfer cluster.local 10.in-addr.arpa {{
        to *
    }}
}}
"""


@pytest.mark.parametrize(
    ("rules", "forward", "reverse"),
    [
        ("nxdomain to zone crown.vault.svc.cluster.local", "REFUSED", "REFUSED"),
        ("nxdomain to zone example.org", "NOERROR", "NOERROR"),
        ("allow to zone cluster.local\nnxdomain to namespace *", "NOERROR", "REFUSED"),
        ("allow to namespace *\nnxdomain to namespace vault", "NOERROR", "NOERROR"),
        ("allow to namespace * type A\nnxdomain to namespace vault", "REFUSED", "REFUSED"),
        ("allow from net 127.0.1.4 to namespace *\nnxdomain to own", "REFUSED", "REFUSED"),
        ("allow from net 127.0.1.2 to own\nnxdomain to own", "NOERROR", "NOERROR"),
    ],
)
def test_a_zone_is_transferred_if_no_name_that_it_tells_of_is_hidden(
    rules: str, forward: str, reverse: str
) -> None:
    async def main(server: Server) -> None:
        for zone, rcode in (("cluster.local", forward), ("10.in-addr.arpa", reverse)):
            assert rcode == await server.rcode(DEV, zone, "AXFR", transport="tcp"), zone

    run(TRANSFERRED.format(rules=rules), main)


def test_a_rule_for_any_is_reached_behind_one_that_allows_a_type() -> None:
    zone = Target(None, False, (name.fold(name.parse("x.test")),))
    address = frozenset((rr.A,))
    first = Rule(ALLOW, None, zone, address, "1")
    later = Rule(NXDOMAIN, None, zone, address, "2")
    rules = Rules((first, later), lambda _folded: None)
    verdict = rules.judge(zone.zones[0], rr.ANY, NOBODY)
    assert verdict is not None
    assert later is verdict.rule
    assert [] == list(rules.unreached())
    assert [(later, later._replace(action=REFUSE))] == list(
        Rules((later._replace(action=REFUSE), later), lambda _folded: None).unreached()
    )


@pytest.mark.parametrize(
    "rcode", [dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NOERROR]
)
def test_what_the_next_server_says_does_not_tell_hidden_addresses(rcode: dns.rcode.Rcode) -> None:
    class Upstream(ScriptedUpstream):
        def answer(self, wire: bytes, *, is_udp: bool) -> bytes:
            reply = dns.message.make_response(dns.message.from_wire(wire))
            reply.set_rcode(rcode)
            return reply.to_wire()

    async def main(server: Server) -> None:
        hidden = await server.rcode(DEV, "1.0.77.10.in-addr.arpa", "PTR")
        assert dns.rcode.to_text(rcode) == hidden
        assert hidden == await server.rcode(DEV, "1.0.78.10.in-addr.arpa", "PTR")  # of nothing

    upstream = Upstream([])
    try:
        passing = f"manifests .\nfallthrough\n}}\nforward . {upstream.address}"
        run(HIDING.replace("manifests .\n    }", passing), main)
    finally:
        upstream.stop()
