"""`dnssec` without sockets: keys and mistakes, what is kept and repeated, the canonical form.

That its replies are those of CoreDNS, and secure, is shown in `peer/test_dnssec_differential.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import beside
import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rdtypes.util
import dns.rrset
import pytest
import signedzones
from dns.dnssectypes import Algorithm
from hypothesis import example, given
from hypothesis import strategies as st
from inprocess import InProcess

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.signing import keys
from clusterdns.signing.answers import Signing
from clusterdns.signing.signatures import HOLDS_S, LEAST_KEPT, RENEWED_S, Shelf, Signer, _Kept
from clusterdns.wire import canonical, name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response, render_reply
from clusterdns.wire.rr import RR

ZONE = name.fold(name.parse("cluster.local"))
COREFILE = """cluster.local {
    dnssec {
        key file KEY
    }
    kubernetes cluster.local {
        manifests nowhere
    }
}
"""
NAMESPACE = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "demo"}}


def service(label: str, address: str) -> dict:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": label, "namespace": "demo"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]},
    }


@pytest.fixture
def served(tmp_path, monkeypatch) -> tuple[str, str]:
    """Return a Corefile with a key of its own, and that key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").mkdir()
    base, record = signedzones.key_files(tmp_path, "cluster.local.")
    return COREFILE.replace("KEY", base), record


def validated(reply: bytes | None, key: str) -> dns.message.Message:
    """Return a reply; each RRset of its answer and authority section is validated."""
    assert reply is not None
    message = dns.message.from_wire(reply)
    apex = dns.name.from_text("cluster.local.")
    known = {apex: dns.rrset.from_text(apex, 5, "IN", "DNSKEY", key.split(" DNSKEY ")[1])}
    for section in (message.answer, message.authority):
        for rrset in section:
            if rrset.rdtype != dns.rdatatype.RRSIG:
                signatures = message.get_rrset(
                    section, rrset.name, rrset.rdclass, dns.rdatatype.RRSIG, rrset.rdtype
                )
                dns.dnssec.validate(rrset, signatures, known)
    return message


def test_answers_are_remembered_with_signatures_and_without(served):
    corefile, key = served

    async def main() -> None:
        async with InProcess(corefile, [NAMESPACE, service("web", "10.0.0.1")]) as server:
            for qname in ("web.demo.svc.cluster.local.", "nowhere.demo.svc.cluster.local."):
                signed, plain = (beside.query(qname, edns=1232, do=do) for do in (True, False))
                said = [await server.ask_chain(signed, "udp") for _ in range(3)]
                other = [await server.ask_chain(plain, "udp") for _ in range(3)]
                assert said[0] == server.ask_table(signed, "udp")
                assert other[0] == server.ask_table(plain, "udp")
                validated(said[0], key)
                assert b"RRSIG" not in str(dns.message.from_wire(other[0])).encode()

    asyncio.run(main())


def test_a_denial_is_repeated_for_no_other_name(served):
    corefile, key = served

    async def main() -> None:
        async with InProcess(corefile, [NAMESPACE]) as server:
            packets = [
                beside.query(f"{label}.com.demo.svc.cluster.local.", edns=1232, do=True)
                for label in ("a", "b", "a")
            ]
            for _ in range(3):
                for packet in packets:
                    reply = server.ask_table(packet, "udp") or await server.ask_chain(packet, "udp")
                    message = validated(reply, key)
                    assert message.rcode() == 0
                    (nsec,) = [each for each in message.authority if each.rdtype == 47]
                    assert message.question[0].name == nsec.name

    asyncio.run(main())


@pytest.mark.parametrize(
    ("qname", "qtype"),
    [("later.demo.svc.cluster.local.", "A"), ("cluster.local.", "SOA"), ("cluster.local.", "TXT")],
)
def test_answers_with_a_signed_soa_are_forgotten_with_its_serial(served, qname, qtype):
    corefile, key = served
    packet = beside.query(qname, qtype, edns=1232, do=True)

    async def main() -> None:
        async with InProcess(corefile, [NAMESPACE]) as server:
            for _ in range(3):
                await server.ask_chain(packet, "udp")
            assert server.ask_table(packet, "udp") is not None
            server.apply(service("other", "10.0.0.2"))  # moves the serial of the SOA
            assert server.ask_table(packet, "udp") is None
            validated(await server.ask_chain(packet, "udp"), key)

    asyncio.run(main())


def test_every_spelling_of_a_name_gets_a_valid_answer(served):
    corefile, key = served

    async def main() -> None:
        async with InProcess(corefile, [NAMESPACE, service("web", "10.0.0.1")]) as server:
            for qname in ("web", "WEB", "nOwHere", "NOWHERE", "nowhere") * 3:
                packet = beside.query(f"{qname}.demo.svc.Cluster.Local.", edns=1232, do=True)
                reply = server.ask_table(packet, "udp") or await server.ask_chain(packet, "udp")
                message = validated(reply, key)
                assert message.question[0].name.to_text().startswith(qname)

    asyncio.run(main())


def test_signatures_are_made_anew_two_days_before_they_end(tmp_path):
    base, _ = signedzones.key_files(tmp_path, "cluster.local.")
    now = [1_800_000_000.0]
    signer = Signer([keys.read(tmp_path / base)], 10, clock=lambda: now[0])
    record = RR(ZONE, rr.A, 5, b"\1\2\3\4")
    first = signer.sign([record], ZONE)
    assert HOLDS_S - RENEWED_S == first.lifetime_s
    now[0] += HOLDS_S - RENEWED_S - 1
    assert (first.records, 1) == signer.sign([record], ZONE)
    now[0] += 1
    again = signer.sign([record], ZONE)
    assert first.records != again.records
    expiration, inception = struct.unpack("!II", again.records[0].rdata[8:16])
    assert (now[0] + 8 * 86400, now[0] - 3 * 3600) == (expiration, inception)
    assert (1, 2, 1) == (signer.hits, signer.misses, len(signer))


def test_order_spelling_and_ttl_do_not_matter_to_a_signature(tmp_path):
    base, _ = signedzones.key_files(tmp_path, "cluster.local.")
    signer = Signer([keys.read(tmp_path / base)], 10)
    one, other = RR(ZONE, rr.A, 5, b"\1\2\3\4"), RR(b"\7CLUSTER\5local\0", rr.A, 9, b"\1\2\3\5")
    first = signer.sign([one, other._replace(owner=ZONE, ttl=5)], ZONE)
    second = signer.sign([other, one._replace(owner=other.owner, ttl=9)], ZONE)
    assert first.records[0].rdata == second.records[0].rdata
    assert (5, 9) == (first.records[0].ttl, second.records[0].ttl)
    assert other.owner == second.records[0].owner


def test_denials_without_number_leave_other_signatures_in_place(tmp_path):
    base, _ = signedzones.key_files(tmp_path, "cluster.local.", Algorithm.ED25519)
    signer = Signer([keys.read(tmp_path / base)], 0)
    signer.sign([RR(ZONE, rr.A, 5, b"\1\2\3\4")], ZONE)
    for i in range(LEAST_KEPT):
        signer.sign([RR(b"\4%04d" % i + ZONE, rr.NSEC, 5, ZONE)], ZONE)
    assert LEAST_KEPT // 2 + 1 == len(signer)
    signer.sign([RR(ZONE, rr.A, 5, b"\1\2\3\4")], ZONE)
    assert signer.hits == 1


def test_a_shelf_is_bounded_in_octets():
    shelf = Shelf(1000, 100_000)
    for i in range(300):
        shelf.put(bytes((i % 256, i >> 8)), _Kept((bytes(1000),), 0))
    assert len(shelf) == 100_000 // _Kept((bytes(1000),), 0).octets
    shelf.put(b"large", _Kept((bytes(200_000),), 0))
    assert len(shelf) == 0


def test_with_a_ksk_and_a_zsk_each_signs_its_part(tmp_path):
    bases = [
        signedzones.key_files(tmp_path, "cluster.local.", is_ksk=is_ksk)[0]
        for is_ksk in (True, False)
    ]
    ksk, zsk = (keys.read(tmp_path / base) for base in bases)
    signer = Signer([ksk, zsk], 10)

    def tags(rtype: int) -> list[int]:
        made = signer.sign([RR(ZONE, rtype, 5, b"\1\2\3\4")], ZONE)
        return [int.from_bytes(each.rdata[16:18], "big") for each in made.records]

    assert [ksk.tag] == tags(rr.DNSKEY)
    assert [zsk.tag] == tags(rr.A)


# ---- mistakes


def mistake(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compile_text(f"example.org {{\n{text}\n whoami\n}}", "f", port=53, environ={}, warn=print)
    return str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("dnssec {\n key\n}", "f:3: key: wants file KEY..."),
        ("dnssec {\n key file\n}", "f:3: key: wants file KEY..."),
        ("dnssec {\n key aws_secretsmanager x\n}", "f:3: key: aws_secretsmanager is not implemented"),
        ("dnssec {\n key file Kgone\n}", "f:3: key: Kgone.key: No such file or directory"),
        ("dnssec {\n cache_capacity\n}", "f:3: cache_capacity: takes one argument"),
        ("dnssec {\n cache_capacity x\n}", "f:3: cache_capacity: wants a whole number, got 'x'"),
        ("dnssec {\n sign\n}", "f:3: sign: unknown property"),
        ("dnssec\ndnssec", "f:3: dnssec: may be given once in a server block"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(lines, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mistake(lines).startswith(said)


def test_a_key_of_another_zone_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, _ = signedzones.key_files(tmp_path, "example.net.")
    said = mistake(f"dnssec {{\n key file {base}\n}}")
    assert re.match(
        r"f:3: key: key example.net. \(keyid: \d+\) can not sign any of the zones", said
    )


def test_a_key_of_a_parent_signs_a_zone_and_none_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    base, _ = signedzones.key_files(tmp_path, "org.")
    text = "example.org {{\n dnssec {{\n {} \n}}\n whoami\n}}"
    compile_text(text.format(f"key file {base}"), "f", port=53, environ={}, warn=print)
    compile_text(text.format("cache_capacity -1"), "f", port=53, environ={}, warn=print)


def change(file: Path, edit: Callable[[str], str]) -> None:
    file.write_text(edit(file.read_text()))


@pytest.mark.parametrize("algorithm", [Algorithm.ECDSAP256SHA256, Algorithm.RSASHA256])
@pytest.mark.parametrize(
    ("suffix", "edit", "said"),
    [
        (".private", lambda text: "", "has no Private-key-format"),
        (".private", lambda text: text.replace("v1.3", "v2.0"), "has no Private-key-format"),
        (".private", lambda text: text.replace(": 13 ", ": 8 ").replace(": 8 (RSA", ": 13 (RSA"), "that of the DNSKEY is"),
        (".private", lambda text: re.sub(r"(PrivateKey|Modulus): .*", "", text), "has no "),
        (".private", lambda text: re.sub(r"(PrivateKey|Modulus): .*", r"\1: ?", text), "is not in base64"),
        (".private", lambda text: re.sub(r"(PrivateKey|Modulus): .*", r"\1: AAAA", text), "is no private key"),
        (".key", lambda text: "", "has no DNSKEY record"),
        (".key", lambda text: "example.org. A 192.0.2.1\n", "has no DNSKEY record"),
        (".key", lambda text: text.replace(" 257 3 ", " 257 4 "), "protocol 4"),
        (".key", lambda text: text.replace(" 257 3 ", " 257 x "), "record:2: DNSKEY"),
        (".key", lambda text: text + "x" * keys.MAX_OCTETS, "larger than"),
    ],
)  # fmt: skip
def test_broken_key_files_are_named(tmp_path, algorithm, suffix, edit, said):
    base, _ = signedzones.key_files(tmp_path, "example.org.", algorithm)
    change(tmp_path / f"{base}{suffix}", edit)
    with pytest.raises(keys.KeyFileError, match=re.escape(f"{base}{suffix}: ") + ".*" + said):
        keys.read(tmp_path / base)


def test_two_files_that_do_not_belong_together_are_refused(tmp_path):
    one, other = (signedzones.key_files(tmp_path, "example.org.")[0] for _ in range(2))
    (tmp_path / f"{one}.private").write_bytes((tmp_path / f"{other}.private").read_bytes())
    with pytest.raises(keys.KeyFileError, match=r"is not the private key of .*\.key"):
        keys.read(tmp_path / one)


def test_a_fifo_is_no_key(tmp_path):

    os.mkfifo(tmp_path / "K.key")
    with pytest.raises(keys.KeyFileError, match="is no regular file"):
        keys.read(tmp_path / "K")


# ---- what comes from upstream

OWNERS = st.sampled_from(
    [
        name.parse(each)
        for each in (".", "local", "cluster.local", "A.cluster.local", "b.a.Cluster.Local", "x." * 120 + "cluster.local", "example.org")
    ]
)  # fmt: skip
TYPES = st.sampled_from((1, 5, 6, 2, 12, 15, 16, 28, 33, 35, 39, 41, 43, 46, 47, 65, 65280))
# What the gate lets pass: names where it reads names, any octets elsewhere.
WHOLE = {
    rr.NS: OWNERS,
    rr.CNAME: OWNERS,
    rr.SOA: st.builds(lambda a, b: a + b + bytes(20), OWNERS, OWNERS),
    rr.PTR: OWNERS,
    rr.MX: OWNERS.map(lambda each: b"\0\1" + each),
    rr.SRV: OWNERS.map(lambda each: bytes(6) + each),
    rr.DNAME: OWNERS,
}


@st.composite
def records(draw) -> RR:
    rtype = draw(TYPES)
    rdata = draw(WHOLE.get(rtype, st.binary(max_size=30)))
    return RR(
        draw(OWNERS), rtype, draw(st.integers(0, 2**31)), rdata, draw(st.sampled_from((1, 1, 3)))
    )


SECTIONS = st.lists(records(), max_size=3).map(tuple)
KEYS = []


@given(OWNERS, TYPES, st.integers(0, 5), SECTIONS, SECTIONS, SECTIONS, st.booleans())
def test_no_response_from_upstream_is_too_much(
    qname, qtype, rcode, answer, authority, additional, is_cut
):
    if not KEYS:
        KEYS.append(
            keys.Key(RR(ZONE, rr.DNSKEY, 5, b"\1\1\3\15" + bytes(64)), 1, lambda _: bytes(64))
        )
    question = Question(qname, name.fold(qname), qtype, do=True)
    response = Response(rcode, answer=answer, authority=authority, additional=additional)
    for zones in ((ZONE,), (name.ROOT, ZONE)):
        made = Signing(question, response, zones, Signer(KEYS, 10)).signed(is_cut=is_cut)
        for section in made.sections:
            for record in section:
                assert record.owner == name.join(name.labels(record.owner))
        assert len(render_reply(Query(1, 0, question, None, 30), made, 65535)) <= 65535


# ---- the canonical form

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, min_size=1, max_size=4).filter(
    lambda labels: sum(1 + len(label) for label in labels) < 255
)


@given(NAMES, NAMES)
@example([b"\xff" * 63] * 3 + [b"\xff" * 61], [b"\xfe"])
@example([b"a" * 63] * 3 + [b"a" * 61], [b"a"])
@example([b"@" * 63, b"b" * 63, b"b" * 63, b"b" * 61], [b"["])
def test_the_next_name_is_behind_a_name_and_in_front_of_all_others(labels, others):
    owner, other = name.join(labels), name.join(others)
    behind, sibling = canonical.next_name(owner), canonical.next_sibling(owner)
    assert name.join(name.labels(behind)) == behind  # a name, of no more than 255 octets
    key = canonical.order_key
    assert key(owner) < key(behind)
    assert not key(owner) < key(other) < key(behind)
    below = name.is_within(name.fold(other), name.fold(owner))
    assert below or not key(owner) < key(other) < key(sibling)
    assert not below or key(other) < key(sibling)


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=40))
def test_bitmaps_are_those_of_dnspython(types):
    bitmap = dns.rdtypes.util.Bitmap
    windows = bitmap.from_rdtypes([dns.rdatatype.RdataType.make(each) for each in types]).windows
    expected = b"".join(bytes((number, len(octets))) + octets for number, octets in windows)
    assert expected == canonical.type_bitmap(types)


@given(st.binary(min_size=1, max_size=99), st.integers(0, 1))
def test_key_tags_and_digests_are_those_of_dnspython(public, is_ksk):
    rdata = struct.pack("!HBB", 256 + is_ksk, 3, 13) + public
    key = dns.rdata.from_wire(1, 48, rdata, 0, len(rdata))
    assert dns.dnssec.key_id(key) == canonical.key_tag(rdata)
    for digest_type, algorithm in ((canonical.SHA1, "SHA1"), (canonical.SHA256, "SHA256")):
        policy = dns.dnssec.allow_all_policy
        expected = dns.dnssec.make_ds("cluster.local.", key, algorithm, policy=policy)
        assert expected.to_wire() == canonical.ds_rdata(ZONE, rdata, digest_type)


@pytest.mark.parametrize(
    "text",
    [
        "NS Ns.Example.", "SOA A.B. C.D. 1 2 3 4 5", "MX 5 Mail.Example.", "SRV 1 2 3 A.Example.",
        "CNAME A.Example.", "PTR A.Example.", "NAPTR 1 2 A B C A.Example.", "RP A.B. C.D.",
        "AFSDB 1 A.Example.", "TXT ABC", "DNAME A.Example.", "NSEC A.Example. A NSEC",
        "HTTPS 1 A.Example. alpn=h2", "CAA 0 issue CA.TEST", "PX 1 A.B. C.D.", "KX 1 A.Example.",
    ],
)  # fmt: skip
def test_rdata_is_folded_as_dnspython_folds_it(text):
    rtype, _, rest = text.partition(" ")
    rdata = dns.rdata.from_text("IN", rtype, rest)
    assert rdata.to_digestable() == canonical.folded_rdata(rdata.rdtype, rdata.to_wire())


@given(st.integers(0, 70), st.binary(max_size=30))
def test_rdata_that_is_too_short_is_left_as_it_is(rtype, rdata):
    assert len(rdata) == len(canonical.folded_rdata(rtype, rdata))
