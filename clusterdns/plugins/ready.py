"""ready - answer 200 OK at an HTTP address once every plugin is ready.

Syntax:

    ready [ADDRESS] {
        monitor until-ready|continuously
    }

ADDRESS defaults to `:8181`, the path is `/ready`. Until then the answer is 503 with the names of
the plugins that are not ready. With `until-ready`, the default, a plugin that was ready once stays
so.

Examples:

    . {
        ready localhost:8091
        whoami
    }

Differences from CoreDNS: the answer is 503 also before the DNS sockets are read, and while the
server stops.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Supervisor
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive


class Ready(Passive):
    """Serves `/ready`."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self.web_address = arguments.listen_address(directive, ":8181")
        self._is_continuous = False
        self._was_ready = False
        for line in directive.block:
            if line.name != "monitor":
                raise line.unknown("monitor")
            word = arguments.word(line, "until-ready", "continuously")
            self._is_continuous = word == "continuously"

    def supervise(self, supervisor: Supervisor) -> None:
        """Serve `/ready` with the reports of the workers."""

        async def respond() -> tuple[int, str, bytes]:
            if supervisor.is_stopping:
                return 503, "text/plain", b"Shutting down"
            waiting = [] if self._was_ready else supervisor.not_ready()
            if waiting:
                return 503, "text/plain", ",".join(waiting).encode()
            self._was_ready = not self._is_continuous
            return 200, "text/plain", b"OK"

        supervisor.serve(self.web_address, "/ready", respond)
