"""Whatever form a query has, the table says what the chain says: spelling, DO, CD, EDNS options."""

from __future__ import annotations

import asyncio
import random

import pytest
from inprocess import InProcess

from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Edns, Question

COREFILE = """cluster.local in-addr.arpa:53 {{
    errors
    cache 30 {{
        disable success cluster.local
        disable denial cluster.local
    }}
    {plugin}
    kubernetes cluster.local in-addr.arpa {{
        manifests .
        pods insecure
    }}
}}
.:53 {{
    template IN A example.com {{
        answer "{{{{ .Name }}}} 60 IN A 192.0.2.1"
    }}
    template IN A test {{
        answer "{{{{ .Name }}}} 60 IN CNAME www.example.com."
        answer "www.example.com. 60 IN A 192.0.2.1"
    }}
    template IN A local {{
        answer "{{{{ .Name }}}} 60 IN A 192.0.2.1"
    }}
}}
"""
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "demo"}}


def service(text: str, **spec) -> dict:
    metadata = {"name": text, "namespace": "demo"}
    ports = [{"port": 80, "name": "http", "protocol": "TCP"}]
    return {"kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}}


WORLD = [
    NAMESPACE,
    service("web", clusterIP="10.96.0.1"),
    service("out", type="ExternalName", externalName="Www.Example.com"),
    service("twice", type="ExternalName", externalName="www.test"),
    service("near", type="ExternalName", externalName="www.LOCAL"),
    service("alias", type="ExternalName", externalName="Web.Demo.svc.cluster.LOCAL"),
]
# What is asked, and whether one answer does for all spellings of it.
ASKED = {
    ("web.demo.svc.cluster.local.", rr.A): True,
    ("web.demo.svc.cluster.local.", rr.AAAA): True,
    ("10-1-2-3.demo.pod.cluster.local.", rr.A): True,
    ("nothing.demo.svc.cluster.local.", rr.A): True,
    ("nothing.demo.svc.cluster.local.", rr.MX): True,
    ("www.example.com.demo.svc.cluster.local.", rr.A): True,
    ("cluster.local.", rr.SOA): True,
    ("dns-version.cluster.local.", rr.TXT): True,
    ("1.0.96.10.in-addr.arpa.", rr.PTR): True,
    ("out.demo.svc.cluster.local.", rr.A): True,
    ("twice.demo.svc.cluster.local.", rr.A): True,
    ("out.demo.svc.cluster.local.", rr.CNAME): True,
    ("near.demo.svc.cluster.local.", rr.A): False,
    ("nothing.web.demo.svc.cluster.local.", 65): True,
    ("_x._tcp.web.demo.svc.cluster.local.", rr.SRV): True,
    ("1.2.3.4.in-addr.arpa.", rr.PTR): True,
    ("cluster.local.", rr.NS): False,
    ("ns.dns.cluster.local.", rr.A): False,
    ("ns.dns.cluster.local.cluster.local.", rr.A): False,
    ("web.demo.svc.cluster.local.", rr.SRV): False,
    ("_http._tcp.web.demo.svc.cluster.local.", rr.SRV): False,
    ("alias.demo.svc.cluster.local.", rr.A): False,
    ("alias.demo.svc.cluster.local.", rr.CNAME): False,
}
COOKIE = b"\0\x0a\0\x08abcdefgh"
FORMS = [
    (0, None),
    (message.RD, Edns(1232, 0, 0)),
    (message.RD | message.AD, Edns(1232, 0, message.EDNS_DO)),
    (message.CD, None),
    (message.RD, Edns(1232, 0, 0, COOKIE)),
    (message.RD | message.CD, Edns(4096, 0, message.EDNS_DO, COOKIE)),
    (message.RD, Edns(1232, 0, 0x4000)),
    (message.RD, Edns(1232, 0, 0x8101, COOKIE)),
    (message.RD, Edns(100, 0, 0, b"\xfd\xe9\0\1x")),
    (message.RD | message.AD | message.CD, Edns(1232, 1, message.EDNS_DO, COOKIE)),
]


def spellings(text: str) -> list[bytes]:
    wire, rng = name.parse(text), random.Random(text)
    labels = name.labels(wire)
    mixed = [bytes(rng.choice((c, ord(chr(c).upper()))) for c in label) for label in labels]
    return [wire, wire.upper(), name.join(mixed), name.join([labels[0].upper(), *labels[1:]])]


@pytest.mark.parametrize("plugin", ["", "autopath @kubernetes", "search"])
@pytest.mark.parametrize("first", [0, 2])
def test_all_forms(plugin, first):
    async def main() -> int:
        hits = 0
        async with InProcess(COREFILE.format(plugin=plugin), WORLD) as inside:
            for (text, qtype), is_free in ASKED.items():
                some = spellings(text)
                for flags, edns in FORMS:
                    packets = [packet(each, qtype, flags, edns) for each in some]
                    for _ in range(2):  # what passes is taken at the second sight
                        await inside.ask_chain(packets[first], "udp")
                    for each in packets:
                        table = inside.ask_table(each, "udp")
                        chain = await inside.ask_anew(each, "udp")
                        assert table in (None, chain), (text, qtype, each)
                        if is_free and not plugin:
                            assert table is not None, (text, qtype, each)
                        hits += table is not None
        return hits

    assert asyncio.run(main()) > 100


def packet(qname: bytes, qtype: int, flags: int, edns: Edns | None) -> bytes:
    return message.write_query(7, flags, Question(qname, name.fold(qname), qtype), edns)
