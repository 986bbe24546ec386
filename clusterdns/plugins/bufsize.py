"""bufsize - bound the size of datagrams, whatever size clients allow.

Syntax:

    bufsize [OCTETS]

The payload size in the OPT record of a query over UDP is lowered to OCTETS: the reply is truncated
there, and its OPT names OCTETS. OCTETS is from 512 to 4096,
by default 1232, which needs no fragments on any IPv6 path (DNS flag day 2020). Queries to upstream
servers name 1232, or OCTETS where that is less. The limits of queries
without EDNS and over TCP do not change; the OPT of a reply over TCP names OCTETS, too.

Examples:

    . {
        bufsize 1232
        forward . 192.0.2.53
    }

The answer table and the relay apply the bound at no cost if all server blocks of a port have the
same one. If they differ, queries with a size above the least of them take the chain.
"""

from __future__ import annotations

from clusterdns.chain.bases import Passing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding.outside import Outside
from clusterdns.wire.message import MIN_UDP_OCTETS

DEFAULT_OCTETS = 1232
MAX_OCTETS = 4096


class Bufsize(Passing):
    """Holds the bound; the listener applies it to queries (``View.bound``)."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        self.most_octets = DEFAULT_OCTETS
        if directive.args:
            self.most_octets = arguments.number(directive, least=MIN_UDP_OCTETS, most=MAX_OCTETS)
        arguments.ignore_block(directive)
        outside = block.shared(Outside)
        outside.octets = min(outside.octets, self.most_octets)

    def relay(self, route: Route) -> bool:
        """Return True: lanes have the bound of their server block."""
        return True
