"""The image without a container engine: what deploy/image makes and starts (P7, Pods of kubeadm).

`assemble.sh` makes the root file system that the Dockerfile copies, `run.sh` starts it in namespaces of
its own as a Pod's securityContext says: uid 65532, read-only root, only NET_BIND_SERVICE. Takes root and
Debian 12; packages are kept in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import dns.message
import dns.rcode
import peers
import pytest
from fakeapi import FakeApi, services
from packaging.requirements import Requirement

IMAGE = Path(__file__).resolve().parents[2] / "deploy" / "image"
ZONES = IMAGE.parent.parent / "zones"
INSTALL = "apt-get install libcap2-bin iproute2 util-linux bind9-dnsutils"
TOOLS = ("apt-get", "dpkg-deb", "setcap", "capsh", "unshare", "nsenter", "ip", "dig")
OFFLINE = re.compile(
    r"Could not resolve|Failed to fetch|Unable to (fetch|locate)|NewConnectionError"
)
CLONE_NEWNET = 0x40000000  # linux/sched.h
NET_BIND_SERVICE = 1 << 10  # linux/capability.h
UID = 65532
MAX_SIZE = 74 * 2**20
MAX_COMPRESSED = 27 * 2**20  # as a container image: CoreDNS 1.15.0 is one binary of about this size
# The first test waits for the image: half a minute on a quiet machine, without what was downloaded
# before, or beside other jobs, many times that. So what makes it is in no test's time limit.
ASSEMBLE_S = 900
pytestmark = pytest.mark.timeout(120, func_only=True)
MAX_MEMORY_KIB = 170 * 1024  # the limit in kubeadm's Deployment
DNS = ("127.0.0.1", 53)
QNAME = "web.uit.svc.cluster.local."
LARGE = """.:53 {
    errors
    health
    ready
    multisocket 2
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint URL
        pods insecure
    }
    prometheus :9153
    cache 30
    loadbalance
    reload
}
"""
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class Container(NamedTuple):
    """A started image: ``pid`` is its process 1 as we see it, ``host`` the command that made it."""

    pid: int
    host: subprocess.Popen[bytes]
    log: Path
    started_at: float

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def inside(self, work: Callable[[], T]) -> T:
        """Return what a function returns in the container's network; sockets it makes stay there."""
        found: list[T] = []

        def run() -> None:
            with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
                if _libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            found.append(work())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert found, self.log.read_text()
        return found[0]

    def ask(self, qname: str) -> dns.message.Message:
        """Return the reply to a query of type A, as soon as there is one."""
        query = dns.message.make_query(qname, "A").to_wire()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.host.poll() is None, self.log.read_text()
            reply = None
            with contextlib.suppress(OSError):
                reply = self.inside(lambda: _ask(query))
            if reply is not None:
                return dns.message.from_wire(reply)
        raise AssertionError(self.log.read_text())

    def processes(self) -> list[int]:
        """Return all processes of the container."""
        found, left = [], [self.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            left += _children(pid)
        return found

    def memory_kib(self) -> int:
        """Return what the processes hold, shared pages counted once (PSS)."""
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.processes()]
        return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) for text in texts)


def _ask(query: bytes) -> bytes | None:
    try:
        return peers.ask_udp(DNS, query, timeout_s=0.2)
    except OSError:
        time.sleep(0.01)  # nobody listens yet
        return None


def _first_process(host: int) -> int | None:
    """Return the child that is process 1 of a PID namespace, None as long as there is none."""
    with contextlib.suppress(OSError):  # the script has short-lived children before
        ours = Path("/proc/self/ns/pid").readlink()
        for pid in _children(host):
            if Path(f"/proc/{pid}/ns/pid").readlink() != ours:
                return pid
    return None


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _assemble(out: Path, cache: Path) -> None:
    done = subprocess.run(
        [IMAGE / "assemble.sh", out, cache],
        env={**os.environ, "PIP": f"{sys.executable} -m pip"},
        capture_output=True,
        text=True,
        timeout=ASSEMBLE_S,
        check=False,
    )
    if OFFLINE.search(done.stderr):
        pytest.skip("needs the archives of Debian and of Python, or a filled cache")
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root file system."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    release = Path("/etc/os-release")
    if os.geteuid() or missing or 'VERSION_ID="12"' not in release.read_text():
        pytest.skip(f"needs root, Debian 12 and: {INSTALL}")
    if subprocess.run(["unshare", "-mpnui", "--fork", "true"], check=False).returncode:
        pytest.skip("needs the right to make namespaces")
    out = tmp_path_factory.mktemp("image")
    _assemble(out, peers._CACHE / "image")
    return out


@contextlib.contextmanager
def started(root: Path, directory: Path, corefile: str) -> Iterator[Container]:
    """Run the image with a Corefile in its ConfigMap's place."""
    config, log = directory / "config", directory / "log"
    config.mkdir()
    (config / "Corefile").write_text(corefile)
    began = time.monotonic()
    with log.open("wb") as output:
        host = subprocess.Popen(
            [IMAGE / "run.sh", root, config], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while (pid := _first_process(host.pid)) is None:
            assert host.poll() is None, log.read_text()
            time.sleep(0.005)
        yield Container(pid, host, log, began)
    finally:
        with contextlib.suppress(OSError):
            os.kill(_first_process(host.pid) or host.pid, signal.SIGKILL)  # ends all others inside
        host.wait()


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The lab that the image carries, on port 53, with the Deployment's arguments."""
    zones = "/usr/local/share/clusterdns/zones"
    text = (ZONES / "Corefile").read_text().replace(". {", f". {{\n    root {zones}", 1)
    with started(root, tmp_path_factory.mktemp("lab"), text) as container:
        container.ask(QNAME)
        yield container


def test_the_lock_file_has_what_the_project_needs():
    project = tomllib.loads((IMAGE.parent.parent / "pyproject.toml").read_text())["project"]
    locked = dict(re.findall(r"^([\w-]+)==(\S+) ", (IMAGE / "requirements.txt").read_text(), re.M))
    for text in project["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name.lower()]), text


def test_the_dockerfile_makes_and_starts_the_same():
    text = (IMAGE.parent.parent / "Dockerfile").read_text()
    words = json.loads(re.search(r"^ENTRYPOINT (.+)$", text, re.M)[1])
    run = " ".join((IMAGE / "run.sh").read_text().replace("\\\n", " ").split())
    assert f'--shell={words[0]} -- {" ".join(words[1:])} "$@"' in run
    assert f"USER {UID}:{UID}\n" in text and f"--gid={UID} --uid={UID} " in run
    assert " deploy/image/assemble.sh /image " in text and "COPY --from=build /image /\n" in text
    for source, target in re.findall(r"^COPY (?!--)(\S+) (\S+)$", text, re.M):
        assert source == target and (IMAGE.parent.parent / source).is_dir()


@pytest.mark.slow
def test_the_interpreter_is_all_that_can_be_executed(root):
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    programs = {
        path.name
        for path in files
        if path.stat().st_mode & 0o111 and not re.search(r"\.so(\.|$)", path.name)
    }
    assert {"python3.11"} == programs
    words = ("sh", "bash", "dash", "busybox", "dpkg", "apt", "perl", "pip")
    assert not [path for path in files if path.name in words or path.parent.name == "pip"]
    assert not [path for path in files if path.stat().st_mode & 0o6002]


@pytest.mark.slow
def test_it_is_small(root):
    size = sum(path.lstat().st_size for path in root.rglob("*"))
    pack = "tar --xattrs -cf - . | gzip -9 | wc -c"
    done = subprocess.run(["sh", "-c", pack], cwd=root, capture_output=True, text=True, check=True)
    packed = int(done.stdout)
    print(f"image: {size} octets, {packed} with gzip -9")
    assert size < MAX_SIZE
    assert packed < MAX_COMPRESSED


@pytest.mark.slow
def test_the_same_input_gives_the_same_image(root, tmp_path):
    again = tmp_path / "again"
    _assemble(again, peers._CACHE / "image")
    assert _digests(root) == _digests(again)


def _digests(root: Path) -> list[str]:
    """Return of every file what an archive would hold: attributes, and a digest of the contents."""
    find = "find . -printf '%p %M %U:%G %T@ %l\\n' | sort; find . -type f | sort | xargs sha256sum"
    done = subprocess.run(["sh", "-c", find], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_port_53_answers_over_udp_and_tcp(lab):
    for words in (["@127.0.0.1"], ["@127.0.0.1", "+tcp"], ["@::1"], ["@::1", "+tcp"]):
        command = ["nsenter", "-t", str(lab.pid), "-n", "dig", "+short", *words, QNAME]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert "10.96.1.1\n" == done.stdout


@pytest.mark.row("P7")
@pytest.mark.slow
def test_nothing_but_one_capability(lab, figure):
    processes = lab.processes()
    assert len(processes) >= 3  # supervisor, watcher, worker
    for pid in processes:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            assert NET_BIND_SERVICE == int(status[kind], 16), (kind, pid)
        assert [0, 0] == [int(status[kind], 16) for kind in ("CapInh", "CapAmb")]
        assert {str(UID)} == {*status["Uid"].split(), *status["Gid"].split()}
        assert ["1", str(UID)] == [status["NoNewPrivs"], status["Groups"].strip()]
    figure("P7", "user {uid}, one capability in {count} processes", uid=UID, count=len(processes))


@pytest.mark.slow
def test_nothing_can_be_written_not_even_by_root(lab):
    for path in ("x", "etc/coredns/x", "usr/lib/python3.11/x", "dev/x", "run/x"):
        with pytest.raises(OSError, match="Read-only") as caught:
            (lab.root / path).write_bytes(b"")
        assert errno.EROFS == caught.value.errno
    assert not (lab.root / "tmp").exists()


@pytest.mark.slow
def test_it_sees_only_loopback_and_its_own_processes(lab):
    assert ["lo"] == lab.inside(lambda: [name for _, name in socket.if_nameindex()])
    seen = {int(path.name) for path in (lab.root / "proc").iterdir() if path.name.isdigit()}
    assert 1 in seen and len(seen) == len(lab.processes())


@pytest.mark.slow
def test_its_metrics_tell_what_its_processes_hold(lab):
    """Also as uid 65532: the supervisor may look at its own children."""

    def scrape() -> str:
        with urllib.request.urlopen("http://localhost:19153/metrics", timeout=5) as response:
            return response.read().decode()

    text = lab.inside(scrape)
    told = {
        word: float(re.search(rf"^process_{word} (\S+)$", text, re.M)[1])
        for word in ("resident_memory_bytes", "open_fds")
    }
    assert 0.8 < told["resident_memory_bytes"] / (lab.memory_kib() * 1024) < 1.2
    assert told["open_fds"] > 10 * len(lab.processes())


@pytest.mark.slow
def test_it_starts_within_two_seconds_and_ends_with_0(root, tmp_path):
    text = ".:53 {\n errors\n health {\n lameduck 1s\n }\n whoami\n reload\n}\n"
    with started(root, tmp_path, text) as container:
        reply = container.ask("any.example.org.")
        took = time.monotonic() - container.started_at
        assert dns.rcode.NOERROR == reply.rcode()
        os.kill(container.pid, signal.SIGTERM)
        began = time.monotonic()
        assert container.host.wait(10) == 0
        ended = time.monotonic() - began
        print(f"image: first answer after {took:.2f} s, ended after {ended:.2f} s")
        assert took < 2
        assert 1 <= ended < 3  # lameduck, and what is under way


@pytest.mark.row("P7")
@pytest.mark.slow
def test_p7_5000_services_and_2_workers_below_the_memory_limit(root, tmp_path, figure):
    first = ".:53 {\n whoami\n reload\n}\n"
    with started(root, tmp_path, first) as container:
        container.ask("any.example.org.")  # its loopback is up
        with container.inside(lambda: FakeApi(services(5000))) as api:
            (tmp_path / "config" / "Corefile").write_text(LARGE.replace("URL", api.url))
            os.kill(container.pid, signal.SIGUSR1)  # reload
            deadline = time.monotonic() + 40
            # the first Corefile's worker answers what it has been sent before it goes
            while "Reloading complete" not in container.log.read_text() or not container.inside(
                _is_ready
            ):
                assert time.monotonic() < deadline, container.log.read_text()
                time.sleep(0.2)
            failed = container.inside(lambda: _unanswered(5000))
            memory = container.memory_kib()
            assert len(container.processes()) == 4  # supervisor, watcher, two workers
    assert not failed, (len(failed), failed[:3])
    assert memory < MAX_MEMORY_KIB
    figure("P7", "{mib:.0f} MiB with 5,000 Services and 2 workers", mib=memory / 1024)


def _is_ready() -> bool:
    """Tell whether every worker knows the cluster."""
    try:
        with urllib.request.urlopen("http://localhost:8181/ready", timeout=1) as response:
            return response.status == 200
    except urllib.error.HTTPError as error:
        with error:
            return False
    except OSError:
        return False


def _unanswered(count: int) -> list[str]:
    """Ask for every Service once, so that it is in a table as well; return what failed."""
    failed: list[str] = []
    for i in range(count):
        query = dns.message.make_query(f"s{i}.default.svc.cluster.local.", "A").to_wire()
        reply = peers.ask_udp(DNS, query)
        if reply is None or not dns.message.from_wire(reply).answer:
            failed.append(f"{i}: {reply and dns.message.from_wire(reply)}")
    return failed
