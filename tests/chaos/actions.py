"""What may happen to the server, each for some seconds: ``KINDS`` by name.

An action is a generator: up to its ``yield`` it begins, behind it it ends. Its ``Kind`` says what it may
cost and for how long behind its end: ``blind_s`` old states of the cluster, ``slow_s`` time,
``outside_s`` names outside, ``lost_s`` names of the cluster. Whatever is not named must not suffer: no
attack has a window. ``recovers_s`` is the time from the end to the last query that may be sent and be late,
asked twice, or answered with an old state, if nothing else happens.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import attackers
import faultyupstream
from apiservers import FakeServer, Link, RealServer
from world import BROKEN, HERE, World, end

Run = Callable[[World, random.Random, float], Iterator[None]]
TTLS = (5, 10, 30)
ATTACK_HEALS_S = 6.0  # a datagram that finds no room costs its client 5 s


class Kind(NamedTuple):
    """A kind of action. Those of one lane do not happen at the same time."""

    run: Run
    lane: str
    seconds: tuple[float, float]
    blind_s: float | None = None
    slow_s: float | None = None
    outside_s: float | None = None
    lost_s: float | None = None
    recovers_s: float = 2.0
    is_instant: bool = False  # what follows its beginning is recovery
    was_known_s: float = 0.0  # states as old as that may be all that is known when it begins

    @property
    def costs(self) -> dict[str, float]:
        """What it may cost, and until how long behind its end."""
        found = {
            "slow": self.slow_s, "old": self.blind_s, "outside": self.outside_s, "lost": self.lost_s
        }  # fmt: skip
        costs = {name: heals_s for name, heals_s in found.items() if heals_s is not None}
        return costs or {"slow": ATTACK_HEALS_S}


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
    world.ttl = rng.choice(TTLS)
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


def reload_hangs(number: signal.Signals, role: str) -> Run:
    """Return the action that a process hangs in the middle of a reload, or of a hand-over."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        before = world.processes()
        if number == signal.SIGUSR1:
            world.ttl = rng.choice([ttl for ttl in TTLS if ttl != world.ttl])
            world.write_corefile(world.corefile())
        world.send(number, world.server.process.pid)
        time.sleep(rng.uniform(0.05, 1.5))
        found = sorted(world.of_role(role))
        hung = [rng.choice(found)] if found else []
        world.send(signal.SIGSTOP, *hung)
        yield
        world.send(signal.SIGCONT, *hung)
        if number == signal.SIGUSR2:
            world.wait_for_hand_over(before)

    return run


def hand_over(world: World, _: random.Random, __: float) -> Iterator[None]:
    before = world.processes()
    world.send(signal.SIGUSR2, world.server.process.pid)
    yield
    world.wait_for_hand_over(before)


def kill_supervisor(world: World, rng: random.Random, _: float) -> Iterator[None]:
    """All processes end with the first one; a kubelet starts the program again within a second."""
    process = world.server.process
    process.kill()
    process.wait()
    time.sleep(rng.uniform(0.1, 1.0))
    world.start_again()
    yield


def api_down(world: World, _: random.Random, __: float) -> Iterator[None]:
    _fake(world).down()
    yield
    _fake(world).up()


def link_down(world: World, _: random.Random, __: float) -> Iterator[None]:
    _link(world).down()
    yield
    _link(world).up()


def link_silent(world: World, _: random.Random, __: float) -> Iterator[None]:
    _link(world).is_silent = True
    yield
    _link(world).is_silent = False


def program_killed(name: str, start: Callable[[RealServer], None]) -> Run:
    """Return the action that etcd or the API server crashes; nothing changes until it is back."""

    def run(world: World, _: random.Random, __: float) -> Iterator[None]:
        with world.changing:
            _real(world).kill(name)
            yield
            start(_real(world))
            _real(world).wait_until_ready()

    return run


def program_stopped(name: str) -> Run:
    """Return the action that etcd or the API server hangs; nothing changes meanwhile."""

    def run(world: World, _: random.Random, __: float) -> Iterator[None]:
        with world.changing:
            _real(world).send(name, signal.SIGSTOP)
            yield
            _real(world).send(name, signal.SIGCONT)
            _real(world).wait_until_ready()

    return run


def _fake(world: World) -> FakeServer:
    assert isinstance(world.api, FakeServer)
    return world.api


def _real(world: World) -> RealServer:
    assert isinstance(world.api, RealServer)
    return world.api


def _link(world: World) -> Link:
    link = _real(world).link
    assert link is not None
    return link


def api_once(act: Callable[[World, random.Random], None]) -> Run:
    """Return an action that is over at once."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        act(world, rng)
        yield

    return run


def api_set(name: str, *values: object) -> Run:
    """Return the action of a fault that the API server has for a while."""

    def run(world: World, rng: random.Random, _: float) -> Iterator[None]:
        api = _fake(world)
        before = getattr(api, name)
        setattr(api, name, rng.choice(values))
        yield
        setattr(api, name, before)

    return run


def api_restored(world: World, _: random.Random, __: float) -> Iterator[None]:
    backup = world.backup()
    yield
    world.restore(backup)


def _say_garbage(world: World, rng: random.Random) -> None:
    kind = rng.choice(("services", "endpointslices", "namespaces"))
    _fake(world).inject(
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
    for _ in range(3):  # also for those that are forked meanwhile
        for pid in world.processes():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        time.sleep(0.1)


def attack(kind: str) -> Run:
    """Return the action of one attacker."""

    def run(world: World, rng: random.Random, seconds: float) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "attackers.py"), kind, str(seconds),
             str(rng.randrange(2**32)), str(world.server.port), str(world.health),
             str(world.tls), str(world.https)],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(2):
                    raise RuntimeError(f"the attacker ended with status {process.returncode}")
        finally:
            end(process)

    return run


API_HEALS_S = 7.0  # four seconds between two attempts, and what an attempt takes
AUDIT_HEALS_S = 8.0  # `audit 4s`, and the list
KINDS: dict[str, Kind] = {
    # A worker that is killed takes along what it has read; its client asks again after 5 s.
    "kill-worker": Kind(
        begin(signal.SIGKILL, "worker"), "processes", (0.1, 1), 2, 6, 1, is_instant=True, recovers_s=2),
    "kill-workers": Kind(
        begin(signal.SIGKILL, "workers"), "processes", (0.1, 1), 2, 6, 1, is_instant=True, recovers_s=2),
    "stop-worker": Kind(begin(signal.SIGSTOP, "worker"), "processes", (0.5, 8), 2, 7, 1, recovers_s=2),
    "stop-workers": Kind(begin(signal.SIGSTOP, "workers"), "processes", (0.5, 3), 2, 7, 1, recovers_s=2),
    "kill-watcher": Kind(
        begin(signal.SIGKILL, "watcher"), "processes", (0.1, 1), 4, is_instant=True, recovers_s=4),
    "stop-watcher": Kind(begin(signal.SIGSTOP, "watcher"), "processes", (0.5, 8), 4, recovers_s=4),
    "stop-all": Kind(everything_stops, "processes", (0.3, 2.5), 4, 7, 1, recovers_s=4),
    "kill-supervisor": Kind(
        kill_supervisor, "processes", (1, 2), 7, 8, 8, 8, is_instant=True, was_known_s=30, recovers_s=6),
    "reload-good": Kind(reload_good, "processes", (3, 6), 3, 3, 1, recovers_s=3),
    "reload-broken": Kind(reload_broken, "processes", (1, 4), 3, 3, 1, recovers_s=3),
    "reload-worker-hangs": Kind(
        reload_hangs(signal.SIGUSR1, "worker"), "processes", (0.5, 8), 4, 7, 1, recovers_s=4),
    "reload-watcher-hangs": Kind(
        reload_hangs(signal.SIGUSR1, "watcher"), "processes", (0.5, 8), 4, 7, 1, recovers_s=4),
    "hand-over": Kind(hand_over, "processes", (1, 3), 3, 3, 1, recovers_s=3),
    "hand-over-worker-hangs": Kind(
        reload_hangs(signal.SIGUSR2, "worker"), "processes", (0.5, 6), 4, 7, 1, recovers_s=4),
    "hand-over-watcher-hangs": Kind(
        reload_hangs(signal.SIGUSR2, "watcher"), "processes", (0.5, 6), 4, 7, 1, recovers_s=4),
    "api-down": Kind(api_down, "api", (0.2, 6), API_HEALS_S, recovers_s=7),
    "api-reset": Kind(
        api_once(lambda w, _: _fake(w).reset_connections()), "api", (0, 0.5), API_HEALS_S, recovers_s=7),
    "api-410": Kind(api_once(lambda w, _: _fake(w).compact()), "api", (0, 0.5), API_HEALS_S, recovers_s=7),
    "api-garbage": Kind(api_once(_say_garbage), "api", (0, 0.5), API_HEALS_S, recovers_s=7),
    "api-cuts": Kind(api_set("cuts", 0.05, 0.3), "api", (1, 6), API_HEALS_S, recovers_s=7),
    "api-repeats": Kind(api_set("repeats", 0.2, 0.8), "api", (1, 6), API_HEALS_S, recovers_s=7),
    "api-errors": Kind(api_set("errors", 0.3, 1.0), "api", (1, 6), API_HEALS_S, recovers_s=7),
    "api-silent": Kind(api_set("is_silent", True), "api", (0.5, 5), API_HEALS_S, recovers_s=7),
    "api-loses": Kind(api_set("loses", 0.05, 0.3), "api", (1, 4), AUDIT_HEALS_S, recovers_s=AUDIT_HEALS_S),
    "api-ends-watches": Kind(api_set("ends_at_once", True), "api", (1, 4), API_HEALS_S, recovers_s=7),
    "api-lists-old": Kind(api_set("streams_lists", False, None), "api", (1, 6), API_HEALS_S, recovers_s=7),
    "api-restored": Kind(api_restored, "api", (1, 6), API_HEALS_S, recovers_s=7),
    "link-down": Kind(link_down, "control-plane", (0.2, 6), API_HEALS_S, recovers_s=7),
    "link-reset": Kind(
        api_once(lambda w, _: _link(w).reset_connections()), "control-plane", (0, 0.5), API_HEALS_S, recovers_s=7),
    "link-silent": Kind(link_silent, "control-plane", (0.5, 5), API_HEALS_S, recovers_s=7),
    "etcd-compacted": Kind(
        api_once(lambda w, _: _real(w).compact()), "control-plane", (0, 0.5), API_HEALS_S, recovers_s=7),
    "etcd-killed": Kind(
        program_killed("etcd", RealServer.start_etcd), "control-plane", (0.1, 3), API_HEALS_S, recovers_s=7),
    "etcd-stopped": Kind(program_stopped("etcd"), "control-plane", (0.5, 5), API_HEALS_S, recovers_s=7),
    "kube-apiserver-killed": Kind(
        program_killed("kube-apiserver", RealServer.start_api), "control-plane", (0.1, 3),
        API_HEALS_S, recovers_s=7),
    "kube-apiserver-stopped": Kind(
        program_stopped("kube-apiserver"), "control-plane", (0.5, 5), API_HEALS_S, recovers_s=7),
    "upstream-fault": Kind(upstream_fault, "upstream", (1, 6), None, None, 8, recovers_s=8),
    "upstream-restart": Kind(upstream_restart, "upstream", (0.5, 5), None, None, 8, recovers_s=8),
    "clock-jumps": Kind(clock_jumps, "machine", (0.5, 5)),
    "disk-full": Kind(disk_full, "machine", (1, 6)),
    **{f"attack-{kind}": Kind(attack(kind), "attack", (2, 8)) for kind in attackers.KINDS},
}  # fmt: skip
