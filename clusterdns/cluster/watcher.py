"""The life of a watcher process: it feeds the workers, and sends beats to the supervisor.

It talks to the supervisor over a channel as a worker does: it sends beats and samples, and receives
``samples``. It ends when the channel breaks, since then the supervisor has ended. Its source is a
directory of manifests or an API server; the packages for either are imported in this process only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from clusterdns.cluster.source import Source
from clusterdns.host.channel import Channel
from clusterdns.metrics.tally import Sample

BEAT_S = 1.0
_log = logging.getLogger("kubernetes")


async def run(source: Source, listener: socket.socket, channel_socket: socket.socket) -> None:
    """Watch ``source`` until the supervisor has ended."""
    channel = await Channel.open(channel_socket)
    work, is_well, samples = _watch_of(source, listener)
    tasks = [
        asyncio.create_task(work),
        asyncio.create_task(_beat(channel, is_well)),
        asyncio.create_task(_listen(channel, samples)),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _watch_of(
    source: Source, listener: socket.socket
) -> tuple[Coroutine[Any, Any, None], Callable[[], bool], Callable[[], list[Sample]]]:
    """Return the coroutine that watches a source, its health check, and its metrics."""
    if source.manifests:
        from clusterdns.cluster import manifests  # and with it PyYAML

        return manifests.watch(source, listener), lambda: True, list
    from clusterdns.cluster.api.watch import Watch  # and with it urllib3

    watch = Watch(source, listener)
    return watch.run(), lambda: watch.is_well, watch.samples


async def _beat(channel: Channel, is_well: Callable[[], bool]) -> None:
    """Send a beat every ``BEAT_S`` while all threads are well."""
    was_well = True
    while True:
        if is_well():
            channel.send(("beat", True, []))
        elif was_well:
            was_well = False
            _log.error("plugin/kubernetes: a thread of the watcher hangs or has ended")
        await asyncio.sleep(BEAT_S)


async def _listen(channel: Channel, samples: Callable[[], list[Sample]]) -> None:
    """Answer the supervisor until it has ended."""
    async for message in channel.messages():
        if message[0] == "samples":
            channel.send(("samples", samples()))
