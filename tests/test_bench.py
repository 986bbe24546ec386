"""bench: it runs from start to end and its numbers can be true; how high they are is no test."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench")
sys.path.insert(0, str(BENCH))

import inputs  # noqa: E402 - lies in tests/bench, which is no package
import measure  # noqa: E402


def lines(script: str, *arguments: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(bool(measure.missing()), reason=measure.missing())
@pytest.mark.parametrize(
    ("scenario", "rcodes"),
    [
        ("internal, 10 services", {"NOERROR"}),
        ("search path, repeated", {"NXDOMAIN"}),
        ("search path, never repeated", {"NXDOMAIN"}),
        ("external", {"NOERROR"}),
    ],
)
def test_one_short_round(monkeypatch, scenario, rcodes):
    monkeypatch.delenv("COREDNS", raising=False)
    rows = lines(
        "run.py", "--rounds", "1", "--seconds", "0.3", "--rate", "5000", "--scenario", scenario
    )
    found = {row["server"]: row for row in rows}
    assert {"echo", "clusterdns"} <= found.keys()
    assert rcodes == found["clusterdns"]["rcodes"].keys()
    for row in found.values():
        assert 300 <= row["answered"] <= row["sent"] <= 1600
        assert sum(row["rcodes"].values()) == row["answered"]
        assert 0.3 < row["us_per_query"] < 1000  # 0.3 µs: less than any system call that sends
        assert row["pss_mib"] > 0.05
    assert found["echo"]["ratio_to_echo"] == 1
    assert found["clusterdns"]["ratio_to_echo"] > 0.5


def test_micro_prints_every_step():
    rows = lines("micro.py", "--seconds", "0.01")
    assert len({row["step"] for row in rows}) == len(rows) >= 10
    assert all(10 < row["ns"] < 1e7 for row in rows)


def test_cpu_and_memory_are_those_of_the_whole_tree():
    """A child of a child that works for a known time is found."""
    work = (
        "import time\nend = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\nprint(flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", work]
    middle = f"import subprocess; subprocess.run({command!r})"
    process = subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        pids = measure.tree(process.pid)
        assert len(pids) == 2
        assert 0.2e9 <= measure.cpu_ns(process.pid) < 5e9
        assert 3 < measure.pss_mib(process.pid) < 200
    finally:
        for pid in reversed(measure.tree(process.pid)):
            subprocess.run(["kill", str(pid)], check=False)
        process.communicate(timeout=10)


@pytest.mark.parametrize("scenario", inputs.SCENARIOS, ids=lambda scenario: scenario.title)
def test_a_scenario_asks_the_same_again_unless_it_is_endless(tmp_path, scenario):
    cluster = inputs.generate(tmp_path, 10)
    one, two = (list(islice(scenario.questions(cluster, random.Random(1)), 50)) for _ in range(2))
    assert one == two
    assert len(one) == 50
    if scenario.is_endless:
        assert len(set(one)) == 50


def test_the_cluster_is_as_large_as_asked(tmp_path):
    cluster = inputs.generate(tmp_path, 200)
    assert (180, 20) == (len(cluster.services), len(cluster.headless))
    kinds = [item["kind"] for item in inputs.objects(tmp_path)]
    assert (200, 200, 3) == tuple(kinds.count(k) for k in ("Service", "EndpointSlice", "Namespace"))
