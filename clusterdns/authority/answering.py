"""The base of plugins that answer from whole zones in memory: `file`, `auto`, `secondary`.

A subclass keeps ``zones`` up to date; a zone without data is None, and answered with SERVFAIL.
(CoreDNS: plugin/file/file.go)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator

from clusterdns.authority.transfers import Transfers
from clusterdns.authority.zone import Zone
from clusterdns.authority.zoneanswer import Result
from clusterdns.chain.asking import Steps, answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, NO_ZONE, AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, OPCODE_NOTIFY, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

_RCODES = {Result.NAME_ERROR: rr.NXDOMAIN, Result.FAILURE: rr.SERVFAIL}
_MAY_FALL_THROUGH = (Result.NAME_ERROR, Result.EMPTY)
# Answers made by a wildcard or DNAME are repeated only for so long: their names are unlimited, and
# must not evict lasting answers.
SYNTHESIZED_S = 60.0


class Authority(Plugin):
    """Answers from ``zones``; the next plugin answers names outside them."""

    answers_zones = True

    def __init__(self, block: Block) -> None:
        self.block = block
        self.zones: dict[WireName, Zone | None] = {}
        self.through: tuple[WireName, ...] = ()  # `fallthrough`
        self.transfers = block.shared(Transfers)
        self.transfers.add_source(self.transfer, self.order)

    @property
    def claimed(self) -> Iterable[WireName]:
        """The zones that are served, now or once loaded."""
        return self.zones

    def zone_of(self, qname: WireName) -> WireName | None:
        """Return the longest zone that a name lies in, or None."""
        return longest(qname, self.zones)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of ours is above or below ``cut``."""
        return not any(
            name.is_within(zone, cut) or name.is_within(cut, zone) for zone in self.claimed
        )

    def relay(self, route: Route) -> bool:
        """Exclude the names of our zones from the relay."""
        return route.claim(tuple(self.claimed))

    def transfer(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of a zone for a transfer, or None; see authority/transfers.py."""
        if apex not in self.zones:
            return None
        zone = self.zones[apex]
        if zone is None:
            raise LookupError(f"zone {name.text(apex)} is not there")
        return zone.records()

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the zone."""
        apex = self.zone_of(question.folded)
        if apex is None:
            return next(question)

        def behind(question: Question) -> Response | None:
            return self._fallen(next(question))

        return answer_by(self._respond(apex, question), question, self.block.resolver, behind)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the zone; ask the listener about names outside."""
        apex = self.zone_of(query.question.folded) if query.question else None
        if query.question is None or apex is None:
            return await next(query)
        if query.opcode == OPCODE_NOTIFY:
            return await self.notified(query, apex)
        steps = self._respond(apex, query.question)

        async def behind(query: Query) -> Response:
            found = await next(query)
            return self._fallen(found) or found

        return await handle_by(steps, query, self.block.resolver, behind)

    def _fallen(self, response: Response | None) -> Response | None:
        """Return the response of the next plugin to a name of ours that fell through.

        Without a next plugin it is a failure (CoreDNS: plugin.go NextOrFailure).
        """
        if response is NO_ZONE:
            return failure(rr.SERVFAIL, f"plugin/{self.name}: no next plugin found")
        return response

    async def notified(self, query: Query, apex: WireName) -> Response:
        """Return the response to a NOTIFY; only a secondary server takes it."""
        return DROP

    def _respond(self, apex: WireName, question: Question) -> Steps:
        """Yield a question about an alias outside the zones; return the response."""
        if question.qtype in (rr.AXFR, rr.IXFR):
            return failure(rr.REFUSED)
        zone = self.zones[apex]
        if zone is None:
            if (taker := trace.scribe()) is not None:
                taker.blame(f"the zone {name.text(apex)} has not been read or transferred yet")
            return failure(rr.SERVFAIL, f"plugin/{self.name}: no zone {name.text(apex)}")
        found = zone.find(question)
        if (taker := trace.scribe()) is not None:
            serial = f"serial {zone.serial}"
            is_there = found.result in (Result.SUCCESS, Result.DELEGATION)
            note = taker.note if is_there else taker.blame
            note(f"zone {name.text(apex)} ({serial}): {found.result.value}")
        lifetime_s = math.inf if zone.holds(question.folded) else SYNTHESIZED_S
        facts: tuple[Hashable, ...] = (("zone", name.text(apex)),)
        if found.target:
            folded = name.fold(found.target)
            asked = question._replace(qname=found.target, folded=folded, qclass=rr.CLASS_IN)
            outside = yield asked
            found = zone.join(question, found, outside.rcode, outside.answer)
            lifetime_s = min(lifetime_s, outside.lifetime_s)
            facts += outside.facts
        if not found.answer:
            may_fall = found.result in _MAY_FALL_THROUGH
            if may_fall and name.is_within_any(question.folded, self.through):
                return None
            if found.result is Result.FAILURE:
                return failure(rr.SERVFAIL)
        is_referral = found.result is Result.DELEGATION and not found.answer
        return Response(
            _RCODES.get(found.result, rr.NOERROR),
            0 if is_referral else AA,
            found.answer,
            found.authority,
            found.additional,
            lifetime_s=lifetime_s,
            facts=facts,
        )


def longest(qname: WireName, zones: Iterable[WireName]) -> WireName | None:
    """Return the longest of the zones that a name lies in, or None."""
    return max((zone for zone in zones if name.is_within(qname, zone)), key=len, default=None)
