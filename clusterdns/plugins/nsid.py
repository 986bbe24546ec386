"""nsid - tell clients that ask which server replies (RFC 5001).

Syntax:

    nsid [TEXT...]

A reply to a query with the EDNS option NSID has that option with TEXT, its words joined by one
space, or with the host's name, which is the Pod's.

Examples:

    . {
        nsid coredns-blue
        whoami
    }

Queries with EDNS options take the chain; others use the answer table.

Differences from CoreDNS: the DO bit of the reply is that of the query; CoreDNS sets it.
"""

from __future__ import annotations

import socket
import struct

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.wire import message
from clusterdns.wire.message import Edns, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

NSID = 3
MAX_TEXT_OCTETS = 255


class Nsid(Plugin):
    """Adds one option to the OPT of replies."""

    reads_options = True

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.block:
            raise directive.block[0].unknown()
        text = (" ".join(directive.args) or socket.gethostname()).encode()
        if len(text) > MAX_TEXT_OCTETS:
            raise directive.error(f"text longer than {MAX_TEXT_OCTETS} octets")
        self._option = struct.pack("!HH", NSID, len(text)) + text

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin: no query here has the option."""
        return next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, with the option if the query has it."""
        edns = query.edns
        response = await next(query)
        is_asked = edns is not None and NSID in dict(message.options(edns.options))
        if not is_asked or response is DROP or response.bare:
            return response
        own = response.edns or Edns(0, 0, 0)
        others = b"".join(
            struct.pack("!HH", code, len(data)) + data
            for code, data in message.options(own.options)
            if code != NSID
        )
        return response._replace(edns=own._replace(options=others + self._option))

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: queries with options are not relayed."""
        return True
