"""Reads case files; the grammar is in ``tests/README.md``.

Lines are read from top to bottom: directives of the head hold for every ``case`` below it unless one
says otherwise, and questions that follow one another share the expectations behind them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from casefile import (
    LOCAL_ADDRESS,
    SECTIONS,
    Case,
    CaseError,
    Expectation,
    Opt,
    Question,
    Record,
    Scripted,
    Step,
)

SUBJECTS = ("coredns", "clusterdns")
DEFAULT_ZONE = "cluster.local."
_HEADER_FLAGS = {"aa": 0x0400, "tc": 0x0200, "ra": 0x0080, "z": 0x0040, "ad": 0x0020}
_COPIED_FLAGS = {"rd": 0x0100, "cd": 0x0010}
_OPCODES = {"query": 0, "iquery": 1, "status": 2, "notify": 4, "update": 5, "dso": 6}
_COOKIE, _ECS = 10, 8
_ECS_DATA = bytes.fromhex("00011800c00002")  # 192.0.2.0/24 (RFC 7871 section 6)
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def load(path: Path, *, local_addresses: Sequence[str] = (LOCAL_ADDRESS,)) -> list[Case]:
    """Return the cases of one file.

    ``local_addresses`` are the server's own: the first takes the place of ``LOCAL_ADDRESS``, and
    ``ADDRESS local`` stands for one record of each.

    Raises:
        CaseError: at the first line that does not follow the grammar.
    """
    return list(_Parser(path, tuple(local_addresses)).parse(path.read_text()))


class _Head(NamedTuple):
    """What a case inherits from the head of its file."""

    corefile: str = ""
    objects: tuple[str, ...] = ()
    upstream: tuple[Scripted, ...] = ()
    unsynced: tuple[str, ...] = ()
    origin: str = "."
    zone: str = DEFAULT_ZONE


class _Parser:
    """Reads lines top to bottom; ``case`` closes the one before it."""

    def __init__(self, path: Path, local_addresses: tuple[str, ...]) -> None:
        self.path, self.local_addresses = path, local_addresses
        self.lines: list[tuple[int, str]] = []
        self.at = 0

    def parse(self, text: str) -> Iterator[Case]:
        if self.local_addresses:
            text = text.replace(LOCAL_ADDRESS, self.local_addresses[0])
        self.lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if _strip(line)]
        head, title, start, steps = _Head(), "", 1, list[Step]()
        inherited: _Head | None = None
        while self.at < len(self.lines):
            number, line = self.lines[self.at]
            words = _strip(line).split()
            if line[0].isspace():
                raise self._error(number, f"an indented line belongs to nothing: {line.strip()!r}")
            if words[0] == "case":
                if inherited is None:
                    inherited = head
                if steps:
                    yield self._case(start, title, head, steps)
                head, title, start, steps = inherited, " ".join(words[1:]), number, []
                self.at += 1
            elif words[0] in ("corefile", "objects", "origin", "zone", "upstream", "sync"):
                if steps:
                    raise self._error(number, f"{words[0]} must stand before the first step")
                head = self._directive(head, number, words)
            else:
                steps += self._step(head, number, words, line)
        if not steps:
            raise self._error(start, "a case without a question")
        yield self._case(start, title, head, steps)

    def _case(self, line: int, title: str, head: _Head, steps: list[Step]) -> Case:
        if not head.corefile:
            raise self._error(line, "a case without a corefile")
        return Case(
            self.path,
            line,
            title,
            head.corefile,
            head.objects,
            head.upstream,
            head.unsynced,
            tuple(steps),
        )

    def _directive(self, head: _Head, number: int, words: list[str]) -> _Head:
        self.at += 1
        match words:
            case ["corefile"]:
                block = list(self._indented(keep_comments=True))
                return head._replace(corefile="".join(f"{line}\n" for _, line in block))
            case ["objects", *files]:
                return head._replace(objects=tuple(files))
            case ["origin" | "zone", name] if name.endswith("."):
                return head._replace(**{words[0]: name})
            case ["upstream"]:
                entries = [
                    entry for n, line in self._indented() for entry in self._scripted(head, n, line)
                ]
                return head._replace(upstream=tuple(entries))
            case ["sync", "no", *kinds] if kinds:
                return head._replace(unsynced=tuple(kinds))
        raise self._error(number, f"cannot read {' '.join(words)!r}")

    def _indented(self, *, keep_comments: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the indented lines that follow."""
        while self.at < len(self.lines) and self.lines[self.at][1][0].isspace():
            number, line = self.lines[self.at]
            self.at += 1
            yield number, line.strip() if not keep_comments else line.removeprefix("  ").rstrip()

    # -- steps

    def _step(self, head: _Head, number: int, words: list[str], line: str) -> Iterator[Step]:
        match words:
            case ["?" | "!", *_]:
                yield from self._ask(head)
                return
            case ["apply", _] | ["delete", _, _] | ["metric", _, _]:
                pass
            case ["time", later] if re.fullmatch(r"\+\d+", later):
                pass
            case ["asked", name, rtype, count] if re.fullmatch(r"(>=)?\d+", count):
                self._rtype(number, rtype)
                words = ["asked", self._absolute(name, head.origin), rtype, count]
            case _:
                raise self._error(number, f"cannot read {line.strip()!r}")
        self.at += 1
        yield Step(number, words[0], tuple(words[1:]))

    def _ask(self, head: _Head) -> Iterator[Step]:
        """Read questions that follow one another and the expectations they share."""
        questions: list[Question] = []
        while self.at < len(self.lines) and self.lines[self.at][1][0] in "?!":
            number, line = self.lines[self.at]
            questions.append(self._question(head, number, line))
            self.at += 1
        blocks: list[tuple[int, str, list[tuple[int, str]]]] = []
        while self.at < len(self.lines) and re.match(r"=|or\s", self.lines[self.at][1]):
            number, line = self.lines[self.at]
            self.at += 1
            blocks.append((number, _strip(line), list(self._indented())))
        if not blocks:
            raise self._error(questions[-1].line, "a question without an expectation")
        for question in questions:
            expectations, subject = [], ""
            for number, line, body in blocks:
                if not line.startswith("or"):
                    subject = line[1:].split()[0] if line[1:2].strip() else ""
                    if subject not in ("", *SUBJECTS):
                        raise self._error(number, f"no subject is called {subject!r}")
                words = line.split()[1:]
                expectations.append(self._expectation(head, question, number, subject, words, body))
            named = {e.subject for e in expectations}
            if named - {""} and named != set(SUBJECTS):
                raise self._error(
                    blocks[0][0], "an expectation for one subject needs one for the other"
                )
            yield Step(question.line, "ask", (), question, tuple(expectations))

    def _question(self, head: _Head, number: int, line: str) -> Question:
        text = line.partition(" ;")[0]
        question = Question(number)
        if text.startswith("!"):
            *octets, transport = [*text[1:].split(), ""]
            if octets and octets[-1] in ("+udp", "+tcp"):
                transport = octets.pop()[1:]
            try:
                return question._replace(raw=bytes.fromhex("".join(octets)), transport=transport)
            except ValueError as error:
                raise self._error(number, f"not hexadecimal: {error}") from None
        words = text[1:].split()
        options = [w for w in words if w.startswith("+")]
        plain = [w for w in words if not w.startswith("+")]
        if len(plain) not in (2, 3):
            raise self._error(number, "a question is a name, a type and at most a class")
        qclass = plain[2] if len(plain) == 3 else "IN"
        try:
            question = question._replace(
                qname=self._absolute(plain[0], head.origin),
                qtype=self._rtype(number, plain[1]),
                qclass=int(dns.rdataclass.from_text(qclass)),
            )
        except dns.exception.DNSException:
            raise self._error(number, f"unknown class {qclass!r}") from None
        for option in options:
            question = self._question_option(number, question, option)
        return question

    def _question_option(self, number: int, question: Question, option: str) -> Question:
        key, _, value = option[1:].partition("=")
        with_edns = question if question.edns is not None else question._replace(edns=1232)
        try:
            match key:
                case "edns":
                    return question._replace(edns=int(value))
                case "do":
                    return with_edns._replace(do=True)
                case "version":
                    return with_edns._replace(version=int(value))
                case "cookie":
                    return with_edns._replace(
                        options=(*question.options, (_COOKIE, bytes.fromhex(value)))
                    )
                case "ecs":
                    return with_edns._replace(options=(*question.options, (_ECS, _ECS_DATA)))
                case "option":
                    code, _, data = value.partition(":")
                    added = (int(code), bytes.fromhex(data))
                    return with_edns._replace(options=(*question.options, added))
                case "pad":
                    return with_edns._replace(pad_to=int(value))
                case "cd" | "ad":
                    return question._replace(**{key: True})
                case "nord":
                    return question._replace(rd=False)
                case "udp" | "tcp":
                    return question._replace(transport=key)
                case "opcode":
                    opcode = _OPCODES.get(value)
                    return question._replace(opcode=int(value) if opcode is None else opcode)
        except ValueError:
            pass
        raise self._error(number, f"cannot read {option!r}")

    # -- expectations

    def _expectation(
        self,
        head: _Head,
        question: Question,
        number: int,
        subject: str,
        words: list[str],
        body: list[tuple[int, str]],
    ) -> Expectation:
        expectation = Expectation(
            number, subject, question, opcode=question.opcode, opt=_echoed_opt(question)
        )
        if words[:1] == ["silence"]:
            return expectation._replace(silence=True)
        if words[:1] == ["hex"]:
            digits = "".join(words[1:])
            pairs = [digits[i : i + 2] for i in range(0, len(digits), 2)]
            return expectation._replace(
                wire=tuple(None if p == "**" else int(p, 16) for p in pairs)
            )
        try:
            rcode = int(dns.rcode.from_text(words[0]))
        except (IndexError, dns.exception.DNSException):
            raise self._error(
                number, "an expectation begins with an rcode, silence or hex"
            ) from None
        flags = 0
        if question.opcode == 0:
            flags = (_COPIED_FLAGS["rd"] if question.rd else 0) | (
                _COPIED_FLAGS["cd"] if question.cd else 0
            )
        elif question.rd:
            flags = _COPIED_FLAGS["rd"]
        expectation = expectation._replace(rcode=rcode)
        records: list[Record] = []
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key in _HEADER_FLAGS and not value:
                flags |= _HEADER_FLAGS[key]
            elif key in _COPIED_FLAGS and not value:
                flags |= _COPIED_FLAGS[key]
            elif key in ("nord", "nocd"):
                flags &= ~_COPIED_FLAGS[key[2:]]
            elif key == "noquestion":
                expectation = expectation._replace(has_question=False, opt=None)
            elif key == "ordered":
                expectation = expectation._replace(ordered=True)
            elif key == "size":
                expectation = expectation._replace(size=int(value))
            elif key == "soa":
                zone = _cut(question.qname, value or head.zone)
                text = f"authority {zone} 5 SOA ns.dns.{zone} hostmaster.{zone} * 7200 1800 86400 5"
                records += self._records(head, question, number, text)
            else:
                raise self._error(number, f"cannot read {word!r}")
        for line_number, line in body:
            text = _strip(line)
            if text.startswith("opt "):
                expectation = expectation._replace(opt=self._opt(line_number, text.split()[1:]))
            else:
                records += self._records(head, question, line_number, text)
        return expectation._replace(flags=flags, records=tuple(records))

    def _opt(self, number: int, words: list[str]) -> Opt | None:
        if words == ["none"]:
            return None
        opt = Opt(int(words[0]))
        for word in words[1:]:
            key, _, value = word.partition("=")
            match key:
                case "do":
                    opt = opt._replace(do=True)
                case "version":
                    opt = opt._replace(version=int(value))
                case "cookie":
                    opt = opt._replace(options=(*opt.options, (_COOKIE, bytes.fromhex(value))))
                case "option":
                    code, _, data = value.partition(":")
                    opt = opt._replace(options=(*opt.options, (int(code), bytes.fromhex(data))))
                case _:
                    raise self._error(number, f"cannot read {word!r}")
        return opt

    def _records(self, head: _Head, question: Question, number: int, line: str) -> Iterator[Record]:
        for text in _expand(line):
            words = text.split()
            section = words.pop(0) if words[0] in SECTIONS else "answer"
            if words[-2:] == ["ADDRESS", "local"]:
                for address in self.local_addresses:
                    rtype = "AAAA" if ":" in address else "A"
                    yield self._record(
                        head, question, number, section, [*words[:-2], rtype, address]
                    )
            else:
                yield self._record(head, question, number, section, words)

    def _record(
        self, head: _Head, question: Question, number: int, section: str, words: list[str]
    ) -> Record:
        if len(words) < 4 or not (words[1] == "*" or words[1].isdigit()):
            raise self._error(number, "a record is owner, ttl, type and rdata")
        owner, ttl, *rest = words
        rclass = 1
        if rest[0] in ("IN", "CH", "HS", "ANY", "NONE"):
            rclass = int(dns.rdataclass.from_text(rest.pop(0)))
        rtype = self._rtype(number, rest[0])
        fields = [f[:-1] + question.qname if f == "@" or f.endswith(".@") else f for f in rest[1:]]
        name = None if owner == "*" else self._absolute(owner, head.origin, at=question.qname)
        rdata = None if fields == ["*"] else self._rdata(number, head.origin, rclass, rtype, fields)
        return Record(section, name, None if ttl == "*" else int(ttl), rclass, rtype, rdata)

    def _rdata(
        self, number: int, origin: str, rclass: int, rtype: int, fields: list[str]
    ) -> tuple[str | None, ...]:
        """Return the fields as dnspython prints them, None where any value will do."""
        text = " ".join("0" if field == "*" else field for field in fields)
        try:
            rdata = dns.rdata.from_text(
                rclass, rtype, text, origin=dns.name.from_text(origin), relativize=False
            )
        except (dns.exception.DNSException, ValueError) as error:
            raise self._error(number, f"rdata {text!r}: {error}") from None
        printed = rdata.to_text().split()
        if "*" not in fields:
            return tuple(printed)
        return tuple(
            None if field == "*" else value for field, value in zip(fields, printed, strict=True)
        )

    # -- the upstream

    def _scripted(self, head: _Head, number: int, line: str) -> Iterator[Scripted]:
        for text in _expand(_strip(line)):
            words = text.split()
            name = self._absolute(words[0], head.origin)
            match words[1:]:
                case ["nxdomain" | "nodata" | "servfail" | "timeout"]:
                    yield Scripted(name, words[1])
                case ["nxdomain" | "nodata", "nosoa"]:
                    yield Scripted(name, words[1], has_soa=False)
                case ["truncated", keep]:
                    yield Scripted(name, "truncated", keep=int(keep))
                case _:
                    record = self._record(
                        head, Question(number, qname=name), number, "answer", words
                    )
                    if record.ttl is None or record.rdata is None:
                        raise self._error(number, "an upstream record has no wildcards")
                    rdata = " ".join(str(field) for field in record.rdata)
                    yield Scripted(name, "answer", record.ttl, record.rclass, record.rtype, rdata)

    # -- words

    def _absolute(self, name: str, origin: str, *, at: str = "") -> str:
        if name == "@":
            return at
        if name.endswith("."):
            return name
        return f"{name}." if origin == "." else f"{name}.{origin}"

    def _rtype(self, number: int, text: str) -> int:
        try:
            return int(dns.rdatatype.from_text(text))
        except (dns.exception.DNSException, ValueError):
            raise self._error(number, f"unknown type {text!r}") from None

    def _error(self, line: int, reason: str) -> CaseError:
        return CaseError(self.path, line, reason)


def _strip(line: str) -> str:
    """Return ``line`` without its comment; a semicolon counts at the start or after a space."""
    if line.startswith(";"):
        return ""
    return re.split(r"\s;", line, maxsplit=1)[0].rstrip()


def _expand(line: str) -> Iterator[str]:
    """Yield the line once for every number of its range ``[first-last]``."""
    found = _RANGE.search(line)
    if not found:
        yield line
        return
    for n in range(int(found[1]), int(found[2]) + 1):
        yield _RANGE.sub(str(n), line)


def _cut(qname: str, zone: str) -> str:
    """Return ``zone`` as the client spelled it: the end of ``qname`` when that lies below it."""
    return qname[-len(zone) :] if qname.lower().endswith(zone.lower()) else zone


def _echoed_opt(question: Question) -> Opt | None:
    """Return the OPT that CoreDNS puts into a reply: the client's own, options it knows not kept."""
    if question.edns is None or question.raw is not None:
        return None
    return Opt(question.edns, 0, question.do)
