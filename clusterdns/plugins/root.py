"""root - set the directory for relative paths of the server block.

Syntax:

    root DIR

DIR is relative to the working directory, as in CoreDNS. Without `root`, all paths are.

Examples:

    . {
        root /etc
        whoami
    }
"""

from __future__ import annotations

from clusterdns.chain.block import Block, Directory
from clusterdns.chain.plugin import Passive, Repeats
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger

_log = plugin_logger("root")


class Root(Passive):
    """Sets the block's root directory."""

    provides = (Directory,)
    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) != 1 or directive.block:
            raise directive.error("takes one argument: the directory")
        directory = block.shared(Directory)
        directory.path /= directive.args[0]
        if not directory.path.is_dir():
            _log.warning("root path does not exist: %s", directory.path)
