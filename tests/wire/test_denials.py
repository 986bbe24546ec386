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
    "fallthrough": ("forward . 127.0.0.1:1", "fallthrough", ""),
    "fallthrough below": ("forward . 127.0.0.1:1", "fallthrough demo.svc.cluster.local", ""),
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
    "minimal",
}  # fmt: skip
COREFILE = """cluster.local:53 {{
    {plugin}
    kubernetes {zones} in-addr.arpa {{
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
BELOW = ("demo.svc.", "other.svc.", "nosuch.svc.", "svc.", "pod.", "demo.pod.", "")


def namespace(text: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": text}}


def service(text: str, space: str) -> dict[str, Any]:
    spec = {"ports": [{"port": 80, "name": "http"}], "clusterIP": "10.96.0.1"}
    return {"kind": "Service", "metadata": {"name": text, "namespace": space}, "spec": spec}


class Change:
    """Objects that come and go."""

    def __init__(self, inside: InProcess, rng: random.Random) -> None:
        self._inside, self._rng = inside, rng
        self._there: set[str] = {"demo", "web.demo"}

    def make(self) -> None:
        """Have one come that is not there, or go that is."""
        text = self._rng.choice([*(f"{n}.{s}" for n in NAMES for s in ("demo", "other")), "other"])
        first, _, space = text.partition(".")
        self._inside.apply(
            service(first, space) if space else namespace(first), is_gone=text in self._there
        )
        self._there ^= {text}


def packet(rng: random.Random) -> bytes:
    """Return a query for addresses of some name, in any spelling and form."""
    labels = [
        rng.choice(LABELS) if rng.random() < 0.6 else f"r{rng.getrandbits(10)}"
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))
    ]
    text = "".join(f"{label}." for label in labels) + rng.choice(BELOW) + "cluster.local."
    if rng.random() < 0.3:
        text = "".join(rng.choice((c, c.upper())) for c in text)
    qname = name.parse(text)
    question = Question(qname, name.fold(qname), rng.choice((rr.A, rr.A, rr.AAAA)))
    edns = rng.choice((None, None, Edns(1232, 0, 0), Edns(1232, 0, message.EDNS_DO)))
    return message.write_query(rng.getrandbits(16), rng.choice((0, message.RD)), question, edns)


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
    zones = "cluster.local other.svc.cluster.local" if block == "two zones" else "cluster.local"
    corefile = COREFILE.format(plugin=plugin, options=options, others=others, zones=zones)
    rng = random.Random(f"{block} {seed}")

    async def main() -> float:
        hits, asked = 0, 0
        async with InProcess(corefile, [namespace("demo"), service("web", "demo")]) as inside:
            changes = Change(inside, rng)
            for _ in range(400):
                if rng.random() < 0.08:
                    changes.make()
                query = packet(rng)
                found = inside.ask_table(query, "tcp")
                if native.compiled is not None:
                    assert found == in_c(inside, query)
                expected = await inside.ask_anew(query, "tcp")
                assert found in (None, expected), query
                asked, hits = asked + 1, hits + (found is not None)
                await inside.ask_chain(query, "tcp")
        return hits / asked

    share = asyncio.run(main())
    assert share > 0.1 or block not in OPEN, share
