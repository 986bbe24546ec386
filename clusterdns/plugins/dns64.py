"""dns64 - give clients without IPv4 IPv6 addresses for names that only have IPv4 (RFC 6147).

Syntax:

    dns64 [PREFIX] {
        prefix PREFIX
        translate_all
        allow_ipv4
    }

If an AAAA question of a client with an IPv6 address gets no AAAA record, the server looks up A for
the same name, starting with the choice of the server block, and embeds each address in PREFIX, by
default 64:ff9b::/96; the network translates them back (NAT64). The length of PREFIX is 32, 40, 48,
56, 64 or 96. NXDOMAIN is not changed; otherwise the return code is that of the second lookup.
`translate_all` also translates if there are AAAA records, `allow_ipv4` also for clients with an
IPv4 address.

Examples:

    . {
        dns64 64:ff9b:1::/96
        cache 30
        forward . 192.0.2.53
    }

Metrics: `coredns_dns64_requests_translated_total{server}` counts the translated replies.

Speed: the client's family decides, so a translated reply takes the chain each time. It is kept in
the answer table if the family does not matter: with `allow_ipv4`, or if `bind` has addresses of one
family only, as in an IPv6-only cluster. AAAA questions are not relayed.
"""

from __future__ import annotations

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
from clusterdns.wire.message import TC, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

TRANSLATED = "dns64_requests_translated_total"


class Dns64(Plugin):
    """Translates A records to AAAA records."""

    families: ClassVar = {
        TRANSLATED: Family("Counter of DNS requests translated by dns64.", ("server",)),
    }
    repeats = Repeats.OPTIONS

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._prefix = translation.WELL_KNOWN
        self._translates_all = self._allows_ipv4 = False
        if len(directive.args) > 1:
            raise directive.error(f"takes one prefix, got also {directive.args[1]!r}")
        if directive.args:
            self._prefix = translation.prefix(directive.args[0], directive)
        for line in directive.block:
            match line.name:
                case "prefix":
                    self._prefix = translation.prefix(arguments.one(line), line)
                case "translate_all":
                    self._translates_all = arguments.flag(line)
                case "allow_ipv4":
                    self._allows_ipv4 = arguments.flag(line)
                case _:
                    raise line.unknown("prefix", "translate_all", "allow_ipv4")
        self._translated = 0

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response for clients of both families, None if the family decides."""
        response = next(question)
        if response is None or not self._is_wanted(question, response):
            return response
        if not self._allows_ipv4:
            family = _only_family(self._block)
            if family != rr.AAAA:
                return response if family == rr.A else None
        return answer_by(self._look_up(question, response), question, self._block.resolver, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, translated if the client needs it."""
        response = await next(query)
        if query.question is None or not self._is_wanted(query.question, response):
            return response
        if not self._allows_ipv4 and _has_ipv4(query.client[0]):
            return response
        steps = self._look_up(query.question, response)
        return await handle_by(steps, query, self._block.resolver, next)

    def _is_wanted(self, question: Question, response: Response) -> bool:
        """Tell whether a translated response may replace a response."""
        if question.qtype != rr.AAAA or question.qclass != rr.CLASS_IN:
            return False
        if not translation.is_message(response):
            return False
        if response.rcode == rr.NXDOMAIN and not response.answer:
            return False
        return self._translates_all or not translation.has(response, rr.AAAA)

    def _look_up(self, question: Question, denial: Response) -> Steps:
        """Ask for A and return the reply with AAAA records (CoreDNS: plugin/dns64/dns64.go)."""
        found = yield translation.asking(question, rr.A)
        if found is DROP:
            return failure(rr.SERVFAIL, "dns64: upstream returned no response")
        if (taker := trace.scribe()) is not None:
            count = sum(record.rtype == rr.A for record in found.answer)
            into = self._prefix.network
            taker.note(f"asks for A in place of AAAA: {count or 'no'} of them to embed in {into}")
        most_ttl = translation.most_ttl(denial)
        answer = tuple(
            record._replace(
                rtype=rr.AAAA,
                ttl=min(record.ttl, most_ttl),
                rdata=self._prefix.embed(record.rdata),
            )
            if record.rtype == rr.A
            else record
            for record in found.answer
        )
        self._translated += 1
        made = translation.in_place_of(denial, found, found.flags & TC, answer)
        return made._replace(counters=(*made.counters, (TRANSLATED, (self._block.server,))))

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why nothing is translated, for `explain`."""
        if question.qtype != rr.AAAA or is_own:
            return ""
        if translation.has(response, rr.AAAA) and not self._translates_all:
            return "the reply has AAAA records"
        if not self._is_wanted(question, response):
            return f"{rr.rcode_text(response.rcode)} is not translated"
        return "`allow_ipv4` is not set, and the client asks over IPv4"

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: NXDOMAIN is not looked up again."""
        return True

    def relay(self, route: Route) -> bool:
        """Exclude AAAA questions from the relay."""
        return route.leave(rr.AAAA)

    def samples(self) -> list[Sample]:
        """Return the number of translated replies."""
        labels = (self._block.server,)
        return [(TRANSLATED, labels, self._translated)] if self._translated else []


def _only_family(block: Block) -> int | None:
    """Return A or AAAA if all clients of a block have addresses of that family, else None."""
    found = {rr.address_rdata(host) for host in block.hosts}
    families = {each[0] if each and any(each[1]) else None for each in found}
    return families.pop() if len(families) == 1 else None


def _has_ipv4(address: str) -> bool:
    found = rr.address_rdata(address.partition("%")[0])
    return found is not None and found[0] == rr.A
