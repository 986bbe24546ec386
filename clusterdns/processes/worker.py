"""One worker process: sockets, tables, stores and the plugins of every view.

``run`` is the life of a worker: it starts the plugins, reads the sockets, sends beats, and at
``stop`` answers the queries it has received and ends. It inherits configuration and bound sockets
from the supervisor by fork, and talks to it over a channel: it sends beats and samples, and
receives ``samples``, ``spare`` (memory, for some seconds) and ``stop``. It ends when the channel
breaks, since then the supervisor has ended.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clusterdns.cluster.feed import Subscription
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.config.compile import Configuration, ListenAddress
from clusterdns.host import libc, logs
from clusterdns.host.channel import Channel
from clusterdns.metrics.tally import Sample
from clusterdns.observing.collector import TICK_S, Collector
from clusterdns.observing.selection import Selection
from clusterdns.serving.connection import LAST_HELD_OCTETS, MAX_HELD_OCTETS, Held
from clusterdns.serving.relay import Relay
from clusterdns.serving.server import Listener
from clusterdns.serving.table import MAX_TABLE_OCTETS
from clusterdns.serving.tcp import Streams
from clusterdns.serving.udp import Engine

if TYPE_CHECKING:
    from clusterdns.host.encryption import Encryption

BEAT_S = 1.0
STARTING_BEAT_S = 0.05
FINISH_S = 5.0
SPARED_OCTETS = 4 * 2**20  # of such shelves of all tables: room for 7,000 common answers
EXPLAINED_PORT = 40000  # source port of a query that is explained
_log = logging.getLogger(__name__)


class Worker:
    """The life of a worker process, and what plugins use of it."""

    def __init__(
        self,
        configuration: Configuration,
        sockets: Mapping[ListenAddress, Iterable[socket.socket]],
        feeds: Mapping[Source, str | bytes],
        number: int = 0,
        *,
        is_rehearsal: bool = False,
    ) -> None:
        self.number, self.workers = number, configuration.workers
        self._configuration = configuration
        self._feeds = feeds
        self._collector = self._made_collector()
        routers = configuration.routers
        octets = MAX_TABLE_OCTETS // max(1, len(routers))
        self._servers = {
            endpoint: Listener(
                router, endpoint.label, self.now, endpoint[:2], octets, self._collector
            )
            for endpoint, router in routers.items()
        }
        self._engines: list[Engine] = []
        self._spent = (time.monotonic(), time.process_time())
        self._streams: list[Streams] = []
        self._held = Held()
        listeners = sum(s.type == socket.SOCK_STREAM for some in sockets.values() for s in some)
        for endpoint, some in sockets.items():
            server = self._servers[endpoint]
            for sock in some:
                if sock.type == socket.SOCK_DGRAM:
                    self._engines.append(Engine(server, sock))
                else:
                    encryption = configuration.encryption(endpoint)
                    streams = _streams(server, sock, listeners, endpoint.scheme, encryption)
                    self._held.enter(streams)
                    self._streams.append(streams)
        self._relay = Relay(self._servers.values(), self._engines)
        self._subscriptions: dict[Source, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_rehearsal = is_rehearsal  # another process answers, see handover.py
        self._is_serving = False
        self._is_last = False  # nobody reads the sockets after us
        self._dropped = 0
        self._stop = asyncio.Event()

    def _made_collector(self) -> Collector | None:
        """Return what collects for `top` and `tail`, if a plugin wants that."""
        plugins = self._configuration.plugins
        if not any(plugin.observes_all for plugin in plugins):
            return None
        zones = [zone for p in plugins for some in p.sources().values() for zone in some]
        return Collector(zones, self.now, time.time)

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    async def store(self, source: Source, timeout_s: float) -> Store:
        """Return the store fed from ``source``, once it is filled or ``timeout_s`` have passed."""
        subscription = self._subscription(source)
        try:
            await asyncio.wait_for(subscription.filled.wait(), timeout_s)
        except TimeoutError:
            _log.warning("plugin/kubernetes: starting server with unsynced Kubernetes API")
        return subscription.store

    def forget_all(self) -> None:
        """Remove all answers from the tables."""
        for server in self._servers.values():
            server.clear()

    async def run(
        self, channel_socket: socket.socket, wanted: Mapping[Source, Collection[str]]
    ) -> None:
        """Serve, once the ``wanted`` kinds are known, until told to stop or the supervisor ends."""
        libc.return_large_blocks()
        self._dropped = logs.dropped()  # by the supervisor
        channel = await Channel.open(channel_socket)
        listening = asyncio.create_task(self._listen(channel))
        beating = asyncio.create_task(self._beat(channel))
        if self._collector is not None:
            self._tasks.add(asyncio.create_task(self._collect(self._collector)))
        plugins = self._configuration.plugins
        await asyncio.gather(*(plugin.start(self) for plugin in plugins))
        for source, kinds in wanted.items():
            await self._subscription(source).told(kinds)
        if not self._is_rehearsal:
            await self._read()
        self._is_serving = True
        self._beat_once(channel)
        await self._stop.wait()
        await self._finish()
        for plugin in plugins:
            await plugin.stop()
        channel.send(("samples", self.samples()))
        beating.cancel()
        for task in self._tasks:
            task.cancel()
        await channel.close()
        listening.cancel()

    async def _read(self) -> None:
        """Start to read the sockets."""
        for streams in self._streams:  # before UDP: a truncated answer there leads here
            await streams.start()
        self._relay.start()
        for engine in self._engines:
            engine.start()

    def samples(self) -> list[Sample]:
        """Return all metrics of this worker."""
        self._relay.add_up()
        for engine in self._engines:
            engine.add_up()
        found: list[Sample] = []
        for server in self._servers.values():
            found += server.tally.samples()
            found.append(("panics_total", (), server.panics))
        found.append(("clusterdns_saturation_ratio", (), self._busy_share()))
        found.append(("clusterdns_log_lines_dropped_total", (), logs.dropped() - self._dropped))
        for engine in self._engines:
            found += engine.samples()
        for streams in self._streams:
            found += streams.samples()
        for plugin in self._configuration.plugins:
            found += plugin.samples()
        return found

    def _busy_share(self) -> float:
        """Return the share of the time since the last call that this process has worked."""
        before, self._spent = self._spent, (time.monotonic(), time.process_time())
        passed, worked = (now - then for now, then in zip(self._spent, before, strict=True))
        return min(1.0, worked / passed) if passed > 0 else 0.0

    def _subscription(self, source: Source) -> Subscription:
        """Return the subscription to the feed of ``source``, which runs from the first call."""
        if source in self._subscriptions:
            return self._subscriptions[source]
        store = Store(source.kinds)
        subscription = self._subscriptions[source] = Subscription(
            self._feeds[source],
            store,
            kinds=source.kinds,
            changed=self.forget,
            clock=time.time,
        )
        task = asyncio.create_task(subscription.run())
        self._tasks.add(task)
        return subscription

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Remove the answers that depend on any of ``facts`` from the tables."""
        for server in self._servers.values():
            server.forget(facts)

    async def _listen(self, channel: Channel) -> None:
        """Follow the messages of the supervisor."""
        async for message in channel.messages():
            if message[0] == "samples":
                channel.send(("samples", self.samples()))
            elif message[0] == "ask":
                task = asyncio.create_task(self._answer(channel, *message[1:]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif message[0] == "spare":
                self._spare_memory()
                asyncio.get_running_loop().call_later(message[1], self._spend_memory)
            elif message[0] == "stop":
                self._is_last = message[1]
                self._stop.set()
        self._stop.set()  # the supervisor has ended: nothing would restart or reload us

    async def _answer(
        self, channel: Channel, number: int, word: str, request: dict[str, Any]
    ) -> None:
        """Answer a request of the supervisor; see ``ChildProcess.ask``."""
        try:
            found = await self._found(word, request)
        except ValueError as error:
            found = {"error": str(error)}
        except Exception as error:
            _log.exception("the supervisor asks %s: it cannot be answered", word)
            found = {"error": f"{type(error).__name__}: {error}"}
        channel.send(("answer", number, found))

    async def _found(self, word: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return what the supervisor asks for. Raises ValueError: the request has a wrong value."""
        if word == "explain":
            return await self._explain(request)
        if word == "state":
            return self._state()
        collector = self._collector
        if collector is None:
            return {}
        if word == "top":
            return collector.top()
        selection = Selection.of(request)
        return collector.tail(int(request["since"]), int(request["limit"]), selection)

    async def _collect(self, collector: Collector) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                collector.tick()
            except Exception:
                _log.exception("plugin/status: cannot count queries")

    async def _explain(self, request: dict[str, Any]) -> dict[str, Any]:
        from clusterdns.serving.explaining import explain  # rarely used

        servers = {server.tally.server: server for server in self._servers.values()}
        client = (request["client"], EXPLAINED_PORT)
        packet = bytes.fromhex(request["packet"])
        listener = servers[request["listener"]]
        found, reply = await explain(listener, packet, client, request["transport"])
        return {**found, "packet": reply.hex() if reply is not None else None}

    def _state(self) -> dict[str, Any]:
        """Return what the page of the server shows of this process."""
        plugins = self._configuration.plugins
        self._relay.add_up()
        return {
            "recent": [*map(tuple, logs.recent())],
            "upstreams": [state._asdict() for plugin in plugins for state in plugin.upstreams()],
        }

    async def _beat(self, channel: Channel) -> None:
        """Send beats to the supervisor, with the plugins that are not ready."""
        while True:
            is_settled = self._beat_once(channel)
            await asyncio.sleep(BEAT_S if is_settled else STARTING_BEAT_S)

    def _beat_once(self, channel: Channel) -> bool:
        """Send one beat; tell whether all listeners serve and all plugins are ready."""
        plugins = self._configuration.plugins
        waiting = sorted({plugin.name for plugin in plugins if not plugin.is_ready})
        channel.send(("beat", self._is_serving, waiting))
        return self._is_serving and not waiting

    async def _finish(self) -> None:
        """Stop reading the sockets, and answer the queries received."""
        for engine in self._engines:
            engine.stop(is_last=self._is_last)
        for streams in self._streams:
            streams.stop(is_last=self._is_last)
        self._spare_memory()
        deadline = self.now() + FINISH_S
        await self._relay.finish(FINISH_S)
        for server in self._servers.values():
            await server.finish(max(0.0, deadline - self.now()))
        for streams in self._streams:
            while streams.connections and self.now() < deadline:  # noqa: ASYNC110 - at the end only
                await asyncio.sleep(0.02)
            streams.abort()

    def _spare_memory(self) -> None:
        """Give up what attackers fill, since for a while there are more processes."""
        self._held.most = LAST_HELD_OCTETS
        self._held.lighten()
        most = 0 if self._stop.is_set() else SPARED_OCTETS // max(1, len(self._servers))
        for server in self._servers.values():
            server.lighten(most)
        libc.return_free_memory()

    def _spend_memory(self) -> None:
        if not self._stop.is_set():
            self._held.most = MAX_HELD_OCTETS


def _streams(
    server: Listener,
    sock: socket.socket,
    listeners: int,
    scheme: str,
    encryption: Encryption | None,
) -> Streams:
    """Return the connections of a listening socket, by its scheme."""
    # Imported here: ssl and HTTP, which nothing else needs.
    if scheme == "https":
        from clusterdns.serving.https import WebStreams

        return WebStreams(server, sock, listeners, encryption)
    if scheme == "grpc":
        from clusterdns.serving.grpc import CallStreams

        return CallStreams(server, sock, listeners, encryption)
    if encryption is None:
        return Streams(server, sock, listeners)
    from clusterdns.serving.secure import SecureStreams

    return SecureStreams(server, sock, listeners, encryption)
