"""Zone transfers in a server block: sources of whole zones, and listeners to their changes.

A plugin that has whole zones adds a ``Source``; one that sends notifications, a ``Listener``.
Neither knows the other, and the order in which they are made does not matter. ``transfer`` sends
zones from these sources; ``primaries.py`` fetches zones of other servers.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

# Takes an apex; returns the records from SOA to SOA (RFC 5936 section 2.2), or None for an unknown
# zone. Raises LookupError if the zone has no data at present.
Source = Callable[[WireName], "Iterator[RR] | None"]
Listener = Callable[[WireName], None]


class Transfers:
    """Connects the plugins of a server block that have, transfer or announce whole zones."""

    def __init__(self) -> None:
        self._sources: list[tuple[float, Source]] = []
        self._listeners: list[Listener] = []

    def add_source(self, source: Source, order: float) -> None:
        """Add a source of zones; the source of the lowest ``order`` is asked first."""
        self._sources.append((order, source))
        self._sources.sort(key=lambda each: each[0])

    def add_listener(self, listener: Listener) -> None:
        """Add a listener, which is called when a zone has changed."""
        self._listeners.append(listener)

    def records(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of a zone from the first source that has it, None if none has.

        Raises:
            LookupError: the zone has no data at present.
        """
        for _, source in self._sources:
            found = source(apex)
            if found is not None:
                return found
        return None

    def changed(self, apex: WireName) -> None:
        """Tell the listeners that a zone is new or has changed."""
        for listener in self._listeners:
            listener(apex)
