"""Tables by class of client, for a listener with plugins that tell clients apart.

``ClassTables`` stands in front of the listener's table, and does what that does. The class without
a condition has the listener's own table, and each of the others has a smaller one; together they
hold no more than the listener's own. C finds the table of a client by the octets of its address in
``by_address``. A client that is not there is a miss: Python finds its class out, and enters it.
When the number of clients or of classes reaches its bound, all are forgotten, but not more often
than every ``RESTART_S`` for classes: until then clients of a further class have no table, so each
of their queries takes the chain.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

from clusterdns.chain.classes import NOBODY, Asker, Classes
from clusterdns.cluster.clients import CLIENT
from clusterdns.serving.table import AnswerTable, ByAddress, Maps, Seen
from clusterdns.wire.message import Query
from clusterdns.wire.name import ip_address

MAX_CLASSES: Final = 64  # with a table of their own
MAX_CLIENTS: Final = 65_536  # about 20 MiB
RESTART_S: Final = 60.0


class ClassTables:
    """The tables of one listener; ``make`` returns a new one for a class."""

    def __init__(
        self,
        classes: Sequence[Classes],
        own: AnswerTable,
        make: Callable[[], AnswerTable],
        clock: Callable[[], float],
    ) -> None:
        self._classes = tuple(classes)
        self._own = own
        self._make = make
        self._clock = clock
        self._tables: dict[Asker, AnswerTable] = {}
        self._askers: dict[bytes, Asker] = {}  # by the address of a client
        self._known: dict[Asker, Asker] = {}  # so that equal classes are one object
        self._restarted = clock()
        self.by_address: ByAddress = {}  # read by C

    def asker(self, host: str) -> Asker:
        """Return the class of a client."""
        octets = _octets(host)
        found = self._askers.get(octets)
        return self._enter(host, octets) if found is None else found

    def _enter(self, host: str, octets: bytes) -> Asker:
        """Find out the class of a client, and keep it."""
        if len(self._askers) >= MAX_CLIENTS:
            self._askers.clear()
            self.by_address.clear()
        if len(self._known) >= MAX_CLIENTS:
            self._known.clear()
        text = _text(host)
        holding = frozenset(each for some in self._classes for each in some.holding(text))
        asker = self._known.setdefault(holding, holding)
        table = self.table(asker)
        self._askers[octets] = asker
        self.by_address[octets] = () if table is None else table.shelves
        return asker

    def table(self, asker: Asker) -> AnswerTable | None:
        """Return the table of a class, None if it has none for now."""
        if asker == NOBODY:
            return self._own
        found = self._tables.get(asker)
        if found is None:
            if len(self._tables) >= MAX_CLASSES:
                if self._clock() < self._restarted + RESTART_S:
                    return None
                self._restarted = self._clock()
                self._drop_tables()
            found = self._tables[asker] = self._make()
        return found

    def reply(
        self,
        packet: bytes,
        now: float,
        hits: list[int],
        stream: bool = False,
        seen: Seen | None = None,
        host: Callable[[], str] | None = None,
    ) -> bytes | None:
        """As ``AnswerTable.reply``, from the table of the client's class."""
        table = None if host is None else self.table(self.asker(host()))
        if table is None:
            return None
        return table.reply(packet, now, hits, stream, seen, host)

    @property
    def remembered(self) -> int:
        """Answers kept so far by any table that is there."""
        return self._own.remembered + sum(table.remembered for table in self._tables.values())

    def maps(
        self,
        hits: list[int],
        seen: list[Any] | None = None,
        sampler: tuple[bytearray, list[Any]] | None = None,
    ) -> Maps:
        """As ``AnswerTable.maps``, with the tables of classes by address behind."""
        return self._own.maps(hits, seen, sampler, self.by_address)

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Forget the classes of clients whose fact is among ``facts``, and answers by them.

        As ``AnswerTable.forget``, in the tables of all classes but the listener's own.
        """
        for fact in facts:
            if isinstance(fact, tuple) and fact[:1] == (CLIENT,):
                octets = _octets(fact[1])
                self._askers.pop(octets, None)
                self.by_address.pop(octets, None)
        for table in self._tables.values():
            table.forget(facts)

    def lighten(self, most: int) -> None:
        """As ``AnswerTable.lighten``, in the same tables; each may have ``most`` octets."""
        for table in self._tables.values():
            table.lighten(most)

    def clear(self) -> None:
        """Drop all answers but those of the listener's own table, and all classes."""
        self._drop_tables()
        self._known.clear()

    def _drop_tables(self) -> None:
        for table in self._tables.values():
            table.clear()  # a stream may be answered from it at this moment
        self._tables.clear()
        self._askers.clear()
        self.by_address.clear()


def ask_as(query: Query, asker: Asker) -> None:
    """Let the question of a query carry the class of its client."""
    if query.question is not None:
        query.question = query.question._replace(asker=asker)


@functools.lru_cache(maxsize=4096)
def _octets(host: str) -> bytes:
    """Return the octets of a client's address, as C has them: four for IPv4 within IPv6."""
    address = ip_address(host.partition("%")[0])
    return host.encode() if address is None else address.packed


def _text(host: str) -> str:
    """Return the canonical text of a client's address."""
    address = ip_address(host.partition("%")[0])
    return host if address is None else str(address)
