"""health - answer 200 OK at an HTTP address while the process lives.

Syntax:

    health [ADDRESS] {
        lameduck DURATION
    }

ADDRESS defaults to `:8080`, the path is `/health`. With `lameduck` the server keeps answering for
DURATION after the signal to stop.

Examples:

    . {
        health localhost:8091 {
            lameduck 5s
        }
        whoami
    }

Differences from CoreDNS: queries that arrive during the shutdown are still answered.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats, Supervisor
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import SLIM_TIME_S


class Health(Passive):
    """Serves `/health` and asks for a lameduck period."""

    always_shown = True
    families: ClassVar = {
        "health_request_duration_seconds": Family(
            "Histogram of the time (in seconds) each request took.", bounds=SLIM_TIME_S
        ),
        "health_request_failures_total": Family("The number of times the health check failed."),
    }
    repeats = Repeats.OPTIONS

    def __init__(self, directive: Directive, block: Block) -> None:
        self.web_address = arguments.listen_address(directive, ":8080")
        self._lameduck_s = 0.0
        for line in directive.block:
            if line.name != "lameduck":
                raise line.unknown("lameduck")
            self._lameduck_s = arguments.duration_s(arguments.one(line), line)

    def supervise(self, supervisor: Supervisor) -> None:
        """Serve `/health`, and request the lameduck period."""

        async def respond() -> tuple[int, str, bytes]:
            return 200, "text/plain", b"OK"

        supervisor.serve(self.web_address, "/health", respond)
        supervisor.lameduck(self._lameduck_s)
