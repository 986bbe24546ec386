"""bufsize - bound the size of datagrams, whatever size clients allow.

Syntax:

    bufsize [OCTETS]

A query over UDP that allows replies of more than OCTETS in its OPT record is treated as one that
allows OCTETS: its reply is cut there, and the reply's OPT names OCTETS. OCTETS is from 512 to 4096,
by default 1232, which needs no fragments on any IPv6 path (DNS flag day 2020). Queries to upstream
servers name 1232, or OCTETS where that is less. Queries without EDNS and over TCP have the limits
they have anyway; the OPT of a reply over TCP names OCTETS, too.

Examples:

    . {
        bufsize 1232
        forward . 192.0.2.53
    }

Remembered answers and the relay keep to the bound at no cost where all server blocks of a port
have the same one. Where they differ, queries that allow more than the least of them are answered
by the chain.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.knowing import Passing
from clusterdns.chain.plugin import Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding.outside import Outside
from clusterdns.wire.message import MIN_UDP_OCTETS

DEFAULT_OCTETS = 1232
MAX_OCTETS = 4096


class Bufsize(Passing):
    """Says the bound; the listener lowers what queries allow (``View.bound``)."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        self.most_octets = DEFAULT_OCTETS
        if directive.args:
            self.most_octets = arguments.number(directive, least=MIN_UDP_OCTETS, most=MAX_OCTETS)
        arguments.ignore_block(directive)
        outside = block.shared(Outside)
        outside.octets = min(outside.octets, self.most_octets)

    def relay(self, route: Route) -> bool:
        """Let pass: lanes have the bound of their server block."""
        return True
