"""Hand-over: a new version of this program takes the place of this one, and no query is lost.

At SIGUSR2 the program is read from disk again, with the same arguments, twice:

1. **Rehearsal.** A child is the new version. It inherits the sockets and the addresses of the
   feeds, and starts all that it would serve with, but reads no socket. It is told to end when it
   could serve. If it ends by itself, or is not as far in ``REHEARSAL_S``, this version goes on.
2. **Exec.** The supervisor becomes the new version (execve(2)), so its process ID stays, for a
   container or systemd. Its workers and watchers live on: they notice nothing, since the sockets
   and channels are inherited. The new version has them as its ``Inherited`` generation, and
   replaces them as a reload does: once each zone is known as well as before, and its own workers
   serve.

Its watchers are first told by those of the version before what these know, so that an API server
that is down does not matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys

from clusterdns.config.compile import Configuration, ListenAddress
from clusterdns.errors import ClusterDNSError
from clusterdns.host import channel, libc
from clusterdns.host.channel import Channel
from clusterdns.metrics.ledger import Ledger
from clusterdns.processes import estate as estates
from clusterdns.processes.estate import Estate, Heir
from clusterdns.processes.generation import (
    STOP_TIMEOUT_S,
    ChildProcess,
    Generation,
    Watchers,
    heirs_of,
)
from clusterdns.processes.process import Child, Nursery, print_status, spawn
from clusterdns.processes.takeover import KnownZones

REHEARSAL_S = 60.0
SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD,
)  # fmt: skip
_log = logging.getLogger(__name__)


class HandOverError(ClusterDNSError):
    """The new version cannot take over."""


class Inherited(Generation):
    """The workers and watchers of the version before, which serve until those of this one do.

    Their Corefile is not known any more, so none of them is started again.
    """

    def __init__(
        self, estate: Estate, nursery: Nursery, watchers: Watchers, ledger: Ledger
    ) -> None:
        super().__init__(Configuration((), {}, "", 0), nursery, watchers, ledger)
        anywhere = ListenAddress("", 0)  # `bind` looks for the addresses that they are bound to
        self.sockets = [
            {anywhere: [socket.socket(fileno=number) for number in some]} for some in estate.sockets
        ]
        self._zones = estate.zones
        self._heirs = estate.heirs
        self._inherited_watchers: list[ChildProcess] = []

    async def adopt(self) -> None:
        """Take up the processes that live on."""
        for heir in self._heirs:
            child = ChildProcess(heir.name, _no_start, self._ledger)
            self._nursery.adopt(child.child, heir.pid)
            child.adopt(socket.socket(fileno=heir.descriptor), heir.held)
            (self._workers if heir.is_worker else self._inherited_watchers).append(child)

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S, *, is_last: bool = False) -> None:
        """End the workers, and then the watchers."""
        await super().stop(timeout_s, is_last=is_last)
        for watcher in self._inherited_watchers:
            await watcher.samples()
        await asyncio.gather(*(watcher.stop(0) for watcher in self._inherited_watchers))

    def heirs(self) -> list[Heir]:
        """Return what the next version needs to adopt those that still live."""
        return [*super().heirs(), *heirs_of(self._inherited_watchers, is_worker=False)]

    def known_zones(self) -> KnownZones:
        """Return the kinds of objects known of each zone."""
        return self._zones

    def kill_stalled(self) -> None:
        """Kill nobody: nobody could take the place."""


def _no_start(_: socket.socket) -> int:
    raise HandOverError("a process of the version before is not started again")


async def rehearse(estate: Estate, nursery: Nursery) -> None:
    """Return when a child that is the new version could serve.

    Raises:
        HandOverError: it could not.
        OSError: there is no memory or process left.
    """
    ours, theirs = channel.pair()
    opened = await Channel.open(ours)
    estate = estate._replace(rehearsal=theirs.fileno())
    number = estates.leave(estate)

    def start() -> int:
        return spawn(_command(), _environ(number), [*estate.descriptors, number])

    child = Child("the new version", start)
    try:
        nursery.start(child)
        child.is_wanted = False  # it is not started again
        theirs.close()
        async with asyncio.timeout(REHEARSAL_S):
            async for word, reason in opened.messages():
                if word == "ready":
                    return
                raise HandOverError(reason)
            await child.ended.wait()
        raise HandOverError(f"the new version ended with {print_status(child.status)}")
    except TimeoutError as error:
        raise HandOverError(f"the new version does not serve after {REHEARSAL_S:g} s") from error
    finally:
        child.kill()
        os.close(number)
        theirs.close()
        await opened.close()
        if child.pid:
            await child.ended.wait()  # and with it its processes


async def answer_rehearsal(estate: Estate, failure: str) -> None:
    """Tell the version that serves that this one could, or why it could not, and wait for its end.

    In the new version; it does not return.
    """
    libc.die_with_parent()
    opened = await Channel.open(socket.socket(fileno=estate.rehearsal))
    opened.send(("failed", failure) if failure else ("ready", ""))
    async for _ in opened.messages():
        pass
    os._exit(0)


def hold_signals() -> None:
    """Let signals wait: the new version receives those that arrive from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def let_signals_in() -> None:
    """Receive the signals that wait."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def become_new_version(estate: Estate) -> None:
    """Replace this program by the new version. Raises OSError; otherwise it does not return."""
    number = estates.leave(estate)
    inherited = [*estate.descriptors, number]
    try:
        for each in inherited:
            os.set_inheritable(each, True)
        os.execve(sys.executable, _command(), _environ(number))
    finally:
        for each in inherited:
            os.set_inheritable(each, False)
        os.close(number)


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _environ(number: int) -> dict[str, str]:
    return {**os.environ, estates.VARIABLE: str(number)}
