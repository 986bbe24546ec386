"""Signatures and proofs of denials in answers from a signed zone, for validators.

RRSIG records follow each RRset (RFC 4035 section 3.1.1), and NSEC records that prove a denial end
the authority section (section 3.1.3). CoreDNS omits some of the NSEC records.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from clusterdns.authority.zoneanswer import Result, RRsets, ZoneAnswer, owned
from clusterdns.wire import name, rr
from clusterdns.wire.canonical import Chain
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR


class Proofs:
    """The signatures and denials of a zone; false for one that is not signed.

    ``names`` are the RRsets by owner, ``ancestors`` the names above them, and ``of_top`` the
    signatures of the RRsets that a zone keeps apart: SOA and NS of the apex.
    """

    def __init__(
        self,
        apex: WireName,
        names: Mapping[WireName, RRsets],
        ancestors: Collection[WireName],
        of_top: RRsets,
    ) -> None:
        self._apex, self._names, self._ancestors, self._of_top = apex, names, ancestors, of_top
        signed = any(rr.RRSIG in rrsets for rrsets in names.values())
        self._is_signed = signed or any(of_top.values())
        self._chain = Chain(owner for owner, rrsets in names.items() if rr.NSEC in rrsets)

    def __bool__(self) -> bool:
        """Tell whether the zone is signed."""
        return self._is_signed

    def with_signatures(self, question: Question, found: ZoneAnswer) -> ZoneAnswer:
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
            if node == self._apex and rtype in self._of_top:
                records += self._of_top[rtype]
                continue
            rrsets = self._names.get(node, {})
            if all(known.rdata != records[-1].rdata for known in rrsets.get(rtype, ())):
                continue  # synthesized from a DNAME
            records += owned(covering(rrsets.get(rr.RRSIG, ()), rtype), owner)
        return tuple(records)

    def denial(self, question: Question, found: ZoneAnswer) -> tuple[RR, ...]:
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

    def _closest_encloser(self, qname: WireName) -> WireName:
        """Return the longest existing name that a name lies below."""
        for node in name.parents(qname)[1:]:
            if node in self._names or node in self._ancestors:
                return node
        return self._apex


def covered(signature: RR) -> int:
    """Return the type that an RRSIG record covers, 0 if it is too short."""
    return int.from_bytes(signature.rdata[:2], "big")


def covering(signatures: tuple[RR, ...], rtype: int) -> tuple[RR, ...]:
    """Return those of the RRSIG records that are about a type."""
    return tuple(each for each in signatures if covered(each) == rtype)


def proofs(section: tuple[RR, ...]) -> tuple[RR, ...]:
    """Return the NSEC records of a section with their signatures."""
    return tuple(
        each for each in section
        if each.rtype == rr.NSEC or (each.rtype == rr.RRSIG and covered(each) == rr.NSEC)
    )  # fmt: skip


def _owner_and_type(record: RR) -> tuple[WireName, int]:
    return name.fold(record.owner), record.rtype


def _last_target(answer: tuple[RR, ...]) -> WireName | None:
    """Return the target of the last alias of an answer."""
    aliases = [record for record in answer if record.rtype == rr.CNAME]
    return name.fold(aliases[-1].rdata) if aliases else None
