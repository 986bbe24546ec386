"""Signed zones served by `file`: beside CoreDNS 1.15.0, and validated by Unbound.

``ZONES_SEED`` picks others. What CoreDNS says is in our replies; of the NSEC records it leaves out some
that RFC 4035 section 3.1.3 asks for, so ours may have more. That they are the right ones says Unbound.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator

import beside
import compare
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import peers
import pytest
import signedzones
from randomzones import OUTSIDE, RandomZone

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("ZONES_SEED", "1"))
ZONES = 6
QUESTIONS = 120  # a zone
QTYPES = (
    "A", "AAAA", "A", "TXT", "MX", "SRV", "CNAME", "DNAME", "NS", "SOA", "DS", "PTR", "HTTPS", "ANY",
    "TYPE65280", "DNSKEY", "NSEC", "RRSIG",
)  # fmt: skip


@pytest.fixture(scope="module", params=range(SEED, SEED + 2))
def world(request, tmp_path_factory):
    """Write signed zones; return the Corefile that serves them, the zones, and their keys."""
    directory, rng = tmp_path_factory.mktemp("signed"), random.Random(request.param)
    zones = [RandomZone(f"s{i}.test.", rng) for i in range(ZONES)]
    made = {
        zone.apex: signedzones.signed(
            zone.text, zone.apex, signedzones.ALGORITHMS[i % len(signedzones.ALGORITHMS)]
        )
        for i, zone in enumerate(zones)
    }
    contents = {f"{apex}db": each.text for apex, each in made.items()}
    beside.files(directory, {**contents, "outside.db": OUTSIDE})
    lines = [
        ". {",
        " file outside.db outside.test",
        *(f" file {apex}db {apex}" for apex in made),
        "}",
    ]
    return (
        "\n".join(lines) + "\n",
        zones,
        {k: each.keys for k, each in made.items()},
        directory,
        rng.random(),
    )


def questions(zone: RandomZone, rng: random.Random) -> Iterator[tuple[str, str]]:
    for name, _ in zip(zone.names(), range(QUESTIONS), strict=False):
        yield name, rng.choice(QTYPES)


def records(message: dns.message.Message, section: str, *, denials: bool) -> list[compare.Record]:
    """Return the records of a section; NSEC with their signatures alone, or all others."""
    found = compare.records(getattr(message, section), is_folded=False)
    return [each for each in found if denials == (each[2] == "NSEC" or each[4].startswith("NSEC "))]


def is_wrongly_owned(record: compare.Record) -> bool:
    """Tell whether a signature of CoreDNS stays with the wildcard that an alias was made of."""
    return record[2] == "RRSIG" and record[0].startswith("*.") and record[4].startswith("CNAME ")


def difference(packet: bytes, theirs: bytes, ours: bytes) -> str:
    """Return how our reply differs, but for denials that CoreDNS leaves out."""
    said = compare.difference(packet, theirs, ours, compare.Rules())
    if not said:
        return ""
    their_reply, our_reply = compare.parse(theirs), compare.parse(ours)
    if theirs[2:4] != ours[2:4]:
        return said
    asked = their_reply.question[0].rdtype in (dns.rdatatype.NSEC, dns.rdatatype.RRSIG)
    for section in compare.SECTIONS:
        one, other = (records(each, section, denials=False) for each in (their_reply, our_reply))
        if any(is_wrongly_owned(each) for each in one):  # that of CoreDNS proves nothing
            one = [each for each in one if each[2] != "RRSIG"]
            other = [each for each in other if each[2] != "RRSIG"]
        if one != other:
            return said
        one, other = (records(each, section, denials=True) for each in (their_reply, our_reply))
        is_positive = section == "answer" and asked
        if set(one) - set(other) and (is_positive or not is_nxdomain(our_reply)):
            return said
    return ""


def is_beside_wildcard(qname: str, zone: RandomZone) -> bool:
    """Tell whether a name is empty, with names below, where CoreDNS would take a wildcard."""
    names = zone.owners()
    asked = qname.lower()
    is_empty = asked not in names and any(each.endswith(f".{asked}") for each in names)
    return is_empty and f"*.{asked.partition('.')[2]}" in names


def is_nxdomain(reply: dns.message.Message) -> bool:
    """Tell whether a reply denies a wildcard, which CoreDNS looks for above empty non-terminals."""
    return reply.rcode() == 3


def test_signed_zones_are_answered_as_coredns_answers_them(world):
    corefile, zones, _, directory, seed = world
    rng = random.Random(seed)
    found = []
    with (
        peers.clusterdns(corefile, directory) as our_server,
        peers.coredns(corefile, directory) as their_server,
    ):
        for zone in zones:
            for name, qtype in questions(zone, rng):
                if is_beside_wildcard(name, zone):
                    continue
                packet = beside.query(name, qtype, edns=4096, do=rng.random() < 0.8)
                theirs, ours = (
                    peers.ask_tcp(each.address, packet) for each in (their_server, our_server)
                )
                assert theirs is not None and ours is not None
                said = difference(packet, theirs, ours)
                if said:
                    found.append(f"{name} {qtype}: {said}")
    assert not found, "\n".join([f"{len(found)} differences", *found[:6], str(directory)])


def test_a_validator_finds_every_answer_secure(world):
    corefile, zones, keys, directory, seed = world
    rng = random.Random(seed)
    asked = [(zone.apex, zone.text, questions(zone, rng)) for zone in zones]
    found = signedzones.unexpected(directory, corefile, keys, asked)
    assert not found, "\n".join(found)


def test_auto_and_secondary_answer_as_file_does(world):
    corefile, zones, _, directory, seed = world
    rng = random.Random(seed)
    for zone in zones:
        target = directory / "auto" / f"db.{zone.apex.rstrip('.')}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((directory / f"{zone.apex}db").read_bytes())
    apexes = " ".join(zone.apex for zone in zones)
    outside = " file outside.db outside.test\n"
    automatic = f". {{\n{outside} auto {apexes} {{\n  directory auto\n }}\n}}\n"
    primary = corefile.replace("}\n", " transfer {\n  to *\n }\n}\n")
    with (
        peers.clusterdns(corefile, directory) as by_file,
        peers.clusterdns(automatic, directory) as by_auto,
        peers.coredns(primary, directory) as source,
        peers.clusterdns(
            f". {{\n{outside} secondary {apexes} {{\n"
            f"  transfer from 127.0.0.1:{source.port}\n }}\n}}\n",
            directory,
        ) as by_transfer,
    ):
        probe = beside.query(zones[-1].apex, "SOA")
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if peers.ask_tcp(by_transfer.address, probe)[3] & 15 == 0:
                break
            time.sleep(0.05)
        for zone in zones:
            for name, qtype in itertools.islice(questions(zone, rng), 40):
                packet = beside.query(name, qtype, edns=4096, do=True)
                one, *others = (
                    peers.ask_tcp(each.address, packet) for each in (by_file, by_auto, by_transfer)
                )
                for other in others:
                    said = compare.difference(packet, one, other, beside.UNORDERED)
                    assert not said, f"{name} {qtype}: {said}"
