r"""template - answer with records that are made from templates.

Syntax:

    template CLASS TYPE [ZONES...] {
        match REGEXP...
        var NAME EXPRESSION
        expr EXPRESSION
        answer TEMPLATE...
        additional TEMPLATE...
        authority TEMPLATE...
        rcode CODE
        ederror CODE [TEXT]
        fallthrough [ZONES...]
    }

A question of CLASS and TYPE, either of which may be ANY, for a name in ZONES, by default the server
block's keys, is answered if its name, in lower case and with its last dot, matches one of the
REGEXPs, by default any, and if every `expr` is true. If not, it is SERVFAIL, or with `fallthrough`
the next `template` is tried, and then the plugins behind. The answer has RCODE `rcode`, by default
NOERROR, and a record for each TEMPLATE, which makes the text of one as it stands in a master file;
without a TTL it is 3600. SERVFAIL has no records. An alias that answers a question for an address
is followed by what its target has. `ederror` tells a client with EDNS why (RFC 8914).

TEMPLATEs are those of Go's text/template. They take of their data `.Zone`, the longest of ZONES
that holds the name, `.Name`, `.Class`, `.Type`, `.Regex`, `.Match`, a list of the whole match and
its groups, `.Group`, a map of the groups by number and name, `.Var`, a map of the `var`s,
`.Question` with `Name`, `Qtype` and `Qclass`, `.Remote`, the client's address, `.Meta LABEL`, see
`metadata`, and of `.Message` `Id`, `Opcode` and the flags. There is one more function, `parseInt
TEXT BASE BITS`.

EXPRESSIONs are those of expr-lang, without `now`, `date`, `duration` and `timezone`. The words of
one are joined; one with `#` is put in quotes. Besides the language's own, their functions are
`name()`, `type()`, `class()`, `proto()`, `size()`, `client_ip()`, `port()`, `id()`, `opcode()`,
`do()`, `bufsize()`, `server_ip()`, `server_port()`, `metadata(LABEL)`, `incidr(ADDRESS, CIDR)` and
`group(NAME OR NUMBER)`; their variables are those declared above.

A repeated query is answered from the answer table if the templates depend on the question alone.

Examples:

    lan.example {
        template IN A {
            match ^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<c>[0-9]+)-(?P<d>[0-9]+)[.]lan[.]example[.]$
            answer "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}"
            fallthrough
        }
        template ANY AAAA {
            rcode NOERROR
        }
        whoami
    }

Metrics: `coredns_template_matches_total{server, zone, view, class, type}`, questions that have been
answered; `coredns_template_template_failures_total` and `coredns_template_rr_failures_total` with
the labels `section` and `template` too, templates that could not be evaluated, or made no record.

Differences from CoreDNS: a rule with an EXPRESSION that cannot be evaluated is not about the
question; that is logged every 10 seconds at most. A template that makes nothing makes no record. A
client that sends no OPT gets none, and `ederror` does not set DO. With REFUSED and the like one
reply is sent. At most two aliases are followed. `.Message` has no records, and neither it nor
`.Question` can be printed as a whole. A record may not include a file.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Generator
from typing import ClassVar, NamedTuple

from clusterdns.chain.asking import answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.languages import conditions, expression, exprvalues
from clusterdns.languages.expression import Expression
from clusterdns.languages.exprvalues import ExpressionError, Signature, Type
from clusterdns.languages.gotemplate import AnyMap, Struct, Template, TemplateError
from clusterdns.languages.regexp import Regexp, RegexpError
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import AA, TC, Query, Question, extended_error
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

_LABELS = ("server", "zone", "view", "class", "type")
SECTIONS = ("answer", "additional", "authority")
LOG_PAUSE_S = 10.0  # between two lines about expressions of the same rule
MAX_ALIASES = 2  # that are followed: each may lead to as many, nine deep
# What a template takes that another client, or another query of this one, may have otherwise.
_OF_THE_QUERY = frozenset(("Remote", "Meta", "Message"))
_GROUP: dict[str, Type | Signature] = {"group": Signature((exprvalues.ANY,), exprvalues.STRING)}
_TYPES = {text: number for number, text in rr.TYPE_TEXT.items()}
_CLASSES = {text: number for number, text in rr.CLASS_TEXT.items()}
_RCODES = {text: number for number, text in rr.RCODE_TEXT.items()} | {"BADSIG": 16}
_ADDRESSES = (rr.A, rr.AAAA)
_ANY_CLASS = 255
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_log = plugin_logger("template")


class _Made(NamedTuple):
    """A template of one section; ``record`` is what it always makes, if that is known."""

    template: Template
    record: RR | None


class _Failure(Exception):
    """A template that makes no record of this question."""


class _Data(NamedTuple):
    """What is known of a question that a rule is about."""

    zone: str
    qclass: str
    qtype: str
    fields: Struct


class _Rule:
    """One `template`."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) < 2:
            raise directive.error("wants CLASS TYPE [ZONES...]")
        qclass, qtype, *zones = directive.args
        if qclass not in _CLASSES:
            raise directive.error(f"invalid query class {qclass}")
        if qtype not in _TYPES:
            raise directive.error(f"invalid RR class {qtype}")
        self.qclass, self.qtype = _CLASSES[qclass], _TYPES[qtype]
        self.zones = arguments.zone_names(zones, directive) or block.zones
        self.regexps: list[Regexp] = []
        self.variables: list[tuple[str, Expression]] = []
        self.conditions: list[Expression] = []
        self._environment = {**conditions.OF_THE_QUESTION, **conditions.OF_THE_QUERY, **_GROUP}
        self.quiet_until = 0.0
        self.fallthrough: tuple[WireName, ...] = ()
        self.rcode = rr.NOERROR
        self.edns: message.Edns | None = None
        self.made: dict[str, list[_Made]] = {section: [] for section in SECTIONS}
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
        """Take in one line of the block. Raises ConfigError."""
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
                code = arguments.one(line)
                if code not in _RCODES:
                    raise line.error(f"unknown rcode {code}")
                self.rcode = _RCODES[code]
            case "ederror":
                if len(line.args) not in (1, 2):
                    raise line.error("wants CODE [TEXT]")
                code_number = arguments.whole(line.args[0], line, most=65_535)
                self.edns = extended_error(code_number, "".join(line.args[1:]))
            case "fallthrough":
                self.fallthrough = arguments.zone_names(line.args or (".",), line)
            case "upstream":
                pass  # CoreDNS takes and ignores it
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
        """Tell whether all conditions are true; ``values`` are given the variables, too.

        Raises:
            ExpressionError: one cannot be evaluated.
        """
        for word, made in self.variables:
            values[word] = made.run(values)
        return all(condition.run(values) is True for condition in self.conditions)

    def zone_of(self, question: Question) -> WireName | None:
        """Return the zone of ours a question lies in if its class and type are ours, or None."""
        if self.qclass not in (_ANY_CLASS, question.qclass) and question.qclass != _ANY_CLASS:
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
        """Return zones outside of which nobody's question for an address is answered here.

        Where others fall through, the end of the regular expressions tells: in names as text, but
        for labels with dots in them.
        """
        found: list[WireName] = []
        for zone in self.zones:
            if not (self.regexps and name.is_within_any(zone, self.fallthrough)):
                found.append(zone)
                continue
            for tail in map(_zone_of_tail, self.regexps):
                if _touch(tail, zone):
                    found.append(max(tail, zone, key=len))
        return found

    @property
    def takes_all(self) -> bool:
        """Whether names do not matter, in its zones."""
        return not self.regexps and not self.conditions and not self.variables


def _regexp(text: str, line: Directive) -> Regexp:
    try:
        return Regexp(text)
    except RegexpError as error:
        raise line.error(f"could not parse regex: {error}", text) from error


def _zone_of_tail(regexp: Regexp) -> WireName:
    """Return the longest zone that all names lie in which match, as far as one can see."""
    _, dot, zone = regexp.tail.lower().partition(".")
    try:
        return name.fold(name.parse(zone)) if dot and zone.endswith(".") else ROOT
    except FormError:
        return ROOT


def _made(text: str, line: Directive) -> _Made:
    """Return a template, and the record it makes if that is always the same one."""
    try:
        template = Template(text, {"parseInt": _parse_int}, name=line.name)
    except TemplateError as error:
        raise line.error(f"could not compile template: {error}", text) from error
    record = None
    if template.is_constant:
        try:
            record = masterfile.record(template.render(Struct("", {})))
        except (MasterFileError, TemplateError):
            record = None  # as in CoreDNS, whoever asks learns of it
    return _Made(template, record)


def _parse_int(text: object, base: object, bits: object) -> int:
    """Return a number that is not negative (Go: strconv.ParseUint)."""
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


class TemplatePlugin(Plugin):
    """All `template` of a server block, in the order of the file."""

    families: ClassVar = {
        "template_matches_total": Family("Counter of template regex matches.", _LABELS),
        "template_template_failures_total": Family(
            "Counter of go template failures.", (*_LABELS, "section", "template")
        ),
        "template_rr_failures_total": Family(
            "Counter of mis-templated RRs.", (*_LABELS, "section", "template")
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._rules = [_Rule(directive, block)]
        self._worker: Worker | None = None
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin for all occurrences."""
        plugin = cls(directives[0], block)
        plugin._rules += [_Rule(directive, block) for directive in directives[1:]]
        return [plugin]

    async def start(self, worker: Worker) -> None:
        """Take the clock that log lines are counted by."""
        self._worker = worker

    # ---- questions

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the rules make of a question, None if that depends on the query."""
        for rule in self._rules:
            if rule.zone_of(question) is not None and not rule.is_same_for_all:
                return None
        steps = self._respond(question, None)
        return answer_by(steps, question, self._block.resolver, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the rules make of a query."""
        if query.question is None:
            return await next(query)
        steps = self._respond(query.question, query)
        return await handle_by(steps, query, self._block.resolver, next)

    def _respond(
        self, question: Question, query: Query | None
    ) -> Generator[Question, Response, Response | None]:
        """Yield questions about targets of aliases; return the response, None for no rule."""
        for rule in self._rules:
            zone = rule.zone_of(question)
            if zone is None:
                continue
            data = self._data(rule, zone, question, query)
            if data is not None:
                return (yield from self._obey(rule, data, question))
            if not name.is_within_any(question.folded, rule.fallthrough):
                return failure(rr.SERVFAIL)
        return None

    def _data(
        self, rule: _Rule, zone: WireName, question: Question, query: Query | None
    ) -> _Data | None:
        """Return what templates take of a question, None if the rule is not about it."""
        qname = name.text(question.folded)
        matched = rule.match(qname)
        if matched is None:
            return None
        regexp, match = matched
        groups = {str(i): text for i, text in enumerate(match)}
        named = zip(regexp.names if regexp else (), match[1:], strict=True)
        groups |= {group: text for group, text in named if group}
        qclass, qtype = question.qclass, question.qtype
        class_text = rr.CLASS_TEXT.get(rule.qclass if qclass == _ANY_CLASS else qclass, "")
        type_text = rr.TYPE_TEXT.get(rule.qtype if qtype == rr.ANY else qtype, "")
        fields: dict[str, object] = {
            "Zone": rule.zone_texts[zone],
            "Name": qname,
            "Regex": regexp.text if regexp else ".*",
            "Match": list(match),
            "Group": groups,
            "Class": class_text,
            "Type": type_text,
            "Remote": query.client[0] if query else "",
            "Var": AnyMap(),
        }
        if "Question" in rule.fields:
            fields["Question"] = _question(question)
        if "Message" in rule.fields:
            fields["Message"] = _message(query, question)
        if rule.variables or rule.conditions:
            values = conditions.functions(question, query)
            values["group"] = functools.partial(_group, groups)
            try:
                if not rule.holds(values):
                    return None
            except ExpressionError as error:
                self._complain(rule, qname, error)
                return None
            fields["Var"] = AnyMap((word, values[word]) for word, _ in rule.variables)
        methods = {"Meta": functools.partial(_meta, query)}
        struct = Struct("*template.templateData", fields, methods)
        return _Data(rule.zone_texts[zone], class_text, type_text, struct)

    def _complain(self, rule: _Rule, qname: str, error: ExpressionError) -> None:
        now = self._worker.now() if self._worker else 0.0
        if now >= rule.quiet_until:
            rule.quiet_until = now + LOG_PAUSE_S
            _log.warning("expression for %s cannot be evaluated: %s", qname, error)

    def _obey(
        self, rule: _Rule, data: _Data, question: Question
    ) -> Generator[Question, Response, Response]:
        """Yield questions about targets of aliases; return what a rule says that matched."""
        move = ("template_matches_total", self._labels(data))
        if rule.rcode == rr.SERVFAIL:
            self._counts[move] += 1
            return failure(rr.SERVFAIL)
        answer: list[RR] = []
        aliases = MAX_ALIASES
        flags, lifetime_s, facts = AA, math.inf, dict[object, None]()
        try:
            for made in rule.made["answer"]:
                record = self._record("answer", made, data)
                if record is None:
                    continue
                answer.append(record)
                if record.rtype == rr.CNAME and question.qtype in _ADDRESSES and aliases:
                    aliases -= 1
                    target = record.rdata
                    found = yield question._replace(qname=target, folded=name.fold(target))
                    answer += found.answer
                    flags = flags & ~TC | found.flags & TC
                    lifetime_s = min(lifetime_s, found.lifetime_s)
                    facts.update(dict.fromkeys(found.facts))
            rest = {
                section: tuple(
                    record
                    for made in rule.made[section]
                    if (record := self._record(section, made, data)) is not None
                )
                for section in SECTIONS[1:]
            }
        except _Failure as error:
            self._counts[move] += 1
            return failure(rr.SERVFAIL, str(error))
        self._counts[move] += 1
        return Response(
            rule.rcode,
            flags,
            tuple(answer),
            rest["authority"],
            rest["additional"],
            edns=rule.edns,
            lifetime_s=lifetime_s,
            facts=tuple(facts),
            counters=(move,),
        )

    def _record(self, section: str, made: _Made, data: _Data) -> RR | None:
        """Return the record that a template makes, None for an empty text. Raises _Failure."""
        if made.record is not None:
            return made.record
        try:
            metric = "template_template_failures_total"
            text = made.template.render(data.fields)
            metric = "template_rr_failures_total"
            return masterfile.record(text)
        except (TemplateError, MasterFileError) as error:
            labels = (*self._labels(data), section, made.template.canonical)
            self._counts[metric, labels] += 1
            raise _Failure(f"template: {section}: {error}") from error

    def _labels(self, data: _Data) -> tuple[str, ...]:
        return self._block.server, data.zone, self._block.view, data.qclass, data.qtype

    # ---- what need not come by here

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no name below ``cut`` is asked about its address in vain here."""
        return all(
            rule.qclass not in (_ANY_CLASS, rr.CLASS_IN)
            or rule.qtype not in (*_ADDRESSES, rr.ANY)
            or not any(_touch(zone, cut) for zone in rule.zones)
            or (rule.takes_all and any(name.is_within(cut, zone) for zone in rule.zones))
            for rule in self._rules
        )

    def relay(self, route: Route) -> bool:
        """Leave questions for addresses in our zones to the chain."""
        for rule in self._rules:
            if rule.qclass not in (_ANY_CLASS, rr.CLASS_IN):
                continue
            zones = tuple(rule.zones_of_addresses())
            if rule.qtype in _ADDRESSES and name.is_within_any(route.zone, zones):
                if not route.leave(rule.qtype):
                    return False
            elif rule.qtype in (*_ADDRESSES, rr.ANY) and not route.claim(zones):
                return False
        return True

    def samples(self) -> list[Sample]:
        """Return how often rules matched and templates failed, but for what the table repeats."""
        return [(*key, times) for key, times in self._counts.items()]


def _touch(one: WireName, other: WireName) -> bool:
    return name.is_within(one, other) or name.is_within(other, one)


def _question(question: Question) -> Struct:
    fields = {
        "Name": name.text(question.qname),
        "Qtype": question.qtype,
        "Qclass": question.qclass,
    }
    return Struct("*dns.Question", fields)


def _message(query: Query | None, question: Question) -> Struct:
    flags = query.flags if query else 0
    bits = {
        "Response": message.QR,
        "Authoritative": message.AA,
        "Truncated": message.TC,
        "RecursionDesired": message.RD,
        "RecursionAvailable": message.RA,
        "Zero": message.Z,
        "AuthenticatedData": message.AD,
        "CheckingDisabled": message.CD,
    }
    fields: dict[str, object] = {field: bool(flags & bit) for field, bit in bits.items()}
    fields |= {"Id": query.ident if query else 0, "Opcode": query.opcode if query else 0}
    return Struct("*dns.Msg", {**fields, "Rcode": flags & 15, "Question": [_question(question)]})


def _group(groups: dict[str, str], key: object) -> str:
    """Return the text of a group by number or name, "" if there is none."""
    return groups.get(str(key), "") if type(key) in (int, str) else ""


def _meta(query: Query | None, label: object) -> str:
    if not isinstance(label, str):
        raise TemplateError("wrong type for value; expected string")
    return query.label(label) if query is not None else ""
