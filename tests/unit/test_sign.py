"""`sign` without a server: when a zone is signed anew, what is written, and the mistakes.

That the signed zones are those of CoreDNS, and valid, is shown in `peer/test_sign_differential.py`.
"""

from __future__ import annotations

import dns.rdata
import dns.rdatatype
import pytest
import signedzones
from hypothesis import example, given
from hypothesis import strategies as st

from clusterdns.authority import zonefile
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError, Reader
from clusterdns.plugins.sign import Sign, Signer
from clusterdns.wire import name, rr
from clusterdns.wire.rr import RR

APEX = name.fold(name.parse("example.org"))
ZONE = """$TTL 300
@ SOA ns hostmaster 7 7200 1800 86400 30
@ NS ns
ns A 192.0.2.53
@ NSEC old A NSEC
@ DNSKEY 257 3 13 AAAA
@ RRSIG A 13 2 300 20300101000000 20200101000000 1 example.org. AAAA
"""
NOW = 1_800_000_000.0
DAY = 86400


@pytest.fixture
def signer(tmp_path) -> Signer:
    """Return a signer of a zone that has been signed at ``NOW``."""
    (tmp_path / "db").write_text(ZONE)
    base, _ = signedzones.key_files(tmp_path, "example.org.")
    text = f"example.org {{\nsign db {{\nkey file {base}\ndirectory .\n}}\nroot {tmp_path}\n}}"
    compiled = compile_text(text, "f", port=53, environ={}, warn=print)
    (plugin,) = [each for each in compiled.plugins if isinstance(each, Sign)]
    (found,) = plugin.signers
    found.sign(NOW, lambda: None)
    return found


def test_a_signed_zone_stays_for_six_days_after_its_signatures_have_begun(signer):
    due = NOW - signer.begun_s + 6 * DAY
    assert "" == signer.why(due - 1)
    assert "was more than 144h ago" in signer.why(due + 1)
    assert "date is in the future" in signer.why(NOW - signer.begun_s - 1)


def test_a_signed_zone_is_signed_anew_before_its_signatures_end(signer):
    signer.begun_s, signer.holds_s = 0, 8 * DAY
    signer.sign(NOW, lambda: None)
    assert "" == signer.why(NOW + DAY - 1)
    assert "is less than 168h away" in signer.why(NOW + DAY + 1)


def test_signatures_begin_and_end_within_the_jitter(tmp_path):
    signers = [Signer(APEX, tmp_path) for _ in range(200)]
    assert all(3 * 3600 <= each.begun_s <= 21 * 3600 for each in signers)
    assert all(32 * DAY <= each.holds_s <= 37 * DAY for each in signers)
    assert len({each.begun_s for each in signers}) > 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        ("", "no SOA RRSIG found in first 100 records"),
        ("@ 5 SOA ns h 1 2 3 4 5\n" + "@ 5 A 192.0.2.1\n" * 200, "no SOA RRSIG found"),
        ("@ 5 SOA ns h", "db.example.org.signed:1: SOA"),
    ],
)
def test_what_is_not_signed_is_signed(signer, text, said):
    signer.signed_path.unlink()
    if text is not None:
        signer.signed_path.write_text(text)
    assert said in signer.why(NOW)


def test_a_large_zone_is_not_signed_again_at_once(signer):
    with signer.signed_path.open("a") as file:
        file.writelines(f"n{i} 5 IN A 192.0.2.1\n" for i in range(300))
    assert "" == signer.why(NOW)


def test_what_another_signer_has_made_is_replaced(signer):
    zone = zonefile.read(signer.signed_path, APEX)
    assert int(NOW) == zone.serial
    at_apex = [record.rtype for record in zone.records() if record.owner == APEX]
    assert 1 == at_apex.count(rr.NSEC) == at_apex.count(rr.DNSKEY) == at_apex.count(rr.CDNSKEY)
    assert 2 == at_apex.count(rr.CDS)
    covered = [r.rdata[:2] for r in zone.records() if r.rtype == rr.RRSIG and r.owner == APEX]
    assert rr.A.to_bytes(2, "big") not in covered


def test_a_file_is_written_whole_or_not_at_all(signer, monkeypatch):
    before = signer.signed_path.read_bytes()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signer.sign(NOW + 1, stop)
    monkeypatch.setattr(zonefile, "MAX_RECORDS", 9)
    with pytest.raises(MasterFileError, match="is too large once it is signed"):
        signer.sign(NOW + 1, lambda: None)
    assert before == signer.signed_path.read_bytes()
    assert not list(signer.directory.glob("signed-*"))


def test_keys_are_found_in_a_directory(tmp_path):
    bases = {signedzones.key_files(tmp_path, "example.org.")[0] for _ in range(2)}
    signedzones.key_files(tmp_path, "example.net.")
    text = f"example.org {{\nsign db {{\nkey directory {tmp_path}\n}}\n}}"
    compiled = compile_text(text, "f", port=53, environ={}, warn=print)
    (plugin,) = [each for each in compiled.plugins if isinstance(each, Sign)]
    expected = {int(base.rpartition("+")[2]) for base in bases}
    assert expected == {key.tag for key in plugin.signers[0].keys}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sign", "f:2: sign: needs an argument"),
        ("sign db {\nkey\n}", "f:3: key: wants file KEY... or directory DIR..."),
        ("sign db {\nkey x y\n}", "f:3: key: wants file KEY... or directory DIR..."),
        ("sign db {\nkey file Kgone\n}", "f:3: key: Kgone.key: No such file or directory"),
        ("sign db {\nkey directory gone\n}", "f:3: key: gone: No such file or directory"),
        ("sign db {\nkey directory .\n}", "f:3: key: there is no Kexample.org.+*.key"),
        ("sign db {\ndirectory a b\n}", "f:3: directory: takes one argument"),
        ("sign db {\ndirectory\n}", "f:3: directory: takes one argument"),
        ("sign db {\nreload 5s\n}", "f:3: reload: unknown property"),
    ],
)
def test_mistakes_name_file_and_line(lines, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        compile_text(f"example.org {{\n{lines}\nwhoami\n}}", "f", port=53, environ={}, warn=print)
    assert str(caught.value).startswith(said)


def test_a_zsk_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, _ = signedzones.key_files(tmp_path, "example.org.", is_ksk=False)
    text = f"example.org {{\nsign db {{\nkey file {base}\n}}\nwhoami\n}}"
    with pytest.raises(ConfigError, match=r"f:3: key: DNSKEY in K.* is not a CSK/KSK"):
        compile_text(text, "f", port=53, environ={}, warn=print)


def again(record: RR) -> RR:
    reader = Reader(masterfile.text(record) + "\n", "test", name.ROOT, lambda *_: ("", ""))
    (placed,) = reader.records()
    return placed.record


@pytest.mark.parametrize(
    "text",
    [
        "A 192.0.2.1", "AAAA 2001:db8::1", "TXT a;b \\\"c\\\" d\\\\ e\\007", 'TXT ""', "MX 5 a\\.b.c\\032d.",
        "HTTPS 1 . alpn=h2 port=53", "TYPE65280 \\# 2 0102", "TYPE65281 \\# 0", "CAA 0 issue \"a;b\"",
        "SOA a. b. 1 2 3 4 5", "NAPTR 1 2 a b c\\;d .", "NSEC \\000.a. A TYPE65280", "CDS 1 13 2 " + "ab" * 32,
        "RRSIG A 13 2 300 20300101000000 20200101000000 1 a.b. " + "ab" * 40, "LOC 1 2 3 N 4 5 6 E 7m",
    ],
)  # fmt: skip
def test_records_are_read_as_they_are_written(text):
    rtype, _, rest = text.partition(" ")
    rdata = dns.rdata.from_text("IN", rtype, rest)
    record = RR(b"\5a b;\1\1c\0", int(rdata.rdtype), 5, rdata.to_wire())
    assert record == again(record)


@example(65280, b"", b"$TTL")
@example(65280, b"", b"@")
@given(st.integers(65280, 65534), st.binary(max_size=20), st.binary(min_size=1, max_size=20))
def test_any_octets_are_read_as_they_are_written(rtype, rdata, label):
    record = RR(bytes((len(label),)) + label + b"\0", rtype, 5, rdata)
    assert record == again(record)


@given(st.sampled_from((rr.A, rr.MX, rr.NSEC, rr.RRSIG, rr.SOA)), st.binary(max_size=20))
def test_records_that_are_not_what_their_type_says_do_not_end_the_work(rtype, rdata):
    assert masterfile.text(RR(b"\0", rtype, 5, rdata)).startswith(".\t5\tIN\t")
