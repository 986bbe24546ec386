"""Names that do not exist, asked beside CoreDNS, while Services come and go.

Each is asked more than once, so the table has a denial for its length by then. A name that had been
denied resolves as soon as there is a Service of that name, and is denied again when it has gone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import beside
import compare
import dns.message
import dns.rcode
import peers
import pytest
from fakeapi import FakeApi, Manifest

from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Question

COREFILES = {
    "plain": "cluster.local:{{PORT}} in-addr.arpa:{{PORT}} {{\n kubernetes cluster.local in-addr.arpa {{\n  endpoint {url}\n }}\n}}\n",
    "pods, cache": (
        "cluster.local:{{PORT}} in-addr.arpa:{{PORT}} {{\n cache 30\n loadbalance\n kubernetes cluster.local in-addr.arpa {{\n"
        "  endpoint {url}\n  pods insecure\n }}\n}}\n"
    ),
    "namespaces": (
        "cluster.local:{{PORT}} in-addr.arpa:{{PORT}} {{\n kubernetes cluster.local in-addr.arpa {{\n  endpoint {url}\n"
        "  namespaces demo\n }}\n}}\n"
    ),
}
BELOW = (
    "demo.svc.", "other.svc.", "nosuch.svc.", "web.demo.svc.", "_tcp.web.demo.svc.", "svc.",
    "demo.pod.", "",
)  # fmt: skip
TYPES = ("A", "A", "AAAA", "HTTPS", "SRV", "TXT", "PTR", "MX", "SOA")
LABELS = ("web", "svc", "pod", "dns", "ns", "hostmaster", "demo", "other", "_tcp", "com")
COMING = "coming.demo.svc.cluster.local"
FORMS = ({}, {"edns": 1232}, {"do": True}, {"flags": 0})
WITHIN_S = 10


def namespace(text: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": text}}


def service(text: str, address: str = "10.96.0.7") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": text, "namespace": "demo"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }  # fmt: skip


def packets(rng: random.Random, count: int, *, is_mixed: bool) -> Iterator[bytes]:
    """Yield queries for names that are not there, and for some that are.

    CoreDNS's cache repeats a denial in the letter case of whoever came first, so it gets no mixed one.
    """
    for _ in range(count):
        labels = [
            rng.choice(LABELS) if rng.random() < 0.4 else f"{rng.getrandbits(16):x}"
            for _ in range(rng.choice((1, 1, 1, 2, 3)))
        ]
        text = "".join(f"{label}." for label in labels) + rng.choice(BELOW) + "cluster.local."
        if is_mixed and rng.random() < 0.3:
            text = "".join(rng.choice((c, c.upper())) for c in text)
        yield beside.query(text, rng.choice(TYPES), **rng.choice(FORMS))
    pods = name.parse("demo.pod.cluster.local.")
    for label in (b"::1", b"10.0.0.1", b"10-0-0-1", b"10:0:0:1", b"xxx", b"xxxxxxxx"):
        qname = name.join([label], pods)
        for qtype in (rr.A, rr.AAAA):
            asked = Question(qname, name.fold(qname), qtype)
            yield message.write_query(7, message.RD, asked, None)
    for _ in range(count // 5):
        known = (7, 8) if is_mixed else (7,)  # 8 comes and goes: its denial would be cached, too
        octets = (
            rng.choice((*known, rng.randrange(9, 256))),
            0,
            rng.choice((96, rng.randrange(256))),
        )
        text = f"{octets[0]}.{octets[1]}.{octets[2]}.10.in-addr.arpa."
        yield beside.query(text, rng.choice(("PTR", "PTR", "A")), **rng.choice(FORMS))


def differences(us: peers.Server, them: peers.Server, some: list[bytes]) -> list[str]:
    found = []
    for packet in some:
        for ask in (peers.ask_udp, peers.ask_tcp):
            theirs, ours = ask(them.address, packet), ask(us.address, packet)
            found.append(compare.difference(packet, theirs, ours, compare.Rules(age_s=60)))
    return [each for each in found if each]


def until(server: peers.Server, rcode: dns.rcode.Rcode) -> None:
    """Return when ``COMING`` has this answer."""
    deadline, seen = time.monotonic() + WITHIN_S, None
    while seen != rcode:
        assert time.monotonic() < deadline, f"{seen} after {WITHIN_S} s"
        seen = dns.message.from_wire(peers.ask_udp(server.address, beside.query(COMING))).rcode()


@pytest.mark.peer
@pytest.mark.parametrize("corefile", COREFILES)
def test_what_is_not_there_is_denied_as_coredns_does(corefile, tmp_path):
    rng, has_cache = random.Random(corefile), "cache" in corefile
    with FakeApi([namespace("demo"), namespace("other"), service("web")]) as api:
        text = COREFILES[corefile].format(url=api.url)
        with peers.clusterdns(text, tmp_path) as us, peers.coredns(text, tmp_path) as them:
            assert [] == differences(us, them, list(packets(rng, 150, is_mixed=not has_cache)))
            for _ in range(2):
                api.apply(service("coming", "10.96.0.8"))
                until(us, dns.rcode.NOERROR)
                # CoreDNS may have the denial in its cache for as long as that holds.
                if not has_cache:
                    until(them, dns.rcode.NOERROR)
                    assert [] == differences(us, them, [beside.query(COMING)])
                assert [] == differences(us, them, list(packets(rng, 20, is_mixed=not has_cache)))
                api.delete("Service", "coming", "demo")
                until(us, dns.rcode.NXDOMAIN)
                if not has_cache:
                    until(them, dns.rcode.NXDOMAIN)
                assert [] == differences(us, them, list(packets(rng, 20, is_mixed=not has_cache)))
