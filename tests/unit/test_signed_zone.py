"""A zone that is signed: which signatures and denials an answer has (RFC 4035 section 3.1).

The zone is signed by dnspython, and each RRset of an answer is validated by it.
"""

from __future__ import annotations

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import signedzones

from clusterdns.authority import zonefile
from clusterdns.authority.zone import Zone
from clusterdns.authority.zoneanswer import Result
from clusterdns.formats.masterfile import MasterFileError, Reader
from clusterdns.wire import name, rdata, rr
from clusterdns.wire.canonical import order_key
from clusterdns.wire.message import Question

APEX = name.fold(name.parse("example.test"))
TEXT = """$ORIGIN example.test.
$TTL 300
@ SOA ns hostmaster 7 7200 1800 86400 30
@ NS ns
ns A 192.0.2.53
www A 192.0.2.1
alias CNAME www
out CNAME www.outside.test.
lost CNAME nowhere
made CNAME x.wild
x.ent A 192.0.2.2
*.wild A 192.0.2.3
a.b.wild A 192.0.2.4
*.alias.wild CNAME www
svc HTTPS 1 Target.Example.Test. alpn=h2
old DNAME wild
secure NS ns.secure
secure DS 1 8 2 abababababababababababababababababababababababababababababababab
ns.secure A 192.0.2.9
insecure NS ns.insecure
ns.insecure A 192.0.2.9
"""
SIGNED = signedzones.signed(TEXT, "example.test.")


def zone() -> Zone:
    reader = Reader(SIGNED.text, "test", APEX, lambda *_: ("", ""))
    return Zone(APEX, (placed.record for placed in reader.records()))


def question(qname: str, qtype: int = rr.A, *, do: bool = True) -> Question:
    wire = name.fold(name.parse(f"{qname}.example.test".removeprefix("@.")))
    return Question(wire, wire, qtype, do=do)


def validate(section: tuple[rr.RR, ...]) -> list[str]:
    """Return the RRsets of a section that dnspython finds signed, as "owner TYPE", NSEC apart."""
    sets = dict[tuple[bytes, int], dns.rrset.RRset]()
    for record in section:
        is_signature = record.rtype == rr.RRSIG
        covered = int.from_bytes(record.rdata[:2], "big") if is_signature else 0
        key = record.owner, record.rtype, covered
        item = dns.rdata.from_wire(1, record.rtype, record.rdata, 0, len(record.rdata))
        owner = dns.name.from_wire(record.owner, 0)[0]
        if key not in sets:
            sets[key] = dns.rrset.RRset(owner, item.rdclass, item.rdtype, item.covers())
            sets[key].update_ttl(record.ttl)
        sets[key].add(item)
    key_text = SIGNED.keys[0].split(" DNSKEY ")[1]
    keys = {APEX_NAME: dns.rrset.from_text(APEX_NAME, 300, "IN", "DNSKEY", key_text)}
    found = []
    for (owner, rtype, covered), rrset in sets.items():
        signatures = sets.get((owner, rr.RRSIG, rtype))
        if not covered and signatures is not None:
            dns.dnssec.validate(rrset, signatures, keys)
            found.append(f"{rrset.name.relativize(APEX_NAME)} {rr.type_text(rtype)}")
    return found


APEX_NAME = dns.name.from_text("example.test.")
CASES = [
    # name, type, result, signed in the answer, signed in the authority section
    ("www", rr.A, Result.SUCCESS, ["www A"], ["@ NS"]),
    ("@", rr.SOA, Result.SUCCESS, ["@ SOA"], ["@ NS"]),
    ("@", rr.NS, Result.SUCCESS, ["@ NS"], []),
    ("@", rr.DNSKEY, Result.SUCCESS, ["@ DNSKEY"], ["@ NS"]),
    ("@", rr.TXT, Result.NODATA, [], ["@ SOA", "@ NSEC"]),
    ("www", rr.TXT, Result.NODATA, [], ["@ SOA", "www NSEC"]),
    ("www", rr.NSEC, Result.SUCCESS, ["www NSEC"], ["@ NS"]),
    ("alias", rr.A, Result.SUCCESS, ["alias CNAME", "www A"], ["@ NS"]),
    ("alias", rr.TXT, Result.SUCCESS, ["alias CNAME"], ["@ NS", "www NSEC"]),
    ("alias", rr.CNAME, Result.SUCCESS, ["alias CNAME"], ["@ NS"]),
    ("svc", rdata.HTTPS, Result.SUCCESS, ["svc HTTPS"], ["@ NS"]),
    ("nowhere", rr.A, Result.NAME_ERROR, [], ["@ SOA", "made NSEC", "@ NSEC"]),
    ("a.b.www", rr.A, Result.NAME_ERROR, [], ["@ SOA", "www NSEC"]),
    ("ent", rr.A, Result.EMPTY, [], ["@ SOA", "alias NSEC"]),
    ("y.ent", rr.A, Result.NAME_ERROR, [], ["@ SOA", "x.ent NSEC", "alias NSEC"]),
    ("x.wild", rr.A, Result.SUCCESS, ["x.wild A"], ["@ NS", "a.b.wild NSEC"]),
    ("x.wild", rr.TXT, Result.NODATA, [], ["@ SOA", "a.b.wild NSEC", "*.wild NSEC"]),
    ("b.wild", rr.A, Result.EMPTY, [], ["@ SOA", "*.alias.wild NSEC"]),
    ("y.alias.wild", rr.A, Result.SUCCESS, ["y.alias.wild CNAME", "www A"], ["@ NS", "*.alias.wild NSEC"]),
    ("z.old", rr.CNAME, Result.SUCCESS, ["old DNAME"], ["@ NS"]),
    ("secure", rr.DS, Result.SUCCESS, ["secure DS"], ["@ NS"]),
    ("x.secure", rr.A, Result.DELEGATION, [], ["secure DS"]),
    ("x.insecure", rr.A, Result.DELEGATION, [], ["insecure NSEC"]),
    ("insecure", rr.DS, Result.NODATA, [], ["@ SOA", "insecure NSEC"]),
]  # fmt: skip


@pytest.mark.parametrize(("qname", "qtype", "result", "answer", "authority"), CASES)
def test_each_answer_has_the_signatures_and_proofs_of_rfc_4035(
    qname, qtype, result, answer, authority
):
    found = zone().find(question(qname, qtype))
    assert (result, answer, authority) == (
        found.result, validate(found.answer), validate(found.authority),
    )  # fmt: skip


@pytest.mark.parametrize(("qname", "qtype", "result", "answer", "authority"), CASES)
def test_without_do_there_are_none(qname, qtype, result, answer, authority):
    found = zone().find(question(qname, qtype, do=False))
    records = found.answer + found.authority + found.additional
    assert result is found.result
    assert all(record.rtype != rr.RRSIG for record in records)
    assert all(record.rtype != rr.NSEC for record in records) or qtype == rr.NSEC


def test_addresses_in_the_additional_section_are_signed():
    found = zone().find(question("@", rr.NS))
    assert ["ns A"] == validate(found.additional)


@pytest.mark.parametrize(
    ("qname", "rcode", "proofs"),
    [
        ("lost", rr.NXDOMAIN, ["made NSEC", "@ NSEC"]),  # nowhere is not there, and no wildcard
        ("made", rr.NOERROR, ["a.b.wild NSEC"]),  # x.wild is made of the wildcard
        ("out", rr.NOERROR, []),
    ],
)
def test_what_an_alias_leads_to_is_proven_if_it_is_in_the_zone(qname, rcode, proofs):
    known, asked = zone(), question(qname)
    found = known.find(asked)
    joined = known.join(asked, found, rcode, (rr.RR(found.target, rr.A, 5, b"\1\2\3\4"),))
    assert proofs == validate(joined.authority)[1:]


def test_a_transfer_has_the_signatures_with_what_they_sign():
    types = [record.rtype for record in zone().records()]
    assert [rr.SOA, rr.RRSIG, rr.NS, rr.RRSIG] == types[:4]
    assert types[-1] == rr.SOA


def test_nsec3_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "db"
    path.write_text("@ 5 SOA ns h 1 2 3 4 5\n@ 5 NSEC3PARAM 1 0 0 -\n")
    with pytest.raises(MasterFileError, match=r"db:2: NSEC3 zones are not supported"):
        zonefile.read(path, APEX)


def test_names_sort_as_rfc_4034_sorts_them():
    ordered = [  # section 6.1
        "example", "a.example", "yljkjljk.a.example", "Z.a.example", "zABC.a.EXAMPLE", "z.example",
        "\\001.z.example", "*.z.example", "\\200.z.example",
    ]  # fmt: skip
    keys = [order_key(name.parse(each)) for each in ordered]
    assert sorted(keys) == keys
    zeros = [b"\1a\0", b"\1\0\1a\0", b"\2\0\0\1a\0", b"\1\1\1a\0", b"\2\1\0\1a\0"]
    assert sorted(map(order_key, zeros)) == [order_key(each) for each in zeros]
