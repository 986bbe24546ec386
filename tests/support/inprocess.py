"""A server without processes or sockets: the table and the chain of a Corefile, a virtual clock.

``InProcess`` compiles a Corefile as the binary does, fills the stores from manifests, and answers
packets by the chain alone, or by the table where it has the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import dns.message
import dns.rcode
import pytest

from clusterdns.cluster import feed, objects, selectors
from clusterdns.cluster.api import versions
from clusterdns.cluster.objects import MANIFEST_KINDS
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Fact, Store
from clusterdns.config.compile import compile_text
from clusterdns.serving.packetloop import PacketLoop
from clusterdns.serving.server import LATER, Listener
from clusterdns.serving.table import AnswerTable

CLIENT = ("127.0.0.1", 40000)


def in_packet_loop(main: Coroutine[Any, Any, Any]) -> None:
    """Run ``main`` in the event loop of a worker."""
    with asyncio.Runner(loop_factory=PacketLoop) as runner:
        runner.run(main)


class InProcess:
    """The first listener of a Corefile; the lists of ``unlisted`` kinds never come."""

    def __init__(
        self, corefile: str, manifests: Iterable[Mapping[str, Any]], *, unlisted: Iterable[str] = ()
    ) -> None:
        self.configuration = compile_text(corefile, "Corefile", port=53, environ={}, warn=print)
        self.skipped_s = 0.0
        self.seconds = 1  # Unix time of changes, the serial of SOA records
        self.number, self.workers = 0, 1
        self._unlisted = frozenset(unlisted)
        self._manifests = list(manifests)
        self._stores: dict[Source, Store] = {}
        (endpoint, router), *_ = self.configuration.routers.items()
        self.server = Listener(router, endpoint.label, self.now)
        self._hits = {proto: self.server.tally.transport(proto, "1") for proto in ("udp", "tcp")}

    async def __aenter__(self) -> InProcess:
        for plugin in self.configuration.plugins:
            await plugin.start(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        for plugin in self.configuration.plugins:
            await plugin.stop()

    # ---- plugin.Worker

    def now(self) -> float:
        return time.monotonic() + self.skipped_s

    async def store(self, source: Source, timeout_s: float) -> Store:
        store = self._stores.setdefault(source, Store(source.kinds))
        for manifest in self._manifests:
            self._put(source, manifest, is_gone=False)
        for kind in source.kinds:
            if MANIFEST_KINDS[kind] not in self._unlisted:
                store.synced(kind)
        return store

    def forget_all(self) -> None:
        self.server.clear()

    # ---- changes

    def apply(self, manifest: Mapping[str, Any], *, is_gone: bool = False) -> None:
        """Create, replace or remove an object in every store."""
        for source in self._stores:
            self._put(source, manifest, is_gone=is_gone)

    def _put(self, source: Source, manifest: Mapping[str, Any], *, is_gone: bool) -> None:
        facts: list[Fact] = []
        for kind in source.kinds:
            word = MANIFEST_KINDS[kind]
            if manifest.get("kind") != word or word in self._unlisted:
                continue
            if not versions.is_of(kind, manifest):
                continue
            selector = versions.selectors_of(kind, source)["labelSelector"]
            if not selectors.matches(selectors.parse(selector), objects.labels(manifest)):
                continue
            key, kept = objects.cut(
                kind, manifest, keeps_zones=source.is_zonal, keeps_external=source.is_external
            )
            value = None if is_gone or kept is None else feed.plain(kept)
            facts += self._stores[source].apply((kind, key, value), self.seconds)
        self.server.forget(facts)

    # ---- questions

    async def ask_chain(self, packet: bytes, transport: str) -> bytes | None:
        """Return what the server says to a query that the table has missed, and remembers."""
        done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        hits = self._hits[transport]
        reply = self.server.resolve(packet, CLIENT, transport, hits, done.set_result)
        return await done if reply == LATER else reply

    async def ask_anew(self, packet: bytes, transport: str) -> bytes | None:
        """Return what the chain says, rendered for this query alone: the table has no part in it."""
        table, self.server.table = self.server.table, AnswerTable(octets=0)  # no room for an answer
        try:
            return await self.ask_chain(packet, transport)
        finally:
            self.server.table = table

    def ask_table(self, packet: bytes, transport: str) -> bytes | None:
        """Return the reply the table has, or None."""
        is_stream = transport == "tcp"
        return self.server.table.reply(packet, self.now(), self._hits[transport], is_stream)


async def said(server: InProcess, qname: str, rtype: str = "A") -> tuple[str, list[str]]:
    """Return rcode and answer, in words, of the table or else of the chain."""
    packet = dns.message.make_query(qname, rtype, id=1).to_wire()
    reply = server.ask_table(packet, "udp") or await server.ask_chain(packet, "udp")
    assert reply is not None
    found = dns.message.from_wire(reply)
    return dns.rcode.to_text(found.rcode()), [str(i) for rrset in found.answer for i in rrset]


def in_table(server: InProcess, qname: str, rtype: str = "A") -> bool:
    """Return whether the table has the answer."""
    packet = dns.message.make_query(qname, rtype, id=1).to_wire()
    return server.ask_table(packet, "udp") is not None


def replace_method(owner: object, name: str, function: Callable[..., Any]) -> None:
    """Have calls of a method of one object go to a function; skips if the class is compiled."""
    try:
        setattr(owner, name, function)
    except AttributeError:
        pytest.skip("an object of a compiled class cannot have another method")
