"""Which replies `cache` keeps, for how long, and how they are sent again.

Rules: CoreDNS plugin/cache/cache.go and item.go; those of denials: RFC 2308 sections 3 and 5.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final

from clusterdns.caching.options import DENIAL, MAX_TTL, SUCCESS, CacheOptions
from clusterdns.wire import rr
from clusterdns.wire.message import TC, Edns, Question, extended_error
from clusterdns.wire.outcome import Outcome, answers_question, has_soa, outcome_of
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

MIN_TTL_S: Final = 5  # of a reply without records (CoreDNS: dnsutil/ttl.go)
_STALE_ANSWER: Final = 3  # RFC 8914 section 5.2
_STALE_NXDOMAIN: Final = 19
_KEPT_AS: Final = {
    Outcome.NOERROR: SUCCESS,
    Outcome.DELEGATION: SUCCESS,
    Outcome.NXDOMAIN: DENIAL,
    Outcome.NODATA: DENIAL,
    Outcome.SERVERERROR: DENIAL,
}


def outcome(question: Question, response: Response, opcode: int = 0) -> Outcome:
    """Return the outcome of a reply.

    An alias that leads nowhere, with an SOA, is NODATA, and so is a reply without any record.
    """
    found = outcome_of(question, response, opcode)
    if found is not Outcome.NOERROR:
        return found
    if not response.answer:
        # Records in the additional section only are an answer, too, as those of whoami.
        return found if response.additional else Outcome.NODATA
    if has_soa(response) and not answers_question(question, response.answer):
        return Outcome.NODATA
    return found


def ttl_of(outcome: Outcome, response: Response, options: CacheOptions) -> int:
    """Return the one TTL that all records of a reply with this outcome get."""
    if outcome is Outcome.SERVERERROR:
        return int(options.servfail_s)
    denial, success = options.limits[DENIAL], options.limits[SUCCESS]
    if outcome in (Outcome.NXDOMAIN, Outcome.NODATA):
        return denial.clamp(min(_least_ttl(response), _minimum_of(response)))
    return success.clamp(_least_ttl(response) if outcome is Outcome.NOERROR else MIN_TTL_S)


def kept_as(outcome: Outcome, question: Question, response: Response) -> str | None:
    """Return the cache that keeps a reply with this outcome: `success`, `denial` or None."""
    found = _KEPT_AS.get(outcome)
    return found if found and _is_complete(question, response) else None


def is_answer(question: Question, response: Response) -> bool:
    """Tell whether a reply answers the question."""
    return response.rcode == rr.NOERROR and answers_question(question, response.answer)


def is_better(question: Question, response: Response, opcode: int, options: CacheOptions) -> bool:
    """Tell whether a reply shall be sent in place of a stale one.

    RFC 8767 section 4: NOERROR and NXDOMAIN are; with `prefer_positive` only an answer is.
    """
    if response.flags & TC:
        return False
    if options.prefers_positive:
        is_positive = outcome(question, response, opcode) is Outcome.NOERROR
        return is_positive and is_answer(question, response)
    if outcome_of(question, response, opcode) in (Outcome.OTHERERROR, Outcome.META):
        return False
    return response.rcode in (rr.NOERROR, rr.NXDOMAIN)


def bounded(response: Response, ttl: int) -> Response:
    """Return a response with this TTL on all records and no OPT, which is for one hop only."""
    for section in response.sections:
        for record in section:
            if record.ttl != ttl:
                answer, authority, additional = (with_ttl(s, ttl) for s in response.sections)
                return response._replace(
                    answer=answer, authority=authority, additional=additional, edns=None, orders=()
                )
    return response if response.edns is None else response._replace(edns=None)


def with_ttl(section: tuple[RR, ...], ttl: int) -> tuple[RR, ...]:
    """Return records with this TTL."""
    if not section or (len(section) == 1 and section[0].ttl == ttl):
        return section
    return tuple([RR(r.owner, r.rtype, ttl, r.rdata, r.rclass) for r in section])


def spelled(question: Question, answer: tuple[RR, ...], ttl: int) -> tuple[RR, ...]:
    """Return records with this TTL, and the question's name in the client's letter case."""
    qname, folded = question.qname, question.folded
    return tuple(
        [
            RR(qname if r.owner.lower() == folded else r.owner, r.rtype, ttl, r.rdata, r.rclass)
            for r in answer
        ]
    )


def stale_edns(rcode: int) -> Edns:
    """Return the OPT that marks a stale answer (RFC 8914)."""
    return extended_error(_STALE_NXDOMAIN if rcode == rr.NXDOMAIN else _STALE_ANSWER)


def _is_complete(question: Question, response: Response) -> bool:
    """Tell whether a reply has all records that a kept one needs."""
    if response.flags & TC:
        return False
    if response.rcode == rr.NXDOMAIN:
        return has_soa(response)
    if response.rcode == rr.NOERROR and response.answer:
        return has_soa(response) or answers_question(question, response.answer)
    return True


def _least_ttl(response: Response) -> int:
    """Return the smallest TTL of all records."""
    if len(response.answer) == 1 and not response.authority and not response.additional:
        return response.answer[0].ttl
    return min((r.ttl for section in response.sections for r in section), default=MIN_TTL_S)


def _minimum_of(response: Response) -> int:
    """Return the MINIMUM of a denial's SOA (RFC 2308 section 5), the longest TTL without one."""
    found = [r.rdata[-4:] for r in response.authority if r.rtype == rr.SOA]
    return min((int.from_bytes(octets, "big") for octets in found), default=MAX_TTL)
