"""siit - translate IPv6 addresses that stand for IPv4 addresses (RFC 7915, RFC 7757).

Syntax:

    siit {
        ipv6_prefix PREFIX
        eam IPV4 IPV6
    }

If an A question gets no A record, the server looks up AAAA for the same name, starting with the
choice of the server block. An address of an `eam` becomes its IPv4 address; an address in PREFIX,
by default 64:ff9b::/96, becomes the IPv4 address embedded in it (RFC 6052). Others are left out; if
none remains, the first reply is returned. NXDOMAIN is not changed. The length of PREFIX is 32, 40,
48, 56, 64 or 96. `eam` may be repeated.

Examples:

    . {
        siit {
            ipv6_prefix 64:ff9b:1::/96
            eam 192.0.2.5 2001:db8::5
        }
        cache 30
        forward . 192.0.2.53
    }

Metrics: `coredns_siit_requests_translated_total{server}` counts translated replies.

A questions are not relayed.

Differences from CoreDNS: each query gets one reply; CoreDNS sends error replies twice.
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
from clusterdns.wire import rr, trace
from clusterdns.wire.message import AA, RA, TC, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

TRANSLATED = "siit_requests_translated_total"
# Set during a lookup of ours: its result is not translated again; otherwise `dns64` and `siit`
# would ask each other without end.
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
        """Return the response of the next plugin, translated."""
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
        """Return the response of the next plugin, translated."""
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
        if (taker := trace.scribe()) is not None:
            count = sum(record.rtype == rr.AAAA for record in found.answer)
            taker.note(f"asks for AAAA in place of A: {count or 'no'} of them to translate")
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

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why nothing is translated, for `explain`."""
        if question.qtype != rr.A or is_own:
            return ""
        if translation.has(response, rr.A):
            return "the reply has A records"
        return f"{rr.rcode_text(response.rcode)} is not translated"

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: NXDOMAIN is not looked up again."""
        return True

    def relay(self, route: Route) -> bool:
        """Exclude A questions from the relay."""
        return route.leave(rr.A)

    def samples(self) -> list[Sample]:
        """Return the number of translated replies."""
        labels = (self._block.server,)
        return [(TRANSLATED, labels, self._translated)] if self._translated else []


def _is_wanted(question: Question, response: Response) -> bool:
    """Tell whether a translated response may replace a response."""
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
