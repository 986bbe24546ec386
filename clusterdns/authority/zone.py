"""An authoritative zone: RRsets by owner, and its answers to questions.

``Zone.find`` walks from the apex down: a delegation or DNAME ends the walk, a wildcard is taken
from the closest encloser (RFC 4592), an alias is followed inside the zone. If an alias leads
outside, ``ZoneAnswer.target`` is the name to ask about; ``Zone.join`` combines both answers.
(CoreDNS: plugin/file/lookup.go)

From a zone that is already signed, answers to queries with DO have signatures and proofs (RFC 4035
section 3.1): RRSIG records behind each RRset, and NSEC records at the end of the authority section
that prove a denial.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.canonical import Chain
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

RRsets = dict[int, tuple[RR, ...]]


class Result(Enum):
    """The result of a lookup in a zone."""

    SUCCESS = "success"
    NODATA = "no data"
    NAME_ERROR = "name error"
    DELEGATION = "delegation"
    EMPTY = "empty non-terminal"
    FAILURE = "failure"


class ZoneAnswer(NamedTuple):
    """The sections of an answer; ``target`` is the name outside the zone to ask about.

    ``wildcard`` is the wildcard that the records were synthesized from, if any.
    """

    result: Result
    answer: tuple[RR, ...] = ()
    authority: tuple[RR, ...] = ()
    additional: tuple[RR, ...] = ()
    target: bytes = b""
    wildcard: bytes = b""


class Zone:
    """The records of one zone. Raises ValueError without exactly one SOA at its apex, or for NSEC3.

    Records outside the zone and repeated records are left out; all records of an RRset get its
    lowest TTL (RFC 2181 section 5.2).
    """

    def __init__(self, apex: WireName, records: Iterable[RR]) -> None:
        self.apex = apex
        self._names: dict[WireName, RRsets] = {}
        self._ancestors: set[WireName] = set()  # of every owner, up to the root
        self._top: RRsets = {rr.SOA: (), rr.NS: ()}
        self._signatures: RRsets = {}  # of these
        for (owner, rtype), found in _rrsets(apex, records).items():
            if rtype in (rr.NSEC3, rr.NSEC3PARAM):
                raise ValueError(NO_NSEC3)
            if owner == apex:
                if rtype in self._top:
                    self._top[rtype] = found
                    continue
                if rtype == rr.RRSIG and not (found := self._take_signatures(found)):
                    continue
            rrsets = self._names.get(owner)
            if rrsets is None:
                rrsets = self._names[owner] = {}
                self._ancestors.update(name.parents(owner)[1:])
            rrsets[rtype] = found
        self._soa, self._servers = self._top[rr.SOA], self._top[rr.NS]
        if len(self._soa) != 1:
            raise ValueError(f"{len(self._soa)} SOA records at {name.text(apex)}")
        self._is_signed = any(rr.RRSIG in rrsets for rrsets in self._names.values()) or any(
            self._signatures.values()
        )
        self._chain = Chain(owner for owner, rrsets in self._names.items() if rr.NSEC in rrsets)

    def _take_signatures(self, signatures: tuple[RR, ...]) -> tuple[RR, ...]:
        """Keep the signatures of the SOA and NS records of the apex; return the others."""
        for rtype in self._top:
            self._signatures[rtype] = _covering(signatures, rtype)
        return tuple(each for each in signatures if _covered(each) not in self._top)

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
        yield from self._signatures.get(rr.SOA, ())
        yield from self._servers
        yield from self._signatures.get(rr.NS, ())
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

    def find(self, question: Question) -> ZoneAnswer:
        """Return the answer to a question about a name in the zone."""
        found = self._find(question)
        if not question.do or not self._is_signed or found.result is Result.FAILURE:
            return found
        found = found._replace(authority=found.authority + self._denial(question, found))
        return self._with_signatures(question, found)

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
        if self._is_signed and qname in self._ancestors:
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
        if question.do and self._is_signed:
            joined = self._with_signatures(question, joined)
            proofs = (*_proofs(found.authority), *self._proofs_behind(question, found.target))
            joined = joined._replace(authority=(*joined.authority, *dict.fromkeys(proofs)))
        return joined._replace(answer=records)

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

    # ---- signed zones

    def _with_signatures(self, question: Question, found: ZoneAnswer) -> ZoneAnswer:
        """Return an answer with signatures behind each RRset (RFC 4035 section 3.1.1)."""
        answer, authority, additional = (
            self._signed(section, question.folded, found.wildcard)
            for section in (found.answer, found.authority, found.additional)
        )
        return found._replace(answer=answer, authority=authority, additional=additional)

    def _signed(self, section: tuple[RR, ...], qname: WireName, wildcard: bytes) -> tuple[RR, ...]:
        records: list[RR] = []
        for (owner, rtype), rrset in itertools.groupby(section, _owner_and_type):
            records += rrset
            node = WireName(wildcard) if wildcard and owner == qname else owner
            if node == self.apex and rtype in self._top:
                records += self._signatures.get(rtype, ())
                continue
            rrsets = self._names.get(node, {})
            if all(known.rdata != records[-1].rdata for known in rrsets.get(rtype, ())):
                continue  # synthesized from a DNAME
            records += _owned(_covering(rrsets.get(rr.RRSIG, ()), rtype), owner)
        return tuple(records)

    def _denial(self, question: Question, found: ZoneAnswer) -> tuple[RR, ...]:
        """Return the NSEC records that prove a denial (RFC 4035 section 3.1.3)."""
        qname, result = question.folded, found.result
        proven: list[WireName] = []
        if found.wildcard:
            proven.append(qname)  # that no closer name exists
        if result is Result.NAME_ERROR:
            proven += (qname, WireName(b"\1*" + self._closest_encloser(qname)))
        elif result is Result.NODATA:
            proven.append(WireName(found.wildcard or qname))
        elif result is Result.EMPTY:
            proven.append(qname)
        elif result is Result.DELEGATION:
            cut = found.authority[0].owner
            if all(record.rtype != rr.DS for record in found.authority):
                proven.append(WireName(cut))  # that there is no DS (RFC 4035 section 3.1.4)
        elif not found.target and question.qtype != rr.CNAME:
            last = _last_target(found.answer)
            rrsets = None if last is None else self._names.get(last)
            if last and rrsets and not {rr.CNAME, question.qtype} & rrsets.keys():
                proven.append(last)  # that it has no such records
        owners = dict.fromkeys(self._chain.at_or_before(each) for each in proven if self._chain)
        return tuple(itertools.chain(*(self._names[owner][rr.NSEC] for owner in owners)))

    def _proofs_behind(self, question: Question, target: bytes) -> tuple[RR, ...]:
        """Return the proofs for the rest of a chain of aliases, as far as it is in this zone."""
        proofs: list[RR] = []
        for _ in range(MAX_ALIASES):
            folded = name.fold(target)
            if not target or not name.is_within(folded, self.apex):
                break
            found = self.find(question._replace(qname=target, folded=folded))
            proofs += _proofs(found.authority)
            target = found.target
        return tuple(proofs)

    def _closest_encloser(self, qname: WireName) -> WireName:
        """Return the longest existing name that a name lies below."""
        for node in name.parents(qname)[1:]:
            if node in self._names or node in self._ancestors:
                return node
        return self.apex

    # ---- what is found

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
            return self._follow(_owned(alias, qname), qtype, do)
        records = _owned(rrsets.get(qtype, ()), qname)
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


def _rrsets(apex: WireName, records: Iterable[RR]) -> dict[tuple[WireName, int], tuple[RR, ...]]:
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
            signed.add((owner, _covered(record)))
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


def _owned(records: tuple[RR, ...], owner: WireName) -> tuple[RR, ...]:
    """Return a wildcard's records with ``owner``; other records unchanged."""
    if not records or not records[0].owner.startswith(b"\1*"):
        return records
    return tuple(record._replace(owner=owner) for record in records)


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


def _covered(signature: RR) -> int:
    """Return the type that an RRSIG record covers, 0 if it is too short."""
    return int.from_bytes(signature.rdata[:2], "big")


def _covering(signatures: tuple[RR, ...], rtype: int) -> tuple[RR, ...]:
    return tuple(each for each in signatures if _covered(each) == rtype)


def _proofs(section: tuple[RR, ...]) -> tuple[RR, ...]:
    """Return the NSEC records of a section with their signatures."""
    return tuple(
        each for each in section
        if each.rtype == rr.NSEC or (each.rtype == rr.RRSIG and _covered(each) == rr.NSEC)
    )  # fmt: skip


def _owner_and_type(record: RR) -> tuple[WireName, int]:
    return name.fold(record.owner), record.rtype


def _last_target(answer: tuple[RR, ...]) -> WireName | None:
    """Return the target of the last alias of an answer."""
    aliases = [record for record in answer if record.rtype == rr.CNAME]
    return name.fold(aliases[-1].rdata) if aliases else None
