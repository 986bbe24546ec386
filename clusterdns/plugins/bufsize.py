"""bufsize - bound the size of datagrams, whatever size clients allow.

Syntax:

    bufsize [OCTETS|client]

The payload size in the OPT record of a query over UDP is lowered to OCTETS: the reply is truncated
there, and its OPT names OCTETS. OCTETS is from 512 to 4096,
by default 1232, which needs no fragments on any IPv6 path (DNS flag day 2020). Queries to upstream
servers name 1232, or OCTETS where that is less. The limits of queries
without EDNS and over TCP do not change; the OPT of a reply over TCP names OCTETS, too.

A server block without `bufsize` has the bound 4096. Whoever forges the source of a query of 59
octets brings at most 70 times as much upon somebody else, 21 times with 1232. `client` lifts the
bound: replies are as long as clients allow, up to 65,507 octets, 1,110 times as much.

Examples:

    . {
        bufsize 1232
        forward . 192.0.2.53
    }

Differences from CoreDNS: without `bufsize`, CoreDNS sends what the client allows. `client` is not
in CoreDNS.

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
from clusterdns.wire import message
from clusterdns.wire.message import MIN_UDP_OCTETS

DEFAULT_OCTETS = 1232
MAX_OCTETS = 4096
_AS_CLIENT = "client"


class Bufsize(Passing):
    """Holds the bound; the listener applies it to queries (``View.bound``)."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        self.most_octets = DEFAULT_OCTETS
        if directive.args == (_AS_CLIENT,):
            self.most_octets = message.MAX_OCTETS
        elif directive.args:
            self.most_octets = arguments.number(directive, least=MIN_UDP_OCTETS, most=MAX_OCTETS)
        arguments.ignore_block(directive)
        outside = block.shared(Outside)
        outside.octets = min(outside.octets, self.most_octets)

    def relay(self, route: Route) -> bool:
        """Return True: lanes have the bound of their server block."""
        return True
