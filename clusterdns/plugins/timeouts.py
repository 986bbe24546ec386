"""timeouts - bound the time and the number of queries of TCP connections.

Syntax:

    timeouts {
        read DURATION
        idle DURATION
        write DURATION
        maxtcpqueries COUNT
    }

A connection is closed if its first query takes longer than `read`, 3s by default, if it is idle for
`idle`, 10s by default, or after COUNT queries; -1, the default, is no limit. `write` is accepted
and has no effect: unread replies are bounded in octets. DURATION is from 1s to 24h; a plain number
is seconds. All server blocks of a port have the same bounds: of several settings the last counts.

Examples:

    . {
        timeouts {
            read 5s
            idle 1m
            maxtcpqueries 1000
        }
        whoami
    }
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive

LEAST_S, MOST_S = 1.0, 24 * 3600.0
UNLIMITED = "-1"


class Timeouts(Passive):
    """Sets the bounds of its server block."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        if not directive.block:
            raise directive.error("sets no timeout")
        for line in directive.block:
            match line.name:
                case "maxtcpqueries":
                    block.streams = block.streams._replace(most_queries=_count(line))
                case "read":
                    block.streams = block.streams._replace(first_s=_timeout_s(line))
                case "idle":
                    block.streams = block.streams._replace(idle_s=_timeout_s(line))
                case "write":
                    _timeout_s(line)
                case _:
                    raise line.unknown("maxtcpqueries", "read", "idle", "write")


def _count(line: Directive) -> int:
    """Return the limit of queries of a connection, 0 for none."""
    if arguments.one(line) == UNLIMITED:
        return 0
    return arguments.number(line, least=1)


def _timeout_s(line: Directive) -> float:
    text = arguments.one(line)
    is_number = text.isascii() and text.isdigit()
    found = float(text) if is_number else arguments.duration_s(text, line)
    if not LEAST_S <= found <= MOST_S:
        raise line.error(f"wants a duration from 1s to 24h, got {text!r}")
    return found
