"""An authoritative zone: RRsets by owner, and its answers to questions.

``Zone.find`` walks from the apex down: a delegation or DNAME ends the walk, a wildcard is taken
from the closest encloser (RFC 4592), an alias is followed inside the zone. If an alias leads
outside, ``ZoneAnswer.target`` is the name to ask about; ``Zone.join`` combines both answers.
(CoreDNS: plugin/file/lookup.go)

From a zone that is already signed, answers to queries with DO have signatures and proofs, see
proofs.py.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from clusterdns.authority.proofs import Proofs, covered, covering, proofs
from clusterdns.authority.zoneanswer import Result, RRsets, ZoneAnswer, owned
from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rdata import HTTPS, NAMES, SVCB
from clusterdns.wire.rr import RR

MAX_ALIASES = 8
_WITH_HOST = frozenset((rr.MX, rr.SRV, SVCB, HTTPS))  # their addresses are added
# Types whose names CoreDNS folds (plugin/file/zone.go Insert); signatures of some cover the
# original letter case (RFC 4034 section 6.2).
_FOLDED = frozenset((rr.NS, rr.SOA, rr.CNAME, rr.MX, SVCB, HTTPS))
_SIGNED_AS_SPELLED = frozenset((SVCB, HTTPS))
NO_NSEC3 = "NSEC3 zones are not supported"


class Zone:
    """The records of one zone. Raises ValueError without exactly one SOA at its apex, or for NSEC3.

    Records outside the zone and repeated records are left out; all records of an RRset get its
    lowest TTL (RFC 2181 section 5.2).
    """

    is_strict = False  # whether names that exist without records hide wildcards, signed or not

    def __init__(self, apex: WireName, records: Iterable[RR]) -> None:
        self.apex = apex
        self._names: dict[WireName, RRsets] = {}
        self._ancestors: set[WireName] = set()  # of every owner, up to the root
        top: RRsets = {rr.SOA: (), rr.NS: ()}
        of_top: RRsets = dict(top)  # their signatures
        for (owner, rtype), found in rrsets_of(apex, records).items():
            if rtype in (rr.NSEC3, rr.NSEC3PARAM):
                raise ValueError(NO_NSEC3)
            if owner == apex:
                if rtype in top:
                    top[rtype] = found
                    continue
                if rtype == rr.RRSIG:
                    of_top = {each: covering(found, each) for each in top}
                    found = tuple(each for each in found if covered(each) not in top)
                    if not found:
                        continue
            rrsets = self._names.get(owner)
            if rrsets is None:
                rrsets = self._names[owner] = {}
                self._ancestors.update(name.parents(owner)[1:])
            rrsets[rtype] = found
        self._soa, self._servers, self._of_top = top[rr.SOA], top[rr.NS], of_top
        if len(self._soa) != 1:
            raise ValueError(f"{len(self._soa)} SOA records at {name.text(apex)}")
        self._proofs = Proofs(apex, self._names, self._ancestors, of_top)

    @property
    def soa(self) -> RR:
        """The SOA record."""
        return self._soa[0]

    @property
    def timers(self) -> tuple[int, int, int]:
        """Refresh, retry and expire of the SOA, in seconds."""
        refresh, retry, expire = struct.unpack("!III", self._soa[0].rdata[-16:-4])
        return refresh, retry, expire

    def records(self) -> Iterator[RR]:
        """Yield the records in the order of a transfer: SOA, NS, the rest, and the SOA again."""
        yield self.soa
        yield from self._of_top[rr.SOA]
        yield from self._servers
        yield from self._of_top[rr.NS]
        for rrsets in self._names.values():
            for found in rrsets.values():
                yield from found
        yield self.soa

    @property
    def serial(self) -> int:
        """The serial of the SOA."""
        return int.from_bytes(self._soa[0].rdata[-20:-16], "big")

    def holds(self, qname: WireName) -> bool:
        """Tell whether the zone has records of this name, not counting wildcards and DNAME."""
        return qname == self.apex or qname in self._names

    def has_below(self, qname: WireName) -> bool:
        """Tell whether the zone has records of this name or of one below it."""
        return self.holds(qname) or qname in self._ancestors

    def find(self, question: Question) -> ZoneAnswer:
        """Return the answer to a question about a name in the zone."""
        found = self._find(question)
        if not question.do or not self._proofs or found.result is Result.FAILURE:
            return found
        denial = self._proofs.denial(question, found)
        found = found._replace(authority=found.authority + denial)
        return self._proofs.with_signatures(question, found)

    def _find(self, question: Question) -> ZoneAnswer:
        qname, qtype, do = question.folded, question.qtype, question.do
        if qname == self.apex and qtype == rr.SOA:
            return ZoneAnswer(Result.SUCCESS, self._soa, self._servers)
        if qname == self.apex and qtype == rr.NS:
            return ZoneAnswer(Result.SUCCESS, self._servers, (), self._glue(self._servers))
        wildcard: WireName | None = None
        for node in self._path(qname):
            rrsets = self._names.get(node)
            if rrsets is None:
                star = WireName(b"\1*" + node[1 + node[0] :])
                if star in self._names or star in self._ancestors:
                    wildcard = star
                continue
            if rr.DNAME in rrsets and node != qname:
                return self._substitute(rrsets[rr.DNAME][0], qname, qtype, do)
            delegation = self._delegation(rrsets, node, qname, qtype, do)
            if delegation is not None:
                return delegation
            if node == qname:
                return self._at(rrsets, qname, qtype, do)
        if (self.is_strict or self._proofs) and qname in self._ancestors:
            wildcard = None  # it exists (RFC 4592 section 2.2.2); CoreDNS uses the wildcard
        if wildcard is not None and not self._is_hidden(wildcard, qname):
            found = self._at(self._names.get(wildcard, {}), qname, qtype, do)
            return found._replace(wildcard=wildcard)
        result = Result.EMPTY if qname in self._ancestors else Result.NAME_ERROR
        return ZoneAnswer(result, (), self._soa)

    def join(
        self, question: Question, found: ZoneAnswer, rcode: int, answer: tuple[RR, ...]
    ) -> ZoneAnswer:
        """Return the answer of ``found`` with the answer for ``found.target``."""
        records = (*found.answer, *answer)
        if rcode == rr.SERVFAIL:
            result = Result.FAILURE
        elif rcode == rr.NXDOMAIN:
            result = Result.NAME_ERROR
        else:
            result = Result.SUCCESS if answer or rcode != rr.NOERROR else Result.NODATA
        is_negative = result in (Result.NAME_ERROR, Result.NODATA)
        authority = self._soa if is_negative else self._servers
        joined = ZoneAnswer(result, (), authority, self._additional(records))
        if question.do and self._proofs:
            joined = self._proofs.with_signatures(question, joined)
            behind = self._proofs_behind(question, found.target)
            proven = dict.fromkeys((*proofs(found.authority), *behind))
            joined = joined._replace(authority=(*joined.authority, *proven))
        return joined._replace(answer=records)

    def _proofs_behind(self, question: Question, target: bytes) -> tuple[RR, ...]:
        """Return the proofs for the rest of a chain of aliases, as far as it is in this zone."""
        proven: list[RR] = []
        for _ in range(MAX_ALIASES):
            folded = name.fold(target)
            if not target or not name.is_within(folded, self.apex):
                break
            found = self.find(question._replace(qname=target, folded=folded))
            proven += proofs(found.authority)
            target = found.target
        return tuple(proven)

    def _path(self, qname: WireName) -> list[WireName]:
        """Return the names from the apex down to ``qname``."""
        depth = name.count_labels(qname) - name.count_labels(self.apex)
        return name.parents(qname)[depth::-1]

    def _is_hidden(self, wildcard: WireName, qname: WireName) -> bool:
        """Tell whether an empty non-terminal is closer to ``qname`` than the wildcard's parent."""
        parent = wildcard[2:]
        for node in name.parents(qname)[1:]:
            if node == parent:
                return False
            if node in self._ancestors:
                return True
        return False

    def _delegation(
        self, rrsets: RRsets, node: WireName, qname: WireName, qtype: int, do: bool
    ) -> ZoneAnswer | None:
        """Return the referral at a zone cut; the parent zone answers for its DS.

        With DO it includes the DS (RFC 4035 section 3.1.4).
        """
        servers = rrsets.get(rr.NS)
        if servers is None or (qtype == rr.DS and node == qname):
            return None
        signers = rrsets.get(rr.DS, ()) if do else ()
        return ZoneAnswer(Result.DELEGATION, (), servers + signers, self._glue(servers))

    def _at(self, rrsets: RRsets, qname: WireName, qtype: int, do: bool) -> ZoneAnswer:
        """Return the answer of a node; a wildcard's records get the name asked for."""
        alias = rrsets.get(rr.CNAME)
        if alias and qtype != rr.CNAME:
            return self._follow(owned(alias, qname), qtype, do)
        records = owned(rrsets.get(qtype, ()), qname)
        if not records:
            return ZoneAnswer(Result.NODATA, (), self._soa)
        return ZoneAnswer(Result.SUCCESS, records, self._servers, self._additional(records))

    def _substitute(self, record: RR, qname: WireName, qtype: int, do: bool) -> ZoneAnswer:
        """Return a DNAME and the CNAME synthesized for a name below it (RFC 6672)."""
        try:
            kept = qname[: len(qname) - len(record.owner)]
            target = name.join(name.labels(kept + b"\0"), record.rdata)
        except FormError:
            return ZoneAnswer(Result.FAILURE)
        if name.fold(target) == qname:
            return ZoneAnswer(Result.FAILURE)
        alias = RR(qname, rr.CNAME, record.ttl, target)
        if qtype == rr.CNAME:
            return ZoneAnswer(Result.SUCCESS, (record, alias), self._servers)
        return self._follow((alias,), qtype, do, (record,))

    def _follow(
        self, answer: tuple[RR, ...], qtype: int, do: bool, before: tuple[RR, ...] = ()
    ) -> ZoneAnswer:
        """Return the answer with the chain of aliases; a loop is followed once."""
        for _ in range(MAX_ALIASES + 1):
            target = name.fold(answer[-1].rdata)
            rrsets = self._names.get(target)
            cut = self._cut_above(target, qtype, do)
            if cut is not None:
                return cut._replace(answer=before + answer)
            is_apex = qtype == rr.SOA and target == self.apex
            if rrsets is None or qtype == rr.NS or is_apex:
                return ZoneAnswer(Result.SUCCESS, before + answer, target=target)
            if rr.CNAME not in rrsets:
                answer = before + answer + rrsets.get(qtype, ())
                return ZoneAnswer(Result.SUCCESS, answer, self._servers, self._additional(answer))
            if any(record.owner == target for record in answer):
                break
            answer += rrsets[rr.CNAME]
        return ZoneAnswer(Result.SUCCESS, before + answer, self._servers)

    def _cut_above(self, target: WireName, qtype: int, do: bool) -> ZoneAnswer | None:
        """Return the referral of the first zone cut at or above a name in the zone."""
        if not name.is_within(target, self.apex):
            return None
        for node in self._path(target)[1:]:
            rrsets = self._names.get(node)
            cut = self._delegation(rrsets, node, target, qtype, do) if rrsets else None
            if cut is not None:
                return cut
        return None

    def _glue(self, servers: tuple[RR, ...]) -> tuple[RR, ...]:
        """Return the addresses in the zone of name servers below the cut they serve."""
        return self._addresses(
            record.rdata
            for record in servers
            if name.is_within(name.fold(record.rdata), name.fold(record.owner))
        )

    def _additional(self, records: tuple[RR, ...]) -> tuple[RR, ...]:
        """Return the addresses in the zone of the hosts that records name, each once."""
        hosts = dict.fromkeys(
            _host(record).lower() for record in records if record.rtype in _WITH_HOST
        )
        return self._addresses(hosts)

    def _addresses(self, hosts: Iterable[bytes]) -> tuple[RR, ...]:
        found: list[RR] = []
        for host in hosts:
            rrsets = self._names.get(WireName(host.lower()), {})
            found += (*rrsets.get(rr.A, ()), *rrsets.get(rr.AAAA, ()))
        return tuple(found)


def rrsets_of(apex: WireName, records: Iterable[RR]) -> dict[tuple[WireName, int], tuple[RR, ...]]:
    """Return the RRsets of a zone, in the order of their first records."""
    found: dict[tuple[WireName, int], list[RR]] = {}
    signed: set[tuple[WireName, int]] = set()
    for record in records:
        owner = name.fold(record.owner)
        if not name.is_within(owner, apex):
            continue
        if record.rtype != rr.SRV:
            record = record._replace(owner=owner)
        if record.rtype == rr.RRSIG:
            signed.add((owner, covered(record)))
        found.setdefault((owner, record.rtype), []).append(record)
    return {key: _rrset(some, is_signed=key in signed) for key, some in found.items()}


def _rrset(records: list[RR], *, is_signed: bool) -> tuple[RR, ...]:
    """Return records as one RRset: folded, without repeats, of one TTL unless RRSIG."""
    rtype = records[0].rtype
    if rtype in _FOLDED and not (is_signed and rtype in _SIGNED_AS_SPELLED):
        records = [record._replace(rdata=_folded(record)) for record in records]
    once = {record.rdata: record for record in reversed(records)}
    if len(once) < len(records):
        records = [once[rdata] for rdata in dict.fromkeys(record.rdata for record in records)]
    return tuple(records) if rtype == rr.RRSIG else _of_one_ttl(tuple(records))


def _of_one_ttl(records: tuple[RR, ...]) -> tuple[RR, ...]:
    ttl = min(record.ttl for record in records)
    if all(record.ttl == ttl for record in records):
        return records
    return tuple(record._replace(ttl=ttl) for record in records)


def _host(record: RR) -> bytes:
    """Return the host that an MX, SRV, SVCB or HTTPS record names."""
    start = NAMES[record.rtype].before
    return record.rdata[start : name.end(record.rdata, start)]


def _folded(record: RR) -> bytes:
    """Return the RDATA of a record of ``_FOLDED`` with its names in lower case."""
    start, count, *_ = NAMES[record.rtype]
    end = start
    for _ in range(count):
        end = name.end(record.rdata, end)
    return record.rdata[:start] + record.rdata[start:end].lower() + record.rdata[end:]
