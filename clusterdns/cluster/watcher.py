"""The life of a watcher process: it feeds the workers, and tells the supervisor that it lives.

It talks to the supervisor over a channel as a worker does: beats and samples up, ``samples`` down.
A channel that breaks means that the supervisor has gone, and the watcher goes too. What it watches
is a directory of manifests or an API server; each brings its own packages, which nobody else loads.
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
    """Watch ``source`` until the supervisor has gone."""
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
    """Return what watches a source, whether it is well, and what it has counted."""
    if source.manifests:
        from clusterdns.cluster import manifests  # and with it PyYAML

        return manifests.watch(source, listener), lambda: True, list
    from clusterdns.cluster.api.watch import Watch  # and with it urllib3

    watch = Watch(source, listener)
    return watch.run(), lambda: watch.is_well, watch.samples


async def _beat(channel: Channel, is_well: Callable[[], bool]) -> None:
    """Tell the supervisor again and again that the loop turns, while all threads do."""
    was_well = True
    while True:
        if is_well():
            channel.send(("beat", True, []))
        elif was_well:
            was_well = False
            _log.error("plugin/kubernetes: a thread of the watcher hangs or has ended")
        await asyncio.sleep(BEAT_S)


async def _listen(channel: Channel, samples: Callable[[], list[Sample]]) -> None:
    """Do what the supervisor says, until it has gone."""
    async for message in channel.messages():
        if message[0] == "samples":
            channel.send(("samples", samples()))
