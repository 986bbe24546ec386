"""From a change in the cluster to its answer, and what a burst of changes does to everybody else.

``python tests/bench/changes.py`` measures clusterdns and, if there is one, CoreDNS, one after the
other on one cluster:

* 100 changes a second under 20,000 queries a second: the time from a change to its answer, for
  names that were asked for before. Neither has ``cache``, behind which CoreDNS would answer what
  was, for up to 30 s.
* a burst: 1,000 Services, then 1,000 EndpointSlices of 10 endpoints, change at once while 10,000
  queries a second come: how long queries of the second before and of the second of the burst waited
  (see pacing.py), and after how long all changes were answered.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import queue
import random
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import apicluster
import findings
import measure
import pacing

MOVING = 100  # Services that change one by one
ASKED = 2_000  # Services that are asked for meanwhile
CHANGES_PER_S, CHANGES_QPS = 100, 20_000
BURST, BURST_QPS = 1_000, 10_000
BURSTS = ("services", "slices")
BURST_GOAL_MS = 5.0  # p99 during the second of the burst
BURST_LEAD_S, BURST_TAIL_S = 2.0, 2.0  # queries before and after its begin
BURST_TIMEOUT_S = 30.0


def main() -> int:
    options = _arguments()
    found = findings.Findings(
        f"changes in a cluster of {options.services:,} Services of {options.endpoints} endpoints"
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        measure.pinned(measure.LOAD_CORE),
        apicluster.api_process(options.services, options.endpoints) as (url, api),
    ):
        place = Path(directory)
        client = pacing.Client(place)
        turns = {kind: itertools.count(1) for kind in BURSTS}  # the API server lives on
        for name in apicluster.server_names():
            with apicluster.started(name, url, place, options.services) as server:
                time.sleep(1)
                if not options.burst:
                    found.add(measure_changes(server, api, turns["services"], options))
                for kind in BURSTS:
                    burst = Burst(server, api, client, place, options)
                    found.add(burst.measure(kind, next(turns[kind])))
    judge(found)
    found.finish(options.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each Service")
    parser.add_argument("--seconds", type=float, default=10.0, help="of changes one by one")
    parser.add_argument("--burst", action="store_true", help="bursts only")
    findings.add_json_option(parser)
    return parser.parse_args()


def judge(found: findings.Findings) -> None:
    """State of every burst whether queries had to wait too long."""
    for row in found.rows:
        if "events" in row:
            p99_ms = float(str(row["p99_us"])) / 1000
            found.state(
                f"{row['server']}: {row['events']:,} {row['change']} at once, p99 of the queries "
                f"of that second {p99_ms:.2f} ms (at most {BURST_GOAL_MS:.0f}), before it "
                f"{float(str(row['p99_before_us'])) / 1000:.2f} ms",
                holds=p99_ms <= BURST_GOAL_MS,
            )


# ---- one by one


def measure_changes(
    server: apicluster.Started,
    api: subprocess.Popen[str],
    turns: Iterator[int],
    options: argparse.Namespace,
) -> findings.Row:
    """Return how long changes take to be answered, at so many a second under so many queries."""
    questions = server.server.log.with_suffix(".questions")
    names = (apicluster.qname(i) for i in range(min(options.services, ASKED)))
    questions.write_text("".join(f"{qname} A\n" for qname in names))
    seconds: float = options.seconds
    asking = threading.Thread(
        target=measure.put_load, args=(server.port, questions),
        kwargs={"seconds": seconds + 1.5, "rate": CHANGES_QPS},
    )  # fmt: skip
    asking.start()
    time.sleep(1)
    found = sorted(watch_changes(server, api, turns, seconds, min(MOVING, options.services)))
    asking.join()
    return {
        "change": "one by one", "server": server.name, "changes": len(found),
        "changes_per_s": CHANGES_PER_S, "queries_per_s": CHANGES_QPS,
        "answered_p50_ms": round(statistics.median(found) * 1000, 2),
        "answered_p99_ms": round(found[int(len(found) * 0.99)] * 1000, 2),
        "answered_max_ms": round(found[-1] * 1000, 2),
    }  # fmt: skip


def watch_changes(
    server: apicluster.Started,
    api: subprocess.Popen[str],
    turns: Iterator[int],
    seconds: float,
    moving: int,
) -> list[float]:
    """Change one Service after the other, poll its name, and return how long each took."""
    changed: queue.Queue[tuple[int, int, float]] = queue.Queue()
    total = int(seconds * CHANGES_PER_S)

    def change() -> None:
        began, turn = time.monotonic(), 0
        for n in range(total):
            time.sleep(max(0.0, began + n / CHANGES_PER_S - time.monotonic()))
            turn = turn if n % moving else next(turns)
            changed.put((n % moving, turn, time.monotonic()))
            apicluster.tell(api, f"{n % moving} {turn}")

    thread = threading.Thread(target=change)
    thread.start()
    pending: dict[int, tuple[int, float]] = {}
    taken: list[float] = []
    with contextlib.closing(Poller(server.port)) as poller:
        deadline = time.monotonic() + seconds + 10
        while len(taken) < total:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(pending)} changes were never answered: {pending}")
            while not changed.empty():
                i, turn, at = changed.get()
                pending[i] = (turn, at)
            if not pending:
                time.sleep(0.0005)
            for i, (turn, at) in list(pending.items()):
                if poller.shows(apicluster.qname(i), apicluster.service_address(i, turn)):
                    taken.append(time.monotonic() - at)
                    del pending[i]
    thread.join()
    return taken


class Poller:
    """Asks for addresses to see whether they are those of a turn."""

    def __init__(self, port: int) -> None:
        self._sock = socket.socket(type=socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._sock.settimeout(0.05)
        self._ident = 0

    def close(self) -> None:
        self._sock.close()

    def shows(self, qname: str, address: str) -> bool:
        """Tell whether a name has an address."""
        self._ident = (self._ident + 1) & 0xFFFF
        self._sock.send(query(qname, self._ident))
        with contextlib.suppress(TimeoutError):
            while (reply := self._sock.recv(512))[:2] != struct.pack("!H", self._ident):
                pass  # a late one
            return reply[-4:] == socket.inet_aton(address)
        return False


def query(qname: str, ident: int) -> bytes:
    """Return a plain query for an address."""
    name = b"".join(bytes((len(p),)) + p.encode() for p in qname.split(".")) + b"\0"
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1"


# ---- at once


class Burst:
    """Many changes at once, and the queries around them."""

    def __init__(
        self,
        server: apicluster.Started,
        api: subprocess.Popen[str],
        client: pacing.Client,
        place: Path,
        options: argparse.Namespace,
    ) -> None:
        self._server = server
        self._api = api
        self._client = client
        self._packets = place / "packets"
        self._count = min(BURST, options.services)
        self._endpoints: int = options.endpoints
        pacing.write_packets(self._packets, _questions(options.services))

    def measure(self, kind: str, turn: int) -> findings.Row:
        """Change so many objects of a kind and return how long queries waited meanwhile."""
        self._client.ask(self._server.port, self._packets, rate=BURST_QPS, seconds=1)  # warm up
        asking = self._client.start(
            self._server.port, self._packets, rate=BURST_QPS, seconds=BURST_LEAD_S + BURST_TAIL_S
        )
        time.sleep(BURST_LEAD_S)
        began_ns = time.monotonic_ns()
        apicluster.tell(self._api, f"{kind} 0 {self._count} {turn}")
        absorbed_s = self._wait_for_last(kind, turn)
        waits = self._client.finish(asking, rate=BURST_QPS, timeout_s=BURST_TAIL_S + 30)
        during = waits.between(began_ns, began_ns + 10**9)
        before = pacing.quantiles_us(waits.between(began_ns - 10**9, began_ns))
        return {
            "change": kind, "server": self._server.name, "events": self._count,
            "queries_per_s": BURST_QPS, "absorbed_ms": round(absorbed_s * 1000, 1),
            **pacing.quantiles_us(during),
            "p99_before_us": before["p99_us"], "p99_9_before_us": before["p99_9_us"],
            "client_late_p99_us": pacing.quantiles_us(waits.late)["p99_us"],
            "lost": waits.lost, "rcodes": waits.rcodes,
        }  # fmt: skip

    def _wait_for_last(self, kind: str, turn: int) -> float:
        """Return after how many seconds the last change shows; they come in their order."""
        began, last = time.monotonic(), self._count - 1
        qname, address = apicluster.qname(last), apicluster.service_address(last, turn)
        if kind == "slices":
            number = last * self._endpoints
            qname = apicluster.endpoint_qname(last, number, turn)
            address = apicluster.endpoint_address(number, turn)
        with contextlib.closing(Poller(self._server.port)) as poller:
            while not poller.shows(qname, address):
                if time.monotonic() > began + BURST_TIMEOUT_S:
                    raise RuntimeError(f"{qname} never came to be {address}")
                time.sleep(0.002)
        return time.monotonic() - began


def _questions(services: int) -> Iterator[tuple[str, str]]:
    """Yield what is asked around a burst: names that change, others, and some that do not exist."""
    rng = random.Random(1)
    for _ in range(ASKED):
        yield apicluster.qname(rng.randrange(min(services, BURST))), "A"
        yield apicluster.qname(rng.randrange(services)), "A"
        yield f"www{rng.randrange(100)}.example.com.default.svc.cluster.local", "A"


if __name__ == "__main__":
    sys.exit(measure.run(main))
