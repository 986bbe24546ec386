"""Master files (RFC 1035 section 5): from text to records, each with the line it comes from.

``Reader.records`` yields one record at a time, so that the caller may stop, count and pause. A
caller that looks for some of them leaves the others' RDATA unread. This module splits text into
entries: quotes, parentheses, comments, omitted owners, TTLs, ``$ORIGIN``, ``$TTL``, ``$INCLUDE``
and ``$GENERATE``. dnspython parses RDATA. An omitted TTL is that of ``$TTL``, else the last
explicit one, else 0 (CoreDNS: miekg/dns scan.go).

The work is bounded for every file: a ``$GENERATE`` makes at most 65,536 entries, and includes are
nested at most seven deep.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from clusterdns.errors import ClusterDNSError, FormError
from clusterdns.wire import name, rr
from clusterdns.wire.rr import RR

MAX_GENERATED = 65_536  # entries of one $GENERATE (miekg/dns generate.go)
MAX_DEPTH = 7  # of nested includes (miekg/dns scan.go maxIncludeDepth)
MAX_TTL = 2**32 - 1
_GENERATED_TTL = 3600  # of a $GENERATE without any TTL (miekg/dns generate.go)
_SINGLE_TTL = 3600  # of a single record (miekg/dns scan.go defaultTtl)
_MAX_WIDTH = 255  # of a number in a $GENERATE
_SHOWN = 40  # characters of a word quoted in an error

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f]+|;[^\n]*)
    |(?P<newline>\n)
    |(?P<open>\()|(?P<close>\))
    |(?P<word>(?:"(?:[^"\\\n]|\\[^\n])*"|[^\s;()"\\]+|\\[^\n])+)
    |(?P<wrong>.)""",
    re.VERBOSE | re.DOTALL,
)
_TTL = re.compile(r"[0-9]+(?:[smhdw][0-9]+)*[smhdw]?", re.IGNORECASE)
_TTL_PART = re.compile(r"([0-9]+)([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_CLASS = re.compile(r"IN|CH|CS|HS|ANY|NONE|CLASS[0-9]+", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})(?:/([0-9]{1,18}))?")
_GENERATE = re.compile(rf"^\$GENERATE[ \t]+{_RANGE.pattern}[ \t]", re.IGNORECASE | re.MULTILINE)
_PLACE = re.compile(r"\\\$|\$\$|\$\{([^}]*)\}|\$")
_PLACE_OPTIONS = re.compile(r"(-?[0-9]{1,18})(?:,([0-9]{1,18}))?(?:,([doxX]))?")

# Takes the including file and the path; returns name and text of the included. Raises OSError.
Include = Callable[[str, str], tuple[str, str]]
IsWanted = Callable[[bytes, int], bool]  # takes owner and type


class MasterFileError(ClusterDNSError):
    """An invalid master file; prints as ``file:line: reason``."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")


class Placed(NamedTuple):
    """A record, with its file and line."""

    record: RR
    file: str
    line: int


class _Entry(NamedTuple):
    """The words of one entry, its first line, and whether it starts with an owner."""

    words: list[str]
    line: int
    has_owner: bool


class Reader:
    """Reads one master file, included or not."""

    def __init__(
        self,
        text: str,
        file: str,
        origin: bytes,
        include: Include,
        *,
        depth: int = 0,
        is_wanted: IsWanted | None = None,
    ) -> None:
        """``is_wanted`` picks the records to be read, all by default."""
        self._is_wanted = is_wanted
        self._text = text
        self._file = file
        self._include = include
        self._depth = depth
        self._owner: bytes | None = None
        self._takes_all_classes = False
        self._default_ttl: int | None = None
        self._is_default_said = False  # by $TTL; an explicit TTL of a record does not change it
        self._set_origin(origin)

    def records(self) -> Iterator[Placed]:
        """Yield the records in their order.

        Raises:
            MasterFileError: the text is not a master file.
        """
        for entry in self._entries():
            try:
                if entry.has_owner and entry.words[0].startswith("$"):
                    yield from self._obey(entry)
                elif (record := self._record(entry)) is not None:
                    yield Placed(record, self._file, entry.line)
            except (FormError, ValueError) as error:
                reason = error.reason if isinstance(error, FormError) else str(error)
                raise MasterFileError(self._file, entry.line, reason) from error
            except OSError as error:
                reason = f"{error.filename or '$INCLUDE'}: {error.strerror or error}"
                raise MasterFileError(self._file, entry.line, reason) from error

    def _entries(self) -> Iterator[_Entry]:
        """Yield the entries: non-empty lines, joined inside parentheses."""
        words: list[str] = []
        has_owner, opened, line, first = False, 0, 1, 1
        start = 0  # of the line
        for token in _TOKEN.finditer(self._text):
            token_type = token.lastgroup
            if token_type == "word":
                if not words:
                    has_owner, first = token.start() == start, line
                words.append(token[0])
            elif token_type == "newline":
                if words and not opened:
                    yield _Entry(words, first, has_owner)
                    words = []
                line += 1
                start = token.end() if not (opened or words) else -1
            elif token_type == "open":
                opened = opened or line
            elif token_type == "close":
                if not opened:
                    raise MasterFileError(self._file, line, "parenthesis closes nothing")
                opened = 0
            elif token_type == "wrong":
                what = "quoted text does not end" if token[0] == '"' else f"stray {token[0]!r}"
                raise MasterFileError(self._file, line, what)
        if opened:
            raise MasterFileError(self._file, opened, "parenthesis is not closed")
        if words:
            yield _Entry(words, first, has_owner)

    def _set_origin(self, origin: bytes) -> None:
        self._origin = origin
        self._dns_origin = dns.name.from_text(name.text(origin))

    def _name(self, word: str) -> bytes:
        """Return the name of a word, relative to the origin if it has no last dot."""
        if word == "@":
            return self._origin
        wire = name.parse(word)
        body = word[:-1]
        if word.endswith(".") and (len(body) - len(body.rstrip("\\"))) % 2 == 0:
            return wire
        return name.join(name.labels(wire), self._origin)

    # ---- records

    def _record(self, entry: _Entry) -> RR | None:
        """Return the record of an entry, None if it is not wanted."""
        words, i = entry.words, 0
        if entry.has_owner:
            self._owner, i = self._name(words[0]), 1
        if self._owner is None:
            raise ValueError("the first record names no owner")
        rclass, ttl, rtype = "", -1, 0
        while i < len(words):
            word = words[i]
            i += 1
            if not rclass and _CLASS.fullmatch(word):
                rclass = word.upper()
            elif ttl < 0 and _TTL.fullmatch(word):
                ttl = _seconds(word)
            else:
                rtype = _type(word)
                break
        if not rtype:
            raise ValueError("a record without a type")
        if rclass not in ("", "IN", "CLASS1") and not self._takes_all_classes:
            raise ValueError(f"class {rclass}, only IN is served")
        ttl = self._ttl(ttl, is_class_given=bool(rclass))
        if self._is_wanted is not None and not self._is_wanted(self._owner, rtype):
            return None
        rdata = self._rdata(rtype, words[i:])
        return RR(self._owner, rtype, ttl, rdata, _class(rclass or "IN"))

    def _ttl(self, ttl: int, *, is_class_given: bool) -> int:
        """Return the TTL of a record; ``ttl`` is its explicit TTL, -1 for none."""
        if ttl >= 0:
            if not self._is_default_said:
                self._default_ttl = ttl
            return ttl
        if self._default_ttl is not None:
            return self._default_ttl
        if not is_class_given:
            raise ValueError("no TTL: neither here, nor in a record before, nor by $TTL")
        return 0

    def _rdata(self, rtype: int, words: list[str]) -> bytes:
        if rtype in (rr.A, rr.AAAA) and len(words) == 1:
            address = rr.address_rdata(words[0])
            if address is not None and address[0] == rtype:
                return address[1]
        text = " ".join(words)
        try:
            rdata = dns.rdata.from_text(
                dns.rdataclass.IN,
                dns.rdatatype.RdataType.make(rtype),
                text,
                origin=self._dns_origin,
                relativize=False,
            )
            return rdata.to_wire() or b""
        except dns.exception.DNSException as error:
            said = f"{rr.type_text(rtype)} {text[:_SHOWN]!r}"
            raise ValueError(f"{said}: {_reason(error)}") from error

    # ---- directives

    def _obey(self, entry: _Entry) -> Iterator[Placed]:
        directive, args = entry.words[0].upper(), entry.words[1:]
        if directive == "$ORIGIN" and len(args) == 1:
            self._set_origin(self._name(args[0]))
        elif directive == "$TTL" and len(args) == 1:
            if not _TTL.fullmatch(args[0]):
                raise ValueError(f"{args[0][:_SHOWN]!r} is no TTL")
            self._default_ttl, self._is_default_said = _seconds(args[0]), True
        elif directive == "$INCLUDE" and len(args) in (1, 2):
            yield from self._included(args)
        elif directive == "$GENERATE" and len(args) >= 3:
            yield from self._generated(args, entry.line)
        elif directive in ("$ORIGIN", "$TTL", "$INCLUDE", "$GENERATE"):
            raise ValueError(f"wrong number of arguments to {directive}")
        else:
            raise ValueError(f"unknown directive {entry.words[0][:_SHOWN]!r}")

    def _included(self, args: list[str]) -> Iterator[Placed]:
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"$INCLUDE nested more than {MAX_DEPTH} deep")
        origin = self._name(args[1]) if len(args) == 2 else self._origin
        file, text = self._include(self._file, args[0].strip('"'))
        reader = Reader(
            text, file, origin, self._include, depth=self._depth + 1, is_wanted=self._is_wanted
        )
        reader._default_ttl = self._default_ttl
        reader._is_default_said = self._is_default_said
        yield from reader.records()

    def _generated(self, args: list[str], line: int) -> Iterator[Placed]:
        """Yield the records of ``$GENERATE RANGE OWNER [TTL] [CLASS] TYPE RDATA``."""
        bounds = _RANGE.fullmatch(args[0])
        if bounds is None:
            raise ValueError(f"{args[0][:_SHOWN]!r} is no range of a $GENERATE")
        first, last, step = int(bounds[1]), int(bounds[2]), int(bounds[3] or 1)
        if step < 1 or last < first or (last - first) // step >= MAX_GENERATED:
            raise ValueError(f"$GENERATE {args[0]}: from 1 to {MAX_GENERATED} records at a time")
        if self._default_ttl is None:
            self._default_ttl = _GENERATED_TTL
        for number in range(first, last + 1, step):
            words = [_filled(word, number) for word in args[1:]]
            record = self._record(_Entry(words, line, True))
            if record is not None:
                yield Placed(record, self._file, line)


def generated(text: str) -> Iterator[tuple[int, int]]:
    """Yield the line of each ``$GENERATE``, and how many records it makes, without making them.

    It ends before one that ``Reader`` refuses.
    """
    line, at = 1, 0
    for found in _GENERATE.finditer(text):
        first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
        if step < 1 or last < first or (last - first) // step >= MAX_GENERATED:
            return
        line, at = line + text.count("\n", at, found.start()), found.start()
        yield line, (last - first) // step + 1


def record(text: str) -> RR | None:
    """Return the first record of a text, of any class; None if it has none.

    Names are absolute with or without the last dot, and an omitted TTL is 3600 (CoreDNS:
    miekg/dns scan.go NewRR).

    Raises:
        MasterFileError: the text is not a record.
    """
    reader = Reader(text, "record", name.ROOT, _include_nothing)
    reader._takes_all_classes, reader._default_ttl = True, _SINGLE_TTL
    placed = next(reader.records(), None)
    return None if placed is None else placed.record


def text(record: RR) -> str:
    """Return a record as one line of a master file, all names absolute."""
    rtype = dns.rdatatype.RdataType.make(record.rtype)
    try:
        rdata = dns.rdata.from_wire(dns.rdataclass.IN, rtype, record.rdata, 0, len(record.rdata))
        said = rdata.to_text()
    except (dns.exception.DNSException, ValueError):  # not what its type says (RFC 3597 section 5)
        said = f"\\# {len(record.rdata)} {record.rdata.hex()}".rstrip()
    owner, shown = name.text(record.owner), rr.type_text(record.rtype)
    if owner.startswith("$"):  # it is no directive
        owner = "\\" + owner
    return f"{owner}\t{record.ttl}\tIN\t{shown}\t{said}"


def _include_nothing(_by: str, file: str) -> tuple[str, str]:
    raise PermissionError(1, "no file is included", file)


def _filled(word: str, number: int) -> str:
    """Return a word of a $GENERATE with the number inserted.

    It replaces ``$`` and ``${offset,width,base}``; ``$$`` and an escaped ``$`` stand for a dollar
    sign.
    """

    def fill(place: re.Match[str]) -> str:
        if place[0] in ("\\$", "$$"):
            return "$"
        if place[0] == "$":
            return str(number)
        options = _PLACE_OPTIONS.fullmatch(place[1])
        if options is None or int(options[2] or 0) > _MAX_WIDTH:
            raise ValueError(f"{place[0][:_SHOWN]!r} is no place in a $GENERATE")
        shown = number + int(options[1])
        if shown < 0:
            raise ValueError(f"{place[0]} makes {number} negative")
        return format(shown, f"0{int(options[2] or 0)}{options[3] or 'd'}")

    return _PLACE.sub(fill, word) if "$" in word else word


def _seconds(word: str) -> int:
    """Return a TTL in seconds: ``3600``, ``1h30m``."""
    total = 0
    for number, unit in _TTL_PART.findall(word):
        total += int(number) * _SECONDS[unit.lower()]
    if total > MAX_TTL:
        raise ValueError(f"TTL {word[:_SHOWN]} is more than {MAX_TTL}")
    return total


@functools.lru_cache(maxsize=64)
def _class(word: str) -> int:
    return int(dns.rdataclass.from_text(word))


@functools.lru_cache(maxsize=256)
def _type(word: str) -> int:
    try:
        found = dns.rdatatype.from_text(word)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{word[:_SHOWN]!r} is no type, TTL or class") from error
    if dns.rdatatype.is_metatype(found) or not found:
        raise ValueError(f"type {word[:_SHOWN]} is for questions only")
    return int(found)


def _reason(error: Exception) -> str:
    """Return the message of an error, without dnspython's position in the entry."""
    cause = error.__cause__
    said = str(cause) if cause is not None and str(cause) else str(error)
    return re.sub(r"^<[^>]*>:\d+: ", "", said)
