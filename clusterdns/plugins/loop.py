"""loop - find out whether what is forwarded comes back.

Syntax:

    loop

At the start a question for a random name is sent to the server itself. If it arrives more than
twice, an upstream server sends it back: `forward` then answers with SERVFAIL, which ends the loop.

Examples:

    . {
        loop
        forward . 192.0.2.53
    }

Differences from CoreDNS: the process goes on, so that the names it knows itself still resolve, and
the test is repeated every 30 s: when the loop is gone, names are forwarded again.
"""

from __future__ import annotations

import asyncio
import secrets

from clusterdns import name, rr
from clusterdns.answers import Response
from clusterdns.corefile import Directive
from clusterdns.errors import UpstreamError
from clusterdns.logs import plugin_logger
from clusterdns.message import RD, Query, Question
from clusterdns.plugin import AnswerNext, Block, HandleNext, Plugin, Worker, end, no_arguments
from clusterdns.upstream import Exchange, Options, Upstream

MAX_SEEN = 2
RETRY_S = 1.0
RETRIES = 30
RETEST_S = 30.0
_log = plugin_logger("loop")


class Loop(Plugin):
    """Sends a probe through the block and counts how often it passes."""

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)
        self._block = block
        numbers = f"{secrets.randbelow(2**62)}.{secrets.randbelow(2**62)}."
        # Made before the workers are forked: whichever of them a probe comes back to knows it.
        self._probe = name.fold(name.parse(numbers + name.text(block.zones[0]).lstrip(".")))
        self._seen = 0
        self._is_testing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, worker: Worker) -> None:
        """Begin to test."""
        self._is_testing = True
        self._task = asyncio.create_task(self._test())

    async def stop(self) -> None:
        """End the test."""
        await end(self._task)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Pass on; a probe has to be seen each time it comes."""
        return None if self._is_probe(question) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Count a probe, and pass on."""
        if query.question is not None and self._is_probe(query.question):
            self._seen += 1
            if self._seen > MAX_SEEN and not self._block.is_looping:
                self._report(query)
        return await next(query)

    def _is_probe(self, question: Question) -> bool:
        return self._is_testing and question.qtype == rr.HINFO and question.folded == self._probe

    def _report(self, query: Query) -> None:
        self._block.is_looping = True
        _log.error(
            'Loop (%s:%d -> %s) detected for zone "%s": forwarded names fail until it is gone',
            *query.client,
            self._block.server.removeprefix("dns://"),
            name.text(self._block.zones[0]),
        )

    async def _test(self) -> None:
        """Test once; after a loop was found, again and again until it is gone."""
        await self._send_probes()
        while self._block.is_looping:
            await asyncio.sleep(RETEST_S)
            self._block.is_looping = False
            await self._send_probes()
            if not self._block.is_looping:
                _log.info("the loop is gone: names are forwarded again")
        self._is_testing = False

    async def _send_probes(self) -> None:
        """Ask ourselves until there is a reply (CoreDNS: plugin/loop/setup.go)."""
        host = (self._block.hosts or ["127.0.0.1"])[0]
        question = Question(self._probe, self._probe, rr.HINFO)
        server = Upstream(host, self._block.ports[0], Options())
        for _ in range(RETRIES):
            self._seen = 0
            try:
                await server.ask(Exchange.begin(question, RD, None), "udp")
                return
            except UpstreamError:
                if self._block.is_looping:
                    return
                await asyncio.sleep(RETRY_S)
