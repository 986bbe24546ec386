"""The life of a watcher process: it feeds the workers, and sends beats to the supervisor.

It talks to the supervisor over a channel as a worker does: it sends beats and samples, and receives
``samples``, ``spare`` (memory) and ``ask``. It ends when the channel breaks, since then the
supervisor has ended. Its source is a directory of manifests or an API server; the packages for
either are imported in this process only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from clusterdns.cluster.feed import Feeder, Legacy, inherit
from clusterdns.cluster.source import Source
from clusterdns.host import libc, logs
from clusterdns.host.channel import Channel
from clusterdns.metrics.tally import Sample

BEAT_S = 1.0
_log = logging.getLogger("kubernetes")


async def run(
    source: Source,
    listener: socket.socket,
    channel_socket: socket.socket,
    before: bytes | None = None,
) -> None:
    """Watch ``source`` until the supervisor has ended.

    ``before`` is the feed of the version before: what that knows is fed until the source answers.
    """
    channel = await Channel.open(channel_socket)
    legacy = await inherit(before, source.kinds) if before else None
    watching = _watch_of(source, listener, legacy)
    del legacy
    libc.return_free_memory()
    tasks = [
        asyncio.create_task(watching.work),
        asyncio.create_task(_beat(channel, watching)),
        asyncio.create_task(_listen(channel, watching.samples)),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


class _Watching(NamedTuple):
    """The coroutine that watches a source, its health check, its metrics, and its feeder."""

    work: Coroutine[Any, Any, None]
    is_well: Callable[[], bool]
    samples: Callable[[], list[Sample]]
    feeder: Feeder


def _watch_of(source: Source, listener: socket.socket, legacy: Legacy | None) -> _Watching:
    if source.manifests:
        from clusterdns.cluster import manifests  # and with it PyYAML

        feeder = Feeder(listener)
        work = manifests.watch(source, feeder, legacy.objects if legacy else {})
        return _Watching(work, lambda: True, list, feeder)
    from clusterdns.cluster.api.watch import Watch  # and with it urllib3

    watch = Watch(source, listener)
    if legacy is not None:
        watch.inherit(legacy)
    return _Watching(watch.run(), lambda: watch.is_well, watch.samples, watch.feeder)


async def _beat(channel: Channel, watching: _Watching) -> None:
    """Send beats while all threads are well, and the kinds that a new worker would be told."""
    was_well, told = True, list[str]()
    loop, marked = asyncio.get_running_loop(), asyncio.Event()

    def mark() -> None:
        loop.call_soon_threadsafe(marked.set)

    watching.feeder.marked = mark
    while True:
        marked.clear()
        known = watching.feeder.synced_kinds
        if known != told:
            channel.send(("known", known))
            told = known
        if watching.is_well():
            channel.send(("beat", True, []))
        elif was_well:
            was_well = False
            _log.error("plugin/kubernetes: a thread of the watcher hangs or has ended")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(marked.wait(), BEAT_S)


async def _listen(channel: Channel, samples: Callable[[], list[Sample]]) -> None:
    """Answer the supervisor until it has ended."""
    async for message in channel.messages():
        if message[0] == "samples":
            channel.send(("samples", samples()))
        elif message[0] == "spare":
            libc.return_free_memory()
        elif message[0] == "ask":  # ``state`` is the only request that a watcher knows
            channel.send(("answer", message[1], {"recent": [*map(tuple, logs.recent())]}))
