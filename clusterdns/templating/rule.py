"""One `template` directive: the questions it matches, and the templates of its records.

(CoreDNS: plugin/template/setup.go)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.languages import conditions, expression, exprvalues
from clusterdns.languages.expression import Expression
from clusterdns.languages.exprvalues import ExpressionError, Signature, Type
from clusterdns.languages.gotemplate import Struct, Template, TemplateError
from clusterdns.languages.regexp import Regexp, RegexpError
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Question, extended_error
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.rr import RR

SECTIONS = ("answer", "additional", "authority")
# Data that may differ between queries for one question.
_OF_THE_QUERY = frozenset(("Remote", "Meta", "Message"))
_GROUP: dict[str, Type | Signature] = {"group": Signature((exprvalues.ANY,), exprvalues.STRING)}
_CLASSES = {text: number for number, text in rr.CLASS_TEXT.items()}
ANY_CLASS = 255
ADDRESSES = (rr.A, rr.AAAA)
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Made(NamedTuple):
    """A template of one section; ``record`` is its constant record, if it is constant."""

    template: Template
    record: RR | None


class Rule:
    """One `template`; its zones default to ``default``."""

    def __init__(self, directive: Directive, default: Sequence[WireName]) -> None:
        """Read a directive. Raises ConfigError."""
        if len(directive.args) < 2:
            raise directive.error("wants CLASS TYPE [ZONES...]")
        qclass, qtype, *zones = directive.args
        if qclass not in _CLASSES:
            raise directive.error(f"invalid query class {qclass}")
        if qtype not in rr.TYPES:
            raise directive.error(f"invalid RR class {qtype}")
        self.qclass, self.qtype = _CLASSES[qclass], rr.TYPES[qtype]
        self.zones = arguments.zone_names(zones, directive) or tuple(default)
        self.regexps: list[Regexp] = []
        self.variables: list[tuple[str, Expression]] = []
        self.conditions: list[Expression] = []
        self._environment = {**conditions.OF_THE_QUESTION, **conditions.OF_THE_QUERY, **_GROUP}
        self.quiet_until = 0.0
        self.place = f"{directive.file}:{directive.line}"
        self.fallthrough: tuple[WireName, ...] = ()
        self.rcode = rr.NOERROR
        self.edns: message.Edns | None = None
        self.made: dict[str, list[Made]] = {section: [] for section in SECTIONS}
        for line in directive.block:
            self._read(line)
        self.zone_texts = {zone: name.text(zone) for zone in self.zones}
        self.fields = {
            each for some in self.made.values() for one in some for each in one.template.fields
        }
        wholes = (one.template.uses_whole for some in self.made.values() for one in some)
        expressions = [*(each for _, each in self.variables), *self.conditions]
        taken = {each for one in expressions for each in one.names}
        self.is_same_for_all = (
            self.fields.isdisjoint(_OF_THE_QUERY)
            and not any(wholes)
            and taken.isdisjoint(conditions.OF_THE_QUERY)
        )

    def _read(self, line: Directive) -> None:
        """Apply one line of the block. Raises ConfigError."""
        match line.name:
            case "match":
                self.regexps += [_regexp(text, line) for text in arguments.some(line)]
            case "var":
                self._declare(line)
            case "expr":
                self.conditions.append(self._expression(arguments.some(line), line))
            case "answer" | "additional" | "authority":
                self.made[line.name] += [_made(text, line) for text in arguments.some(line)]
            case "rcode":
                self.rcode = arguments.rcode(arguments.one(line), line)
            case "ederror":
                if len(line.args) not in (1, 2):
                    raise line.error("wants CODE [TEXT]")
                code_number = arguments.whole(line.args[0], line, most=65_535)
                self.edns = extended_error(code_number, "".join(line.args[1:]))
            case "fallthrough":
                self.fallthrough = arguments.zone_names(line.args or (".",), line)
            case "upstream":
                pass  # accepted and ignored, as in CoreDNS
            case _:
                raise line.unknown(
                    "match",
                    "var",
                    "expr",
                    "answer",
                    "additional",
                    "authority",
                    "rcode",
                    "ederror",
                    "fallthrough",
                    "upstream",
                )

    def _declare(self, line: Directive) -> None:
        if len(line.args) < 2:
            raise line.error("wants NAME EXPRESSION")
        word = line.args[0]
        if not _VARIABLE.fullmatch(word):
            raise line.error(f"invalid variable name {word!r}")
        if word in self._environment or not expression.is_name(word):
            raise line.error(f"variable name {word!r} is reserved")
        made = self._expression(line.args[1:], line)
        self.variables.append((word, made))
        self._environment[word] = exprvalues.ANY if made.type == exprvalues.NIL else made.type

    def _expression(self, words: tuple[str, ...], line: Directive) -> Expression:
        try:
            return Expression(" ".join(words), self._environment)
        except ExpressionError as error:
            raise line.error(f"could not compile expression: {error}") from error

    def holds(self, values: dict[str, object]) -> bool:
        """Tell whether all conditions are true; adds the variables to ``values``.

        Raises:
            ExpressionError: one cannot be evaluated.
        """
        for word, made in self.variables:
            values[word] = made.run(values)
        return all(condition.run(values) is True for condition in self.conditions)

    def zone_of(self, question: Question) -> WireName | None:
        """Return the zone of a question if its class and type match, or None."""
        if self.qclass not in (ANY_CLASS, question.qclass) and question.qclass != ANY_CLASS:
            return None
        if self.qtype not in (rr.ANY, question.qtype) and question.qtype != rr.ANY:
            return None
        found = [zone for zone in self.zones if name.is_within(question.folded, zone)]
        return max(found, key=len, default=None)

    def match(self, qname: str) -> tuple[Regexp | None, tuple[str, ...]] | None:
        """Return the first regular expression that matches, with its match, or None."""
        if not self.regexps:
            return None, (qname,)
        for regexp in self.regexps:
            found = regexp.search(qname)
            if found is not None:
                return regexp, found
        return None

    def zones_of_addresses(self) -> list[WireName]:
        """Return zones that contain all names whose address questions the rule may answer.

        With fallthrough, the literal ends of the regular expressions limit them.
        """
        found: list[WireName] = []
        for zone in self.zones:
            if not (self.regexps and name.is_within_any(zone, self.fallthrough)):
                found.append(zone)
                continue
            for tail in map(_zone_of_tail, self.regexps):
                if touch(tail, zone):
                    found.append(max(tail, zone, key=len))
        return found

    @property
    def takes_all(self) -> bool:
        """Whether it answers all names of its zones alike."""
        return not self.regexps and not self.conditions and not self.variables


def _regexp(text: str, line: Directive) -> Regexp:
    try:
        return Regexp(text)
    except RegexpError as error:
        raise line.error(f"could not parse regex: {error}", text) from error


def _zone_of_tail(regexp: Regexp) -> WireName:
    """Return the longest known zone of all matching names."""
    _, dot, zone = regexp.tail.lower().partition(".")
    try:
        return name.fold(name.parse(zone)) if dot and zone.endswith(".") else ROOT
    except FormError:
        return ROOT


def _made(text: str, line: Directive) -> Made:
    """Return a template, with its record if that is constant."""
    try:
        template = Template(text, {"parseInt": parse_int}, name=line.name)
    except TemplateError as error:
        raise line.error(f"could not compile template: {error}", text) from error
    record = None
    if template.is_constant:
        try:
            record = masterfile.record(template.render(Struct("", {})))
        except (MasterFileError, TemplateError):
            record = None  # as in CoreDNS, the error is reported at a query
    return Made(template, record)


def parse_int(text: object, base: object, bits: object) -> int:
    """Return a non-negative number (Go: strconv.ParseUint)."""
    if not isinstance(text, str) or isinstance(base, bool) or isinstance(bits, bool):
        raise TemplateError("wrong type for value; expected string, int, int")
    if not isinstance(base, int) or not isinstance(bits, int):
        raise TemplateError("wrong type for value; expected string, int, int")
    try:
        if len(text) > 100 or not text.isascii() or not text[:1].isalnum():
            raise ValueError
        if "_" in text and base:
            raise ValueError
        octal = base == 0 and len(text) > 1 and text[0] == "0" and text[1].isdigit()
        found = int(text, 8 if octal else base)
    except ValueError as error:
        said = f"strconv.ParseUint: parsing {text[:100]!r}: invalid syntax"
        raise TemplateError(said) from error
    if not 0 <= bits <= 64 or found >= 1 << (bits or 64):
        raise TemplateError(f"strconv.ParseUint: parsing {text!r}: value out of range")
    return found


def touch(one: WireName, other: WireName) -> bool:
    """Tell whether one zone contains the other."""
    return name.is_within(one, other) or name.is_within(other, one)
