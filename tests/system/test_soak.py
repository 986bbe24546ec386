"""P6 and P9: memory, descriptors and the turns of the event loop under queries and changes.

``SOAK_S=7200`` is the size of P6, and five minutes what ``FULL=1`` runs. A turn is all that a worker's loop does between two waits;
its time is that of the thread's CPU clock, so that other work of the machine does not count.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import dns.message
import peers
import pytest
import scoreboard
from faultyapi import FaultyApi

SOAK_S = scoreboard.size("SOAK_S", 12.0, 300.0)
WARM_S = min(600.0, SOAK_S / 3)
RATE = 1000  # queries a second
CHANGES = 50  # of Services a second
SERVICES = 300
MEASURED = """import gc, json, os, sys, time
sys.path.insert(0, "")
from clusterdns.serving import packetloop, udp
turns, whole, since = [], [], [0]
def measured(function):
    def measure(*args):
        began = time.thread_time_ns()
        try:
            return function(*args)
        finally:
            turns.append(time.thread_time_ns() - began)
    return measure
def select(self, timeout=None, select=packetloop.PacketSelector.select):
    if since[0]:
        turns.append(time.thread_time_ns() - since[0])
    try:
        return select(self, timeout)
    finally:
        since[0] = time.thread_time_ns()
packetloop.PacketSelector.select = select
udp.Engine._see_to_left = measured(udp.Engine._see_to_left)
gc.callbacks.append(lambda phase, info: info["generation"] == 2 and phase == "stop" and whole.append(1))
os.register_at_fork(after_in_child=lambda: (turns.clear(), whole.clear()))
def end(status, end=os._exit):
    turns.sort()
    found = {{"turns": len(turns), "collections": len(whole)}}
    if turns:
        found["p999_ms"] = turns[int(len(turns) * 0.999)] / 1e6
        found["longest_ms"] = turns[-1] / 1e6
    with open(f"{place}/turns-{{os.getpid()}}", "w") as file:
        json.dump(found, file)
    end(status)
os._exit = end
from clusterdns.__main__ import main
sys.exit(main())
"""


def service(i: int, address: str) -> dict:
    return {
        "kind": "Service",
        "metadata": {"name": f"s{i}", "namespace": "demo"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]},
    }


def held(pid: int) -> tuple[float, int]:
    """Return the memory in MiB that a process has of its own, and its descriptors."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Private")]
    return sum(private) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.row("P6", "P9")
@pytest.mark.slow
@pytest.mark.timeout(SOAK_S * 2 + 120)
def test_p6_p9_queries_and_changes_for_a_while(tmp_path, figure):
    rng = random.Random(6)
    program = tmp_path / "clusterdns-measured.py"
    program.write_text(MEASURED.format(place=tmp_path))
    objects = [{"kind": "Namespace", "metadata": {"name": "demo"}}]
    objects += [service(i, f"10.96.{i >> 8}.{i & 255}") for i in range(SERVICES)]
    queries = [
        dns.message.make_query(f"s{i}.demo.svc.cluster.local.", "A").to_wire()
        for i in range(SERVICES)
    ]
    with FaultyApi(objects) as api:
        text = f". {{\n kubernetes cluster.local {{\n  endpoint {api.url}\n }}\n}}\n"
        with peers.running([sys.executable, str(program)], text, tmp_path) as server:
            peers.wait_until_answering(server)
            pid = server.process.pid
            pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
            before: list[tuple[float, int]] = []
            sent = changes = 0
            unanswered = dict[int, float]()
            lost = 0
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.connect(server.address)
                sock.setblocking(False)
                began = time.monotonic()
                while (now := time.monotonic() - began) < SOAK_S:
                    while changes < CHANGES * now:
                        i = rng.randrange(SERVICES)
                        api.apply(service(i, f"10.97.{rng.randrange(256)}.{i & 255}"))
                        changes += 1
                    while sent < RATE * now and len(unanswered) < 100:
                        number = sent & 0xFFFF
                        sock.send(struct.pack("!H", number) + rng.choice(queries)[2:])
                        unanswered[number] = now
                        sent += 1
                    try:
                        while True:
                            reply = sock.recv(512)
                            assert reply[3] & 15 == 0, "a name that exists"
                            unanswered.pop(int.from_bytes(reply[:2]), None)
                    except BlockingIOError:
                        pass
                    late = [number for number, at in unanswered.items() if now - at > 5]
                    lost += len(late)
                    for number in late:
                        del unanswered[number]
                    if not before and now > WARM_S:
                        before = [held(each) for each in pids]
                    time.sleep(0.001)
            after = [held(each) for each in pids]
            server.process.send_signal(signal.SIGTERM)
            assert 0 == server.process.wait(15)
    growth = [round(late[0] - early[0], 2) for early, late in zip(before, after, strict=True)]
    turns = [json.loads(path.read_text()) for path in tmp_path.glob("turns-*")]
    worker = max(turns, key=lambda each: each["turns"])
    assert 0 == lost
    assert all(abs(late[1] - early[1]) <= 2 for early, late in zip(before, after, strict=True))
    # 1 MiB an hour. Before that, over some 20,000 changes, the heap of a worker fills, and pages
    # become its own that it shared with the supervisor: 6 MiB in all.
    assert max(growth) < 4 + SOAK_S / 3600
    assert worker["p999_ms"] < 5
    assert 0 == worker["collections"]
    figure(
        "P6",
        "{soak_s:.0f} s, {sent:,} queries, {changes:,} changes: 0 lost, no descriptor more, {mib:+.1f} MiB "
        "after the first {warm_s:.0f} s (hours are not run)",
        soak_s=SOAK_S, sent=sent, changes=changes, mib=max(growth), warm_s=WARM_S,
    )  # fmt: skip
    figure(
        "P9",
        "a turn of the loop p99.9 {p999:.1f} ms, longest {most:.1f} ms of CPU; 0 full collections",
        p999=worker["p999_ms"], most=worker["longest_ms"],
    )  # fmt: skip
