"""A cluster of any size behind an API server in a process of its own, and what changes in it.

``api_process`` starts the API server of the tests and yields its URL and the process, which reads
changes as lines: ``I TURN`` gives Service I the address of that turn, ``KIND FIRST COUNT TURN``
moves COUNT objects at once, under one lock, so that the watchers find all of them together. A KIND
is ``services`` or ``slices``; a turn is a number from 1, and shows in the addresses: two turns that
follow each other differ in all of them.

The names are as simple as they can be, and an answer tells which turn a server knows; churn.py has
the cluster that all servers are compared on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import dns.message
import inputs
import measure
import peers
import pytest
from fakeapi import FakeApi

CLUSTERDNS, COREDNS = "clusterdns", "coredns"
START_TIMEOUT_S = 120.0
COREFILE = """. {{
    errors
    prometheus 127.0.0.1:{metrics}
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        endpoint {url}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    loadbalance
{more}}}
"""


def manifests(services: int, endpoints: int) -> Iterator[dict[str, Any]]:
    """Yield Services ``s0`` and on in one namespace, each with an EndpointSlice."""
    yield {"kind": "Namespace", "metadata": {"name": "default"}}
    for i in range(services):
        yield service(i, 0)
        yield endpoint_slice(i, endpoints, 0)


def service(i: int, turn: int) -> dict[str, Any]:
    """Return a Service; its address tells the turn."""
    address = service_address(i, turn)
    return {
        "kind": "Service",
        "metadata": {"name": f"s{i}", "namespace": "default", "labels": {"app": f"s{i}"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": f"s{i}"},
        },
    }


def service_address(i: int, turn: int) -> str:
    """Return the cluster address of a Service at a turn."""
    return f"10.{100 + turn % 100}.{i >> 8}.{i & 255}"


def endpoint_address(number: int, turn: int) -> str:
    """Return the address of an endpoint, they are numbered through, at a turn."""
    return f"10.{turn % 8 * 8 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def endpoint_slice(i: int, endpoints: int, turn: int) -> dict[str, Any]:
    """Return the EndpointSlice of a Service, as its controller writes it; a turn is a roll-out."""

    def endpoint(j: int) -> dict[str, Any]:
        number = i * endpoints + j
        address = endpoint_address(number, turn)
        return inputs.endpoint(address, f"s{i}-{turn}-{j}", "default", number)

    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{i}-abcde",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"s{i}", "app": f"s{i}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint(j) for j in range(endpoints)],
    }


def serve_api(services: int, endpoints: int) -> None:
    """Be the API server: print the URL, then do what comes in, a change a line."""
    make: dict[str, Callable[[int, int], dict[str, Any]]] = {
        "services": service,
        "slices": lambda i, turn: endpoint_slice(i, endpoints, turn),
    }
    with FakeApi(manifests(services, endpoints)) as api:
        api.compact()  # it looks through all of its history for each watch and change
        print(api.url, flush=True)
        for line in sys.stdin:
            words = line.split()
            kind, first, count, turn = (
                words if len(words) == 4 else ("services", words[0], "1", words[1])
            )
            moved = [make[kind](i, int(turn)) for i in range(int(first), int(first) + int(count))]
            with api.changed:
                for manifest in moved:
                    api.apply(manifest)


@contextlib.contextmanager
def api_process(services: int, endpoints: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the API server on the core of the load; yield its URL and the process."""
    command = [sys.executable, __file__, str(services), str(endpoints)]
    with measure.pinned(measure.LOAD_CORE):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def churning(api: subprocess.Popen[str], per_s: int, moving: int) -> Iterator[None]:
    """Give a few Services another address each, over and over, so many a second meanwhile."""
    stop = threading.Event()

    def churn() -> None:
        began = time.monotonic()
        for n in itertools.count():
            if stop.wait(max(0.0, began + n / per_s - time.monotonic())):
                return
            tell(api, f"{n % moving} {1 + n // moving}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tell(api: subprocess.Popen[str], line: str) -> None:
    """Have the API server change something."""
    assert api.stdin is not None
    api.stdin.write(f"{line}\n")
    api.stdin.flush()


class Started(NamedTuple):
    """A server that knows the whole cluster, and how long that took."""

    name: str
    server: peers.Server
    ready_s: float  # from the start of the process to the address of the last name

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def pid(self) -> int:
        return self.server.process.pid


class Echo(NamedTuple):
    """A running echo server, or the upstream server it can be."""

    port: int
    pid: int


@contextlib.contextmanager
def echo(place: Path, core: int, *words: str) -> Iterator[Echo]:
    """Run echo.c on a core."""
    path, port = measure.compile_echo(place), peers.free_port()
    with measure.pinned(core):
        process = subprocess.Popen([path, str(port), *words])
    try:
        yield Echo(port, process.pid)
    finally:
        process.kill()
        process.wait()


def endpoint_qname(i: int, number: int, turn: int) -> str:
    """Return the name of an endpoint of a Service, which it has at this turn."""
    return f"{endpoint_address(number, turn).replace('.', '-')}.{qname(i)}"


def qname(i: int) -> str:
    """Return the name of a Service."""
    return f"s{i}.default.svc.cluster.local"


def server_names() -> list[str]:
    """Return which servers with a Kubernetes source there are."""
    try:
        peers.coredns_path()
    except pytest.skip.Exception as skipped:
        print(f"without CoreDNS: {skipped}", file=sys.stderr)
        return [CLUSTERDNS]
    return [CLUSTERDNS, COREDNS]


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Have the processes started meanwhile run on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def started(
    name: str,
    url: str,
    place: Path,
    services: int,
    *,
    more: str = "",
    cores: set[int] | None = None,
) -> Iterator[Started]:
    """Run a server on its core (or ``cores``); yield once it knows the last Service."""
    run = peers.clusterdns if name == CLUSTERDNS else peers.coredns
    text = COREFILE.format(
        metrics=peers.free_port(), ready=peers.free_port(), url=url, more=more and f"    {more}\n"
    )
    last = dns.message.make_query(qname(services - 1), "A").to_wire()
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        with on_cores(cores or {measure.SERVER_CORE}):
            server = stack.enter_context(run(text, place))
        deadline = began + START_TIMEOUT_S
        while not _has_answer(peers.ask_udp(server.address, last, 0.2)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not know s{services - 1}:\n{server.output}")
            time.sleep(0.01)
        yield Started(name, server, time.monotonic() - began)


def _has_answer(reply: bytes | None) -> bool:
    return reply is not None and reply[6:8] != b"\0\0"


if __name__ == "__main__":
    serve_api(int(sys.argv[1]), int(sys.argv[2]))
