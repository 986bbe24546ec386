"""What tests of a reload and of a hand-over share: a copy of the program, load, memory."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import struct
import threading
import time
import urllib.request
from pathlib import Path

import dns.message
import measure
import peers

RATE = 500  # queries a second of `Load`
WEB = "web.demo.svc.cluster.local."
MANIFESTS = """apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}
"""
QUERY = dns.message.make_query(WEB, "A").to_wire()


def corefile(directory: Path, more: str = "") -> str:
    (directory / "cluster").mkdir(exist_ok=True)
    (directory / "cluster" / "all.yaml").write_text(MANIFESTS)
    return f". {{\n kubernetes cluster.local {{\n  manifests {directory}/cluster\n }}\n{more}\n}}\n"


def conf_of(server: peers.Server) -> Path:
    return Path(server.process.args[server.process.args.index("-conf") + 1])  # type: ignore[union-attr,arg-type,index]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    # It may have the length and the second of the text before, by which Python knows a cached one.
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)


def until(condition, timeout_s: float = 60):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)
    return found


def is_answered(server: peers.Server) -> bool:
    reply = peers.ask_udp(server.address, QUERY)
    return reply is not None and "10.96.0.7" in str(dns.message.from_wire(reply).answer)


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        return response.read().decode()


def get_or_none(port: int, path: str) -> str | None:
    with contextlib.suppress(OSError):
        return get(port, path)
    return None


def family(pid: int) -> list[int]:
    """Return the children of a process and theirs; one that has just ended has none."""
    found = list[int]()
    with contextlib.suppress(OSError):
        found = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return [*found, *(each for child in found for each in family(child))]


class Load(threading.Thread):
    """Asks over UDP at a rate, and over a new TCP connection now and then; counts what came."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self.sent, self.refused, self.errors = 0, 0, list[str]()
        self.replies: dict[int, bytes] = {}
        self._address = address
        self._stopping = threading.Event()

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    @property
    def lost(self) -> int:
        return self.sent - len(self.replies) - self.refused

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(16)]
            for sock in socks:
                sock.connect(self._address)
                sock.setblocking(False)
            began = time.monotonic()
            while not self._stopping.is_set():
                while self.sent < RATE * (time.monotonic() - began):
                    self._send(socks[self.sent % 16])
                    if self.sent % 50 == 0:
                        self._ask_over_tcp()
                self._receive(socks)
                time.sleep(0.001)
            deadline = time.monotonic() + 3
            while self.lost > 0 and time.monotonic() < deadline:
                self._receive(socks)
                time.sleep(0.01)

    def _send(self, sock: socket.socket) -> None:
        try:
            sock.send(struct.pack("!H", self.sent & 0xFFFF) + QUERY[2:])
            self.sent += 1
        except ConnectionRefusedError:  # that one is told of the query before, and not sent
            self.refused += 1

    def _receive(self, socks: list[socket.socket]) -> None:
        for sock in socks:
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        reply = sock.recv(512)
                        self.replies[int.from_bytes(reply[:2])] = reply[2:]
                    except ConnectionRefusedError:
                        self.refused += 1

    def _ask_over_tcp(self) -> None:
        try:
            if peers.ask_tcp(self._address, QUERY) is None:
                self.errors.append("a connection was closed without a reply")
        except OSError as error:
            self.errors.append(str(error))


class Peak(threading.Thread):
    """Samples the memory (PSS, MiB) of a tree of processes every 50 ms."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.samples, self._pid, self._stopping = [measure.pss_mib(pid)], pid, threading.Event()

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            self.samples.append(measure.pss_mib(self._pid))
