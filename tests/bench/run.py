"""CPU per query of clusterdns beside a C echo server: ``python tests/bench/run.py --help``.

The echo server is what UDP itself costs on this machine, so the ratio to it says more than either
number. Every server runs pinned to one core, dnsperf on the other. Servers take turns, round by
round, and the ratio is the median of the rounds' ratios: what else the machine does hits all alike.
Each scenario is asked at a fixed rate, where every query may be a wake-up of its own, and as fast
as it goes, where they come in batches.

Standard output gets a JSON line for each measurement, standard error the table.

CoreDNS is measured too if there is one (COREDNS=path, or in the PATH): the same Corefile, and the
same objects from an API server of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dns.message
import inputs
import measure
import peers
from fakeapi import FakeApi
from scriptedupstream import ScriptedUpstream

GOAL = 1.8  # times the echo server, for what is answered from memory
ECHO, CLUSTERDNS, COREDNS = "echo", "clusterdns", "coredns"
LOAD_TIMEOUT_S = 60.0
WARM_UP_S, WARM_UP_PASSES = 10.0, 3  # clusterdns remembers a name error asked for twice
MAX_QPS = 150_000  # no server here answers more names that are new to it

COREFILE = """.:{{PORT}} {{
    errors
    prometheus 127.0.0.1:{metrics}
    cache 30
    loadbalance
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        {source}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    forward . {upstream}
}}
missed.test:{{PORT}} {{
    errors
    prometheus 127.0.0.1:{metrics}
    cache 30
    forward . 127.0.0.1:{echo}
}}
"""


class Subject(NamedTuple):
    """A server that is measured."""

    name: str
    port: int
    pid: int


class Row(NamedTuple):
    """One server in one scenario at one rate; lists are by round."""

    scenario: str
    rate: int
    subject: Subject
    samples: list[measure.Sample]
    ratios: list[float]
    pss_mib: float

    def as_json(self) -> dict[str, object]:
        loads = [sample.load for sample in self.samples]
        return {
            "scenario": self.scenario,
            "rate": self.rate,
            "server": self.subject.name,
            "us_per_query": round(statistics.median(s.us_per_query for s in self.samples), 3),
            "ratio_to_echo": round(statistics.median(self.ratios), 3),
            "rounds_us": [round(sample.us_per_query, 3) for sample in self.samples],
            "qps": round(statistics.median(load.answered / load.seconds for load in loads)),
            "latency_us": round(statistics.median(load.latency_us for load in loads), 1),
            "sent": sum(load.sent for load in loads),
            "answered": sum(load.answered for load in loads),
            "rcodes": dict(sum((Counter(load.rcodes) for load in loads), Counter())),
            "pss_mib": round(self.pss_mib, 1),
        }


def main() -> int:
    options = _arguments()
    reason = measure.missing()
    if reason:
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    scenarios = [s for s in inputs.SCENARIOS if options.scenario in s.title]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        stack.enter_context(measure.pinned(measure.LOAD_CORE))
        bench = Bench(Path(directory), stack, options)
        for scenario in scenarios:
            for row in bench.run(scenario):
                print(json.dumps(row.as_json()), flush=True)
                rows.append(row)
    print(_table(rows), file=sys.stderr)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round")
    parser.add_argument(
        "--rate", type=int, nargs="+", default=[20_000, 0],
        help="queries a second; 0 is as many as are answered",
    )  # fmt: skip
    parser.add_argument("--scenario", default="", help="only those whose title contains this")
    return parser.parse_args()


class Bench:
    """The servers, started when first needed and stopped with the ``stack``."""

    def __init__(
        self, directory: Path, stack: contextlib.ExitStack, options: argparse.Namespace
    ) -> None:
        self._directory = directory
        self._stack = stack
        self._rounds: int = options.rounds
        self._seconds: float = options.seconds
        self._rates: list[int] = options.rate
        self._upstream = ScriptedUpstream(inputs.upstream_entries())
        stack.callback(self._upstream.stop)
        self._echo = self._start_echo(measure.SERVER_CORE)
        # Its replies, the queries with a bit set, are NODATA without an SOA: nothing to keep.
        self._nobody = self._start_echo(measure.LOAD_CORE)
        self._clusters: dict[int, tuple[inputs.Cluster, list[Subject]]] = {}
        self._fresh = random.Random()

    def run(self, scenario: inputs.Scenario) -> Iterator[Row]:
        """Return the rows of a scenario, the echo server's first."""
        cluster, subjects = self._serve(scenario.services)
        path = self._directory / "questions"
        self._write(scenario, cluster, path, 1000)
        for subject in subjects:
            measure.put_load(subject.port, path, seconds=WARM_UP_S, passes=WARM_UP_PASSES)
        for rate in self._rates:
            samples: dict[Subject, list[measure.Sample]] = {s: [] for s in subjects}
            for i in range(self._rounds):
                if scenario.is_endless:
                    self._write(scenario, cluster, path, self._seconds * (rate or MAX_QPS))
                for subject in subjects if i % 2 else reversed(subjects):
                    before = measure.cpu_ns(subject.pid)
                    load = measure.put_load(
                        subject.port, path, seconds=self._seconds, rate=rate,
                        passes=1 if scenario.is_endless else 0,
                    )  # fmt: skip
                    cpu_ns = measure.cpu_ns(subject.pid) - before
                    samples[subject].append(measure.Sample(load, cpu_ns))
            echo = samples[self._echo]
            for subject, found in samples.items():
                pairs = zip(found, echo, strict=True)
                ratios = [ours.us_per_query / theirs.us_per_query for ours, theirs in pairs]
                pss_mib = measure.pss_mib(subject.pid)
                yield Row(scenario.title, rate, subject, found, ratios, pss_mib)

    def _write(
        self, scenario: inputs.Scenario, cluster: inputs.Cluster, path: Path, count: float
    ) -> None:
        rng = self._fresh if scenario.is_endless else random.Random(1)
        questions = scenario.questions(cluster, rng)
        limit = int(count) if scenario.is_endless else None
        inputs.write_input(path, islice(questions, limit))

    def _serve(self, services: int) -> tuple[inputs.Cluster, list[Subject]]:
        """Return the servers of a cluster of this size."""
        if services not in self._clusters:
            directory = self._directory / str(services)
            directory.mkdir()
            cluster = inputs.generate(directory, services)
            subjects = [self._echo, self._start(CLUSTERDNS, directory, cluster)]
            if os.environ.get("COREDNS") or shutil.which("coredns"):
                subjects.append(self._start(COREDNS, directory, cluster))
            self._clusters[services] = cluster, subjects
        return self._clusters[services]

    def _start(self, name: str, directory: Path, cluster: inputs.Cluster) -> Subject:
        source, run = f"manifests {directory}", peers.clusterdns
        if name == COREDNS:
            api = self._stack.enter_context(FakeApi(inputs.objects(directory)))
            source, run = f"endpoint {api.url}", peers.coredns
        text = COREFILE.format(
            metrics=peers.free_port(), source=source, upstream=self._upstream.address,
            echo=self._nobody.port,
        )  # fmt: skip
        with measure.pinned(measure.SERVER_CORE):
            server = self._stack.enter_context(run(text, directory))
        _wait_for(server, cluster.probe)
        return Subject(name, server.port, server.process.pid)

    def _start_echo(self, core: int) -> Subject:
        path, port = measure.compile_echo(self._directory), peers.free_port()
        with measure.pinned(core):
            process = subprocess.Popen([path, str(port)])
        self._stack.callback(process.wait, 5)
        self._stack.callback(process.kill)
        return Subject(ECHO, port, process.pid)


def _wait_for(server: peers.Server, qname: str) -> None:
    """Return as soon as a name resolves."""
    query = dns.message.make_query(qname, "A").to_wire()
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while time.monotonic() < deadline:
        reply = peers.ask_udp(server.address, query, timeout_s=1)
        if reply and dns.message.from_wire(reply).answer:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{qname} does not resolve in {LOAD_TIMEOUT_S} s:\n{server.output}")


def _table(rows: list[Row]) -> str:
    lines = [f"{'scenario':28} {'rate':>6} {'server':10} {'µs/query':>8} {'x echo':>6} {'MiB':>6}"]
    for row in rows:
        found = row.as_json()
        rate = str(row.rate) if row.rate else "all"
        lines.append(
            f"{row.scenario:28} {rate:>6} {row.subject.name:10} {found['us_per_query']:8.2f}"
            f" {found['ratio_to_echo']:6.2f} {found['pss_mib']:6.1f}"
        )
    lines.append(f"goal: at most {GOAL} x echo for what is answered from memory")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
