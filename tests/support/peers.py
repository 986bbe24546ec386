"""The servers that tests talk to, as processes of their own: clusterdns, and a real CoreDNS.

``clusterdns`` and ``coredns`` run a Corefile on a free loopback port (``-dns.port``), which is the
port of every server block that names none, and of ``{PORT}`` in the text; they yield a ``Server``.
``ask_udp`` and ``ask_tcp`` bring octets.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from clusterdns.host import localsocket

COMMAND = [sys.executable, "-m", "clusterdns"]
COREDNS_VERSION = "1.15.0"
COREDNS_MODULE = f"github.com/coredns/coredns@v{COREDNS_VERSION}"
INSTALL_COREDNS = f"go install {COREDNS_MODULE}"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clusterdns-tests"
_BUILT = _CACHE / f"coredns-{COREDNS_VERSION}"
_why_not = ""  # the build failed
_PROBE = bytes.fromhex("7b7b01000001000000000000") + b"\x05probe\x07invalid\0" + b"\0\x01\0\x01"


class Server(NamedTuple):
    """A running server: where it listens, its process, and where its log goes."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")


def bind_pair(port: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket bound to one loopback port, any if it is 0."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind(("127.0.0.1", port))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        return udp, tcp


def free_port() -> int:
    """Return a port that is free for UDP and TCP at every address, and that nobody takes by chance.

    The kernel gives ports from 32768 on to sockets that ask for none. The ports below are shared
    out among the test processes of a run, and each takes its own in turn.
    """
    for port in _ports:
        with (
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            contextlib.suppress(OSError),
        ):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port
    raise AssertionError("the ports have no end")


def _own_ports() -> Iterator[int]:
    """Yield the ports of this process over and over, beginning anywhere."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(10240 + number, 32768, processes)
    begin = secrets.randbelow(len(own))
    return itertools.cycle(itertools.chain(own[begin:], own[:begin]))


_ports = _own_ports()


@contextlib.contextmanager
def clusterdns(corefile: str, directory: Path, *flags: str) -> Iterator[Server]:
    """Run clusterdns with a Corefile; relative paths in it start from ``directory``."""
    with _run(COMMAND, corefile, directory, flags) as server:
        wait_until_askable(server)
        yield server


@contextlib.contextmanager
def coredns(corefile: str, directory: Path, *flags: str) -> Iterator[Server]:
    """Run the real CoreDNS likewise, or skip the test if it cannot be had."""
    with _run([str(coredns_path())], corefile, directory, flags) as server:
        yield server


def coredns_path() -> Path:
    """Return the CoreDNS binary: from COREDNS, from the PATH, or from what was built."""
    named = os.environ.get("COREDNS") or shutil.which("coredns")
    if named:
        return Path(named)
    if not _BUILT.exists():
        pytest.skip(f"needs CoreDNS {COREDNS_VERSION}: {INSTALL_COREDNS}{_why_not}")
    return _BUILT


def build_coredns() -> None:
    """Build CoreDNS if there is none and Go is; takes three minutes, once."""
    go = shutil.which("go")
    if go is None or os.environ.get("COREDNS") or shutil.which("coredns"):
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:  # test processes run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _BUILT.exists():
            _install(go)


def _install(go: str) -> None:
    global _why_not
    done = subprocess.run(
        [go, "install", COREDNS_MODULE],
        env={**os.environ, "GOBIN": str(_CACHE / "bin"), "GOTOOLCHAIN": "auto", "CGO_ENABLED": "0"},
        capture_output=True,
        timeout=900,
        check=False,
    )
    if not done.returncode:
        (_CACHE / "bin" / "coredns").rename(_BUILT)
    else:
        _why_not = f" ({done.stderr.decode('utf-8', 'replace').strip()[-200:]})"


@contextlib.contextmanager
def _run(
    command: list[str], corefile: str, directory: Path, flags: Sequence[str]
) -> Iterator[Server]:
    for left in (2, 1, 0):
        with running(command, corefile, directory, flags) as server:
            try:
                wait_until_answering(server)
            except RuntimeError as error:
                # Another process may have taken the port since it was found to be free.
                if left and "ddress already in use" in str(error):
                    continue
                raise
            yield server
            return


@contextlib.contextmanager
def running(
    command: list[str], corefile: str, directory: Path, flags: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a server, which may not have begun to answer or may refuse its Corefile."""
    port = free_port()
    tag = f"{Path(command[-1]).name}-{port}"
    conf, log = directory / f"Corefile-{tag}", directory / f"{tag}.log"
    conf.write_text(corefile.replace("{PORT}", str(port)))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-conf", str(conf), "-dns.port", str(port), *flags],
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server("127.0.0.1", port, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_answering(server: Server, timeout_s: float = 20) -> None:
    """Return as soon as a query gets a reply, whatever it says; raise with the log if none does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if ask_udp(server.address, _PROBE, timeout_s=0.2):
                return
        time.sleep(0.02)
    raise RuntimeError(f"{server.process.args} does not answer:\n{server.output}")


def wait_until_askable(server: Server, timeout_s: float = 20) -> None:
    """Return as soon as commands can ask the server: its workers answer a little earlier."""
    deadline = time.monotonic() + timeout_s
    while server.process.pid not in localsocket.servers():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"commands cannot ask {server.process.args}:\n{server.output}")
        time.sleep(0.02)


def ask_udp(
    address: tuple[str, int], packet: bytes, timeout_s: float = 3, *, by: str = ""
) -> bytes | None:
    """Return the reply to one datagram, None if there is none in time; ``by`` is the client's address."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        if by:
            sock.bind((by, 0))
        sock.connect(address)
        sock.send(packet)
        try:
            return sock.recv(65535)
        except TimeoutError:
            return None


def ask_tcp(address: tuple[str, int], packet: bytes, timeout_s: float = 3) -> bytes | None:
    """Return the reply over a TCP connection of its own, None if there is none in time."""
    with socket.create_connection(address, timeout_s) as sock:
        sock.sendall(struct.pack("!H", len(packet)) + packet)
        try:
            return read_frame(sock)
        except TimeoutError:
            return None


def read_frame(sock: socket.socket) -> bytes | None:
    """Return the next message on a stream, None at its end."""
    head = _read(sock, 2)
    return _read(sock, struct.unpack("!H", head)[0]) if head else None


def _read(sock: socket.socket, octets: int) -> bytes | None:
    found = b""
    while len(found) < octets:
        part = sock.recv(octets - len(found))
        if not part:
            return None
        found += part
    return found
