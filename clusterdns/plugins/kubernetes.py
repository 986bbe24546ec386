"""kubernetes - serve Services, endpoints and Pods of a Kubernetes cluster.

Syntax:

    kubernetes [ZONES...] {
        manifests DIR
        namespaces NAMESPACE...
        namespace_labels SELECTOR
        labels SELECTOR
        pods disabled|insecure|verified
        endpoint_pod_names
        ttl SECONDS
        noendpoints
        fallthrough [ZONES...]
        ignore empty_service
        startup_timeout DURATION
    }

ZONES default to the keys of the server block; CIDR text stands for reverse zones. `manifests` reads
the cluster from the YAML and JSON manifests in DIR, and again whenever a file there changes. The
other options mean what they mean in CoreDNS.

Examples:

    cluster.local in-addr.arpa {
        kubernetes {
            manifests cluster
            pods insecure
            fallthrough in-addr.arpa
        }
    }

Differences from CoreDNS: an external name that is no domain name is answered with SERVFAIL, where
CoreDNS sends nothing. `endpoint`, `tls`, `kubeconfig`, `apiserver_*`, `multicluster` and `zonal`
are not served yet.
"""

from __future__ import annotations

from pathlib import Path

from clusterdns import arguments
from clusterdns.answers import Response
from clusterdns.cluster import selectors
from clusterdns.cluster.objects import NAMESPACES, PODS, SERVICES, SLICES
from clusterdns.cluster.records import DISABLED, INSECURE, VERIFIED, Options
from clusterdns.cluster.respond import Responder, is_reverse
from clusterdns.cluster.store import Source, Store
from clusterdns.corefile import Directive
from clusterdns.message import Query, Question
from clusterdns.name import WireName
from clusterdns.plugin import AnswerNext, Block, HandleNext, Plugin, Worker
from clusterdns.steps import answer_by, handle_by

MAX_TTL_S = 3600
_LATER = frozenset(
    (
        "endpoint", "tls", "kubeconfig", "apiserver_qps", "apiserver_burst",
        "apiserver_max_inflight", "multicluster", "zonal",
    )
)  # fmt: skip


class Kubernetes(Plugin):
    """The Kubernetes zones of one server block, answered from the store of their source."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._zones = arguments.zone_names(directive.args, directive) or block.zones
        if all(is_reverse(zone) for zone in self._zones):
            raise directive.error("needs a zone that is not a reverse zone")
        self._ttl = 5
        self._fallthrough: tuple[WireName, ...] = ()
        self._startup_timeout_s = 5.0
        self._options = Options()
        settings = dict[str, str]()
        kinds = [NAMESPACES, SERVICES, SLICES]
        for line in directive.block:
            self._read(line, settings, kinds)
        if "manifests" not in settings:
            raise directive.error("needs `manifests DIR`: the live API is not served yet")
        if self._options.namespaces and "namespace_labels" in settings:
            raise directive.error("namespaces and namespace_labels exclude each other")
        if self._options.pods == VERIFIED:
            kinds.append(PODS)
        self._source = Source(
            settings["manifests"], tuple(kinds), settings.get("labels", ""),
            settings.get("namespace_labels", ""),
        )  # fmt: skip
        self._store = Store(kinds)
        self._responder = self._responder_of(self._store)

    def _read(self, line: Directive, settings: dict[str, str], kinds: list[str]) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        options, args = self._options, line.args
        match line.name:
            case "manifests":
                settings["manifests"] = str(self._block.path(arguments.one(line)).resolve())
                if not Path(settings["manifests"]).is_dir():
                    raise line.error(f"{settings['manifests']} is no directory")
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
            case word if word in _LATER:
                raise line.error("not supported by clusterdns yet")
            case _:
                raise line.error("unknown property")

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
            fallthrough=self._fallthrough,
            local_addresses=self._block.local_addresses,
        )

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

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the cluster's answer, asking the listener about names outside."""
        zone = self._responder.zone_of(query.question) if query.question else None
        if query.question is None or zone is None:
            return await next(query)
        steps = self._responder.respond(query.question, zone)
        return await handle_by(steps, query, self._block.resolver, next)
