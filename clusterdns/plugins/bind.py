"""bind - listen on given addresses instead of all.

Syntax:

    bind ADDRESS|INTERFACE... {
        except ADDRESS|INTERFACE...
    }

The directive may be repeated; the addresses add up.

Examples:

    . {
        bind 127.0.0.1 ::1
        whoami
    }
"""

from __future__ import annotations

import ipaddress

from clusterdns.chain.block import Block, ListenHosts
from clusterdns.chain.plugin import Passive, Plugin
from clusterdns.corefile.parser import Directive
from clusterdns.host import interfaces


class Bind(Passive):
    """Sets the listen addresses of the block; an interface stands for all of its addresses."""

    provides = (ListenHosts,)

    def __init__(self, directive: Directive, block: Block) -> None:
        if not directive.args:
            raise directive.error("wants ADDRESS|INTERFACE...")
        left_out = set[str]()
        for line in directive.block:
            if line.name != "except" or not line.args:
                raise line.unknown("except")
            for arg in line.args:
                left_out.update(_addresses(arg, line))
        found = block.shared(ListenHosts).found
        for arg in directive.args:
            for address in _addresses(arg, directive):
                if address not in left_out and address not in found:
                    found.append(address)

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence."""
        return [cls(directive, block) for directive in directives]


def _addresses(text: str, directive: Directive) -> list[str]:
    """Return the addresses of an interface, or the one that ``text`` is. Raises ConfigError."""
    found = interfaces.addresses().get(text)
    if found is not None:
        return found
    try:
        return [str(ipaddress.ip_address(text))]
    except ValueError as error:
        raise directive.error(f"{text!r} is no address and no interface") from error
