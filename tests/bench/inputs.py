"""What the benchmark serves and asks: a generated cluster, and dnsperf's input for each scenario.

Everything follows from a seed, so two runs ask the same; only names that must never repeat come
from the caller's generator.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from casefile import Scripted

ZONE = "cluster.local"
SEARCH = (f"default.svc.{ZONE}", f"svc.{ZONE}", ZONE)  # a Pod's resolv.conf, options ndots:5
EXTERNAL_NAMES = 200
MISSED = "missed.test"  # a domain whose server says NODATA to everything
A, AAAA = 1, 28

Question = tuple[str, str]


class Cluster(NamedTuple):
    """Which names there are; the objects are on disk."""

    services: tuple[str, ...]  # namespace-qualified, such as `s7.default`
    headless: tuple[str, ...]

    @property
    def probe(self) -> str:
        """A name that resolves as soon as everything is loaded."""
        return f"{self.services[-1]}.svc.{ZONE}"


class Scenario(NamedTuple):
    """What is asked; ``services`` is the size of the cluster."""

    title: str
    services: int
    questions: Callable[[Cluster, random.Random], Iterator[Question]]
    is_endless: bool = False  # no name is ever asked for twice


def generate(directory: Path, size: int) -> Cluster:
    """Write ``size`` Services with EndpointSlices; every tenth is headless with three endpoints."""
    spaces = ["default", *(f"team-{i}" for i in range(size // 100))]
    items = [_object("v1", "Namespace", {"name": s}) for s in spaces]
    services, headless = list[str](), list[str]()
    for i in range(size):
        space = spaces[i % len(spaces)]
        label = f"{space}-service-{i}" if i % 3 else f"s{i}"
        is_headless = i % 10 == 9
        (headless if is_headless else services).append(f"{label}.{space}")
        items += _service(i, label, space, is_headless)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    (directory / "cluster.json").write_text(text)
    return Cluster(tuple(services), tuple(headless))


def _service(i: int, label: str, space: str, is_headless: bool) -> Iterator[dict[str, Any]]:
    address = "None" if is_headless else _address(200, i)
    port = {"name": "http", "port": 80, "protocol": "TCP"}
    meta = {"name": label, "namespace": space}
    spec = {"clusterIP": address, "clusterIPs": [address], "ports": [port]}
    yield _object("v1", "Service", meta, spec=spec)
    slice_meta = {**meta, "name": f"{label}-1", "labels": {"kubernetes.io/service-name": label}}
    endpoints = [
        {"addresses": [_address(16, 3 * i + n)], "conditions": {"ready": True}} for n in range(3)
    ]
    yield _object(
        "discovery.k8s.io/v1", "EndpointSlice", slice_meta,
        addressType="IPv4", endpoints=endpoints, ports=[port],
    )  # fmt: skip


def _address(net: int, i: int) -> str:
    return f"10.{net + (i >> 16)}.{i >> 8 & 255}.{i & 255}"


def _object(version: str, kind: str, meta: dict[str, Any], **rest: object) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def objects(directory: Path) -> list[dict[str, Any]]:
    """Return what ``generate`` has written."""
    found: list[dict[str, Any]] = json.loads((directory / "cluster.json").read_text())["items"]
    return found


def external_names() -> list[str]:
    return [f"www{i}.example{i % 7}.com" for i in range(EXTERNAL_NAMES)]


def upstream_entries() -> list[Scripted]:
    """Return what the upstream server knows: an address for every external name, no AAAA."""
    return [
        Scripted(f"{host}.", "answer", 300, 1, A, f"192.0.2.{i % 250 + 1}")
        for i, host in enumerate(external_names())
    ]


def write_input(path: Path, questions: Iterable[Question]) -> None:
    """Write dnsperf's input: a name and a type a line."""
    path.write_text("".join(f"{qname} {qtype}\n" for qname, qtype in questions))


def _internal(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Half cluster addresses, a quarter headless, a quarter SRV."""
    for _ in range(5000):
        yield f"{rng.choice(cluster.services)}.svc.{ZONE}", "A"
        yield f"{rng.choice(cluster.headless)}.svc.{ZONE}", "A"
        yield f"{rng.choice(cluster.services)}.svc.{ZONE}", "A"
        yield f"_http._tcp.{rng.choice(cluster.services)}.svc.{ZONE}", "SRV"


def _search_repeated(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Names outside under the search path, A and AAAA as a resolver asks."""
    for host in external_names():
        for suffix in SEARCH:
            yield f"{host}.{suffix}", "A"
            yield f"{host}.{suffix}", "AAAA"


def _search_random(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    while True:
        yield f"www.{rng.getrandbits(48):012x}.com.{SEARCH[0]}", "A"


def _external(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    for host in external_names():
        yield host, "A"


def _missed(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Names outside that no cache can have; who is asked about them is an echo server."""
    while True:
        yield f"{rng.getrandbits(48):012x}.{MISSED}", "A"


def _mixed(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """What Pods send: of ten look-ups six for Services, four for names outside by search path.

    The look-ups of Services follow 1/rank, since few are asked for often.
    """
    ranks = [1 / (i + 1) for i in range(len(cluster.services))]
    favorites = iter(rng.choices(cluster.services, ranks, k=1800))
    hosts = external_names()
    for i in range(3000):
        if i % 10 < 6:
            names = [f"{next(favorites)}.svc.{ZONE}"]
        else:
            host = rng.choice(hosts)
            names = [*(f"{host}.{suffix}" for suffix in SEARCH), host]
        for qname in names:
            yield qname, "A"
            yield qname, "AAAA"


SCENARIOS = (
    Scenario("internal, 10 services", 10, _internal),
    Scenario("internal, 10,000 services", 10_000, _internal),
    Scenario("search path, repeated", 10, _search_repeated),
    Scenario("search path, never repeated", 10, _search_random, is_endless=True),
    Scenario("external, cached", 10, _external),
    Scenario("external, never repeated", 10, _missed, is_endless=True),
    Scenario("mixed, as Pods ask", 10_000, _mixed),
)
