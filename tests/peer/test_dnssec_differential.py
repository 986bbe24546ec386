"""`dnssec` beside CoreDNS 1.15.0 with the same keys, and validated by Unbound.

Signatures differ each time they are made, so they are verified, and what they say is compared: type,
algorithm, labels, TTL, signer, key. ``ZONES_SEED`` picks other zones. ``is_explained`` tells what we
sign by RFC 4035 and CoreDNS otherwise; Unbound finds all of ours secure.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterable, Iterator

import beside
import compare
import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import peers
import pytest
import signedzones
from dns.dnssectypes import Algorithm
from randomzones import OUTSIDE, RandomZone
from signedzones import ALGORITHMS

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("ZONES_SEED", "1"))
QUESTIONS = 120  # a zone
QTYPES = (
    "A", "AAAA", "A", "TXT", "MX", "SRV", "CNAME", "DNAME", "NS", "SOA", "DS", "PTR", "HTTPS", "ANY",
    "TYPE65280", "DNSKEY", "NSEC", "CAA",
)  # fmt: skip
# By zone: its keys, as (algorithm, whether it has the SEP flag).
KEYS: dict[str, tuple[tuple[Algorithm, bool], ...]] = {
    "k0.test.": ((ALGORITHMS[0], True),),
    "k1.test.": ((ALGORITHMS[1], False),),
    "k2.test.": ((ALGORITHMS[2], True), (ALGORITHMS[2], False)),  # split
    "k3.test.": ((ALGORITHMS[3], True), (ALGORITHMS[3], True)),
    "k4.test.": ((Algorithm.RSASHA512, True),),
}


class World:
    """A Corefile of signed random zones, and the keys to trust."""

    def __init__(self, directory, rng: random.Random) -> None:
        self.directory, self.seed = directory, rng.random()
        self.zones = [RandomZone(apex, rng) for apex in KEYS]
        self.keys: dict[str, tuple[str, ...]] = {}
        blocks = [". {\n file outside.db outside.test\n}\n"]
        beside.files(
            directory, {"outside.db": OUTSIDE, **{f"{z.apex}db": z.text for z in self.zones}}
        )
        for apex, kinds in KEYS.items():
            made = [signedzones.key_files(directory, apex, a, is_ksk=is_ksk) for a, is_ksk in kinds]
            self.keys[apex] = tuple(record for _, record in made)
            names = " ".join(f"{base}{rng.choice(('', '.key', '.private'))}" for base, _ in made)
            blocks.append(f"{apex} {{\n dnssec {{\n key file {names}\n }}\n file {apex}db\n}}\n")
        self.corefile = "".join(blocks)


@pytest.fixture(scope="module", params=range(SEED, SEED + 2))
def world(request, tmp_path_factory):
    return World(tmp_path_factory.mktemp("dnssec"), random.Random(request.param))


def questions(zone: RandomZone, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield zone.apex, "DNSKEY"
    yield zone.apex, "DS"
    for name, _ in zip(zone.names(), range(QUESTIONS), strict=False):
        yield name, rng.choice(QTYPES)


def verified(message: dns.message.Message, keys: dict[str, tuple[str, ...]]) -> list[set[str]]:
    """Return the sections as sets of lines, each signature as what it says; raise if one is wrong."""
    known = {
        dns.name.from_text(apex): dns.rrset.from_text_list(
            apex, 300, "IN", "DNSKEY", [key.split(" DNSKEY ")[1] for key in some]
        )
        for apex, some in keys.items()
    }
    found = []
    for section in (message.answer, message.authority, message.additional):
        lines = set()
        sets = {(rrset.name, rrset.rdtype, rrset.covers): rrset for rrset in _grouped(section)}
        for (name, rdtype, covered), rrset in sets.items():
            if rdtype != dns.rdatatype.RRSIG:
                lines |= {f"{name} {rrset.ttl} {rdtype.name} {item}".lower() for item in rrset}
                continue
            for item in rrset:
                dns.dnssec.validate_rrsig(sets[name, covered, dns.rdatatype.NONE], item, known)
                assert item.inception + 3 * 3600 <= time.time() + 2
                lines.add(
                    f"{name} {rrset.ttl} RRSIG {covered.name} {item.algorithm} {item.labels} "
                    f"{item.original_ttl} {item.key_tag} {item.signer} "
                    f"{item.expiration - item.inception}".lower()
                )
        found.append(lines)
    return found


def without_ttls(sections: list[set[str]]) -> list[set[str]]:
    return [{re.sub(r"^(\S+) \d+", r"\1", line) for line in lines} for lines in sections]


def _grouped(section: Iterable[dns.rrset.RRset]) -> list[dns.rrset.RRset]:
    found: dict[tuple[object, ...], dns.rrset.RRset] = {}
    for rrset in section:
        key = rrset.name, rrset.rdtype, rrset.covers
        if key not in found:
            found[key] = dns.rrset.RRset(rrset.name, rrset.rdclass, rrset.rdtype, rrset.covers)
            found[key].update_ttl(rrset.ttl)
        for item in rrset:
            found[key].add(item)
    return list(found.values())


def is_explained(theirs: dns.message.Message, ours: dns.message.Message, apex: str) -> bool:
    """Tell whether replies differ for one of the reasons that the manual of `dnssec` gives."""
    question = ours.question[0]
    nss = {each.name for each in ours.authority if each.rdtype == dns.rdatatype.NS}
    if nss - {dns.name.from_text(apex)}:
        return True  # a zone cut: its proof is about the cut, and it and its glue are not signed
    if question.rdtype == dns.rdatatype.DS and not ours.answer:
        return True  # no zone cut, and so no NS in the types
    if ours.answer and any(each.rdtype == dns.rdatatype.NSEC for each in ours.authority):
        return True  # the target of an alias is denied, with a proof
    if question.rdtype != dns.rdatatype.NSEC:
        return False
    return len(theirs.answer[0]) < len(ours.answer[1])  # the signature of one key alone


def compared(world: World, corefile: str, zones: list[RandomZone]) -> tuple[list[str], int, int]:
    """Return how replies differ, how many differ as explained, and how many were signed."""
    found, explained, asked = [], 0, 0
    rng = random.Random(world.seed)
    with (
        peers.clusterdns(corefile, world.directory) as our_server,
        peers.coredns(corefile, world.directory) as their_server,
    ):
        for zone in zones:
            for name, qtype in questions(zone, rng):
                do = rng.random() < 0.85
                packet = beside.query(name, qtype, edns=4096, do=do)
                replies = [
                    peers.ask_tcp(each.address, packet) for each in (their_server, our_server)
                ]
                assert None not in replies, f"{name} {qtype}"
                if not do:
                    said = compare.difference(
                        packet, *replies, compare.Rules(is_ordered=False, age_s=5)
                    )
                    assert not said, said
                    continue
                asked += 1
                theirs, ours = map(dns.message.from_wire, replies)
                one, other = verified(theirs, world.keys), verified(ours, world.keys)
                flags = replies[0][2:4], replies[1][2:4]
                if " cache 30\n" in corefile:  # each has one of its own
                    one, other = without_ttls(one), without_ttls(other)
                if one == other and flags[0] == flags[1]:
                    continue
                if is_explained(theirs, ours, zone.apex):
                    explained += 1
                    continue
                lacking = [sorted(a ^ b) for a, b in zip(one, other, strict=True)]
                found.append(f"{name} {qtype}: {flags} {lacking}\n{theirs}\n--- ours\n{ours}")
    return found, explained, asked


def test_replies_are_signed_as_coredns_signs_them(world):
    found, explained, asked = compared(world, world.corefile, world.zones)
    assert not found, "\n".join([f"{len(found)} of {asked}", *found[:4], str(world.directory)])
    assert explained < asked / 3


def test_what_upstream_says_is_signed_as_coredns_signs_it(world):
    plain = re.sub(r" dnssec \{.*?\n \}\n", "", world.corefile, flags=re.DOTALL)
    with peers.coredns(plain, world.directory) as upstream:
        forward = f" forward . 127.0.0.1:{upstream.port}\n cache 30\n"
        corefile = re.sub(r"^ file \S+test.db\n", forward, world.corefile, flags=re.MULTILINE)
        found, explained, asked = compared(world, corefile, world.zones[:2])
    assert not found, "\n".join([f"{len(found)} of {asked}", *found[:4], str(world.directory)])
    assert explained < asked / 3


def test_a_validator_finds_every_reply_secure(world):
    rng = random.Random(world.seed)
    zones = [(zone.apex, zone.text, questions(zone, rng)) for zone in world.zones]
    found = signedzones.unexpected(world.directory, world.corefile, world.keys, zones)
    assert not found, "\n".join(found)


def test_what_is_counted_is_what_coredns_counts(tmp_path):
    base, _ = signedzones.key_files(tmp_path, "k.test.")
    beside.files(tmp_path, {"db": "@ 5 SOA a b 1 2 3 4 5\n@ 5 NS ns\nns 5 A 192.0.2.1\n"})
    ports = {peers.clusterdns: peers.free_port(), peers.coredns: peers.free_port()}
    found = []
    for server, port in ports.items():
        corefile = f"k.test {{\n prometheus 127.0.0.1:{port}\n dnssec {{\n  key file {base}\n }}\n file db\n}}\n"
        with server(corefile, tmp_path) as running:
            for qname in ("ns.k.test.", "ns.k.test.", "none.k.test.", "k.test.", "ns.k.test."):
                for do in (True, False):
                    assert peers.ask_udp(running.address, beside.query(qname, edns=1232, do=do))
            samples = beside.samples(port, "coredns_dnssec_")
            label = ("server", f"dns://:{running.port}")
            found.append({tuple(w for w in k if w != label): v for k, v in samples.items()})
    assert found[0] == found[1]
    assert ("coredns_dnssec_cache_entries", ("type", "signature")) in found[0]


@pytest.mark.parametrize(
    ("lines", "refuses"),
    [
        ("dnssec", ""),
        ("dnssec k.test other.test", ""),
        ("dnssec {\n key file KEY\n}", ""),
        ("dnssec {\n key file KEY.key KEY.private\n}", ""),
        ("dnssec {\n key file KEY\n key file KEY\n cache_capacity 5\n}", ""),
        ("dnssec {\n cache_capacity -5\n}", ""),
        ("dnssec {\n cache_capacity 5 x\n}", "both"),
        ("dnssec {\n cache_capacity x\n}", "both"),
        ("dnssec {\n cache_capacity\n}", "both"),
        ("dnssec {\n key\n}", "both"),
        ("dnssec {\n key file\n}", "both"),
        ("dnssec {\n key file Kgone\n}", "both"),
        ("dnssec {\n key files KEY\n}", "both"),
        ("dnssec other.test {\n key file KEY\n}", "both"),
        ("dnssec {\n nonsense\n}", "both"),
        ("dnssec\ndnssec", "both"),
        ("sign db {\n key file KEY\n directory .\n}", ""),
        ("sign db k.test {\n directory .\n}\nsign db other.test {\n directory .\n}", ""),
        ("sign gone {\n key file KEY\n directory .\n}", ""),
        ("sign db {\n key file KEY\n directory gone\n}", ""),
        ("sign", "both"),
        ("sign db {\n key file Kgone\n}", "both"),
        ("sign db {\n directory\n}", "both"),
        ("sign db {\n directory . .\n}", "both"),
        ("sign db {\n nonsense\n}", "both"),
        ("sign db {\n key directory .\n directory .\n}", "theirs"),
    ],
)
def test_the_same_corefiles_are_taken(tmp_path, lines, refuses):
    base, _ = signedzones.key_files(tmp_path, "k.test.")
    beside.files(tmp_path, {"db": "@ 5 SOA a b 1 2 3 4 5\n@ 5 NS ns\n"})
    ours, theirs = beside.start(f"k.test {{\n{lines.replace('KEY', base)}\nwhoami\n}}\n", tmp_path)
    assert (refuses == "both", refuses in ("both", "theirs")) == (
        bool(ours),
        bool(theirs),
    ), f"ours: {ours}\ntheirs: {theirs}"
