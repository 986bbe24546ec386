"""siit - make IPv4 addresses of the IPv6 addresses that stand for them (RFC 7915, RFC 7757).

Syntax:

    siit {
        ipv6_prefix PREFIX
        eam IPV4 IPV6
    }

Where a question for A has no A record in its answer, the name is looked up again, from the first
server block on, for AAAA. Each address found that an `eam` names becomes the IPv4 address given
with it; one in PREFIX, by default 64:ff9b::/96, the IPv4 address embedded there (RFC 6052).
Others are left out; if that leaves none, the first reply stands. A name that does not exist stays
so. The length of PREFIX is 32, 40, 48, 56, 64 or 96. `eam` may be given many times.

Examples:

    . {
        siit {
            ipv6_prefix 64:ff9b:1::/96
            eam 192.0.2.5 2001:db8::5
        }
        cache 30
        forward . 192.0.2.53
    }

Metrics: `coredns_siit_requests_translated_total{server}` counts replies with records made so.

Questions for A are not relayed. With `dns64` in the same block, no question is.

Differences from CoreDNS: it sends a reply with an error a second time; here each query has one.
"""

from __future__ import annotations

import contextvars
import ipaddress
from typing import ClassVar

from clusterdns.addressing import translation
from clusterdns.chain.asking import Steps, answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import rr
from clusterdns.wire.message import AA, RA, TC, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

TRANSLATED = "siit_requests_translated_total"
# Set while a look-up of ours is under way: what it leads to is not translated again, or `dns64` and
# this would ask each other for ever.
_is_looking_up = contextvars.ContextVar("siit", default=False)


class Siit(Plugin):
    """Translates AAAA records to A records."""

    families: ClassVar = {
        TRANSLATED: Family("Counter of DNS requests translated by siit.", ("server",)),
    }
    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._prefix = translation.WELL_KNOWN
        self._mapped: dict[bytes, bytes] = {}
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        for line in directive.block:
            match line.name:
                case "ipv6_prefix":
                    self._prefix = translation.prefix(arguments.one(line), line)
                    if self._prefix.has_reserved_octet:
                        raise line.error("reserved octet (byte 8) must be zero")
                case "eam":
                    ipv4, ipv6 = _mapping(line)
                    self._mapped[ipv6] = ipv4
                case _:
                    raise line.unknown("ipv6_prefix", "eam")
        self._translated = 0

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind say, translated."""
        response = next(question)
        if response is None or not _is_wanted(question, response):
            return response
        token = _is_looking_up.set(True)
        try:
            steps = self._look_up(question, response)
            return answer_by(steps, question, self._block.resolver, next)
        finally:
            _is_looking_up.reset(token)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the plugins behind say, translated."""
        response = await next(query)
        if query.question is None or not _is_wanted(query.question, response):
            return response
        token = _is_looking_up.set(True)
        try:
            steps = self._look_up(query.question, response)
            return await handle_by(steps, query, self._block.resolver, next)
        finally:
            _is_looking_up.reset(token)

    def _look_up(self, question: Question, denial: Response) -> Steps:
        """Ask for AAAA and return the reply with A records (CoreDNS: plugin/siit/siit.go)."""
        found = yield translation.asking(question, rr.AAAA)
        if found is DROP:
            return failure(rr.SERVFAIL, "siit: upstream lookup returned no response")
        flags = found.flags & (AA | RA | TC)
        if found.rcode != rr.NOERROR:
            return translation.in_place_of(denial, found, flags)
        most_ttl, answer, is_translated = translation.most_ttl(denial), [], False
        for record in found.answer:
            if record.rtype != rr.AAAA:
                answer.append(record)
                continue
            ipv4 = self._mapped.get(record.rdata) or self._prefix.extract(record.rdata)
            if ipv4 is not None:
                is_translated = True
                ttl = min(record.ttl, most_ttl)
                answer.append(record._replace(rtype=rr.A, ttl=ttl, rdata=ipv4))
        made = translation.in_place_of(denial, found, flags, tuple(answer))
        if not is_translated:
            return denial._replace(lifetime_s=made.lifetime_s, facts=made.facts)
        self._translated += 1
        return made._replace(counters=(*made.counters, (TRANSLATED, (self._block.server,))))

    def treats_alike(self, cut: WireName) -> bool:
        """Say yes: what does not exist is not looked up again."""
        return True

    def relay(self, route: Route) -> bool:
        """Leave questions for A to the chain."""
        return route.leave(rr.A)

    def samples(self) -> list[Sample]:
        """Return how many replies were translated."""
        labels = (self._block.server,)
        return [(TRANSLATED, labels, self._translated)] if self._translated else []


def _is_wanted(question: Question, response: Response) -> bool:
    """Tell whether a response is one that a translated one may take the place of."""
    if _is_looking_up.get() or question.qtype != rr.A or question.qclass != rr.CLASS_IN:
        return False
    if not translation.is_message(response) or response.flags & TC:
        return False
    if response.rcode == rr.NXDOMAIN and not response.answer:
        return False
    return not translation.has(response, rr.A)


def _mapping(line: Directive) -> tuple[bytes, bytes]:
    """Return an IPv4 address and the IPv6 address it stands for."""
    if len(line.args) != 2:
        raise line.error("wants IPV4 IPV6")
    found = [ipaddress.ip_address(0), ipaddress.ip_address(0)]
    for i, text in enumerate(line.args):
        try:
            found[i] = ipaddress.ip_address(text)
        except ValueError as error:
            raise line.error(f"{text!r} is no IP address") from error
    if found[0].version != 4 or found[1].version != 6:
        raise line.error(f"wants IPV4 IPV6, got {' '.join(line.args)!r}")
    return found[0].packed, found[1].packed
