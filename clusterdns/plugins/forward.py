"""forward - ask upstream servers about names that are not known here.

Syntax:

    forward FROM TO... {
        except NAMES...
        force_tcp
        prefer_udp
        expire DURATION
        max_age DURATION
        max_idle_conns N
        max_fails N
        max_connect_attempts N
        max_concurrent N
        read_timeout DURATION
        health_check DURATION [no_rec] [domain NAME]
        policy random|round_robin|sequential
        next RCODE...
        next_on_nodata
        failover RCODE...
        failfast_all_unhealthy_upstreams
        source_address ADDRESS
    }

Names in FROM are asked of the servers TO: addresses with an optional port, host names, which are
looked up at the start, or a file such as `/etc/resolv.conf`, whose name servers are taken. May be
repeated; the first that matches is used.

Examples:

    . {
        forward example.org 192.0.2.53 [2001:db8::53]:5300 {
            policy sequential
            max_concurrent 1000
        }
        forward . 192.0.2.54
    }

Differences from CoreDNS: every query over UDP leaves from a port of its own. A client that sends no
OPT gets none. After `failover` a server's reply counts more than the error of the ones behind it.
`health_check 0` is taken as 0.5s. `max_concurrent` holds for each worker of `multisocket`. `tls`,
`tls_servername`, `doh_method`, `resolver` and upstream servers given as `tls://` or `https://` are
not served yet.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import random
import socket
import time
from pathlib import Path

from clusterdns import arguments, message, name, rr
from clusterdns.answers import Response, failure
from clusterdns.corefile import Directive, duration_s
from clusterdns.errors import FormError, UpstreamError
from clusterdns.logs import plugin_logger
from clusterdns.message import Query, Question, Reply
from clusterdns.name import WireName
from clusterdns.outcome import Outcome, outcome_of
from clusterdns.plugin import AnswerNext, Block, HandleNext, Plugin, Worker
from clusterdns.tally import Sample
from clusterdns.upstream import Exchange, Options, Round, Upstream, order

MAX_UPSTREAMS = 15
MAX_COUNT = 2**32 - 1  # CoreDNS: uint32
DEADLINE_S = 5.0
PAUSE_S = 0.05  # between rounds whose number is unlimited
_LATER = frozenset(("tls", "tls_servername", "doh_method", "resolver"))
_RCODES = {text: rcode for rcode, text in rr.RCODE_TEXT.items()} | {"BADSIG": rr.BADVERS}
_FLAGS_KEPT = (
    message.AA | message.TC | message.RD | message.RA | message.Z | message.AD | message.CD
)
_log = plugin_logger("forward")


class Forward(Plugin):
    """Asks the servers of one directive, in the order of its policy."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) < 2:
            raise directive.error("wants FROM TO...")
        self._block = block
        self._from = arguments.zone_names(directive.args[:1], directive)[0]
        self._except: list[WireName] = []
        self._policy = "random"
        self._force_tcp = self._prefer_udp = self._fails_fast = False
        self._max_fails, self._max_concurrent = 2, 0
        self._next: set[int] = set()
        self._next_on_nodata = False
        self._failover: set[int] = set()
        self._options = Options()
        addresses = _addresses(directive)
        self._max_attempts = 2 * len(addresses)
        for line in directive.block:
            self._read(line)
        if 0 < self._options.max_age_s < self._options.expire_s:
            raise directive.error("max_age must be at least as long as expire")
        self._options = self._options._replace(probe_tcp=self._force_tcp)
        self._addresses = addresses
        self._upstreams: list[Upstream] = []
        self._is_last = True
        self._random = random.Random()
        self._turn = self._under_way = self._rejected = self._broken = 0

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence; `next` leads from one to the one behind."""
        plugins = [cls(directive, block) for directive in directives]
        for plugin in plugins[:-1]:
            plugin._is_last = False
        return [*plugins]

    def _read(self, line: Directive) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        options = self._options
        match line.name:
            case "except":
                self._except += arguments.zone_names(arguments.some(line), line)
            case "force_tcp":
                self._force_tcp = arguments.flag(line)
            case "prefer_udp":
                self._prefer_udp = arguments.flag(line)
            case "failfast_all_unhealthy_upstreams":
                self._fails_fast = arguments.flag(line)
            case "next_on_nodata":
                self._next_on_nodata = arguments.flag(line)
            case "next":
                self._next |= _rcodes(line)
            case "failover":
                self._failover |= _rcodes(line)
                if rr.NOERROR in self._failover:
                    raise line.error("NOERROR is no reason to ask another server")
            case "max_fails":
                self._max_fails = arguments.number(line, most=MAX_COUNT)
            case "max_connect_attempts":
                self._max_attempts = arguments.number(line, most=MAX_COUNT)
            case "max_concurrent":
                self._max_concurrent = arguments.number(line)
            case "max_idle_conns":
                self._options = options._replace(max_idle=arguments.number(line))
            case "expire":
                self._options = options._replace(expire_s=arguments.seconds(line))
            case "max_age":
                self._options = options._replace(max_age_s=arguments.seconds(line))
            case "read_timeout":
                self._options = options._replace(
                    read_timeout_s=arguments.seconds(line, is_positive=True)
                )
            case "health_check":
                self._options = _health_check(line, options)
            case "policy":
                self._policy = arguments.word(line, "random", "round_robin", "sequential")
            case "source_address":
                self._options = options._replace(source=arguments.address(line))
            case word if word in _LATER:
                raise line.error("not supported by clusterdns yet")
            case _:
                raise line.error("unknown property")

    async def start(self, worker: Worker) -> None:
        """Make the servers' sockets ready in this worker."""
        self._upstreams = [Upstream(*address, self._options) for address in self._addresses]

    async def stop(self) -> None:
        """Close what is open."""
        for upstream in self._upstreams:
            upstream.close()

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind say of names that are not forwarded here."""
        return None if self._is_mine(question.folded) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the reply of the first server that gives one."""
        question = query.question
        if question is None or not self._is_mine(question.folded):
            return await next(query)
        if self._block.is_looping:
            return failure(rr.SERVFAIL, "plugin/forward: what is forwarded comes back, see loop")
        if self._max_concurrent and self._under_way >= self._max_concurrent:
            self._rejected += 1
            most = self._max_concurrent
            return failure(rr.REFUSED, f"concurrent queries exceeded maximum {most}")
        self._under_way += 1
        try:
            response = await self._forward(query, question)
        finally:
            self._under_way -= 1
        return await next(query) if self._is_for_next(question, response) else response

    def _is_mine(self, qname: WireName) -> bool:
        if not name.is_within(qname, self._from):
            return False
        return qname == self._from or not name.is_within_any(qname, self._except)

    def _is_for_next(self, question: Question, response: Response) -> bool:
        """Tell whether the `forward` behind shall be asked as well."""
        if self._is_last or response.bare:
            return False
        if response.rcode in self._next:
            return True
        return self._next_on_nodata and outcome_of(question, response) is Outcome.NODATA

    async def _forward(self, query: Query, question: Question) -> Response:
        """Ask one server after the other until one replies (CoreDNS: forward.go ServeDNS)."""
        deadline = time.monotonic() + DEADLINE_S
        turns = Round(
            order(self._policy, len(self._upstreams), self._turn, self._random),
            max_fails=self._max_fails,
            fails_fast=self._fails_fast,
            rng=self._random,
        )
        self._turn += 1
        error, last, attempts = "no healthy proxies", None, 0
        while time.monotonic() < deadline and attempts < (self._max_attempts or math.inf):
            taken = turns.take([upstream.fails for upstream in self._upstreams])
            if taken is None:
                break
            upstream = self._upstreams[taken]
            try:
                last = await self._ask(upstream, query, question, deadline)
                if last.rcode not in self._failover:
                    break
            except UpstreamError as failed:
                error = str(failed)
                attempts += 1
                if self._max_fails:
                    upstream.suspect()
            if turns.is_over:
                if last is not None:
                    break
                if not self._max_attempts:  # a server that refuses at once would be asked 5 s long
                    await asyncio.sleep(PAUSE_S)
        self._broken += turns.broken
        return last or failure(rr.SERVFAIL, error)

    async def _ask(
        self, upstream: Upstream, query: Query, question: Question, deadline: float
    ) -> Response:
        """Return one server's reply. Raises UpstreamError."""
        proto = "tcp" if self._force_tcp else "udp" if self._prefer_udp else query.transport
        exchange = Exchange.begin(question, query.flags, query.edns)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                reply = await upstream.ask(exchange, proto)
                if reply.flags & message.TC and proto == "udp" and self._prefer_udp:
                    reply = await upstream.ask(exchange, "tcp")
        except TimeoutError as error:
            raise UpstreamError(f"read {proto} {upstream.text}: i/o timeout") from error
        if not exchange.is_answered_by(reply):
            return Response(rr.FORMERR, flags=0, lifetime_s=0)
        return _response_of(reply)

    def samples(self) -> list[Sample]:
        """Return CoreDNS's counts of the proxy and of what was refused."""
        found: list[Sample] = [
            ("forward_max_concurrent_rejects_total", (), self._rejected),
            ("forward_healthcheck_broken_total", (), self._broken),
        ]
        for upstream in self._upstreams:
            to = ("forward", upstream.text)
            for rcode, histogram in upstream.durations.items():
                found.append(("proxy_request_duration_seconds", (*to, rcode), histogram.sample()))
            for (what, proto), count in upstream.dials.items():
                found.append((f"proxy_conn_cache_{what}_total", (*to, proto), count))
            if upstream.probe_failures:
                found.append(("proxy_healthcheck_failures_total", to, upstream.probe_failures))
        return found


def _response_of(reply: Reply) -> Response:
    """Return an upstream's reply as it is; it may be passed on once."""
    return Response(
        reply.rcode,
        reply.flags & _FLAGS_KEPT,
        reply.answer,
        reply.authority,
        reply.additional,
        edns=reply.edns,
        verbatim=True,
        lifetime_s=0,
    )


def _addresses(directive: Directive) -> list[tuple[str, int]]:
    """Return the servers' addresses and ports, each once. Raises ConfigError."""
    found: list[tuple[str, int]] = []
    if len(directive.args) - 1 > MAX_UPSTREAMS:
        raise directive.error(f"more than {MAX_UPSTREAMS} upstream servers")
    for text in directive.args[1:]:
        scheme, _, rest = text.rpartition("://")
        if scheme not in ("", "dns"):
            raise directive.error(f"{text}: {scheme}:// is not supported by clusterdns yet")
        path = Path(text)
        if not scheme and path.is_file():
            found += [(host, 53) for host in _name_servers(path, directive)]
        else:
            found += _resolve(rest, directive)
    found = list(dict.fromkeys(found))
    if not found:
        raise directive.error("no upstream server")
    if len(found) > MAX_UPSTREAMS:
        raise directive.error(f"more than {MAX_UPSTREAMS} upstream servers: {len(found)}")
    return found


def _name_servers(path: Path, directive: Directive) -> list[str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise directive.error(f"{path}: {error.strerror}") from error
    found = []
    for words in map(str.split, lines):
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            found.append(str(ipaddress.ip_address(words[1])))
        except ValueError:  # nobody who starts a server in a Pod can mend the node's file
            _log.warning("%s: nameserver %.50s is no address and is not asked", path, words[1])
    return found


def _resolve(text: str, directive: Directive) -> list[tuple[str, int]]:
    """Return the addresses of ``host[:port]``; a host name is looked up."""
    host, port = text, "53"
    if text.startswith("[") or text.count(":") == 1:
        host, _, given = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        port = given or port
        host = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise directive.error(f"{text!r} has no valid port")
    try:
        return [(str(ipaddress.ip_address(host)), int(port))]
    except ValueError:
        pass
    try:
        name.parse(host)
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, FormError) as error:
        raise directive.error(f"{text!r} is no address, file or host name: {error}") from error
    return [(str(item[4][0]), int(port)) for item in found]


def _health_check(line: Directive, options: Options) -> Options:
    words = list(arguments.some(line))
    interval_s = duration_s(words.pop(0), line)
    if interval_s < 0:
        raise line.error("wants a positive duration")
    options = options._replace(probe_interval_s=interval_s or Options().probe_interval_s)
    while words:
        word = words.pop(0)
        if word == "no_rec":
            options = options._replace(probe_recursion=False)
        elif word == "domain" and words:
            options = options._replace(probe_name=arguments.zone_names([words.pop(0)], line)[0])
        else:
            raise line.error(f"unexpected word {word!r}")
    return options


def _rcodes(line: Directive) -> set[int]:
    for word in arguments.some(line):
        if word.upper() not in _RCODES:
            raise line.error(f"{word!r} is no return code")
    return {_RCODES[word.upper()] for word in line.args}
