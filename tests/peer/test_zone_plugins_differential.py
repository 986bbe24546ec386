"""`file` and `auto` beside CoreDNS 1.15.0: random zones, options and questions.

``ZONES_SEED`` picks others. Zones have what makes them hard: wildcards, delegations with glue, DNAME,
chains of aliases, empty non-terminals, records at the apex, many types.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import beside
import compare
import dns.flags
import pytest
from randomzones import OUTSIDE, RandomZone

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("ZONES_SEED", "1"))
ZONES = 12
AUTO = range(2, ZONES, 3)  # those of `auto`, the others are of `file`
QUESTIONS = 150  # a zone
QTYPES = (
    "A", "AAAA", "A", "TXT", "MX", "SRV", "CNAME", "DNAME", "NS", "SOA", "DS", "PTR", "CAA", "HTTPS",
    "SVCB", "NAPTR", "ANY", "TYPE65280", "SSHFP", "DNSKEY", "NSEC", "RRSIG", "SPF", "LOC", "AXFR",
)  # fmt: skip


def is_explained(said: str) -> bool:
    """Tell whether a difference is that `auto` clears AA of an alias into a delegation.

    AA is about the first owner in the answer (RFC 1035 section 4.1.1), and CoreDNS's `file` sets it.
    """
    head = said.partition("\n--- theirs")[0]
    flags = re.search(r": header: theirs \w{4}(\w{4}), ours \w{4}(\w{4})$", head)
    is_auto = re.match(rf"(udp|tcp) \S*z({'|'.join(map(str, AUTO))})\.test\. ", head, re.IGNORECASE)
    is_referral = re.search(r";ANSWER\n.* CNAME .*\n(.*\n)*;AUTHORITY\n.* NS ", said)
    if flags is None or is_auto is None or is_referral is None:
        return False
    return int(flags[1], 16) | dns.flags.AA == int(flags[2], 16)


def questions(zone: RandomZone, rng: random.Random) -> Iterator[bytes]:
    for name, _ in zip(zone.names(), range(QUESTIONS), strict=False):
        qclass = "CH" if rng.random() < 0.03 else "IN"
        how = rng.choice(({}, {"edns": 1232}, {"edns": 512}, {"do": True}))
        flags = dns.flags.RD if rng.random() < 0.8 else dns.flags.CD
        yield beside.query(name, rng.choice(QTYPES), qclass=qclass, flags=flags, **how)


def world(directory: Path, rng: random.Random) -> tuple[str, list[bytes]]:
    """Write zones; return the Corefile that serves them, and packets that ask for names in them."""
    zones = [RandomZone(f"z{i}.test.", rng) for i in range(ZONES)]
    contents = {"outside.db": OUTSIDE}
    blocks = [". {\n file outside.db outside.test\n}\n"]
    for i, zone in enumerate(zones):
        if i in AUTO:
            contents[f"auto/db.{zone.apex.rstrip('.')}"] = zone.text
            continue
        contents[f"z{i}.db"] = zone.text
        through = rng.choice(("", "fallthrough", f"fallthrough a.{zone.apex}"))
        behind = "\n erratic {\n drop 0\n delay 0\n }" if through and rng.random() < 0.5 else ""
        blocks.append(f"{zone.apex} {{\n file z{i}.db {{\n {through}\n }}{behind}\n}}\n")
    apexes = " ".join(zone.apex for i, zone in enumerate(zones) if i in AUTO)
    blocks.append(f"{apexes} {{\n auto {{\n directory auto\n }}\n}}\n")
    beside.files(directory, contents)
    return "".join(blocks), [packet for zone in zones for packet in questions(zone, rng)]


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_random_zones_are_answered_as_coredns_answers_them(tmp_path, seed):
    corefile, packets = world(tmp_path, random.Random(seed))
    told = beside.differences(corefile, packets, tmp_path, compare.Rules())
    found = [said for said in told if not is_explained(said)]
    assert not found, "\n".join([f"{len(found)} differences", *found[:6], str(tmp_path)])
