"""What clusters of different sizes cost, and what a second worker brings.

``python tests/bench/scale.py`` measures clusterdns and, if there is one, CoreDNS beside the C echo
server with 10 to 50,000 Services of 10 endpoints each: CPU per query, the memory of all processes
(PSS) after the start and under load, and how long until the last name resolves. All names are asked
at random, each as often as the others, which is the worst case for the processor's caches. The same
echo server is asked the same in the same rounds: its growth is the load's, not the servers'.

``--workers`` measures throughput with ``multisocket 1`` and ``2`` instead, of names that are asked
for again and again, and of names in spellings that are all new, where the server has more to do than
the client. On a machine of two cores the client needs much of one of them, so two workers cannot
show twice the throughput there; CPU per query says what each reply costs then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import apicluster
import findings
import growth
import inputs
import measure

SIZES = (10, 1_000, 10_000, 50_000)
ENDPOINTS = 10
ECHO = "echo"
SETTLE_S = 2.0  # until a server has done what it does behind a start
WARM_UP_S, WARM_UP_PASSES = 15.0, 2
MAX_QUESTIONS = 200_000
FLAT = 1.25  # the dearest size at most so many times the cheapest, in units of the echo server
LINEAR = 0.15  # the farthest point off the line, as a share of the largest
NO_LOSS = 0.9  # of what one worker answers, where the client takes the second one's core
CLIENTS = 20  # threads of dnsperf with a socket each, which the kernel spreads over the workers


def main() -> int:
    options = _arguments()
    with tempfile.TemporaryDirectory() as directory, measure.pinned(measure.LOAD_CORE):
        if options.workers:
            found = measure_workers(Path(directory), options)
        else:
            found = measure_sizes(Path(directory), options)
    found.finish(options.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of Services")
    parser.add_argument("--endpoints", type=int, default=ENDPOINTS, help="of each Service")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--workers", action="store_true", help="throughput by number of workers")
    findings.add_json_option(parser)
    return parser.parse_args()


# ---- sizes


def measure_sizes(place: Path, options: argparse.Namespace) -> findings.Findings:
    """Return a row for each server and size, and whether cost grows as it should."""
    found = findings.Findings("by the number of Services, of 10 endpoints each")
    for services in options.sizes:
        for row in measure_size(place, services, options):
            found.add(row)
    for name in dict.fromkeys(str(row["server"]) for row in found.rows):
        judge([row for row in found.rows if row["server"] == name], found)
    return found


def measure_size(place: Path, services: int, options: argparse.Namespace) -> Iterator[findings.Row]:
    """Start every server on a cluster of this size and yield what each costs."""
    questions = place / "questions"
    write_questions(questions, services)
    with contextlib.ExitStack() as stack:
        url, _ = stack.enter_context(apicluster.api_process(services, options.endpoints))
        echo = stack.enter_context(apicluster.echo(place, measure.SERVER_CORE))
        rows: dict[str, findings.Row] = {}
        ports: dict[str, tuple[int, int]] = {ECHO: (echo.port, echo.pid)}
        for name in apicluster.server_names():
            server = stack.enter_context(apicluster.started(name, url, place, services))
            time.sleep(SETTLE_S)
            ports[name] = server.port, server.pid
            rows[name] = {
                "services": services, "server": name, "ready_s": round(server.ready_s, 2),
                "pss_mib": round(measure.pss_mib(server.pid), 1),
            }  # fmt: skip
            measure.put_load(server.port, questions, seconds=WARM_UP_S, passes=WARM_UP_PASSES)
        samples = take_turns(ports, questions, rounds=options.rounds, seconds=options.seconds)
        for name, row in rows.items():
            row["pss_under_load_mib"] = round(measure.pss_mib(ports[name][1]), 1)
            yield {**row, **costs(samples[name], samples[ECHO])}


def write_questions(path: Path, services: int) -> None:
    """Write all names in random order, small clusters' again and again."""
    rng = random.Random(1)
    numbers = list(range(services))
    picked: list[int] = []
    while len(picked) < min(MAX_QUESTIONS, max(services, 1000)):
        rng.shuffle(numbers)
        picked += numbers
    inputs.write_input(path, ((apicluster.qname(i), "A") for i in picked))


def take_turns(
    ports: dict[str, tuple[int, int]], questions: Path, *, rounds: int, seconds: float
) -> dict[str, list[measure.Sample]]:
    """Return samples of servers, by port and process, that were loaded one after the other."""
    samples: dict[str, list[measure.Sample]] = {name: [] for name in ports}
    for i in range(rounds):
        for name in ports if i % 2 else reversed(ports):
            port, pid = ports[name]
            before = measure.cpu_ns(pid)
            load = measure.put_load(port, questions, seconds=seconds)
            samples[name].append(measure.Sample(load, measure.cpu_ns(pid) - before))
    return samples


def costs(ours: Sequence[measure.Sample], echo: Sequence[measure.Sample]) -> findings.Row:
    """Return the CPU per query, alone and beside the echo server in the same round."""
    pairs = zip(ours, echo, strict=True)
    loads = [sample.load for sample in ours]
    return {
        "us_per_query": round(statistics.median(s.us_per_query for s in ours), 3),
        "ratio_to_echo": round(
            statistics.median(s.us_per_query / e.us_per_query for s, e in pairs), 3
        ),
        "qps": round(statistics.median(load.answered / load.seconds for load in loads)),
        "rounds_us": [round(sample.us_per_query, 3) for sample in ours],
        "sent": sum(load.sent for load in loads),
        "answered": sum(load.answered for load in loads),
    }


def judge(rows: list[findings.Row], found: findings.Findings) -> None:
    """State of one server whether CPU per query is flat and memory linear, with the numbers."""
    if len(rows) < 2:
        return
    name, sizes = rows[0]["server"], [float(str(row["services"])) for row in rows]
    ratios = [float(str(row["ratio_to_echo"])) for row in rows]
    times = [float(str(row["us_per_query"])) for row in rows]
    growth = max(ratios) / min(ratios)
    found.state(
        f"{name}: CPU per query flat from {sizes[0]:,.0f} to {sizes[-1]:,.0f} Services: "
        f"{min(times):.2f} to {max(times):.2f} µs, {min(ratios):.2f} to {max(ratios):.2f} x echo, "
        f"growth {growth:.2f} (at most {FLAT})",
        holds=growth <= FLAT,
    )
    for field, when in (("pss_mib", "after the start"), ("pss_under_load_mib", "under load")):
        memory = [float(str(row[field])) for row in rows]
        slope, base, farthest = findings.line_through(sizes, memory)
        share = farthest / max(memory)
        found.state(
            f"{name}: memory {when} linear: {base:.0f} MiB + {slope * 1024:.2f} KiB a Service, "
            f"farthest off {farthest:.1f} MiB, {share:.0%} of the largest (at most {LINEAR:.0%})",
            holds=share <= LINEAR,
        )


# ---- workers


def measure_workers(place: Path, options: argparse.Namespace) -> findings.Findings:
    """Return throughput and CPU per query with one worker and with two, which have all cores."""
    cores = os.sched_getaffinity(0) | {measure.SERVER_CORE, measure.LOAD_CORE}
    found = findings.Findings(
        f"by workers, on {len(cores)} cores; dnsperf needs much of one of them"
    )
    services = min(1_000, max(options.sizes))
    rng = random.Random(1)
    mixes: dict[str, Callable[[Path], None]] = {
        "repeated": lambda path: write_questions(path, services),
        "respelled": lambda path: write_spellings(path, services, rng),
    }
    with apicluster.api_process(services, options.endpoints) as (url, _):
        for name in apicluster.server_names():
            for workers in (1, 2):
                more = f"multisocket {workers}"
                with apicluster.started(
                    name, url, place, services, more=more, cores=cores
                ) as server:
                    for mix, write in mixes.items():
                        row = _throughput(server, write, place / "questions", options)
                        found.add({"questions": mix, "workers": workers, "server": name, **row})
    rows = {(r["questions"], r["server"], r["workers"]): float(str(r["qps"])) for r in found.rows}
    for mix, name, workers in rows:
        if workers == 2:
            gain = rows[mix, name, 2] / rows[mix, name, 1]
            found.state(
                f"{name}, {mix}: two workers answer {gain:.2f} x what one does "
                f"(at least {NO_LOSS})",
                holds=gain >= NO_LOSS,
            )
    return found


def write_spellings(path: Path, services: int, rng: random.Random) -> None:
    """Write names in letter cases that are new: no table has them, so the server has to think."""
    inputs.write_input(
        path,
        (
            (growth.respelled(apicluster.qname(rng.randrange(services)), rng), "A")
            for _ in range(MAX_QUESTIONS)
        ),
    )


def ask_in_parallel(port: int, questions: Path, seconds: float) -> measure.Load:
    """Return what dnsperf sees with so many clients that do not wait for each other.

    One thread with many sockets asks them in turn, and so no faster than the slowest worker lets it.
    """
    command = [measure.DNSPERF, "-s", "127.0.0.1", "-p", str(port), "-d", str(questions)]
    command += ["-c", str(CLIENTS), "-T", str(CLIENTS), "-q", str(10 * CLIENTS)]
    command += ["-t", "1", "-l", f"{seconds:.3f}", "-O", "suppress=timeout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    return measure.read_report(done.stdout)


def _throughput(
    server: apicluster.Started,
    write: Callable[[Path], None],
    questions: Path,
    options: argparse.Namespace,
) -> findings.Row:
    samples: list[measure.Sample] = []
    for i in range(1 + options.rounds):
        write(questions)
        before = measure.cpu_ns(server.pid)
        load = ask_in_parallel(server.port, questions, options.seconds)
        if i:  # the first one warms up
            samples.append(measure.Sample(load, measure.cpu_ns(server.pid) - before))
    loads = [sample.load for sample in samples]
    return {
        "qps": round(statistics.median(load.answered / load.seconds for load in loads)),
        "us_per_query": round(statistics.median(s.us_per_query for s in samples), 3),
        "cores_used": round(
            sum(s.cpu_ns for s in samples) / 1e9 / sum(load.seconds for load in loads), 2
        ),
        "sent": sum(load.sent for load in loads),
        "answered": sum(load.answered for load in loads),
        "pss_mib": round(measure.pss_mib(server.pid), 1),
    }


if __name__ == "__main__":
    sys.exit(measure.run(main))
