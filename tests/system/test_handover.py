"""SIGUSR2 with the real binary: a new version takes over, or cannot, and no query is lost.

``installed`` is a copy of the program, whose files a test changes as an upgrade would.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import beside
import dns.message
import measure
import peers
import pytest
import scoreboard
from fakeapi import FakeApi, services
from faultyapi import ALL, FaultyApi
from replacing import (
    MANIFESTS,
    QUERY,
    WEB,
    Load,
    Peak,
    change,
    conf_of,
    corefile,
    family,
    get,
    get_or_none,
    is_answered,
    until,
)

import clusterdns

HAND_OVERS = scoreboard.size("HAND_OVERS", 10, 100)
HAND_OVER_RATE = scoreboard.size("HAND_OVER_RATE", 2000, 20_000)
STARTED = "packet path: "  # the last line of a start
COMPLETE = "Hand-over complete"
MAX_MEMORY_MIB = 155  # measured: 151 at most; kubeadm's limit is 170
FAILED = "Hand-over failed, this version goes on serving: "


def hand_over(server: peers.Server, said: str = COMPLETE) -> None:
    """Ask for a hand-over and wait for how it ends."""
    until(lambda: STARTED in server.output)  # while it starts, SIGUSR2 is ignored
    before = server.output.count(said)
    server.process.send_signal(signal.SIGUSR2)
    failed = server.output.count(FAILED)
    until(
        lambda: (
            server.output.count(said) > before
            or server.output.count(FAILED) > failed
            or server.process.poll() is not None
        )
    )
    assert server.process.poll() is None, server.output
    assert server.output.count(said) > before, server.output[-2000:]


@pytest.mark.slow
def test_hand_overs_lose_no_query_and_no_count(tmp_path, installed):
    port = peers.free_port()
    text = corefile(tmp_path, f" prometheus 127.0.0.1:{port}\n multisocket 2")
    with peers.clusterdns(text, tmp_path) as server:
        pid = server.process.pid
        with Load(server.address) as load:
            for i in range(HAND_OVERS):
                workers = family(pid)
                change(installed / "__init__.py", "__version__ = ", f"__version__ = '9.{i}'  # ")
                hand_over(server)
                assert f"{COMPLETE}: 9.{i} took over from" in server.output
                until(lambda: len(family(pid)) == 3)
                assert not set(workers) & set(family(pid))
        assert (0, 0, []) == (load.lost, load.refused, load.errors)
        assert 1 == len(set(load.replies.values()))
        counted = [
            float(line.split()[-1])
            for line in get(port, "/metrics").splitlines()
            if line.startswith("coredns_dns_requests_total") and 'type="A"' in line
        ]
        # And the probe of `peers`, or a few.
        assert load.sent + load.sent // 50 < sum(counted) < load.sent + load.sent // 50 + 100
        assert "panic" not in server.output
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        hand_over(server)
        until(lambda: descriptors >= len(list(Path(f"/proc/{pid}/fd").iterdir())))


def test_http_waits_for_a_moment_and_is_never_refused(tmp_path):
    port = peers.free_port()
    text = corefile(tmp_path, f" health 127.0.0.1:{port}\n ready 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server:
        answers, longest, stopping = set[str](), 0.0, threading.Event()

        def probe() -> None:
            nonlocal longest
            while not stopping.is_set():
                began = time.monotonic()
                try:
                    answers.update((get(port, "/health"), get(port, "/ready")))
                except OSError as error:
                    answers.add(str(error))
                longest = max(longest, time.monotonic() - began)

        thread = threading.Thread(target=probe)
        thread.start()
        for _ in range(3):
            hand_over(server)
        stopping.set()
        thread.join()
        assert {"OK"} == answers
        assert longest < 5  # the timeout of kubeadm's liveness probe


def test_a_query_under_way_is_answered_and_idle_connections_are_closed(tmp_path):
    with held_upstream() as (upstream, answer):
        text = f". {{\n forward . 127.0.0.1:{upstream} {{\n  prefer_udp\n }}\n}}\n"
        text += "w.example {\n whoami\n}\n"
        with running(text, tmp_path) as server:
            query = dns.message.make_query("slow.example.", "A").to_wire()
            with (
                socket.create_connection(server.address, 10) as busy,
                socket.create_connection(server.address, 10) as idle,
                socket.socket(type=socket.SOCK_DGRAM) as datagrams,
            ):
                datagrams.connect(server.address)
                datagrams.settimeout(10)
                asked = dns.message.make_query("w.example.", "A").to_wire()
                idle.sendall(struct.pack("!H", len(asked)) + asked)
                assert peers.read_frame(idle)
                server.process.send_signal(signal.SIGUSR2)
                until(lambda: "Reloading" in server.output)  # `forward` waits for 2 s
                busy.sendall(struct.pack("!H", len(query)) + query)
                datagrams.send(query)
                assert b"" == idle.recv(1)  # in order, when the new version serves
                answer()
                for reply in (peers.read_frame(busy), datagrams.recv(512)):
                    assert reply is not None
                    assert "192.0.2.9" in str(dns.message.from_wire(reply).answer)
                assert b"" == busy.recv(1)
            until(lambda: COMPLETE in server.output)


def test_a_connection_that_has_just_been_made_gets_its_reply(tmp_path):
    """At the end of a worker, too, whose client has connected and not yet sent its query."""
    text = corefile(tmp_path, " timeouts {\n  read 30s\n }")  # a hand-over may take longer than 3 s
    framed = struct.pack("!H", len(QUERY)) + QUERY
    with peers.clusterdns(text, tmp_path) as server, contextlib.ExitStack() as stack:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(server.address, 30))

        for number in (signal.SIGUSR2, signal.SIGTERM):
            silent, halfway, idle = connected(), connected(), connected()
            halfway.sendall(framed[:5])
            idle.sendall(framed)
            assert peers.read_frame(idle)
            server.process.send_signal(number)
            assert b"" == idle.recv(1)  # the worker has begun to end
            silent.sendall(framed)
            halfway.sendall(framed[5:])
            assert peers.read_frame(silent)
            assert peers.read_frame(halfway)
            assert (b"", b"") == (silent.recv(1), halfway.recv(1))
            until(lambda: COMPLETE in server.output)
        assert 0 == server.process.wait(5)


def overflows() -> int:
    """Return how many datagrams the host has dropped since their socket was full."""
    heads, counts = [
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if "Udp:" in line
    ]
    return int(counts[heads.index("RcvbufErrors")])


@pytest.mark.row("P11")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hand_overs_at_full_speed(tmp_path, installed, figure):
    """C18: 0 lost at 20,000 a second with ``FULL=1``, from 16 sockets of dnsperf."""
    program = shutil.which("dnsperf")
    if program is None:
        pytest.skip("needs dnsperf: apt-get install dnsperf")
    (tmp_path / "queries").write_text(f"{WEB} A\n")
    with peers.clusterdns(corefile(tmp_path, " multisocket 2"), tmp_path) as server:
        arguments = [
            program, "-s", server.host, "-p", str(server.port), "-d", str(tmp_path / "queries"),
            "-Q", str(HAND_OVER_RATE), "-c", "16", "-l", "3600", "-t", "10",
            "-q", "20000", "-b", "4096",
        ]  # fmt: skip
        out = tmp_path / "dnsperf.out"  # a pipe that nobody reads would stop it at its timeouts
        full = overflows()
        with (
            out.open("w") as output,
            subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT) as load,
        ):
            try:
                began = time.monotonic()
                for _ in range(HAND_OVERS):
                    hand_over(server)
                took_s = time.monotonic() - began
            finally:
                load.send_signal(signal.SIGINT)
            load.wait(30)
        said = (
            out.read_text()[-2000:]
            + f"UDP sockets of the host were full {overflows() - full} times"
        )
        counts = dict(re.findall(r"Queries (sent|completed|lost): +(\d+)", said))
        assert int(counts["sent"]) > 0
        # dnsperf calls interrupted, not lost, what is under way when it is told to stop.
        assert "0" == counts["lost"], said
        assert "NOERROR" in said
        assert "FAIL" not in said
        figure(
            "P11",
            "{count} in {s:.0f} s at {rate:,} a second, two workers: 0 of {sent:,} queries lost",
            count=HAND_OVERS, s=took_s, rate=HAND_OVER_RATE, sent=int(counts["sent"]),
        )  # fmt: skip


@contextlib.contextmanager
def held_upstream():
    """Yield the port of an upstream server, and what makes it answer, also queries to come.

    A query may still be on its way: a hand-over takes less time than a look for its line in the log.
    """
    is_released, is_over = threading.Event(), threading.Event()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.1)

        def serve() -> None:
            is_released.wait()
            while not is_over.is_set():
                with contextlib.suppress(TimeoutError):
                    wire, client = sock.recvfrom(512)
                    query = dns.message.from_wire(wire)
                    reply = dns.message.make_response(query)
                    name = query.question[0].name
                    reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.9"))
                    sock.sendto(reply.to_wire(), client)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield sock.getsockname()[1], is_released.set
        finally:
            is_over.set()
            is_released.set()
            serving.join()


@contextlib.contextmanager
def running(text: str, directory: Path) -> Iterator[peers.Server]:
    """Run a server whose upstream does not answer the probe of `peers`."""
    command = [sys.executable, "-m", "clusterdns"]
    with peers.running(command, text, directory) as server:
        until(lambda: f"clusterdns-{clusterdns.__version__}" in server.output)
        yield server


def test_what_is_known_is_handed_over_while_the_api_server_is_down(tmp_path):
    space = {"kind": "Namespace", "metadata": {"name": "demo"}}
    service = {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
    }
    with FaultyApi([space, service]) as api:
        text = f". {{\n kubernetes cluster.local {{\n  endpoint {api.url}\n }}\n}}\n"
        with peers.clusterdns(text, tmp_path) as server:
            until(lambda: is_answered(server))
            api.down()
            with Load(server.address) as load:
                hand_over(server)
                hand_over(server)  # what was inherited is handed on
            assert (0, []) == (load.lost, load.errors)
            assert 1 == len(set(load.replies.values()))
            assert is_answered(server)
            api.up()
            address = "10.96.0.8"
            service["spec"] = {**service["spec"], "clusterIP": address, "clusterIPs": [address]}  # type: ignore[dict-item]
            api.apply(service)
            until(lambda: b"\x0a\x60\0\x08" in (peers.ask_udp(server.address, QUERY) or b""))
        assert ALL not in api.statuses


def test_a_manifest_that_is_broken_at_the_time_keeps_its_names(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        file = tmp_path / "cluster" / "all.yaml"
        file.write_text("kind: [")
        until(lambda: "all.yaml:2: " in server.output)
        hand_over(server)
        time.sleep(1)
        assert is_answered(server)
        file.write_text(MANIFESTS.replace("10.96.0.7", "10.96.0.8"))
        until(lambda: b"\x0a\x60\0\x08" in (peers.ask_udp(server.address, QUERY) or b""))


BROKEN = {
    "does not compile": ("commands/serve.py", "import argparse", "import argparse ]", "status 1"),
    "an import fails": (
        "commands/serve.py",
        "import argparse",
        "import nothing_like_it",
        "status 1",
    ),
    "ends": ("commands/serve.py", "import argparse", "import os; os._exit(7)", "status 7"),
    "is killed": ("commands/serve.py", "import argparse", "import os; os.abort()", "signal 6"),
    "hangs": ("commands/serve.py", "import argparse", "import time; time.sleep(99)", "after 3 s"),
    "a worker ends": (
        "processes/worker.py",
        "self._is_serving = True",
        "raise SystemExit",
        "a worker has ended",
    ),
    "a worker hangs": (
        "processes/worker.py",
        "self._is_serving = True",
        "await asyncio.sleep(99)",
        "after 3 s",
    ),
    "another format": ("processes/estate.py", "FORMAT = 1", "FORMAT = 2", "status 1"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_version_that_cannot_serve_leaves_the_old_one_in_force(tmp_path, installed, how):
    file, old, new, said = BROKEN[how]
    change(installed / "processes/handover.py", "REHEARSAL_S = 60.0", "REHEARSAL_S = 3.0")
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        before = family(server.process.pid)
        with Load(server.address) as load:
            change(installed / file, old, new)
            hand_over(server, FAILED)
        assert said in server.output.split(FAILED)[1].splitlines()[0]
        assert (0, []) == (load.lost, load.errors)
        until(lambda: before == family(server.process.pid))
        change(installed / file, new, old)
        hand_over(server)
        assert is_answered(server)


def test_a_bad_corefile_is_not_taken_over(tmp_path):
    text = corefile(tmp_path)
    with peers.clusterdns(text, tmp_path) as server, socket.socket() as taken:
        conf = conf_of(server)
        conf.write_text(text + "b.example {\n wohami\n}\n")
        hand_over(server, FAILED)
        reason = server.output.split(FAILED)[1].splitlines()[0]
        assert f"{conf}:8: wohami: " in reason
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        conf.write_text(text + f"b.example:{taken.getsockname()[1]} {{\n whoami\n}}\n")
        hand_over(server, FAILED)
        assert "ddress already in use" in server.output.split(FAILED)[2]
        assert is_answered(server)
        conf.write_text(
            text.replace("kubernetes", f"ready :{(port := peers.free_port())}\n kubernetes")
        )
        hand_over(server)
        assert "OK" == get(port, "/ready")


def test_a_corefile_from_standard_input_is_handed_on(tmp_path):
    port = peers.free_port()
    command = [sys.executable, "-m", "clusterdns", "-conf", "stdin", "-p", str(port)]
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output) as process,
    ):
        server = peers.Server("127.0.0.1", port, process, log)
        try:
            assert process.stdin is not None
            process.stdin.write(corefile(tmp_path).encode())
            process.stdin.close()
            until(lambda: "clusterdns-" in server.output)
            hand_over(server)
            hand_over(server)
            assert is_answered(server)
        finally:
            process.terminate()
            assert 0 == process.wait(10)


@pytest.mark.slow
def test_two_signals_at_once_are_one_hand_over_or_two(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server, Load(server.address) as load:
        for pause_s in (0, 0.01, 0.3, 0.6, 0.9):
            server.process.send_signal(signal.SIGUSR2)
            time.sleep(pause_s)
            hand_over(server)
        time.sleep(3)
        assert 3 > len(family(server.process.pid))
    assert (0, 0, []) == (load.lost, load.refused, load.errors)
    assert "failed" not in server.output


def test_a_reload_and_a_hand_over_wait_for_each_other(tmp_path):
    text = corefile(tmp_path)
    with peers.clusterdns(text, tmp_path) as server, Load(server.address) as load:
        conf = conf_of(server)
        for i, (first, second) in enumerate(
            ((signal.SIGUSR1, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGUSR1))
        ):
            conf.write_text(text.replace("manifests", f"ttl {10 + i}\n  manifests"))
            server.process.send_signal(first)
            time.sleep(0.05)
            server.process.send_signal(second)
            until(lambda i=i: server.output.count(COMPLETE) == i + 1)
            reply = peers.ask_udp(server.address, QUERY)
            assert reply is not None
            assert 10 + i == dns.message.from_wire(reply).answer[0].ttl
    assert (0, 0, []) == (load.lost, load.refused, load.errors)
    assert "failed" not in server.output


def test_the_lab_keeps_the_port_that_it_found(tmp_path):
    """Without -p a port that is free is taken, and the next version would find another one."""
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clusterdns", "lab"], stdout=log, stderr=log, cwd=tmp_path
        )

        def said() -> str:
            return (tmp_path / "log").read_text()

        try:
            until(lambda: STARTED in said())
            found = re.search(r"served on port (\d+)", said())
            assert found is not None
            process.send_signal(signal.SIGUSR2)
            until(lambda: COMPLETE in said())
            query = beside.query("web.uit.svc.cluster.local")
            assert peers.ask_udp(("127.0.0.1", int(found[1])), query) is not None
            assert 1 == said().count("served on port"), said()
        finally:
            process.terminate()
            assert 0 == process.wait(20)


def test_workers_are_replaced_one_after_the_other(tmp_path, installed):
    """The old worker 1 serves while the new one, for 2 s, does not."""
    change(
        installed / "processes/worker.py", "await self._read()", "await asyncio.sleep(2 * self.number); await self._read()",
    )  # fmt: skip
    port = peers.free_port()
    text = corefile(tmp_path, f" multisocket 2\n ready 127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server, Load(server.address) as load:
        pid, most, ready = server.process.pid, 0, set()
        until(lambda: STARTED in server.output)
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: "Reloading" in server.output)  # the rehearsal is over
        while COMPLETE not in server.output:
            most = max(most, len(family(pid)))
            ready.add(get_or_none(port, "/ready"))
        until(lambda: len(family(pid)) == 3)
        assert most <= 5  # two watchers, and one worker more than before
        assert {"OK"} == ready
    assert (0, 0, []) == (load.lost, load.refused, load.errors)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_memory_of_a_hand_over_of_5000_services_stays_bounded(tmp_path):
    """Each name was asked for, so tables are full; queries go on during both hand-overs."""
    names = [f"s{i}.default.svc.cluster.local." for i in range(5000)]
    queries = [dns.message.make_query(name, "A").to_wire() for name in names]
    with FakeApi(services(5000)) as api:
        port = peers.free_port()
        text = (
            f". {{\n errors\n multisocket 2\n ready 127.0.0.1:{port}\n cache 30\n loadbalance\n"
            f" prometheus 127.0.0.1:{peers.free_port()}\n"
            f" kubernetes cluster.local in-addr.arpa ip6.arpa {{\n  endpoint {api.url}\n"
            "  pods insecure\n }\n}\n"
        )
        with peers.clusterdns(text, tmp_path) as server:
            until(lambda: get_or_none(port, "/ready") == "OK")
            for query in queries:
                assert peers.ask_udp(server.address, query) is not None
            pid = server.process.pid
            for _ in range(2):  # the second one from a process that has taken over
                with Load(server.address) as load, Peak(pid) as peak:
                    hand_over(server)
                    until(lambda: len(family(pid)) == 3)
                assert (0, []) == (load.lost, load.errors)
                after = measure.pss_mib(pid)
                said = f"{peak.samples[0]:.0f} MiB before, {max(peak.samples):.0f} at most, {after:.0f} after"
                print(f"hand-over: {said}, {len(peak.samples)} samples")
                assert max(peak.samples) < MAX_MEMORY_MIB, said
            reply = peers.ask_udp(server.address, queries[4999])
            assert reply is not None
            assert dns.message.from_wire(reply).answer


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_signal_to_stop_ends_a_hand_over(tmp_path, after_s):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        pid = server.process.pid
        with Load(server.address) as load:
            time.sleep(0.1)
            server.process.send_signal(signal.SIGUSR2)
            time.sleep(after_s)
            processes = family(pid)
            server.process.send_signal(signal.SIGTERM)
            assert 0 == server.process.wait(10)
        # The kernel keeps one error for each socket, until it is asked: two may become one.
        assert 0 <= load.lost <= load.refused // 2 + 16
        assert load.replies
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
