"""The base of plugins that answer from whole zones in memory: `file`, `auto`, `secondary`.

A subclass keeps ``zones`` up to date; a zone without data is None, and answered with SERVFAIL.
(CoreDNS: plugin/file/file.go)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from clusterdns.authority.transfers import Transfers
from clusterdns.authority.zone import Zone
from clusterdns.authority.zoneanswer import Result, ZoneAnswer
from clusterdns.caching.spared import Spared
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


class Answers(Protocol):
    """A zone that can be asked, or the part of one that a client is shown."""

    apex: WireName

    @property
    def serial(self) -> int:
        """As in ``Zone``."""

    def holds(self, qname: WireName) -> bool:
        """As in ``Zone``."""

    def has_below(self, qname: WireName) -> bool:
        """As in ``Zone``."""

    def find(self, question: Question) -> ZoneAnswer:
        """As in ``Zone``."""

    def join(
        self, question: Question, found: ZoneAnswer, rcode: int, answer: tuple[RR, ...]
    ) -> ZoneAnswer:
        """As in ``Zone``."""


class Authority(Plugin):
    """Answers from ``zones``; the next plugin answers names outside them."""

    answers_zones = True

    def __init__(self, block: Block) -> None:
        self.block = block
        self.zones: dict[WireName, Zone | None] = {}
        self.through: tuple[WireName, ...] = ()  # `fallthrough`
        block.shared(Spared).has.append(self._has)
        self.transfers = block.shared(Transfers)
        self.transfers.add_source(self.transfer, self.order)

    @property
    def claimed(self) -> Iterable[WireName]:
        """The zones that are served, now or once loaded."""
        return self.zones

    def zone_of(self, qname: WireName) -> WireName | None:
        """Return the longest zone that a name lies in, or None."""
        return longest(qname, self.zones)

    def _has(self, folded: WireName) -> bool:
        """Tell whether a name that the next plugin may have answered is one of ours now."""
        apex = self.zone_of(folded) if name.is_within_any(folded, self.through) else None
        zone = self.zones[apex] if apex is not None else None
        if zone is None:
            return False
        found = zone.find(Question(folded, folded, rr.CNAME))
        return found.result not in _MAY_FALL_THROUGH

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
        steps = self._respond_to(query, query.question, apex)

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

    def origin(self, apex: WireName) -> str:
        """Return which zone it is and where it comes from, for explanations."""
        return f"the zone {name.text(apex)}"

    def file_of(self, apex: WireName) -> Path | None:
        """Return the master file of a zone, None if it comes from elsewhere."""
        return None

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no zone of it has the name, for `explain`."""
        return "" if is_own else f"in none of its zones {trace.names_text(self.zones)}"

    def _respond_to(self, query: Query, question: Question, apex: WireName) -> Steps:
        """As ``_respond``, for the client of a query; by default all get the same."""
        return self._respond(apex, question)

    def _respond(self, apex: WireName, question: Question) -> Steps:
        """Yield a question about an alias outside the zones; return the response."""
        return self._respond_from(self.zones[apex], apex, question)

    def _respond_from(self, zone: Answers | None, apex: WireName, question: Question) -> Steps:
        """As ``_respond``, from the zone, or from what a client is shown of it."""
        if question.qtype in (rr.AXFR, rr.IXFR):
            if (taker := trace.scribe()) is not None:
                taker.blame("zones are transferred by the plugin `transfer` only")
            return failure(rr.REFUSED)
        if zone is None:
            if (taker := trace.scribe()) is not None:
                taker.blame(f"{self.origin(apex)} has not been read or transferred yet")
            return failure(rr.SERVFAIL, f"plugin/{self.name}: no zone {name.text(apex)}")
        found = zone.find(question)
        if (taker := trace.scribe()) is not None:
            is_there = found.result is Result.SUCCESS
            said = f"{self.origin(apex)}, serial {zone.serial}, {_said(zone, question, found)}"
            entries = _entries(self.file_of(apex), zone, question, found)
            taker.note(said, entries=entries, is_cause=not is_there)
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
                if taker is not None:
                    taker.note("`fallthrough`: the next plugin may know it")
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


def _entries(
    file: Path | None, zone: Answers, question: Question, found: ZoneAnswer
) -> trace.Entries | None:
    """Return the entries of a file that an answer comes from, None if it has none."""
    if file is None:
        return None
    records = found.authority if found.result is Result.DELEGATION else found.answer
    wanted = [(_written(zone, record.owner), record.rtype) for record in records]
    if found.result is Result.NODATA:
        wanted.append((_written(zone, question.folded), 0))
    kept = tuple(dict.fromkeys(wanted))
    return trace.Entries(trace.MASTER_FILE, str(file), (zone.apex,), kept, zone.serial)


def _written(zone: Answers, owner: bytes) -> bytes:
    """Return an owner that the zone has: the wildcard of a name that one stands for."""
    folded = name.fold(owner)
    if zone.has_below(folded):
        return folded
    closest = next((n for n in name.parents(folded) if zone.has_below(n)), zone.apex)
    return b"\1*" + closest


def _said(zone: Answers, question: Question, found: ZoneAnswer) -> str:
    """Return what a zone says about a question, for an explanation."""
    match found.result:
        case Result.SUCCESS if found.wildcard:
            return f"has the wildcard {name.text(found.wildcard)}, which matches the name"
        case Result.SUCCESS if found.target:
            return f"has an alias to {name.text(found.target)}"
        case Result.SUCCESS:
            return "has the name with this type"
        case Result.NODATA:
            return f"has the name, but no record of type {rr.type_text(question.qtype)}"
        case Result.EMPTY:
            return "has names below this one, but no record of it"
        case Result.DELEGATION:
            return "leaves the name to other name servers"
        case Result.NAME_ERROR:
            closest = next(
                (n for n in name.parents(question.folded) if zone.has_below(n)), zone.apex
            )
            return f"has no such name, and no wildcard for it; {name.text(closest)} exists"
        case _:
            return f"cannot answer: {found.result.value}"
