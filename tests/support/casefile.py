"""Case files: what is asked of a server, and what it must answer, as plain values.

``caseparser.load`` reads one ``*.case`` file into ``Case`` tuples; a runner walks ``Case.steps``, makes
octets of each question with ``to_wire`` and brings the reply to ``casecheck``. None of them knows a
server. The grammar is in ``tests/README.md``.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import dns.name
import dns.rdataclass
import dns.rdatatype

LOCAL_ADDRESS = "10.1.9.9"  # in objects and cases: the first address of the server under test
SECTIONS = ("answer", "authority", "additional")
EDNS_DO = 0x8000
_PADDING = 12  # RFC 7830


class CaseError(Exception):
    """A case file that does not follow the grammar."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = path, line, reason


class Question(NamedTuple):
    """One query, or the octets of a raw packet; ``transport`` is empty when any will do."""

    line: int
    qname: str = "."
    qtype: int = 1
    qclass: int = 1
    opcode: int = 0
    rd: bool = True
    ad: bool = False
    cd: bool = False
    edns: int | None = None
    do: bool = False
    version: int = 0
    options: tuple[tuple[int, bytes], ...] = ()
    transport: str = ""
    pad_to: int = 0
    raw: bytes | None = None

    def __str__(self) -> str:
        if self.raw is not None:
            return f"! {self.raw.hex()}"
        return f"? {self.qname} {dns.rdatatype.to_text(self.qtype)} {dns.rdataclass.to_text(self.qclass)}"


class Record(NamedTuple):
    """One expected record; None stands for any value."""

    section: str
    owner: str | None
    ttl: int | None
    rclass: int
    rtype: int
    rdata: tuple[str | None, ...] | None

    def __str__(self) -> str:
        rdata = "*" if self.rdata is None else " ".join("*" if f is None else f for f in self.rdata)
        ttl = "*" if self.ttl is None else self.ttl
        rclass, rtype = dns.rdataclass.to_text(self.rclass), dns.rdatatype.to_text(self.rtype)
        return f"{self.owner or '*'} {ttl} {rclass} {rtype} {rdata}"


class Opt(NamedTuple):
    """The OPT record of a reply."""

    size: int
    version: int = 0
    do: bool = False
    options: tuple[tuple[int, bytes], ...] = ()

    def __str__(self) -> str:
        options = "".join(f" option={code}:{data.hex()}" for code, data in self.options)
        return f"OPT {self.size} version={self.version}{' do' if self.do else ''}{options}"


class Expectation(NamedTuple):
    """What one question must bring; ``subject`` is empty when it holds for every server."""

    line: int
    subject: str
    question: Question
    rcode: int = 0
    flags: int = 0
    opcode: int = 0
    has_question: bool = True
    records: tuple[Record, ...] = ()
    opt: Opt | None = None
    ordered: bool = False
    size: int | None = None
    silence: bool = False
    wire: tuple[int | None, ...] | None = None  # a reply given octet by octet


class Step(NamedTuple):
    """One step: ``ask`` carries a question and its alternatives, the other verbs their words."""

    line: int
    verb: str
    words: tuple[str, ...] = ()
    question: Question | None = None
    expectations: tuple[Expectation, ...] = ()

    def expected(self, subject: str) -> tuple[Expectation, ...]:
        """Return the alternatives that hold for ``subject``; one of them must match."""
        return tuple(e for e in self.expectations if e.subject in ("", subject))


class Scripted(NamedTuple):
    """What the upstream does about one name: a record, or an outcome for every type."""

    name: str
    outcome: str  # answer, nxdomain, nodata, servfail, timeout, truncated
    ttl: int = 0
    rclass: int = 1
    rtype: int = 0
    rdata: str = ""
    has_soa: bool = True
    keep: int = 0  # truncated: how many records stay in the UDP reply


class Case(NamedTuple):
    """One server, the objects it starts with, and the steps it is put through."""

    path: Path
    line: int
    title: str
    corefile: str
    objects: tuple[str, ...]
    upstream: tuple[Scripted, ...]
    unsynced: tuple[str, ...]  # kinds whose first list never ends
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Return the case's name for reports: the file and its title."""
        return f"{self.path.stem}: {self.title}"

    @property
    def is_stateful(self) -> bool:
        """Return whether asking the questions twice of one server could go differently."""
        return "cache" in self.corefile.split() or any(step.verb != "ask" for step in self.steps)


def to_wire(question: Question, message_id: int) -> bytes:
    """Return the query in wire form; a raw packet is returned as it is."""
    if question.raw is not None:
        return question.raw
    flags = question.opcode << 11
    flags |= (
        (0x0100 if question.rd else 0) | (0x20 if question.ad else 0) | (0x10 if question.cd else 0)
    )
    name = dns.name.from_text(question.qname).to_wire()
    assert name is not None
    counts = (1, 0, 0, 0 if question.edns is None else 1)
    wire = struct.pack("!HHHHHH", message_id, flags, *counts) + name
    wire += struct.pack("!HH", question.qtype, question.qclass)
    if question.edns is None:
        return wire
    options = b"".join(
        struct.pack("!HH", code, len(data)) + data for code, data in question.options
    )
    if question.pad_to:
        room = question.pad_to - len(wire) - 11 - len(options) - 4
        options += struct.pack("!HH", _PADDING, room) + bytes(room)
    ttl = question.version << 16 | (EDNS_DO if question.do else 0)
    return wire + b"\0" + struct.pack("!HHIH", 41, question.edns, ttl, len(options)) + options
