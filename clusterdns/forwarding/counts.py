"""The metrics of an upstream server.

(CoreDNS: plugin/pkg/proxy/metrics.go)
"""

from __future__ import annotations

from clusterdns.forwarding.upstream import Upstream
from clusterdns.metrics.tally import Sample


def samples_of(upstream: Upstream) -> list[Sample]:
    """Return CoreDNS's metrics of one server, and our own."""
    to = ("forward", upstream.text)
    found: list[Sample] = [
        ("proxy_request_duration_seconds", (*to, rcode), histogram.sample())
        for rcode, histogram in upstream.durations.items()
    ]
    found += [
        (f"proxy_conn_cache_{what}_total", (*to, proto), count)
        for (what, proto), count in upstream.dials.items()
    ]
    if upstream.health.failures:
        found.append(("proxy_healthcheck_failures_total", to, upstream.health.failures))
    if upstream.datagrams.mismatches:
        mismatches = upstream.datagrams.mismatches
        found.append(("clusterdns_forward_mismatches_total", to[1:], mismatches))
    return found
