"""The scoreboard: targets under faults, the sizes of their tests, and the figures of their runs.

A test of a row is marked ``row("K7")`` and says with the fixture ``figure`` what it measured. Sizes
come from ``size``: small by default, full with ``FULL=1``. ``--figures FILE`` keeps the figures of a
run in ``FILE``, by row; ``python -m scoreboard FILE PAGE`` writes them into the page, between markers.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)
IS_FULL = os.environ.get("FULL", "0") not in ("", "0")
SUM = "total_"  # numbers of this name are added up; of all others the largest counts

TARGETS = {
    "W1": "10 million mutated packets: no exception but a refusal; 200 µs for 4,096 octets, 2 ms for 64 KiB",
    "W2": "10 million packets and 100,000 TCP connections at a live server: no crash, canary below 50 ms, memory constant",
    "W3": "each packet of the matrix has the exact reply, over UDP and TCP",
    "W4": "1 million replies are never answered; packets between two servers, at most 2",
    "W5": "error replies are short, UDP replies fit the client, TC replies have their question",
    "W6": "100,000 queries beside other servers: 0.1 % of differences",
    "W7": "10,000 slow TCP clients hold up nobody",
    "W8": "without descriptors UDP is answered, and TCP again afterwards",
    "W9": "the two packets that stop dnslib cost 50 µs",
    "F1": "1,000 queries with 1,000 forged replies before the true one: no wrong answer",
    "F2": "9,000 source ports in 10,000 queries; 2^29 replies for an even chance of a forger",
    "F3": "1,000 equal misses are one query",
    "F4": "one of three servers faulty: 99.9 % answered",
    "F5": "all dead for 30 s: cluster names as fast as ever, back within 1 s",
    "F6": "20,000 unique names a second for 60 s: cluster names answered, memory bounded",
    "F7": "loops are found in 2 s, within 20 packets",
    "K1": "API down at the start: no denial, nothing forwarded, synced 2 s after its return",
    "K2": "an outage of 10 minutes costs 0.4 requests/s and 1 % of a core, and is over in 6 s",
    "K3": "a half-open connection is noticed in 90 s, nothing is lost",
    "K4": "faults at random for an hour: every name is right 5 s after the last",
    "K5": "lost events are healed within an audit",
    "K6": "change to answer: p50 10 ms, p99 100 ms",
    "K7": "10,000 Services and slices: synced in 3 s, 120 MiB",
    "K8": "tokens that rotate: one refused request",
    "K9": "a poisoned object: the others within 1 s",
    "K10": "never more than 5 requests/s",
    "P1": "SIGTERM under load, 100 times: no query lost, exit 0",
    "P2": "100 reloads and 100 broken ones: none lost, growth below 5 MiB",
    "P3": "kill -9 of a worker or watcher: replaced in 1 s, 0 lost",
    "P4": "a worker that hangs is replaced within 5 s",
    "P5": "the clock moves by a day: nothing expires",
    "P6": "soak of 2 and of 24 hours: memory and descriptors constant",
    "P7": "user 65532, read-only, one capability, below 170 MiB",
    "P8": "a bad start: one line and an exit code within 1 s",
    "P9": "loop lag p99.9 of 5 ms with churn",
    "P10": "dependencies pinned by hash, none with known faults, workers without kubernetes",
    "P11": "100 hand-overs to a new version at 20,000 queries/s: none lost, TCP finished",
}


def size(name: str, small: Number, full: Number) -> Number:
    """Return the size of a test: the environment's variable ``name``, ``full`` or ``small``."""
    text = os.environ.get(name)
    return type(small)(text) if text else full if IS_FULL else small


class Recorder:
    """A pytest plugin that keeps the figures of the tests of rows; run in the controller."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._runs: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take what a test said, once it has passed or failed."""
        told = dict(_only(report.user_properties, ("rows", "load")))
        if "rows" not in told or (report.when != "call" and report.passed):
            return
        test = re.sub(r"^.*/(\w+)\.py::(\w+).*$", r"\1::\2", report.nodeid.replace("\n", " "))
        figures = [value for _, value in _only(report.user_properties, ("figure",))]
        for row in told["rows"]:
            run = self._runs.setdefault(row, {"tests": {}, "figures": [], "load": 0.0})
            run["tests"][test] = _worst(run["tests"].get(test), report.outcome)
            run["figures"] += [(test, f["text"], f["numbers"]) for f in figures if f["row"] == row]
            run["load"] = max(run["load"], told.get("load", 0.0))

    def pytest_sessionfinish(self) -> None:
        """Replace the rows that have run; a row without a figure is said to have none."""
        rows = json.loads(self._file.read_text()) if self._file.exists() else {}
        for row, run in self._runs.items():
            rows[row] = {
                "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
                "load": round(run["load"], 1),
                "full": IS_FULL,
                "tests": run["tests"],
                "figures": summed_up(run["figures"]),
            }
        ordered = {row: rows[row] for row in TARGETS if row in rows}
        self._file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def _only(properties: Iterable[tuple[str, Any]], names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in properties if name in names]


def _worst(one: str | None, other: str) -> str:
    return max(one or other, other, key=("passed", "skipped", "failed").index)


def summed_up(figures: Iterable[tuple[str, str, Mapping[str, float]]]) -> list[str]:
    """Return one sentence for each text of each test: ``{runs}`` of them, their worst numbers."""
    groups = defaultdict[tuple[str, str], list[Mapping[str, float]]](list)
    for test, text, numbers in figures:
        groups[test, text].append(numbers)
    said = []
    for (_, text), runs in groups.items():
        found: dict[str, float] = {"runs": len(runs)}
        for name in runs[0]:
            values = [run[name] for run in runs]
            found[name] = sum(values) if name.startswith(SUM) else max(values)
        said.append(text.format(**found))
    return said


def table(rows: Mapping[str, Mapping[str, Any]], letter: str) -> str:
    """Return the rows of one letter as a table."""
    lines = ["| Row | Target | Figure | Run | Tests |", "|---|---|---|---|---|"]
    for row, target in TARGETS.items():
        if row[0] != letter:
            continue
        run = rows[row]
        size = "" if run["full"] else ", small"
        when = f"{run['date']}{size}, load {run['load']:g}"
        tests = ", ".join(f"`{test}`" for test in sorted(run["tests"]))
        lines.append(f"| {row} | {target} | {figure_of(run)} | {when} | {tests} |")
    return "\n".join(lines)


def figure_of(run: Mapping[str, Any]) -> str:
    """Return what a run of a row came to, with the tests that failed or did not run first."""
    bad = [f"**`{test}` {what}.**" for test, what in run["tests"].items() if what != "passed"]
    return " ".join([*bad, "; ".join(run["figures"]) or "**no figure**"])


def page_with(page: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a page with its tables, each between ``<!-- scoreboard X -->`` and ``<!-- end -->``."""

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(rows, match[2])}\n<!-- end -->"

    pattern = r"(<!-- scoreboard (\w) -->)\n.*?<!-- end -->"
    return re.sub(pattern, filled, page, flags=re.DOTALL)


if __name__ == "__main__":
    recorded, page = Path(sys.argv[1]), Path(sys.argv[2])
    page.write_text(page_with(page.read_text(), json.loads(recorded.read_text())))
