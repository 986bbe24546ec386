"""prometheus - export metrics at an HTTP address.

Syntax:

    prometheus [ADDRESS]

ADDRESS defaults to `localhost:9153`, the path is `/metrics`. The queries of a server block are
counted if it holds this directive. Names, labels and buckets are CoreDNS's.

Examples:

    . {
        prometheus localhost:9253
        whoami
    }
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Supervisor
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Prometheus(Passive):
    """Serves `/metrics`."""

    def __init__(self, directive: Directive, block: Block) -> None:
        for line in directive.block:
            if line.name == "tls":
                raise line.error("not supported by clusterdns yet")
            if line.name != "runtime_metrics":
                raise line.unknown("runtime_metrics", "tls")
        self.web_address = arguments.listen_address(directive, "localhost:9153")

    def supervise(self, supervisor: Supervisor) -> None:
        """Serve `/metrics` with the counts of the workers."""

        async def respond() -> tuple[int, str, bytes]:
            return 200, EXPOSITION, await supervisor.metrics()

        supervisor.serve(self.web_address, "/metrics", respond)
