"""How rules change replies: each ``Revert`` is applied to a ``RewrittenReply``, record by record.

A rule that matched a question returns its reverts for the reply. (CoreDNS:
plugin/rewrite/reverter.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable

from clusterdns.rewriting.matching import to_wire
from clusterdns.wire import name, rr
from clusterdns.wire.message import TC, Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

TextChange = Callable[[str], str]
_NAPTR = 35
_VALUE_AT = {rr.SRV: 6, rr.MX: 2, rr.CNAME: 0, rr.NS: 0, rr.DNAME: 0, rr.SOA: 0, rr.PTR: 0}


class RewrittenRecord:
    """A record being rewritten."""

    __slots__ = ("owner", "rclass", "rdata", "rtype", "ttl")

    def __init__(self, record: RR) -> None:
        self.owner, self.rtype, self.ttl, self.rdata, self.rclass = record

    @property
    def rr(self) -> RR:
        """The record as it is now."""
        return RR(self.owner, self.rtype, self.ttl, self.rdata, self.rclass)


class RewrittenReply:
    """A response being rewritten."""

    def __init__(self, response: Response) -> None:
        self.rcode, self.flags = response.rcode, response.flags
        self.answer, self.authority, self.additional = (
            [RewrittenRecord(record) for record in section] for section in response.sections
        )
        self.edns = response.edns
        self.facts = dict.fromkeys(response.facts)
        self.lifetime_s = response.lifetime_s

    def response(self, origin: Response) -> Response:
        """Return ``origin`` with the changes."""
        answer, authority, additional = (
            tuple(record.rr for record in section)
            for section in (self.answer, self.authority, self.additional)
        )
        return origin.with_sections((answer, authority, additional))._replace(
            rcode=self.rcode,
            flags=self.flags,
            edns=self.edns,
            facts=tuple(self.facts),
            lifetime_s=self.lifetime_s,
            denies=b"",
            spared=b"",
            node=None,
            follows_case=False,  # names that are put back are in lower case
            bare=False,
        )


class Revert:
    """A change of the reply."""

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Change a record, or an empty reply (None); may return a question to ask."""
        return None

    def take(
        self, reply: RewrittenReply, record: RewrittenRecord, asked: Question, found: Response
    ) -> None:
        """Apply the response to the question that ``change`` returned."""

    def options(self, options: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return the options of the reply for the client."""
        return options


class Owner(Revert):
    """Rewrites owners."""

    def __init__(self, rewrite: TextChange) -> None:
        self._rewrite = rewrite

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Change the owner of a record."""
        if record is not None:
            record.owner = _rewritten(record.owner, self._rewrite)
        return None


class Value(Revert):
    """Rewrites the names that records point to."""

    def __init__(self, rewrite: TextChange) -> None:
        self._rewrite = rewrite

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Change the name in the RDATA of a record."""
        at = None if record is None else _value_at(record)
        if record is not None and at is not None:
            begin, end = at
            new = _rewritten(record.rdata[begin:end], self._rewrite)
            record.rdata = record.rdata[:begin] + new + record.rdata[end:]
        return None


class Ttl(Revert):
    """Keeps TTLs within bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Bring the TTL of a record within the bounds."""
        if record is not None:
            record.ttl = min(max(record.ttl, self._least), self._most)
        return None


class Rcode(Revert):
    """Replaces an RCODE, once for each record as CoreDNS does."""

    def __init__(self, old: int, new: int) -> None:
        self._old, self._new = old, new

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Replace the RCODE."""
        if reply.rcode == self._old:
            reply.rcode = self._new
        return None


class Alias(Revert):
    """Replaces the target of aliases, and the records behind it (CoreDNS: cname_target.go)."""

    def __init__(self, rewrite: Callable[[str], str | None], question: Question) -> None:
        self._rewrite = rewrite
        self._question = question

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Return the question for the new target of an alias."""
        if record is None or record.rtype != rr.CNAME:
            return None
        to = self._rewrite(name.text(record.rdata))
        if to is None:
            return None
        qname = to_wire(to)
        return self._question._replace(qname=qname, folded=name.fold(qname), qclass=rr.CLASS_IN)

    def take(
        self, reply: RewrittenReply, record: RewrittenRecord, asked: Question, found: Response
    ) -> None:
        """Replace the records behind an alias by those of its new target."""
        origin, kept = record.rdata, list[RewrittenRecord]()
        for each in reply.answer:
            if each.rtype == rr.CNAME:
                kept.append(each)
                if each.rdata == origin:
                    each.rdata = asked.qname
                    break
        reply.answer = kept + [RewrittenRecord(each) for each in found.answer]
        reply.flags = reply.flags & ~TC | found.flags & TC
        reply.facts |= dict.fromkeys(found.facts)
        reply.lifetime_s = min(reply.lifetime_s, found.lifetime_s)


def _rewritten(wire: bytes, rewrite: TextChange) -> bytes:
    text = name.text(wire)
    new = rewrite(text)
    return wire if new == text else to_wire(new)


def _value_at(record: RewrittenRecord) -> tuple[int, int] | None:
    """Return the place in the RDATA of the name a record points to, None if it has none."""
    begin, rdata = _VALUE_AT.get(record.rtype), record.rdata
    try:
        if record.rtype == _NAPTR:
            begin = 4
            for _ in range(3):
                begin += 1 + rdata[begin]
        return None if begin is None else (begin, name.end(rdata, begin))
    except IndexError:
        return None  # malformed
