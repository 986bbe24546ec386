"""ratelimit - bound what one client may ask of names outside the cluster.

Syntax:

    ratelimit QUERIES {
        burst COUNT
        slip COUNT
        ipv4 LENGTH
        ipv6 LENGTH
        exempt NETWORKS...
        except ZONES...
        errors
        clients COUNT
    }

Each client may send QUERIES a second over UDP, and COUNT at one time (`burst`, by default QUERIES).
The first query over the limit gets an empty reply with TC, so that an honest client asks again over
TCP, which is not limited here but bounded by client; then every COUNTth one does (`slip`, by
default 2; 0 for none). The others get no reply. Workers count together.

A query counts if its name is outside the zones of `kubernetes`, whether it is answered from memory,
sent to an upstream server, or refused. Names of the cluster never count, so a client over
its limit still finds its Services. In reverse zones, which also hold addresses outside, only what
the cluster knows is free. `errors` counts name errors in the cluster's zones, too; a Pod's search
path causes several for each name outside. `except` names further ZONES that do not count.

* `ipv4`, `ipv6`: prefix lengths that make one client of a network, by default 32 (from 8) and 128
  (from 32). In a cluster each Pod has an address, and a node's Pods often share a /64. For clients
  outside the cluster, 24 and 56 are usual.
* `exempt`: up to 64 networks without a limit.
* `clients`: how many clients are remembered, by default 65536, of 24 octets each; a new one takes
  the place of one that has been quiet for long. So the memory and the work of a query do not grow.

Examples:

    . {
        kubernetes cluster.local in-addr.arpa ip6.arpa {
            manifests cluster
            fallthrough in-addr.arpa ip6.arpa
        }
        ratelimit 200 {
            burst 400
            exempt 10.0.0.0/24 fd00:10::/64
            except corp.example
        }
        cache 30
        forward . 192.0.2.53
    }

Metrics: `clusterdns_ratelimit_truncated_total{server}` counts queries over the limit that got an
empty reply, `clusterdns_ratelimit_dropped_total{server}` those that got none. They are in no other
metric, and neither `log` nor `dnstap` tells of them.

Limits: this is not in CoreDNS. All queries still have to be received: a flood that fills the
network or the socket's buffer hurts other clients, too. Where source addresses can be forged,
anyone can use up a client's queries; that client then gets TC, and can still ask over TCP.

Speed: replies from the table stay on the fast path. A query over its limit that would take the
chain costs less than a third: 5.9 µs instead of 19.9 in a flood of new names, many of them shed.
With one worker alone on a core, and a client that sent 87,000 to 98,000 new names a second beside a
quiet one, the 99th percentile of the quiet client stayed as it was: 0.4 to 0.7 ms for names of the
cluster and 0.7 to 1.0 ms for new ones, and none was lost. Without `ratelimit` it was 5 to 10 ms,
and 26,000 a second were answered. A query of the flood took 3.1 to 4.0 µs, so a flood of more than
250,000 a second fills that core.
"""

from __future__ import annotations

import mmap
import os
from typing import ClassVar

from clusterdns.chain.bases import Passing
from clusterdns.chain.block import Block
from clusterdns.chain.limits import ENTRY_OCTETS, MAX_NETWORKS, WAYS, RateLimits, Rates
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire.name import WireName

TRUNCATED = "clusterdns_ratelimit_truncated_total"
DROPPED = "clusterdns_ratelimit_dropped_total"
MAX_RATE = 1_000_000
SECRET_OCTETS = 16
# Least and most of the numbers in the block.
_NUMBERS = {
    "burst": (1, MAX_RATE),
    "slip": (0, 1000),
    "ipv4": (8, 32),
    "ipv6": (32, 128),
    "clients": (1024, 2**24),
}


class RateLimit(Passing):
    """The limits of a server block, which the listener applies."""

    families: ClassVar = {
        TRUNCATED: Family(
            "Counter of queries over the limit of their client, answered with TC.", ("server",)
        ),
        DROPPED: Family(
            "Counter of queries over the limit of their client, not answered.", ("server",)
        ),
    }
    after = "acl"

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        rate = arguments.number(directive, least=1, most=MAX_RATE)
        said = {"burst": rate, "slip": 2, "ipv4": 32, "ipv6": 128, "clients": 65_536}
        exempt: list[tuple[bytes, int]] = []
        self._except: tuple[WireName, ...] = ()
        counts_errors = False
        for line in directive.block:
            if line.name in _NUMBERS:
                least, most = _NUMBERS[line.name]
                said[line.name] = arguments.number(line, least=least, most=most)
            elif line.name == "exempt":
                networks = [arguments.network(word, line) for word in arguments.some(line)]
                exempt += [(each.network_address.packed, each.prefixlen) for each in networks]
            elif line.name == "except":
                self._except += arguments.zone_names(arguments.some(line), line)
            elif line.name == "errors":
                counts_errors = arguments.flag(line)
            else:
                raise line.unknown(*_NUMBERS, "exempt", "except", "errors")
        if len(exempt) > MAX_NETWORKS:
            raise directive.error(f"exempts {len(exempt)} networks, more than {MAX_NETWORKS}")
        rates = Rates(
            rate, said["burst"], said["slip"], said["ipv4"], said["ipv6"], tuple(exempt)
        )  # fmt: skip
        # Shared by the workers, which are forked; pages nobody has touched take no memory.
        sets = -(-said["clients"] // WAYS)
        memory = mmap.mmap(-1, sets * WAYS * ENTRY_OCTETS)
        secret = os.urandom(SECRET_OCTETS)
        self.limits = RateLimits(rates, memory, secret, counts_errors=counts_errors)
        self.limits.free = self._except

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether all names below ``cut`` count, or none."""
        assert self.limits is not None
        return self.limits.treats_alike(cut)

    def relay(self, route: Route) -> bool:
        """Let the relay count, and leave names that do not count to the chain."""
        route.limits = self.limits
        return route.claim(self._except)

    def samples(self) -> list[Sample]:
        """Return the number of queries over the limit."""
        assert self.limits is not None
        buckets, labels = self.limits.buckets, (self._block.server,)
        return [(TRUNCATED, labels, buckets.truncated), (DROPPED, labels, buckets.dropped)]
