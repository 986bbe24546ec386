"""A cache by itself for tests: replies as `forward` makes them, queries, and a clock of the test's."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable, Callable

from clusterdns.config.compile import compile_text
from clusterdns.plugins.cache import Cache
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import CD, RA, RD, Edns, Query, Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

WWW = name.parse("www.example.com.")
ORG = name.parse("example.org.")
OTHER = name.parse("other.example.com.")
EXAMPLE = name.parse("example.com.")
REPLY = Response(flags=RD | RA, verbatim=True, lifetime_s=0)  # as `forward` makes them


def a(ttl: int = 300, owner: bytes = WWW, last: int = 1) -> RR:
    return RR(owner, rr.A, ttl, bytes((192, 0, 2, last)))


def cname(ttl: int = 300, owner: bytes = WWW, target: bytes = OTHER) -> RR:
    return RR(owner, rr.CNAME, ttl, target)


def soa(ttl: int = 300, minimum: int = 2**31) -> RR:
    server, mailbox = name.parse("ns.example.com."), name.parse("h.example.com.")
    return RR(EXAMPLE, rr.SOA, ttl, rr.soa_rdata(server, mailbox, 1, minimum))


def positive(ttl: int = 300, owner: bytes = WWW, last: int = 1) -> Response:
    return REPLY._replace(answer=(a(ttl, owner, last),))


NXDOMAIN = REPLY._replace(rcode=rr.NXDOMAIN, authority=(soa(),))
SERVFAIL = REPLY._replace(rcode=rr.SERVFAIL)


def ask(qname: bytes = WWW, flags: int = RD, **options: object) -> Query:
    """Return a query; ``do``, ``qtype`` and ``qclass`` as the question has them."""
    do, cd = bool(options.pop("do", False)), bool(flags & CD)
    question = Question(qname, name.fold(qname), options.pop("qtype", rr.A), 1, do, cd)
    edns = Edns(1232, 0, message.EDNS_DO) if do else None
    assert not options
    return Query(1, flags, question, edns, 50)


class World:
    """A cache, its clock, and what is behind it: ``says``, asked through ``handle``.

    ``later`` is awaited before it says anything. Refreshes go on between calls of ``settle``.
    """

    runner = asyncio.Runner()
    atexit.register(runner.close)

    def __init__(self, text: str = "cache 30") -> None:
        corefile = f". {{\n{text}\nwhoami\n}}\n"
        plugins = compile_text(corefile, "Corefile", port=53, environ={}, warn=print).plugins
        self.cache = next(plugin for plugin in plugins if isinstance(plugin, Cache))
        self.time_s = 1000.25
        self.says = positive()
        self.asked: list[Query] = []
        self.later: Callable[[], Awaitable[object]] | None = None
        self.runner.run(self.cache.start(self))

    def now(self) -> float:
        return self.time_s

    def get(self, query: Query | None = None) -> Response:
        """Return the response as the server gets it: from memory if that knows, else by waiting."""
        query = query or ask()
        assert query.question is not None
        response = self.cache.answer(query.question, lambda _question: None)
        return self.wait(query) if response is None else response

    def wait(self, query: Query) -> Response:
        """Return the response of the fold that may wait."""
        return self.runner.run(self.cache.handle(query, self.next))

    def settle(self, seconds: float = 0.0) -> None:
        """Let what goes on in the background come to its end, or for so long."""
        self.runner.run(asyncio.sleep(seconds))
        for _ in range(4):
            self.runner.run(asyncio.sleep(0))

    async def next(self, query: Query) -> Response:
        """Say what the plugins behind say."""
        self.asked.append(query)
        if self.later is not None:
            await self.later()
        return self.says

    def count(self, what: str) -> dict[tuple[str, ...], float]:
        return {labels: n for metric, labels, n in self.cache.samples() if metric == what}


def ttls(response: Response) -> list[int]:
    return [record.ttl for section in response.sections for record in section]
