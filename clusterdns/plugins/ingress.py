"""ingress - answer the hosts of Ingresses and Gateway API routes.

Syntax:

    ingress [ZONES...] {
        inside CIDR...|*
        service NAMESPACE/NAME [CLASSES...]
        resources RESOURCES...
        ingressClasses CLASSES...
        gatewayClasses CLASSES...
        namespaces NAMESPACES...
        ttl SECONDS
        apex SERVICE.NAMESPACE
        secondary SERVICE.NAMESPACE
        fallthrough [ZONES...]
    }

The hosts of Ingresses, HTTPRoutes, GRPCRoutes and TLSRoutes are answered as soon as the objects
change, if they are in ZONES, by default the keys of the server block. So a Pod reaches
`shop.example.org` as everybody does, but within the cluster. Hosts outside ZONES are never
answered, or any tenant could take over `www.google.com`; they are logged once and counted. The
cluster is that of `kubernetes`, which must be in the same server block.

Clients whose addresses are in one of the networks of `inside` get the cluster addresses of the
Service whose load balancer has the address in the object's status: that of the Ingress controller
or of the Gateway. If no Service has it, or several have, or `service` is not there, they get what
all others get: the address of the load balancer, or an alias for its host name. `service` names the
Service instead, for the Ingress and Gateway classes behind it, or for all. Without `inside` all
clients get the load balancer's address; with `inside *` none does. Name all networks of Pods and
nodes: a client elsewhere cannot reach a cluster address.

`resources` are the kinds that count, by default all four. `ingressClasses` and `gatewayClasses`
are the classes that count, and `namespaces` those of Ingresses and routes, by default all. A route
counts if its status says that a Gateway has accepted it, wherever the Gateway is. It has those
hosts that it has in common with a listener of the Gateway that its protocol, `sectionName` and
`allowedRoutes.namespaces.from` allow; ports do not matter. `*.apps.example.org` is a wildcard
(RFC 4592), which stands for names of any depth.

If several objects have a host, the oldest one counts, as in the Gateway API; an Ingress that no
controller has given an address gives way to any other. A host without address exists, but has no
records. `apex` and `secondary` name the Services of the zone's name servers; the default is
`ns.dns`, the Services in front of this server. `transfer` transfers what clients outside get.
`fallthrough` sends names that do not exist to the next plugin, so that the rest of a zone can be
elsewhere. `explain` names the objects behind an answer, and those that do not count, with the
reason.

Until the objects have been listed, and while the API server forbids it, names in ZONES get
SERVFAIL. Kinds whose CustomResourceDefinition is not installed have no objects yet. Neither affects
other plugins, nor `ready`.

Examples:

    . {
        kubernetes cluster.local {
            manifests cluster
        }
        ingress example.org {
            inside 10.0.0.0/8 fd00::/8
            service edge/envoy public
            ttl 30
            fallthrough
        }
        forward . 192.0.2.53
    }

This needs the verbs `list` and `watch` for `ingresses` in the group `networking.k8s.io`, and for
`gateways`, `httproutes`, `grpcroutes` and `tlsroutes` in `gateway.networking.k8s.io`.

Metrics: `clusterdns_ingress_hosts{zone}`, the hosts that are answered;
`clusterdns_ingress_left_out_hosts{reason}`, those that are not, where reason is `outside`,
`invalid`, `conflict`, `listener` or `limit`.

Differences from k8s_gateway, a plugin for CoreDNS with these words: clients inside get cluster
addresses. It stands beside `kubernetes` and takes its connection, instead of `kubeconfig`. All
resources count by default, not Ingresses and Services; for Services there is `k8s_external`, for
DNSEndpoints `endpoint`. Routes count once they are accepted, with the hosts of listeners. The
oldest object counts; k8s_gateway returns the addresses of all. Host names of load balancers are
aliases; k8s_gateway looks up their addresses itself. The label `k8s-gateway.dns/ignore: "true"`
leaves out an Ingress or route here, too.

Limits: this is not in CoreDNS. ListenerSets are ignored; a `from: Selector` is left to the
controller. An object with more hosts, listeners or parents than the Gateway API allows is skipped,
and so is an Ingress with more than 1000 hosts; 65536 hosts are kept. Server blocks with and without
`ingress` share no watch of the cluster.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Hashable, Iterator
from typing import ClassVar, Final

from clusterdns.addressing.networks import Networks
from clusterdns.authority.hosts import REASONS, Hosts
from clusterdns.authority.hostzone import Face, HostZone
from clusterdns.authority.publishing import Publishing
from clusterdns.authority.sides import Sides
from clusterdns.chain.asking import Steps, answer_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, Worker
from clusterdns.cluster.objects import ObjectKey
from clusterdns.cluster.published import (
    GATEWAYS,
    GRPC_ROUTES,
    HTTP_ROUTES,
    INGRESSES,
    MANIFEST_KINDS,
    TLS_ROUTES,
)
from clusterdns.cluster.store import Store
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

HOSTS = "clusterdns_ingress_hosts"
LEFT_OUT = "clusterdns_ingress_left_out_hosts"
TTL_S = 60  # as in k8s_gateway
_KINDS: Final = {MANIFEST_KINDS[k]: k for k in (INGRESSES, HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES)}
_ELSEWHERE: Final = {"Service": "k8s_external", "DNSEndpoint": "endpoint"}
_OPTIONS: Final = ("inside", "service", "resources", "ingressClasses", "gatewayClasses", "apex",
                   "secondary")  # fmt: skip
_MOST_TOLD = 3  # objects in an explanation


class Ingress(Publishing):
    """The zones of one server block that have hosts of Ingresses and routes."""

    families: ClassVar = {
        HOSTS: Family("The number of hosts that are answered.", ("zone",), is_gauge=True,
                      is_shared=True),
        LEFT_OUT: Family("The number of hosts of Ingresses and routes that are not answered.",
                         ("reason",), is_gauge=True, is_shared=True),
    }  # fmt: skip
    after = "endpoint"
    objects = "the Ingresses, Gateways and routes"

    def __init__(self, directive: Directive, block: Block) -> None:
        super().__init__(directive, block, TTL_S)
        self._inside.is_asked_for_external = True
        self._networks: Networks | None = None  # None for everybody, if anybody is inside
        self._has_inside = False
        self._services: dict[str, ObjectKey] = {}  # by class; "" is any other
        self._servers: dict[str, ObjectKey | None] = {}  # by their labels below the apex
        self._resources: dict[str, None] = {}
        self._classes: dict[str, set[str]] = {INGRESSES: set(), GATEWAYS: set()}
        for line in directive.block:
            self._take_line(line)
        kinds = tuple(self._resources) or tuple(_KINDS.values())
        needs_gateways = any(kind != INGRESSES for kind in kinds)
        kinds = (*kinds, GATEWAYS) if needs_gateways else kinds
        self._inside.published.update(kinds)
        self._worker: Worker | None = None
        self._condition = ("inside", directive.file, directive.line)
        self.classes = self if self._networks is not None else None
        self._is_working = False
        self._server_names: dict[WireName, ObjectKey | None] = {}
        servers = self._servers or {"ns.dns": None}
        try:
            self._names = self._hosts = Hosts(
                [self._zone(apex, servers) for apex in self._apexes],
                kinds=kinds,
                ingress_classes=self._classes[INGRESSES],
                gateway_classes=self._classes[GATEWAYS],
                namespaces=self._namespaces,
                changed=self._notify,
                tell=self._tell,
                settled=self._note_filled,
                later=self._work_later,
            )
        except FormError as error:
            raise directive.error(error.reason) from error
        self.zones.update(self._hosts.zones)
        self._sides = self._sides_of(Store(()))

    def _zone(self, apex: WireName, servers: dict[str, ObjectKey | None]) -> HostZone:
        """Return a zone without hosts. Raises FormError."""
        names = [name.fold(name.join(name.labels(name.parse(each)), apex)) for each in servers]
        self._server_names.update(zip(names, servers.values(), strict=True))
        return HostZone(apex, self._ttl, names)

    def _take_line(self, line: Directive) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        match line.name:
            case "inside":
                self._take_inside(line)
            case "service":
                key, *classes = arguments.some(line)
                namespace, slash, service = key.partition("/")
                if not (namespace and slash and service):
                    raise line.error(f"wants NAMESPACE/NAME, got {key!r}")
                self._services.update(dict.fromkeys(classes or ("",), (namespace, service)))
            case "resources":
                for word in arguments.some(line):
                    if word in _ELSEWHERE:
                        raise line.error(f"{word} is for the plugin {_ELSEWHERE[word]}")
                    if word not in _KINDS:
                        raise line.error(f"wants {', '.join(_KINDS)}, got {word!r}")
                    self._resources[_KINDS[word]] = None
            case "ingressClasses":
                self._classes[INGRESSES].update(arguments.some(line))
            case "gatewayClasses":
                self._classes[GATEWAYS].update(arguments.some(line))
            case "apex" | "secondary":
                word = arguments.one(line)
                service, dot, namespace = word.partition(".")
                if not (service and dot and namespace) or "." in namespace:
                    raise line.error(f"wants SERVICE.NAMESPACE, got {word!r}")
                self._servers[word] = (namespace, service)
            case _:
                if not self._read(line):
                    raise line.unknown(*_OPTIONS, *self.options)

    def _take_inside(self, line: Directive) -> None:
        """Take in the networks of clients inside. Raises ConfigError."""
        words = arguments.some(line)
        if "*" in words:
            self._networks = None
        elif self._networks is not None or not self._has_inside:
            self._networks = self._networks or Networks()
            for word in words:
                self._networks.add(arguments.network(word, line))
        self._has_inside = True

    # ---- what changes

    async def start(self, worker: Worker) -> None:
        """Follow the objects, and wait for the first list, but not for long."""
        self._worker = worker
        await super().start(worker)

    def _follow(self, store: Store) -> None:
        self._sides = self._sides_of(store)
        super()._follow(store)

    def holding(self, host: str) -> Iterator[Hashable]:
        """Yield that a client is inside; see chain/classes.py."""
        if self._networks is not None and host in self._networks:
            yield self._condition

    def _sides_of(self, store: Store) -> Sides:
        return Sides(
            self._hosts, store, self._services, self._server_names, self.block.local_addresses
        )

    def _work_later(self) -> None:
        """Go on with what is due, once queries have been answered."""
        if not self._is_working:
            self._is_working = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        self._is_working = False
        facts = self._hosts.work(int(time.time()))
        if self._worker is not None:
            self._worker.forget(facts)
        if self._hosts.has_work:
            self._work_later()
        else:
            self._note_filled()

    # ---- answers

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the zone, None if it depends on a client of unknown class."""
        apex = self.zone_of(question.folded)
        if apex is None or not self._depends_on_client(apex, question):
            return super().answer(question, next)
        if question.asker is None:
            return None
        is_inside = self._condition in question.asker
        if (taker := trace.scribe()) is not None:
            taker.note(f"the client is {'inside' if is_inside else 'not inside'}, by `inside`")
        steps = self._respond_on(apex, question, is_inside=is_inside)
        found = answer_by(steps, question, self.block.resolver, next)
        return found if found is None else found._replace(personal=True)

    def _depends_on_client(self, apex: WireName, question: Question) -> bool:
        """Tell whether clients inside and outside get different answers."""
        if self._networks is None:
            return False
        zone, is_apex = self._hosts.zones[apex], question.folded == apex
        if is_apex and question.qtype == rr.SOA:
            return False
        if is_apex and question.qtype == rr.NS:
            owners = list(zone.servers)
        else:
            owner, _ = zone.owner_of(question)
            owners = [owner] if owner is not None else []
        addresses_of = self._sides.of
        with trace.noted_by(None):  # of the side that counts, notes are taken later
            return any(
                addresses_of(each, is_inside=True, facts=[])
                != addresses_of(each, is_inside=False, facts=[])
                for each in owners
            )

    def _respond(self, apex: WireName, question: Question) -> Steps:
        """As ``Authority._respond``: if all clients get the same, it is what those inside get."""
        return self._respond_on(apex, question, is_inside=self._has_inside)

    def _respond_to(self, query: Query, question: Question, apex: WireName) -> Steps:
        if self._networks is None:
            return self._respond(apex, question)
        is_inside = query.client[0] in self._networks
        if (taker := trace.scribe()) is not None:
            side = "inside, by `inside`" if is_inside else "not inside, by `inside`"
            taker.note(f"the client {query.client[0]} is {side}")
        return self._respond_on(apex, question, is_inside=is_inside)

    def _respond_on(self, apex: WireName, question: Question, *, is_inside: bool) -> Steps:
        """Yield a question about an alias; return the response for clients on one side."""
        facts: list[Hashable] = []
        addresses_of = functools.partial(self._sides.of, is_inside=is_inside, facts=facts)
        face = Face(self._hosts.zones[apex], addresses_of)
        response = yield from self._respond_from(face, apex, question)
        if response is None or not facts:
            return response
        return response._replace(facts=(*response.facts, *facts))

    def transfer(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of a zone as clients outside get them, or None."""
        if apex not in self.zones:
            return None
        self._check_listed(apex)
        addresses_of = functools.partial(self._sides.of, is_inside=False, facts=[])
        return iter(list(Face(self._hosts.zones[apex], addresses_of).records()))

    def _note(self, taker: trace.Scribe, apex: WireName, question: Question) -> None:
        """Note the objects that have the host, or its wildcard, and those that do not count."""
        owner, _ = self._hosts.zones[apex].owner_of(question)
        claims = self._hosts.claims(owner) if owner is not None else []
        for claim in claims[:_MOST_TOLD]:
            keys = self._hosts.gateways(claim, owner or apex)
            through = f", at the Gateway {', '.join(map('/'.join, keys))}" if keys else ""
            objects = ((*claim.id[:1], *claim.key), *((GATEWAYS, *key) for key in keys))
            taker.note(f"{claim.title} has the host {name.text(owner or apex)}{through}",
                       objects=objects)  # fmt: skip
        if len(claims) > 1:
            taker.note(f"{len(claims)} objects have it: the oldest one counts")
        if claims:
            return
        for (kind, key), why in self._hosts.unserved(question.folded)[:_MOST_TOLD]:
            taker.blame(f"{MANIFEST_KINDS[kind]} {'/'.join(key)} has the host, but {why}",
                        objects=((kind, *key),))  # fmt: skip

    def samples(self) -> list[Sample]:
        """Return how many hosts are answered, and how many are not."""
        return self._samples(HOSTS, LEFT_OUT, REASONS)
