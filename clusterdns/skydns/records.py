"""Which records services make: a question leads to keys, and these to names and addresses.

Each function is a generator: it yields a ``Get`` for each key that it wants, and a ``Question`` for
each name outside of its zone, and is sent the services, or the response. (CoreDNS:
plugin/backend_lookup.go, plugin/etcd/handler.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from typing import Any, NamedTuple

from clusterdns.errors import FormError, UpstreamError
from clusterdns.skydns import services
from clusterdns.skydns.services import Service
from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, TC, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

MINIMUM_TTL = 30
MAX_ALIASES = 10  # one behind the other (CoreDNS: maxCnameChainLength)
MAX_GETS = 64  # that one question may cause: aliases of aliases grow without bound
_NO_PORT = -1
_APEX, _NS = b"\4apex\3dns", b"\2ns\3dns"


class Get(NamedTuple):
    """A name whose services are wanted: its own, or if not ``is_exact`` those below it as well."""

    qname: bytes
    qtype: int
    is_exact: bool


class MissingError(Exception):
    """There is no such key."""


Asked = Get | Question
Steps = Generator[Asked, Any, "Found"]


class Found(NamedTuple):
    """Records of the answer and additional sections, and whether some were left out."""

    answer: list[RR]
    additional: list[RR] = []  # noqa: RUF012 - a default that nobody changes
    is_cut: bool = False


class Zone:
    """One question about names of a zone."""

    def __init__(self, zone: WireName, serial: int, *, falls_back: bool = True) -> None:
        self.zone = zone
        self._serial = serial
        self._falls_back = falls_back
        self._gets = 0

    def respond(self, question: Question) -> Generator[Asked, Any, Response | None]:
        """Return the response; None if there is no such name, which may be for others to answer."""
        try:
            found = yield from self._found(question)
        except MissingError:
            return None
        except (UpstreamError, FormError) as error:
            return self.negative(rr.SERVFAIL, f"plugin/etcd: {error}")
        if not found.answer:
            return self.negative(rr.NOERROR)
        flags = AA | TC if found.is_cut else AA
        return Response(
            flags=flags, answer=tuple(found.answer), additional=tuple(found.additional),
            lifetime_s=0,
        )  # fmt: skip

    def negative(self, rcode: int, error: str = "") -> Response:
        """Return a response without an answer."""
        return Response(rcode, authority=(self._soa(),), lifetime_s=0, error=error)

    def _found(self, question: Question) -> Steps:
        match question.qtype:
            case rr.TXT:
                return (yield from self._texts(question, ()))
            case rr.CNAME:
                return (yield from self._alias(question))
            case rr.PTR:
                return (yield from self._pointers(question))
            case rr.MX:
                return (yield from self._exchangers(question))
            case rr.SRV:
                return (yield from self._servers(question))
            case rr.SOA:
                return Found([self._soa()])
            case rr.NS if question.folded == self.zone:
                return (yield from self._name_servers(question))
            case rr.A | rr.AAAA:
                return (yield from self._addresses(question, ()))
        yield from self._at_apex(question)  # tells what exists from what does not
        return Found([])

    def _addresses(self, question: Question, before: tuple[bytes, ...]) -> Steps:
        """Return the addresses of a name, behind their aliases; ``before`` are those that led here.

        Raises:
            MissingError: there is no such name.
        """
        answer, seen, is_cut = list[RR](), set[str](), False
        for each in (yield from self._at_apex(question)):
            if each.is_alias:
                found = yield from self._follow(question, each, before)
                answer += found.answer
                is_cut |= found.is_cut
                continue
            address = each.address
            if address is not None and address[0] == question.qtype and each.host not in seen:
                seen.add(each.host)
                answer.append(RR(question.qname, *_typed(address, each.ttl)))
        return Found(answer, is_cut=is_cut)

    def _texts(self, question: Question, before: tuple[bytes, ...]) -> Steps:
        answer, seen, is_cut = list[RR](), set[str](), False
        for each in (yield from self._get(question.qname, rr.TXT)):
            if each.is_alias:
                found = yield from self._follow(question, each, before)
                answer += found.answer
                is_cut |= found.is_cut
            elif each.is_text and each.text not in seen:
                seen.add(each.text)
                rdata = services.txt_rdata(each.text)
                answer.append(RR(question.qname, rr.TXT, each.ttl, rdata))
        return Found(answer, is_cut=is_cut)

    def _follow(self, question: Question, service: Service, before: tuple[bytes, ...]) -> Steps:
        """Return an alias and what is behind it, nothing if it leads nowhere."""
        target = name.parse(service.host)
        folded = name.fold(target)
        is_loop = name.is_within(folded, question.folded) or target in before
        if is_loop or len(before) > MAX_ALIASES:
            return Found([])
        alias = RR(question.qname, rr.CNAME, service.ttl, target)
        asked = question._replace(qname=target, folded=folded)
        if not name.is_within(folded, self.zone):
            response: Response = yield asked
            return Found([alias, *response.answer], is_cut=bool(response.flags & TC))
        make = self._texts if question.qtype == rr.TXT else self._addresses
        try:
            found = yield from make(asked, (*before, target))
        except (MissingError, UpstreamError, FormError):
            return Found([])
        answer = [alias, *found.answer] if found.answer else []
        return Found(answer, is_cut=found.is_cut)

    def _servers(self, question: Question) -> Steps:
        answer, additional = list[RR](), list[RR]()
        some = yield from self._get(question.qname, rr.SRV)
        totals = Counter[int]()
        for each in some:
            totals[each.priority] += each.weight or 100
        seen, looked_up = set[tuple[bytes, object]](), set[bytes]()
        for each in some:
            if each.port == _NO_PORT or each.is_text:
                continue
            address = each.address
            owner = name.parse(each.host) if address is None else services.domain(each.key)
            target = services.stripped(owner, each.targetstrip)
            weight = _weight(each.weight, totals[each.priority])
            port = each.port & 0xFFFF
            rdata = rr.srv_rdata(each.priority & 0xFFFF, weight, port, target)
            record = RR(question.qname, rr.SRV, each.ttl, rdata)
            if address is None:
                answer.append(record)
                additional += yield from self._beside(question, target, looked_up)
                continue
            if _is_new(seen, target, port):
                answer.append(record)
            if _is_new(seen, target, each.host):
                additional.append(RR(target, *_typed(address, each.ttl)))
        return Found(answer, additional)

    def _exchangers(self, question: Question) -> Steps:
        answer, additional = list[RR](), list[RR]()
        seen, looked_up = set[tuple[bytes, object]](), set[bytes]()
        for each in (yield from self._get(question.qname, rr.MX)):
            if not each.mail or each.is_text:
                continue
            address = each.address
            owner = name.parse(each.host) if address is None else services.domain(each.key)
            target = services.stripped(owner, each.targetstrip)
            preference = each.priority & 0xFFFF
            record = RR(question.qname, rr.MX, each.ttl, preference.to_bytes(2, "big") + target)
            if address is None:
                answer.append(record)
                additional += yield from self._beside(question, target, looked_up)
                continue
            if _is_new(seen, target, preference):
                answer.append(record)
            if _is_new(seen, owner, each.host):
                additional.append(RR(owner, *_typed(address, each.ttl)))
        return Found(answer, additional)

    def _beside(
        self, question: Question, target: bytes, looked_up: set[bytes]
    ) -> Generator[Asked, Any, list[RR]]:
        """Return the addresses of a target, those of our zone only of IPv4; once for each."""
        if target in looked_up:
            return []
        looked_up.add(target)
        folded = name.fold(target)
        asked = question._replace(qname=target, folded=folded, qtype=rr.A)
        if name.is_within(folded, self.zone):
            try:
                return (yield from self._addresses(asked, ())).answer
            except (MissingError, UpstreamError, FormError):
                return []
        four: Response = yield asked
        six: Response = yield asked._replace(qtype=rr.AAAA)
        return [*four.answer, *(each for each in six.answer if each.rtype != rr.CNAME)]

    def _alias(self, question: Question) -> Steps:
        some = yield from self._get(question.qname, rr.CNAME, is_exact=True)
        if not some or some[0].address is not None:
            return Found([])
        target = name.parse(some[0].host)
        return Found([RR(question.qname, rr.CNAME, some[0].ttl, target)])

    def _pointers(self, question: Question) -> Steps:
        hosts = dict[str, RR]()
        for each in (yield from self._get(question.qname, rr.PTR, is_exact=True)):
            if each.address is None and each.host not in hosts:
                target = name.parse(each.host)
                hosts[each.host] = RR(question.qname, rr.PTR, each.ttl, target)
        return Found([*hosts.values()])

    def _name_servers(self, question: Question) -> Steps:
        answer, additional = dict[bytes, RR](), list[RR]()
        for each in (yield from self._get(_NS + self.zone, rr.NS)):
            if each.is_alias:
                raise UpstreamError(f"NS record must be an IP address: {each.host}")
            address = each.address
            if address is None:
                continue
            target = services.stripped(services.domain(each.key), each.targetstrip)
            additional.append(RR(target, *_typed(address, each.ttl)))
            answer.setdefault(target, RR(question.qname, rr.NS, each.ttl, target))
        return Found([*answer.values()], additional)

    def _at_apex(self, question: Question) -> Generator[Asked, Any, list[Service]]:
        """Return the services of a name; those of the apex are in a place of their own."""
        if question.folded == self.zone:
            try:
                return (yield from self._get(_APEX + self.zone, question.qtype))
            except MissingError:
                if not self._falls_back:
                    raise
        return (yield from self._get(question.qname, question.qtype))

    def _get(
        self, qname: bytes, qtype: int, *, is_exact: bool = False
    ) -> Generator[Asked, Any, list[Service]]:
        self._gets += 1
        if self._gets > MAX_GETS:
            raise UpstreamError(f"more than {MAX_GETS} lookups for one question")
        found: list[Service] = yield Get(qname, qtype, is_exact)
        return services.grouped(found)

    def _soa(self) -> RR:
        rdata = rr.soa_rdata(
            _NS + self.zone, b"\x0ahostmaster" + self.zone, self._serial, MINIMUM_TTL
        )
        return RR(self.zone, rr.SOA, MINIMUM_TTL, rdata)


def _typed(address: tuple[int, bytes], ttl: int) -> tuple[int, int, bytes]:
    return address[0], ttl, address[1]


def _is_new(seen: set[tuple[bytes, object]], target: bytes, what: object) -> bool:
    if (target, what) in seen:
        return False
    seen.add((target, what))
    return True


def _weight(weight: int, total: int) -> int:
    """Return the share of all services of a priority, in percent, 1 at least."""
    share = 100.0 / total * (weight or 100) if total else math.inf
    whole = math.floor(share) if abs(share) < 2**31 else 0  # Go: a conversion that overflows
    return whole & 0xFFFF or 1
