"""cancel - end a query that takes too long.

Syntax:

    cancel [DURATION]

A query that the next plugins have not answered after DURATION, by default 5001ms, gets SERVFAIL.
Work it has started, such as an upstream query that other clients share, continues.

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
from clusterdns.wire import rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

DEFAULT_S = 5.001
RELAYED_S = 5.0  # the longest time of a query in `forward`


class Cancel(Plugin):
    """Bounds the time of the next plugins."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        self._timeout_s = DEFAULT_S
        if directive.args:
            self._timeout_s = arguments.seconds(directive, is_positive=True)
        arguments.ignore_block(directive)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin from memory."""
        return next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin if it comes in time, or SERVFAIL."""
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await next(query)
        except TimeoutError:
            if not limit.expired():
                raise
            if (taker := trace.scribe()) is not None:
                taker.blame(f"no plugin has answered in {self._timeout_s:g} s")
            return failure(rr.SERVFAIL, "context deadline exceeded")

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True if `forward` ends earlier."""
        if self._timeout_s >= RELAYED_S:
            return True
        return route.refuse(f"gives up before {RELAYED_S:g}s, which the relay in C does not")
