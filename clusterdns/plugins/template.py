r"""template - answer with records made from templates.

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

A question of CLASS and TYPE, each of them may be ANY, for a name in ZONES, by default the server
block's keys, is answered if its name, in lower case and with its last dot, matches one of the
REGEXPs, by default any, and if every `expr` is true. If not, it is SERVFAIL, or with `fallthrough`
the next `template` is tried, and then the next plugin. The answer has RCODE `rcode`, by default
NOERROR, and a record for each TEMPLATE, which makes its text in master file syntax;
without a TTL it is 3600. SERVFAIL has no records. For address questions the target of an
alias is looked up. `ederror` adds an Extended DNS Error for clients with EDNS (RFC 8914).

TEMPLATEs are those of Go's text/template. Their data has `.Zone`, the longest of ZONES that
contains the name, `.Name`, `.Class`, `.Type`, `.Regex`, `.Match`, a list of the whole match and its
groups, `.Group`, a map of the groups by number and name, `.Var`, a map of the `var`s, `.Question`
with `Name`, `Qtype` and `Qclass`, `.Remote`, the client's address, `.Meta LABEL`, see `metadata`,
and `.Message` with `Id`, `Opcode` and the flags. An additional function is `parseInt TEXT BASE
BITS`.

EXPRESSIONs are those of expr-lang, without `now`, `date`, `duration` and `timezone`. The words of
one are joined; one with `#` needs quotes. Besides the language's own, their functions are
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

Metrics: `coredns_template_matches_total{server, zone, view, class, type}`, questions answered;
`coredns_template_template_failures_total` and `coredns_template_rr_failures_total` with the labels
`section` and `template` too, templates that could not be evaluated, or made an invalid record.

Differences from CoreDNS: a rule with an EXPRESSION that cannot be evaluated does not match; that is
logged at most every 10 seconds. An empty text makes no record. A client without OPT gets none, and
`ederror` does not set DO. For REFUSED and similar return codes one reply is sent. At most two
aliases are followed. `.Message` has no records, and neither it nor `.Question` can be printed as a
whole. A record may not include a file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from typing import ClassVar

from clusterdns.chain.asking import answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.languages.exprvalues import ExpressionError
from clusterdns.languages.gotemplate import TemplateError
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.templating.data import Data, data_of
from clusterdns.templating.rule import ADDRESSES, ANY_CLASS, SECTIONS, Made, Rule, touch
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, TC, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

_LABELS = ("server", "zone", "view", "class", "type")
LOG_PAUSE_S = 10.0  # between two lines about expressions of the same rule
MAX_ALIASES = 2  # followed; each may lead to as many, nine deep
_log = plugin_logger("template")


class _Failure(Exception):
    """A template makes no valid record for this question."""


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
        self._rules = [Rule(directive, block.zones)]
        self._worker: Worker | None = None
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin for all occurrences."""
        plugin = cls(directives[0], block)
        plugin._rules += [Rule(directive, block.zones) for directive in directives[1:]]
        return [plugin]

    async def start(self, worker: Worker) -> None:
        """Take the clock for log lines."""
        self._worker = worker

    # ---- questions

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the rules, None if it depends on the query."""
        for rule in self._rules:
            if rule.zone_of(question) is not None and not rule.is_same_for_all:
                return None
        steps = self._respond(question, None)
        return answer_by(steps, question, self._block.resolver, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the rules to a query."""
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
            if (taker := trace.scribe()) is not None:
                matches = "matches" if data is not None else "does not match the name"
                by = f" ({' '.join(each.text for each in rule.regexps)})" if rule.regexps else ""
                is_end = data is None and not name.is_within_any(question.folded, rule.fallthrough)
                makes_none = not rule.made["answer"] or rule.rcode != rr.NOERROR
                note = taker.blame if is_end or (data and makes_none) else taker.note
                note(f"the rule for {name.text(zone)} {matches}{by}", place=rule.place)
            if data is not None:
                return (yield from self._obey(rule, data, question))
            if not name.is_within_any(question.folded, rule.fallthrough):
                return failure(rr.SERVFAIL)
        return None

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no rule is for the question, for `explain`."""
        kind = rr.type_text(question.qtype)
        return "" if is_own else f"no rule is for type {kind} in a zone with the name"

    def _data(
        self, rule: Rule, zone: WireName, question: Question, query: Query | None
    ) -> Data | None:
        """Return the data of a question, None if the rule does not match."""
        try:
            return data_of(rule, zone, question, query)
        except ExpressionError as error:
            now = self._worker.now() if self._worker else 0.0
            if now >= rule.quiet_until:
                rule.quiet_until = now + LOG_PAUSE_S
                qname = name.text(question.folded)
                _log.warning("expression for %s cannot be evaluated: %s", qname, error)
            return None

    def _obey(
        self, rule: Rule, data: Data, question: Question
    ) -> Generator[Question, Response, Response]:
        """Yield questions about targets of aliases; return the response of a matching rule."""
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
                if record.rtype == rr.CNAME and question.qtype in ADDRESSES and aliases:
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

    def _record(self, section: str, made: Made, data: Data) -> RR | None:
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

    def _labels(self, data: Data) -> tuple[str, ...]:
        return self._block.server, data.zone, self._block.view, data.qclass, data.qtype

    # ---- fast paths

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether the rules treat questions below ``cut`` alike, of whatever type."""
        return all(
            rule.qclass not in (ANY_CLASS, rr.CLASS_IN)
            or not any(touch(zone, cut) for zone in rule.zones)
            or (rule.takes_all and any(name.is_within(cut, zone) for zone in rule.zones))
            for rule in self._rules
        )

    def passes(self, qtype: int) -> bool:
        """Tell whether no rule is for a type."""
        return not any(
            rule.qclass in (ANY_CLASS, rr.CLASS_IN) and rule.qtype in (qtype, rr.ANY)
            for rule in self._rules
        )

    def relay(self, route: Route) -> bool:
        """Exclude our names and types from the relay."""
        for rule in self._rules:
            if rule.qclass not in (ANY_CLASS, rr.CLASS_IN):
                continue
            zones = tuple(rule.zones_of_addresses())
            if rule.qtype in ADDRESSES and name.is_within_any(route.zone, zones):
                if not route.leave(rule.qtype):
                    return False
            elif rule.qtype in (*ADDRESSES, rr.ANY):
                if not route.claim(zones):
                    return False
            elif any(touch(zone, route.zone) for zone in zones) and not route.leave(rule.qtype):
                return False
        return True

    def samples(self) -> list[Sample]:
        """Return the counts of matches and failures, without hits of the table."""
        return [(*key, times) for key, times in self._counts.items()]
