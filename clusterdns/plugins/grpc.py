"""grpc - forward queries to upstream servers over gRPC.

Syntax:

    grpc FROM TO... {
        except NAMES...
        tls [CA] | CERT KEY [CA]
        tls_servername NAME
        policy random|round_robin|sequential
        fallthrough [ZONES...]
    }

Queries for names below FROM, except NAMES and names below, go to the servers TO: addresses with an
optional port, by default 53, with or without `grpc://`, whose default is 443; or a file such as
`/etc/resolv.conf`, whose name servers are used. There may be 15. They serve the call `Query` of the
service `coredns.dns.DnsService`, as server blocks of `grpc://` do.

The connections are encrypted if `tls` or `tls_servername` is given. The SAN of a server's
certificate must have its address, or NAME; the certificate must be of CA, by default of the
system's CAs. Files that change are read again within 5 s. If a server fails, the next one is asked,
in the order of `policy`, by default random, for 5 s in all. The status NOT_FOUND of a call is a
name error. With `fallthrough`, the next plugin is asked after a name error and after a failure.

Examples:

    . {
        grpc . 192.0.2.53:8053 192.0.2.54:8053 {
            policy sequential
            tls_servername dns.example.org
        }
        cache 30
    }

Metrics:

    coredns_grpc_requests_total{to}                    queries with a reply
    coredns_grpc_responses_total{rcode,to}             replies
    coredns_grpc_request_duration_seconds{to}          time until the reply

Differences from CoreDNS: a dial takes at most half of the 5 s, so that a server that is silent does
not use up the time of others. OPT records are our own, as with `forward`. A reply to another
question is a failure; CoreDNS returns FORMERR.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, UpstreamState, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import UpstreamError
from clusterdns.forwarding import destinations
from clusterdns.forwarding.calls import CallConnections, ask
from clusterdns.forwarding.choice import order
from clusterdns.forwarding.connections import TlsFiles, TlsSettings, tls_context
from clusterdns.forwarding.destinations import ServerFile
from clusterdns.forwarding.exchange import Asked, Exchange
from clusterdns.forwarding.outside import Outside
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import TIME_S, Histogram
from clusterdns.metrics.tally import Sample
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import AD, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure, response_of

MAX_SERVERS = 15
DEADLINE_S = 5.0  # CoreDNS: plugin/grpc/grpc.go defaultTimeout
_POLICIES = ("random", "round_robin", "sequential")
_PREFIX = "grpc://"
_log = plugin_logger("grpc")
_NO_NEXT = "plugin/grpc: no next plugin found"


class Grpc(Plugin):
    """Asks servers over gRPC."""

    families: ClassVar = {
        "grpc_requests_total": Family("Counter of requests made per upstream.", ("to",)),
        "grpc_responses_total": Family("Counter of requests made per upstream.", ("rcode", "to")),
        "grpc_request_duration_seconds": Family(
            "Histogram of the time each request took.", ("to",), bounds=TIME_S
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) < 2:
            raise directive.error("wants FROM TO...")
        self._zone = arguments.zone_names(directive.args[:1], directive)[0]
        self._servers = _servers(directive)
        self._excepted: list[WireName] = []
        self._through: tuple[WireName, ...] = ()
        self._policy, self._server_name = "random", ""
        self._outside = block.shared(Outside)
        context = None
        self._tls_files: TlsFiles | None = None
        self._following: asyncio.Task[None] | None = None  # certificates
        for line in directive.block:
            match line.name:
                case "except":
                    self._excepted += arguments.zone_names(arguments.some(line), line)
                case "tls":
                    context = tls_context(line.args, line, block.root)
                    self._tls_files = TlsFiles((context,), line.args, line, block.root)
                case "tls_servername":
                    self._server_name = destinations.read_server_name(arguments.one(line), line)
                case "policy":
                    self._policy = arguments.word(line, *_POLICIES)
                case "fallthrough":
                    self._through = arguments.zone_names(line.args or (".",), line)
                case _:
                    raise line.unknown("except", "tls", "tls_servername", "policy", "fallthrough")
        if self._server_name and context is None:
            context = tls_context((), directive, block.root)
        self._tls = None if context is None else TlsSettings(context, self._server_name)
        self._connections: list[CallConnections] = []
        self._turn = 0
        self._durations: dict[str, Histogram] = {}
        self._rcodes = Counter[tuple[str, str]]()

    async def start(self, worker: Worker) -> None:
        """Make the servers of this worker; a connection is opened for the first query."""
        self._connections = [CallConnections(each, self._tls) for each in self._servers]
        if self._tls_files is not None:
            self._following = asyncio.create_task(self._tls_files.follow(_log))

    async def stop(self) -> None:
        """Close the connections."""
        await end(self._following)
        for each in self._connections:
            each.close()

    def _is_for(self, qname: WireName) -> bool:
        if not name.is_within(qname, self._zone):
            return False
        return qname == self._zone or not name.is_within_any(qname, self._excepted)

    def relay(self, route: Route) -> bool:
        """Exclude the names of our zone from the relay."""
        return route.claim((self._zone,))

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin for names that are not asked here."""
        return None if self._is_for(question.folded) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the reply of the first server that gives one."""
        question = query.question
        if question is None or not self._is_for(question.folded):
            return await next(query)
        found = await self._ask(query, question)
        is_failure = found.rcode == rr.NXDOMAIN or found.bare
        if is_failure and name.is_within_any(question.folded, self._through):
            behind = await next(query)
            return found if behind.error == _NO_NEXT else behind
        return found

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why it does not forward the name, for `explain`."""
        if is_own or self._is_for(question.folded):
            return ""
        if name.is_within(question.folded, self._zone):
            return f"`except` leaves out {trace.names_text(self._excepted)}"
        return f"it forwards names in {name.text(self._zone)} only"

    async def _ask(self, query: Query, question: Question) -> Response:
        self._turn += 1
        asked = Asked.of(query, question, "tcp", message.MAX_OCTETS, self._outside.options)
        out = Exchange.begin(query.ident, question, asked.flags, asked.edns)
        until_s = asyncio.get_running_loop().time() + DEADLINE_S
        said, taker = "no gRPC server", trace.scribe()
        for i in order(self._policy, len(self._connections), self._turn, random):
            server, began = self._connections[i], time.monotonic()
            try:
                reply = await ask(server, out, until_s)
            except UpstreamError as error:
                said = str(error)
                if taker is not None:
                    taker.blame(f"{server.text}: {said}")
                continue
            histogram = self._durations.setdefault(server.text, Histogram(TIME_S))
            histogram.observe(time.monotonic() - began)
            self._rcodes[rr.RCODE_TEXT.get(reply.rcode) or str(reply.rcode), server.text] += 1
            found = response_of(reply)
            if taker is not None:
                note = taker.note if found.rcode == rr.NOERROR else taker.blame
                note(f"{server.text}: {rr.rcode_text(found.rcode)}")
            if found.flags & AD and not (question.do or query.flags & AD):
                found = found._replace(flags=found.flags & ~AD)
            return found
        return failure(rr.SERVFAIL, said)._replace(unanswered=True)

    def samples(self) -> list[Sample]:
        """Return CoreDNS's counts of the servers."""
        found: list[Sample] = []
        for to, histogram in self._durations.items():
            found.append(("grpc_requests_total", (to,), sum(histogram.counts)))
            found.append(("grpc_request_duration_seconds", (to,), histogram.sample()))
        found += [("grpc_responses_total", labels, n) for labels, n in self._rcodes.items()]
        return found

    def upstreams(self) -> list[UpstreamState]:
        """Return the state of the servers; which RCODE took how long is not known."""
        return [
            UpstreamState(
                each.text,
                self.name,
                0,
                False,
                {"": self._durations[each.text].sample()} if each.text in self._durations else {},
            )
            for each in self._connections
        ]


def _servers(directive: Directive) -> list[tuple[str, int]]:
    """Return the servers TO. Raises ConfigError."""
    found = list[tuple[str, int]]()
    for text in directive.args[1:]:
        plain = text.removeprefix(_PREFIX)
        if plain == text and Path(text).is_file():
            file = ServerFile(Path(text))
            file.refresh()
            found += [(one.host, one.port) for one in file.found]
        elif plain == text and "://" in text:
            raise directive.error(f"{text}: wants an address, with or without {_PREFIX}")
        else:
            found.append(arguments.server(plain, directive, "53" if plain == text else "443"))
    if not found:
        raise directive.error("no upstream server")
    if len(found) > MAX_SERVERS:
        raise directive.error(f"more than {MAX_SERVERS} upstream servers")
    return found
