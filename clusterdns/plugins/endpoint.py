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
skipped; an RRset may have 32 KiB, of a name the 64 oldest objects count, and all records may take
64 MiB of memory. Server blocks with and without `endpoint` share no watch of the cluster.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.authority.endpoints import REASONS, Published
from clusterdns.authority.publishing import Publishing
from clusterdns.chain.block import Block
from clusterdns.cluster.published import DNS_ENDPOINTS
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, trace
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName

NAMES = "clusterdns_endpoint_names"
LEFT_OUT = "clusterdns_endpoint_left_out_records"
TTL_S = 30


class Endpoint(Publishing):
    """The zones of one server block that are made of DNSEndpoints."""

    families: ClassVar = {
        NAMES: Family("The number of names with records.", ("zone",), is_gauge=True,
                      is_shared=True),
        LEFT_OUT: Family("The number of records of DNSEndpoints that are not served.",
                         ("reason",), is_gauge=True, is_shared=True),
    }  # fmt: skip
    after = "kubernetes"
    objects = "the DNSEndpoints"

    def __init__(self, directive: Directive, block: Block) -> None:
        super().__init__(directive, block, TTL_S)
        self._inside.published.add(DNS_ENDPOINTS)
        for line in directive.block:
            if not self._read(line):
                raise line.unknown(*self.options)
        try:
            self._names = self._published = Published(
                self._apexes,
                ttl=self._ttl,
                namespaces=self._namespaces,
                changed=self._notify,
                tell=self._tell,
                settled=self._note_filled,
            )
        except FormError as error:
            raise directive.error(error.reason) from error
        self.zones.update(self._published.zones)

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
        return self._samples(NAMES, LEFT_OUT, REASONS)


def _wildcards(qname: WireName, apex: WireName) -> list[WireName]:
    """Return the wildcards in a zone that may stand for a name, the closest one first."""
    return [
        WireName(b"\1*" + above) for above in name.parents(qname)[1:] if name.is_within(above, apex)
    ]
