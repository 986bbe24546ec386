"""`etcd` beside CoreDNS 1.15.0, both with one etcd: random services, options and questions.

``ETCD_SEED`` picks others.
"""

from __future__ import annotations

import os
import random
from typing import Any

import beside
import etcdserver
import peers
import pytest

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("ETCD_SEED", "1"))
SERVICES, QUESTIONS = 60, 220
QTYPES = ("A", "A", "AAAA", "SRV", "SRV", "TXT", "MX", "CNAME", "PTR", "NS", "SOA", "CAA", "ANY")
LABELS = ("a", "b", "c", "web", "dns", "ns", "apex", "x-1", "_tcp")
OPTIONS = (
    "",
    "fallthrough",
    "fallthrough b.sky.test\n path /deep/er\n no_apex_fallback",
    "path deep\n min-lease-ttl 60\n max-lease-ttl 10m",
    'min-lease-ttl 0\n max-lease-ttl 1h30m\n credentials someone ""',
    "min-lease-ttl 2h\n max-lease-ttl 1m",
)
PREFIXES = ("/skydns", "/skydns", "/deep/er", "/deep", "/skydns", "/skydns")
COREFILE = """sky.test bad.test 10.in-addr.arpa {
    etcd sky.test bad.test 10.in-addr.arpa {
        endpoint URL
        OPTIONS
    }
    erratic {
        drop 0
        delay 0
    }
}
other.test {
    hosts {
        10.9.9.1 www.other.test
        fd00::9 www.other.test
    }
    template IN TXT other.test {
        answer "{{ .Name }} 9 IN TXT elsewhere"
    }
}
"""
BROKEN = (
    b"", b"{", b"[]", b"7", b"null", b'{"host": 7}', b'{"port": 1.5, "host": "10.0.0.1"}',
    b'{"host": "10.0.0.1", "port": 1e2}', b'{"ttl": -1, "host": "10.0.0.1"}',
    b'{"HOST": "10.0.0.8", "hOst": null, "nope": [1, {}]}', b'{"host": "10.0.0.7"} x',
    b'{"host": "10.0.0.6", "mail": "true"}', b'{"host": "10.0.0.6", "ttl": 4294967296}',
    b'{"host": NaN}', b'{"text": "\\ud800x", "host": "\xff"}', b' {"host": "10.0.0.5"} ',
    b'{"host": "10.0.0.5", "port": 99999999999999999999}', b'{"host": ["a", "b"]}',
)  # fmt: skip


def qname(rng: random.Random) -> str:
    depth = rng.choice((1, 1, 2, 2, 3, 4))
    return ".".join([*(rng.choice(LABELS) for _ in range(depth)), "sky.test"])


def key(name: str, prefix: str) -> str:
    return "/".join([prefix, *reversed(name.split("."))])


def service(rng: random.Random) -> dict[str, Any]:
    """Return a value; aliases within the zone are few, since CoreDNS follows each of a subtree."""
    host = rng.choice((
        f"10.0.0.{rng.randint(1, 9)}", f"10.0.0.{rng.randint(1, 9)}", "fd00::1", "FD00:0::2",
        "::ffff:10.0.0.3", "010.0.0.1", "www.other.test", "WWW.other.test.", "no.other.test", "",
        qname(rng) if rng.random() < 0.3 else "10.0.0.10", "fe80::1%eth0",
    ))  # fmt: skip
    made: dict[str, Any] = {"host": host}
    for field, values in (
        ("port", (80, 8080, -1, 70000)), ("priority", (0, 1, 20, -1, 65540)),
        ("weight", (0, 1, 7, 100, 1000, -100)), ("ttl", (1, 60, 86400)), ("mail", (True, False)),
        ("targetstrip", (0, 1, 2, 9, -1)), ("group", ("", "g1", "g2")),
    ):  # fmt: skip
        if rng.random() < 0.35:
            made[field] = rng.choice(values)
    if rng.random() < 0.25:
        made["text"] = rng.choice(
            ("plain", 'a "quoted"', "x" * 254, "y" * 255, "z" * 600, "é" * 130, "")
        )
    return made


def fill(etcd: etcdserver.EtcdServer, rng: random.Random, prefix: str) -> list[str]:
    """Put services into etcd; return names that are there, or near."""
    names = []
    leases = [0, 0, 0, etcd.lease(100_000), etcd.lease(15)]
    for _ in range(SERVICES):
        name = qname(rng)
        names.append(name)
        etcd.put(key(name, prefix), service(rng), rng.choice(leases))
    for i, value in enumerate(BROKEN):
        etcd.put(key(f"k{i}.broken.bad.test", prefix), value)
        names.append(f"k{i}.broken.bad.test")
    for i in range(1, 5):
        etcd.put(f"{prefix}/arpa/in-addr/10/0/0/{i}", {"host": f"r{i}.sky.test."})
        names.append(f"{i}.0.0.10.in-addr.arpa")
    etcd.put(f"{prefix}/arpa/in-addr/10/0/0/4/more", {"host": "more.sky.test."})
    # CoreDNS counts escapes as they are written when it truncates: so these are in a small answer.
    etcd.put(f"{prefix}/test/bad/escapes", {"text": 'a \\" \\\\ \\065 \\256 \\09 back\\'})
    etcd.put(f"{prefix}/test/sky/chain/a", {"host": "b.chain2.sky.test"})
    etcd.put(f"{prefix}/test/sky/chain2/b", {"host": "c.chain3.sky.test", "ttl": 5})
    etcd.put(f"{prefix}/test/sky/chain3/c", {"host": "www.other.test"})
    etcd.put(f"{prefix}/test/sky/loop1", {"host": "loop2.sky.test"})
    etcd.put(f"{prefix}/test/sky/loop2", {"host": "loop1.sky.test"})
    etcd.put(f"{prefix}/test/sky/mx/1", {"host": "www.other.test", "mail": True, "targetstrip": 1})
    etcd.put(f"{prefix}/test/sky/mx/2", {"host": "10.0.0.4", "mail": True, "priority": 3})
    return [*names, *["a.chain.sky.test", "chain.sky.test", "loop1.sky.test", "mx.sky.test", "sky.test", "10.in-addr.arpa", "0.0.10.in-addr.arpa", "*.sky.test", "any.web.sky.test", "*.*.sky.test", "a.any.sky.test", "nothing.sky.test", "ns.dns.sky.test", "apex.dns.sky.test", "broken.bad.test", "SKY.test", "escapes.bad.test"]]  # fmt: skip


def wilder(rng: random.Random, name: str) -> str:
    """Return the name, one with a wildcard, one below, above, or in another spelling."""
    labels = name.split(".")
    match rng.randrange(8):
        case 0:
            labels[rng.randrange(max(1, len(labels) - 2))] = rng.choice(("*", "any"))
        case 1:
            labels.insert(0, rng.choice(LABELS))
        case 2 if len(labels) > 2:
            labels.pop(0)
        case 3:
            labels[0] = labels[0].upper()
    return ".".join(labels)


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_answers_are_those_of_coredns(tmp_path, number):
    rng = random.Random(SEED * 100 + number)
    with etcdserver.running(tmp_path) as etcd:
        names = fill(etcd, rng, PREFIXES[number])
        packets = []
        for _ in range(QUESTIONS):
            form = rng.choice(({}, {}, {"edns": 1232}, {"edns": 4096}, {"do": True}))
            packets.append(beside.query(wilder(rng, rng.choice(names)), rng.choice(QTYPES), **form))
        corefile = COREFILE.replace("URL", etcd.url).replace("OPTIONS", OPTIONS[number])
        found = beside.differences(corefile, packets, tmp_path, transports=("udp", "tcp"))
    assert not found, "\n".join(found[:5]) + f"\n{len(found)} of {2 * len(packets)}"


def test_zone_of_the_server_block_and_the_default_path(tmp_path):
    with etcdserver.running(tmp_path) as etcd:
        etcd.put("/skydns/test/sky/one", {"host": "10.0.0.1"})
        corefile = f"sky.test {{\n etcd {{\n endpoint 127.0.0.1:{etcd.port}\n }}\n}}\n"
        packets = [beside.query(each) for each in ("one.sky.test", "two.sky.test", "sky.test")]
        assert not beside.differences(corefile, packets, tmp_path)


def test_while_etcd_is_down_both_say_servfail(tmp_path):
    """CoreDNS does so after five seconds each time."""
    corefile = f"sky.test {{\n etcd {{\n endpoint http://127.0.0.1:{peers.free_port()}\n }}\n}}\n"
    packets = [beside.query("a.sky.test", edns=1232)]
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for packet in packets:
            replies = [peers.ask_udp(each.address, packet, 8) for each in (theirs, ours)]
            assert replies[0] and replies[1] and replies[0][2:12] == replies[1][2:12]
