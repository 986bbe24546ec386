"""reload - apply a changed Corefile without a restart.

Syntax:

    reload [INTERVAL [JITTER]]

Every INTERVAL (30s by default, at least 2s), varied by up to half of JITTER (15s by default), the
Corefile is read again. If its content has changed, new workers take over from the old ones, and no
query is lost. A mistake in the Corefile is logged, and the last good Corefile stays in force.

Examples:

    . {
        reload 10s 5s
        whoami
    }
"""

from __future__ import annotations

import random
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats, Supervisor
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family

MIN_INTERVAL_S = 2.0
MIN_JITTER_S = 1.0


class Reload(Passive):
    """Lets the supervisor poll the configuration."""

    always_shown = True
    families: ClassVar = {
        "reload_failed_total": Family("Counter of the number of failed reload attempts."),
        "reload_version_info": Family(
            "A metric with a constant '1' value labeled by hash, and value which type of hash "
            "generated.",
            ("hash", "value"),
            is_gauge=True,
        ),
    }
    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        arguments.ignore_block(directive)
        if len(directive.args) > 2:
            raise directive.error("takes at most an interval and a jitter")
        durations = [arguments.duration_s(arg, directive) for arg in directive.args]
        interval_s = durations[0] if durations else 30.0
        jitter_s = durations[1] if len(durations) > 1 else 15.0
        if interval_s < MIN_INTERVAL_S:
            raise directive.error(f"interval must be at least {MIN_INTERVAL_S:g}s")
        if 0 < jitter_s < MIN_JITTER_S:
            raise directive.error(f"jitter must be at least {MIN_JITTER_S:g}s")
        jitter_s = min(jitter_s, interval_s / 2)
        self._interval_s = interval_s + random.uniform(-jitter_s / 2, jitter_s / 2)

    def supervise(self, supervisor: Supervisor) -> None:
        """Start polling."""
        supervisor.poll_configuration(self._interval_s)
