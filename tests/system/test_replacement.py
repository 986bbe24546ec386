"""A reload replaces workers a few at a time, within bounds of memory, and goes back if they fail.

``installed`` is a copy of the program, in which a test makes workers fail if `whoami` is configured.
"""

from __future__ import annotations

import collections
import contextlib
import signal
import socket
import time
from pathlib import Path

import dns.message
import measure
import peers
import pytest
from replacing import Load, Peak, change, conf_of, corefile, family, get, is_answered, until

from clusterdns.serving import framing

READ = "await self._read()"
SERVES = "self._is_serving = True\n        self._beat_once"
IS_BAD = "any(p.name == 'whoami' for p in self._configuration.plugins)"
BAD = "\nbad.test {\n whoami\n}\n"
IN_FORCE = "Reloading complete"
BACK = {"[INFO] The last good configuration is in force again"}
SPAWNED = 3  # a watcher and two workers
BIG = "$ORIGIN big.test.\n@ 5 SOA ns h 1 2 3 4 5\n@ 5 NS ns\nns 5 A 192.0.2.9\n" + "".join(
    f"all 5 A 10.0.{i // 250}.{i % 250}\n" for i in range(3000)
)
MAX_GROWTH_MIB = 90  # measured: 70; 232 with a bound for each port and two whole generations


def reload(server: peers.Server, text: str) -> None:
    conf_of(server).write_text(text)
    server.process.send_signal(signal.SIGUSR1)


def changed(text: str) -> str:
    """Return a Corefile that is another one, and as good."""
    return text.replace("cluster.local {", "cluster.local {\n  ttl 7")


def shorten_start_timeout(installed: Path) -> None:
    change(installed / "processes/generation.py", "START_TIMEOUT_S = 60.0", "START_TIMEOUT_S = 2.0")


def hold_back(installed: Path, stop: Path) -> None:
    """Have workers but the first wait before they serve, as long as a file is there."""
    change(
        installed / "processes/worker.py",
        READ,
        f"while self.number and __import__('os').path.exists({str(stop)!r}): "
        f"await asyncio.sleep(0.1)\n            {READ}",
    )
    shorten_start_timeout(installed)


def is_at_rest(server: peers.Server) -> bool:
    return len(family(server.process.pid)) == SPAWNED


def test_a_reload_needs_one_worker_more(tmp_path, installed):
    change(installed / "processes/worker.py", READ, f"await asyncio.sleep(0.5); {READ}")
    port = peers.free_port()
    text = corefile(tmp_path, f" multisocket 4\n prometheus 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server, Load(server.address) as load:
        pid, most = server.process.pid, 0
        until(lambda: load.replies)
        before = family(pid)
        reload(server, changed(text))
        while IN_FORCE not in server.output:
            most = max(most, len(family(pid)))
            # Those that have been replaced are counted, too, and those that will be.
            assert "clusterdns_former_workers" in get(port, "/metrics")
        until(lambda: len(family(pid)) == len(before))
        assert 1 == len(set(before) & set(family(pid))), "but for the watcher all are new"
        # An old one may still end when the next but one is there.
        assert len(before) < most <= len(before) + 2
        assert "clusterdns_former_workers 0.0" in get(port, "/metrics")
    assert (0, 0, []) == (load.lost, load.refused, load.errors)


MAX_HELD = 4000  # connections; a reload takes long where the machine has much to do


def unread(address: tuple[str, int]) -> socket.socket:
    """Return a connection that has asked for ten megabytes and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address)
    with contextlib.suppress(OSError):
        sock.send(framing.frame(dns.message.make_query("all.big.test", "A").to_wire()) * 200)
    return sock


def test_the_memory_of_a_reload_under_attack_is_bounded(tmp_path):
    """Replies that nobody reads fill what a worker may hold, at each of its ports."""
    (tmp_path / "big").write_text(BIG)
    others = [peers.free_port() for _ in range(4)]
    text = "".join(
        f"big.test:{port} {{\n multisocket 2\n file {tmp_path}/big\n}}\n" for port in others
    )
    text = corefile(tmp_path, " multisocket 2") + text
    with peers.clusterdns(text, tmp_path) as server, contextlib.ExitStack() as stack:
        pid = server.process.pid
        held: collections.deque[socket.socket] = collections.deque()
        stack.callback(lambda: [sock.close() for sock in held])

        def fill() -> None:
            for i in range(800):
                held.append(unread(("127.0.0.1", others[i % 4])))
                if len(held) > MAX_HELD:
                    held.popleft().close()

        before = measure.pss_mib(pid)
        with Peak(pid) as peak:
            fill()
            until(lambda: is_answered(server) and len(peak.samples) > 40)
            reload(server, changed(text))
            while IN_FORCE not in server.output:
                fill()
        until(lambda: is_at_rest(server))
        print(f"{max(peak.samples) - before:.0f} MiB more")
        assert max(peak.samples) - before < MAX_GROWTH_MIB
        assert is_answered(server)


def test_a_worker_that_does_not_serve_ends_the_reload(tmp_path, installed):
    """The first new worker serves, the second never does: then the old ones serve again."""
    change(
        installed / "processes/worker.py",
        READ,
        f"await asyncio.sleep(3600 if self.number and {IS_BAD} else 0); {READ}",
    )
    shorten_start_timeout(installed)
    port = peers.free_port()
    text = corefile(tmp_path, f" multisocket 2\n prometheus 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server, Load(server.address) as load:
        until(lambda: load.replies)
        reload(server, text + BAD)
        until(lambda: "Reload failed, the last good" in server.output)
        assert "worker 1 does not serve after 2 s" in server.output
        until(lambda: is_at_rest(server))
        assert "coredns_reload_failed_total 1.0" in get(port, "/metrics")
        assert "clusterdns_former_workers 0.0" in get(port, "/metrics")
        reload(server, changed(text))
        until(lambda: IN_FORCE in server.output)
    assert (0, 0, []) == (load.lost, load.refused, load.errors)


@pytest.mark.parametrize("after_s", [0.05, 1.0])
def test_workers_that_end_soon_after_they_served_undo_the_reload(tmp_path, installed, after_s):
    """While the others are replaced, or afterwards."""
    change(
        installed / "processes/worker.py",
        SERVES,
        f"if {IS_BAD}: asyncio.get_running_loop().call_later({after_s}, __import__('os')._exit, 7)"
        f"\n        {SERVES}",
    )
    port = peers.free_port()
    text = corefile(tmp_path, f" multisocket 2\n prometheus 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server:
        until(lambda: is_at_rest(server))
        reload(server, text + BAD)
        until(
            lambda: (
                BACK & {*server.output.splitlines()} or "stays in force: worker" in server.output
            )
        )
        assert "Reload failed, the last good" in server.output
        assert "ends again and again, with status 7" in server.output
        ended = until(lambda: is_at_rest(server)) and server.output.count("ended with")
        with Load(server.address) as load:
            until(lambda: len(load.replies) > 1000)
        assert (0, 0, []) == (load.lost, load.refused, load.errors)
        assert ended == server.output.count("ended with")
        assert "coredns_reload_failed_total 1.0" in get(port, "/metrics")
        reload(server, changed(text))
        until(lambda: server.output.count(IN_FORCE) > (after_s > 0.5))


def test_a_worker_that_does_not_serve_does_not_hold_up_a_hand_over(tmp_path, installed):
    """The old one in its place goes on, which is told; it ends when the new one serves at last."""
    stop = tmp_path / "stop"
    hold_back(installed, stop)
    port = peers.free_port()
    text = corefile(tmp_path, f" multisocket 2\n prometheus 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server, Load(server.address) as load:
        until(lambda: is_at_rest(server) and load.replies)
        until(lambda: "packet path: " in server.output)
        before = family(server.process.pid)
        stop.touch()
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: "Hand-over not complete" in server.output)
        until(lambda: "clusterdns_former_workers 1.0" in get(port, "/metrics"))
        assert set(before) & set(family(server.process.pid))
        assert "Hand-over complete" not in server.output
        stop.unlink()
        until(lambda: "Hand-over complete" in server.output)
        until(lambda: is_at_rest(server))
        assert not set(before) & set(family(server.process.pid))
        assert "clusterdns_former_workers 0.0" in get(port, "/metrics")
    assert (0, 0, []) == (load.lost, load.refused, load.errors)


def test_workers_of_both_versions_end_at_one_time(tmp_path, installed):
    """Else the time that a container has to end would not do for those that hang."""
    hold_back(installed, tmp_path / "stop")
    change(installed / "processes/worker.py", "await self._finish()", "await asyncio.sleep(3600)")
    change(installed / "processes/generation.py", "STOP_TIMEOUT_S = 7.0", "STOP_TIMEOUT_S = 4.0")
    text = corefile(tmp_path, " multisocket 2")
    with peers.clusterdns(text, tmp_path) as server:
        until(lambda: is_at_rest(server) and "packet path: " in server.output)
        (tmp_path / "stop").touch()
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: "Hand-over not complete" in server.output)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert time.monotonic() - began < 7
