"""whoami - reply with the client's address, port and transport.

Syntax:

    whoami

Examples:

    example.org {
        whoami
    }
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import HandleNext, Plugin, Repeats, no_arguments
from clusterdns.corefile.parser import Directive
from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, Query, Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR


class Whoami(Plugin):
    """Answers every question with the address and port it came from, TTL 0."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return what the reply holds, for `explain`."""
        return "the additional section has the address and the port of the client" if is_own else ""

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the client's address, and its port and transport as an SRV record."""
        if query.question is None:
            return await next(query)
        qname = query.question.qname
        address, port = query.client
        additional = []
        found = rr.address_rdata(address)
        if found:
            additional.append(RR(qname, found[0], 0, found[1]))
        label = b"_" + query.transport.encode()
        owner = bytes((len(label),)) + label + qname
        if len(owner) <= name.MAX_NAME_OCTETS:
            additional.append(RR(owner, rr.SRV, 0, rr.srv_rdata(0, 0, port, name.ROOT)))
        return Response(rr.NOERROR, AA, additional=tuple(additional), lifetime_s=0)
