"""How long a query waits: p50, p99 and p99.9 of every server at half of what it can answer.

``python tests/bench/latency.py`` first sees how many queries a second each server answers (dnsperf,
as fast as it goes), then asks half as many by schedule (``paced.c``, see pacing.py) and, since half
of much is more than half of little, all of them as many as half of what CoreDNS can. The cluster,
the servers and the core they run on are those of run.py.

A server that is faster than dnsperf is idle at times; what it can answer is then reckoned from the
share of its core that it took. Rounds are interleaved; each figure is the median of the rounds'.
The echo server's waits are those of the machine: the kernel's, the hypervisor's, the client's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import findings
import inputs
import measure
import pacing
import servers

SCENARIOS = (
    inputs.Scenario("internal", inputs.internal, frozenset({"zone", "srv"})),
    inputs.scenario("mixed"),
    inputs.scenario("cached external"),
)
WARM_UP_S, WARM_UP_PASSES = 10.0, 3
HALF, SAME = "half", "as CoreDNS"
MOST_QUESTIONS = 100_000


class Asked(NamedTuple):
    """One server, and the queries a second that it gets."""

    subject: servers.Subject
    full_qps: int
    load: str
    rate: int


def main() -> int:
    options = _arguments()
    found = findings.Findings(
        f"waits in a cluster of {options.services:,} Services, {options.rounds} rounds of "
        f"{options.seconds} s"
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.ExitStack() as stack,
        measure.pinned(measure.LOAD_CORE),
    ):
        world = stack.enter_context(servers.world(Path(directory), options.services))
        client = pacing.Client(world.directory)
        subjects = list(_start(options.server, world, stack))
        for scenario in SCENARIOS:
            if options.scenario in scenario.title:
                able = [s for s in subjects if servers.can_serve(s.name, scenario)]
                for row in measure_scenario(scenario, able, world, client, options):
                    found.add(row)
    judge(found)
    found.finish(options.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--scenario", default="", help="only those whose title contains this")
    parser.add_argument("--server", nargs="+", default=servers.NAMES, choices=servers.NAMES)
    findings.add_json_option(parser)
    return parser.parse_args()


def _start(
    names: Sequence[str], world: servers.World, stack: contextlib.ExitStack
) -> Iterator[servers.Subject]:
    for name in names:
        reason = servers.missing(name)
        if reason:
            print(reason, file=sys.stderr)
        else:
            yield stack.enter_context(servers.running(name, world))


def measure_scenario(
    scenario: inputs.Scenario,
    subjects: list[servers.Subject],
    world: servers.World,
    client: pacing.Client,
    options: argparse.Namespace,
) -> Iterator[findings.Row]:
    """Yield how long queries waited at every server."""
    questions = list(
        itertools.islice(scenario.questions(world.cluster, random.Random(1)), MOST_QUESTIONS)
    )
    path, packets = world.directory / "questions", world.directory / "packets"
    inputs.write_input(path, questions)
    pacing.write_packets(packets, questions)
    plan = list(_plan(subjects, path, options.seconds))
    rounds: dict[Asked, list[pacing.Waits]] = {asked: [] for asked in plan}
    for i in range(options.rounds):
        for asked in plan if i % 2 else reversed(plan):
            waits = client.ask(
                asked.subject.port, packets, rate=asked.rate, seconds=options.seconds
            )
            rounds[asked].append(waits)
    for asked, found in rounds.items():
        yield {
            "scenario": scenario.title, "server": asked.subject.name, "full_qps": asked.full_qps,
            "load": asked.load, "rate": asked.rate,
            **_medians([pacing.quantiles_us(waits.waited) for waits in found]),
            "client_late_p99_us": _medians([pacing.quantiles_us(w.late) for w in found])["p99_us"],
            "asked": sum(len(waits.waited) for waits in found),
            "lost": sum(waits.lost for waits in found),
            "rcodes": found[-1].rcodes,
        }  # fmt: skip


def _plan(subjects: list[servers.Subject], path: Path, seconds: float) -> Iterator[Asked]:
    """Yield every server with half of what it can answer, then with half of what CoreDNS can."""
    full = {subject.name: full_qps(subject, path, seconds) for subject in subjects}
    for subject in subjects:
        yield Asked(subject, full[subject.name], HALF, max(1, full[subject.name] // 2))
    if servers.COREDNS in full:
        for subject in subjects:
            yield Asked(subject, full[subject.name], SAME, max(1, full[servers.COREDNS] // 2))


def full_qps(subject: servers.Subject, path: Path, seconds: float) -> int:
    """Return how many queries a second a server answers when its core is all taken."""
    measure.put_load(subject.port, path, seconds=WARM_UP_S, passes=WARM_UP_PASSES)
    before = measure.cpu_ns(subject.pid)
    load = measure.put_load(subject.port, path, seconds=seconds)
    share = (measure.cpu_ns(subject.pid) - before) / 1e9 / load.seconds
    return round(load.answered / load.seconds / min(1.0, max(share, 0.05)))


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {title: round(statistics.median(r[title] for r in rounds), 1) for title in rounds[0]}


def judge(found: findings.Findings) -> None:
    """State of each scenario how clusterdns stands beside CoreDNS under the same load."""
    rows = {(row["scenario"], row["server"]): row for row in found.rows if row["load"] == SAME}
    for (scenario, name), row in rows.items():
        if name == servers.CLUSTERDNS and (scenario, servers.COREDNS) in rows:
            theirs = rows[scenario, servers.COREDNS]
            ours, others = (
                [float(str(r[title])) for title in ("p50_us", "p99_us", "p99_9_us")]
                for r in (row, theirs)
            )
            found.state(
                f"{scenario}: p50, p99, p99.9 of clusterdns {', '.join(map(str, ours))} µs, of "
                f"CoreDNS {', '.join(map(str, others))} µs at {row['rate']:,} queries a second",
                holds=all(our <= other for our, other in zip(ours, others, strict=True)),
            )


if __name__ == "__main__":
    sys.exit(measure.run(main))
