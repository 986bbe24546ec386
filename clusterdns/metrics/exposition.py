"""The exposition: metric families, filled from samples at each scrape, sorted by name.

A family has the help, type and label names of a metric. ``FAMILIES`` are those of no plugin; each
plugin declares its own (``Plugin.families``). A sample is a name without prefix, label
values in that order, and a number or a histogram's counts. This is the only importer of
prometheus_client, and runs in the supervisor alone. (CoreDNS: plugin/metrics/vars/vars.go)
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
from clusterdns.metrics.histogram import SIZE_OCTETS, TIME_S
from clusterdns.metrics.tally import Sample

PREFIX = "coredns_"
OWN_PREFIX = "clusterdns_"  # of metrics that CoreDNS does not have
_log = logging.getLogger(__name__)


_PLACE = ("server", "zone", "view")
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
    "dns_https_responses_total": Family(
        "Counter of DoH responses per server and http status code.", ("server", "status")
    ),
    "clusterdns_build_info": Family(
        "A metric with a constant '1' value labeled by the language of the packet path (c or "
        "python) and whether the other modules are compiled.",
        ("packet_path", "modules"),
        is_gauge=True,
    ),
    "clusterdns_fragments_refused": Family(
        "The number of imported files that are left out because of a mistake.", is_gauge=True
    ),
    "clusterdns_former_workers": Family(
        "The number of workers of the version or configuration before that still serve.",
        is_gauge=True,
    ),
    "clusterdns_shed_queries_total": Family(
        "Counter of queries dropped because the miss queue was full.",
        ("server",),
    ),
    "clusterdns_udp_receive_drops_total": Family(
        "Counter of datagrams that the kernel dropped at our sockets, whose buffer was full.",
        ("server",),
    ),
    "clusterdns_saturation_ratio": Family(
        "Share of a core that the busiest worker has used since the last scrape.",
        is_gauge=True,
        is_shared=True,
    ),
    "clusterdns_log_lines_dropped_total": Family(
        "Counter of log lines dropped because the reader was too slow."
    ),
}


def exposition(
    samples: Iterable[Sample], pids: Sequence[int], declared: Mapping[str, Family]
) -> bytes:
    """Return the text exposition (format 0.0.4) of samples and of the processes ``pids``.

    ``declared`` are the families of plugins, by the names in samples.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples, {**declared, **FAMILIES}))
    registry.register(_Processes(pids))
    return generate_latest(registry)


class _Samples(Collector):
    """Turns samples into families; those without labels exist from the start, at 0.

    A sample without a matching declaration is left out and logged, so that all others are shown.
    """

    def __init__(self, samples: Iterable[Sample], families: Mapping[str, Family]) -> None:
        self._families = families
        self._by_name: dict[str, list[Sample]] = {name: [] for name in sorted(families)}
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


def full_name(name: str) -> str:
    """Return what a family is called at ``/metrics``; CoreDNS's are declared without its prefix."""
    return name if name.startswith(OWN_PREFIX) else PREFIX + name


def _metric(name: str, family: Family, samples: list[Sample]) -> Metric:
    """Return one family with all its samples."""
    name = full_name(name)
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
    """Return the buckets with cumulative counts."""
    found, so_far = [], 0.0
    for bound, count in zip([*map(_bound_text, bounds), "+Inf"], counts[:-1], strict=True):
        so_far += count
        found.append((bound, so_far))
    return found


def _bound_text(bound: float) -> str:
    return f"{bound:g}"


class _Processes(Collector):
    """The standard process metrics, added up over the process tree, with the oldest start.

    Resident memory counts a page shared by its processes once (PSS).
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
    """Return the memory of a process with its share of shared pages; 0 if unknown."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _plus(one: float, other: float) -> float:
    return one + other
