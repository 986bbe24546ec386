"""The base of plugins whose zones are made of objects of the cluster: `endpoint`, `ingress`.

Their objects are watched only where a Corefile names the plugin. A kind that cannot be listed makes
the answers of these zones SERVFAIL, and affects nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

from clusterdns.authority.answering import Answers, Authority
from clusterdns.chain.asking import Steps
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Worker
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.respond import UNLISTED
from clusterdns.cluster.settings import START_TIMEOUT_S
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Follower, Store
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, trace
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

MAX_TTL_S = 86_400
MAX_SENTENCES = 1000  # log lines of one process: tenants write the objects


class Names(Follower, Protocol):
    """The zones and names that a plugin makes of the objects."""

    @property
    def has_work(self) -> bool:
        """Whether some of what it was told waits for ``Publishing`` to call it again."""

    def counts(self) -> tuple[Mapping[WireName, int], Mapping[str, int]]:
        """Return the number of names by zone, and of what is not served by reason."""


class Publishing(Authority):
    """Zones that are made of objects; a subclass sets ``_names`` and ``zones``."""

    objects: ClassVar[str]  # what they are made of, for people
    options: ClassVar = ("ttl", "namespaces", "fallthrough")
    _names: Names

    def __init__(self, directive: Directive, block: Block, ttl: int) -> None:
        super().__init__(block)
        self._inside = block.shared(Inside)
        if self._inside.source is None:
            raise directive.error("needs the kubernetes plugin in the same server block")
        self._source = self._inside.source
        self._apexes = arguments.zone_names(directive.args, directive) or block.zones
        self._ttl = ttl
        self._namespaces = set[str]()
        self._sentences = 0
        self._speaks = False
        self._is_filled = asyncio.Event()
        self._store: Store | None = None
        self._log = plugin_logger(self.name)

    def _read(self, line: Directive) -> bool:
        """Take in a line that all these plugins have; tell whether it is one."""
        match line.name:
            case "ttl":
                self._ttl = arguments.number(line, least=1, most=MAX_TTL_S)
            case "namespaces":
                self._namespaces.update(arguments.some(line))
            case "fallthrough":
                self.through = arguments.zone_names(line.args or (".",), line)
            case _:
                return False
        return True

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the source of the objects, which is that of `kubernetes`."""
        return {self._source(): tuple(self.zones)}

    async def start(self, worker: Worker) -> None:
        """Follow the objects, and wait for the first list, but not for long."""
        self._speaks = worker.number == 0
        self._follow(await worker.store(self._source(), START_TIMEOUT_S))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_filled.wait(), START_TIMEOUT_S)

    def _follow(self, store: Store) -> None:
        """Make the names of a store's objects, from now on."""
        store.follow(self._names, int(time.time()))
        self._store = store
        self._note_filled()

    def _note_filled(self) -> None:
        if self._store is None or self._names.has_work:
            return
        if self._store.has_settled(self._names.kinds):
            self._is_filled.set()

    def _notify(self, zone: WireName) -> None:
        if self._speaks:
            self.transfers.changed(zone)

    def _tell(self, sentence: str) -> None:
        """Log what is left out, in one process only."""
        self._sentences += 1
        if self._speaks and self._sentences <= MAX_SENTENCES:
            self._log.log(logging.WARNING, "%s: left out", sentence)

    @property
    def _is_listed(self) -> bool:
        """Whether all objects are known, as far as they have ever been."""
        if self._store is None or not self._store.has_all(self._names.kinds):
            return False
        return self._is_filled.is_set() or not self._names.has_work

    def transfer(self, apex: WireName) -> Iterator[RR] | None:
        """As in ``Authority``; before the first list, there is none to transfer."""
        if apex in self.zones:
            self._check_listed(apex)
        return super().transfer(apex)

    def _check_listed(self, apex: WireName) -> None:
        if not self._is_listed:
            raise LookupError(f"the objects of {name.text(apex)} have not been listed yet")

    def _respond_from(self, zone: Answers | None, apex: WireName, question: Question) -> Steps:
        """Yield a question about an alias outside the zones; return the response."""
        if not self._is_listed:
            if (taker := trace.scribe()) is not None:
                taker.blame(f"{self.objects} have not been listed yet, or must not be")
            return UNLISTED
        if (taker := trace.scribe()) is not None:
            self._note(taker, apex, question)
        return (yield from super()._respond_from(zone, apex, question))

    def _note(self, taker: trace.Scribe, apex: WireName, question: Question) -> None:
        """Note the objects that a name comes from."""

    def _samples(self, served: str, left_out: str, reasons: Iterable[str]) -> list[Sample]:
        """Return how many names are served by zone, and what is not by reason."""
        names, lost = self._names.counts()
        return [
            *((served, (name.text(zone),), names.get(zone, 0)) for zone in self.zones),
            *((left_out, (reason,), lost.get(reason, 0)) for reason in reasons),
        ]
