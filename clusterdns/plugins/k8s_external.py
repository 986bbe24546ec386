"""k8s_external - names for the external addresses of Services.

Syntax:

    k8s_external [ZONE...] {
        ttl SECONDS
        apex LABEL
        headless
        fallthrough [ZONES...]
    }

A Service with a load balancer or `externalIPs` has the name `service.namespace.zone`, with SRV
records at `_port._protocol.service.namespace.zone`, in each ZONE, by default the keys of the server
block. The cluster is that of `kubernetes`, which must be in the same server block; its namespaces
apply, and its TTL for aliases and SRV records. Addresses have `ttl`, 5 by default and 3600 at most.
The zone's name server is `ns1.dns.zone`; `apex` replaces the label `dns`. It has the external
addresses of the Services of this server. `headless` adds the endpoints of headless Services without
external address. `fallthrough` sends names that do not exist to the next plugin. In a reverse zone,
external addresses have PTR records with names in the first ZONE.

Examples:

    cluster.local example.org {
        kubernetes cluster.local {
            manifests cluster
        }
        k8s_external example.org {
            headless
        }
    }

Differences from CoreDNS: a load balancer's host name is one alias for any number of ports. A name
server with only a host name has no address record; CoreDNS sends no reply then. The zone cannot be
transferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clusterdns.caching.spared import Spared
from clusterdns.chain.asking import Steps, answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Repeats
from clusterdns.chain.route import Route
from clusterdns.cluster.external import ExternalResponder
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.source import Source
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.wire import name, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

MAX_TTL_S = 3600


class K8sExternal(Plugin):
    """The external zones of one server block."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        inside = block.shared(Inside)
        if inside.cluster is None:
            raise directive.error("needs the kubernetes plugin in the same server block")
        inside.is_asked_for_external = True
        self._block = block
        self._cluster = inside.cluster
        self._inside = inside
        ttl, apex, has_headless = 5, b"\3dns\0", False
        fallthrough: tuple[WireName, ...] = ()
        for line in directive.block:
            match line.name:
                case "ttl":
                    ttl = arguments.number(line, most=MAX_TTL_S)
                case "apex":
                    apex = _label(line)
                case "headless":
                    has_headless = arguments.flag(line)
                case "fallthrough":
                    fallthrough = arguments.zone_names(line.args or (".",), line)
                case _:
                    raise line.unknown("ttl", "apex", "headless", "fallthrough")
        zones = arguments.zone_names(directive.args, directive) or block.zones
        inside.zones += zones
        inside.add_homes(zones)
        block.shared(Spared).has.append(lambda folded: responder.has(folded, self._cluster()))
        self._responder = responder = ExternalResponder(
            zones,
            ttl=ttl,
            apex=apex,
            has_headless=has_headless,
            fallthrough=fallthrough,
        )

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the source of the Services, which is that of `kubernetes`."""
        return {self._inside.source(): ()} if self._inside.source is not None else {}

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of ours is above or below ``cut``."""
        return not any(
            name.is_within(zone, cut) or name.is_within(cut, zone) for zone in self._responder.zones
        )

    def relay(self, route: Route) -> bool:
        """Exclude the names of our zones from the relay."""
        return route.claim(self._responder.zones)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory, None if an alias leads to an unknown name."""
        steps = self._steps(question)
        if steps is None:
            return next(question)
        return answer_by(steps, question, self._block.resolver, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response; ask the listener about targets of aliases."""
        steps = self._steps(query.question) if query.question else None
        if steps is None:
            return await next(query)
        return await handle_by(steps, query, self._block.resolver, next)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no zone of it has the name, for `explain`."""
        if is_own:
            return "a name of the zone itself, and not of a Service"
        return f"in none of its zones {trace.names_text(self._responder.zones)}"

    def _steps(self, question: Question) -> Steps | None:
        zone = self._responder.zone_of(question.folded)
        if zone is None:
            return None
        return self._responder.respond(question, zone, self._cluster())


def _label(line: Directive) -> bytes:
    try:
        return name.parse(arguments.some(line)[0])
    except FormError as error:
        raise line.error(error.reason) from error
