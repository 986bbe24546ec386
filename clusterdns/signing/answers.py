"""Responses signed on the fly: signatures for each RRset, and a proof for each denial.

The proof is an NSEC record made for the question: it says that the name exists without the type,
and that the next name directly follows it. So NXDOMAIN becomes NODATA, and nobody can walk the zone
(draft-valsorda-dnsop-black-lies-00; CoreDNS: plugin/dnssec/black_lies.go).
"""

from __future__ import annotations

from collections.abc import Sequence

from clusterdns.signing.signatures import Signer
from clusterdns.wire import canonical, name, rr
from clusterdns.wire.facts import Fixed
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.outcome import Outcome, outcome_of
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

# The types in the bitmap of any name, whichever it has (CoreDNS: plugin/dnssec/black_lies.go):
# A HINFO TXT AAAA LOC SRV CERT SSHFP RRSIG NSEC TLSA HIP OPENPGPKEY SPF.
_OF_NAMES = frozenset((1, 13, 16, 28, 29, 33, 37, 44, 46, 47, 52, 55, 61, 99))
_OF_APEXES = _OF_NAMES | {rr.NS, rr.SOA, rr.MX, rr.DNSKEY}
_OF_CUTS = _OF_NAMES | {rr.NS}


def zone_of(owner: bytes, zones: Sequence[WireName]) -> WireName | None:
    """Return the longest of the zones that a name lies in, or None."""
    folded = name.fold(owner)
    return max((zone for zone in zones if name.is_within(folded, zone)), key=len, default=None)


class Signing:
    """Signs one response."""

    def __init__(
        self, question: Question, response: Response, zones: Sequence[WireName], signer: Signer
    ) -> None:
        self._question, self._response = question, response
        self._zones, self._signer = zones, signer
        self._lifetime_s = response.lifetime_s

    def signed(self, *, is_cut: bool) -> Response:
        """Return the response with signatures.

        ``is_cut`` says that the name of a denied DS is a zone cut.
        """
        response = self._response
        outcome = outcome_of(self._question, response)
        if outcome is Outcome.DELEGATION:
            return self._finished(authority=response.authority + self._of_delegation())
        if outcome in (Outcome.NXDOMAIN, Outcome.NODATA):
            return self._denied(is_cut=is_cut)
        rcode, behind = self._end_of_aliases()
        sections = [(*section, *self._of_section(section)) for section in response.sections]
        return self._finished(
            rcode=rcode, answer=sections[0], authority=(*sections[1], *behind),
            additional=sections[2],
        )  # fmt: skip

    def _finished(self, **changes: object) -> Response:
        """Return the response with changes, its lifetime, and the fact that its SOA is fixed."""
        response, facts = self._response, self._response.facts
        if any(each.rtype == rr.SOA for section in response.sections for each in section):
            facts = (*facts, *(Fixed(fact) for fact in facts))
        # The proof is about one name, so the answer must not be used for the names below it.
        made = response._replace(
            lifetime_s=self._lifetime_s, facts=facts, orders=(), denies=b"", spared=b"", node=None
        )
        return made._replace(**changes)  # type: ignore[arg-type]

    def _denied(self, *, is_cut: bool) -> Response:
        """Return the denial as NODATA with a proof."""
        response, question = self._response, self._question
        zone = zone_of(question.qname, self._zones)
        if zone is None or [each.rtype for each in response.authority] != [rr.SOA]:
            return response
        soa = response.authority[0]
        signatures = self._sign((soa,), zone)
        proof = self._proof(question.qname, zone, soa.ttl, is_cut=is_cut)
        if question.qtype == rr.NSEC:
            return self._finished(rcode=rr.NOERROR, answer=proof, authority=())
        return self._finished(rcode=rr.NOERROR, authority=(soa, *signatures, *proof))

    def _of_delegation(self) -> tuple[RR, ...]:
        """Return the signed DS of a delegation, or the proof that it has none."""
        authority = self._response.authority
        cut = next(each for each in authority if each.rtype == rr.NS)
        zone = zone_of(cut.owner, self._zones)
        if zone is None or name.fold(cut.owner) == zone:
            return ()
        for rtype in (rr.DS, rr.NSEC):
            known = tuple(each for each in authority if each.rtype == rtype)
            if known:
                return self._sign(known, zone)
        # CoreDNS proves it for the qname, where validators do not look.
        return self._nsec(cut.owner, zone, cut.ttl, canonical.next_sibling(cut.owner), _OF_CUTS)

    def _end_of_aliases(self) -> tuple[int, tuple[RR, ...]]:
        """Return the RCODE, and the proof if the target of aliases is denied.

        It is needed if the target lies in one of our zones (RFC 4035 section 3.1.3).
        """
        response, question = self._response, self._question
        aliases = [each for each in response.answer if each.rtype == rr.CNAME]
        soa = next((each for each in response.authority if each.rtype == rr.SOA), None)
        is_denied = response.rcode in (rr.NOERROR, rr.NXDOMAIN) and soa is not None
        if not aliases or soa is None or not is_denied or question.qtype == rr.CNAME:
            return response.rcode, ()
        last = aliases[-1].rdata
        zone = zone_of(last, self._zones)
        is_signed = any(each.rtype == rr.NSEC for each in response.authority)
        if zone is None or is_signed or not name.is_within(name.fold(last), name.fold(soa.owner)):
            return response.rcode, ()
        return rr.NOERROR, self._proof(last, zone, soa.ttl, is_cut=False)

    def _of_section(self, section: tuple[RR, ...]) -> list[RR]:
        """Return the signatures of the RRsets of a section that lie in our zones.

        NS records at a zone cut and glue are not signed (RFC 4035 section 2.2).
        """
        rrsets: dict[tuple[WireName, int, int], list[RR]] = {}
        for each in section:
            if each.rtype not in (rr.RRSIG, rr.OPT):
                rrsets.setdefault((name.fold(each.owner), each.rtype, each.rclass), []).append(each)
        found: list[RR] = []
        for (owner, rtype, _), records in rrsets.items():
            zone = zone_of(owner, self._zones)
            is_cut = rtype == rr.NS and owner != zone and section is self._response.authority
            if zone is not None and not is_cut and not self._is_glue(section):
                found += self._sign(records, zone)
        return found

    def _is_glue(self, section: tuple[RR, ...]) -> bool:
        """Tell whether a section is the additional section of an alias into a delegation."""
        response = self._response
        return section is response.additional and any(
            each.rtype == rr.NS and name.fold(each.owner) not in self._zones
            for each in response.authority
        )

    def _proof(self, owner: bytes, zone: WireName, ttl: int, *, is_cut: bool) -> tuple[RR, ...]:
        """Return a signed NSEC record that proves that a name lacks the type.

        At a zone cut, NS without DS proves that the delegated zone is unsigned. Any other name must
        not have NS: validators would accept unsigned names below it.
        """
        qtype = self._question.qtype
        if name.fold(owner) == zone:
            types = _OF_APEXES
        else:
            types = _OF_CUTS if is_cut else _OF_NAMES
        if qtype != rr.NSEC:
            types -= {qtype}
        return self._nsec(owner, zone, ttl, canonical.next_name(owner), types)

    def _nsec(
        self, owner: bytes, zone: WireName, ttl: int, behind: bytes, types: frozenset[int]
    ) -> tuple[RR, ...]:
        record = RR(owner, rr.NSEC, ttl, behind + canonical.type_bitmap(types))
        return (record, *self._sign((record,), zone))

    def _sign(self, records: Sequence[RR], zone: WireName) -> tuple[RR, ...]:
        made = self._signer.sign(records, zone)
        self._lifetime_s = min(self._lifetime_s, made.lifetime_s)
        return made.records
