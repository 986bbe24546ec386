"""The outcome of a response, as ``cache`` and ``log`` tell outcomes apart.

Rules: CoreDNS plugin/pkg/response/typify.go.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from enum import Enum

from clusterdns.wire import name, rr
from clusterdns.wire.message import OPCODE_NOTIFY, Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR


class Outcome(Enum):
    """The outcomes, with CoreDNS's names."""

    NOERROR = "NOERROR"
    DELEGATION = "DELEGATION"
    NODATA = "NODATA"
    NXDOMAIN = "NXDOMAIN"
    SERVERERROR = "SERVERERROR"
    META = "META"
    OTHERERROR = "OTHERERROR"

    @property
    def log_class(self) -> str:
        """The class `log` files it under: success, denial or error."""
        if self in (Outcome.NOERROR, Outcome.DELEGATION):
            return "success"
        return "denial" if self in (Outcome.NODATA, Outcome.NXDOMAIN) else "error"


def outcome_of(question: Question, response: Response, opcode: int = 0) -> Outcome:
    """Return the outcome of ``question`` with ``response``."""
    if opcode == OPCODE_NOTIFY or question.qtype in (rr.AXFR, rr.IXFR):
        return Outcome.META
    if response.rcode in (rr.SERVFAIL, rr.NOTIMP):
        return Outcome.SERVERERROR
    if response.answer:
        return Outcome.NOERROR if response.rcode == rr.NOERROR else Outcome.OTHERERROR
    if response.rcode == rr.NXDOMAIN:
        return Outcome.NXDOMAIN
    if response.rcode != rr.NOERROR:
        return Outcome.OTHERERROR
    if has_soa(response):
        return Outcome.NODATA
    if any(record.rtype == rr.NS for record in response.authority):
        return Outcome.DELEGATION
    return Outcome.NOERROR


def has_soa(response: Response) -> bool:
    """Tell whether the authority section holds an SOA record."""
    authority = response.authority
    return bool(authority) and any(record.rtype == rr.SOA for record in authority)


def answers_question(question: Question, records: tuple[RR, ...]) -> bool:
    """Tell whether the answer section's CNAME chain ends in a record of the type asked for.

    False for a chain that forks or loops (CoreDNS: plugin/cache/handler.go answersQuestion).
    """
    targets = dict[bytes, bytes]()
    for record in records:
        if record.rtype == rr.CNAME:
            owner = record.owner.lower()
            if targets.setdefault(owner, record.rdata.lower()) != record.rdata.lower():
                return False
    owners = {(record.owner.lower(), record.rtype) for record in records}
    here: bytes = question.folded
    if question.qtype == rr.CNAME:
        return (here, rr.CNAME) in owners
    if question.qtype == rr.ANY:
        return any(owner == here for owner, _ in owners)
    passed = set[bytes]()
    while here not in passed:
        if (here, question.qtype) in owners:
            return True
        passed.add(here)
        here = targets.get(name.WireName(here), here)
    return False
