"""Holds a reply in wire form against what a case expects, and says how they differ as dig would.

dnspython reads the wire here, so the server under test is never its own judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from casefile import EDNS_DO, SECTIONS, Expectation, Opt, Record

from clusterdns.wire import printing

_FLAG_ORDER = {
    "aa": 0x0400,
    "tc": 0x0200,
    "rd": 0x0100,
    "ra": 0x0080,
    "z": 0x0040,
    "ad": 0x0020,
    "cd": 0x0010,
}


def check_any(expectations: Iterable[Expectation], wire: bytes | None) -> str | None:
    """Return None when one of the alternatives holds, else the shortest difference."""
    differences = []
    for expectation in expectations:
        difference = check(expectation, wire)
        if difference is None:
            return None
        differences.append(difference)
    return min(differences, key=len, default="no expectation for this subject")


def check(expectation: Expectation, wire: bytes | None) -> str | None:
    """Return None when the reply holds, else a dig-style difference.

    Letter case counts everywhere.
    """
    if expectation.silence or wire is None:
        if expectation.silence and wire is None:
            return None
        return f"-{'silence' if expectation.silence else 'a reply'}\n+{'silence' if wire is None else wire.hex()}"
    if expectation.wire is not None:
        holds = len(wire) == len(expectation.wire) and all(
            want is None or want == got for want, got in zip(expectation.wire, wire, strict=True)
        )
        want = "".join("**" if octet is None else f"{octet:02x}" for octet in expectation.wire)
        return None if holds else f"-{want}\n+{wire.hex()}"
    try:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        return f"-{_status(expectation)}\n+cannot be read ({error!r}): {wire.hex()}"
    lines = [*_header_difference(expectation, message, len(wire))]
    for section, found in zip(
        SECTIONS, (message.answer, message.authority, message.additional), strict=True
    ):
        wanted = [record for record in expectation.records if record.section == section]
        actual = [_found(section, rrset) for rrset in found]
        lines += _section_difference(wanted, actual, expectation)
    return "\n".join(lines) if any(line[0] in "-+" for line in lines) else None


def second_opinion(wire: bytes) -> str | None:
    """Return None when dnslib reads the same records in a reply as dnspython, else how they differ."""
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    ours = [
        (i, rrset.name.to_wire(), int(rrset.rdtype), int(rrset.rdclass), rrset.ttl)
        for i, section in enumerate((message.answer, message.authority, message.additional))
        for rrset in section
    ]
    theirs = printing.records(wire)
    return None if ours == theirs else f"-dnspython {ours}\n+dnslib {theirs}"


def _header_difference(
    expectation: Expectation, message: dns.message.Message, size: int
) -> Iterator[str]:
    want, got = _status(expectation), _message_status(message)
    yield from [f" {want}"] if want == got else [f"-{want}", f"+{got}"]
    question = expectation.question
    wanted = [str(question)[2:]] if expectation.has_question and question.raw is None else []
    actual = [
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {dns.rdataclass.to_text(rrset.rdclass)}"
        for rrset in message.question
    ]
    if question.raw is None and [_canonical(w) for w in wanted] != actual:
        yield f"-;; QUESTION: {', '.join(wanted)}"
        yield f"+;; QUESTION: {', '.join(actual)}"
    opt = _message_opt(message)
    if question.raw is None and opt != expectation.opt:
        yield f"-;; {expectation.opt or 'no OPT'}"
        yield f"+;; {opt or 'no OPT'}"
    if expectation.size is not None and size != expectation.size:
        yield f"-;; SIZE: {expectation.size}"
        yield f"+;; SIZE: {size}"


def _canonical(question: str) -> str:
    """Return the question with its name as dnspython prints it."""
    name, rest = question.split(" ", 1)
    return f"{dns.name.from_text(name)} {rest}"


def _status(expectation: Expectation) -> str:
    return _status_text(expectation.opcode, expectation.rcode, expectation.flags)


def _message_status(message: dns.message.Message) -> str:
    # The header's own rcode nibble would hide BADVERS, so dnspython's merged one is compared.
    return _status_text(int(message.opcode()), int(message.rcode()), message.flags & 0x07F0)


def _status_text(opcode: int, rcode: int, flags: int) -> str:
    names = " ".join(name for name, bit in _FLAG_ORDER.items() if flags & bit)
    return f";; opcode: {opcode}, status: {dns.rcode.to_text(dns.rcode.Rcode.make(rcode))}, flags: {names}"


def _message_opt(message: dns.message.Message) -> Opt | None:
    if message.edns < 0:
        return None
    options = tuple((int(option.otype), option.to_wire() or b"") for option in message.options)
    return Opt(message.payload, message.edns, bool(message.ednsflags & EDNS_DO), options)


def _found(section: str, rrset: dns.rrset.RRset) -> Record:
    rdata = tuple(rrset[0].to_text().split()) if len(rrset) else ()
    return Record(
        section, str(rrset.name), int(rrset.ttl), int(rrset.rdclass), int(rrset.rdtype), rdata
    )


def _section_difference(
    wanted: list[Record], actual: list[Record], expectation: Expectation
) -> Iterator[str]:
    """Yield the section as a difference: records that match, miss, or are too many."""
    if not wanted and not actual:
        return
    yield f" ;; {(wanted or actual)[0].section.upper()}"
    left = sorted(wanted, key=_looseness) if not expectation.ordered else list(wanted)
    for record in actual:
        candidates = left[:1] if expectation.ordered else left
        match = next((w for w in candidates if _matches(w, record)), None)
        if match is None:
            yield f"+{record}"
        else:
            left.remove(match)
            yield f" {record}"
    for record in left:
        yield f"-{record}"


def _looseness(record: Record) -> int:
    """Return how many fields of a record match anything; the strict ones choose first."""
    rdata = (None,) * 9 if record.rdata is None else record.rdata
    return (record.owner is None) + (record.ttl is None) + rdata.count(None)


def _matches(wanted: Record, actual: Record) -> bool:
    if (wanted.rclass, wanted.rtype) != (actual.rclass, actual.rtype):
        return False
    if wanted.ttl not in (None, actual.ttl) or wanted.owner not in (None, actual.owner):
        return False
    if wanted.rdata is None:
        return True
    assert actual.rdata is not None
    return len(wanted.rdata) == len(actual.rdata) and all(
        field in (None, found) for field, found in zip(wanted.rdata, actual.rdata, strict=True)
    )
