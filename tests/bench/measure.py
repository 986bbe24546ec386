"""What is measured: CPU time and memory of a tree of processes, and dnsperf's load on a server.

CPU time is the kernel's, in nanoseconds, summed over every thread of the tree; threads that end
while they are measured are lost to it, and none of the servers has such.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

DNSPERF = "dnsperf"
INSTALL_DNSPERF = "apt-get install dnsperf"
INSTALL_CC = "apt-get install gcc libc6-dev"
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# The server alone on one, everything else on the other; the same where there is only one.
LOAD_CORE, *_, SERVER_CORE = sorted(os.sched_getaffinity(0)) * 2
_COMPLETED = re.compile(r"Queries (sent|completed):\s+(\d+)")
_RUN_TIME = re.compile(r"Run time \(s\):\s+([\d.]+)")
_RCODES = re.compile(r"Response codes: +(.*)")
_RCODE = re.compile(r"(\w+) (\d+) \(")
_LATENCY = re.compile(r"Average Latency \(s\):\s+([\d.]+)")


class Load(NamedTuple):
    """What dnsperf has seen."""

    sent: int
    answered: int
    seconds: float
    latency_us: float
    rcodes: dict[str, int]


class Sample(NamedTuple):
    """One server under one load."""

    load: Load
    cpu_ns: int

    @property
    def us_per_query(self) -> float:
        """CPU time of the server for each query it has answered."""
        return self.cpu_ns / 1000 / max(1, self.load.answered)


def missing() -> str:
    """Return how to install what the benchmark needs and is not there, or nothing."""
    if not shutil.which(DNSPERF):
        return f"needs dnsperf: {INSTALL_DNSPERF}"
    if not compiler():
        return f"needs a C compiler: {INSTALL_CC}"
    return ""


def run(main: Callable[[], int]) -> int:
    """Run a benchmark and return its exit status, 0 if what it needs is not there."""
    reason = missing()
    if reason:
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    return main()


def compiler() -> str | None:
    """Return the path of a C compiler."""
    return shutil.which("cc") or shutil.which("gcc")


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Have the processes started meanwhile run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [pid]
    for one in found:
        for task in _tasks(one):
            with contextlib.suppress(OSError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a tree of processes so far, user and system."""
    total = 0
    for one in tree(pid):
        for task in _tasks(one):
            with contextlib.suppress(OSError):
                total += _task_cpu_ns(task)
    return total


def pss_mib(pid: int) -> float:
    """Return the memory of a tree of processes, shared pages divided among their users."""
    kib = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib / 1024


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _task_cpu_ns(task: Path) -> int:
    """Return the time of one thread; in ticks of 10 ms where the kernel has no schedstat."""
    try:
        return int((task / "schedstat").read_text().split()[0])
    except OSError:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_NS


def compile_echo(directory: Path) -> Path:
    """Return the echo server, compiled."""
    path = directory / "echo"
    source = Path(__file__).with_name("echo.c")
    command = [compiler() or "cc", "-O2", "-Wall", "-pthread", "-o", str(path), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return path


def put_load(
    port: int,
    questions: Path,
    *,
    seconds: float,
    rate: int = 0,
    passes: int = 0,
    transport: str = "udp",
    clients: int = 1,
    options: tuple[str, ...] = (),
) -> Load:
    """Return what dnsperf sees of a server.

    ``rate`` is queries a second, 0 as many as are answered; ``passes`` is how often the questions
    are gone through at most, 0 without end. Over "tcp" each client keeps its connection.
    ``options`` are dnsperf's own.
    """
    command = [DNSPERF, "-s", "127.0.0.1", "-p", str(port), "-d", str(questions), "-t", "1"]
    command += ["-l", f"{seconds:.3f}", "-O", "suppress=timeout"]
    command += ["-m", transport, "-c", str(clients), *options]
    if rate:
        command += ["-Q", str(rate)]
    if passes:
        command += ["-n", str(passes)]
    with pinned(LOAD_CORE):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 30, check=False
        )
    if done.returncode:
        raise RuntimeError(f"dnsperf ended with {done.returncode}: {done.stdout}{done.stderr}")
    return read_report(done.stdout)


def read_report(text: str) -> Load:
    counts = {word: int(number) for word, number in _COMPLETED.findall(text)}
    seconds, latency = _RUN_TIME.search(text), _LATENCY.search(text)
    if "completed" not in counts or seconds is None:
        raise RuntimeError(f"dnsperf reports nothing to go by:\n{text}")
    latency_us = float(latency[1]) * 1e6 if latency else 0.0
    line = _RCODES.search(text)
    rcodes = {word: int(number) for word, number in _RCODE.findall(line[1] if line else "")}
    return Load(counts["sent"], counts["completed"], float(seconds[1]), latency_us, rcodes)
