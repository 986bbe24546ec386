"""A zone of hosts: which names exist is known, their addresses are looked up for each question.

A host has one record, of a type of our own, in the zone; so names that exist, wildcards and empty
non-terminals are those of ``Zone``. The addresses of a host may depend on the client: ``Face`` is
the zone as some clients are shown it.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from clusterdns.authority.livezone import LiveZone
from clusterdns.authority.zoneanswer import Result, ZoneAnswer
from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

_HOST: Final = 65280  # for private use (RFC 6895 section 3.1); never sent
_ADDRESSES: Final = (rr.A, rr.AAAA)

# Returns the addresses and host names of a load balancer that stand for an owner in the zone.
AddressesOf = Callable[[WireName], Sequence[str]]


class HostZone(LiveZone):
    """The hosts of a zone, and its name servers, which are hosts too."""

    def __init__(self, apex: WireName, ttl: int, servers: Iterable[WireName]) -> None:
        super().__init__(apex, ttl)
        self.servers = tuple(servers)
        self._of_apex = [RR(apex, rr.NS, ttl, server) for server in self.servers]
        self.set(apex, exists=False)
        for server in self.servers:
            self.set(server, exists=True)

    def set(self, owner: WireName, *, exists: bool) -> None:
        """Add a host, or remove it; name servers stay."""
        records = [RR(owner, _HOST, self.ttl, b"")] if exists or owner in self.servers else []
        self.put(owner, records + (self._of_apex if owner == self.apex else []))

    def owner_of(self, question: Question) -> tuple[WireName | None, ZoneAnswer]:
        """Return the host or wildcard that a name belongs to, None without, and what is found."""
        found = self.find(question._replace(qtype=_HOST, do=False))
        is_host = found.result is Result.SUCCESS
        return (WireName(found.wildcard or question.folded) if is_host else None), found


class Face:
    """A zone as some clients are shown it: to them, hosts have the addresses of ``addresses_of``.

    If there are addresses, they are the answer; else the first name is, as an alias. At the apex,
    where no alias may stand (RFC 1034 section 3.6.2), it has the alias's addresses.
    """

    def __init__(self, zone: HostZone, addresses_of: AddressesOf) -> None:
        self.apex = zone.apex
        self._zone = zone
        self._addresses_of = addresses_of
        self.holds, self.has_below = zone.holds, zone.has_below

    @property
    def serial(self) -> int:
        """The serial of the SOA."""
        return self._zone.serial

    def find(self, question: Question) -> ZoneAnswer:
        """Return the answer to a question about a name in the zone."""
        if question.folded == self.apex and question.qtype in (rr.SOA, rr.NS):
            found = self._zone.find(question)
            return found._replace(authority=(), additional=tuple(self._glue(question)))
        owner, found = self._zone.owner_of(question)
        if owner is None:
            return found
        return self._at(question, owner)._replace(wildcard=found.wildcard)

    def join(
        self, question: Question, found: ZoneAnswer, rcode: int, answer: tuple[RR, ...]
    ) -> ZoneAnswer:
        """Return the answer of ``found`` with the answer for ``found.target``."""
        if not found.answer:  # at the apex
            answer = tuple(
                each._replace(owner=question.qname)
                for each in answer
                if each.rtype == question.qtype
            )
            rcode = rr.NOERROR if rcode == rr.NXDOMAIN else rcode
        joined = self._zone.join(question, found, rcode, answer)
        is_negative = joined.result in (Result.NAME_ERROR, Result.NODATA)
        return joined if is_negative else joined._replace(authority=())

    def records(self) -> Iterator[RR]:
        """Yield the records of a transfer; an alias at the apex is left out."""
        first, *hosts, last = self._zone.records()
        yield first
        for host in hosts:
            if host.rtype != _HOST:
                yield host
                continue
            found, alias = self._read(host.owner, name.fold(host.owner))
            yield from found
            if alias is not None and host.owner != self.apex:
                yield alias
        yield last

    def _at(self, question: Question, owner: WireName) -> ZoneAnswer:
        records, alias = self._read(question.qname, owner)
        found = tuple(each for each in records if each.rtype == question.qtype)
        if found:
            return ZoneAnswer(Result.SUCCESS, found)
        nothing = ZoneAnswer(Result.NODATA, (), (self._zone.soa,))
        if alias is None or name.fold(alias.rdata) == question.folded:
            return nothing
        if question.folded == self.apex:
            is_asked = question.qtype in _ADDRESSES
            return ZoneAnswer(Result.SUCCESS, target=alias.rdata) if is_asked else nothing
        if question.qtype == rr.CNAME:
            return ZoneAnswer(Result.SUCCESS, (alias,))
        return ZoneAnswer(Result.SUCCESS, (alias,), target=alias.rdata)

    def _read(self, qname: bytes, owner: WireName) -> tuple[list[RR], RR | None]:
        """Return the address records of a host, or an alias if it has no address."""
        records: list[RR] = []
        alias: RR | None = None
        for text in self._addresses_of(owner):
            address = rr.address_rdata(text)
            if address is not None:
                records.append(RR(qname, address[0], self._zone.ttl, address[1]))
            elif alias is None:
                alias = _alias(qname, self._zone.ttl, text)
        return records, alias if not records else None

    def _glue(self, question: Question) -> Iterator[RR]:
        if question.qtype == rr.NS:
            for server in self._zone.servers:
                yield from self._read(server, server)[0]


def _alias(qname: bytes, ttl: int, text: str) -> RR | None:
    try:
        target = name.parse(text)
    except FormError:
        return None
    return RR(qname, rr.CNAME, ttl, target) if len(target) > 1 else None
