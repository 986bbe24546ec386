"""multisocket - serve with several worker processes.

Syntax:

    multisocket [N]

N is the number of workers; the default is the number of processors that this process may use. Each
worker has its own store, answer table and cache, so memory grows with N. Without `multisocket`
there is one worker.

Examples:

    . {
        multisocket 2
        whoami
    }
"""

from __future__ import annotations

import os

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive
from clusterdns.corefile.parser import Directive

MAX_WORKERS = 1024


class MultiSocket(Passive):
    """Sets the number of workers."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if len(directive.args) > 1 or directive.block:
            raise directive.error("takes at most one argument: the number of sockets")
        block.workers = len(os.sched_getaffinity(0))
        if directive.args:
            text = directive.args[0]
            if not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
                raise directive.error(f"wants a number from 1 to {MAX_WORKERS}, got {text!r}")
            block.workers = int(text)
