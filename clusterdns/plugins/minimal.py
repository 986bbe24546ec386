"""minimal - remove the records that were not asked for from replies.

Syntax:

    minimal

The authority and additional sections of positive answers are removed. Denials, referrals and errors
are not changed: clients need the SOA of denials and the NS records of referrals.

Examples:

    example.org {
        minimal
        file db.example.org
    }

Differences from CoreDNS: a reply to NOTIFY or to a zone transfer passes without an error line.
"""

from __future__ import annotations

from clusterdns.chain.bases import Changing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats, no_arguments
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.wire.message import Question
from clusterdns.wire.outcome import Outcome, outcome_of
from clusterdns.wire.response import Response


class Minimal(Changing):
    """Removes the other sections of positive answers."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)

    def changed(self, question: Question, response: Response) -> Response:
        """Return a positive answer without the other sections."""
        if outcome_of(question, response) is not Outcome.NOERROR:
            return response
        return response.with_sections((response.answer, (), ()))._replace(edns=None)

    def relay(self, route: Route) -> bool:
        """Let the relay remove the sections, too."""
        route.is_minimal = True
        return True
