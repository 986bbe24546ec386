"""The real binary as a process: flags, signals, reload, crashes of its children, HTTP endpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import dns.message
import dns.rdatatype
import peers
import pytest
import scoreboard

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n"
SERVICE = """---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: demo}}
spec: {{clusterIP: {address}, clusterIPs: [{address}], ports: [{{port: 80}}]}}
"""
WEB = "web.demo.svc.cluster.local."
RELOADS = scoreboard.size("RELOADS", 3, 100)


def corefile(directory: Path, *, ttl: int = 30, more: str = "") -> str:
    manifests = directory / "cluster"
    manifests.mkdir(exist_ok=True)
    (manifests / "all.yaml").write_text(NAMESPACE + SERVICE.format(name="web", address="10.96.0.7"))
    return (
        f"cluster.local {{\n kubernetes {{\n  manifests {manifests}\n  ttl {ttl}\n }}\n{more}\n}}\n"
    )


def ask(server: peers.Server, qname: str, rtype: str = "A") -> dns.message.Message:
    query = dns.message.make_query(qname, rtype)
    reply = peers.ask_udp(server.address, query.to_wire())
    assert reply is not None
    return dns.message.from_wire(reply)


def addresses(server: peers.Server, qname: str) -> list[str]:
    return [str(item) for rrset in ask(server, qname).answer for item in rrset]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(condition, timeout_s: float = 10):
    """Return the first true value of ``condition``, asked again and again."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)
    return found


def children(pid: int) -> dict[int, str]:
    """Return the child processes and what they are: the supervisor forks watchers first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    pids = sorted(int(word) for word in text.split())
    return {child: "watcher" if child == pids[0] else "worker" for child in pids}


def child(pid: int, role: str) -> int:
    return next(number for number, name in children(pid).items() if name == role)


def run(
    *arguments: str, cwd: Path | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", *arguments],
        cwd=cwd, input=text, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_version_and_plugins():
    assert run("-version").stdout.startswith("clusterdns-")
    assert "dns.kubernetes\n" in run("-plugins").stdout
    assert run("help", "kubernetes").stdout.startswith("kubernetes - ")


def test_a_missing_corefile_is_an_error(tmp_path):
    done = run("-conf", "nowhere", cwd=tmp_path)
    assert (1, True) == (done.returncode, "nowhere" in done.stderr)


@pytest.mark.row("P8")
def test_a_mistake_names_file_line_and_directive(tmp_path, figure):
    (tmp_path / "Corefile").write_text(". {\n    errors\n    wohami\n}\n")
    began = time.monotonic()
    done = run(cwd=tmp_path)
    took_s = time.monotonic() - began
    assert took_s < 5  # 1 s on a machine of its own
    assert done.returncode == 1
    assert "Corefile:3: wohami: " in done.stderr
    assert "clusterdns check " in done.stderr
    assert "whoami" in done.stderr
    figure("P8", "a mistake: status 1 after {s:.2f} s, file, line and word named", s=took_s)


def test_the_help_lists_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "clusterdns", "-h"], capture_output=True, text=True, check=True
    )
    for word in ("check", "translate", "lab", "help"):
        assert f"\n  {word} " in done.stdout


@pytest.mark.parametrize(
    ("fake", "said"), [("sys.platform = 'darwin'", "Linux"), ("sys.version_info = (3, 10)", "3.11")]
)
def test_what_it_cannot_run_on_is_said_at_once(fake, said):
    code = f"import sys; {fake}; import clusterdns.__main__"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert said in done.stderr


@pytest.mark.row("P8")
def test_an_address_in_use_is_an_error(tmp_path, figure):
    port = peers.free_port()
    with peers.socket.socket(type=peers.socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        done = run(
            "-conf", "stdin", text=f".:{port} {{\n bind 127.0.0.1\n whoami\n}}\n", cwd=tmp_path
        )
    assert (1, True) == (done.returncode, f"127.0.0.1:{port}" in done.stderr)
    figure("P8", "an address in use: status 1, the address named")


def test_without_a_corefile_it_is_whoami(tmp_path):
    port = peers.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", "-dns.port", str(port), "-pidfile", "pid"],
        cwd=tmp_path, stdout=subprocess.PIPE,
    )  # fmt: skip
    server = peers.Server("127.0.0.1", port, process, tmp_path / "none")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f".:{port}\n".encode()
        reply = ask(server, "example.org.")
        assert [dns.rdatatype.A, dns.rdatatype.SRV] == [rrset.rdtype for rrset in reply.additional]
        assert (tmp_path / "pid").read_text() == f"{process.pid}\n"
    finally:
        process.terminate()
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("signals", "status"),
    [([signal.SIGTERM], 0), ([signal.SIGINT], 0), ([signal.SIGQUIT], 0)],
)
def test_signals_that_stop(tmp_path, signals, status):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        before = children(server.process.pid)
        for number in signals:
            server.process.send_signal(number)
        assert status == server.process.wait(10)
        for pid in before:
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_second_interrupt_ends_it_at_once(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        os.kill(child(server.process.pid, "worker"), signal.SIGSTOP)  # cannot drain
        server.process.send_signal(signal.SIGINT)
        until(lambda: "SIGINT" in server.output)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(2) == 2


def test_other_signals_change_nothing(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
            server.process.send_signal(number)
        assert ["10.96.0.7"] == addresses(server, WEB)


class Load:
    """Asks one question again and again until told to stop; counts what came of it."""

    def __init__(self, server: peers.Server) -> None:
        self._server = server
        self.answers: list[list[str]] = []
        self.failures: list[object] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(addresses(self._server, WEB))
            except (AssertionError, OSError) as error:
                self.failures.append(error)
            time.sleep(0.001)


def private_mib(pid: int) -> float:
    """Return the memory that a process has of its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


@pytest.mark.row("P2")
def test_reload_loses_no_query(tmp_path, figure):
    """P2: good ones and broken ones in turn; `RELOADS=100` is the full size."""
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server, Load(server) as load:
        conf = next(tmp_path.glob("Corefile-*"))
        for i in range(RELOADS):
            conf.write_text(corefile(tmp_path, ttl=10 + i, more=" nonsense"))
            server.process.send_signal(signal.SIGUSR1)
            until(lambda i=i: server.output.count("Reload failed") == i + 1)
            conf.write_text(corefile(tmp_path, ttl=10 + i))
            server.process.send_signal(signal.SIGUSR1)
            until(lambda i=i: server.output.count("Reloading complete") == i + 1)
            assert 10 + i == ask(server, WEB).answer[0].ttl
            if not i:
                first_mib = private_mib(server.process.pid)
        growth_mib = private_mib(server.process.pid) - first_mib
        assert growth_mib < 5
        assert [] == load.failures
        assert {("10.96.0.7",)} == {tuple(answer) for answer in load.answers}
        figure(
            "P2",
            "{reloads} good and {reloads} broken ones in turn: 0 of {asked:,} queries lost, supervisor "
            "{mib:+.1f} MiB",
            reloads=RELOADS, asked=len(load.answers), mib=growth_mib,
        )  # fmt: skip


def test_a_bad_corefile_leaves_the_last_good_one_in_force(tmp_path):
    text = corefile(tmp_path, more=f"prometheus 127.0.0.1:{(web := peers.free_port())}")
    with peers.clusterdns(text, tmp_path) as server:
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(text.replace("ttl 30", "ttl often"))
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: "Reload failed" in server.output)
        assert f"{conf.name}:4: ttl: " in server.output
        assert ask(server, WEB).answer[0].ttl == 30
        assert "coredns_reload_failed_total 1.0" in get(web, "/metrics")[1]
        conf.write_text(text.replace("ttl 30", "ttl 31"))
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: ask(server, WEB).answer[0].ttl == 31)


@pytest.mark.parametrize("emptied", ["", "# being written\n"])
def test_an_emptied_corefile_leaves_the_last_good_one_in_force(tmp_path, emptied):
    """As an editor leaves it for a moment: without a server block, `whoami` would be served."""
    text = corefile(tmp_path)
    with peers.clusterdns(text, tmp_path) as server:
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(emptied)
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: "Reload failed" in server.output)
        assert ["10.96.0.7"] == addresses(server, WEB)
        conf.write_text(text.replace("ttl 30", "ttl 31"))
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: ask(server, WEB).answer[0].ttl == 31)


def test_a_reload_to_an_address_in_use_leaves_the_last_good_one_in_force(tmp_path):
    text = corefile(tmp_path)
    with peers.clusterdns(text, tmp_path) as server, peers.socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        conf = next(tmp_path.glob("Corefile-*"))
        port = taken.getsockname()[1]
        conf.write_text(f"{text}\nexample.org:{port} {{\n bind 127.0.0.1\n whoami\n}}\n")
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: "Reload failed" in server.output)
        assert ["10.96.0.7"] == addresses(server, WEB)


def test_imported_files_are_part_of_what_is_reloaded(tmp_path):
    """As ConfigMaps with more server blocks have them: new ones, changed ones, broken ones."""
    custom = tmp_path / "custom"
    custom.mkdir()
    text = corefile(tmp_path) + f"\nimport {custom}/*.server\n"
    with peers.clusterdns(text, tmp_path) as server:

        def reload(count: int, done: str = "Reloading complete") -> None:
            server.process.send_signal(signal.SIGUSR1)
            until(lambda: server.output.count(done) == count)

        block = f"example.org:{server.port} {{\n whoami\n}}\n"
        (custom / "a.server").write_text(block)
        reload(1)
        assert ask(server, "example.org.").additional
        (custom / "a.server").write_text(block + "nonsense {\n")
        reload(2)
        assert 1 == server.output.count("this file is left out: "), server.output
        server.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        assert 1 == server.output.count("this file is left out: "), "it has not changed"
        (custom / "a.server").write_text(block.replace("org", "net"))
        reload(3)
        assert ask(server, "example.net.").additional
        assert not ask(server, "example.org.").additional
        (custom / "a.server").unlink()
        reload(4)
        assert not ask(server, "example.net.").additional


def test_an_equal_corefile_is_not_reloaded(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        before = children(server.process.pid)
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(conf.read_text().replace(" ttl", "   ttl"))
        server.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        assert before == children(server.process.pid)


def test_a_reload_adds_and_removes_listeners(tmp_path):
    text, other = corefile(tmp_path), peers.free_port()
    with peers.clusterdns(text, tmp_path) as server:
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(f"{text}\nexample.org:{other} {{\n whoami\n}}\n")
        server.process.send_signal(signal.SIGUSR1)
        second = server._replace(port=other)
        until(lambda: "Reloading complete" in server.output)
        assert ask(second, "example.org.").additional
        conf.write_text(text)
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: server.output.count("Reloading complete") == 2)
        with pytest.raises(OSError):
            peers.ask_udp(second.address, dns.message.make_query("example.org.", "A").to_wire())
        assert ["10.96.0.7"] == addresses(server, WEB)


@pytest.mark.row("P3")
def test_a_killed_worker_is_replaced(tmp_path, figure):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        first = child(server.process.pid, "worker")
        began = time.monotonic()
        os.kill(first, signal.SIGKILL)
        assert ["10.96.0.7"] == addresses(server, WEB)  # it waited in the socket, which stayed
        assert first not in children(server.process.pid)
        took_s = time.monotonic() - began
        assert took_s < 3  # 1 s on a machine of its own
        figure("P3", "a worker: the query that waited is answered after {s:.2f} s", s=took_s)


def test_a_signal_to_the_whole_group_reaches_workers_and_ends_none_of_them(tmp_path):
    """As `systemctl stop` sends SIGTERM to all: the supervisor lets the others finish."""
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        before = children(server.process.pid)
        for pid in before:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        time.sleep(0.2)
        assert ["10.96.0.7"] == addresses(server, WEB)
        assert before == children(server.process.pid)


@pytest.mark.row("P3")
def test_a_killed_watcher_costs_no_answer_and_comes_back(tmp_path, figure):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server, Load(server) as load:
        os.kill(child(server.process.pid, "watcher"), signal.SIGKILL)
        (tmp_path / "cluster" / "new.yaml").write_text(
            SERVICE.format(name="new", address="10.96.0.8")
        )
        until(lambda: addresses(server, "new.demo.svc.cluster.local.") == ["10.96.0.8"])
        assert [] == load.failures
        assert {("10.96.0.7",)} == {tuple(answer) for answer in load.answers}
        figure("P3", "a watcher: 0 of {asked} queries lost", asked=len(load.answers))


def test_a_supervisor_that_dies_takes_its_children_along(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        pids = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        for pid in pids:
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_new_service_resolves_although_it_was_asked_for_before(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        name, path = "late.demo.svc.cluster.local.", tmp_path / "cluster" / "late.yaml"
        for _ in range(3):  # the third is from the table
            assert ask(server, name).rcode() == 3
        path.write_text(SERVICE.format(name="late", address="10.96.0.9"))
        until(lambda: addresses(server, name) == ["10.96.0.9"], 2)
        path.write_text(SERVICE.format(name="late", address="10.96.0.10"))
        until(lambda: addresses(server, name) == ["10.96.0.10"], 2)
        path.write_text("kind: [")  # what cannot be read leaves what was read before
        time.sleep(0.7)
        assert ["10.96.0.10"] == addresses(server, name)
        assert "late.yaml:2: " in server.output
        path.unlink()
        until(lambda: ask(server, name).rcode() == 3, 2)


def test_health_ready_metrics_and_lameduck(tmp_path):
    ports = [peers.free_port() for _ in range(3)]
    more = "health 127.0.0.1:{} {{\n lameduck 1s\n}}\nready 127.0.0.1:{}\nprometheus 127.0.0.1:{}"
    with peers.clusterdns(corefile(tmp_path, more=more.format(*ports)), tmp_path) as server:
        health, ready, metrics = ports
        assert get(health, "/health") == (200, "OK")
        assert get(ready, "/ready") == (200, "OK")
        assert get(ready, "/nothing")[0] == 404
        ask(server, WEB)
        ask(server, WEB)
        text = get(metrics, "/metrics")[1]
        labels = f'server="dns://:{server.port}",type="A",view="",zone="cluster.local."'
        assert f'coredns_dns_requests_total{{family="1",proto="udp",{labels}}} 2.0' in text
        server.process.send_signal(signal.SIGTERM)
        until(lambda: get(ready, "/ready") == (503, "Shutting down"))
        assert get(health, "/health") == (200, "OK")
        assert ["10.96.0.7"] == addresses(server, WEB)
        assert server.process.wait(5) == 0


def test_two_workers_share_the_sockets(tmp_path):
    with peers.clusterdns(corefile(tmp_path, more="multisocket 2"), tmp_path) as server:
        assert len(children(server.process.pid)) == 3
        for _ in range(50):
            assert ["10.96.0.7"] == addresses(server, WEB)


def test_a_reply_comes_from_the_address_that_was_asked(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        for host in ("127.0.0.1", "127.0.0.2", "127.9.9.9"):  # only the first is an interface's
            assert ["10.96.0.7"] == addresses(server._replace(host=host), WEB)


@pytest.mark.row("P4")
def test_a_worker_that_hangs_is_replaced(tmp_path, figure):
    """P4: within 5 s."""
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        stuck = child(server.process.pid, "worker")
        os.kill(stuck, signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: stuck not in children(server.process.pid), 5.5)
        figure("P4", "replaced after {s:.1f} s", s=time.monotonic() - began)
        until(lambda: addresses(server, WEB) == ["10.96.0.7"])
        assert "does not beat any more" in server.output


def test_all_processes_may_be_frozen_for_a_while(tmp_path):
    """As a paused container is: nobody is to blame for it."""
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        pids = [server.process.pid, *children(server.process.pid)]
        for number, wait_s in ((signal.SIGSTOP, 5), (signal.SIGCONT, 2)):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(wait_s)
        assert pids[1:] == [*children(server.process.pid)]
        assert ["10.96.0.7"] == addresses(server, WEB)


def test_the_corefile_is_watched_after_a_signal_to_reload(tmp_path):
    """CoreDNS 1.15.0 watches no more after one SIGUSR1."""
    with peers.clusterdns(corefile(tmp_path, more=" reload 2s 0s"), tmp_path) as server:
        conf = next(tmp_path.glob("Corefile-*"))
        conf.write_text(corefile(tmp_path, ttl=10, more=" reload 2s 0s"))
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: ask(server, WEB).answer[0].ttl == 10)
        conf.write_text(corefile(tmp_path, ttl=11, more=" reload 2s 0s"))
        until(lambda: ask(server, WEB).answer[0].ttl == 11)


@pytest.mark.row("P1")
@pytest.mark.parametrize("pure", ["", "1"])
def test_a_query_is_answered_or_refused_when_the_process_ends(tmp_path, monkeypatch, pure, figure):
    """P1: at 2,000 a second none is lost; ICMP tells the client of those that come too late."""
    if pure:
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    runs, asked, came_late = scoreboard.size("ENDS", 1, 50), 0, 0
    for _ in range(runs):
        sent, refused = end_under_load(tmp_path)
        asked, came_late = asked + sent, came_late + refused
    figure(
        "P1",
        "{total_runs} ends at 2,000 a second over UDP, exit 0: 0 of {total_sent:,} lost, {total_refused} "
        "refused by ICMP",
        total_runs=runs, total_sent=asked, total_refused=came_late,
    )  # fmt: skip


def end_under_load(tmp_path: Path) -> tuple[int, int]:
    """End a server with SIGTERM; return how many queries were sent, and refused by ICMP."""
    packet = dns.message.make_query(WEB, "A").to_wire()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(peers.clusterdns(corefile(tmp_path), tmp_path))
        socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(20)]
        for sock in socks:
            sock.connect(server.address)
            sock.setblocking(False)
        sent = told = refused = 0
        began = time.monotonic()
        until_s, is_told = began + 30, False
        while time.monotonic() < until_s:
            now = time.monotonic()
            if server.process.poll() is not None:
                until_s = min(until_s, now + 0.5)
            while until_s > now + 1 and sent < 2000 * (now - began):
                try:
                    socks[sent % 20].send(packet)
                    sent += 1
                except ConnectionRefusedError:  # that one is told of the query before, and not sent
                    refused += 1
            if not is_told and now - began > 0.5:
                is_told = True
                server.process.send_signal(signal.SIGTERM)
            for sock in socks:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        try:
                            told += bool(sock.recv(512))
                        except ConnectionRefusedError:
                            refused += 1
            time.sleep(0.001)
        assert sent > 900
        # The kernel keeps one error for each socket, until it is asked: two may become one.
        assert 0 <= sent - told - refused <= refused // 2
        assert 0 == server.process.returncode
        return sent, refused


def test_a_watcher_forgets_workers_that_have_ended(tmp_path):
    with peers.clusterdns(corefile(tmp_path), tmp_path) as server:
        watcher = child(server.process.pid, "watcher")
        before = len([*Path(f"/proc/{watcher}/fd").iterdir()])
        for _ in range(3):
            worker = child(server.process.pid, "worker")
            os.kill(worker, signal.SIGKILL)
            until(lambda worker=worker: worker not in children(server.process.pid))
            until(lambda: addresses(server, WEB) == ["10.96.0.7"])
        until(lambda: len([*Path(f"/proc/{watcher}/fd").iterdir()]) == before)


@pytest.mark.parametrize("output", ["closed", "full disk", "full pipe"])
def test_an_output_that_takes_nothing_does_not_hold_up_the_start(tmp_path, output):
    port = peers.free_port()
    (tmp_path / "Corefile").write_text(f".:{port} {{\n whoami\n log\n}}\n")
    reader, writer = os.pipe()
    if output == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    elif output == "full pipe":
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
    command = [sys.executable, "-m", "clusterdns", "-conf", "Corefile"]
    if output == "closed":
        command = ["sh", "-c", f"exec {' '.join(command)} >&-"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=subprocess.DEVNULL)
    query = dns.message.make_query("example.org.", "A").to_wire()

    def is_answered() -> bool:
        try:
            return peers.ask_udp(("127.0.0.1", port), query, 0.5) is not None
        except OSError:
            return False

    try:
        until(is_answered)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)
