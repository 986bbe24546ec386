"""loop - detect forwarding loops, and break them.

Syntax:

    loop

At the start every worker sends a probe, a query for a random name, to this server. If the probe
arrives at that worker more than twice, an upstream server sends it back: `forward` then answers
SERVFAIL, which breaks the loop. A loop that closes later is found, too: queries then return while
they are under way. If such a query has no reply for half a second, the test is repeated, at most
once a second. Only names of the running test count, each is used once, and after a loop the test is
repeated until it is gone, so a client cannot fake a loop with a name it has seen.

Examples:

    . {
        loop
        forward . 192.0.2.53
    }

Differences from CoreDNS: the process does not exit, so that its own names still resolve, and the
test is repeated every 30 s. When the loop is gone, names are forwarded again. A loop is logged
once, with the upstream servers. Clients with EDNS get an Extended DNS Error with the SERVFAIL (RFC
8914, 23). CoreDNS does not find loops that close after the start.

Metrics: `clusterdns_forwarding_loop{server}` is the number of workers that know of a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker, no_arguments
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError, UpstreamError
from clusterdns.forwarding.outside import Outside
from clusterdns.forwarding.upstream import Upstream, UpstreamOptions
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr
from clusterdns.wire.message import RD, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

MAX_SEEN = 2
# Arrivals of another worker's probe, or a fake one. Its own worker has probably had three by then,
# and fake probes get no more hops than this through a loop.
MAX_PASSED = 16
RETRY_S = 1.0
TEST_S = 30.0
RETEST_S = 30.0
DOUBT_S = 0.5  # normal upstream servers reply within it; a loop is found within 2 s
MAX_NUMBER = 2**62
MAX_PROBES = 1024  # whose arrivals are counted; workers send one a second at most
_SERVFAIL = failure(rr.SERVFAIL)
_log = plugin_logger("loop")

_Key = tuple[WireName, int]


class Loop(Plugin):
    """Sends a probe through the block and counts its arrivals."""

    acts_alone = True
    families: ClassVar = {
        "clusterdns_forwarding_loop": Family(
            "The number of workers that have detected a forwarding loop.",
            ("server",),
            is_gauge=True,
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)
        self._block = block
        self._outside = block.shared(Outside)
        try:
            # Made before the fork, so that every worker recognizes a probe.
            self._base = _below(block.zones[0])
            _below(self._base)
        except FormError as error:
            raise directive.error(f"no room for a probe below the zone: {error}") from error
        self._seen: Counter[WireName] = Counter()
        self._own = set[WireName]()  # probes of this worker's running test
        self._out: dict[_Key, asyncio.TimerHandle | None] = {}  # with a timer if it returned
        self._quiet_until = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self, worker: Worker) -> None:
        """Start testing."""
        self._task = asyncio.create_task(self._test())

    async def stop(self) -> None:
        """Stop testing."""
        await end(self._task)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, None for a probe, to see each arrival."""
        return None if self._is_probe(question) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Count a probe, note a query that returns while under way, and ask the next plugin."""
        question = query.question
        if question is None:
            return await next(query)
        if self._is_probe(question):
            return await self._pass(query, question.folded, next)
        key = (question.folded, question.qtype)
        if key in self._out:
            self._out[key] = self._out[key] or self._doubt()
            return await next(query)
        self._out[key] = self._doubt() if self._outside.is_relayed(question) else None
        try:
            return await next(query)
        finally:
            timer = self._out.pop(key)
            if timer is not None:
                timer.cancel()

    def relay(self, route: Route) -> bool:
        """Return True: a query that returns while under way takes the chain."""
        return True

    async def _pass(self, query: Query, probe: WireName, next: HandleNext) -> Response:
        """Count an arrival of a probe, and forward it unless the test is decided.

        It is forwarded also while this worker knows a loop, for the tests of other workers.
        """
        if len(self._seen) >= MAX_PROBES:
            self._seen.clear()
        self._seen[probe] += 1
        is_back, outside = self._seen[probe] > MAX_SEEN, self._outside
        if is_back and probe in self._own:
            outside.is_looping = True
            self._report(query)
            return _SERVFAIL
        if is_back:
            self._test_again()
        if self._seen[probe] > MAX_PASSED:
            return _SERVFAIL
        outside.probes[probe] += 1
        try:
            return await next(query)
        finally:
            outside.probes -= Counter({probe: 1})  # also drops counts of 0

    def _doubt(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(DOUBT_S, self._test_again)

    def _test_again(self) -> None:
        """Test for a new loop, unless a test has just run."""
        now = time.monotonic()
        if self._task is not None and self._task.done() and now >= self._quiet_until:
            self._quiet_until = now + RETRY_S
            self._task = asyncio.create_task(self._test())

    def _is_probe(self, question: Question) -> bool:
        """Tell whether this is a probe of ours or of another worker."""
        if question.qtype != rr.HINFO:
            return False
        return question.folded[1 + question.folded[0] :] == self._base

    def _report(self, query: Query) -> None:
        """Log the loop, unless it has been already."""
        if self._outside.is_suspect:
            return
        self._outside.is_suspect = True
        self._outside.refresh_relay()
        _log.error(
            'Loop (%s:%d -> %s) detected for zone "%s", forwarded to %s: its names fail until the '
            "loop is gone",
            *query.client,
            self._block.server.partition("://")[2],
            name.text(self._block.zones[0]),
            ", ".join(sorted(self._outside.upstreams)) or "nobody",
        )

    def samples(self) -> list[Sample]:
        """Return 1 if this worker knows of a loop."""
        return [
            (
                "clusterdns_forwarding_loop",
                (self._block.server,),
                int(self._outside.is_looping),
            )
        ]

    async def _test(self) -> None:
        """Test once; after a loop, repeat until it is gone."""
        try:
            await self._send_probes()
            while self._outside.is_looping:
                await asyncio.sleep(RETEST_S)
                self._outside.is_looping = False
                await self._send_probes()
        finally:  # no later test would reset it
            self._outside.is_looping = False
        if self._outside.is_suspect:
            _log.info("the loop is gone: names are forwarded again")
            self._outside.is_suspect = False
            self._outside.refresh_relay()

    @contextlib.contextmanager
    def _testing(self) -> Iterator[None]:
        """Count only the names sent meanwhile."""
        try:
            yield
        finally:
            self._own.clear()

    async def _send_probes(self) -> None:
        """Send probes to this server until there is a reply (CoreDNS: plugin/loop/setup.go)."""
        host = (self._block.hosts or ["127.0.0.1"])[0]
        with (
            contextlib.closing(Upstream(host, self._block.ports[0], UpstreamOptions())) as server,
            self._testing(),
        ):
            deadline = time.monotonic() + TEST_S
            while time.monotonic() < deadline:
                probe = _below(self._base)  # a new one: the last may still circulate
                self._own.add(probe)
                question = Question(probe, probe, rr.HINFO)
                with contextlib.suppress(UpstreamError):
                    await server.ask(server.begin(question, RD, None), "udp")
                    return
                if self._outside.is_looping:
                    return
                await asyncio.sleep(RETRY_S)


def _below(zone: WireName) -> WireName:
    """Return a random name below a zone. Raises FormError."""
    return name.fold(name.parse(f"{secrets.randbelow(MAX_NUMBER)}.{name.text(zone).lstrip('.')}"))
