"""The server under test and everything around it: API server, manifests, upstream servers, load.

``World`` starts them, keeps the cluster changing, and lets a ``Judge`` look at each result of the load.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import certificates
import faultyupstream
import peers
import realupstreams
from apiservers import ApiServer, FakeServer, RealServer
from faultyupstream import FaultyUpstream
from judge import Judge, Question
from load import RECORD
from model import Model, State

HERE = Path(__file__).resolve().parent
STABLE, CHURNING, HEADLESS, IN_FILES, OUTSIDE, LARGE = 100, 30, 6, 10, 40, 8
ENDPOINTS = 800  # of each large Service
CHANGES_S = 10.0
ROLES = {"supervisor": 1, "worker": 2, "watcher": 2}  # processes of the server at rest
AT_REST, REPLACED = "at rest", "while some are replaced"
HAND_OVER_S = 70.0  # a rehearsal may take 60 s
GIVEN_UP_S = 3.0  # without another process
SLOW_CHANGE_S = 0.2
HISTORY = 300  # changes that the API server remembers; who is further behind is told 410
COREFILE = """
.:{{PORT}} {{
    errors {{
        consolidate 5s .*
    }}
    health 127.0.0.1:{health}
    prometheus 127.0.0.1:{metrics}
    multisocket 2
    {cluster}
    cookie
    ratelimit 300
    {real}
    forward . {upstreams}
    cache 5
    loop
    reload 2s 1s
}}
files.test:{{PORT}} {{
    errors
    kubernetes files.test {{
        manifests {directory}/cluster
    }}
}}
tls://.:{tls} https://.:{https} {{
    errors {{
        consolidate 5s .*
    }}
    tls {directory}/server.pem {directory}/server.key
    {cluster}
    {real}
    forward . {upstreams}
    cache 5
}}
tls://files.test:{tls} https://files.test:{https} {{
    tls {directory}/server.pem {directory}/server.key
    kubernetes files.test {{
        manifests {directory}/cluster
    }}
}}
"""
CLUSTER = """kubernetes cluster.local in-addr.arpa {{
        {access}
        audit 4s
        snapshot {directory}/snapshot
        ttl {ttl}
        fallthrough in-addr.arpa
    }}"""
BROKEN = (
    "", "{", ".:53 {\n nonsense\n}\n", ".:{PORT} {\n kubernetes {\n  manifests /nowhere\n",
    ".:{PORT} {\n forward . 300.1.1.1\n}\n", "# being written\n",
)  # fmt: skip


def service(name: str, address: str) -> dict[str, Any]:
    """Return a Service; a headless one has the address ``None``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "a"},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }


def endpoints(name: str, addresses: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-x",
            "namespace": "a",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


class World:
    """Use it as a context manager: outside nothing runs."""

    def __init__(self, directory: Path, rate: float, seed: int, *, is_real: bool = False) -> None:
        """Take a place for files, a rate of queries, a seed, and whether the API server is a real one."""
        self._is_real = is_real
        self.directory, self._rate = directory, rate
        self._random = random.Random(seed)
        self.model = Model()
        self.changing = threading.Lock()  # nobody else changes the cluster meanwhile
        self.health, self.metrics = peers.free_port(), peers.free_port()
        self.tls, self.https = peers.free_port(), peers.free_port()
        self.ttl = 5
        self.errors: list[str] = []  # of the test itself
        self.peaks: dict[str, tuple[int, str]] = {}  # octets and those of each process, by when
        self.memory: list[tuple[float, int]] = []
        self.hand_overs: list[bool] = []  # whether each was completed
        self._addresses = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._is_over = threading.Event()

    # ---- start and end

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        certificates.make(self.directory)
        api = RealServer(self.directory) if self._is_real else FakeServer()
        self.api: ApiServer = enter(api)
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})
        self.upstreams = [enter(FaultyUpstream(faultyupstream.good)) for _ in range(3)]
        self.real = RealUpstreams(self.directory)
        self._stack.callback(self.real.stop)
        questions = self._populate()
        self.clock = Clock(self.directory)
        with self.clock.preloaded():
            self.server = enter(peers.clusterdns(self.corefile(), self.directory))
        self._stack.callback(lambda: end(self.server.process))
        self.judge = Judge(self.model, questions)
        self._wait_until_synced()
        self._thread(self._churn)
        self._thread(self._weigh)
        self._begin_load(questions)

    def _begin_load(self, questions: list[Question]) -> None:
        echo = self._process("echo.py", stdout=subprocess.PIPE)
        assert echo.stdout is not None
        port = int(echo.stdout.readline())
        load = self._process(
            "load.py", str(self._rate), str(self.server.port), str(port), str(self.tls),
            str(self.https), str(self.directory / "ca.pem"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert load.stdin is not None
        load.stdin.write(json.dumps([q.packet.hex() for q in questions]).encode() + b"\n")
        load.stdin.flush()
        self._load = load
        self._reader = self._thread(self._read_records)

    def end_load(self) -> None:
        """Ask nothing any more, and return when the last query has its reply or is lost."""
        assert self._load.stdin is not None
        self._load.stdin.close()
        self._reader.join(30)
        self._is_over.set()

    def _process(self, script: str, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, str(HERE / script), *arguments], **more)
        self._stack.callback(end, process)
        return process

    def _thread(self, work: Any) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._stack.callback(lambda: (self._is_over.set(), thread.join(5)))
        return thread

    def _wait_until_synced(self) -> None:
        deadline = time.monotonic() + 20
        for name in ("s0.a.svc.cluster.local.", "f0.a.svc.files.test."):
            question = Question.make(name, "A", "api")
            while True:
                reply = peers.ask_udp(self.server.address, question.packet, 1)
                if reply is not None and reply[7]:
                    break
                assert time.monotonic() < deadline, f"not synced:\n{self.server.output}"
                time.sleep(0.05)

    # ---- the cluster

    def _populate(self) -> list[Question]:
        """Make the cluster, and return what is asked."""
        found, zone = [], "a.svc.cluster.local."
        for i in range(STABLE):
            address = f"10.96.1.{i + 1}"
            self.api.apply(service(f"s{i}", address))
            found.append(self._known(f"s{i}.{zone}", "A", "api", frozenset({address})))
            reverse = f"{i + 1}.1.96.10.in-addr.arpa."
            found.append(self._known(reverse, "PTR", "api", frozenset({f"s{i}.{zone}"})))
            found.append(self._known(f"no{i}.{zone}", "A", "api", None))
        for i in range(CHURNING):
            found.append(self._known(f"c{i}.{zone}", "A", "api", None))
        for i in range(HEADLESS):
            self.api.apply(service(f"h{i}", "None"))
            found.append(self._known(f"h{i}.{zone}", "A", "api", None))
            self._set_endpoints(f"h{i}", [f"10.1.{i}.1"])
        for i in range(LARGE):
            self.api.apply(service(f"big{i}", "None"))
            many = [f"10.{2 + i}.{n >> 8}.{n & 255}" for n in range(ENDPOINTS)]
            self.api.apply(endpoints(f"big{i}", many))
        (self.directory / "cluster").mkdir()
        self._write("ns", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})
        for i in range(IN_FILES):
            found.append(self._known(f"f{i}.a.svc.files.test.", "A", "manifests", None))
            self._set_file(f"f{i}", f"10.97.0.{i}")
        for i in range(OUTSIDE):
            name = f"x{i}.ext.test."
            address = ".".join(map(str, faultyupstream.address_of(name)))
            found.append(self._known(name, "A", "upstream", frozenset({address})))
        if self.real.addresses:
            for name, state in (
                ("www.example.test.", frozenset({"192.0.2.80"})),
                ("one.example.test.", frozenset({"192.0.2.1"})),
                ("nowhere.example.test.", None),
                ("x.wild.example.test.", frozenset({"192.0.2.99"})),
            ):
                found.append(self._known(name, "A", "real", state))
        return found

    def _known(self, name: str, rdtype: str, source: str, state: State) -> Question:
        self.model.put(name, state, 0.0)
        return Question.make(name, rdtype, source)

    def _set_endpoints(self, name: str, addresses: list[str]) -> None:
        self.model.put(f"{name}.a.svc.cluster.local.", frozenset(addresses), time.monotonic())
        self.api.apply(endpoints(name, addresses))

    def _set_file(self, name: str, address: str) -> None:
        self.model.put(f"{name}.a.svc.files.test.", frozenset({address}), time.monotonic())
        self._write(name, service(name, address))

    def _write(self, name: str, manifest: dict[str, Any]) -> None:
        part = self.directory / f"{name}.part"
        part.write_text(json.dumps(manifest))
        part.replace(self.directory / "cluster" / f"{name}.json")

    def _churn(self) -> None:
        try:
            while not self._is_over.wait(1 / CHANGES_S):
                with self.changing:
                    began = time.monotonic()
                    self._change()
                    if (
                        time.monotonic() - began > SLOW_CHANGE_S
                    ):  # an API server that is slow itself
                        self.model.blind["api"].add(began, time.monotonic(), "change")
        except Exception as error:  # the test's own fault must not look like a success
            self.errors.append(f"the cluster cannot be changed: {error!r}")

    def _change(self) -> None:
        rng = self._random
        match rng.randrange(10):
            case 0:
                self._set_file(f"f{rng.randrange(IN_FILES)}", f"10.97.1.{rng.randrange(256)}")
            case 1 | 2:
                addresses = rng.sample(range(1, 200), rng.randint(1, 8))
                i = rng.randrange(HEADLESS)
                self._set_endpoints(f"h{i}", [f"10.1.{i}.{n}" for n in addresses])
            case _:
                self._change_service(f"c{rng.randrange(CHURNING)}")
        self.api.forget_history(HISTORY)

    def _change_service(self, name: str) -> None:
        full = f"{name}.a.svc.cluster.local."
        # A real API server does not let a Service have another address.
        if self.model.now(full) and (self._is_real or self._random.random() < 0.4):
            self.model.put(full, None, time.monotonic())
            self.api.remove(service(name, ""))
        else:
            number = next(self._addresses) & 0xFFFF
            address = f"10.98.{number >> 8}.{number & 255}"
            self.model.put(full, frozenset({address}), time.monotonic())
            self.api.apply(service(name, address))

    def backup(self) -> Any:
        """Return the state of the API server and what it means."""
        assert isinstance(self.api, FakeServer)
        with self.changing:
            history = self.model.snapshot(".cluster.local.")
            return self.api.save(), history

    def restore(self, backup: Any) -> None:
        """Go back to a backup, as an etcd that is restored does."""
        assert isinstance(self.api, FakeServer)
        with self.changing:
            saved, states = backup
            self.model.restored(states, time.monotonic())
            self.api.restore(saved)

    # ---- the server

    def corefile(self) -> str:
        """Return the Corefile, with the port still to be put in."""
        real = ""
        if self.real.addresses:
            real = f"forward example.test. {' '.join(self.real.addresses)}"
        cluster = CLUSTER.format(access=self.api.access, directory=self.directory, ttl=self.ttl)
        return COREFILE.format(
            health=self.health, metrics=self.metrics, cluster=cluster, real=real,
            tls=self.tls, https=self.https, directory=self.directory, upstreams=" ".join(u.address for u in self.upstreams),
        )  # fmt: skip

    def write_corefile(self, text: str) -> None:
        """Replace the Corefile of the running server."""
        [path] = self.directory.glob("Corefile-*")
        path.write_text(text.replace("{PORT}", str(self.server.port)), "latin-1")

    def start_again(self) -> None:
        """Start the program again that has ended, as a kubelet does; its log goes on."""
        before = self.server.process
        with self.clock.preloaded(), self.server.log.open("ab") as output:
            process = subprocess.Popen(
                before.args, cwd=self.directory, stdout=output, stderr=subprocess.STDOUT
            )
        self.server = self.server._replace(process=process)

    def processes(self) -> dict[int, str]:
        """Return the server's processes and what each is."""
        parent = self.server.process.pid
        found = {parent: "supervisor"}
        inodes = udp_inodes(self.server.port)
        for pid in children(parent):
            if theirs := children(pid):  # the new version, before a hand-over
                found |= {pid: "rehearsal", **dict.fromkeys(theirs, "rehearsed")}
            else:
                found[pid] = "worker" if inodes & sockets_of(pid) else "watcher"
        return found

    def of_role(self, role: str) -> list[int]:
        return [pid for pid, found in self.processes().items() if found == role]

    def wait_for_hand_over(self, before: Container[int]) -> None:
        """Return when none of the processes before lives but the first, or when it is given up."""
        same_since = began = time.monotonic()
        while time.monotonic() < began + HAND_OVER_S:
            now = self.processes()
            others = now.keys() - {self.server.process.pid}
            if self.is_complete(now) and not any(pid in before for pid in others):
                self.hand_overs.append(True)
                return
            if not self.is_complete(now) or not all(pid in before for pid in others):
                same_since = time.monotonic()
            elif time.monotonic() > same_since + GIVEN_UP_S:
                break
            time.sleep(0.05)
        self.hand_overs.append(False)

    @staticmethod
    def is_complete(processes: Mapping[int, str]) -> bool:
        """Tell whether these are the processes of a server at rest."""
        return collections.Counter(processes.values()) == ROLES

    def send(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal; a process may be gone meanwhile."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _weigh(self) -> None:
        while not self._is_over.wait(0.5):
            found = [(role, proportional_octets(pid)) for pid, role in self.processes().items()]
            octets = sum(each for _, each in found)
            self.memory.append((time.monotonic(), octets))
            when = AT_REST if len(found) <= sum(ROLES.values()) else REPLACED
            if octets > self.peaks.get(when, (0, ""))[0]:
                shown = ", ".join(f"{role} {each / 2**20:.0f}" for role, each in found)
                self.peaks[when] = octets, shown

    # ---- the load

    def _read_records(self) -> None:
        stream = self._load.stdout
        assert stream is not None
        while head := stream.read(RECORD.size):
            sent, received, number, flags, octets = RECORD.unpack(head)
            self.judge.look(sent, received, number, flags, stream.read(octets))


class Clock:
    """The clock of the day as the server sees it; without a compiler it stands as it is."""

    def __init__(self, directory: Path) -> None:
        self._moved, self._library = directory / "clock", directory / "clock.so"
        self.move(0)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is not None:
            command = [compiler, "-O1", "-fPIC", "-shared", str(HERE / "clock.c"), "-ldl"]
            subprocess.run([*command, "-o", str(self._library)], check=True)

    def move(self, seconds: int) -> None:
        """Let it go before or after by so much."""
        if not self._moved.exists():
            self._moved.write_bytes(bytes(8))
        with self._moved.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

    @contextlib.contextmanager
    def preloaded(self) -> Iterator[None]:
        """Start processes that have this clock."""
        more = {"CHAOS_CLOCK": str(self._moved), "LD_PRELOAD": str(self._library)}
        if not self._library.exists():
            more = {}
        os.environ.update(more)
        try:
            yield
        finally:
            for name in more:
                del os.environ[name]


class RealUpstreams:
    """Unbound and Knot where they are installed; each may be ended and started again."""

    def __init__(self, directory: Path) -> None:
        self.kinds = [k for k in ("unbound", "knot") if realupstreams.program(k)]
        self.addresses: list[str] = []
        self._directory = directory
        self._ports: dict[str, int] = {}
        self._running: dict[str, contextlib.ExitStack] = {}
        for kind in self.kinds:
            self.start(kind)
            self.addresses.append(f"127.0.0.1:{self._ports[kind]}")

    def start(self, kind: str) -> None:
        stack = contextlib.ExitStack()
        port = self._ports.get(kind, 0)
        for left in range(20, -1, -1):
            try:
                address = stack.enter_context(
                    realupstreams.running(kind, self._directory / kind, port=port)
                )
                break
            except RuntimeError as error:
                if "in use" not in str(error) or not left:
                    raise
                time.sleep(0.5)  # a query of another program is under way from this port
        self._ports[kind] = address[1]
        self._running[kind] = stack

    def end(self, kind: str) -> None:
        self._running.pop(kind).close()

    def stop(self) -> None:
        for kind in list(self._running):
            self.end(kind)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of the test and close what leads to it."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def children(pid: int) -> list[int]:
    """Return the children of a process, none if it has ended."""
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def udp_inodes(port: int) -> set[str]:
    """Return the inodes of the UDP sockets bound to a port."""
    found = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(f":{port:04X}"):
                    found.add(f"socket:[{fields[9]}]")
    return found


def sockets_of(pid: int) -> set[str]:
    return set(_links(Path(f"/proc/{pid}/fd")))


def _links(directory: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                yield str(path.readlink())


def proportional_octets(pid: int) -> int:
    """Return the memory of a process; what several have in common is shared out (PSS)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
