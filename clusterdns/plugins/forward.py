"""forward - forward queries to upstream servers.

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
        doh_method POST|GET
        resolver ADDRESS...
    }

Queries for names below FROM go to the servers TO. These are addresses with an optional port, with
`tls://` in front for DNS over TLS (RFC 7858), or `https://` for DNS over HTTPS (RFC 8484); host
names, which are looked up at the start; or a file such as `/etc/resolv.conf`, whose name servers
are used. Such a file is read again within 5 s of a change; if it then names no server, the last
good ones stay. The directive may be repeated; the first one that matches is used.

Over TLS and HTTPS the SAN of a server's certificate must have its address, or the name of
`tls_servername`, or the server's own name in `tls://192.0.2.1%dns.example`; the certificate must be
of CA, by default of the system's CAs. Files that change are read again within 5 s, for new
connections; a CA that is removed stays trusted until a reload. Host names are looked up at the
addresses of `resolver`, with a limit of 2 s for each query, by default with the system's resolver.

Over HTTPS the path is `/dns-query`, with HTTP/2 if the server supports it. `read_timeout`, 2s by
default, bounds a whole exchange. `doh_method` is POST by default.

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
        forward . https://192.0.2.54 {
            tls_servername dns.example.net
        }
    }

Differences from CoreDNS: every query over UDP has a random source port. Equal queries under way at
the same time share one upstream query, whatever EDNS the clients send: an OPT record is hop by hop
(RFC 6891 section 6.1.1), so ours names 1232 octets, has the client's DO, and only the options of
`rewrite edns0`; AD is always set upstream, and returned to clients that set AD or DO (RFC 6840
section 5.8). A reply longer than 1232 octets is fetched over TCP if the client accepts more. A
server that refuses the OPT record is asked without one. A reply to another question is ignored;
if no right one arrives in time, the next server is asked, and the last resort is FORMERR. A client
without OPT gets none. After
`failover`, a server's reply wins over the errors of later servers. `health_check 0` means 0.5s, and
a check does not wait for the end of the one before. A file without servers is not a mistake: it may
get some later. `max_concurrent` applies to each worker of `multisocket`. `policy fastest` is ours.
Over HTTPS, `read_timeout` applies, `https://192.0.2.1%dns.example` names a server as with `tls://`,
a status other than 200 is a failure, and no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import functools
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, UpstreamState, Worker
from clusterdns.chain.route import Forwarded, Route
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding import destinations
from clusterdns.forwarding.counts import samples_of
from clusterdns.forwarding.destinations import Destination, ServerFile
from clusterdns.forwarding.flight import Attempt, Pool
from clusterdns.forwarding.outside import Outside
from clusterdns.forwarding.roster import Roster
from clusterdns.forwarding.settings import ForwardSettings
from clusterdns.forwarding.upstream import Upstream
from clusterdns.host.addresses import host_and_port
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.tally import Sample
from clusterdns.tapping.payload import Socket
from clusterdns.tapping.taps import Exchanged, Taps
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.reading import Reply
from clusterdns.wire.response import Response, failure

RECHECK_S = 5.0  # between checks of a file of servers
_NETWORK_ERROR = 23  # RFC 8914 section 5.2
_LOOPING = failure(rr.SERVFAIL, "plugin/forward: what is forwarded comes back, see loop")._replace(
    edns=message.extended_error(_NETWORK_ERROR, "forwarding loop")
)
_log = plugin_logger("forward")


_NOT_STARTED = failure(rr.SERVFAIL, "plugin/forward: not started")


class Forward(Plugin):
    """Asks the servers of one directive, in the order of its policy."""

    always_shown = True
    opens_classes = True
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
        self._block = block
        self._outside = block.shared(Outside)
        self._taps = block.shared(Taps)
        self._settings = ForwardSettings(directive, block.root)
        self._destinations: list[Destination] = []
        self._take_servers()
        self._roster: Roster | None = None
        self._pool: Pool | None = None
        self._polling: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None  # certificates
        self._is_last = True
        self._under_way = self._rejected = 0

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence; `next` leads from each to the following one."""
        plugins = [cls(directive, block) for directive in directives]
        for plugin in plugins[:-1]:
            plugin._is_last = False
        return [*plugins]

    def _take_servers(self) -> None:
        """Set the present servers of TO, and warn of those that are this server."""
        known = self._destinations
        self._destinations = destinations.all_of(self._settings.entries)
        upstreams = self._outside.upstreams
        upstreams -= {host_and_port(one.host, one.port) for one in known}
        upstreams |= {host_and_port(one.host, one.port) for one in self._destinations}
        for one in self._destinations:
            if one not in known and destinations.is_ourselves(
                one, self._block.hosts, self._block.ports
            ):
                where = host_and_port(one.host, one.port)
                _log.warning("%s is this server: what is forwarded there comes back", where)

    async def start(self, worker: Worker) -> None:
        """Open the servers in this worker."""
        outside = self._outside
        self._roster = Roster(self._destinations, self._open)
        self._pool = Pool(self._settings.rules, self._roster.asked, outside.octets, outside.options)
        if any(isinstance(entry, ServerFile) for entry in self._settings.entries):
            self._polling = asyncio.create_task(self._poll_files(self._roster, self._pool))
        if self._settings.tls_files is not None:
            self._following = asyncio.create_task(self._settings.tls_files.follow(_log))

    async def stop(self) -> None:
        """Close the servers."""
        await end(self._polling)
        await end(self._following)
        if self._pool is not None:
            self._pool.close()
        if self._roster is not None:
            self._roster.close()

    def _open(self, one: Destination) -> Upstream:
        settings = self._settings
        tls, web_method = settings.tls_of(one), settings.web_method_of(one)
        return Upstream(one.host, one.port, settings.options, tls, web_method)

    async def _poll_files(self, roster: Roster, pool: Pool) -> None:
        """Replace the servers of files when they change."""
        files = [entry for entry in self._settings.entries if isinstance(entry, ServerFile)]
        while True:
            await asyncio.sleep(RECHECK_S)
            if [file for file in files if file.refresh()]:
                self._take_servers()
                roster.replace(self._destinations)
                pool.upstreams = roster.asked
                _log.info("servers now: %s", " ".join(each.text for each in pool.upstreams))

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin for names that are not forwarded here."""
        return None if self._settings.is_for(question.folded) else next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the reply of the first server that gives one."""
        question, pool = query.question, self._pool
        if question is None or not self._settings.is_for(question.folded):
            return await next(query)
        if pool is None:
            return _NOT_STARTED
        if self._outside.is_broken(question):
            if (taker := trace.scribe()) is not None:
                taker.blame("queries that are forwarded come back: `loop` has found a loop")
            return _LOOPING
        most = self._settings.max_concurrent
        if self._under_way + pool.relayed >= most:
            self._refuse(1)
            if (taker := trace.scribe()) is not None:
                taker.blame(f"`max_concurrent` allows {most} queries at one time")
            for lane in pool.lanes:
                lane.refuses = True  # the relay refuses similar ones for a while
            return failure(rr.REFUSED, f"concurrent queries exceeded maximum {most}")
        self._under_way += 1
        try:
            taker = trace.scribe()
            is_told = self._taps.all or taker is not None
            tell = functools.partial(self._tell, query, taker) if is_told else None
            joined = pool.joined
            reply = pool.ask(query, question, tell)
            if taker is not None and pool.joined > joined:
                taker.note("waits for the reply to an equal query that is under way")
            response = await reply
        finally:
            self._under_way -= 1
        if query.metadata is not None and response.source:
            query.metadata.put("forward/upstream", lambda: response.source)
        if response.flags & message.AD and not (question.do or query.flags & message.AD):
            response = response._replace(flags=response.flags & ~message.AD)
        return await next(query) if self._is_for_next(response) else response

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why it does not forward the name, for `explain`."""
        if is_own or self._settings.is_for(question.folded):
            return ""
        if name.is_within(question.folded, self._settings.zone):
            return f"`except` leaves out {trace.names_text(self._settings.excepted)}"
        return f"it forwards names in {name.text(self._settings.zone)} only"

    def _tell(self, query: Query, taker: trace.Scribe | None, attempt: Attempt) -> None:
        """Report an exchange with a server to the taps (CoreDNS: forward/dnstap.go)."""
        upstream, found = attempt.upstream, attempt.found
        if taker is not None:
            said = rr.rcode_text(found.rcode) if isinstance(found, Reply) else str(found)
            taken = f"{attempt.seconds * 1000:.1f} ms over {attempt.proto}"
            is_good = isinstance(found, Reply) and found.rcode == rr.NOERROR
            note = taker.note if is_good else taker.blame
            note(f"{upstream.text}: {said} ({taken})")
        if query.metadata is not None:
            query.metadata.put("forward/upstream", lambda: upstream.text)
        socket = Socket(attempt.proto, attempt.local, (upstream.host, upstream.port))
        reply = found if isinstance(found, Reply) else None
        exchanged = Exchanged(socket, attempt.packet, reply, attempt.began, attempt.seconds)
        for tap in self._taps.all:
            tap.forwarded(query, exchanged)

    def relay(self, route: Route) -> bool:
        """Enter the servers, if a plain query is only sent to one of them."""
        settings = self._settings
        if not name.is_within(route.zone, settings.zone):
            return route.claim((settings.zone,))
        patience_s = settings.options.read_timeout_s
        route.forwarded = Forwarded(self._pool, patience_s, self._room, self._refuse)
        if against := settings.against_relay:
            return route.refuse(*(f"`{each}` is not for the relay in C" for each in against))
        return route.claim(tuple(zone for zone in settings.excepted if zone != settings.zone))

    def _room(self) -> int | None:
        """Return how many more queries may be under way, not counting those relayed."""
        if self._outside.is_suspect:
            return None
        return self._settings.max_concurrent - self._under_way

    def _refuse(self, times: int) -> None:
        self._rejected += times

    def _is_for_next(self, response: Response) -> bool:
        """Tell whether the next `forward` shall be asked as well (CoreDNS: isEmpty)."""
        if self._is_last or response.bare:
            return False
        if response.rcode in self._settings.next:
            return True
        is_empty = response.rcode == rr.NOERROR and not response.answer
        return self._settings.next_on_nodata and is_empty

    def samples(self) -> list[Sample]:
        """Return CoreDNS's counts of the proxy and of refused queries, and our own."""
        pool = self._pool
        found: list[Sample] = [("forward_max_concurrent_rejects_total", (), self._rejected)]
        if pool is None:
            return found
        found.append(("forward_healthcheck_broken_total", (), pool.broken))
        found.append(("clusterdns_forward_joined_total", (), pool.joined))
        for text, count in pool.hedges.items():
            found.append(("clusterdns_forward_hedges_total", (text,), count))
        for upstream in self._roster.known if self._roster else ():
            found += samples_of(upstream)
        return found

    def upstreams(self) -> list[UpstreamState]:
        """Return the state of the servers that are asked."""
        most = self._settings.rules.max_fails
        return [
            UpstreamState(
                upstream.text,
                self.name,
                upstream.fails,
                bool(most) and upstream.fails > most,
                {rcode: times.sample() for rcode, times in upstream.durations.items()},
            )
            for upstream in (self._roster.asked if self._roster else ())
        ]
