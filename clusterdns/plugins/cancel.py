"""cancel - give up a query that takes too long.

Syntax:

    cancel [DURATION]

A query that the plugins behind have not answered after DURATION, by default 5001ms, is answered
with SERVFAIL. What it has begun, such as a query to an upstream server that others wait for, goes
on.

Examples:

    . {
        cancel 1s
        forward . 192.0.2.53
    }

With a DURATION below 5s the relay is not used: all queries that are not answered from memory take
the chain.

Differences from CoreDNS: in CoreDNS only some plugins check the time limit; here it ends every
query.
"""

from __future__ import annotations

import asyncio

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.wire import rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

DEFAULT_S = 5.001
RELAYED_S = 5.0  # as long as `forward` tries at most


class Cancel(Plugin):
    """Waits for the plugins behind, but not for ever."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        self._timeout_s = DEFAULT_S
        if directive.args:
            self._timeout_s = arguments.seconds(directive, is_positive=True)
        arguments.ignore_block(directive)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind know without waiting."""
        return next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the plugins behind say in time, or SERVFAIL."""
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await next(query)
        except TimeoutError:
            if not limit.expired():
                raise
            return failure(rr.SERVFAIL, "context deadline exceeded")

    def treats_alike(self, cut: WireName) -> bool:
        """Say yes: no name matters here."""
        return True

    def relay(self, route: Route) -> bool:
        """Let pass if `forward` gives up no later."""
        if self._timeout_s >= RELAYED_S:
            return True
        return route.refuse(f"gives up before {RELAYED_S:g}s, which the relay in C does not")
