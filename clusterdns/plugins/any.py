"""any - answer questions for all types of a name with one short record (RFC 8482).

Syntax:

    any

A query of type ANY, for any name, gets the answer `HINFO "ANY obsoleted" "See RFC 8482"`, so that a
small query with a forged source cannot cause a large reply.

Examples:

    . {
        any
        forward . 192.0.2.53
    }
"""

from __future__ import annotations

from clusterdns.chain.bases import Knowing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats, no_arguments
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.wire import rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

TTL_S = 8482  # the number of the RFC (CoreDNS: plugin/any)
_RDATA = rr.txt_rdata("ANY obsoleted") + rr.txt_rdata("See RFC 8482")


class Any(Knowing):
    """Answers questions of one type."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)

    def respond(self, question: Question) -> Response | None:
        """Return the record for a question of type ANY."""
        if question.qtype != rr.ANY:
            return None
        return Response(flags=0, answer=(RR(question.qname, rr.HINFO, TTL_S, _RDATA),))

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return what stands for the records, for `explain`."""
        return "one record stands for those of all types (RFC 8482)" if is_own else ""

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: it answers only ANY."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: questions of type ANY are not relayed."""
        return True
