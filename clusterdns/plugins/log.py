"""log - log queries to standard output.

Syntax:

    log [NAMES...] [FORMAT] {
        class CLASSES...
        rcode RCODES...
        slow DURATION
        sample N
    }

NAMES are the zones to log, `.` by default. FORMAT has `{...}` tokens, or is `{common}` or
`{combined}`; `{/plugin/name}` is a label, see `metadata`, and `{local}` the address of the server.
CLASSES are `success`, `denial`, `error` and `all`, the default. The directive may be repeated; the
first rule whose zone contains the name is used. The names of a namespace are those below
`NAMESPACE.svc.cluster.local`.

These are ours, and a query is logged if all of them want it:

* `rcode` logs only queries with one of these RCODES, as `NXDOMAIN`.
* `slow` logs only queries that took at least DURATION.
* `sample` logs one in N of the queries that are left, chosen at random.

The answer table and the relay stay in use with logging, unless FORMAT has a label or `{local}`.
Lines about their answers are written 20 ms later, many at once. If the reader of the log is too
slow, lines are dropped, and counted in `clusterdns_log_lines_dropped_total`.

Examples:

    . {
        log example.org "{remote} {type} {name} {rcode}" {
            class denial error
        }
        whoami
    }

    cluster.local {
        log shop.svc.cluster.local {
            rcode NXDOMAIN SERVFAIL
        }
        log {
            slow 50ms
            sample 10
        }
        whoami
    }
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from clusterdns.chain import querytext
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import (
    AnswerNext,
    HandleNext,
    Observer,
    Plugin,
    Record,
    Worker,
)
from clusterdns.chain.querytext import Said
from clusterdns.chain.route import ALL_CLASSES, CLASSES, Relayed, Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host import logs
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.tally import OPT_OCTETS
from clusterdns.wire import name, reading, rr
from clusterdns.wire.message import HEADER_OCTETS, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.outcome import outcome_of
from clusterdns.wire.response import Note, Response

_CLASSES = ("success", "denial", "error", "all")
MAX_TEMPLATES = 16_384  # of each transport, half a kilobyte each
# The values that differ between queries with equal octets behind the ID: arguments of a template.
_REMOTE, _PORT, _IDENT, _DURATION, _TIME, _IP, _SECONDS = (f"\x7f{i}\x7f" for i in range(7))
_VARYING = {"{remote}": _REMOTE, "{port}": _PORT, "{>id}": _IDENT, "{duration}": _DURATION}
_JSON_VARYING = {  # with a # behind numbers
    "client_ip": _IP, "client_port": f"{_PORT}#", "id": f"{_IDENT}#",
    "duration_seconds": f"{_SECONDS}#",
}  # fmt: skip
# And those that differ between relayed queries besides.
_NAME, _SIZE, _REPLY_SIZE = (f"\x7f{i}\x7f" for i in range(7, 10))
_OF_RELAYED = _VARYING | {"{name}": _NAME, "{size}": _SIZE, "{rsize}": _REPLY_SIZE}
_JSON_OF_RELAYED = _JSON_VARYING | {
    "qname": _NAME, "request_size": f"{_SIZE}#", "response_size": f"{_REPLY_SIZE}#",
}  # fmt: skip
_RELAYED = "relayed"  # the templates of these
MAX_TEMPLATE_NAME = 100  # octets; a relayed query with a longer name is logged by itself
_log = plugin_logger("log")
_random = random.Random()


Template = Callable[..., str]  # the arguments above -> line


class _Rule(NamedTuple):
    scope: WireName
    parts: tuple[str, ...]  # of its FORMAT: tokens and the text between
    has_labels: bool
    classes: frozenset[str]

    wanted: int  # the same as numbers of CLASSES
    rcodes: frozenset[int]  # all if it is empty
    slow_s: float
    one_in: int

    def wants(self, log_class: str, rcode: int) -> bool:
        """Tell whether it logs responses of a class and with an RCODE."""
        return ("all" in self.classes or log_class in self.classes) and self.wants_rcode(rcode)

    def wants_rcode(self, rcode: int) -> bool:
        return not self.rcodes or rcode in self.rcodes

    @property
    def picks_some(self) -> bool:
        """Whether it leaves out some of the queries that it wants."""
        return self.slow_s > 0 or self.one_in > 1

    def picks(self, seconds: float) -> bool:
        """Tell whether it logs this one, which took ``seconds``, of the queries that it wants."""
        return seconds >= self.slow_s and (self.one_in == 1 or not _random.randrange(self.one_in))


class Log(Observer):
    """Logs every query.

    Hits of the table are logged many lines at once, in ``tell``. Most values of a line depend only
    on the octets behind the ID and the note of the response, so each recent query has a template.
    """

    def __init__(self, directive: Directive, block: Block) -> None:
        self._rules = _rules(directive)
        self._worker: Worker | None = None
        self._templates: dict[tuple[str, bool], dict[tuple[object, ...], Template | None]] = {}

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences, in order."""
        plugin = cls(directives[0], block)
        for directive in directives[1:]:
            plugin._rules += _rules(directive)
        if any(rule.has_labels for rule in plugin._rules):
            plugin.slow = (
                "logs labels, so no answer of the names it logs is repeated from the table"
            )
        return [plugin]

    async def start(self, worker: Worker) -> None:
        """Take the clock for durations."""
        self._worker = worker

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, None if a label is logged."""
        rule = self._rule_for(question.folded)
        return None if rule is not None and rule.has_labels else next(question)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True if one rule applies to all names below."""
        return not any(
            rule.scope != cut and name.is_within(rule.scope, cut) for rule in self._rules
        )

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, and log it."""
        question = query.question
        rule = self._rule_for(question.folded) if question else None
        if rule is None or question is None:
            return await next(query)
        began = self._worker.now() - query.waited_s if self._worker else 0.0
        response = await next(query)
        outcome = outcome_of(question, response, query.opcode)
        log_class = outcome.log_class
        if query.metadata is not None:
            query.metadata.put("log/type", lambda: outcome.value)
            query.metadata.put("log/class", lambda: log_class)
        elapsed = self._worker.now() - began if self._worker else 0.0
        if rule.wants(log_class, response.rcode) and rule.picks(elapsed):
            _log_one(rule, query, Said.by(question, response), elapsed)
        return response

    def told(self, query: Query, response: Response, seconds: float) -> None:
        """Log a query that was answered from memory."""
        question = query.question
        rule = self._rule_for(question.folded) if question else None
        if rule is None or question is None:
            return
        log_class = outcome_of(question, response, query.opcode).log_class
        if rule.wants(log_class, response.rcode) and rule.picks(seconds):
            _log_one(rule, query, Said.by(question, response), seconds)

    def note(self, question: Question, response: Response) -> Note | None:
        """Return the rule and the facts of the response; None if no rule logs it."""
        rule = self._rule_for(question.folded)
        if rule is None:
            return None
        if not rule.wants(outcome_of(question, response).log_class, response.rcode):
            return None
        return (self._rules.index(rule), *Said.by(question, response))

    def tell(
        self, records: Sequence[Record], transport: str, bound: Callable[[Query], None]
    ) -> None:
        """Log queries that the table has answered."""
        if any(rule.picks_some for rule in self._rules):
            records = [each for each in records if self._rules[each[0][0]].picks(each[3])]
        sink = logs.bulk()
        if sink is None:
            for record in records:
                self._log_hit(record, transport, bound)
            return
        if not sink.has_room:
            sink.dropped += len(records)
            return
        templates = self._templates.setdefault((transport, sink.is_json), {})
        lines, moment = list[str](), logs.timestamp() if sink.is_json else ""
        for record in records:
            note, packet, client, seconds, *_ = record
            key = packet[2:], note
            if key not in templates:
                if len(templates) >= MAX_TEMPLATES:
                    templates.clear()
                templates[key] = self._template(record, transport, bound, sink.is_json)
            template = templates[key]
            if template is None:
                self._log_hit(record, transport, bound)
                continue
            host, ident = client[0], packet[0] << 8 | packet[1]
            remote = f"[{host}]" if ":" in host else host
            duration, rounded = f"{seconds:.9f}s", round(seconds, 9)
            lines.append(template(remote, client[1], ident, duration, moment, host, rounded))
        sink.write(lines)

    def _log_hit(self, record: Record, transport: str, bound: Callable[[Query], None]) -> None:
        """Log one query that the table has answered."""
        rule, query, said = self._read(record, transport, bound)
        query.client = record[2][:2]
        _log_one(rule, query, said, record[3])

    def _read(
        self, record: Record, transport: str, bound: Callable[[Query], None]
    ) -> tuple[_Rule, Query, Said]:
        note, packet, *_ = record
        query = reading.read_query(packet)
        assert isinstance(query, Query)  # otherwise it had not been a hit
        query.transport = transport
        bound(query)
        return self._rules[note[0]], query, Said._make(note[1:])

    def _template(
        self, record: Record, transport: str, bound: Callable[[Query], None], is_json: bool
    ) -> Template | None:
        """Return the template for a record, None if its line might be too long."""
        rule, query, said = self._read(record, transport, bound)
        return _made_template(rule, query, said, _VARYING, _JSON_VARYING if is_json else None)

    # ---- relayed queries

    def relay(self, route: Route) -> bool:
        """Let the relay report its queries; exclude names whose labels are logged."""
        wanted = 0
        for rule in self._rules:
            is_whole = name.is_within(route.zone, rule.scope)
            if not (is_whole or name.is_within(rule.scope, route.zone)):
                continue
            if not rule.has_labels:
                wanted |= rule.wanted
            elif is_whole and not wanted:
                return route.refuse("logs labels, which the relay in C does not know")
            elif not route.claim((rule.scope,)):
                return False
            if is_whole:
                break  # further rules are for no name of the zone
        return route.observe(self, wanted) if wanted else True

    def passed(self, records: Sequence[Relayed], servers: Sequence[tuple[str, int]]) -> None:
        """Log queries that the relay has answered."""
        sink = logs.bulk()
        wanted = [(rule, record) for record in records if (rule := self._rule_of(record))]
        if sink is None:
            for rule, record in wanted:
                _log_relayed(rule, record)
            return
        if not sink.has_room:
            sink.dropped += len(wanted)
            return
        lines, moment = list[str](), logs.timestamp()
        templates = self._templates.setdefault((_RELAYED, sink.is_json), {})
        for rule, record in wanted:
            packet, client, _, _, seconds, _, flags, octets, *_ = record
            end = _end_of_question(packet)
            key = rule.parts, packet[2:4], packet[end - 4 :], flags
            if key not in templates:
                if len(templates) >= MAX_TEMPLATES:
                    templates.clear()
                templates[key] = _template_of_relayed(rule, record, is_json=sink.is_json)
            template = templates[key]
            if template is None or end > MAX_TEMPLATE_NAME:
                _log_relayed(rule, record)
                continue
            text = name.text(packet[HEADER_OCTETS : end - 4].lower())
            if sink.is_json and "\\" in text:
                text = logs.escaped(text)
            host, ident = client[0], packet[0] << 8 | packet[1]
            remote = f"[{host}]" if ":" in host else host
            duration, rounded = f"{seconds:.9f}s", round(seconds, 9)
            varying = (remote, client[1], ident, duration, moment, host, rounded)
            lines.append(template(*varying, text, len(packet), octets))
        sink.write(lines)

    def _rule_of(self, record: Relayed) -> _Rule | None:
        """Return the rule that logs a relayed query, None if none does."""
        packet, rule = record[0], self._rules[0]
        if rule.scope != ROOT:
            qname = packet[HEADER_OCTETS : _end_of_question(packet) - 4]
            found = self._rule_for(name.fold(qname))
            if found is None:
                return None
            rule = found
        is_wanted = rule.wanted & record[5] and rule.wants_rcode(record[6] & 15)
        return rule if is_wanted and rule.picks(record[4]) else None

    def _rule_for(self, qname: WireName) -> _Rule | None:
        for rule in self._rules:
            if name.is_within(qname, rule.scope):
                return rule
        return None


def _rules(directive: Directive) -> list[_Rule]:
    """Return the rules of one directive, one for each name. Raises ConfigError."""
    args, format = list(directive.args), "{common}"
    if len(args) > 1 and "{" in args[-1]:
        format = args.pop()
    format = format.replace("{common}", querytext.COMMON).replace("{combined}", querytext.COMBINED)
    classes, rcodes = set[str](), set[int]()
    slow_s, one_in = 0.0, 1
    for line in directive.block:
        match line.name:
            case "class":
                for word in line.args:
                    if word not in _CLASSES:
                        raise line.error(f"unknown class {word!r}")
                    classes.add(word)
            case "rcode":
                rcodes.update(arguments.rcode(word, line) for word in arguments.some(line))
            case "slow":
                slow_s = arguments.seconds(line)
            case "sample":
                one_in = arguments.number(line, least=1)
            case _:
                raise line.unknown("class", "rcode", "slow", "sample")
    try:
        scopes = [name.fold(name.parse(arg)) for arg in args] or [ROOT]
    except FormError as error:
        raise directive.error(str(error)) from error
    parts = querytext.parts(format)
    has_labels = querytext.varies(parts) or "\x7f" in format
    wanted = sum(CLASSES.get(word, 0) for word in classes)
    if not classes or "all" in classes:
        classes, wanted = {"all"}, ALL_CLASSES
    thinned = frozenset(rcodes), slow_s, one_in
    return [
        _Rule(scope, parts, has_labels, frozenset(classes), wanted, *thinned) for scope in scopes
    ]


def _end_of_question(packet: bytes) -> int:
    """Return where the question of a relayed query ends; only a bare OPT may follow."""
    return len(packet) - (OPT_OCTETS if packet[11] else 0)


def _read_relayed(record: Relayed) -> tuple[Query, Said]:
    """Return a relayed query, and the facts of its reply."""
    packet, client, _, _, _, _, flags, octets, *_ = record
    query = reading.read_query(packet)
    assert isinstance(query, Query)  # otherwise the relay had not taken it
    query.client, query.transport = client[:2], "udp"
    return query, Said(True, flags & 15, flags, octets, True)


def _log_relayed(rule: _Rule, record: Relayed) -> None:
    """Log one query that the relay has answered."""
    query, said = _read_relayed(record)
    _log_one(rule, query, said, record[4])


def _template_of_relayed(rule: _Rule, record: Relayed, *, is_json: bool) -> Template | None:
    """Return the template of relayed queries like one, None if its line might be too long."""
    query, said = _read_relayed(record)
    return _made_template(rule, query, said, _OF_RELAYED, _JSON_OF_RELAYED if is_json else None)


def _made_template(
    rule: _Rule,
    query: Query,
    said: Said,
    varying: Mapping[str, str],
    json_varying: Mapping[str, str] | None,
) -> Template | None:
    """Return a template of lines, of JSON if ``json_varying`` is given; None if it is long."""
    text = "".join(
        varying.get(part) or querytext.value(part, query, said, 0.0) for part in rule.parts
    )
    if json_varying is not None:
        text = logs.query_object(text, "log", {**_fields(query, said, 0.0), **json_varying}, _TIME)
    else:
        text = logs.QUERY_HEAD + text
    if len(text.encode()) > logs.MAX_LINE_OCTETS // 2:
        return None
    text = text.replace("{", "{{").replace("}", "}}")
    text = re.sub('"\x7f(.)\x7f#"|\x7f(.)\x7f', lambda m: f"{{{m[1] or m[2]}}}", text)
    return text.format


def _log_one(rule: _Rule, query: Query, said: Said, elapsed_s: float) -> None:
    line = "".join(querytext.value(part, query, said, elapsed_s) for part in rule.parts)
    fields = _fields(query, said, elapsed_s) if logs.is_json() else {}
    logs.log_query(_log, line, fields)


def _fields(query: Query, said: Said, elapsed_s: float) -> dict[str, object]:
    """Return the fields of a query's JSON object (CoreDNS 1.15.0: plugin/log)."""
    question = query.question
    assert question is not None
    return {
        "client_ip": query.client[0],
        "client_port": query.client[1],
        "qname": name.text(question.folded),
        "qtype": rr.type_text(question.qtype),
        "qclass": rr.class_text(question.qclass),
        "protocol": query.transport,
        "id": query.ident,
        "opcode": query.opcode,
        "request_size": query.octets,
        "dnssec_ok": question.do,
        "bufsize": querytext.bufsize(query),
        "rcode": querytext.rcode(said) if said.wrote else None,
        "response_size": said.octets if said.wrote else 0,
        "duration_seconds": round(elapsed_s, 9),
    }
