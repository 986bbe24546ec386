r"""errors - log the errors of the next plugins.

Syntax:

    errors [stdout] {
        stacktrace
        consolidate DURATION REGEXP [warning|error|info|debug] [show_first]
    }

Every error response is logged as `[ERROR] plugin/errors: <rcode> <name> <type>: <error>`.
`consolidate` counts errors that match REGEXP and logs only their number, once in each DURATION.
`stacktrace` is accepted and has no effect: the traceback of a bug is always logged, once for each
place in the code.

Examples:

    . {
        errors {
            consolidate 5m ".* i/o timeout$" warning show_first
        }
        whoami
    }
"""

from __future__ import annotations

import logging
import re

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile.arguments import duration_s
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

MAX_REGEXP_LENGTH = 10_000
_LEVELS = {
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_log = plugin_logger("errors")


class _Pattern:
    """One ``consolidate``: how many errors matched since the timer started."""

    def __init__(self, line: Directive) -> None:
        if len(line.args) < 2:
            raise line.error("consolidate wants DURATION REGEXP [LEVEL] [show_first]")
        self.period_s = duration_s(line.args[0], line)
        self.text = line.args[1]
        if len(self.text) > MAX_REGEXP_LENGTH:
            raise line.error(f"regular expression longer than {MAX_REGEXP_LENGTH}")
        try:
            self.regexp = re.compile(self.text)
        except re.error as error:
            raise line.error(f"bad regular expression: {error}") from error
        rest = list(line.args[2:])
        self.level = _LEVELS[rest.pop(0)] if rest and rest[0] in _LEVELS else logging.ERROR
        self.shows_first = rest == ["show_first"]
        if rest and not self.shows_first:
            raise line.error(f"unknown word {rest[0]!r}")
        self.count = 0
        self.due = 0.0

    def flush(self, now: float) -> None:
        if not self.count or now < self.due:
            return
        if not (self.shows_first and self.count == 1):
            period = f"{self.period_s:g}s"
            _log.log(
                self.level, "%d errors like '%s' occurred in last %s", self.count, self.text, period
            )
        self.count = 0


class Errors(Plugin):
    """Logs the ``error`` of every response that passes."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args and directive.args != ("stdout",):
            raise directive.error(f"invalid log file {directive.args[0]!r}")
        self._patterns: list[_Pattern] = []
        self._worker: Worker | None = None
        for line in directive.block:
            if line.name == "consolidate":
                self._patterns.append(_Pattern(line))
            elif line.name != "stacktrace":
                raise line.unknown("consolidate", "stacktrace")

    async def start(self, worker: Worker) -> None:
        """Take the clock for `consolidate`."""
        self._worker = worker

    async def stop(self) -> None:
        """Log the counts so far."""
        for pattern in self._patterns:
            pattern.flush(float("inf"))

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin from memory."""
        response = next(question)
        if response is not None and response.error:
            self._report(question, response)
        return response

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: only replies handed over to the chain can have an error."""
        return True

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, and log its error."""
        response = await next(query)
        if response.error and query.question:
            self._report(query.question, response)
        return response

    def _report(self, question: Question, response: Response) -> None:
        now = self._worker.now() if self._worker else 0.0
        for pattern in self._patterns:
            pattern.flush(now)
            if pattern.regexp.search(response.error):
                if not pattern.count:
                    pattern.due = now + pattern.period_s
                pattern.count += 1
                if pattern.count == 1 and pattern.shows_first:
                    self._log(pattern.level, question, response)
                return
        self._log(logging.ERROR, question, response)

    def _log(self, level: int, question: Question, response: Response) -> None:
        qname, qtype = name.text(question.folded), rr.type_text(question.qtype)
        _log.log(level, "%d %s %s: %s", response.rcode, qname, qtype, response.error)
