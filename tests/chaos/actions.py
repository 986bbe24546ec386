"""What may happen to the server, each for some seconds: ``KINDS`` by name.

An action is a generator: up to its ``yield`` it begins, behind it it ends. Its ``Kind`` says what it may
cost and for how long behind its end: ``blind_s`` old states of the cluster, ``slow_s`` time,
``outside_s`` names outside. Whatever is not named must not suffer: no attack has a window.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import attackers
import faultyupstream
from world import BROKEN, HERE, World, end

Run = Callable[[World, random.Random, float], Iterator[None]]


class Kind(NamedTuple):
    """A kind of action. Those of one lane do not happen at the same time."""

    run: Run
    lane: str
    seconds: tuple[float, float]
    blind_s: float | None = None
    slow_s: float | None = None
    outside_s: float | None = None
    source: str = "api"  # whose states may be old


def begin(number: signal.Signals, role: str) -> Run:
    """Return the action of a signal to a process of this role, or to all of them."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        pids = world.of_role(role.removesuffix("s"))
        if not role.endswith("s") and pids:
            pids = [rng.choice(sorted(pids))]
        world.send(number, *pids)
        yield
        if number == signal.SIGSTOP:
            world.send(signal.SIGCONT, *pids)

    return run


def everything_stops(world: World, _: random.Random, __: float) -> Iterator[None]:
    pids = list(world.processes())
    world.send(signal.SIGSTOP, *pids)
    yield
    world.send(signal.SIGCONT, *pids)


def reload_good(world: World, rng: random.Random, _: float) -> Iterator[None]:
    world.ttl = rng.choice((5, 10, 30))
    world.write_corefile(world.corefile())
    if rng.random() < 0.7:  # else `reload` finds it
        world.send(signal.SIGUSR1, world.server.process.pid)
    yield


def reload_broken(world: World, rng: random.Random, _: float) -> Iterator[None]:
    world.write_corefile(rng.choice(BROKEN))
    world.send(signal.SIGUSR1, world.server.process.pid)
    yield
    world.write_corefile(world.corefile())
    world.send(signal.SIGUSR1, world.server.process.pid)


def api_down(world: World, _: random.Random, __: float) -> Iterator[None]:
    world.api.down()
    yield
    world.api.up()


def api_once(act: Callable[[World, random.Random], None]) -> Run:
    """Return an action that is over at once."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        act(world, rng)
        yield

    return run


def api_set(name: str, *values: object) -> Run:
    """Return the action of a fault that the API server has for a while."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        before = getattr(world.api, name)
        setattr(world.api, name, rng.choice(values))
        yield
        setattr(world.api, name, before)

    return run


def api_restored(world: World, _: random.Random, __: float) -> Iterator[None]:
    backup = world.backup()
    yield
    world.restore(backup)


def _say_garbage(world: World, rng: random.Random) -> None:
    kind = rng.choice(("services", "endpointslices", "namespaces"))
    world.api.inject(
        kind,
        rng.choice(
            (
                b'{"type":"MODIFIED","object":\n', b"\xff\xfe{}\n[1]\nnull\n", b"[" * 5000 + b"\n",
                b'{"type":"DELETED","object":{"metadata":{"name":["s0"],"namespace":"a"}}}\n',
                b'{"type":"ADDED","object":{"kind":"Service","metadata":7}}\n', b'{"' + b"x" * 70000,
                b'{"type":"ERROR","object":{"kind":"Status","code":410}}\n', rng.randbytes(500),
            )
        ),
    )  # fmt: skip


def upstream_fault(world: World, rng: random.Random, _: float) -> Iterator[None]:
    fault = rng.choice(
        (
            faultyupstream.silent, faultyupstream.late(0.3), faultyupstream.late(3.0),
            faultyupstream.lossy(0.5), faultyupstream.truncated, faultyupstream.garbage,
            faultyupstream.forged(20, 0.02), faultyupstream.says(faultyupstream.SERVFAIL),
            faultyupstream.without_edns(has_question=False),
        )
    )  # fmt: skip
    sick = rng.sample(world.upstreams, rng.choice((1, 1, 2, 3)))
    for upstream in sick:
        upstream.fault = fault
    yield
    for upstream in sick:
        upstream.fault = faultyupstream.good


def upstream_restart(world: World, rng: random.Random, _: float) -> Iterator[None]:
    if not world.real.kinds:
        yield
        return
    kind = rng.choice(world.real.kinds)
    world.real.end(kind)
    yield
    world.real.start(kind)


def clock_jumps(world: World, rng: random.Random, _: float) -> Iterator[None]:
    world.clock.move(rng.choice((-1, 1)) * rng.choice((60, 86_400, 10 * 365 * 86_400)))
    yield
    world.clock.move(0)


def disk_full(world: World, _: random.Random, __: float) -> Iterator[None]:
    """No file of the server may grow: not its snapshot, and not its log."""
    for pid in world.processes():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    yield
    for pid in world.processes():  # also those that were forked meanwhile
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def attack(kind: str) -> Run:
    """Return the action of one attacker."""

    def run(world: World, rng: random.Random, seconds: float) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "attackers.py"), kind, str(world.server.port),
             str(world.health), str(seconds), str(rng.randrange(2**32))],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        finally:
            end(process)

    return run


KINDS: dict[str, Kind] = {
    # A worker that is killed takes along what it has read; its client asks again after 5 s.
    "kill-worker": Kind(begin(signal.SIGKILL, "worker"), "processes", (0.1, 1), 2, 6, 1),
    "kill-workers": Kind(begin(signal.SIGKILL, "workers"), "processes", (0.1, 1), 2, 6, 1),
    "stop-worker": Kind(begin(signal.SIGSTOP, "worker"), "processes", (0.5, 8), 2, 7, 1),
    "stop-workers": Kind(begin(signal.SIGSTOP, "workers"), "processes", (0.5, 3), 2, 7, 1),
    "kill-watcher": Kind(begin(signal.SIGKILL, "watcher"), "processes", (0.1, 1), 4),
    "stop-watcher": Kind(begin(signal.SIGSTOP, "watcher"), "processes", (0.5, 8), 4),
    "stop-all": Kind(everything_stops, "processes", (0.3, 2.5), 4, 7, 1),
    "reload-good": Kind(reload_good, "processes", (3, 6), 3, 3, 1),
    "reload-broken": Kind(reload_broken, "processes", (1, 4), 3, 3, 1),
    "api-down": Kind(api_down, "api", (0.2, 6), 7),
    "api-reset": Kind(api_once(lambda w, _: w.api.reset_connections()), "api", (0, 0.5), 7),
    "api-410": Kind(api_once(lambda w, _: w.api.compact()), "api", (0, 0.5), 7),
    "api-garbage": Kind(api_once(_say_garbage), "api", (0, 0.5), 7),
    "api-cuts": Kind(api_set("cuts", 0.05, 0.3), "api", (1, 6), 7),
    "api-repeats": Kind(api_set("repeats", 0.2, 0.8), "api", (1, 6), 7),
    "api-errors": Kind(api_set("errors", 0.3, 1.0), "api", (1, 6), 7),
    "api-silent": Kind(api_set("is_silent", True), "api", (0.5, 5), 7),
    "api-loses": Kind(api_set("loses", 0.05, 0.3), "api", (1, 4), 8),
    "api-ends-watches": Kind(api_set("ends_at_once", True), "api", (1, 4), 7),
    "api-lists-old": Kind(api_set("streams_lists", False, None), "api", (1, 6), 7),
    "api-restored": Kind(api_restored, "api", (1, 6), 12),
    "upstream-fault": Kind(upstream_fault, "upstream", (1, 6), None, None, 8),
    "upstream-restart": Kind(upstream_restart, "upstream", (0.5, 5), None, None, 8),
    "clock-jumps": Kind(clock_jumps, "machine", (0.5, 5)),
    "disk-full": Kind(disk_full, "machine", (1, 6)),
    **{f"attack-{kind}": Kind(attack(kind), "attack", (2, 8)) for kind in attackers.KINDS},
}  # fmt: skip
