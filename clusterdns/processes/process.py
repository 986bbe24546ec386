"""Processes forked from the supervisor: how one starts, how its end is noticed.

A child inherits code, configuration and sockets by fork, closes the supervisor's own descriptors,
and never returns from ``fork``. A ``Child`` is the supervisor's view of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

from clusterdns.host import libc, logs
from clusterdns.serving.packetloop import PacketLoop

MOST_COMPUTED_OCTETS = 4 * 2**20
_HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD,
)  # fmt: skip
_log = logging.getLogger(__name__)


def fork(main: Callable[[], Coroutine[Any, Any, None]], keep: Iterable[int]) -> int:
    """Start a child that runs ``main`` in a loop of its own; return its process ID.

    The child keeps standard input and output and ``keep`` open, and closes all other descriptors:
    its copy of the supervisor's end of a channel would keep that channel open forever.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _become_child(frozenset((0, 1, 2, *keep)), parent)
        with asyncio.Runner(loop_factory=PacketLoop) as runner:
            runner.run(main())
        status = 0
    except BaseException:  # log any error, and never return into the supervisor's code
        with contextlib.suppress(Exception):
            _log.error("process %d ends: %s", os.getpid(), traceback.format_exc())
    finally:
        os._exit(status)


async def compute(
    work: Callable[[], dict[str, Any]], timeout_s: float, most_octets: int = MOST_COMPUTED_OCTETS
) -> dict[str, Any] | None:
    """Return what ``work`` returns in a child process, as JSON keeps it; None if it fails.

    For what takes time or memory that the supervisor has not. The child is killed after
    ``timeout_s``; `Nursery.reap` collects it.
    """
    ours, theirs = socket.socketpair()

    async def main() -> None:
        theirs.sendall(json.dumps(work()).encode())

    try:
        pid = fork(main, [theirs.fileno()])
    finally:
        theirs.close()
    handle = os.pidfd_open(pid)
    try:
        reader, writer = await asyncio.open_connection(sock=ours, limit=most_octets)
        try:
            octets = await asyncio.wait_for(_all(reader, most_octets), timeout_s)
            found: dict[str, Any] = json.loads(octets)
            return found
        finally:
            writer.close()
    except (TimeoutError, OSError, ValueError):
        return None
    finally:
        with contextlib.suppress(OSError):  # it has ended
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


async def _all(reader: asyncio.StreamReader, most_octets: int) -> bytes:
    """Return all octets of a stream. Raises ValueError if they are too many."""
    octets = bytearray()
    while chunk := await reader.read(65536):
        octets += chunk
        if len(octets) > most_octets:
            raise ValueError("too long")
    return bytes(octets)


def _become_child(keep: frozenset[int], parent: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    # ^C of the terminal reaches the whole process group, SIGTERM of systemd the control group;
    # only the supervisor handles them.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    libc.die_with_parent()
    logs.forget_recent()
    if os.getppid() != parent:
        os._exit(1)  # the supervisor died between fork and prctl
    # asyncio itself forgets the supervisor's running loop: in 3.11 by the process ID, from 3.12 on
    # at the fork (test_fork.py). The loop is still on the stack, and its objects own descriptors:
    # they must not be collected here, since that would close reused descriptor numbers and copy
    # their pages.
    gc.freeze()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(entry) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(entry))


def spawn(command: list[str], environ: Mapping[str, str], keep: Collection[int]) -> int:
    """Start a program that inherits ``keep`` and standard input and output; return its process ID.

    It ends with status 127 if the program cannot be started.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _become_child(frozenset((0, 1, 2, *keep)), parent)
        for number in keep:
            os.set_inheritable(number, True)
        os.execve(command[0], command, environ)
    except BaseException as error:  # never return into the supervisor's code
        with contextlib.suppress(Exception):
            _log.error("cannot start %s: %s", command[0], error)
    finally:
        os._exit(127)


def print_status(status: int) -> str:
    """Return how a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"


class Child:
    """A process the supervisor keeps alive: restarted, with growing delays, when it ends."""

    FIRST_DELAY_S = 0.05
    MAX_DELAY_S = 5.0
    SETTLED_S = 10.0  # a process that lived so long is restarted at once
    SHORT_LIFE_S = 2.0
    MAX_SHORT_LIVES = 3  # in a row: it does not get on by itself

    def __init__(self, name: str, start: Callable[[], int]) -> None:
        self.name = name
        self.pid = 0
        self.status = 0  # with which it ended last
        self.is_wanted = True
        self.started_at = 0.0
        self.short_lives = 0  # in a row
        self.ended = asyncio.Event()
        self._start = start
        self._delay_s = self.FIRST_DELAY_S

    def start(self) -> None:
        """Fork it."""
        self.ended.clear()
        self.started_at = time.monotonic()
        self.pid = self._start()

    def on_exit(self, status: int) -> None:
        """Handle its end: restart it if it is still wanted."""
        pid, self.pid, self.status = self.pid, 0, status
        self.ended.set()
        if not self.is_wanted:
            return
        lived_s = time.monotonic() - self.started_at
        self.short_lives = self.short_lives + 1 if lived_s < self.SHORT_LIFE_S else 0
        if lived_s >= self.SETTLED_S:
            self._delay_s = self.FIRST_DELAY_S
        how = print_status(status)
        _log.error("%s (process %d) ended with %s: starting it again", self.name, pid, how)
        asyncio.get_running_loop().call_later(self._delay_s, self._restart)
        self._delay_s = min(self._delay_s * 2, self.MAX_DELAY_S)

    @property
    def is_failing(self) -> bool:
        """Whether it has ended soon after each start; not if it lives for longer now."""
        is_settling = not self.pid or time.monotonic() - self.started_at < self.SHORT_LIFE_S
        return is_settling and self.short_lives >= self.MAX_SHORT_LIVES

    def kill(self) -> None:
        """Kill it."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _restart(self) -> None:
        if self.is_wanted and not self.pid:
            try:
                self.start()
            except OSError as error:  # out of memory or processes
                _log.error("%s: cannot fork: %s", self.name, error)
                asyncio.get_running_loop().call_later(self._delay_s, self._restart)


class Nursery:
    """All children, by process ID."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, child: Child) -> None:
        """Start a child and keep it running while it is wanted. Raises OSError."""
        child.start()
        # One that had ended when it was not wanted any more will not end again.
        self._children = [each for each in self._children if each.pid or each.is_wanted]
        self._children.append(child)

    def adopt(self, child: Child, pid: int) -> None:
        """Take up a child that lives already; its end is noticed, and it is not started again."""
        child.pid, child.is_wanted = pid, False
        self._children.append(child)

    def pids(self) -> list[int]:
        """Return the process IDs of the living children."""
        return [child.pid for child in self._children if child.pid]

    def reap(self) -> None:
        """Collect every ended process; as process 1, also orphans of others."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for child in [child for child in self._children if child.pid == pid]:
                    if not child.is_wanted:
                        self._children.remove(child)
                    child.on_exit(os.waitstatus_to_exitcode(status))
