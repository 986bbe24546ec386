"""P5: the clock of the machine moves by a day, both ways, while clusterdns serves.

A program around the server's moves it for Python, in which alone the wall clock is read: only that
clock, as a correction by NTP or an operator does. Ages are of the monotonic clock, so nothing may
expire or get stuck.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import dns.message
import dns.rdatatype
import peers
import pytest
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

MOVED = """import sys, time
wall, wall_ns = time.time, time.time_ns
def moved_s():
    with open({clock!r}) as file:
        return int(file.read())
time.time = lambda: wall() + moved_s()
time.time_ns = lambda: wall_ns() + moved_s() * 10**9
sys.path.insert(0, "")
from clusterdns.__main__ import main
sys.exit(main())
"""
DAY_S = 86_400
MANIFESTS = """apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: ADDRESS, clusterIPs: [ADDRESS], ports: [{port: 80}]}
"""


def ask(server: peers.Server, qname: str, rtype: str = "A") -> dns.message.Message:
    reply = peers.ask_udp(server.address, dns.message.make_query(qname, rtype).to_wire())
    assert reply is not None, qname
    return dns.message.from_wire(reply)


def until(condition, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.row("P5")
def test_p5_the_clock_moves_by_a_day(tmp_path, figure):
    clock = tmp_path / "clock"

    def move(seconds: int) -> None:
        (tmp_path / ".clock").write_text(str(seconds))
        (tmp_path / ".clock").rename(clock)

    move(0)
    program = tmp_path / "clusterdns-moved.py"
    program.write_text(MOVED.format(clock=str(clock)))
    manifests = tmp_path / "cluster"
    manifests.mkdir()
    (manifests / "all.yaml").write_text(MANIFESTS.replace("ADDRESS", "10.96.0.7"))
    (tmp_path / "zone").write_text(
        "$TTL 60\n@ IN SOA ns h 1 2 3 4 5\n@ IN NS ns\nns IN A 192.0.2.3\n"
    )
    upstream = ScriptedUpstream(
        Scripted(f"{name}.example.", "answer", 300, 1, 1, "192.0.2.1")
        for name in ("kept", "fresh", "later")
    )
    text = (
        f". {{\n kubernetes cluster.local {{\n  manifests {manifests}\n }}\n"
        f" file zone z.example {{\n  reload 1s\n }}\n cache 600\n forward . {upstream.address}\n"
        " reload 2s 0s\n}\n"
    )
    web = "web.demo.svc.cluster.local."
    try:
        with peers.running([sys.executable, str(program)], text, tmp_path) as server:
            peers.wait_until_answering(server)
            processes = children(server.process.pid)
            asked = 0
            for _ in range(3):  # also from the table
                asked = ask(server, "kept.example.").answer[0].ttl
            since = time.monotonic()
            for i, moved_s in enumerate((DAY_S, -DAY_S, 0)):
                move(moved_s)
                time.sleep(1)
                for _ in range(3):
                    ttl = ask(server, "kept.example.").answer[0].ttl
                    # A TTL wrong by a day would be 0, or more than it was.
                    assert abs(ttl - (asked - (time.monotonic() - since))) <= 2
                    assert ["10.96.0.7"] == [str(r) for r in ask(server, web).answer[0]]
                assert 1 == upstream.asked("kept.example.", dns.rdatatype.A), "it has expired"
                # Timers go on: a query upstream, manifests, zone files, the Corefile.
                name = ("fresh.example.", "later.example.", "kept.example.")[i]
                assert ask(server, name).answer
                address = f"10.96.0.{20 + i}"
                (manifests / "more.yaml").write_text(
                    MANIFESTS.replace("name: web", f"name: more{i}").replace("ADDRESS", address)
                )
                more = f"more{i}.demo.svc.cluster.local."
                until(lambda more=more: ask(server, more).answer)
                (tmp_path / "zone").write_text(
                    f"$TTL 60\n@ IN SOA ns h {2 + i} 2 3 4 5\n@ IN NS ns\nn{i} IN A 192.0.2.3\n"
                )
                until(lambda i=i: ask(server, f"n{i}.z.example.").answer)
            # Nobody was taken for hung: a worker that does not beat is replaced after 3.5 s.
            time.sleep(4)
            assert processes == children(server.process.pid)
            assert "does not beat" not in server.output
            conf = Path(server.process.args[3])  # type: ignore[index,arg-type]
            conf.write_text(conf.read_text().replace("cache 600", "cache 601"))
            move(DAY_S)
            until(lambda: "Reloading complete" in server.output)
            server.process.send_signal(signal.SIGTERM)
            assert 0 == server.process.wait(10)
            figure(
                "P5",
                "a day on, a day back, right again: no TTL wrong by 2 s, nothing expired, all timers go on",
            )
    finally:
        upstream.stop()
