"""Hits that are reported to observers, as `log`, after their replies have been sent.

The table has a note for each hit of a view with observers (table.py). The engine of a transport,
or ``_drain.c``, collects it here with the query and the client, and with the reply if an observer
wants it. Every ``TELL_S`` seconds, or when there are ``MANY`` (``MANY_REPLIES`` with replies), all
of them are reported together.

If all queries are observed, a sampler chooses hits that the collector looks at (sampling.py); it
takes them from there itself.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby
from typing import Final

from clusterdns.chain.plugin import Record
from clusterdns.observing.collector import TABLE
from clusterdns.observing.sampling import KINDS_AT_ONCE, Parts
from clusterdns.serving.server import Listener
from clusterdns.serving.table import Seen
from clusterdns.wire.response import Note

TELL_S: Final = 0.02  # delay of a log line; 50 reports a second cost nothing
MANY: Final = 1024  # a megabyte at most, besides those of one batch
MANY_REPLIES: Final = 64  # 8 MiB at most with the longest replies and one batch more
_log = logging.getLogger(__name__)


class Observed:
    """The hits of one socket, or of the connections of one listening socket."""

    def __init__(self, server: Listener, transport: str) -> None:
        self.seen: Seen = []  # appended by the table, for the present client
        self.records: list[Record] = []
        self._server = server
        self._transport = transport
        self._many = MANY_REPLIES if server.router.keeps_replies else MANY
        collector = server.collector
        label = server.tally.server
        self.sampler = None if collector is None else collector.sampler(label, transport, TABLE)
        self._sampled: list[tuple[int, bytes, tuple[str, int], bytes]] = []
        self._batch: list[tuple[Note, bytes, tuple[str, int], bytes | None]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sampling(self) -> Parts | None:
        """What C needs to choose hits, None if none are looked at."""
        return None if self.sampler is None else self.sampler.parts

    def take(self, client: tuple[str, int]) -> None:
        """Take the hits the table has noted for ``client``."""
        for note, packet, reply in self.seen:
            if not isinstance(note, int):
                self._batch.append((note, packet, client, reply))
            elif reply is not None:
                self._sampled.append((note, packet, client, reply))
        self.seen.clear()

    def look_at(self, packet: bytes, reply: bytes) -> None:
        """Note a hit for the present client, if it is one that is looked at."""
        if self.sampler is not None:
            for _, stands_for in self.sampler.draw(KINDS_AT_ONCE[reply[3] & 15]):
                self.seen.append((stands_for, packet, reply))

    def settle(self, began: float, answered: int) -> None:
        """Note the time of a batch, and report it soon."""
        if self._sampled:
            self._settle_sampled(began, answered)
        if self._batch:
            seconds = max(0.0, self._server.clock() - began) / max(1, answered)
            self.records += [
                (note, packet, client, seconds, began, reply)
                for note, packet, client, reply in self._batch
            ]
            self._batch.clear()
        if len(self.records) >= self._many:
            self.tell()
        elif self.records and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_S, self.tell)

    def _settle_sampled(self, began: float, answered: int) -> None:
        seconds = max(0.0, self._server.clock() - began) / max(1, answered)
        assert self.sampler is not None  # it has chosen them
        for stands_for, packet, client, reply in self._sampled:
            self.sampler.add((stands_for, packet, client, seconds, began, reply))
        self._sampled.clear()

    def tell(self) -> None:
        """Report to the observers now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records = self.records[:]
        self.records.clear()  # `_drain.c` holds this list
        for number, some in groupby(records, _number_of_view):
            view, same = self._server.router.observed[number], [*some]
            for place, observer in enumerate(view.observers, 1):
                told = [
                    (record[0][place], *record[1:])
                    for record in same
                    if record[0][place] is not None
                ]
                try:
                    observer.tell(told, self._transport, view.bound)
                except Exception:  # a bug in an observer shall cost no reply
                    _log.exception("plugin/%s: cannot tell of queries", observer.name)


def _number_of_view(record: Record) -> int:
    return int(record[0][0])
