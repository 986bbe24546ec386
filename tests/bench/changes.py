"""From a change in the cluster to the answer, and what a large cluster costs at the start.

``python tests/bench/changes.py`` prints JSON lines: for clusterdns and, if there is one, CoreDNS, with
10 and with 10,000 Services of 10 endpoints each, how long until names resolve, and the memory of all
processes (PSS) just then and under load; and for clusterdns the time from a change to its answer at 100
changes a second under 20,000 queries a second, for names that were asked for before.

The API server is that of the tests, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure
import peers
from fakeapi import FakeApi

COREFILE = """. {{
    errors
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        endpoint {url}
        pods insecure
        ttl 30
    }}
    loadbalance
}}
"""
MOVING = 100  # Services that change


def manifests(services: int, endpoints: int) -> Iterator[dict[str, Any]]:
    yield {"kind": "Namespace", "metadata": {"name": "default"}}
    for i in range(services):
        yield service(i, 0)
        yield endpoint_slice(i, endpoints)


def service(i: int, turn: int) -> dict[str, Any]:
    address = f"10.{100 + turn % 100}.{i >> 8}.{i & 255}"
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


def endpoint_slice(i: int, endpoints: int) -> dict[str, Any]:
    def endpoint(j: int) -> dict[str, Any]:
        number = i * endpoints + j
        return {
            "addresses": [f"10.{number >> 16 & 63}.{number >> 8 & 255}.{number & 255}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{number % 500}",
            "targetRef": {
                "kind": "Pod",
                "name": f"s{i}-{j}",
                "namespace": "default",
                "uid": f"{number:036}",
            },
        }

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
    """Be the API server: print the URL, then apply each manifest that comes as a line."""
    with FakeApi(manifests(services, endpoints)) as api:
        print(api.url, flush=True)
        for line in sys.stdin:
            i, turn = map(int, line.split())
            api.apply(service(i, turn))


@contextlib.contextmanager
def api_process(services: int, endpoints: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(services), "--endpoints", str(endpoints)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()


def query(qname: str, ident: int) -> bytes:
    name = b"".join(bytes((len(p),)) + p.encode() for p in qname.split(".")) + b"\0"
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1"


def start_cost(who: str, services: int, endpoints: int) -> None:
    """Print how long a start takes until the last name resolves, and what memory it holds."""
    run = peers.clusterdns if who == "clusterdns" else peers.coredns
    with api_process(services, endpoints) as (url, _), tempfile.TemporaryDirectory() as place:
        text = COREFILE.format(ready=peers.free_port(), url=url)
        began = time.monotonic()
        with run(text, Path(place)) as server:
            last = query(f"s{services - 1}.default.svc.cluster.local", 1)
            while True:
                reply = peers.ask_udp(server.address, last, 0.2)
                if reply is not None and reply[7]:
                    break
                time.sleep(0.01)
            ready_s = time.monotonic() - began
            time.sleep(2)
            after_start = measure.pss_mib(server.process.pid)
            names = [f"s{i}.default.svc.cluster.local A" for i in range(services)]
            load(server, names, Path(place), 3)
            under_load = measure.pss_mib(server.process.pid)
    report = {
        "server": who, "services": services, "endpoints": services * endpoints,
        "ready_s": round(ready_s, 2), "pss_mib": round(after_start, 1),
        "pss_under_load_mib": round(under_load, 1),
    }  # fmt: skip
    print(json.dumps(report), flush=True)


def load(
    server: peers.Server, names: list[str], place: Path, seconds: float, rate: int = 20_000
) -> None:
    """Ask for names at a rate, for a while."""
    (place / "names").write_text("\n".join(names) + "\n")
    subprocess.run(
        [measure.DNSPERF, "-s", server.host, "-p", str(server.port), "-d", str(place / "names"),
         "-l", str(seconds), "-Q", str(rate), "-q", "200"],
        capture_output=True, check=True, timeout=seconds + 30,
    )  # fmt: skip


def latency(services: int, endpoints: int, *, seconds: float, per_s: int, rate: int) -> None:
    """Print how long changes take to be answered, at so many a second under so many queries."""
    with api_process(services, endpoints) as (url, api), tempfile.TemporaryDirectory() as place:
        text = COREFILE.format(ready=peers.free_port(), url=url)
        with peers.clusterdns(text, Path(place)) as server:
            time.sleep(2)
            names = [f"s{i}.default.svc.cluster.local A" for i in range(min(services, 2000))]
            asking = threading.Thread(
                target=load, args=(server, names, Path(place), seconds + 2, rate)
            )
            asking.start()
            time.sleep(1)
            found = watch_changes(server, api, seconds, per_s)
            asking.join()
    found.sort()
    report = {
        "server": "clusterdns", "services": services, "changes": len(found), "changes_per_s": per_s,
        "queries_per_s": rate, "p50_ms": round(statistics.median(found) * 1000, 2),
        "p99_ms": round(found[int(len(found) * 0.99)] * 1000, 2), "max_ms": round(found[-1] * 1000, 2),
    }  # fmt: skip
    print(json.dumps(report), flush=True)


def watch_changes(
    server: peers.Server, api: subprocess.Popen[str], seconds: float, per_s: int
) -> list[float]:
    """Change one Service after the other, poll its name, and return how long each took."""
    changed: queue.Queue[tuple[int, int, float]] = queue.Queue()
    total = int(seconds * per_s)

    def change() -> None:
        began = time.monotonic()
        assert api.stdin is not None
        for n in range(total):
            time.sleep(max(0.0, began + n / per_s - time.monotonic()))
            i, turn = n % MOVING, 1 + n // MOVING
            changed.put((i, turn, time.monotonic()))
            api.stdin.write(f"{i} {turn}\n")
            api.stdin.flush()

    thread = threading.Thread(target=change)
    thread.start()
    pending: dict[int, tuple[int, float]] = {}
    taken: list[float] = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.settimeout(0.05)
        deadline = time.monotonic() + seconds + 10
        while len(taken) < total:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(pending)} changes were never answered: {pending}")
            while not changed.empty():
                i, turn, at = changed.get()
                pending[i] = (turn, at)
            if not pending:
                time.sleep(0.0005)
                continue
            for i in list(pending):
                sock.send(query(f"s{i}.default.svc.cluster.local", i))
                with contextlib.suppress(TimeoutError):
                    reply = sock.recv(512)
                    turn, at = pending[i]
                    if reply[-3] == 100 + turn % 100 and reply[:2] == struct.pack("!H", i):
                        taken.append(time.monotonic() - at)
                        del pending[i]
    thread.join()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", type=int, default=10, help="of each Service")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of changes")
    options = parser.parse_args()
    if options.serve:
        serve_api(options.serve, options.endpoints)
        return
    for services in (10, options.services):
        for who in ("clusterdns", "coredns"):
            start_cost(who, services, options.endpoints)
    for services in (1000, options.services):
        latency(services, options.endpoints, seconds=options.seconds, per_s=100, rate=20_000)


if __name__ == "__main__":
    main()
