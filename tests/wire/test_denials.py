"""What exists is the proof of what does not, only where the chain says so, whatever comes and goes.

Random names are asked of blocks with everything that can answer some of them otherwise, while
Services and Namespaces come and go. What the table says, in Python and in C, is what the chain would.
"""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest
from inprocess import InProcess

from clusterdns.serving import native
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Edns, Question

OUTSIDE = 'template ANY ANY . {\n answer "{{ .Name }} 5 TXT outside"\n fallthrough\n}'
# Lines of the block, options of `kubernetes`, and other blocks.
BLOCKS = {
    "plain": ("", "", ""),
    "pods insecure": ("", "pods insecure", ""),
    "pods verified": ("", "pods verified", ""),
    "namespaces": ("", "namespaces demo", ""),
    "empty services": ("", "ignore empty_service", ""),
    "zonal": ("", "zonal", ""),
    "two zones": ("", "", ""),
    "pod names": ("", "endpoint_pod_names", ""),
    "multicluster": ("", "multicluster clusterset.local", ""),
    "hosts, addresses": ("hosts {\n 10.1.0.9 x1.example.com\n fallthrough\n}", "", ""),
    "template for a type": (
        'template IN TXT demo.svc.cluster.local {\n match "^x[.]"\n answer "{{ .Name }} 5 TXT x"\n'
        " fallthrough\n}",
        "", "",
    ),
    "rewrite a type": ("rewrite type ANY A", "", ""),
    "any": ("any", "", ""),
    "fallthrough": ("whoami", "fallthrough", ""),
    "fallthrough below": ("whoami", "fallthrough demo.svc.cluster.local", ""),
    "hosts": (
        "hosts {\n 10.0.0.1 x1.demo.svc.cluster.local a.com.other.svc.cluster.local\n fallthrough\n}",
        "", "",
    ),
    "template": (
        'template IN A demo.svc.cluster.local {\n match "^x[.]"\n answer "{{ .Name }} 5 A 10.9.9.9"\n'
        " fallthrough\n}",
        "", "",
    ),
    "rewrite a name": ("rewrite name x1.demo.svc.cluster.local web.demo.svc.cluster.local", "", ""),
    "rewrite a suffix": ("rewrite name suffix .com.svc.cluster.local .demo.svc.cluster.local", "", ""),
    "rewrite by regex": ("rewrite name regex x(.*) web{1}", "", ""),
    "acl": ("acl demo.svc.cluster.local {\n block type AAAA net 127.0.0.0/8\n}", "", ""),
    "acl for a name": ("acl x.demo.svc.cluster.local {\n block type A net 127.0.0.0/8\n}", "", ""),
    "view": (
        "view some {\n expr name() endsWith 'o.svc.cluster.local.'\n}", "",
        "cluster.local:53 {\n acl {\n  block\n }\n}",
    ),
    "external": ("k8s_external ext.cluster.local", "", ""),
    "external below": ("k8s_external demo.svc.cluster.local", "", ""),
    "autopath": ("autopath @kubernetes", "pods verified", ""),
    "search": ("search", "", ""),
    "dns64": ("dns64", "", ""),
    "cache": ("cache 30 demo.svc.cluster.local", "", ""),
    "local": ("local", "", ""),
    "minimal": ("minimal", "", ""),
    "log": ("log", "", ""),
    "a block below": ("", "", "x.demo.svc.cluster.local:53 {\n acl {\n  block\n }\n}"),
    "a block at a namespace": ("", "", "demo.svc.cluster.local:53 {\n acl {\n  block\n }\n}"),
}  # fmt: skip
# Blocks where a random name is denied by the table, in most cases.
OPEN = {
    "plain", "pods insecure", "pods verified", "namespaces", "empty services", "zonal", "external",
    "minimal", "pod names", "multicluster", "any",
}  # fmt: skip
COREFILE = """cluster.local:53 clusterset.local:53 in-addr.arpa:53 ip6.arpa:53 {{
    {plugin}
    kubernetes {zones} in-addr.arpa d.f.ip6.arpa {{
        manifests .
        {options}
    }}
}}
{others}
"""
NAMES = ("web", "db", "x", "x1", "com")
LABELS = (
    *NAMES,
    "svc",
    "pod",
    "dns",
    "ns",
    "hostmaster",
    "demo",
    "other",
    "cluster",
    "local",
    "_tcp",
    "ext",
)
BELOW = (
    "demo.svc.", "other.svc.", "nosuch.svc.", "svc.", "pod.", "demo.pod.", "", "web.demo.svc.",
    "web.demo.svc.", "hl.demo.svc.", "_tcp.web.demo.svc.", "one.hl.demo.svc.",
    "_zone.hl.demo.svc.",
)  # fmt: skip
ENDPOINTS = (
    "ready",
    "10-1-0-5",
    "fd00-2ff--5",
    "fd00:2ff::5",
    "::99",
    "pod-5",
    "_http",
    "http",
    "_",
    "one",
    "two",
    "zone-a",
)
TYPES = (
    rr.A, rr.A, rr.AAAA, rr.PTR, rr.SRV, rr.TXT, rr.SOA, rr.NS, rr.MX, rr.ANY, rr.DS, rr.CNAME, 65,
    65000,
)  # fmt: skip


def namespace(text: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": text}}


def service(text: str, space: str) -> dict[str, Any]:
    spec = {"ports": [{"port": 80, "name": "http"}], "clusterIP": "10.96.0.1"}
    return {"kind": "Service", "metadata": {"name": text, "namespace": space}, "spec": spec}


def endpoints(text: str, family: int) -> dict[str, Any]:
    """Return a slice of `web` or `hl`, which names a cluster, too."""
    labels = {"kubernetes.io/service-name": text, "multicluster.kubernetes.io/service-name": text}
    metadata = {"name": f"{text}-{family}", "namespace": "demo", "labels": labels}
    labels["multicluster.kubernetes.io/source-cluster"] = "One"
    address = "10.1.0.5" if family == 4 else "fd00:2ff::5"
    ready = {"addresses": [address], "targetRef": {"name": "Pod-5"}, "zone": "Zone-A"}
    ready |= {"hostname": "Ready"} if text == "hl" else {}
    ports = [{"name": "Http", "port": 80, "protocol": "TCP"}]
    return {"kind": "EndpointSlice", "metadata": metadata, "endpoints": [ready], "ports": ports}


def pod(address: str) -> dict[str, Any]:
    metadata = {"name": "six" if ":" in address else "four", "namespace": "demo"}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    return {"kind": "Pod", "metadata": metadata, "status": status}


def headless(kind: str = "Service") -> dict[str, Any]:
    spec: dict[str, Any] = {"clusterIP": "None", "ports": [{"port": 80, "name": "http"}]}
    spec["type"] = "Headless" if kind == "ServiceImport" else "ClusterIP"
    return {"kind": kind, "metadata": {"name": "hl", "namespace": "demo"}, "spec": spec}


class Change:
    """Objects that come and go."""

    def __init__(self, inside: InProcess, rng: random.Random) -> None:
        self._inside, self._rng = inside, rng
        self._there: set[str] = {"demo", "web.demo"}
        self._more = [endpoints(text, family) for text in ("web", "hl") for family in (4, 6)]
        self._more += [headless(), headless("ServiceImport"), pod("10.1.0.5"), pod("fd00:2ff::5")]
        self._gone = [True] * len(self._more)

    def make(self) -> None:
        """Have one come that is not there, or go that is; the serial moves or stays."""
        self._inside.seconds += self._rng.randrange(2)
        if self._rng.random() < 0.4:
            i = self._rng.randrange(len(self._more))
            self._gone[i] = not self._gone[i]
            self._inside.apply(self._more[i], is_gone=self._gone[i])
            return
        text = self._rng.choice([*(f"{n}.{s}" for n in NAMES for s in ("demo", "other")), "other"])
        first, _, space = text.partition(".")
        self._inside.apply(
            service(first, space) if space else namespace(first), is_gone=text in self._there
        )
        self._there ^= {text}


def packet(rng: random.Random, types: list[int]) -> bytes:
    """Return a query for some name, in any spelling and form."""
    labels = [
        rng.choice((*LABELS, *ENDPOINTS)) if rng.random() < 0.6 else f"r{rng.randrange(100, 1000)}"
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))
    ]
    zone = rng.choice(("cluster.local.", "cluster.local.", "cluster.local.", "clusterset.local."))
    text = "".join(f"{label}." for label in labels) + rng.choice(BELOW) + zone
    if rng.random() < 0.2:
        text = reverse(rng, labels[:1])
    if rng.random() < 0.3:
        text = "".join(rng.choice((c, c.upper())) for c in text)
    qname = name.parse(text)
    question = Question(qname, name.fold(qname), rng.choice(types))
    edns = rng.choice((None, None, Edns(1232, 0, 0), Edns(1232, 0, message.EDNS_DO)))
    return message.write_query(rng.getrandbits(16), rng.choice((0, message.RD)), question, edns)


def reverse(rng: random.Random, labels: list[str]) -> str:
    """Return a reverse name: of an address that may be there, of another one, or an odd one."""
    if rng.random() < 0.3:
        low = rng.choice((5, 5, rng.getrandbits(12)))
        nibbles = f"fd0002ff{low:024x}"[::-1][: rng.choice((32, 32, 32, 31))]
        return (
            "".join(f"{nibble}." for nibble in (*labels[: rng.randrange(2)], *nibbles))
            + "ip6.arpa."
        )
    parts = [
        str(rng.choice((5, 1, 0, 96, rng.randrange(300)))) for _ in range(rng.choice((1, 2, 2, 3)))
    ]
    text = ".".join(
        [*labels[: rng.randrange(2)], *parts, rng.choice(("0.1.10", "96.10", "0.96.10"))]
    )
    return text + ".in-addr.arpa."


def in_c(inside: InProcess, query: bytes) -> bytes | None:
    """Return what C has for a query on a stream."""
    assert native.compiled is not None
    table = inside.server.table
    frames, _, answered = native.compiled.answer(
        table.maps([0] * 4096), struct.pack("!H", len(query)) + query, 0, 1, inside.now()
    )
    return frames[2:] if answered else None


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block", BLOCKS)
def test_the_table_says_what_the_chain_says(block, seed):
    plugin, options, others = BLOCKS[block]
    zones = "cluster.local clusterset.local"
    if block == "two zones":
        zones += " other.svc.cluster.local 96.10.in-addr.arpa 0.f.f.2.0.0.0.d.f.ip6.arpa"
    corefile = COREFILE.format(plugin=plugin, options=options, others=others, zones=zones)
    rng = random.Random(f"{block} {seed}")

    async def main() -> float:
        hits, asked = 0, 0
        async with InProcess(corefile, [namespace("demo"), service("web", "demo")]) as inside:
            changes, types = Change(inside, rng), rng.sample(TYPES, 3)
            for _ in range(600):
                if rng.random() < 0.08:
                    changes.make()
                query = packet(rng, types)
                found = inside.ask_table(query, "tcp")
                if native.compiled is not None:
                    assert found == in_c(inside, query)
                expected = await inside.ask_anew(query, "tcp")
                assert found in (None, expected), query
                asked, hits = asked + 1, hits + (found is not None)
                await inside.ask_chain(query, "tcp")
        return hits / asked

    share = asyncio.run(main())
    assert share > 0.03 or block not in OPEN, share


@pytest.mark.parametrize("pods", ["insecure", "verified"])
@pytest.mark.parametrize(
    "label", ["::1", "fd00:2ff::5", "fd00-2ff--5", "10-1-0-5", "10:1:0:5", "10.1.0.5"]
)
def test_no_spelling_of_an_address_of_a_pod_is_denied(label, pods):
    """Colons in a label count as much as dashes."""
    corefile = COREFILE.format(
        plugin="", options=f"pods {pods}", others="", zones="cluster.local"
    ).replace("clusterset.local:53 ", "")
    zone = name.parse("demo.pod.cluster.local.")

    def query(left: str) -> bytes:
        qname = name.join([left.encode()], zone)
        asked = Question(qname, name.fold(qname), rr.AAAA if ":" in label else rr.A)
        return message.write_query(7, 0, asked, None)

    async def main() -> None:
        world = [namespace("demo"), *(pod(each) for each in ("::1", "fd00:2ff::5", "10.1.0.5"))]
        async with InProcess(corefile, world) as inside:
            for _ in range(3):
                await inside.ask_chain(query("x" * len(label)), "tcp")
            assert inside.ask_table(query("y" * len(label)), "tcp") is not None
            asked = query(label)
            expected = await inside.ask_anew(asked, "tcp")
            assert inside.ask_table(asked, "tcp") in (None, expected)
            if native.compiled is not None:
                assert in_c(inside, asked) in (None, expected)

    asyncio.run(main())
