"""The lab of zones/: what its README says, and its zone files beside a real CoreDNS."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import peers
import pytest
import yaml

from clusterdns.cluster import objects

ZONES = Path(__file__).resolve().parents[2] / "zones"
ROWS = re.findall(r"^\| `([^`]+)` \|[^|]*\| (.+) \|$", (ZONES / "README.md").read_text(), re.M)


def ask(server: peers.Server, qname: str, rtype: str = "A", **options) -> dns.message.Message:
    query = dns.message.make_query(qname, rtype, **options).to_wire()
    reply = peers.ask_udp(server.address, query)
    assert reply is not None
    return dns.message.from_wire(reply)


@pytest.mark.parametrize(("arguments", "expected"), ROWS)
def test_what_the_readme_says(lab, arguments, expected):
    words = arguments.split()
    if words[0] == "-x":
        words = [dns.reversename.from_address(words[1]).to_text(), "PTR"]
    reply = ask(lab, *words)
    if expected == "NODATA":
        assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
        assert reply.authority[0].rdtype == dns.rdatatype.SOA
    elif expected == "NXDOMAIN":
        assert (reply.rcode(), reply.answer) == (dns.rcode.NXDOMAIN, [])
    else:
        assert expected == " ".join(item.to_text() for rrset in reply.answer for item in rrset)


def test_the_readme_has_rows():
    assert len(ROWS) > 20


def test_every_manifest_is_one():
    kinds = set()
    for path in (ZONES / "cluster").glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            kinds.add(manifest["kind"])
            for kind, word in objects.MANIFEST_KINDS.items():
                if manifest["kind"] == word:
                    assert objects.cut(kind, manifest)[1] is not None
    assert kinds == {"Namespace", "Service", "EndpointSlice", "Ingress"}


OWNERS = (
    "", "ns1.", "mail.", "www.", "web.", "docs.", "chain.", "dev.", "a.dev.", "a.b.dev.", "*.dev.",
    "_sip._tcp.", "_tcp.", "sip.", "team.", "ns.team.", "x.team.", "nothing.", "x.www.", "WwW.",
)  # fmt: skip
TYPES = ("A", "AAAA", "MX", "NS", "SOA", "TXT", "SRV", "CNAME", "DS", "ANY")


@pytest.mark.peer
def test_zone_files_answer_as_in_coredns(tmp_path):
    files = " file db.example.com example.com\n file db.example.org example.org\n"
    text = f". {{\n root {ZONES}\n{files}}}\n"
    names = [owner + "example.com." for owner in OWNERS] + ["pages.example.org.", "x.example.org."]
    with peers.clusterdns(text, tmp_path) as ours, peers.coredns(text, tmp_path) as theirs:
        for qname in [*names, "example.net."]:
            for rtype in TYPES:
                assert outline(ask(theirs, qname, rtype)) == outline(ask(ours, qname, rtype))


def outline(reply: dns.message.Message) -> tuple[object, ...]:
    """Return what of a reply must be equal: everything but its ID and its compression."""
    sections = [sorted(str(rrset) for rrset in section) for section in reply.sections]
    return int(reply.flags), reply.rcode(), sections


def test_an_install_carries_the_whole_lab():
    """Every file of zones/ is among the data files, which may hold no directory."""
    text = (ZONES.parent / "pyproject.toml").read_text()
    globs = tomllib.loads(text)["tool"]["setuptools"]["data-files"].values()
    carried = {path for patterns in globs for glob in patterns for path in ZONES.parent.glob(glob)}
    assert {path for path in ZONES.rglob("*") if path.is_file()} == {
        path for path in carried if path.is_relative_to(ZONES)
    }
