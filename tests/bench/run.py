"""CPU per query of clusterdns beside its peers and a C echo server: ``tests/bench/run.py --help``.

The echo server is what the kernel's UDP and TCP cost on this machine, so the ratio to it says more
than either number. Every server runs pinned to one core; dnsperf, the API servers and the upstream
server on the other. Servers take turns, round by round, and a ratio is the median of the rounds'
ratios: what else the machine does hits all alike. Each scenario is asked at a fixed rate, where every
query may be a wake-up of its own, and as fast as it goes, where they come in batches. On a virtual
machine a third of what the echo server costs at a fixed rate is the interrupt that wakes dnsperf; a
server that replies later may find it awake, and so seem cheaper than the echo server.

Standard output gets a JSON line for each measurement, standard error the table; ``--json`` writes all
with the versions of everything into one document. A server that is not installed is left out, and one
that cannot serve a scenario is not asked (see ``servers``).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import forms
import inputs
import measure
import servers

WARM_UP_S, WARM_UP_PASSES = 10.0, 3  # clusterdns remembers a name error asked for twice
MAX_QPS = 150_000  # no server here answers more names that are new to it
TCP_CLIENTS = 10  # connections, each for a whole round


class Plan(NamedTuple):
    """What is measured how often."""

    services: int = 10_000
    endpoints: int = inputs.ENDPOINTS
    rounds: int = 5
    seconds: float = 1.5  # of a round
    rates: tuple[int, ...] = (20_000, 0)  # queries a second; 0 is as many as are answered
    servers: tuple[str, ...] = servers.NAMES
    distribution: str = ""  # whose default Corefile, of servers.DISTRIBUTIONS


FULL = Plan(rounds=3, seconds=1.0)
FULL_TITLES = tuple(one.title for one in (*inputs.SCENARIOS, *inputs.FORWARDED))
FORM_TITLES = tuple(one.title for one in inputs.FORMS)
FORMS = Plan(
    1000, rounds=3, seconds=0.5, rates=(0,),
    servers=(
        servers.CLUSTERDNS, servers.PURE, servers.COMPILED, servers.COMPILED_PURE, servers.COREDNS,
    ),
)  # fmt: skip
QUICK = Plan(1000, seconds=0.5, rates=(0,), servers=servers.NAMES[:4])
QUICK_TITLES = (
    "a", "search", "mixed", "random nxdomain", "random services", "uncached external", "tcp",
)  # fmt: skip


class Row(NamedTuple):
    """One server in one scenario at one rate; lists are by round."""

    scenario: str
    rate: int
    server: str
    samples: list[measure.Sample]
    to_echo: list[float]
    to_coredns: list[float]  # empty without CoreDNS
    pss_mib: float

    def as_json(self) -> dict[str, object]:
        """Return the medians over the rounds, and the rounds."""
        loads = [sample.load for sample in self.samples]
        return {
            "scenario": self.scenario,
            "rate": self.rate,
            "server": self.server,
            "us_per_query": round(statistics.median(s.us_per_query for s in self.samples), 3),
            "ratio_to_echo": round(statistics.median(self.to_echo), 3),
            "ratio_to_coredns": (
                round(statistics.median(self.to_coredns), 3) if self.to_coredns else None
            ),
            "rounds_us": [round(sample.us_per_query, 3) for sample in self.samples],
            "qps": round(statistics.median(load.answered / load.seconds for load in loads)),
            "latency_us": round(statistics.median(load.latency_us for load in loads), 1),
            "sent": sum(load.sent for load in loads),
            "answered": sum(load.answered for load in loads),
            "rcodes": dict(sum((Counter(load.rcodes) for load in loads), Counter())),
            "pss_mib": round(self.pss_mib, 1),
        }


class Goal(NamedTuple):
    """What clusterdns must not cost more than, as a ratio to a server."""

    scenarios: tuple[str, ...]  # patterns of titles
    server: str
    ratio: str  # the row's field
    at_most: float


_HITS = ("a", "headless", "srv", "search", "mixed", "cached external")
_FORMS_OF_HITS = tuple(title for title in FORM_TITLES if title != "first asked")
GOALS = (
    Goal(_HITS, servers.CLUSTERDNS, "ratio_to_echo", 1.3),
    Goal(_HITS, servers.PURE, "ratio_to_echo", 1.6),
    Goal((*_FORMS_OF_HITS, "random *"), servers.PURE, "ratio_to_echo", 1.7),
    Goal((*_FORMS_OF_HITS, "random *"), servers.CLUSTERDNS, "ratio_to_echo", 1.3),
    Goal(("tcp", "uncached external", f"*{inputs.CHURN}"), "clusterdns*", "ratio_to_coredns", 0.5),
    Goal(("*",), "clusterdns*", "ratio_to_coredns", 1.0),
)


def main() -> int:
    options = _arguments()
    plan = _plan(options)
    default = QUICK_TITLES if options.quick else FORM_TITLES if options.forms else FULL_TITLES
    titles = (
        _matching(options.scenario, (*FULL_TITLES, *FORM_TITLES)) if options.scenario else default
    )
    found: list[dict[str, object]] = []
    for row in rows(plan, [inputs.scenario(title) for title in titles]):
        found.append(row.as_json())
        print(json.dumps(found[-1]), flush=True)
    print(table(found), file=sys.stderr)
    if options.json:
        document = {
            "versions": servers.versions(plan.servers),
            "plan": plan._asdict(),
            "rows": found,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small cluster, few scenarios")
    parser.add_argument("--forms", action="store_true", help="every form of a query, once")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of a round")
    parser.add_argument("--services", type=int, help="of the cluster")
    parser.add_argument("--endpoints", type=int, help="of each Service")
    parser.add_argument(
        "--distribution", choices=servers.DISTRIBUTIONS, help="with the plugins of its Corefile"
    )
    parser.add_argument(
        "--rate", type=int, nargs="+", help="queries a second; 0 is as many as are answered"
    )
    parser.add_argument(
        "--scenario",
        nargs="+",
        metavar="PATTERN",
        help=f"of {', '.join((*FULL_TITLES, *FORM_TITLES))}",
    )
    parser.add_argument(
        "--server", nargs="+", metavar="PATTERN", help=f"of {', '.join(servers.NAMES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one document")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    """Return the plan that the options say."""
    given = {
        name: value for name, value in vars(options).items()
        if name in ("services", "endpoints", "rounds", "seconds", "distribution") and value is not None
    }  # fmt: skip
    if options.rate:
        given["rates"] = tuple(options.rate)
    if options.server:
        given["servers"] = _matching(options.server, servers.NAMES)
    plan = QUICK if options.quick else FORMS if options.forms else FULL
    return plan._replace(**given)


def _matching(patterns: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that any pattern matches."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"{pattern} is none of {', '.join(names)}")
    return tuple(n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns))


def rows(plan: Plan, scenarios: Iterable[inputs.Scenario]) -> Iterator[Row]:
    """Start the servers of a plan, yield what each scenario finds, and stop them."""
    with (
        tempfile.TemporaryDirectory() as directory,
        measure.pinned(measure.LOAD_CORE),
        contextlib.ExitStack() as stack,
    ):
        bench = Bench(Path(directory), stack, plan)
        for scenario in scenarios:
            yield from bench.run(scenario)


class Bench:
    """The servers of a plan; they stop with the ``stack``."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, plan: Plan) -> None:
        self._plan = plan
        self._path = directory / "questions"
        self._fresh = random.Random()
        world = stack.enter_context(servers.world(directory, plan.services, plan.endpoints))
        self._world = world._replace(distribution=plan.distribution)
        self._subjects: list[servers.Subject] = []
        for name in dict.fromkeys((servers.ECHO, *plan.servers)):
            reason = servers.missing(name)
            if reason:
                print(reason, file=sys.stderr)
            else:
                running = servers.running(name, self._world)
                self._subjects.append(stack.enter_context(running))

    def run(self, scenario: inputs.Scenario) -> Iterator[Row]:
        """Return the rows of a scenario, the echo server's first."""
        subjects = [s for s in self._subjects if servers.can_serve(s.name, scenario)]
        self._write(scenario, 1000)
        for subject in subjects:
            self._load(subject, scenario, WARM_UP_S, passes=WARM_UP_PASSES)
        for rate in self._plan.rates:
            samples: dict[str, list[measure.Sample]] = {s.name: [] for s in subjects}
            for i in range(self._plan.rounds):
                if scenario.is_endless:
                    self._write(scenario, self._plan.seconds * (rate or MAX_QPS))
                for subject in subjects if i % 2 else reversed(subjects):
                    samples[subject.name].append(self._sample(subject, scenario, rate))
            for subject in subjects:
                yield Row(
                    scenario.title, rate, subject.name, samples[subject.name],
                    _ratios(samples[subject.name], samples[servers.ECHO]),
                    _ratios(samples[subject.name], samples.get(servers.COREDNS, [])),
                    measure.pss_mib(subject.pid),
                )  # fmt: skip

    def _sample(
        self, subject: servers.Subject, scenario: inputs.Scenario, rate: int
    ) -> measure.Sample:
        """Return what a server costs for one round."""
        churning = contextlib.nullcontext()
        if scenario.is_churned and subject.api is not None:
            churning = subject.api.churning()
        passes = 1 if scenario.is_endless else 0
        with churning:
            before = measure.cpu_ns(subject.pid)
            load = self._load(subject, scenario, self._plan.seconds, rate=rate, passes=passes)
            return measure.Sample(load, measure.cpu_ns(subject.pid) - before)

    def _load(
        self,
        subject: servers.Subject,
        scenario: inputs.Scenario,
        seconds: float,
        *,
        rate: int = 0,
        passes: int,
    ) -> measure.Load:
        return measure.put_load(
            subject.port, self._path, seconds=seconds, rate=rate, passes=passes,
            transport=scenario.transport, clients=TCP_CLIENTS if scenario.transport == "tcp" else 1,
            options=scenario.options,
        )  # fmt: skip

    def _write(self, scenario: inputs.Scenario, count: float) -> None:
        """Write the questions; ``count`` new ones if the scenario is endless."""
        rng = self._fresh if scenario.is_endless else random.Random(1)
        questions = scenario.questions(self._world.cluster, rng)
        some = islice(questions, int(count) if scenario.is_endless else None)
        if scenario.form is None:
            inputs.write_input(self._path, some)
        else:
            forms.write_packets(self._path, scenario.form, some)


def _ratios(ours: list[measure.Sample], theirs: list[measure.Sample]) -> list[float]:
    """Return the ratio of each round, none if there is nothing to compare with."""
    pairs = zip(ours, theirs, strict=True) if theirs else ()
    return [one.us_per_query / other.us_per_query for one, other in pairs]


def table(found: list[dict[str, object]]) -> str:
    """Return rows of JSON for people, with the goals that are missed below."""
    lines = [
        f"{'scenario':24} {'rate':>6} {'server':19} {'µs/query':>8} {'x echo':>6} {'x CoreDNS':>9}"
        f" {'q/s':>7} {'µs wait':>8} {'MiB':>6}"
    ]
    for row in found:
        to_coredns = row["ratio_to_coredns"]
        lost = 1 - row["answered"] / max(1, row["sent"])
        lines.append(
            f"{row['scenario']:24} {row['rate'] or 'all':>6} {row['server']:19}"
            f" {row['us_per_query']:8.2f} {row['ratio_to_echo']:6.2f}"
            f" {'' if to_coredns is None else f'{to_coredns:.2f}':>9}"
            f" {row['qps']:7} {row['latency_us']:8.0f} {row['pss_mib']:6.1f}"
            + (f"  {lost:.1%} lost" if lost > 0.001 else "")
        )
    return "\n".join([*lines, *_missed(found)])


def _missed(found: list[dict[str, object]]) -> Iterator[str]:
    """Yield a line for each goal that a row misses."""
    for row in found:
        for goal in GOALS:
            ratio = row[goal.ratio]
            if (
                ratio is not None
                and ratio > goal.at_most
                and fnmatch.fnmatchcase(row["server"], goal.server)
                and any(fnmatch.fnmatchcase(row["scenario"], s) for s in goal.scenarios)
            ):
                yield (
                    f"missed: {row['scenario']} at {row['rate'] or 'full'} rate, {row['server']}:"
                    f" {goal.ratio} {ratio:.2f}, at most {goal.at_most}"
                )


if __name__ == "__main__":
    sys.exit(measure.run(main))
