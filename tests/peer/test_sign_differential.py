"""`sign` beside CoreDNS 1.15.0: the zones both write, and what validators say of ours.

Serial, signatures and their times differ; they are verified. CoreDNS signs addresses at zone cuts, so
those names are left out of the comparison.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import beside
import dns.dnssec
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.zone
import peers
import pytest
import signedzones
from dns.dnssectypes import Algorithm
from randomzones import RandomZone

pytestmark = pytest.mark.peer

APEX = "example.org."
IN, NS = dns.rdataclass.IN, dns.rdatatype.NS
SIGNED = "db.example.org.signed"


def random_zone(seed: int) -> RandomZone:
    zone = RandomZone(APEX, random.Random(seed))
    zone.append(
        "sub NS ns.sub", "sub DS 1 8 2 " + "ab" * 32, "ns.sub A 192.0.2.9", "x.sub NS ns.sub"
    )
    zone.append("self NS self", "self A 192.0.2.9")
    return zone


def signed_by(server, corefile: str, directory: Path) -> dns.zone.Zone:
    """Return the zone that a server signs at its start."""
    path = directory / SIGNED
    path.unlink(missing_ok=True)
    with server(corefile, directory) as running:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.exists(), running.output
        assert 'Signing "example.org." because ' in running.output
    return dns.zone.from_text(path.read_text(), APEX, relativize=False)


def said(zone: dns.zone.Zone, left_out: set[dns.name.Name]) -> set[str]:
    """Return the records of a zone; of a signature what does not change with the time."""
    lines = set()
    for owner, ttl, item in zone.iterate_rdatas():
        text = item.to_text()
        if any(owner.is_subdomain(cut) for cut in left_out):
            continue
        if item.rdtype == dns.rdatatype.RRSIG:
            ttl = original = item.original_ttl
            if item.type_covered == NS:  # CoreDNS signs them with the TTL of the SOA
                ttl = original = zone.get_rdataset(zone.origin, NS).ttl
            text = (
                f"{item.type_covered.name} {item.algorithm} {item.labels} {original} {item.key_tag}"
            )
        elif item.rdtype == dns.rdatatype.SOA:
            text = re.sub(r"^(\S+ \S+) \d+", r"\1 SERIAL", text)
        lines.add(f"{owner} {ttl} {item.rdtype.name} {text}")
    return lines


@pytest.mark.parametrize("seed", range(4))
def test_zones_are_signed_as_coredns_signs_them(tmp_path, seed):
    zone = random_zone(seed)
    beside.files(tmp_path, {"db.example.org": zone.text})
    bases = " ".join(
        signedzones.key_files(tmp_path, APEX, algorithm)[0] for algorithm in (
            Algorithm.ECDSAP256SHA256, signedzones.ALGORITHMS[seed],
        )
    )  # fmt: skip
    corefile = f"example.org {{\n sign db.example.org {{\n  key file {bases}\n  directory .\n }}\n whoami\n}}\n"
    theirs = signed_by(peers.coredns, corefile, tmp_path)
    ours = signed_by(peers.clusterdns, corefile, tmp_path)
    cuts = {
        name for name, node in ours.items()
        if node.get_rdataset(IN, NS) and name != ours.origin
    }  # fmt: skip
    assert cuts
    # An NSEC record of theirs may name what is below a cut as next.
    assert said(theirs, cuts) == said(ours, cuts)
    assert abs(time.time() - ours.get_soa().serial) < 60


@pytest.mark.parametrize(
    "algorithm", [*signedzones.ALGORITHMS, Algorithm.RSASHA512, Algorithm.RSASHA1]
)
def test_signed_zones_pass_the_verifiers(tmp_path, algorithm):
    zone = random_zone(7)
    beside.files(tmp_path, {"db.example.org": zone.text})
    key = signedzones.key_files(tmp_path, APEX, algorithm)[1]
    corefile = (
        "example.org {\n sign db.example.org {\n  key directory .\n  directory .\n }\n whoami\n}\n"
    )
    signed_by(peers.clusterdns, corefile, tmp_path)
    (tmp_path / "anchor").write_text(key + "\n")
    commands = {
        "ldns-verify-zone": ["-V2", "-k", "anchor", SIGNED],
        "dnssec-verify": ["-x", "-o", APEX, SIGNED],
    }
    found = [name for name in commands if shutil.which(name)]
    if not found:
        pytest.skip(
            "needs ldns-verify-zone or dnssec-verify: apt-get install ldnsutils bind9-utils"
        )
    for name in found:
        done = subprocess.run(
            [name, *commands[name]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"


def test_a_zone_is_signed_and_served_and_secure(tmp_path):
    zone = RandomZone(APEX, random.Random(3))
    beside.files(tmp_path, {"db.example.org": zone.text})
    base, key = signedzones.key_files(tmp_path, APEX)
    corefile = (
        f"example.org {{\n file {SIGNED} {{\n  reload 100ms\n }}\n"
        f" sign db.example.org {{\n  key file {base}\n  directory .\n }}\n}}\n"
    )
    with peers.clusterdns(corefile, tmp_path) as server:
        probe = beside.query(APEX, "DNSKEY", edns=1232, do=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            reply = peers.ask_udp(server.address, probe)
            if reply is not None and dns.message.from_wire(reply).answer:
                break
            time.sleep(0.05)
        with signedzones.unbound(tmp_path / "u", server.address, {APEX: (key,)}) as resolver:
            for qname, qtype in (
                (f"ns.{APEX}", "A"),
                (f"none.ns.{APEX}", "A"),
                (APEX, "CDS"),
                (APEX, "MX"),
            ):
                verdict, message = signedzones.verdict(resolver, qname, qtype)
                assert verdict == "secure", message
    assert "Successfully signed zone" in server.output
    with peers.clusterdns(corefile, tmp_path) as server:
        peers.ask_udp(server.address, probe)
        deadline = time.monotonic() + 5
        while "signatures are valid" not in server.output and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "Skipping signing zone" in server.output
