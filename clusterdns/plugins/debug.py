"""debug - print debug lines in the log.

Syntax:

    debug

Examples:

    . {
        debug
        whoami
    }

Differences from CoreDNS: a bug is still answered with SERVFAIL and does not end the process.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats, no_arguments
from clusterdns.corefile.parser import Directive


class Debug(Passive):
    """Turns debug lines on."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        no_arguments(directive)
        block.debug = True
