"""endpoint - serve the records of DNSEndpoint objects.

Syntax:

    endpoint [ZONES...] {
        ttl SECONDS
        namespaces NAMESPACES...
        fallthrough [ZONES...]
    }

A DNSEndpoint (`externaldns.k8s.io/v1alpha1`) is an object of the cluster that lists records of the
types A, AAAA, CNAME, TXT, SRV, MX, PTR and NS. external-dns, k8gb and others make or read them.
Those in ZONES, by default the keys of the server block, are served as whole zones as soon as their
objects change, without etcd and without external-dns. The cluster is that of `kubernetes`, which
must be in the same server block. `namespaces` are those whose objects count, by default all.

Names are absolute, with or without the last dot. `*.apps.example.org` is a wildcard (RFC 4592). A
record has the `recordTTL` of its object, or `ttl`, 30 by default; so has the SOA, whose serial is
the second of the last change. Aliases are followed, also to names outside. NS records below the
apex delegate a zone; those at the apex are its name servers. `transfer` transfers the zones.
`fallthrough` sends names that do not exist to the next plugin.

If two objects have records of one name and type, those of the older object are served, and after
its end those of the other; an alias stands alone. Records outside ZONES, invalid ones, and those of
other types are left out. Each case is logged once, `explain` names the objects, and the metrics
count them. Until the objects have been listed, and while the API server forbids it, names in ZONES
get SERVFAIL. If the CustomResourceDefinition is not installed, there are no objects yet. Neither
affects other plugins, nor `ready`.

Examples:

    . {
        kubernetes cluster.local {
            manifests cluster
        }
        endpoint apps.example.org 2.0.192.in-addr.arpa {
            ttl 60
            fallthrough
        }
        whoami
    }

This needs the verbs `list` and `watch` for `dnsendpoints` in the group `externaldns.k8s.io`.

Metrics: `clusterdns_endpoint_names{zone}`, the names with records;
`clusterdns_endpoint_left_out_records{reason}`, the records that are not served, where reason is
`outside`, `invalid`, `type`, `conflict` or `limit`.

Limits: this is not in CoreDNS. It only reads: it writes neither a status nor Events. Selectors,
`setIdentifier` and `providerSpecific` are ignored. An object with more than 1000 targets is
skipped; an RRset may have 32 KiB, and all records may take 64 MiB of memory. Server blocks with and
without `endpoint` share no watch of the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from clusterdns.authority.answering import Authority
from clusterdns.authority.endpoints import REASONS, Published
from clusterdns.authority.zone import Zone
from clusterdns.chain.asking import Steps
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Worker
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.published import DNS_ENDPOINTS
from clusterdns.cluster.respond import NOT_LISTED
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

NAMES = "clusterdns_endpoint_names"
LEFT_OUT = "clusterdns_endpoint_left_out_records"
TTL_S, MAX_TTL_S = 30, 86_400
START_TIMEOUT_S = 5.0  # as `startup_timeout` of `kubernetes`
MAX_SENTENCES = 1000  # log lines of one process: tenants write the objects
_UNLISTED: Final = Response(rr.SERVFAIL, 0, lifetime_s=0, edns=NOT_LISTED)
_log = plugin_logger("endpoint")


class Endpoint(Authority):
    """The zones of one server block that are made of DNSEndpoints."""

    families: ClassVar = {
        NAMES: Family("The number of names with records.", ("zone",), is_gauge=True,
                      is_shared=True),
        LEFT_OUT: Family("The number of records of DNSEndpoints that are not served.",
                         ("reason",), is_gauge=True, is_shared=True),
    }  # fmt: skip
    after = "kubernetes"

    def __init__(self, directive: Directive, block: Block) -> None:
        super().__init__(block)
        inside = block.shared(Inside)
        if inside.source is None:
            raise directive.error("needs the kubernetes plugin in the same server block")
        self._source = inside.source
        inside.published.add(DNS_ENDPOINTS)
        zones = arguments.zone_names(directive.args, directive) or block.zones
        ttl, namespaces = TTL_S, set[str]()
        for line in directive.block:
            match line.name:
                case "ttl":
                    ttl = arguments.number(line, least=1, most=MAX_TTL_S)
                case "namespaces":
                    namespaces.update(arguments.some(line))
                case "fallthrough":
                    self.through = arguments.zone_names(line.args or (".",), line)
                case _:
                    raise line.unknown("ttl", "namespaces", "fallthrough")
        self._sentences = 0
        self._speaks = False
        self._is_filled = asyncio.Event()
        self._store: Store | None = None
        try:
            self._published = Published(
                zones,
                ttl=ttl,
                namespaces=namespaces,
                changed=self._notify,
                tell=self._tell,
                settled=self._note_filled,
            )
        except FormError as error:
            raise directive.error(error.reason) from error
        self.zones: dict[WireName, Zone | None] = dict(self._published.zones)

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the source of the objects, which is that of `kubernetes`."""
        return {self._source(): tuple(self.zones)}

    async def start(self, worker: Worker) -> None:
        """Follow the objects, and wait for the first list, but not for long."""
        self._speaks = worker.number == 0
        store = await worker.store(self._source(), START_TIMEOUT_S)
        store.follow(self._published, int(time.time()))
        self._store = store
        self._note_filled()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_filled.wait(), START_TIMEOUT_S)

    def _note_filled(self) -> None:
        if self._store is not None and self._store.has_settled(self._published.kinds):
            self._is_filled.set()

    def _notify(self, zone: WireName) -> None:
        if self._speaks:
            self.transfers.changed(zone)

    def _tell(self, sentence: str) -> None:
        """Log what is left out, in one process only."""
        self._sentences += 1
        if self._speaks and self._sentences <= MAX_SENTENCES:
            _log.log(logging.WARNING, "DNSEndpoint %s: left out", sentence)

    def _respond(self, apex: WireName, question: Question) -> Steps:
        """Yield a question about an alias outside the zones; return the response."""
        if self._store is None or not self._store.has_all(self._published.kinds):
            if (taker := trace.scribe()) is not None:
                taker.blame("the DNSEndpoints have not been listed yet, or must not be")
            return _UNLISTED
        if (taker := trace.scribe()) is not None:
            self._note(taker, apex, question)
        return (yield from super()._respond(apex, question))

    def _note(self, taker: trace.Scribe, apex: WireName, question: Question) -> None:
        """Note the objects that have records of the name, or of the wildcard for it."""
        for node in (question.folded, *_wildcards(question.folded, apex)):
            keys = self._published.objects_of(node)
            for key in keys[:3]:
                taker.note(f"DNSEndpoint {'/'.join(key)} has records of {name.text(node)}",
                           objects=((DNS_ENDPOINTS, *key),))  # fmt: skip
            if len(keys) > 1:
                taker.note(f"{len(keys)} objects have records of it: of each type, those of the "
                           "oldest object count")  # fmt: skip
            if keys:
                return

    def samples(self) -> list[Sample]:
        """Return how many names are served, and how many records are not."""
        names, left_out = self._published.counts()
        return [
            *((NAMES, (name.text(zone),), names.get(zone, 0)) for zone in self.zones),
            *((LEFT_OUT, (reason,), left_out.get(reason, 0)) for reason in REASONS),
        ]


def _wildcards(qname: WireName, apex: WireName) -> list[WireName]:
    """Return the wildcards in a zone that may stand for a name, the closest one first."""
    return [
        WireName(b"\1*" + above) for above in name.parents(qname)[1:] if name.is_within(above, apex)
    ]
