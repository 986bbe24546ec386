"""forward - ask upstream servers about names that this server does not know.

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
        policy random|round_robin|sequential|fastest
        next RCODE...
        next_on_nodata
        failover RCODE...
        failfast_all_unhealthy_upstreams
        source_address ADDRESS
        tls [CA] | CERT KEY [CA]
        tls_servername NAME
        resolver ADDRESS...
    }

Queries for names below FROM go to the servers TO. These are addresses with an optional port, with
`tls://` in front for DNS over TLS (RFC 7858); host names, which are looked up at the start; or a
file such as `/etc/resolv.conf`, whose name servers are used. Such a file is read again within 5 s
of a change; if it then names no server, the last good ones stay. The directive may be repeated; the
first one that matches is used.

Over TLS a server proves the address it is asked at, or the name that `tls_servername` says, or its
own in `tls://192.0.2.1%dns.example`, to the system's CAs or to CA; the name must be in the SAN of
its certificate. A host name is looked up at the addresses of `resolver`, 2 s a query, or else as
the system does.

`policy fastest` asks the server that was fastest recently. If there is no reply within four times
its usual time, and 100 ms at least, it asks another server too, and the first reply counts. After
SERVFAIL or REFUSED it asks one more server.

Examples:

    . {
        forward example.org 192.0.2.53 [2001:db8::53]:5300 {
            policy sequential
            max_concurrent 1000
        }
        forward example.com tls://192.0.2.55 tls://[2001:db8::55]:8853 {
            tls_servername dns.example.com
            policy fastest
        }
        forward . 192.0.2.54
    }

Differences from CoreDNS: every query over UDP leaves from a port of its own. Equal queries that are
under way at the same time share one query upstream. A reply to another question is ignored; FORMERR
is returned only if no right one arrives in time. A client that sends no OPT gets none. After
`failover` a server's reply counts more than the error of the ones behind it. `health_check 0` is
taken as 0.5s, and a check does not wait for the end of the one before. A file that names no server
is no mistake: it may name some later. `max_concurrent` holds for each worker of `multisocket`.
`policy fastest` is ours. `doh_method` and servers given as `https://` are not served yet.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Forwarded, Route
from clusterdns.corefile import arguments
from clusterdns.corefile.arguments import duration_s
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding import destinations
from clusterdns.forwarding.choice import FASTEST, POLICIES
from clusterdns.forwarding.connections import Tls, tls_context
from clusterdns.forwarding.destinations import Destination, ServerFile, Servers
from clusterdns.forwarding.flight import DEADLINE_S, Pool, Rules
from clusterdns.forwarding.upstream import Upstream, UpstreamOptions
from clusterdns.host.addresses import host_and_port
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.tally import Sample
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

MAX_COUNT = 2**32 - 1  # CoreDNS: uint32
RECHECK_S = 5.0  # a file of servers
MAX_RETIRED = 64  # servers that are asked no more, kept for their counts
_RCODES = {text: rcode for rcode, text in rr.RCODE_TEXT.items()} | {"BADSIG": rr.BADVERS}
_NETWORK_ERROR = 23  # RFC 8914 section 5.2
_LOOPING = failure(rr.SERVFAIL, "plugin/forward: what is forwarded comes back, see loop")._replace(
    edns=message.extended_error(_NETWORK_ERROR, "forwarding loop")
)
_log = plugin_logger("forward")


class Forward(Plugin):
    """Asks the servers of one directive, in the order of its policy."""

    families: ClassVar = {
        "forward_healthcheck_broken_total": Family(
            "Counter of the number of complete failures of the healthchecks."
        ),
        "forward_max_concurrent_rejects_total": Family(
            "Counter of the number of queries rejected because the concurrent queries were at "
            "maximum."
        ),
        "clusterdns_forward_joined_total": Family(
            "Counter of queries that shared an upstream query with an equal one under way."
        ),
        "clusterdns_forward_hedges_total": Family(
            "Counter of queries sent to another server too because this one was slow.", ("to",)
        ),
        "clusterdns_forward_mismatches_total": Family(
            "Counter of datagrams dropped because they did not match the query.", ("to",)
        ),
        "proxy_request_duration_seconds": Family(
            "Histogram of the time each request took.", ("proxy_name", "to", "rcode"), bounds=TIME_S
        ),
        "proxy_healthcheck_failures_total": Family(
            "Counter of the number of failed healthchecks.", ("proxy_name", "to")
        ),
        "proxy_conn_cache_hits_total": Family(
            "Counter of connection cache hits per upstream and protocol.",
            ("proxy_name", "to", "proto"),
        ),
        "proxy_conn_cache_misses_total": Family(
            "Counter of connection cache misses per upstream and protocol.",
            ("proxy_name", "to", "proto"),
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) < 2:
            raise directive.error("wants FROM TO...")
        self._block = block
        self._from = arguments.zone_names(directive.args[:1], directive)[0]
        self._except: list[WireName] = []
        self._max_concurrent = 0
        self._next: set[int] = set()
        self._next_on_nodata = False
        self._rules = Rules()
        self._options = UpstreamOptions()
        self._resolvers: tuple[str, ...] = ()
        self._tls: ssl.SSLContext | None = None
        self._server_name = ""
        for line in directive.block:
            self._read(line)
        idle = self._options.idle
        if 0 < idle.max_age_s < idle.expire_s:
            raise directive.error("max_age must be at least as long as expire")
        self._options = self._options._replace(probe_tcp=self._rules.force_tcp)
        if self._rules.max_attempts == 1:  # a lone attempt has all the time there is
            self._options = self._options._replace(tls_dial_timeout_s=DEADLINE_S)
        self._entries: list[Servers] = destinations.read_words(directive, self._resolvers)
        self._destinations: list[Destination] = []
        self._take_servers()
        self._check_tls(directive)
        self._pool: Pool | None = None
        self._retired: dict[Destination, Upstream] = {}
        self._watching: asyncio.Task[None] | None = None
        self._is_last = True
        self._under_way = self._rejected = 0

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence; `next` leads from one to the one behind."""
        plugins = [cls(directive, block) for directive in directives]
        for plugin in plugins[:-1]:
            plugin._is_last = False
        return [*plugins]

    def _read(self, line: Directive) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        match line.name:
            case "except":
                self._except += arguments.zone_names(arguments.some(line), line)
            case "next_on_nodata":
                self._next_on_nodata = arguments.flag(line)
            case "next":
                self._next |= _rcodes(line)
            case "max_concurrent":
                self._max_concurrent = arguments.number(line)
            case "tls":
                self._tls = tls_context(line.args, line, self._block.root)
            case "tls_servername":
                self._server_name = destinations.read_server_name(arguments.one(line), line)
            case "resolver":
                self._resolvers = destinations.check_resolvers(line)
            case "doh_method":
                raise line.error("not supported by clusterdns yet")
            case _:
                rules = _rules(line, self._rules)
                if rules is None:
                    self._options = _options(line, self._options)
                else:
                    self._rules = rules

    def _take_servers(self) -> None:
        """Take the servers that TO stands for now, and warn of those that lead back here."""
        known = self._destinations
        self._destinations = destinations.all_of(self._entries)
        self._block.outside.upstreams -= {host_and_port(one.host, one.port) for one in known}
        self._block.outside.upstreams |= {
            host_and_port(one.host, one.port) for one in self._destinations
        }
        for one in self._destinations:
            if one not in known and destinations.is_ourselves(
                one, self._block.hosts, self._block.ports
            ):
                where = host_and_port(one.host, one.port)
                _log.warning("%s is this server: what is forwarded there comes back", where)

    def _check_tls(self, directive: Directive) -> None:
        if self._server_name:
            for one in self._destinations:
                if one.server_name:
                    both = f"{one.server_name!r} for {one.host} and {self._server_name!r} for all"
                    raise directive.error(f"two TLS server names: {both}")
        if self._tls is None and any(one.is_tls for one in self._destinations):
            self._tls = tls_context((), directive, self._block.root)

    async def start(self, worker: Worker) -> None:
        """Make the servers' sockets ready in this worker."""
        self._pool = Pool(self._rules, [self._upstream(one) for one in self._destinations])
        if any(isinstance(entry, ServerFile) for entry in self._entries):
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Close what is open."""
        await end(self._watching)
        if self._pool is not None:
            self._pool.close()
            for upstream in (*self._pool.upstreams, *self._retired.values()):
                upstream.close()

    def _upstream(self, one: Destination) -> Upstream:
        tls = None
        if one.is_tls:
            assert self._tls is not None
            tls = Tls(self._tls, one.server_name or self._server_name)
        return Upstream(one.host, one.port, self._options, tls)

    async def _watch(self) -> None:
        """Take the servers of files anew when they change; those that stay keep their state."""
        while True:
            await asyncio.sleep(RECHECK_S)
            changes = [e for e in self._entries if isinstance(e, ServerFile) and e.refresh()]
            if changes and self._pool is not None:
                self._replace(self._pool)

    def _replace(self, pool: Pool) -> None:
        known = dict(zip(self._destinations, pool.upstreams, strict=True))
        self._take_servers()
        for one in self._destinations:
            if one in self._retired:
                known[one] = self._retired.pop(one)
                known[one].revive()
            elif one not in known:
                known[one] = self._upstream(one)
        pool.upstreams = tuple(known.pop(one) for one in self._destinations)
        for one, upstream in known.items():
            upstream.retire()
            self._retired[one] = upstream
        for one in [*self._retired][:-MAX_RETIRED]:
            self._retired.pop(one).close()
        _log.info("servers now: %s", " ".join(upstream.text for upstream in pool.upstreams))

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind say of names that are not forwarded here."""
        return None if self._is_mine(question.folded) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the reply of the first server that gives one."""
        question, pool = query.question, self._pool
        if question is None or pool is None or not self._is_mine(question.folded):
            return await next(query)
        if self._block.outside.is_broken(question):
            return _LOOPING
        if self._max_concurrent and self._under_way + pool.relayed >= self._max_concurrent:
            self._refuse(1)
            for lane in pool.lanes:
                lane.refuses = True  # the others like this one, for a while
            most = self._max_concurrent
            return failure(rr.REFUSED, f"concurrent queries exceeded maximum {most}")
        self._under_way += 1
        try:
            response = await pool.ask(query, question)
        finally:
            self._under_way -= 1
        if query.metadata is not None and response.source:
            query.metadata.put("forward/upstream", lambda: response.source)
        return await next(query) if self._is_for_next(response) else response

    def relay(self, route: Route) -> bool:
        """Enter the servers, if all that happens to a plain query is to be asked of one of them."""
        if not name.is_within(route.zone, self._from):
            return route.claim((self._from,))
        rules, pool = self._rules, self._pool
        is_simple = rules.policy != FASTEST and not (rules.force_tcp or rules.failover)
        if pool is None or self._tls or self._next or self._next_on_nodata or not is_simple:
            return False
        if not route.claim(tuple(zone for zone in self._except if zone != self._from)):
            return False
        patience_s = self._options.read_timeout_s
        route.forwarded = Forwarded(pool, patience_s, self._room, self._refuse)
        return True

    def _room(self) -> int | None:
        """Return how many more queries may be under way, but for those relayed."""
        if self._block.outside.is_suspect:
            return None
        return (self._max_concurrent or MAX_COUNT) - self._under_way

    def _refuse(self, times: int) -> None:
        self._rejected += times

    def _is_mine(self, qname: WireName) -> bool:
        if not name.is_within(qname, self._from):
            return False
        return qname == self._from or not name.is_within_any(qname, self._except)

    def _is_for_next(self, response: Response) -> bool:
        """Tell whether the `forward` behind shall be asked as well (CoreDNS: isEmpty)."""
        if self._is_last or response.bare:
            return False
        if response.rcode in self._next:
            return True
        is_empty = response.rcode == rr.NOERROR and not response.answer
        return self._next_on_nodata and is_empty

    def samples(self) -> list[Sample]:
        """Return CoreDNS's counts of the proxy and of what was refused, and our own."""
        pool = self._pool
        found: list[Sample] = [("forward_max_concurrent_rejects_total", (), self._rejected)]
        if pool is None:
            return found
        found.append(("forward_healthcheck_broken_total", (), pool.broken))
        found.append(("clusterdns_forward_joined_total", (), pool.joined))
        for text, count in pool.hedges.items():
            found.append(("clusterdns_forward_hedges_total", (text,), count))
        for upstream in (*pool.upstreams, *self._retired.values()):
            found += _samples_of(upstream)
        return found


def _samples_of(upstream: Upstream) -> list[Sample]:
    to = ("forward", upstream.text)
    found: list[Sample] = [
        ("proxy_request_duration_seconds", (*to, rcode), histogram.sample())
        for rcode, histogram in upstream.durations.items()
    ]
    found += [
        (f"proxy_conn_cache_{what}_total", (*to, proto), count)
        for (what, proto), count in upstream.dials.items()
    ]
    if upstream.health.failures:
        found.append(("proxy_healthcheck_failures_total", to, upstream.health.failures))
    if upstream.datagrams.mismatches:
        mismatches = upstream.datagrams.mismatches
        found.append(("clusterdns_forward_mismatches_total", to[1:], mismatches))
    return found


def _rules(line: Directive, rules: Rules) -> Rules | None:
    """Return the rules with one line of the block taken in, None if it is not about them."""
    match line.name:
        case "policy":
            return rules._replace(policy=arguments.word(line, *POLICIES))
        case "force_tcp":
            return rules._replace(force_tcp=arguments.flag(line))
        case "prefer_udp":
            return rules._replace(prefer_udp=arguments.flag(line))
        case "failfast_all_unhealthy_upstreams":
            return rules._replace(fails_fast=arguments.flag(line))
        case "failover":
            failover = rules.failover | _rcodes(line)
            if rr.NOERROR in failover:
                raise line.error("NOERROR is no reason to ask another server")
            return rules._replace(failover=failover)
        case "max_fails":
            return rules._replace(max_fails=arguments.number(line, most=MAX_COUNT))
        case "max_connect_attempts":
            return rules._replace(max_attempts=arguments.number(line, most=MAX_COUNT))
    return None


def _options(line: Directive, options: UpstreamOptions) -> UpstreamOptions:
    """Return the options with one line of the block taken in. Raises ConfigError."""
    idle = options.idle
    match line.name:
        case "max_idle_conns":
            return options._replace(idle=idle._replace(most=arguments.number(line)))
        case "expire":
            return options._replace(idle=idle._replace(expire_s=arguments.seconds(line)))
        case "max_age":
            return options._replace(idle=idle._replace(max_age_s=arguments.seconds(line)))
        case "read_timeout":
            return options._replace(read_timeout_s=arguments.seconds(line, is_positive=True))
        case "health_check":
            return _health_check(line, options)
        case "source_address":
            return options._replace(source=arguments.address(line))
    raise line.unknown(
        "except",
        "next",
        "next_on_nodata",
        "max_concurrent",
        "tls",
        "tls_servername",
        "resolver",
        "doh_method",
        "policy",
        "force_tcp",
        "prefer_udp",
        "failfast_all_unhealthy_upstreams",
        "failover",
        "max_fails",
        "max_connect_attempts",
        "max_idle_conns",
        "expire",
        "max_age",
        "read_timeout",
        "health_check",
        "source_address",
    )


def _health_check(line: Directive, options: UpstreamOptions) -> UpstreamOptions:
    words = list(arguments.some(line))
    interval_s = duration_s(words.pop(0), line)
    if interval_s < 0:
        raise line.error("wants a positive duration")
    options = options._replace(probe_interval_s=interval_s or UpstreamOptions().probe_interval_s)
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
