"""etcd - names that are kept in etcd, as SkyDNS keeps them.

Syntax:

    etcd [ZONES...] {
        fallthrough [ZONES...]
        path PATH
        endpoint ENDPOINT...
        credentials USERNAME PASSWORD
        tls [CA] | tls CERT KEY [CA]
        min-lease-ttl DURATION
        max-lease-ttl DURATION
        no_apex_fallback
    }

The name `web.staging.skydns.local` in ZONES, by default the keys of the server block, has the
records of the key `/skydns/local/skydns/staging/web` and of all keys below it. PATH is the first
part of all keys, `/skydns` by default. A value is a JSON object such as

    {"host": "10.0.0.1", "port": 8080, "priority": 10, "weight": 100, "ttl": 60,
     "text": "...", "mail": true, "targetstrip": 1, "group": "a"}

in which any may be left out. An address as `host` makes A and AAAA records, a name CNAME and PTR
records; SRV records have `port`, `priority` (10 by default) and a share of the `weight`s; `mail`
makes MX records, `text` TXT records. For an SRV or MX record of an address a name is made of the
key, without `targetstrip` of its first labels. Of services with different `group`s, only those of
the shortest key's group are returned. A label `*` or `any` of a question stands for any label. The
addresses of a zone itself are at `dns/apex` of it, or else anywhere in it (not with
`no_apex_fallback`), its name servers at `dns/ns`. The TTL is the least of `ttl` and the rest of the
key's lease, which counts within `min-lease-ttl` (30s) and `max-lease-ttl` (24h), or else 300.

ENDPOINTs are URLs of members of the cluster, `http://localhost:2379` by default, with `tls` as in
`forward`. One that fails is left alone for 1s, twice as long each time up to 8s. A name that cannot
be looked up is SERVFAIL, after 5s at most, and at once while all members have failed.
`fallthrough` passes on names that do not exist. Each query asks etcd: use `cache`.

Examples:

    skydns.local {
        etcd {
            path /skydns
            endpoint http://localhost:2379 http://localhost:4001
            min-lease-ttl 60
            max-lease-ttl 1h
        }
        cache
        loadbalance
    }

Metrics:

    clusterdns_etcd_failures_total  requests that a member of the cluster has failed to answer

Differences from CoreDNS: etcd is asked over its JSON gateway (etcd 3.4 or newer), not over gRPC. A
question causes 64 lookups at most. A label with a slash cannot step out of its key, which leads
CoreDNS to keys outside of the zone. A question of a type that etcd has no records for causes no
questions for names outside. `stubzones`, `upstream` and `debug` mean nothing, and are warned of.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from clusterdns.chain.asking import MAX_DEPTH
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Repeats, Worker
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.lexer import shorten
from clusterdns.corefile.parser import Directive
from clusterdns.errors import UpstreamError
from clusterdns.forwarding.connections import tls_context
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.skydns import services
from clusterdns.skydns.gateway import Endpoint, Etcd, KeyValue
from clusterdns.skydns.records import Get, MissingError, Zone
from clusterdns.skydns.services import Service
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure, fit

DEFAULT_ENDPOINT, DEFAULT_PORT = "http://localhost:2379", 2379
DEFAULT_TTL = 300
MIN_LEASE_S, MAX_LEASE_S = 30, 86400  # CoreDNS: defaultLeaseMinTTL, defaultLeaseMaxTTL
MAX_LEASES = 64  # that are asked for in one lookup, the others count as none
_MAX_TTL_S = 2**32 - 1
_MEANINGLESS = ("stubzones", "upstream", "debug")
_log = logging.getLogger("etcd")


class EtcdPlugin(Plugin):
    """The zones of one server block."""

    repeats = Repeats.FIRST
    secrets: ClassVar = {"credentials": 1}
    families: ClassVar = {
        "clusterdns_etcd_failures_total": Family(
            "Counter of requests that a member of the etcd cluster failed to answer."
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._zones = arguments.zone_names(directive.args, directive) or block.zones
        self._fallthrough: tuple[WireName, ...] = ()
        self._prefix = "skydns"
        self._falls_back = True
        self._least_s, self._most_s = MIN_LEASE_S, MAX_LEASE_S
        self._credentials: tuple[str, str] | None = None
        tls: ssl.SSLContext | None = None
        endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
        where = directive
        for line in directive.block:
            match line.name:
                case "endpoint":
                    endpoints, where = arguments.some(line), line
                case "tls":
                    tls = tls_context(line.args, line, block.root)
                case _:
                    self._read(line)
        self._endpoints = [_endpoint(text, where, tls) for text in endpoints]
        self._etcd: Etcd | None = None

    def _read(self, line: Directive) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        match line.name:
            case "fallthrough":
                self._fallthrough = arguments.zone_names(line.args or (".",), line)
            case "path":
                self._prefix = arguments.one(line)
            case "credentials":
                if len(line.args) != 2:
                    raise line.error("wants USERNAME PASSWORD")
                username, password = line.args
                self._credentials = (username, password) if username and password else None
            case "min-lease-ttl":
                self._least_s = _seconds(line) or MIN_LEASE_S
            case "max-lease-ttl":
                self._most_s = _seconds(line) or MAX_LEASE_S
            case "no_apex_fallback":
                self._falls_back = not arguments.flag(line)
            case _ if line.name in _MEANINGLESS:
                _log.warning("%s:%d: etcd: %s means nothing", line.file, line.line, line.name)
            case _:
                raise line.unknown(
                    "fallthrough", "path", "endpoint", "credentials", "tls", "min-lease-ttl",
                    "max-lease-ttl", "no_apex_fallback",
                )  # fmt: skip

    async def start(self, worker: Worker) -> None:
        """Get ready to ask."""
        self._etcd = Etcd(self._endpoints, self._credentials)

    async def stop(self) -> None:
        """Close the connections."""
        if self._etcd is not None:
            self._etcd.close()

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin for names outside the zones."""
        return next(question) if self._zone_of(question.folded) is None else None

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of ours is above or below ``cut``."""
        return not any(
            name.is_within(zone, cut) or name.is_within(cut, zone) for zone in self._zones
        )

    def relay(self, route: Route) -> bool:
        """Leave the names of our zones to the chain."""
        return route.claim(self._zones)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what etcd has."""
        question, etcd = query.question, self._etcd
        zone = self._zone_of(question.folded) if question is not None else None
        if question is None or zone is None or etcd is None:
            return await next(query)
        if question.depth >= MAX_DEPTH:
            return failure(rr.SERVFAIL, "plugin/etcd: aliases lead around in a circle")
        lookup = Zone(zone, int(time.time()) & 0xFFFFFFFF, falls_back=self._falls_back)
        response = await self._look_up(lookup, query, question, etcd)
        if response is not None:
            return response
        if name.is_within_any(question.folded, self._fallthrough):
            if (taker := trace.scribe()) is not None:
                taker.note("`fallthrough`: the next plugin may know it")
            return await next(query)
        return lookup.negative(rr.NXDOMAIN)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return which zone decided, for `explain`."""
        if not is_own:
            return f"in none of its zones {trace.names_text(self._zones)}"
        return "" if response.answer else "etcd has nothing of this type there"

    def samples(self) -> list[Sample]:
        """Return how often etcd has failed."""
        failures = self._etcd.failures if self._etcd is not None else 0
        return [("clusterdns_etcd_failures_total", (), failures)]

    async def _look_up(
        self, lookup: Zone, query: Query, question: Question, etcd: Etcd
    ) -> Response | None:
        """Drive a lookup: get what it wants of etcd, ask what is outside of the zone."""
        steps, depth = lookup.respond(question), question.depth + 1
        said: Any = None
        problem: Exception | None = None
        is_personal = False
        try:
            while True:
                wanted = steps.send(said) if problem is None else steps.throw(problem)
                said = problem = None
                if isinstance(wanted, Question):
                    said = await self._ask(query, wanted._replace(depth=depth))
                    is_personal |= said.personal
                    continue
                try:
                    said = await self._services(wanted, etcd)
                except (MissingError, UpstreamError) as error:
                    problem = error
        except StopIteration as done:
            found: Response | None = done.value
            return found._replace(personal=True) if found and is_personal else found

    async def _ask(self, query: Query, question: Question) -> Response:
        """Return what this server says of a name outside."""
        resolver = self._block.resolver
        if resolver is None:
            return failure(rr.SERVFAIL)
        return fit(await resolver.handle(query.asking(question)), question, query.limit)

    async def _services(self, wanted: Get, etcd: Etcd) -> list[Service]:
        """Return the services of a name.

        Raises:
            MissingError: there is no such key.
            UpstreamError: etcd does not say, or has something else there.
        """
        qname = name.fold(wanted.qname)
        key, is_wild = services.wild_path(qname, self._prefix)
        whole = services.path(qname, self._prefix)
        taker = trace.scribe()
        if key is None or whole is None:
            if taker is not None:
                taker.blame(f"{name.text(wanted.qname)} is no path of etcd")
            raise MissingError
        found: list[KeyValue] = []
        if not wanted.is_exact:
            found = await etcd.range(key.removesuffix("/") + "/", is_prefix=True)
        if not found:
            found = await etcd.range(key, is_prefix=False)
        if taker is not None:
            note = taker.note if found else taker.blame
            note(f"etcd has {len(found) or 'no'} key{'' if len(found) == 1 else 's'} at {key}")
        if not found:
            raise MissingError
        if is_wild:
            parts = whole.split("/")
            found = [each for each in found if services.is_like(each.key, parts)]
        made = [services.parse(each.key, each.value) for each in found]
        leases = await self._leases(found, etcd)
        return [
            service._replace(
                ttl=_least(service.ttl, leases.get(each.lease, 0)),
                priority=service.priority or services.DEFAULT_PRIORITY,
            )
            for service, each in zip(made, found, strict=True)
            if service.host or (wanted.qtype == rr.TXT and service.text)
        ]

    async def _leases(self, found: Sequence[KeyValue], etcd: Etcd) -> dict[int, int]:
        """Return the seconds that leases run for, within bounds; what is not known is left out."""
        numbers = [*dict.fromkeys(each.lease for each in found if each.lease)][:MAX_LEASES]
        asked = (etcd.seconds_left(number) for number in numbers)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        return {
            # CoreDNS looks at the lower bound first, also where it is the larger of the two.
            number: self._least_s if seconds < self._least_s else min(seconds, self._most_s)
            for number, seconds in zip(numbers, replies, strict=True)
            if isinstance(seconds, int) and seconds > 0
        }

    def _zone_of(self, qname: WireName) -> WireName | None:
        return max(
            (zone for zone in self._zones if name.is_within(qname, zone)), key=len, default=None
        )


def _least(ttl: int, lease_s: int) -> int:
    """Return the TTL that a service's own and its lease come to."""
    given = [each for each in (ttl, lease_s) if each]
    return min(given, default=DEFAULT_TTL)


def _seconds(line: Directive) -> int:
    """Return a number of seconds, or a duration. Raises ConfigError."""
    text = arguments.one(line).strip()
    if text.isascii() and text.isdigit():
        return arguments.whole(text, line, most=_MAX_TTL_S)
    seconds = arguments.seconds(line)
    if seconds > _MAX_TTL_S:
        raise line.error(f"{shorten(text)!r} is more than {_MAX_TTL_S} seconds")
    return int(seconds)


def _endpoint(text: str, line: Directive, tls: ssl.SSLContext | None) -> Endpoint:
    """Return the endpoint that a URL, or a host with a port, names. Raises ConfigError."""
    url = text if "://" in text else f"//{text}"
    try:
        found = urlsplit(url)
        host, port = found.hostname, found.port or DEFAULT_PORT
    except ValueError as error:
        raise line.error(f"{shorten(text)!r}: {error}") from error
    if found.scheme not in ("", "http", "https") or not host or found.path.strip("/"):
        raise line.error(f"wants http://HOST:PORT or https://HOST:PORT, got {shorten(text)!r}")
    if found.scheme == "http":
        tls = None
    elif found.scheme == "https" and tls is None:
        tls = tls_context((), line, Path())
    return Endpoint(host, port, tls)
