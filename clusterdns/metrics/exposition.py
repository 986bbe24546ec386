"""The exposition: CoreDNS's metric families, filled from samples when somebody scrapes.

``FAMILIES`` says of every metric what it is and how its labels are called, and a plugin may
declare others (``Plugin.families``); a sample is a name
without prefix, label values in that order, and a number or a histogram's counts. This is the only
importer of prometheus_client, and runs in the supervisor alone. (CoreDNS:
plugin/metrics/vars/vars.go)
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from clusterdns import COREDNS_VERSION
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import DEFAULT_S, PROGRAMMING_S, SIZE_OCTETS, SLIM_TIME_S, TIME_S
from clusterdns.metrics.tally import Sample

PREFIX = "coredns_"
OWN_PREFIX = "clusterdns_"  # of metrics that CoreDNS does not have
_log = logging.getLogger(__name__)


_PLACE = ("server", "zone", "view")
_CACHE = ("server", "zones", "view")
_TEMPLATE = (*_PLACE, "class", "type")
_WATCH = ("source", "kind")
FAMILIES: dict[str, Family] = {
    "build_info": Family(
        "A metric with a constant '1' value labeled by version, revision, and goversion from which "
        "CoreDNS was built.",
        ("version", "revision", "goversion"),
        is_gauge=True,
    ),
    "panics_total": Family("A metrics that counts the number of panics."),
    "plugin_enabled": Family(
        "A metric that indicates whether a plugin is enabled on per server and zone basis.",
        (*_PLACE, "name"),
        is_gauge=True,
    ),
    "dns_requests_total": Family(
        "Counter of DNS requests made per zone, protocol and family.",
        (*_PLACE, "proto", "family", "type"),
    ),
    "dns_request_duration_seconds": Family(
        "Histogram of the time (in seconds) each request took per zone.", _PLACE, bounds=TIME_S
    ),
    "dns_request_size_bytes": Family(
        "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
        (*_PLACE, "proto"),
        bounds=SIZE_OCTETS,
    ),
    "dns_do_requests_total": Family("Counter of DNS requests with DO bit set per zone.", _PLACE),
    "dns_response_size_bytes": Family(
        "Size of the returned response in bytes.", (*_PLACE, "proto"), bounds=SIZE_OCTETS
    ),
    "dns_responses_total": Family(
        "Counter of response status codes.", (*_PLACE, "rcode", "plugin")
    ),
    "cache_entries": Family(
        "The number of elements in the cache.", ("server", "type", "zones", "view"), is_gauge=True
    ),
    "cache_requests_total": Family("The count of cache requests.", _CACHE),
    "cache_hits_total": Family("The count of cache hits.", ("server", "type", "zones", "view")),
    "cache_misses_total": Family(
        "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
        _CACHE,
    ),
    "cache_prefetch_total": Family(
        "The number of times the cache has prefetched a cached item.", _CACHE
    ),
    "cache_drops_total": Family(
        "The number responses that are not cached, because the reply is malformed.", _CACHE
    ),
    "cache_served_stale_total": Family(
        "The number of requests served from stale cache entries.", _CACHE
    ),
    "cache_evictions_total": Family(
        "The count of cache evictions.", ("server", "type", "zones", "view")
    ),
    "forward_healthcheck_broken_total": Family(
        "Counter of the number of complete failures of the healthchecks."
    ),
    "forward_max_concurrent_rejects_total": Family(
        "Counter of the number of queries rejected because the concurrent queries were at maximum."
    ),
    "clusterdns_forward_joined_total": Family(
        "Counter of queries that shared an upstream query with an equal one under way."
    ),
    "clusterdns_forward_hedges_total": Family(
        "Counter of queries sent to another server too because this one was slow.", ("to",)
    ),
    "clusterdns_forward_mismatches_total": Family(
        "Counter of datagrams dropped because they did not match the query.", ("to",)
    ),
    "proxy_request_duration_seconds": Family(
        "Histogram of the time each request took.", ("proxy_name", "to", "rcode"), bounds=TIME_S
    ),
    "proxy_healthcheck_failures_total": Family(
        "Counter of the number of failed healthchecks.", ("proxy_name", "to")
    ),
    "proxy_conn_cache_hits_total": Family(
        "Counter of connection cache hits per upstream and protocol.", ("proxy_name", "to", "proto")
    ),
    "proxy_conn_cache_misses_total": Family(
        "Counter of connection cache misses per upstream and protocol.",
        ("proxy_name", "to", "proto"),
    ),
    "health_request_duration_seconds": Family(
        "Histogram of the time (in seconds) each request took.", bounds=SLIM_TIME_S
    ),
    "health_request_failures_total": Family("The number of times the health check failed."),
    "hosts_entries": Family(
        "The combined number of entries in hosts and Corefile.", ("hostsfile",), is_gauge=True
    ),
    "hosts_reload_timestamp_seconds": Family(
        "The timestamp of the last reload of hosts file.", is_gauge=True
    ),
    "template_matches_total": Family("Counter of template regex matches.", _TEMPLATE),
    "template_template_failures_total": Family(
        "Counter of go template failures.", (*_TEMPLATE, "section", "template")
    ),
    "template_rr_failures_total": Family(
        "Counter of mis-templated RRs.", (*_TEMPLATE, "section", "template")
    ),
    # of plugins that are not here yet: what has no labels is in every CoreDNS's exposition, as 0
    "local_localhost_requests_total": Family("Counter of special localhost subdomain requests."),
    "reload_failed_total": Family("Counter of the number of failed reload attempts."),
    "clusterdns_fragments_refused": Family(
        "The number of imported files that are left out because of a mistake.", is_gauge=True
    ),
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
    "clusterdns_forwarding_loop": Family(
        "The number of workers that have detected a forwarding loop.", ("server",), is_gauge=True
    ),
    "clusterdns_shed_queries_total": Family(
        "Counter of queries dropped because the miss queue was full.",
        ("server",),
    ),
    "acl_allowed_requests_total": Family(
        "Counter of DNS requests being allowed.", ("server", "view")
    ),
    "acl_blocked_requests_total": Family("Counter of DNS requests being blocked.", _PLACE),
    "acl_filtered_requests_total": Family("Counter of DNS requests being filtered.", _PLACE),
    "acl_dropped_requests_total": Family("Counter of DNS requests being dropped.", _PLACE),
    "dns64_requests_translated_total": Family(
        "Counter of DNS requests translated by dns64.", ("server",)
    ),
    "siit_requests_translated_total": Family(
        "Counter of DNS requests translated by siit.", ("server",)
    ),
    "autopath_success_total": Family("Counter of requests that did autopath.", ("server",)),
    "clusterdns_search_success_total": Family(
        "Counter of short names resolved along the search path.", ("server",)
    ),
    "clusterdns_leaks_prevented_total": Family(
        "Counter of queries answered here because the name means nothing outside the cluster.",
        ("server", "reason"),
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
    "reload_version_info": Family(
        "A metric with a constant '1' value labeled by hash, and value which type of hash "
        "generated.",
        ("hash", "value"),
        is_gauge=True,
    ),
}


def exposition(
    samples: Iterable[Sample], pids: Sequence[int], declared: Mapping[str, Family] | None = None
) -> bytes:
    """Return the text exposition (format 0.0.4) of samples and of the processes ``pids``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples, {**(declared or {}), **FAMILIES}))
    registry.register(_Processes(pids))
    return generate_latest(registry)


class _Samples(Collector):
    """Turns samples into families; those without labels exist from the start, at 0.

    A sample that nobody has declared, or not like that, is left out and logged: it must not cost
    the operator all the others.
    """

    def __init__(self, samples: Iterable[Sample], families: Mapping[str, Family]) -> None:
        self._families = families
        self._by_name: dict[str, list[Sample]] = {name: [] for name in families}
        build = (COREDNS_VERSION, "", f"python{platform.python_version()}")
        for sample in [("build_info", build, 1), *samples]:
            if sample[0] in self._by_name:
                self._by_name[sample[0]].append(sample)
            else:
                _log.error("metric %s: no plugin declares its family", sample[0])

    def collect(self) -> Iterator[Metric]:
        for name, samples in self._by_name.items():
            family = self._families[name]
            if not samples and not family.labels:
                empty = (0.0,) * (len(family.bounds) + 2) if family.bounds else 0
                samples = [(name, (), empty)]
            if samples:
                try:
                    yield _metric(name, family, samples)
                except (TypeError, ValueError) as error:
                    _log.error("metric %s: its samples are not what was declared: %s", name, error)


def _metric(name: str, family: Family, samples: list[Sample]) -> Metric:
    """Return one family with all its samples."""
    name = name if name.startswith(OWN_PREFIX) else PREFIX + name
    if family.bounds:
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for _, labels, value in samples:
            if not isinstance(value, tuple) or len(labels) != len(family.labels):
                raise ValueError(f"{labels} {value}")
            histogram.add_metric(labels, _buckets(family.bounds, value), value[-1])
        return histogram
    make = GaugeMetricFamily if family.is_gauge else CounterMetricFamily
    metric = make(name, family.help, labels=family.labels)
    for _, labels, value in samples:
        if isinstance(value, tuple) or len(labels) != len(family.labels):
            raise ValueError(f"{labels} {value}")
        metric.add_metric(labels, value)
    return metric


def _buckets(bounds: tuple[float, ...], counts: tuple[float, ...]) -> list[tuple[str, float]]:
    """Return the buckets with everything up to their bound."""
    found, so_far = [], 0.0
    for bound, count in zip([*map(_bound_text, bounds), "+Inf"], counts[:-1], strict=True):
        so_far += count
        found.append((bound, so_far))
    return found


def _bound_text(bound: float) -> str:
    return f"{bound:g}"


class _Processes(Collector):
    """The standard process metrics, added up over the process tree; the oldest start counts.

    Resident memory is what the tree holds: a page that its processes share counts once (PSS).
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        sums: dict[str, Metric] = {}
        for pid in self._pids:
            collector = ProcessCollector(pid=lambda pid=pid: pid, registry=None)  # type: ignore[misc]
            for metric in collector.collect():
                known = sums.setdefault(metric.name, metric)
                if known is metric:
                    continue
                pick = min if "start_time" in metric.name or "max_fds" in metric.name else _plus
                known.samples = [
                    old._replace(value=pick(old.value, new.value))
                    for old, new in zip(known.samples, metric.samples, strict=True)
                ]
        held = [_held_octets(pid) for pid in self._pids]
        resident = sums.get("process_resident_memory_bytes")
        if resident is not None and all(held):
            resident.samples = [resident.samples[0]._replace(value=sum(held))]
        yield from sums.values()


def _held_octets(pid: int) -> int:
    """Return the memory of a process, of shared pages its part; 0 if the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _plus(one: float, other: float) -> float:
    return one + other
