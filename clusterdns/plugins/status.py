"""status - show how the server does on a page, read only.

Syntax:

    status [ADDRESS]

ADDRESS defaults to `127.0.0.1:9154`. A browser finds there, also by
`kubectl port-forward POD 9154`:

* whether the cluster is watched, kind by kind, and how long ago it was heard from;
* each upstream server, with its state and its latency;
* queries by RCODE and type, latency with its history, the names and clients that ask most, names
  that do not exist, slow names;
* the last warnings and errors;
* the configuration in force, line by line, with what each line does, without its secrets;
* a box where the answer to a name is explained.

The same is at `/status.json`, `/top`, `/tail` and `/explain?name=NAME&type=TYPE&client=IP`. Only
GET and HEAD are served, to browsers that name `localhost`, an IP address or the host of ADDRESS: a
page of another site cannot read it, or send queries by it. Whoever reaches ADDRESS reads the names
that clients ask for, and may send queries to upstream servers by explaining names: leave it at a
loopback address.

Examples:

    . {
        status
        whoami
    }
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Supervisor
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive


class Status(Passive):
    """Asks for the page."""

    after = "prometheus"
    observes_all = True

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.block:
            raise directive.block[0].unknown()
        self.web_address = arguments.listen_address(directive, "127.0.0.1:9154")

    def supervise(self, supervisor: Supervisor) -> None:
        """Serve the page."""
        supervisor.show_status(self.web_address)
