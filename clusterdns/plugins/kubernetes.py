"""kubernetes - serve Services, endpoints and Pods of a Kubernetes cluster.

Syntax:

    kubernetes [ZONES...] {
        endpoint URL
        tls CERT KEY CA
        kubeconfig FILE [CONTEXT]
        apiserver_qps QPS
        apiserver_burst BURST
        apiserver_max_inflight MAX
        manifests DIR
        snapshot FILE
        audit DURATION
        namespaces NAMESPACE...
        namespace_labels SELECTOR
        labels SELECTOR
        pods disabled|insecure|verified
        endpoint_pod_names
        single_ptr
        ttl SECONDS
        noendpoints
        fallthrough [ZONES...]
        ignore empty_service
        multicluster ZONES...
        zonal
        startup_timeout DURATION
    }

ZONES default to the keys of the server block; CIDR text stands for reverse zones. Without
`endpoint`, `kubeconfig` or `manifests` the API server is that of the cluster we run in. These are
not in CoreDNS:

* `manifests` reads the cluster from the YAML and JSON manifests in DIR, and changed files again.
  Links are followed. Removed objects are gone within a second; an empty file keeps its last
  objects.
* `snapshot` saves the known objects in FILE. A start while the API server is down serves them, and
  counts them as stale, until the server answers. The directory of FILE must be writable.
* `audit` sets how often the known objects are compared with the API server; differences are
  repaired within this time, and counted. The default is 5m; 0s turns audits off.
* `single_ptr` answers a PTR query with one name, also if several Services have the endpoint: one
  with a host name of its own, else the first by namespace, Service and endpoint.

The other options are those of CoreDNS. Kubeconfigs, tokens and certificates are read again when
they have changed; if they are invalid then, the last good ones stay in force. Proxies are those
of `HTTPS_PROXY` and `NO_PROXY`, without SOCKS. A kubeconfig with `exec` or `auth-provider` needs
the Python package kubernetes, which a slim install lacks: `pip install kubernetes`.
`apiserver_max_inflight` is accepted and has no effect: there is at most one request at a time for
each kind of object. `multicluster` answers in ZONES, which must be among those served, for the
ServiceImports of the multi-cluster services API; the ClusterRole then needs list and watch for
`serviceimports` in `multicluster.x-k8s.io`. With `pods verified`, `autopath @kubernetes` knows the
namespace of each Pod.

Examples:

    cluster.local in-addr.arpa {
        kubernetes {
            manifests cluster
            pods insecure
            fallthrough in-addr.arpa
        }
    }

Differences from CoreDNS: an external name that is not a domain name gets SERVFAIL, and the address
of an endpoint without a Service NXDOMAIN; CoreDNS sends no reply to either. A broken connection to
the API server is resumed within 5 s of its return. With `multicluster` in a cluster without
ServiceImports, there are none, and the API is checked again every 30 s; CoreDNS never becomes
ready. If the API server forbids listing a kind of objects, only names that need it get SERVFAIL, as
those of Pods with `pods verified`; without Namespaces, Services or EndpointSlices the plugin is not
ready. CoreDNS answers all name errors with SERVFAIL.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from clusterdns.authority.transfers import Transfers
from clusterdns.caching.spared import Spared
from clusterdns.chain import searchpath
from clusterdns.chain.asking import answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.chain.searchpath import SearchPaths
from clusterdns.cluster import records
from clusterdns.cluster.external import Cluster
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.respond import Responder
from clusterdns.cluster.settings import Settings
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.cluster.wholezone import zone_records
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import DEFAULT_S, PROGRAMMING_S
from clusterdns.wire import name, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

_WATCH = ("source", "kind")
_HOMES = (b"\3svc", b"\3pod")  # of namespaces, in a zone


class Kubernetes(Plugin):
    """The Kubernetes zones of one server block, answered from the store of their source."""

    families: ClassVar = {
        "kubernetes_dns_programming_duration_seconds": Family(
            "Histogram of the time (in seconds) it took to program a dns instance.",
            ("service_kind",),
            bounds=PROGRAMMING_S,
        ),
        "kubernetes_rest_client_requests_total": Family(
            "Number of HTTP requests, partitioned by status code, method, and host.",
            ("code", "method", "host"),
        ),
        "kubernetes_rest_client_request_duration_seconds": Family(
            "Request latency in seconds. Broken down by verb and host.",
            ("verb", "host"),
            bounds=DEFAULT_S,
        ),
        "clusterdns_kubernetes_event_age_seconds": Family(
            "Seconds since the last event of a watch.", _WATCH, is_gauge=True
        ),
        "clusterdns_kubernetes_bookmark_age_seconds": Family(
            "Seconds since the last bookmark of a watch.", _WATCH, is_gauge=True
        ),
        "clusterdns_kubernetes_contact_age_seconds": Family(
            "Seconds since the API server last sent anything about a kind of object.",
            _WATCH,
            is_gauge=True,
        ),
        "clusterdns_kubernetes_objects": Family(
            "The number of objects that are served.", _WATCH, is_gauge=True
        ),
        "clusterdns_kubernetes_stale_objects": Family(
            "The number of objects that are served while their watch is down.",
            _WATCH,
            is_gauge=True,
        ),
        "clusterdns_kubernetes_snapshot_age_seconds": Family(
            "Age of the snapshot that is served while the API server is down; absent otherwise.",
            ("source",),
            is_gauge=True,
        ),
        "clusterdns_kubernetes_relists_total": Family("Counter of lists of all objects.", _WATCH),
        "clusterdns_kubernetes_reconnects_total": Family(
            "Counter of watches resumed where the one before ended.", _WATCH
        ),
        "clusterdns_kubernetes_skipped_objects_total": Family(
            "Counter of objects and events that could not be read.", _WATCH
        ),
        "clusterdns_kubernetes_audits_total": Family(
            "Counter of comparisons with the API server.", _WATCH
        ),
        "clusterdns_kubernetes_audit_divergences_total": Family(
            "Counter of objects that differed from the API server's and were repaired.", _WATCH
        ),
    }
    denies = True
    provides = (Inside,)

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._settings = settings = Settings(directive, block.zones, block.root)
        self._store = Store(settings.source.kinds)
        self._responder = self._responder_of(self._store)
        self._search = searchpath.of_host()
        block.shared(SearchPaths).add("kubernetes", self._search_path)
        self._inside = inside = block.shared(Inside)
        inside.is_service, inside.cluster = self._is_service, self._cluster
        inside.source = lambda: self._source
        inside.zones += settings.zones
        named = [z for z in settings.zones if not name.is_within_any(z, name.REVERSE_ZONES)]
        inside.add_homes(WireName(part + z) for z in named for part in _HOMES)
        block.shared(Spared).has.append(lambda folded: self._responder.has(folded))
        block.shared(Transfers).add_source(self._transfer, self.order)

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the source of the zones' objects."""
        return {self._source: self._settings.zones}

    @property
    def _source(self) -> Source:
        own = self._settings.source
        return own._replace(
            kinds=(*own.kinds, *sorted(self._inside.published)),
            is_external=self._inside.is_asked_for_external,
        )

    async def start(self, worker: Worker) -> None:
        """Take the source's store, and wait up to `startup_timeout` for its objects."""
        self._store = await worker.store(self._source, self._settings.startup_timeout_s)
        self._responder = self._responder_of(self._store)

    def _responder_of(self, store: Store) -> Responder:
        return Responder(
            store,
            self._settings.options,
            self._settings.zones,
            ttl=self._settings.ttl,
            multicluster=self._settings.multicluster,
            fallthrough=self._settings.fallthrough,
            local_addresses=self._block.local_addresses,
        )

    def _cluster(self) -> Cluster:
        """Return the cluster, for other plugins that answer from it."""
        return Cluster(
            self._store, self._settings.options, self._settings.ttl, self._block.local_addresses
        )

    def _transfer(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of one of our zones for a transfer, or None."""
        soa = self._responder.soa(apex)
        if soa is None:
            return None
        if not self.is_ready:
            raise LookupError("the cluster has not been listed yet")
        return zone_records(self._cluster(), apex, soa)

    def _search_path(self, client: str, folded: WireName) -> tuple[WireName, ...]:
        """Return the search path of the Pod at an address (CoreDNS: kubernetes/autopath.go)."""
        zone = self._responder.longest_zone(folded)
        pods = self._store.pods_at(client)
        if zone is None or not pods:
            return ()
        below = WireName(b"\x03svc" + zone)
        try:
            first = name.fold(name.join([pods[0][0].encode()], below))
        except FormError:
            return ()
        return (first, below, zone, *self._search, WireName(b"\0"))

    def _is_service(self, namespace: bytes, service: bytes) -> bool:
        """Tell whether a Service exists, with or without endpoints."""
        key = (namespace.decode("latin-1"), service.decode("latin-1"))
        return key in self._store.services.by_name or key in self._store.imported.by_name

    @property
    def is_ready(self) -> bool:
        """Whether all kinds of objects have been listed, except forbidden optional ones."""
        return self._store.is_ready

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory, None if an alias leads to an unknown name."""
        zone = self._responder.zone_of(question)
        if zone is None or self._responder.passes(question, zone):
            return next(question)
        steps = self._responder.respond(question, zone)
        return answer_by(steps, question, self._block.resolver, next)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no zone of it has the name, for `explain`."""
        if is_own or self._responder.zone_of(question) is not None:
            return ""
        return f"in none of its zones {trace.names_text(self._settings.zones)}"

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of ours, and none of `fallthrough`, is below ``cut``."""
        return not any(
            name.is_below(zone, cut)
            for zone in (*self._settings.zones, *self._settings.fallthrough)
        )

    def relay(self, route: Route) -> bool:
        """Exclude the names of our zones from the relay, but for addresses that are not ours."""
        shared = self._responder.passed
        mine = tuple(zone for zone in self._settings.zones if zone not in shared)
        return route.claim(mine) and route.share(tuple(shared), self._responder.passing)

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return the parts of a cluster name, and the client's Pod (CoreDNS: metadata.go)."""
        found = dict[str, str]()
        pods = self._store.pods_at(query.client[0])
        if pods:
            found["client-namespace"], found["client-pod-name"] = pods[0]
        folded = query.question.folded if query.question else name.ROOT
        zone = self._responder.longest_zone(folded)
        if zone is not None:
            found |= records.labels_of(
                name.labels(WireName(folded[: len(folded) - len(zone)] + name.ROOT)),
                is_zonal=self._settings.options.is_zonal,
            )
        return {f"kubernetes/{word}": functools.partial(str, text) for word, text in found.items()}

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response; ask the listener about names outside."""
        zone = self._responder.zone_of(query.question) if query.question else None
        if query.question is None or zone is None or self._responder.passes(query.question, zone):
            return await next(query)
        steps = self._responder.respond(query.question, zone)
        return await handle_by(steps, query, self._block.resolver, next)
