"""A server in this process, without sockets for clients: a Corefile with manifests, to be asked.

Plugins that act without being asked (``Plugin.acts_alone``) are not started: `sign` would write
files, `loop` and `dnstap` would talk to others.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Hashable, Iterable
from pathlib import Path

from clusterdns.cluster import manifests
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.config.compile import Configuration, compile_blocks
from clusterdns.config.configmap import Subject
from clusterdns.corefile.parser import Directive, ServerBlock, parse
from clusterdns.errors import ClusterDNSError
from clusterdns.serving.server import Listener

_SOURCES = ("endpoint", "kubeconfig", "manifests", "tls", "snapshot")


class Offline:
    """Takes the place of a worker (chain.plugin.Worker), with stores read from disk."""

    number, workers = 0, 1

    def __init__(
        self, configuration: Configuration, without: Collection[str] = frozenset()
    ) -> None:
        """``without`` are plugins that are not started."""
        self.configuration = configuration
        self._started = [
            plugin
            for plugin in configuration.plugins
            if not plugin.acts_alone and plugin.name not in without
        ]
        self.listeners = {
            endpoint.label: Listener(router, endpoint.label, self.now, endpoint[:2])
            for endpoint, router in configuration.routers.items()
        }
        self._stores: dict[Source, Store] = {}

    async def __aenter__(self) -> Offline:
        """Start the plugins."""
        for plugin in self._started:
            await plugin.start(self)
        logging.disable(logging.CRITICAL)  # what queries cause is part of the explanation
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the plugins."""
        logging.disable(logging.NOTSET)
        for plugin in self._started:
            await plugin.stop()

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    async def store(self, source: Source, timeout_s: float) -> Store:
        """Return the store of a source, filled from its manifests. Raises ClusterDNSError."""
        if source not in self._stores:
            self._stores[source] = filled(source)
        return self._stores[source]

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Do nothing: no table keeps answers."""

    def forget_all(self) -> None:
        """Do nothing: no table keeps answers."""


def filled(source: Source) -> Store:
    """Return the store of a source of manifests. Raises ClusterDNSError."""
    if not source.manifests:
        raise ClusterDNSError(
            f"`kubernetes` watches {source.title}: give its objects by --manifests"
        )
    if not Path(source.manifests).is_dir():
        raise ClusterDNSError(f"manifests {source.manifests}: no such directory")
    directory, store = manifests.Directory(source), Store(source.kinds)
    directory.refresh()
    now = int(time.time())
    for (kind, key), value in directory.objects().items():
        store.apply((kind, key, value), now)
    for kind in source.kinds:
        store.synced(kind)
    return store


def compiled(subject: Subject, *, port: int, directory: Path | None) -> Configuration:
    """Return the configuration of a Corefile, whose objects come from ``directory`` if given.

    Raises:
        ConfigError: it has a mistake.
    """
    blocks = parse(
        subject.text, subject.file, environ=os.environ, files=subject.files, warn=lambda _: None
    )
    if directory is not None:
        blocks = [with_manifests(block, directory.absolute()) for block in blocks]
    return compile_blocks(blocks, port=port)


def with_manifests(block: ServerBlock, directory: Path) -> ServerBlock:
    """Return a server block whose `kubernetes` reads manifests."""
    return block._replace(directives=tuple(_sourced(block.directives, directory)))


def _sourced(directives: Iterable[Directive], directory: Path) -> Iterable[Directive]:
    for each in directives:
        if each.name != "kubernetes":
            yield each
            continue
        kept = tuple(line for line in each.block if line.name not in _SOURCES)
        line = each._replace(name="manifests", args=(str(directory),), block=(), has_block=False)
        yield each._replace(block=(*kept, line), has_block=True)
