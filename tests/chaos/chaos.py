"""Chaos: ``python tests/chaos/chaos.py SECONDS [SEED]``, or ``make chaos T=60 SEED=7``.

The real binary with two workers answers under load, while at random from the seed its processes are
killed, stopped and replaced, its API server and its upstream servers fail, its Corefile changes, and
attackers do their worst. ``API=real`` has etcd and kube-apiserver instead of a fake API server.

A run has rounds. In the first half of each anything happens at once, in the second half one action at a
time, each with the time to recover from it: these tell how long that takes. The plan is a function of
seconds and seed; ``ONLY=3,7,9`` runs these actions of it alone, at the same times.

All along, no answer may be wrong, no query for a name of the cluster lost, and the memory of the server's
processes must be within bounds. At the end so must the p99 of these names be, in time beyond what an
echo server takes in the same second, and what each kind of fault took to recover from; and every name must
be what the API server has. A failure prints the seed and the plan, and is made smaller by leaving out halves
of the plan, unless ``SHRINK=0``. ``REPORT=FILE`` gets the figures as JSON.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import peers
from actions import KINDS, Kind
from judge import SLOW_S, percentile, read
from world import REPLACED, World

RATE = 400.0  # queries a second over UDP
MEMORY_MIB = 170  # of kubeadm's Deployment
# Its Corefile has one `kubernetes`; the world of chaos has two, and a watcher more at each version.
SECOND_WATCHER_MIB = 20
QUIET_S = 12.0  # at the end, for the last fault to be over
WARM_S = 3.0
ROUND_S = 120.0  # the first half has everything at once, the second one action at a time
PAUSES_S = {
    "processes": (3.0, 9.0),
    "api": (1.0, 6.0),
    "control-plane": (3.0, 12.0),
    "upstream": (2.0, 8.0),
    "machine": (5.0, 15.0),
    "attack": (0.5, 4.0),
}
ALONE_S = 1.0  # between the last cost of an action and the next one
MAX_RUNS = 8  # while a plan is made smaller
PRIORITY = -5  # of all but the attackers, where that is allowed


class Action(NamedTuple):
    """What happens when, and for how long; ``number`` is its place in the plan."""

    number: int
    at_s: float
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.number:3} {self.at_s:7.2f} s  {self.kind} for {self.seconds:.2f} s"


def plan(seconds: float, seed: int, *, is_real: bool = False) -> list[Action]:
    """Return what happens in so many seconds, with a real API server or a fake one."""
    left_out = "api" if is_real else "control-plane"
    lanes = [lane for lane in PAUSES_S if lane != left_out]
    rngs = {lane: random.Random(f"{seed}/{lane}") for lane in lanes}
    alone = random.Random(f"{seed}/alone")
    deck = list[str]()
    found, end = list[tuple[float, str, float]](), seconds - QUIET_S
    rounds = max(1, round(end / ROUND_S))
    for i in range(rounds):
        begin_s, middle_s = end * i / rounds, end * (i + 0.5) / rounds
        for lane in lanes:
            found += _at_random(rngs[lane], lane, max(WARM_S, begin_s), middle_s)
        at = middle_s + QUIET_S / 2
        while True:
            if not deck:
                deck = [name for name, kind in KINDS.items() if kind.lane in lanes]
                alone.shuffle(deck)
            kind = KINDS[deck[-1]]
            took = alone.uniform(*kind.seconds)
            if at + took > end * (i + 1) / rounds:
                break
            found.append((at, deck.pop(), took))
            at += took + max(kind.costs.values()) + ALONE_S
    return [Action(i, *action) for i, action in enumerate(sorted(found))]


def _at_random(
    rng: random.Random, lane: str, begin_s: float, end_s: float
) -> Iterator[tuple[float, str, float]]:
    """Yield the actions of a lane between two times: when, what, for how long."""
    names = [name for name, kind in KINDS.items() if kind.lane == lane]
    at = begin_s
    while True:
        at += rng.uniform(*PAUSES_S[lane])
        name = rng.choice(names)
        took = rng.uniform(*KINDS[name].seconds)
        if at + took > end_s:
            return
        yield at, name, took
        at += took


class Done(NamedTuple):
    """An action that has happened, and when."""

    action: Action
    began: float
    ended: float

    @property
    def kind(self) -> Kind:
        return KINDS[self.action.kind]

    @property
    def over(self) -> float:
        """When recovery began."""
        return self.began if self.kind.is_instant else self.ended

    def overlaps(self, other: Done, cost: str) -> bool:
        """Tell whether the two may have cost the same at the same time."""
        mine, its = self.kind.costs[cost], other.kind.costs.get(cost)
        if its is None:
            return False
        return other.began < self.ended + mine and self.began < other.ended + its


class Run:
    """One run of a plan."""

    def __init__(self, world: World, actions: Sequence[Action], seed: int) -> None:
        self._world, self._actions, self._seed = world, actions, seed
        self._ended: list[Done] = []
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
        self._has_failed()
        if not self._world.judge.violations:
            self._compare_all()
            self._check_bounds()

    def _has_failed(self) -> bool:
        for when, (octets, shown) in list(self._world.peaks.items()):
            most_mib = MEMORY_MIB + (SECOND_WATCHER_MIB if when == REPLACED else 0)
            if octets > most_mib << 20 and not self.errors:
                self.errors.append(f"{octets / 2**20:.0f} MiB of memory {when}: {shown}")
        self.errors += self._world.errors
        self._world.errors.clear()
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
        kind, judge, blind = KINDS[action.kind], self._world.judge, self._world.model.blind
        began = time.monotonic()
        known = began - kind.was_known_s
        windows = [
            (blind["api"], known, kind.blind_s),
            (blind["manifests"], known, kind.blind_s if kind.lane == "processes" else None),
            (judge.slow_windows, began, kind.slow_s),
            (judge.active, began, 0.0),
            (judge.outside_windows, began, kind.outside_s),
            (judge.lost_windows, began, kind.lost_s),
        ]
        for found, since, heals_s in windows:
            if heals_s is not None:
                found.add(since, float("inf"), action.kind)
        rng = random.Random(f"{self._seed}/{action.number}")
        steps = kind.run(self._world, rng, action.seconds)
        try:
            next(steps)
            time.sleep(action.seconds)
        finally:
            next(steps, None)
            ended = time.monotonic()
            self._ended.append(Done(action, began, ended))
            for found, since, heals_s in windows:
                if heals_s is not None:
                    found.close(since, ended + heals_s, action.kind)

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
        processes = world.processes()
        if not world.is_complete(processes):
            self.errors.append(f"at rest there are {dict(collections.Counter(processes.values()))}")
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
        p99 = percentile(judge.lateness(), 0.99)
        if p99 > SLOW_S:
            self.slow = (
                f"p99 of known names is {p99 * 1e3:.0f} ms more than the slowest echo beside"
            )
        # A query that was slow and no more may be the machine's fault, too.
        self.errors += self._recovered_late(is_certain=True)
        self.slow = self.slow or "; ".join(self._recovered_late())

    def _recovered_late(self, *, is_certain: bool = False) -> list[str]:
        most_s = {
            name: max(sent_s for sent_s, _ in times)
            for name, times in self._recoveries(is_certain=is_certain).items()
        }
        return [
            f"{name}: a query {found:.2f} s behind its end was late or old"
            for name, found in most_s.items()
            if found > KINDS[name].recovers_s
        ]

    def figures(self) -> dict[str, Any]:
        """Return what was measured."""
        judge, memory = self._world.judge, [octets / 2**20 for _, octets in self._world.memory]
        part = max(1, len(memory) // 6)
        return {
            "actions": len(self._ended),
            "asked": judge.asked,
            "asked twice": judge.again,
            "lost while the program was started again": judge.lost,
            "failed outside, while upstream servers did": judge.failed_outside,
            "hand-overs completed, given up": [
                self._world.hand_overs.count(True), self._world.hand_overs.count(False)
            ],
            "known p50, p99, p99.9 in ms": _spread(judge.latencies),
            "known beyond the slowest echo of the second": _spread(judge.lateness()),
            "known while no echo was slow": _spread(judge.in_quiet_seconds()),
            "share of that": round(
                len(judge.in_quiet_seconds()) / max(1, len(judge.latencies)), 3
            ),
            "outside p50, p99, p99.9 in ms": _spread(judge.latencies_outside),
            "echo p50, p99, p99.9 in ms": _spread(judge.echoes),
            "calm share": round(len(judge.latencies) / max(1, judge.asked_known), 3),
            "MiB at first, at last, at most": [
                round(statistics.median(memory[:part] or [0])),
                round(statistics.median(memory[-part:] or [0])),
                round(max(memory, default=0)),
            ],
            "MiB at most": {
                when: f"{octets / 2**20:.0f}: {shown}"
                for when, (octets, shown) in self._world.peaks.items()
            },
            "slow in a thousand, while": {
                name: round(1000 * slow / asked)
                for name, (asked, slow) in sorted(judge.shares.items())
            },
            "seconds to recover: times, bound, last sent (median, most), last answer (median, most)":
                self._table(),
        }  # fmt: skip

    def _table(self) -> dict[str, list[float]]:
        return {
            name: [
                len(times), KINDS[name].recovers_s,
                *(round(f([t[which] for t in times]), 2)
                  for which in (0, 1) for f in (statistics.median, max)),
            ]
            for name, times in sorted(self._recoveries().items())
        }  # fmt: skip

    def _recoveries(self, *, is_certain: bool = False) -> dict[str, list[tuple[float, float]]]:
        """Return how long after the end of each kind the last bad query was sent, and answered.

        What overlaps with another action that may cost the same is left out.
        """
        found = collections.defaultdict(list)
        bad = [each for each in self._world.judge.bad() if each.is_certain or not is_certain]
        for done in self._ended:
            costs = done.kind.costs
            others = [other for other in self._ended if other is not done]
            if any(done.overlaps(other, cost) for other in others for cost in costs):
                continue
            its = [
                each for each in bad
                if each.cost in costs and done.began <= each.sent < done.ended + costs[each.cost]
            ]  # fmt: skip
            sent = max((each.sent for each in its), default=0.0) - done.over
            received = max((each.received for each in its), default=0.0) - done.over
            found[done.action.kind].append((max(0.0, sent), max(0.0, received)))
        return found


def _spread(values: Any) -> list[float]:
    return [round(percentile(values, share) * 1e3, 2) for share in (0.5, 0.99, 0.999)]


def run(
    seconds: float,
    seed: int,
    only: set[int] | None,
    rate: float = RATE,
    *,
    is_real: bool = False,
) -> dict[str, Any]:
    """Run once; return the figures, with what was wrong under ``violations``."""
    whole = plan(seconds, seed, is_real=is_real)
    actions = [a for a in whole if only is None or a.number in only]
    if only is not None and actions:
        seconds = min(seconds, max(a.at_s + a.seconds for a in actions) + QUIET_S)
    with (
        tempfile.TemporaryDirectory() as place,
        World(Path(place), rate, seed, is_real=is_real) as world,
    ):
        current = Run(world, actions, seed)
        current.go(seconds)
        violations = world.judge.violations + current.errors
        if kept := os.environ.get("KEEP_LOG"):
            Path(kept).write_text(world.server.output)
        return {**current.figures(), "violations": violations, "too slow": current.slow}


def smaller(seconds: float, seed: int, only: list[int], *, is_real: bool) -> list[int]:
    """Return fewer actions that still fail: halves, then quarters, and so on, are left out."""
    parts, runs = 2, 0
    while len(only) > 1 and parts <= len(only) and runs < MAX_RUNS:
        size = -(-len(only) // parts)
        for i in range(0, len(only), size):
            rest = only[:i] + only[i + size :]
            runs += 1
            if runs > MAX_RUNS:
                break
            if rest and run(seconds, seed, set(rest), is_real=is_real)["violations"]:
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
    is_real = os.environ.get("API") == "real"
    with contextlib.suppress(PermissionError):
        os.nice(PRIORITY)
    figures = run(seconds, seed, only, is_real=is_real)
    if path := os.environ.get("REPORT"):
        Path(path).write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))
    command = f"{'API=real ' if is_real else ''}make chaos T={seconds:.0f} SEED={seed}"
    if figures["too slow"] and not figures["violations"]:
        print(f"{figures['too slow']}: {command}")
        return 1
    if not figures["violations"]:
        print(f"chaos: {seconds:.0f} s, seed {seed}: all is well")
        return 0
    actions = [a for a in plan(seconds, seed, is_real=is_real) if only is None or a.number in only]
    print("\n".join(map(str, actions)))
    print("\n".join(figures["violations"]))
    print(f"failed: {command}")
    if os.environ.get("SHRINK", "1") != "0":
        fewer = smaller(seconds, seed, [a.number for a in actions], is_real=is_real)
        print(f"smaller: ONLY={','.join(map(str, fewer))} {command}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
