"""`secondary` and `transfer` beside CoreDNS 1.15.0: random zones, handed on by one and had by both.

Both servers transfer the zones from one CoreDNS, are asked the same, and hand them on alike.
``SECONDARY_SEED`` picks others.
"""

from __future__ import annotations

import itertools
import os
import random
import time

import beside
import compare
import dns.query
import dns.zone
import peers
import pytest
from randomzones import RandomZone

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("SECONDARY_SEED", "1"))
ZONES, QUESTIONS = 3, 60
QTYPES = ("A", "AAAA", "TXT", "MX", "SRV", "CNAME", "NS", "SOA", "DS", "CAA", "ANY", "PTR")


def records(server: peers.Server, origin: str) -> list[str]:
    """Return all records of a zone, as a secondary server gets them."""
    host, port = server.address
    messages = dns.query.xfr(host, origin, port=port, timeout=10, lifetime=20, relativize=False)
    zone = dns.zone.from_xfr(messages, relativize=False)
    return sorted(
        f"{owner} {rdataset.ttl} {rdata.rdtype} {rdata}"
        for owner, rdataset in zone.iterate_rdatasets()
        for rdata in rdataset
    )


def until_loaded(server: peers.Server, origins: list[str]) -> None:
    deadline = time.monotonic() + 20
    for origin in origins:
        packet = beside.query(origin, "SOA")
        while not (reply := peers.ask_udp(server.address, packet)) or not reply[7]:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.1)


def ask_all(server: peers.Server, packets: list[bytes]) -> list[tuple[bytes | None, bytes | None]]:
    return [
        (peers.ask_udp(server.address, each), peers.ask_tcp(server.address, each))
        for each in packets
    ]


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
def test_zones_of_a_primary_are_answered_and_handed_on_alike(tmp_path, seed):
    rng = random.Random(seed)
    zones = [RandomZone(f"z{i}.test.", rng) for i in range(ZONES)]
    origins = [zone.apex for zone in zones]
    beside.files(tmp_path, {f"z{i}.db": zone.text for i, zone in enumerate(zones)})
    primary = "".join(
        f"{zone.apex} {{\n file z{i}.db\n transfer {{\n to *\n }}\n}}\n"
        for i, zone in enumerate(zones)
    )
    packets = [
        beside.query(qname, rng.choice(QTYPES), edns=rng.choice((None, 4096)))
        for zone in zones
        for qname in itertools.islice(zone.names(), QUESTIONS)
    ]
    with peers.coredns(primary, tmp_path) as source:
        corefile = f"{' '.join(origins)} {{\n secondary {{\n transfer from 127.0.0.1:{source.port}\n }}\n" + (
            " transfer {\n to *\n }\n}\n"
        )  # fmt: skip
        with (
            peers.clusterdns(corefile, tmp_path) as ours,
            peers.coredns(corefile, tmp_path) as theirs,
        ):
            for server in (ours, theirs):
                until_loaded(server, origins)
            for packet, their_replies, our_replies in zip(
                packets, ask_all(theirs, packets), ask_all(ours, packets), strict=True
            ):
                for expected, found in zip(their_replies, our_replies, strict=True):
                    rule = beside.UNORDERED
                    assert not compare.difference(packet, expected, found, rule)
            for origin in origins:
                assert records(source, origin) == records(theirs, origin) == records(ours, origin)
