# Invariant: whatever the text, its includes and its origin, a master file gives records or raises
# MasterFileError; each record can be printed, and its print is read as the same record.
"""Fuzz master files: ``guided.py zone_text``. Every name that is included is the same text."""

from __future__ import annotations

from pathlib import Path

from clusterdns.errors import FormError
from clusterdns.formats import masterfile
from clusterdns.wire import name

ORIGIN = name.parse("example.test.")
MAX_RECORDS = 3000  # whoever reads a zone stops and counts, as here
WORDS = (
    *b"@ ( ) ; \" \\ \n $ * . 0 \\# ${ } \\000 \\. IN CH ANY 1w 4294967295 TYPE65535 CLASS3".split(b" "),
    *b"$TTL $ORIGIN $INCLUDE $GENERATE SOA NS A AAAA TXT CNAME MX SRV PTR CAA HTTPS SVCB".split(),
    *b"DNSKEY DS RRSIG NSEC NSEC3 NSEC3PARAM TLSA SSHFP NAPTR LOC HINFO RP URI APL CERT".split(),
)  # fmt: skip
ZONES = Path(__file__).resolve().parents[3] / "zones"


def seeds() -> list[bytes]:
    """Return the zones of the lab, and what they lack."""
    found = [path.read_bytes() for path in sorted(ZONES.glob("db.*"))]
    return [
        *found,
        b"$ORIGIN a.\n$TTL 1h\n@ IN SOA ns h (1 2 3 4 5)\n NS ns\n",
        b"$GENERATE 1-9/2 h$ A 10.0.0.$\n$GENERATE 0-3 x${1,3,x} CNAME \\$$\n$INCLUDE f sub\n",
        b'x TXT "a\\"b" c\\032d "" ; e\ny TYPE65280 \\# 3 0a0b0c\nz CAA 0 issue "ca"\n',
        b"a 1w2d HTTPS 1 . alpn=h2 ipv4hint=1.2.3.4\nb LOC 1 2 3 N 4 5 6 E 7m\n",
        b"c DS 1 8 2 " + b"ab" * 32 + b'\nd NAPTR 1 2 u e "!a!b!" .\ne CH A 1.2.3.4\n* AAAA ::1\n',
    ]


def examine(data: bytes) -> None:
    """Hold the invariant for one text."""
    text = data.decode("utf-8", "replace")
    reader = masterfile.Reader(text, "f", ORIGIN, lambda by, file: (file, text))
    try:
        for count, placed in enumerate(reader.records()):
            if count < 50:
                check(placed)
            if count > MAX_RECORDS:
                return
    except masterfile.MasterFileError as error:
        str(error).encode()


def check(placed: masterfile.Placed) -> None:
    record = placed.record
    assert 0 <= record.ttl < 2**32
    assert len(record.owner) <= name.MAX_NAME_OCTETS
    assert len(record.rdata) <= 65535
    assert placed.line >= 1
    try:
        printed = masterfile.text(record)
    except FormError:
        return
    again = masterfile.record(printed)
    assert again is not None, printed
    assert record == again, printed
