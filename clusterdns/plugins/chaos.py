"""chaos - answer questions of class CH about this server.

Syntax:

    chaos [VERSION [AUTHORS...]]

TXT questions of class CH are answered with TTL 0: `version.bind` and `version.server` with VERSION,
by default the release of CoreDNS that this server stands in for; `authors.bind` with AUTHORS in
random order; `hostname.bind` and `id.server` with the host's name, which is the Pod's. Text is cut
at 255 octets. Every client can read these values.

Examples:

    hostname.bind {
        chaos
    }
    bind server {
        chaos v1.2 "Jane Doe" "John Doe"
    }

Differences from CoreDNS: without AUTHORS, `authors.bind` is answered with `the authors of
clusterdns`, and not with the names of CoreDNS's maintainers. A backslash in VERSION and AUTHORS
is an ordinary character.
"""

from __future__ import annotations

import random
import socket

from clusterdns import COREDNS_VERSION
from clusterdns.chain.bases import Knowing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

CLASS_CH = 3
MAX_ORDERS = 16
AUTHORS = ("the authors of clusterdns",)


class Chaos(Knowing):
    """Four names with their texts."""

    repeats = Repeats.FIRST
    opens_classes = True

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.block:
            raise directive.block[0].unknown()
        version, *authors = directive.args or (f"CoreDNS-{COREDNS_VERSION}",)
        host = socket.gethostname()
        texts = {
            "version.bind": (version,), "version.server": (version,),
            "hostname.bind": (host,), "id.server": (host,),
            "authors.bind": tuple(sorted(set(authors))) or AUTHORS,
        }  # fmt: skip
        self._texts = {name.fold(name.parse(known)): said for known, said in texts.items()}

    def respond(self, question: Question) -> Response | None:
        """Return the text of a known name."""
        if question.qclass != CLASS_CH or question.qtype != rr.TXT:
            return None
        texts = self._texts.get(question.folded)
        if texts is None:
            return None
        records = [
            RR(question.qname, rr.TXT, 0, rr.txt_rdata(text), CLASS_CH)
            for text in random.sample(texts, len(texts))
        ]
        turned = [tuple(records[i:] + records[:i]) for i in range(min(len(records), MAX_ORDERS))]
        orders = tuple((each, (), ()) for each in turned) if len(turned) > 1 else ()
        return Response(flags=0, answer=turned[0], orders=orders)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that it knows the name, for `explain`."""
        return f"{name.text(question.folded)} is a name of the server itself" if is_own else ""

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: denials are of class IN."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: relayed queries are of class IN."""
        return True
