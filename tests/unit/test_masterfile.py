"""wire/masterfile, chain/zonefile: mistakes name their line, TTLs are CoreDNS's, and work is bounded."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest

from clusterdns.authority import zonefile
from clusterdns.errors import ClusterDNSError
from clusterdns.formats.masterfile import MasterFileError, Reader, generated
from clusterdns.wire import name, rr

APEX = name.fold(name.parse("example.test"))
WWW, G2 = (name.fold(name.parse(f"{each}.example.test")) for each in ("www", "g2"))
HEAD = "$TTL 60\n@ IN SOA ns h 1 2 3 4 5\n@ IN NS ns\n"


def nothing(file: str, path: str) -> tuple[str, str]:
    raise FileNotFoundError(2, "No such file or directory", path)


def records(text: str, include=nothing) -> list[tuple[str, str, int, bytes]]:
    found = Reader(text, "db", APEX, include).records()
    return [
        (name.text(record.owner), rr.type_text(record.rtype), record.ttl, record.rdata)
        for record, _, _ in found
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x IN A 192.0.2.300\n", "db:1: A '192.0.2.300': "),
        ("\n\nx IN NONSENSE y\n", "db:3: 'NONSENSE' is no type, TTL or class"),
        ("\n; (\n" + 'x IN TXT "no end\ny IN A 1.2.3.4\n', "db:3: quoted text does not end"),
        ("\n@ IN SOA ns h (\n1 2 3\n", "db:2: parenthesis is not closed"),
        ("@ IN SOA ns h 1 2 3 )\n", "db:1: parenthesis closes nothing"),
        ("@ IN SOA ns h (\n1 2 3\n)\n", "db:1: SOA 'ns h 1 2 3': "),
        ("x A 192.0.2.1\n", "db:1: no TTL"),
        ("x IN MX ten h\n", "db:1: MX 'ten h': expecting an integer"),
        ("x 5 IN\n", "db:1: a record without a type"),
        ("x 5 CH TXT a\n", "db:1: class CH"),
        ("x 5 IN ANY 1\n", "db:1: type ANY is for questions only"),
        (" IN A 192.0.2.1\n", "db:1: the first record names no owner"),
        ("x 4294967296 IN A 192.0.2.1\n", "db:1: TTL 4294967296 is more than"),
        ("x IN CNAME a b\n", "db:1: CNAME 'a b': expected EOL"),
        ("x IN NS a..b\n", "db:1: NS 'a..b': A DNS label is empty"),
        ("x..y IN A 192.0.2.1\n", "db:1: label of 0 octets"),
        ("$FOO 1\n", "db:1: unknown directive '$FOO'"),
        ("$TTL x\n", "db:1: 'x' is no TTL"),
        ("$TTL\n", "db:1: wrong number of arguments to $TTL"),
        ("\n$INCLUDE nothing.db\n", "db:2: nothing.db: No such file"),
        ("$GENERATE 0-99999999 h$ A 192.0.2.1\n", "db:1: $GENERATE 0-99999999: from 1 to 65536"),
        ("$GENERATE 3-1 h$ A 192.0.2.1\n", "db:1: $GENERATE 3-1: "),
        ("$GENERATE x h$ A 192.0.2.1\n", "db:1: 'x' is no range"),
        ("$GENERATE 1-2 h${1,999999999} A 192.0.2.1\n", "db:1: '${1,999999999}' is no place"),
        ("$GENERATE 1-2 h${-5} A 192.0.2.1\n", "db:1: ${-5} makes 1 negative"),
    ],
)
def test_a_mistake_names_its_line_and_what_is_wrong(text, said):
    with pytest.raises(MasterFileError) as caught:
        records(text)
    assert str(caught.value).startswith(said)


def test_ttls_that_are_not_stated_are_those_of_coredns():
    text = "@ IN SOA ns h 1 2 3 4 5\na IN A 192.0.2.1\nb 77 IN A 192.0.2.1\nc A 192.0.2.1\n"
    text += "$TTL 1h30m\nd A 192.0.2.1\ne IN 5 A 192.0.2.1\nf A 192.0.2.1\n"
    assert [0, 0, 77, 77, 5400, 5, 5400] == [found[2] for found in records(text)]


def test_owners_quotes_parentheses_and_comments():
    text = (
        "@ 5 IN SOA ns h ( ; serial\n 1 2 ; (\n 3 4 5 )\n"
        ' 5 IN TXT "a;b" c "d\\"e" ; x\nh 5 IN A 192.0.2.1\n\tIN A 192.0.2.2\n'
        "$ORIGIN sub\n@ IN NS h.example.test.\n*.w IN A 192.0.2.3\ne\\.d IN A 192.0.2.4\n"
    )
    assert [
        ("example.test.", "SOA"), ("example.test.", "TXT"), ("h.example.test.", "A"),
        ("h.example.test.", "A"), ("sub.example.test.", "NS"), ("*.w.sub.example.test.", "A"),
        ("e\\.d.sub.example.test.", "A"),
    ] == [found[:2] for found in records(text)]  # fmt: skip
    assert b'\x03a;b\x01c\x03d"e' == records(text)[1][3]


def test_generate_fills_its_places():
    text = "$TTL 9\n$GENERATE 8-12/2 h${-8,3,d}-$ A 192.0.2.$\n$GENERATE 255-255 ${0,4,x} TXT $$\n"
    assert [
        ("h000-8.example.test.", "A", 9, bytes((192, 0, 2, 8))),
        ("h002-10.example.test.", "A", 9, bytes((192, 0, 2, 10))),
        ("h004-12.example.test.", "A", 9, bytes((192, 0, 2, 12))),
        ("00ff.example.test.", "TXT", 9, b"\1$"),
    ] == records(text)


def test_an_include_has_an_origin_of_its_own_and_names_its_own_mistakes():
    def include(file: str, path: str) -> tuple[str, str]:
        return "more", {"more": "h IN A 192.0.2.7\n", "wrong": "\nh IN A x\n"}[path]

    found = records('$TTL 5\n$INCLUDE more\n$include "more" sub\ny IN A 192.0.2.1\n', include)
    assert ["h.example.test.", "h.sub.example.test.", "y.example.test."] == [f[0] for f in found]
    with pytest.raises(MasterFileError, match=r"^more:2: A 'x'"):
        records("$TTL 5\n$INCLUDE wrong\n", include)


def refused(path, said: str) -> None:
    """Hold that a file is refused soon and in little room."""
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(MasterFileError, match=said):
        zonefile.read(path, APEX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - began < 2
    assert peak < 2**20


def test_what_would_not_end_is_refused(tmp_path):
    path = tmp_path / "db"
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "fifo is no regular file")
    refused(tmp_path, "db|directory|regular")
    path.write_text(HEAD + "$INCLUDE fifo\n")
    refused(path, "db:4: .*fifo is no regular file")
    path.write_text(HEAD + "$INCLUDE db\n")
    refused(path, "db:4: .*nested more than 7 deep")
    path.write_text(HEAD + "$INCLUDE db\n" * 50)
    refused(path, "db:4: ")
    path.write_text(HEAD + "$INCLUDE /dev/zero\n")
    refused(path, "/dev/zero is no regular file")
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    refused(path, "larger than")


def test_includes_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(zonefile, "MAX_OCTETS", 1000)
    monkeypatch.setattr(zonefile, "MAX_FILES", 3)
    (tmp_path / "more").write_text("; " + "x" * 400 + "\n")
    path = tmp_path / "db"
    path.write_text(HEAD + "$INCLUDE more\n" * 3)
    with pytest.raises(MasterFileError, match=r"db:6: .*larger than 1000 octets"):
        zonefile.read(path, APEX)
    (tmp_path / "more").write_text("")
    path.write_text(HEAD + "$INCLUDE more\n" * 4)
    with pytest.raises(MasterFileError, match=r"db:7: .*more than 3 files"):
        zonefile.read(path, APEX)


def test_places_are_lines_of_the_file_that_has_them(tmp_path):
    path, more = tmp_path / "db", tmp_path / "more"
    path.write_text(
        HEAD + "WWW (\n A 192.0.2.1 )\n A 192.0.2.2\n$INCLUDE more\n$GENERATE 1-3 g$ A 192.0.2.$\n"
        "other TXT nothing-of-it\nwww TXT x\n"
    )
    more.write_text("; a comment\nwww A 192.0.2.3\n")
    found = zonefile.places(path, APEX, {WWW, G2}, lambda: None)
    assert zonefile.read(path, APEX).serial == found.serial
    assert {
        (APEX, rr.SOA): [f"{path}:2"],
        (WWW, rr.A): [f"{path}:4", f"{path}:6", f"{more}:2"],
        (WWW, rr.TXT): [f"{path}:10"],
        (G2, rr.A): [f"{path}:8"],
    } == found.by_rrset


def test_what_looks_for_places_may_stop(tmp_path):
    path, seen = tmp_path / "db", 0
    path.write_text(HEAD + "$GENERATE 1-60000 g$ A 192.0.2.1\n")

    def pause() -> None:
        nonlocal seen
        seen += 1
        if seen == 100:
            raise ClusterDNSError("enough")

    with pytest.raises(ClusterDNSError, match="enough"):
        zonefile.places(path, APEX, (), pause)
    assert 100 == seen


def test_records_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(zonefile, "MAX_RECORDS", 100)
    for text, said in (
        ("$GENERATE 1-200 h$ A 192.0.2.1\n", "db:4: .*more than 100 records"),
        ("$GENERATE 1-99 h$ A 192.0.2.1\n", "db:4: more than 100 records"),
        ("".join(f"h{i} A 192.0.2.1\n" for i in range(200)), "db:102: more than 100 records"),
    ):
        (tmp_path / "db").write_text(HEAD + text)
        with pytest.raises(MasterFileError, match=said):
            zonefile.read(tmp_path / "db", APEX)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@ IN NS ns\n", "db: no SOA record of example.test."),
        (HEAD + "sub IN SOA ns h 1 2 3 4 5\n", "db:4: SOA of sub.example.test. in a file of exa"),
        (HEAD + "@ IN SOA ns h 9 2 3 4 5\n", "db:4: a second SOA"),
        (HEAD + "x IN CNAME y\nx IN A 192.0.2.1\n", "db:5: A beside the alias x.example.test."),
        (HEAD + "x IN A 192.0.2.1\nx IN CNAME y\n", "db:5: alias x.example.test. beside other"),
        (HEAD + "x IN CNAME y\nX IN CNAME z\n", "db:5: alias x.example.test. beside other"),
    ],
)
def test_what_is_no_zone_names_its_line(tmp_path, text, said):
    (tmp_path / "db").write_text(text)
    with pytest.raises(MasterFileError) as caught:
        zonefile.read(tmp_path / "db", APEX)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


def test_a_zone_is_transferred_from_soa_to_soa_each_record_once(tmp_path):
    (tmp_path / "db").write_text(
        HEAD + "b 9 IN A 192.0.2.1\nb 5 IN A 192.0.2.2\nB IN A 192.0.2.1\n"
    )
    zone = zonefile.read(tmp_path / "db", APEX)
    found = [(name.text(r.owner), rr.type_text(r.rtype), r.ttl) for r in zone.records()]
    assert [
        ("example.test.", "SOA", 60), ("example.test.", "NS", 60), ("b.example.test.", "A", 5),
        ("b.example.test.", "A", 5), ("example.test.", "SOA", 60),
    ] == found  # fmt: skip
    assert (2, 3, 4) == zone.timers


def test_an_rrset_of_many_takes_no_square_of_its_time(tmp_path):
    text = HEAD + "".join(f"$GENERATE 0-255 many A 10.0.{i}.$\n" for i in range(100))
    (tmp_path / "db").write_text(text)
    began = time.monotonic()
    zone = zonefile.read(tmp_path / "db", APEX)
    assert 25_603 == sum(1 for _ in zone.records())
    assert time.monotonic() - began < 5


def test_records_of_generate_are_counted_before_they_are_made(tmp_path):
    """50 large lines took 9 s of CPU, to be refused; an included file has no bound of its own."""
    head = "@ 3600 IN SOA ns h 1 2 3 4 5\n$TTL 9\n"
    many = "".join(f"$generate 1-65000 h{i}-$ A 192.0.2.7\n" for i in range(50))
    (tmp_path / "many").write_text(many)
    for text, place in ((head + many, "db:6: "), (head + "$INCLUDE many\n", "many:4: ")):
        (tmp_path / "db").write_text(text)
        began = time.process_time()
        with pytest.raises(MasterFileError) as caught:
            zonefile.read(tmp_path / "db", b"\1a\0")
        assert f"{tmp_path}/{place}$GENERATE makes more than 250000 records" in str(caught.value)
        assert time.process_time() - began < 0.5
    assert [(2, 1), (4, 3)] == [
        *generated(
            "a\n$GENERATE 7-7 a A\n\n$Generate 1-5/2 a A\n$GENERATE 0-99999 a A\n"
            "$GENERATE 1-2 a A\n"
        )
    ]
