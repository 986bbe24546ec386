"""`status` through the real program: what the page is made of, over HTTP."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import beside
import dns.message
import peers
import pytest
from fakeapi import FakeApi

ZONES = Path(__file__).resolve().parents[2] / "zones"
KEY = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="
COREFILE = """
.:{PORT} {
    bind 127.0.0.1
    errors
    status 127.0.0.1:WEB
    tsig keys.example.org {
        secret transfer.example.org. KEY
    }
    kubernetes cluster.local {
        manifests CLUSTER
    }
    forward example.com 127.0.0.1:DEAD {
        max_fails 1
        health_check 50ms
    }
    forward . SERVED
}
"""


class Subject(NamedTuple):
    """A server with a page, and the port of the page."""

    server: peers.Server
    web: int
    dead: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}{path}", timeout=30) as reply:
            return json.loads(reply.read())

    def status(self, is_wanted: Any) -> Any:
        """Return /status.json once it is as wanted."""
        deadline = time.monotonic() + 15
        while not is_wanted(found := self.get("/status.json")):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    web, dead = peers.free_port(), peers.free_port()
    text = COREFILE.replace("WEB", str(web)).replace("DEAD", str(dead)).replace("KEY", KEY)
    text = text.replace("CLUSTER", str(ZONES / "cluster"))
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(
            peers.clusterdns(
                ".:{PORT} {\n bind 127.0.0.1\n whoami\n}\n", tmp_path_factory.mktemp("upstream")
            )
        )
        text = text.replace("SERVED", f"127.0.0.1:{upstream.port}")
        server = held.enter_context(peers.clusterdns(text, tmp_path_factory.mktemp("status")))
        yield Subject(server, web, dead)


def ask(server: peers.Server, name: str, rtype: str = "A") -> None:
    peers.ask_udp(server.address, dns.message.make_query(name, rtype).to_wire())


def test_each_upstream_server_has_its_state_and_latency(subject):
    for i in range(20):
        ask(subject.server, f"a{i}.example.org.")
    ask(subject.server, "www.example.com.")
    found = subject.status(lambda found: any(each["down"] for each in found["upstreams"]))
    one, other = sorted(found["upstreams"], key=lambda each: each["state"])
    assert ("down", f"127.0.0.1:{subject.dead}") == (one["state"], one["server"])
    assert one["fails"] > 1
    assert ("up", {"NOERROR": other["queries"]}) == (other["state"], other["rcodes"])
    assert other["queries"] >= 20
    assert 0 < other["p50"] <= other["p90"] <= other["p99"] < 8.2


def test_the_last_errors_are_there_without_secrets(subject):
    ask(subject.server, "www.example.com.")
    found = subject.status(lambda found: found["errors"])
    (error, *_) = [each for each in found["errors"] if "www.example.com. A" in each["text"]]
    assert ("ERROR", "worker 0") == (error["level"], error["process"])
    assert abs(found["now"] - error["at"]) < 60


def test_the_configuration_in_force_has_no_secret(subject):
    text = json.dumps(found := subject.status(lambda _: True))
    assert KEY not in text
    lines = {each["text"]: each for each in found["configuration"]}
    assert "secret transfer.example.org. (hidden)" in lines
    assert lines["errors"]["meaning"] == "log the errors of the next plugins."
    assert 4 == lines["errors"]["line"]


def test_the_watch_is_shown_kind_by_kind(subject):
    found = subject.status(lambda _: True)
    kinds = [(each["kind"], each["is_known"], each["is_on_disk"]) for each in found["watch"]]
    wanted = ("namespaces", "services", "endpointslices")
    assert [(kind, True, True) for kind in wanted] == kinds
    assert found["ready"]
    assert [f"dns://127.0.0.1:{subject.server.port}"] == found["listeners"]


def test_the_watch_of_an_api_server_has_ages(tmp_path):
    web = peers.free_port()
    corefile = (
        ".:{PORT} {\n bind 127.0.0.1\n status 127.0.0.1:WEB\n"
        " kubernetes cluster.local {\n  endpoint URL\n }\n}\n"
    )
    objects = [{"kind": "Namespace", "metadata": {"name": "shop"}}]
    corefile = corefile.replace("WEB", str(web))
    with FakeApi(objects) as api:
        with_user = api.url.replace("://", "://me:hunter2@")
        with peers.clusterdns(corefile.replace("URL", with_user), tmp_path) as server:
            subject = Subject(server, web, 0)
            found = subject.status(lambda found: "heard_s" in found["watch"][0])
    first = found["watch"][0]
    assert ("namespaces", api.url, 1, 0) == (
        first["kind"], first["source"], first["objects"], first["stale"],
    )  # fmt: skip
    assert 0 <= first["heard_s"] < 15
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize("name", ["web.uit.svc.cluster.local", "wbe.uit.svc.cluster.local"])
def test_an_explanation_is_that_of_the_command(subject, name):
    found = subject.get(f"/explain?name={name}&type=A")
    pid = str(subject.server.process.pid)
    said = json.loads(beside.run(["explain", name, "--pid", pid, "--json"], ZONES).stdout)
    lines = beside.run(["explain", name, "--pid", pid], ZONES).stdout.splitlines()
    assert found.pop("lines") == lines
    assert said == found


def test_an_explanation_leaves_no_process(subject):
    before = children(subject.server.process.pid)
    for i in range(5):
        assert subject.get(f"/explain?name=a{i}.uit.svc.cluster.local")["why"]
    deadline = time.monotonic() + 10
    while children(subject.server.process.pid) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> set[str]:
    return {*Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("name=a..b", "no domain name"),
        ("name=a&type=NOPE", "'NOPE' is no type of record"),
        ("name=a&client=me", "client me: not an IP address"),
    ],
)
def test_mistakes_are_said(subject, query, said):
    with pytest.raises(urllib.error.HTTPError) as caught:
        subject.get(f"/explain?{query}")
    assert (400, True) == (caught.value.code, said in json.loads(caught.value.read())["error"])


def test_it_is_read_only_and_for_this_host_alone(subject):
    def request(method: str, host: str) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", subject.web, timeout=10)
        connection.request(method, "/status.json", headers={"Host": host})
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        return reply.status, reply.headers.get(
            "Content-Length"
        ) if method == "HEAD" and not body else None

    assert 421 == request("GET", "evil.example")[0]
    assert 405 == request("POST", "localhost")[0]
    assert 405 == request("DELETE", "localhost")[0]
    status, length = request("HEAD", "localhost")
    assert 200 == status
    assert int(length or 0) > 100


def test_it_shares_an_address_with_metrics(tmp_path):
    web = peers.free_port()
    corefile = (
        ".:{PORT} {\n bind 127.0.0.1\n status 127.0.0.1:%d\n prometheus 127.0.0.1:%d\n whoami\n}\n"
    )
    with peers.clusterdns(corefile % (web, web), tmp_path):
        for path, has in (("/metrics", b"coredns_build_info"), ("/", b"<title>clusterdns")):
            with urllib.request.urlopen(f"http://127.0.0.1:{web}{path}", timeout=10) as reply:
                assert has in reply.read()


def top(subject: Subject, *arguments: str):
    return beside.run(["top", "--pid", str(subject.server.process.pid), *arguments], ZONES)


def test_top_shows_what_is_asked(subject):
    for _ in range(3):
        ask(subject.server, "web.uit.svc.cluster.local.")
    ask(subject.server, "nope.uit.svc.cluster.local.", "AAAA")
    found = json.loads(top(subject, "--json").stdout)
    assert {"NOERROR", "NXDOMAIN"} <= found["rcodes"].keys()
    done = top(subject, "--once")
    assert (0, "") == (done.returncode, done.stderr)
    assert "  web.uit.svc.cluster.local. A\n" in done.stdout
    assert "names that do not exist\n" in done.stdout
    assert "  nope.uit.svc.cluster.local.\n" in done.stdout
    assert "\x1b[" not in done.stdout


def test_top_shows_the_last_queries(subject):
    ask(subject.server, "tailed.uit.svc.cluster.local.")
    done = top(subject, "--tail", "--once")
    assert (0, "") == (done.returncode, done.stderr)
    assert " tailed.uit.svc.cluster.local. A NXDOMAIN " in done.stdout
    last = json.loads(top(subject, "--tail", "--once", "--json").stdout.splitlines()[-1])
    assert "udp" == last["transport"]


class Terminal(NamedTuple):
    """A command on a terminal, and our end of it."""

    process: subprocess.Popen[bytes]
    ours: int
    theirs: int

    def resize(self, lines: int, columns: int) -> None:
        set_size(self.theirs, lines, columns)

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def read(self, text: str, timeout_s: float = 30) -> str:
        """Return what is shown until a text has come, or in the time."""
        found, deadline = b"", time.monotonic() + timeout_s
        while text.encode() not in found and (left := deadline - time.monotonic()) > 0:
            if select.select([self.ours], [], [], left)[0]:
                found += os.read(self.ours, 65_536)
        return found.decode("utf-8", "replace")

    def has_echo(self) -> bool:
        return bool(termios.tcgetattr(self.theirs)[3] & termios.ECHO)


def set_size(descriptor: int, lines: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextlib.contextmanager
def on_a_terminal(subject: Subject, *arguments: str, lines: int = 40, columns: int = 80,
                  **settings: str):  # fmt: skip
    """Run `top` on a terminal of a size."""
    ours, theirs = pty.openpty()
    set_size(theirs, lines, columns)
    pid = str(subject.server.process.pid)
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", "top", "--pid", pid, *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**environ, "TERM": "xterm", **settings},
    )  # fmt: skip
    try:
        yield Terminal(process, ours, theirs)
    finally:
        process.kill()
        process.wait(10)
        for each in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(each)


CLEAR = "\x1b[2J"
KEYS = "q quits, space pauses"
PAUSED = "paused: space goes on"


def test_top_is_drawn_again_on_a_terminal_until_it_is_interrupted(subject):
    ask(subject.server, "drawn.uit.svc.cluster.local.")
    with on_a_terminal(subject, columns=40) as terminal:
        shown = terminal.read(KEYS)
        ask(subject.server, "later.uit.svc.cluster.local.")
        shown += terminal.read("later.uit.svc.cluster.local.")
        assert shown.count(CLEAR) >= 2
        assert "\x1b[1m" in shown  # titles are bold
        assert not terminal.has_echo()
        terminal.press(b"\x03")  # Ctrl-C, by the terminal
        assert 130 == terminal.process.wait(10)
        assert "Traceback" not in terminal.read("never", 0.1)
        assert terminal.has_echo()


@pytest.mark.parametrize("arguments", [(), ("--tail",)])
def test_q_ends_top_and_leaves_the_terminal_as_it_was(subject, arguments):
    ask(subject.server, "drawn.uit.svc.cluster.local.")
    with on_a_terminal(subject, *arguments) as terminal:
        assert terminal.has_echo()
        terminal.read("drawn.uit.svc.cluster.local.")
        assert not terminal.has_echo()
        terminal.press(b"xyz")  # keys without a meaning
        terminal.press(b"q")
        assert 0 == terminal.process.wait(10)
        assert terminal.has_echo()
        if not arguments:  # what a shell writes now is in a line of its own
            assert terminal.read("never", 0.2).endswith("\r\x1b[K")


def test_sigterm_leaves_the_terminal_as_it_was(subject):
    with on_a_terminal(subject) as terminal:
        terminal.read(KEYS)
        terminal.process.terminate()
        assert 143 == terminal.process.wait(10)
        assert terminal.has_echo()
        assert "Traceback" not in terminal.read("never", 0.1)


def test_space_pauses_top(subject):
    with on_a_terminal(subject) as terminal:
        terminal.read(KEYS)
        terminal.press(b" ")
        terminal.read(PAUSED)
        ask(subject.server, "paused.uit.svc.cluster.local.")
        assert "" == terminal.read("never", 2.5)  # longer than it waits otherwise
        terminal.resize(30, 70)  # what is there is drawn again
        assert "paused.uit" not in terminal.read(PAUSED)
        terminal.press(b" ")
        assert "paused.uit.svc.cluster.local." in terminal.read("paused.uit.svc.cluster.local.")


def test_top_goes_on_behind_a_stop(subject):
    with on_a_terminal(subject) as terminal:
        terminal.read(KEYS)
        terminal.press(b" ")
        terminal.read(PAUSED)
        settings = termios.tcgetattr(terminal.theirs)
        settings[3] |= termios.ECHO | termios.ICANON  # as a shell sets them
        termios.tcsetattr(terminal.theirs, termios.TCSANOW, settings)
        terminal.process.send_signal(signal.SIGCONT)
        assert CLEAR in terminal.read(PAUSED)
        assert not terminal.has_echo()


def test_top_is_drawn_for_the_size_of_the_terminal(subject):
    for i in range(12):
        ask(subject.server, f"a-name-{i}-that-is-wider-than-a-terminal.uit.svc.cluster.local.")
    with on_a_terminal(subject, lines=60, columns=120) as terminal:
        wide = frame(terminal.read(KEYS))
        assert any("terminal.uit.svc.cluster.local." in line for line in wide)
        for lines, columns in ((24, 30), (5, 20), (1, 1), (60, 120)):
            terminal.resize(lines, columns)
            last = KEYS if columns > len(KEYS) else f"{KEYS[: columns - 1]}…"
            shown = frame(terminal.read(last))  # at once: the next is due in two seconds
            assert len(shown) <= max(lines, 2)
            assert max(map(len, shown)) <= columns
            if lines > 20:
                assert "slow names" in shown  # every table has its place


def frame(shown: str) -> list[str]:
    """Return the lines of the last drawing, without their style."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.rpartition(CLEAR)[2]).splitlines()


def test_top_has_no_style_where_none_is_wanted(subject):
    with on_a_terminal(subject, NO_COLOR="1") as terminal:
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", terminal.read(KEYS))
    with on_a_terminal(subject, TERM="dumb") as terminal:
        shown = terminal.read("slow names") + terminal.read("slow names")
        assert "\x1b" not in shown
        terminal.press(b"q")
        assert 0 == terminal.process.wait(10)


def test_top_ends_with_its_terminal(subject):
    with on_a_terminal(subject) as terminal:
        terminal.read(KEYS)
        os.close(terminal.theirs)
        os.close(terminal.ours)
        assert terminal.process.wait(10) != 0


def test_tail_ends_in_silence_with_its_reader(subject):
    """Also if no query comes any more, as `tail -f` does."""
    ask(subject.server, "tailed.uit.svc.cluster.local.")
    pid = str(subject.server.process.pid)
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", "top", "--tail", "--pid", pid],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert 141 == process.wait(10)
        assert b"" == process.stderr.read()
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


def test_top_says_that_nothing_is_observed(tmp_path):
    with peers.clusterdns(".:{PORT} {\n bind 127.0.0.1\n whoami\n}\n", tmp_path) as server:
        done = beside.run(["top", "--once", "--pid", str(server.process.pid)], tmp_path)
    assert (1, "") == (done.returncode, done.stdout)
    assert "no server block has `status`" in done.stderr
