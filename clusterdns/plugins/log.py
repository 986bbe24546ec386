"""log - log queries to standard output.

Syntax:

    log [NAMES...] [FORMAT] {
        class CLASSES...
    }

NAMES are the zones to log, `.` by default. FORMAT holds `{...}` tokens; `{common}` and `{combined}`
are the ready-made ones; `{/plugin/name}` is a label, see `metadata`. CLASSES are `success`,
`denial`, `error` and `all`, the default. The directive may be repeated; the first rule whose zone
contains the name is used.

Examples:

    . {
        log example.org "{remote} {type} {name} {rcode}" {
            class denial error
        }
        whoami
    }
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, HandleNext, Plugin, Worker
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host import logs
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Query
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.outcome import outcome_of
from clusterdns.wire.response import Response, uncompressed_octets

COMMON = (
    '{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}"'
    " {rcode} {>rflags} {rsize} {duration}"
)
COMBINED = COMMON + ' "{>opcode}"'
_CLASSES = ("success", "denial", "error", "all")
_FLAGS = (("qr", message.QR), ("aa", message.AA), ("tc", message.TC), ("rd", message.RD),
          ("ra", message.RA), ("z", message.Z), ("ad", message.AD), ("cd", message.CD))  # fmt: skip
_TOKEN = re.compile(r"\{[^{}]*\}")
_log = plugin_logger("log")


class _Rule(NamedTuple):
    scope: WireName
    format: str
    classes: frozenset[str]


class Log(Plugin):
    """Logs every query; a block with `log` answers each one through `handle`."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._rules = _rules(directive)
        self._worker: Worker | None = None

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences, in their order."""
        plugin = cls(directives[0], block)
        for directive in directives[1:]:
            plugin._rules += _rules(directive)
        return [plugin]

    async def start(self, worker: Worker) -> None:
        """Take the clock durations are measured by."""
        self._worker = worker

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the plugins behind and log it."""
        question = query.question
        rule = self._rule_for(question.folded) if question else None
        if rule is None or question is None:
            return await next(query)
        began = self._worker.now() if self._worker else 0.0
        response = await next(query)
        outcome = outcome_of(question, response, query.opcode)
        kind = outcome.log_class
        if query.metadata is not None:
            query.metadata.put("log/type", lambda: outcome.value)
            query.metadata.put("log/class", lambda: kind)
        if "all" in rule.classes or kind in rule.classes:
            elapsed = self._worker.now() - began if self._worker else 0.0
            fields = _fields(query, response, elapsed) if logs.is_json() else {}
            logs.log_query(_log, _line(rule.format, query, response, elapsed), fields)
        return response

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
    format = format.replace("{common}", COMMON).replace("{combined}", COMBINED)
    classes = set[str]()
    for line in directive.block:
        if line.name != "class":
            raise line.unknown("class")
        for word in line.args:
            if word not in _CLASSES:
                raise line.error(f"unknown class {word!r}")
            classes.add(word)
    try:
        scopes = [name.fold(name.parse(arg)) for arg in args] or [ROOT]
    except FormError as error:
        raise directive.error(str(error)) from error
    return [_Rule(scope, format, frozenset(classes or {"all"})) for scope in scopes]


def _line(format: str, query: Query, response: Response, elapsed_s: float) -> str:
    values = _values(query, response, elapsed_s)

    def value(match: re.Match[str]) -> str:
        token = match[0]
        if token.startswith("{/"):
            said = query.metadata.value(token[2:-1]) if query.metadata is not None else None
            return "-" if said is None else said
        return values.get(token, token)

    return _TOKEN.sub(value, format)


def _fields(query: Query, response: Response, elapsed_s: float) -> dict[str, object]:
    """Return the fields of a query's JSON object (CoreDNS 1.15.0: plugin/log)."""
    values = _values(query, response, elapsed_s)
    wrote = response is not DROP
    assert query.question is not None
    return {
        "client_ip": query.client[0],
        "client_port": query.client[1],
        "qname": values["{name}"],
        "qtype": values["{type}"],
        "qclass": values["{class}"],
        "protocol": values["{proto}"],
        "id": query.ident,
        "opcode": query.opcode,
        "request_size": query.octets,
        "dnssec_ok": query.question.do,
        "bufsize": int(values["{>bufsize}"]),
        "rcode": values["{rcode}"] if wrote else None,
        "response_size": int(values["{rsize}"]),
        "duration_seconds": round(elapsed_s, 9),
    }


def _values(query: Query, response: Response, elapsed_s: float) -> dict[str, str]:
    """Return the value of every token (CoreDNS: plugin/pkg/replacer)."""
    question = query.question
    assert question is not None
    address, port = query.client
    wrote = response is not DROP
    flags = message.QR | response.flags | response.rcode
    if not response.verbatim and query.opcode == message.OPCODE_QUERY:
        flags |= query.flags & (message.RD | message.CD)
    size = query.edns.size if query.edns else 512
    return {
        "{remote}": f"[{address}]" if ":" in address else address,
        "{port}": str(port),
        "{>id}": str(query.ident),
        "{type}": rr.type_text(question.qtype),
        "{class}": rr.class_text(question.qclass),
        "{name}": name.text(question.folded),
        "{proto}": query.transport,
        "{size}": str(query.octets),
        "{>do}": "true" if question.do else "false",
        "{>bufsize}": str(message.MAX_OCTETS if query.transport == "tcp" else max(512, size)),
        "{rcode}": rr.RCODE_TEXT.get(response.rcode, str(response.rcode)) if wrote else "-",
        "{>rflags}": ",".join(word for word, bit in _FLAGS if flags & bit) if wrote else "-",
        "{rsize}": str(uncompressed_octets(question, response)) if wrote else "0",
        "{duration}": f"{elapsed_s:.9f}s",
        "{>opcode}": str(query.opcode),
    }
