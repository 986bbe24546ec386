"""Chaos: ``python tests/chaos/chaos.py SECONDS [SEED]``, or ``make chaos T=60 SEED=7``.

The real binary with two workers answers under load, while at random from the seed its processes are
killed and stopped, its API server and its upstream servers fail, its Corefile changes, and attackers
do their worst. The plan is a function of seconds and seed; ``ONLY=3,7,9`` runs these actions of it
alone, at the same times. All along, no answer may be wrong and no query for a name of the cluster lost;
at the end their p99 and the memory of the server's processes must be within bounds, and every name must
be what the API server has. A failure prints the seed and the plan, and is made smaller by leaving out
halves of the plan, unless ``SHRINK=0``. ``REPORT=FILE`` gets the figures as JSON.
"""

from __future__ import annotations

import collections
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import peers
from actions import KINDS
from judge import SLOW_S, percentile, read
from world import World

RATE = 400.0  # queries a second over UDP
MEMORY_MIB = 170
QUIET_S = 12.0  # at the end, for the last fault to be over
WARM_S = 3.0
PAUSES_S = {
    "processes": (3.0, 9.0),
    "api": (1.0, 6.0),
    "upstream": (2.0, 8.0),
    "machine": (5.0, 15.0),
    "attack": (0.5, 4.0),
}
MAX_RUNS = 8  # while a plan is made smaller


class Action(NamedTuple):
    """What happens when, and for how long; ``number`` is its place in the plan."""

    number: int
    at_s: float
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.number:3} {self.at_s:7.2f} s  {self.kind} for {self.seconds:.2f} s"


def plan(seconds: float, seed: int) -> list[Action]:
    """Return what happens in so many seconds."""
    found = []
    for lane, pause in PAUSES_S.items():
        rng = random.Random(f"{seed}/{lane}")
        names = [name for name, kind in KINDS.items() if kind.lane == lane]
        at = WARM_S
        while True:
            at += rng.uniform(*pause)
            name = rng.choice(names)
            took = rng.uniform(*KINDS[name].seconds)
            if at + took > seconds - QUIET_S:
                break
            found.append((at, name, took))
            at += took
    return [Action(i, *action) for i, action in enumerate(sorted(found))]


class Run:
    """One run of a plan."""

    def __init__(self, world: World, actions: Sequence[Action], seed: int) -> None:
        self._world, self._actions, self._seed = world, actions, seed
        self._ended: list[tuple[Action, float, float]] = []
        self.errors: list[str] = []
        self.slow = ""  # p99, if it is too much

    def go(self, seconds: float) -> None:
        """Let it all happen."""
        start = self._start = time.monotonic()
        self._world.judge.started = start
        lanes = collections.defaultdict(list)
        for action in self._actions:
            lanes[KINDS[action.kind].lane].append(action)
        threads = [threading.Thread(target=self._play, args=(lane,)) for lane in lanes.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while time.monotonic() < start + seconds and not self._has_failed():
            time.sleep(0.1)
        self._world.end_load()
        if not self._world.judge.violations:
            self._compare_all()
            self._check_bounds()

    def _has_failed(self) -> bool:
        return bool(self._world.judge.violations or self.errors)

    def _play(self, lane: Sequence[Action]) -> None:
        for action in lane:
            while time.monotonic() < self._start + action.at_s:
                time.sleep(0.01)
                if self._has_failed():
                    return
            try:
                self._act(action)
            except Exception as error:  # the test's own fault must not look like a success
                self.errors.append(f"{action}: {error!r}")

    def _act(self, action: Action) -> None:
        kind, judge = KINDS[action.kind], self._world.judge
        began = time.monotonic()
        windows = [
            (self._world.model.blind["api"], kind.blind_s),
            (
                self._world.model.blind["manifests"],
                kind.blind_s if kind.lane == "processes" else None,
            ),
            (judge.slow_windows, kind.slow_s),
            (judge.active, 0.0),
            (judge.outside_windows, kind.outside_s),
        ]
        for found, heals_s in windows:
            if heals_s is not None:
                found.add(began, float("inf"), action.kind)
        rng = random.Random(f"{self._seed}/{action.number}")
        steps = kind.run(self._world, rng, action.seconds)
        try:
            next(steps)
            time.sleep(action.seconds)
        finally:
            next(steps, None)
            ended = time.monotonic()
            self._ended.append((action, began, ended))
            for found, heals_s in windows:
                if heals_s is not None:
                    found.close(began, ended + heals_s, action.kind)

    # ---- at the end

    def _compare_all(self) -> None:
        """At rest every name is what it is now, and every process lives."""
        world = self._world
        deadline = time.monotonic() + 5
        questions = [q for q in world.judge.questions if q.is_known]
        while True:
            wrong = {}
            for question in questions:
                reply = peers.ask_udp(world.server.address, question.packet, 5)
                found = read(reply[2:]) if reply else "no reply"
                if found != world.model.now(question.name):
                    wrong[question.name] = found
            if not wrong:
                break
            if time.monotonic() > deadline:
                self.errors += [f"at rest {name} is {found}" for name, found in wrong.items()][:5]
                break
        roles = collections.Counter(world.processes().values())
        if roles != {"supervisor": 1, "worker": 2, "watcher": 2}:
            self.errors.append(f"at rest there are {dict(roles)}")
        try:
            url = f"http://127.0.0.1:{world.health}/health"
            with urllib.request.urlopen(url, timeout=5) as reply:
                reply.read()
            url = f"http://127.0.0.1:{world.metrics}/metrics"
            with urllib.request.urlopen(url, timeout=5) as reply:
                text = reply.read().decode()
        except OSError as error:
            self.errors.append(f"HTTP: {error!r}")
            return
        for line in text.splitlines():
            if line.startswith("coredns_panics_total") and float(line.split()[-1]):
                self.errors.append(line)

    def _check_bounds(self) -> None:
        judge = self._world.judge
        limit = SLOW_S + percentile(judge.echoes, 0.99)
        if percentile(judge.latencies, 0.99) > limit:
            p99 = percentile(judge.latencies, 0.99)
            self.slow = f"p99 of known names is {p99 * 1e3:.0f} ms, more than {limit * 1e3:.0f}"
        if self._world.peak_octets > MEMORY_MIB << 20:
            self.errors.append(f"{self._world.peak_octets / 2**20:.0f} MiB of memory")

    def figures(self) -> dict[str, Any]:
        """Return what was measured."""
        judge, memory = self._world.judge, [octets / 2**20 for _, octets in self._world.memory]
        part = max(1, len(memory) // 6)
        return {
            "actions": len(self._ended),
            "asked": judge.asked,
            "asked twice": judge.again,
            "failed outside, while upstream servers did": judge.failed_outside,
            "known p50, p99, p99.9 in ms": _spread(judge.latencies),
            "outside p50, p99, p99.9 in ms": _spread(judge.latencies_outside),
            "echo p50, p99, p99.9 in ms": _spread(judge.echoes),
            "calm share": round(len(judge.latencies) / max(1, judge.asked_known), 3),
            "MiB at first, at last, at most": [
                round(statistics.median(memory[:part] or [0])),
                round(statistics.median(memory[-part:] or [0])),
                round(max(memory, default=0)),
            ],
            "slow in a thousand, while": {
                name: round(1000 * slow / asked)
                for name, (asked, slow) in sorted(judge.shares.items())
            },
            "seconds to recover, median and most": self._recoveries(),
        }

    def _recoveries(self) -> dict[str, tuple[float, float]]:
        """Return how long after the end of each kind known names were still slow or asked twice.

        What overlaps with another fault is left out.
        """
        found = collections.defaultdict(list)
        costly = [
            x for x in self._ended if KINDS[x[0].kind].slow_s or KINDS[x[0].kind].lane == "attack"
        ]
        for action, began, ended in costly:
            others = [
                x for x in costly if x[0] is not action and KINDS[x[0].kind].lane == "processes"
            ]
            if any(a < ended + 8 and began < b + 8 for _, a, b in others):
                continue
            late = [until for sent, until in self._world.judge.bad if began <= sent < ended + 8]
            found[action.kind].append(max(0.0, max(late, default=0.0) - ended))
        return {
            kind: (round(statistics.median(times), 2), round(max(times), 2))
            for kind, times in sorted(found.items())
        }


def _spread(values: Any) -> list[float]:
    return [round(percentile(values, share) * 1e3, 2) for share in (0.5, 0.99, 0.999)]


def run(seconds: float, seed: int, only: set[int] | None, rate: float = RATE) -> dict[str, Any]:
    """Run once; return the figures, with what was wrong under ``violations``."""
    actions = [a for a in plan(seconds, seed) if only is None or a.number in only]
    if only is not None and actions:
        seconds = min(seconds, max(a.at_s + a.seconds for a in actions) + QUIET_S)
    with tempfile.TemporaryDirectory() as place, World(Path(place), rate, seed) as world:
        current = Run(world, actions, seed)
        current.go(seconds)
        violations = world.judge.violations + current.errors
        if violations and (kept := os.environ.get("KEEP_LOG")):
            Path(kept).write_text(world.server.output)
        return {**current.figures(), "violations": violations, "too slow": current.slow}


def smaller(seconds: float, seed: int, only: list[int]) -> list[int]:
    """Return fewer actions that still fail: halves, then quarters, and so on, are left out."""
    parts, runs = 2, 0
    while len(only) > 1 and parts <= len(only) and runs < MAX_RUNS:
        size = -(-len(only) // parts)
        for i in range(0, len(only), size):
            rest = only[:i] + only[i + size :]
            runs += 1
            if runs > MAX_RUNS:
                break
            if rest and run(seconds, seed, set(rest))["violations"]:
                only, parts = rest, max(2, parts - 1)
                break
        else:
            parts *= 2
    return only


def main() -> int:
    """Run as the command line and the environment say."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    words = sys.argv[2:] if sys.argv[2:] != [""] else []
    seed = int(words[0]) if words else random.randrange(2**31)
    text = os.environ.get("ONLY", "")
    only = {int(word) for word in text.split(",")} if text else None
    figures = run(seconds, seed, only)
    if path := os.environ.get("REPORT"):
        Path(path).write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))
    if figures["too slow"] and not figures["violations"]:
        print(f"{figures['too slow']}: make chaos T={seconds:.0f} SEED={seed}")
        return 1
    if not figures["violations"]:
        print(f"chaos: {seconds:.0f} s, seed {seed}: all is well")
        return 0
    actions = [a for a in plan(seconds, seed) if only is None or a.number in only]
    print("\n".join(map(str, actions)))
    print("\n".join(figures["violations"]))
    print(f"failed: make chaos T={seconds:.0f} SEED={seed}")
    if os.environ.get("SHRINK", "1") != "0":
        fewer = smaller(seconds, seed, [a.number for a in actions])
        print(f"smaller: ONLY={','.join(map(str, fewer))} make chaos T={seconds:.0f} SEED={seed}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
