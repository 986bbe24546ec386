"""The processes of one configuration: its workers, the watchers that feed them, their sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from clusterdns.cluster import feed
from clusterdns.cluster.source import Source
from clusterdns.config.compile import Configuration, ListenAddress
from clusterdns.errors import ClusterDNSError
from clusterdns.host import channel, libc
from clusterdns.host.channel import Channel
from clusterdns.metrics.ledger import Ledger
from clusterdns.metrics.tally import Sample
from clusterdns.processes import takeover
from clusterdns.processes.binding import bind, by_address
from clusterdns.processes.estate import Heir, source_key
from clusterdns.processes.process import Child, Nursery, fork, print_status
from clusterdns.processes.takeover import KnownZones
from clusterdns.processes.worker import Worker

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 7.0  # a little longer than a worker takes to finish
SHARE_AT_ONCE = 4  # workers are replaced one at a time, or a quarter of them if they are many
RELIEF_S = 8.0  # the next ones wait for those that end: with queries, or killed after 7 s
STALLED_S = 15.0  # a process without a beat for so long hangs
WORKER_STALLED_S = 3.5  # a worker that serves: it beats every second, and its queries wait
SAMPLES_TIMEOUT_S = 3.0
MAX_ASKED = 32  # requests to one process at a time
_log = logging.getLogger(__name__)

Sockets = dict[ListenAddress, list[socket.socket]]


class GenerationError(ClusterDNSError):
    """The workers did not start to serve."""


class ChildProcess:
    """The supervisor's view of a worker or watcher: beats and samples from a channel."""

    def __init__(
        self,
        name: str,
        run: Callable[[socket.socket], int],
        ledger: Ledger,
        *,
        stalled_s: float = STALLED_S,
    ) -> None:
        self.child = Child(name, self._fork)
        self.is_serving = asyncio.Event()
        self.not_ready: list[str] = []
        self.known: frozenset[str] = frozenset()  # kinds of objects that a watcher knows now
        self.ever_known: frozenset[str] = frozenset()  # that it has told workers of at any time
        self._run = run
        self._stalled_s = stalled_s
        self._ledger = ledger
        self._samples: list[Sample] = []  # as last received
        self._answered = asyncio.Event()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}  # by number
        self._number = 0
        self._beat_at = time.monotonic()
        self._channel: Channel | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether it is to serve and does not."""
        return self.child.is_wanted and not self.is_serving.is_set()

    def adopt(self, sock: socket.socket, held: bytes) -> None:
        """Take up a process that serves already, with its channel and the octets read from it."""
        self.is_serving.set()
        self._listening = asyncio.get_running_loop().create_task(self._listen(sock, held))

    def will_to(self, *, is_worker: bool) -> Heir | None:
        """Return what the next version needs to adopt it, None if it has ended.

        Raises:
            GenerationError: it does not take messages at the moment.
        """
        if not self.child.pid or self._channel is None:
            return None
        if not self._channel.is_sent:
            raise GenerationError(f"{self.child.name} does not take messages")
        opened = self._channel
        held = bytes(opened.held)
        return Heir(self.child.name, self.child.pid, opened.descriptor, held, is_worker)

    def _fork(self) -> int:
        ours, theirs = channel.pair()
        self._beat_at = time.monotonic()
        self.is_serving.clear()
        self.known = frozenset()
        pid = self._run(theirs)
        theirs.close()
        self._listening = asyncio.get_running_loop().create_task(self._listen(ours, b""))
        return pid

    async def _listen(self, sock: socket.socket, held: bytes) -> None:
        """Receive the messages of one run of the process, until it ends."""
        self._channel = opened = await Channel.open(sock, held)
        async for message in opened.messages():
            if message[0] == "beat":
                self._beat_at = time.monotonic()
                self.not_ready = message[2]
                if message[1]:
                    self.is_serving.set()
            elif message[0] == "known":
                self.known = frozenset(message[1])
                self.ever_known |= self.known
            elif message[0] == "samples":
                self._samples = message[1]
                self._answered.set()
            elif message[0] == "answer" and message[1] in self._asked:
                self._asked.pop(message[1]).set_result(message[2])
        if self._channel is opened:  # else it has been started again meanwhile
            self._channel = None
            self.is_serving.clear()
            self.known = frozenset()
        self._ledger.close(self._samples)
        self._samples = []
        await opened.close()

    async def samples(self) -> list[Sample]:
        """Return the metrics of the process, the last known ones if it does not answer in time."""
        if self._channel is not None:
            self._answered.clear()
            self._channel.send(("samples",))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), SAMPLES_TIMEOUT_S)
        return self._samples

    async def ask(
        self, word: str, request: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """Return the process's answer to a request, None if it has none in time."""
        if self._channel is None or len(self._asked) >= MAX_ASKED:
            return None
        self._number += 1
        number = self._number
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(("ask", number, word, request))
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    def spare(self, seconds: float) -> None:
        """Let it do with little memory for some time."""
        if self._channel is not None:
            self._channel.send(("spare", seconds))

    def kill_if_stalled(self) -> None:
        """Kill the process if its beats have stopped."""
        # Before it serves, a worker may read large zones.
        stalled_s = self._stalled_s if self.is_serving.is_set() else max(STALLED_S, self._stalled_s)
        if self.child.pid and time.monotonic() - self._beat_at > stalled_s:
            _log.error("%s does not beat any more: killing it", self.child.name)
            self._beat_at = time.monotonic()
            self.child.kill()

    async def stop(self, timeout_s: float, *, is_last: bool = False) -> None:
        """Tell it to finish, and kill it if it takes too long."""
        self.child.is_wanted = False
        if self.child.pid and self._channel is not None and timeout_s:
            self._channel.send(("stop", is_last))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.child.ended.wait(), timeout_s)
        self.child.kill()
        if self._listening is not None:
            await asyncio.wait([self._listening], timeout=1)  # for its last samples


def worker_name(i: int) -> str:
    """Return what the worker of this number is called, also in another version of this program."""
    return f"worker {i}"


async def _all_of(works: Iterable[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*works)


async def _samples(processes: Iterable[ChildProcess]) -> list[Sample]:
    """Return the metrics of some processes."""
    found = await asyncio.gather(*(process.samples() for process in processes))
    return [sample for samples in found for sample in samples]


async def _states(processes: Iterable[ChildProcess], timeout_s: float) -> dict[str, dict[str, Any]]:
    """Return what processes that answer in time say of themselves, by their names."""
    asked = list(processes)
    found = await asyncio.gather(*(each.ask("state", {}, timeout_s) for each in asked))
    return {
        each.child.name: answer
        for each, answer in zip(asked, found, strict=True)
        if answer is not None
    }


def heirs_of(processes: Iterable[ChildProcess], *, is_worker: bool) -> list[Heir]:
    """Return what the next version needs to adopt those processes that live."""
    found = [process.will_to(is_worker=is_worker) for process in processes]
    return [heir for heir in found if heir is not None]


class Watchers:
    """One watcher for each Kubernetes source in use, shared by all generations."""

    def __init__(
        self, nursery: Nursery, ledger: Ledger, inherited: Mapping[str, bytes] | None = None
    ) -> None:
        self.inherited = dict(inherited or {})  # feeds of the version before, by `source_key`
        self._nursery = nursery
        self._ledger = ledger
        self._running: dict[Source, tuple[socket.socket, ChildProcess]] = {}

    def address_of(self, source: Source) -> str | bytes:
        """Return the address of a source's feed; start its watcher if necessary."""
        if source not in self._running:
            listener = feed.listen()

            def run(theirs: socket.socket) -> int:
                before = self.inherited.get(source_key(source))
                return _fork_watcher(source, listener, theirs, before)

            # Parsing a directory of manifests may take any time.
            stalled_s = float("inf") if source.manifests else STALLED_S
            watcher = ChildProcess(
                f"watcher of {source.title}", run, self._ledger, stalled_s=stalled_s
            )
            self._running[source] = (listener, watcher)
            self._nursery.start(watcher.child)
        address: str | bytes = self._running[source][0].getsockname()
        return address

    def known(self, source: Source) -> frozenset[str]:
        """Return the kinds of objects that a new worker would be told of."""
        return self._running[source][1].known if source in self._running else frozenset()

    def ever_known(self, source: Source) -> frozenset[str]:
        """Return the kinds of objects that workers have been told of, at any time."""
        return self._running[source][1].ever_known if source in self._running else frozenset()

    def keep_only(self, sources: Iterable[Source]) -> None:
        """End the watchers of all other sources."""
        for source in self._running.keys() - set(sources):
            listener, watcher = self._running.pop(source)
            watcher.child.is_wanted = False
            watcher.child.kill()
            listener.close()

    async def samples(self) -> list[Sample]:
        """Return the metrics of all watchers."""
        return await _samples(w for s, (_, w) in self._running.items() if not s.manifests)

    async def states(self, timeout_s: float) -> dict[str, dict[str, Any]]:
        """Return what all watchers that answer in time say of themselves, by their names."""
        return await _states((w for _, w in self._running.values()), timeout_s)

    def spare(self) -> None:
        """Let the watchers return memory that they do not use: there will be others beside them."""
        for _, watcher in self._running.values():
            watcher.spare(0)

    def feeds(self) -> dict[str, bytes]:
        """Return the addresses of all feeds, by `source_key`."""
        return {source_key(s): sock.getsockname() for s, (sock, _) in self._running.items()}

    def heirs(self) -> list[Heir]:
        """Return what the next version needs to adopt the watchers."""
        return heirs_of((watcher for _, watcher in self._running.values()), is_worker=False)

    def kill_stalled(self) -> None:
        """Kill watchers whose beats have stopped; they are started again."""
        for _, watcher in self._running.values():
            watcher.kill_if_stalled()


def _fork_watcher(
    source: Source, listener: socket.socket, theirs: socket.socket, before: bytes | None
) -> int:
    def main() -> Coroutine[Any, Any, None]:
        from clusterdns.cluster import watcher  # imports packages that only watchers need

        return watcher.run(source, listener, theirs, before)

    return fork(main, [listener.fileno(), theirs.fileno()])


class Generation:
    """A configuration being served."""

    def __init__(
        self, configuration: Configuration, nursery: Nursery, watchers: Watchers, ledger: Ledger
    ) -> None:
        self.configuration = configuration
        self.sockets: list[Sockets] = []  # by worker
        self._nursery = nursery
        self._watchers = watchers
        self._ledger = ledger
        self._workers: list[ChildProcess] = []
        # Old ones that serve in the place of a worker, by its name.
        self._beside: dict[str, list[ChildProcess]] = {}
        self._feeds: Mapping[Source, str | bytes] = {}
        self._wanted: Mapping[Source, Collection[str]] = {}

    def bind(self, old: list[Sockets]) -> None:
        """Bind the sockets of every worker, or reuse those of ``old`` for the same listener.

        Raises:
            BindError: one cannot be bound.
        """
        for i in range(self.configuration.workers):
            theirs = old[i].values() if i < len(old) else ()
            bound = by_address(itertools.chain.from_iterable(theirs))
            self.sockets.append({})
            for endpoint in self.configuration.routers:
                taken = {
                    each.host for each in self.configuration.routers if each.port == endpoint.port
                }
                self.sockets[i][endpoint] = bind(endpoint, taken, bound)

    def unbind(self, kept: list[Sockets]) -> None:
        """Close the sockets that are not in ``kept``."""
        held = {sock for some in kept for group in some.values() for sock in group}
        for some in self.sockets:
            for group in some.values():
                for sock in group:
                    if sock not in held:
                        sock.close()

    def start(
        self,
        wanted: Mapping[Source, Collection[str]] | None = None,
        *,
        is_rehearsal: bool = False,
        is_first_alone: bool = False,
    ) -> None:
        """Fork the workers, and the watchers they need; in a rehearsal they read no socket.

        They read theirs once they have been told all ``wanted`` kinds of objects. One that is
        started again later takes what there is: its queries would wait.

        ``is_first_alone`` leaves the others for ``relieve``.
        """
        self._wanted = wanted or {}
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # the collector would write to pages shared with the workers
        libc.return_free_memory()
        self._feeds = {s: self._watchers.address_of(s) for s in self.configuration.sources}
        for i in range(1 if is_first_alone else len(self.sockets)):
            self._start_worker(i, is_rehearsal=is_rehearsal)

    def _start_worker(self, i: int, *, is_rehearsal: bool = False) -> None:
        sockets = self.sockets[i]
        keep = [sock.fileno() for some in sockets.values() for sock in some]

        def run(theirs: socket.socket) -> int:
            return fork(
                lambda: Worker(
                    self.configuration, sockets, self._feeds, i, is_rehearsal=is_rehearsal
                ).run(theirs, self._wanted),
                [*keep, theirs.fileno()],
            )

        worker = ChildProcess(worker_name(i), run, self._ledger, stalled_s=WORKER_STALLED_S)
        self._nursery.start(worker.child)
        others = [each for each in self._workers if each.child.name != worker_name(i)]
        self._workers = [*others, worker]

    async def relieve(self, old: Sequence[Generation]) -> None:
        """Start the other workers a few at a time, each few when their predecessors have ended.

        So there are only a few workers more than there are to be: two sets of them would not fit
        into the memory of a container. An old one serves as long as the one in its place does not,
        and while one of ours that served does not any more.

        Raises:
            GenerationError: workers do not serve. From then on old ones serve in these places and
                those not reached, until `relieve` is called again.
        """
        places = [i for i in range(len(self.sockets)) if not self._is_serving(i)]
        self._beside = {
            worker_name(i): [worker for each in old for worker in each.at(i)] for i in places
        }
        # Where an old one has ended, nobody serves.
        places.sort(key=lambda i: self._is_stood_in_for(worker_name(i)))
        stops = [self._stop(old, i) for i in range(len(self.sockets)) if i not in places]
        few = max(1, len(self.sockets) // SHARE_AT_ONCE)
        while places:
            if stops:
                await asyncio.wait(stops, timeout=RELIEF_S)
            now, places = places[:few], places[few:]
            for i in now:
                if not any(worker.child.is_wanted for worker in self.at(i)):
                    self._start_next(i)
            await self.wait_until_serving()
            for i in now:
                del self._beside[worker_name(i)]
                stops.append(self._stop(old, i))
        self._wanted = {}
        if stops:
            await asyncio.wait(stops)

    def _start_next(self, i: int) -> None:
        try:
            self._start_worker(i)
        except OSError as error:  # out of memory or processes
            raise GenerationError(f"{worker_name(i)}: cannot fork: {error}") from error

    def at(self, i: int) -> list[ChildProcess]:
        """Return the worker of this number, if it was started."""
        return [worker for worker in self._workers if worker.child.name == worker_name(i)]

    def _is_serving(self, i: int) -> bool:
        return any(worker.is_serving.is_set() and worker.child.is_wanted for worker in self.at(i))

    @staticmethod
    def _stop(old: Iterable[Generation], i: int) -> asyncio.Task[None]:
        """Return the task of ending the workers of this number."""
        stops = [worker.stop(STOP_TIMEOUT_S) for each in old for worker in each.at(i)]
        return asyncio.get_running_loop().create_task(_all_of(stops))

    async def wait_until_serving(self) -> None:
        """Return when every worker that was started reads its sockets.

        Raises:
            GenerationError: one does not in ``START_TIMEOUT_S``, or ends several times.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while waiting := [each for each in self._workers if each.is_awaited]:
            first = waiting[0]
            if self.failing:
                raise GenerationError(self.failing)
            if time.monotonic() >= deadline:
                name = first.child.name
                raise GenerationError(f"{name} does not serve after {START_TIMEOUT_S:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(first.is_serving.wait(), 0.1)
        if len(self._workers) == len(self.sockets):
            self._wanted = {}

    @property
    def failing(self) -> str:
        """How a worker ends each time it is started, "" if none does."""
        for worker in self._workers:
            child = worker.child
            if child.is_wanted and child.is_failing:
                how = print_status(child.status)
                return f"{child.name} ends again and again, with {how}"
        return ""

    async def wait_for_an_end(self) -> None:
        """Return when a worker ends."""
        ends = [asyncio.create_task(worker.child.ended.wait()) for worker in self._workers]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    def known_zones(self) -> KnownZones:
        """Return the kinds of objects known of each zone."""
        return takeover.known_zones(self.configuration, self._watchers.ever_known)

    def heirs(self) -> list[Heir]:
        """Return what the next version needs to adopt the workers."""
        return heirs_of(self._workers, is_worker=True)

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S, *, is_last: bool = False) -> None:
        """End the workers; ``is_last`` says that no others will read their sockets."""
        await asyncio.gather(*(worker.stop(timeout_s, is_last=is_last) for worker in self._workers))

    async def samples(self) -> list[Sample]:
        """Return the metrics of all workers."""
        return await _samples(self._workers)

    async def ask(
        self, word: str, request: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """Return the answer of the first worker that serves, None if there is none in time."""
        for worker in self._workers:
            if worker.is_serving.is_set():
                return await worker.ask(word, request, timeout_s)
        return None

    async def ask_all(
        self, word: str, request: dict[str, Any], timeout_s: float
    ) -> list[dict[str, Any]]:
        """Return the answers of all workers that have one in time."""
        answers = (worker.ask(word, request, timeout_s) for worker in self._workers)
        return [each for each in await asyncio.gather(*answers) if each is not None]

    async def states(self, timeout_s: float) -> dict[str, dict[str, Any]]:
        """Return what all workers that answer in time say of themselves, by their names."""
        return await _states(self._workers, timeout_s)

    def configuration_samples(self) -> list[Sample]:
        """Return which plugins handle queries (CoreDNS: metrics/register.go plugin_enabled)."""
        found: list[Sample] = []
        for view in self.configuration.views:
            if view.is_measured:
                zone = self.configuration.first_zone(view)
                names = {"prometheus", *(plugin.name for plugin in view.chain)}
                labels = (view.block.server, zone, view.block.view)
                found += [("plugin_enabled", (*labels, name), 1) for name in sorted(names)]
        return found

    def not_ready(self) -> list[str]:
        """Return the names of the plugins that are not ready in some worker, sorted."""
        workers = [w for w in self._workers if not self._is_stood_in_for(w.child.name)]
        found = {name for worker in workers for name in worker.not_ready}
        if not found and not all(worker.is_serving.is_set() for worker in workers):
            found = {"clusterdns"}  # the sockets are not read yet
        return sorted(found)

    def _is_stood_in_for(self, worker: str) -> bool:
        """Tell whether an old worker serves in the place of this one."""
        return any(old.child.pid for old in self._beside.get(worker, ()))

    def spare(self, seconds: float) -> None:
        """Let the workers do with little memory for some time: there will be others beside them."""
        for worker in self._workers:
            worker.spare(seconds)

    def serving(self) -> list[str]:
        """Return the names of the workers that serve."""
        return [each.child.name for each in self._workers if each.is_serving.is_set()]

    def kill_stalled(self) -> None:
        """Kill workers whose beats have stopped; they are started again."""
        for worker in self._workers:
            worker.kill_if_stalled()
