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

* `manifests` reads the cluster from the YAML and JSON manifests in DIR, and again whenever a file
  there changes. Links are followed. Objects that are no longer there are gone a second later; an
  empty file keeps what it held.
* `snapshot` saves the known objects in FILE. A start while the API server is down serves them, and
  counts them as stale, until the server answers. The directory of FILE must be writable.
* `audit` sets how often the known objects are compared with the API server; differences are
  repaired and counted. The default is 5m; 0s turns audits off.

The other options mean what they mean in CoreDNS. `apiserver_max_inflight` is accepted and has no
effect: there is at most one request at a time for each kind of object. `multicluster` answers in
ZONES, which must be among those served, for the ServiceImports of the multi-cluster services API;
the ClusterRole then needs list and watch for `serviceimports` in `multicluster.x-k8s.io`. With
`pods verified`, `autopath @kubernetes` knows the namespace of each Pod.

Examples:

    cluster.local in-addr.arpa {
        kubernetes {
            manifests cluster
            pods insecure
            fallthrough in-addr.arpa
        }
    }

Differences from CoreDNS: an external name that is no domain name is answered with SERVFAIL, and the
address of an endpoint that belongs to no Service with NXDOMAIN, where CoreDNS sends nothing. A
broken connection to the API server is resumed within 5 s of its return. Where `multicluster` is
given and the cluster knows no ServiceImports, there are none, and they are looked for again every
30 s; CoreDNS never becomes ready.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from clusterdns.authority.transfers import Transfers
from clusterdns.chain import searchpath
from clusterdns.chain.asking import answer_by, handle_by
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.chain.searchpath import SearchPaths
from clusterdns.cluster import records, selectors
from clusterdns.cluster.external import Cluster
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.objects import IMPORT_SLICES, IMPORTS, NAMESPACES, PODS, SERVICES, SLICES
from clusterdns.cluster.records import DISABLED, INSECURE, VERIFIED, RecordOptions
from clusterdns.cluster.respond import Responder, is_reverse
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.cluster.transfer import zone_records
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host import logs
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import DEFAULT_S, PROGRAMMING_S
from clusterdns.wire import name
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

_WATCH = ("source", "kind")
MAX_TTL_S = 3600
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_log = logs.plugin_logger("kubernetes")


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

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._zones = arguments.zone_names(directive.args, directive) or block.zones
        if all(is_reverse(zone) for zone in self._zones):
            raise directive.error("needs a zone that is not a reverse zone")
        self._ttl = 5
        self._fallthrough: tuple[WireName, ...] = ()
        self._multicluster: tuple[WireName, ...] = ()
        self._startup_timeout_s = 5.0
        self._options = RecordOptions()
        self._source = Source("", ())
        settings = dict[str, str]()
        kinds = [NAMESPACES, SERVICES, SLICES]
        has_tls = any(line.name == "tls" for line in directive.block)
        self._scheme = "https" if has_tls else "http"
        for line in directive.block:
            self._read(line, settings, kinds)
        if not (self._source.manifests or self._source.kubeconfig or self._source.endpoint):
            _check_in_cluster(directive)
        if self._options.namespaces and "namespace_labels" in settings:
            raise directive.error("namespaces and namespace_labels exclude each other")
        if self._options.is_zonal and SLICES not in kinds:
            raise directive.error("zonal and noendpoints exclude each other")
        if self._options.pods == VERIFIED:
            kinds.append(PODS)
        if self._multicluster:
            kinds += [IMPORTS, IMPORT_SLICES]
        self._source = self._source._replace(
            kinds=tuple(kinds),
            is_zonal=self._options.is_zonal,
            is_external="k8s_external" in block.directives,
            selector=settings.get("labels", ""),
            namespace_selector=settings.get("namespace_labels", ""),
        )
        self._store = Store(kinds)
        self._responder = self._responder_of(self._store)
        self._search = searchpath.of_host()
        block.shared(SearchPaths).add("kubernetes", self._search_path)
        inside = block.shared(Inside)
        inside.is_service, inside.cluster = self._is_service, self._cluster
        block.shared(Transfers).add_source(self._transfer, self.order)

    def _read(self, line: Directive, settings: dict[str, str], kinds: list[str]) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        options, args = self._options, line.args
        match line.name:
            case "namespaces":
                named = options.namespaces | set(arguments.some(line))
                self._options = options._replace(namespaces=named)
            case "labels" | "namespace_labels":
                settings[line.name] = " ".join(arguments.some(line))
                try:
                    selectors.parse(settings[line.name])
                except ValueError as error:
                    raise line.error(str(error)) from error
            case "pods":
                self._options = options._replace(
                    pods=arguments.word(line, DISABLED, INSECURE, VERIFIED)
                )
            case "endpoint_pod_names":
                self._options = options._replace(endpoint_pod_names=arguments.flag(line))
            case "ttl":
                self._ttl = arguments.number(line, most=MAX_TTL_S)
            case "noendpoints":
                if arguments.flag(line) and SLICES in kinds:
                    kinds.remove(SLICES)
            case "fallthrough":
                self._fallthrough = arguments.zone_names(args or (".",), line)
            case "ignore":
                if args:  # CoreDNS takes the bare word and ignores nothing
                    arguments.word(line, "empty_service")
                    self._options = options._replace(ignore_empty_service=True)
            case "startup_timeout":
                self._startup_timeout_s = arguments.seconds(line)
            case "multicluster":
                self._multicluster = arguments.zone_names(args, line) if args else ()
                for zone in set(self._multicluster) - set(self._zones):
                    raise line.error(f"{name.text(zone)} is not among the zones served")
            case "zonal":
                self._options = options._replace(is_zonal=arguments.flag(line))
            case _:
                self._read_source(line)

    def _read_source(self, line: Directive) -> None:
        """Take in one line that says where the cluster is. Raises ConfigError."""
        source, args = self._source, line.args
        match line.name:
            case "manifests":
                source = source._replace(manifests=self._path(arguments.one(line)))
                if not Path(source.manifests).is_dir():
                    raise line.error(f"{source.manifests} is no directory")
            case "endpoint":
                source = source._replace(endpoint=self._url(line))
                if len(args) > 1:
                    _log.warning("only the first endpoint is used, %s", args[0])
            case "tls":
                if len(args) != 3:
                    raise line.error("takes the files of certificate, key and CA")
                source = source._replace(tls=tuple(self._file(text, line) for text in args))
            case "kubeconfig":
                if len(args) not in (1, 2):
                    raise line.error("takes a file, and a context")
                if importlib.util.find_spec("kubernetes") is None:  # a slim install
                    raise line.error("needs the Python package kubernetes: pip install kubernetes")
                context = args[1] if len(args) == 2 else ""
                source = source._replace(kubeconfig=self._file(args[0], line), context=context)
            case "apiserver_qps":
                source = source._replace(qps=_rate(line))
            case "apiserver_burst":
                source = source._replace(burst=arguments.number(line))
            case "apiserver_max_inflight":
                arguments.number(line)
            case "snapshot":
                source = source._replace(snapshot=self._path(arguments.one(line)))
            case "audit":
                source = source._replace(audit_s=arguments.seconds(line))
            case _:
                raise line.unknown(
                    "namespaces",
                    "labels",
                    "namespace_labels",
                    "pods",
                    "endpoint_pod_names",
                    "ttl",
                    "noendpoints",
                    "fallthrough",
                    "ignore",
                    "startup_timeout",
                    "multicluster",
                    "zonal",
                    "manifests",
                    "endpoint",
                    "tls",
                    "kubeconfig",
                    "apiserver_qps",
                    "apiserver_burst",
                    "apiserver_max_inflight",
                    "snapshot",
                    "audit",
                )
        self._source = source

    def _url(self, line: Directive) -> str:
        """Return the URL of an API server; its scheme need not be given (client-go)."""
        text = arguments.some(line)[0]
        url = text if "://" in text else f"{self._scheme}://{text}"
        try:
            parts = urllib.parse.urlsplit(url)
            is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good:
            raise line.error(f"{text!r} is no URL of an API server")
        return url.rstrip("/")

    def _path(self, text: str) -> str:
        return str(self._block.path(text).resolve())

    def _file(self, text: str, line: Directive) -> str:
        """Return the path of a file that can be read. Raises ConfigError."""
        path = self._path(text)
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise line.error(f"{path}: {error.strerror}") from error
        return path

    def sources(self) -> list[Source]:
        """Return the source of the zones' objects."""
        return [self._source]

    async def start(self, worker: Worker) -> None:
        """Take the source's store and wait a while for it to be filled."""
        self._store = await worker.store(self._source, self._startup_timeout_s)
        self._responder = self._responder_of(self._store)

    def _responder_of(self, store: Store) -> Responder:
        return Responder(
            store,
            self._options,
            self._zones,
            ttl=self._ttl,
            multicluster=self._multicluster,
            fallthrough=self._fallthrough,
            local_addresses=self._block.local_addresses,
        )

    def _cluster(self) -> Cluster:
        """Return what is known of the cluster, for plugins that answer from it, too."""
        return Cluster(self._store, self._options, self._ttl, self._block.local_addresses)

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
        """Tell whether a Service exists, whatever its endpoints."""
        key = (namespace.decode("latin-1"), service.decode("latin-1"))
        return key in self._store.services.by_name or key in self._store.imported.by_name

    @property
    def is_ready(self) -> bool:
        """Whether every kind of object has been listed."""
        return self._store.is_synced

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the cluster's answer; None where an alias leads to what memory does not know."""
        zone = self._responder.zone_of(question)
        if zone is None:
            return next(question)
        steps = self._responder.respond(question, zone)
        return answer_by(steps, question, self._block.resolver, next)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no zone of ours, and none that falls through, begins below ``cut``."""
        return not any(name.is_within(zone, cut) for zone in (*self._zones, *self._fallthrough))

    def relay(self, route: Route) -> bool:
        """Leave the names of our zones to the chain."""
        return route.claim(self._zones)

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return the parts of a name in the cluster, and who asks (CoreDNS: metadata.go)."""
        found = dict[str, str]()
        pods = self._store.pods_at(query.client[0])
        if pods:
            found["client-namespace"], found["client-pod-name"] = pods[0]
        folded = query.question.folded if query.question else name.ROOT
        zone = self._responder.longest_zone(folded)
        if zone is not None:
            found |= records.labels_of(
                name.labels(WireName(folded[: len(folded) - len(zone)] + name.ROOT)),
                is_zonal=self._options.is_zonal,
            )
        return {f"kubernetes/{word}": functools.partial(str, text) for word, text in found.items()}

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the cluster's answer, asking the listener about names outside."""
        zone = self._responder.zone_of(query.question) if query.question else None
        if query.question is None or zone is None:
            return await next(query)
        steps = self._responder.respond(query.question, zone)
        return await handle_by(steps, query, self._block.resolver, next)


def _check_in_cluster(directive: Directive) -> None:
    """Check that this is a Pod that may ask its API server. Raises ConfigError."""
    if not (
        os.environ.get("KUBERNETES_SERVICE_HOST") and os.environ.get("KUBERNETES_SERVICE_PORT")
    ):
        raise directive.error(
            "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and "
            "KUBERNETES_SERVICE_PORT must be defined"
        )
    token = _SERVICE_ACCOUNT / "token"
    if not token.is_file():
        raise directive.error(f"unable to load in-cluster configuration: no file {token}")


def _rate(line: Directive) -> float:
    """Return the only argument as a number that is not negative."""
    try:
        found = float(arguments.one(line))
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise line.error(f"wants a number of at least 0, got {line.args[0]!r}")
    return found
