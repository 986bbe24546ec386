"""Zone transfers within a server block: who has whole zones, and who wants to know of a change.

A plugin that can say all of a zone adds a ``Source``; one that sends notifications, a ``Listener``.
Neither knows the other, or who was made first.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

# Takes an apex; returns the records from SOA to SOA (RFC 5936 section 2.2), or None where the
# zone is not known. Raises LookupError where it is and there is nothing to say of it.
Source = Callable[[WireName], "Iterator[RR] | None"]
Listener = Callable[[WireName], None]


class Transfers:
    """What the plugins of a server block tell each other about whole zones."""

    def __init__(self) -> None:
        self._sources: list[tuple[float, Source]] = []
        self._listeners: list[Listener] = []

    def add_source(self, source: Source, order: float) -> None:
        """Take in who has zones; the plugin of the lowest ``order`` is asked first."""
        self._sources.append((order, source))
        self._sources.sort(key=lambda each: each[0])

    def add_listener(self, listener: Listener) -> None:
        """Take in who wants to know that a zone has changed."""
        self._listeners.append(listener)

    def records(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of a zone from the first that knows it, None if nobody does.

        Raises:
            LookupError: it is known, and has no records just now.
        """
        for _, source in self._sources:
            found = source(apex)
            if found is not None:
                return found
        return None

    def changed(self, apex: WireName) -> None:
        """Tell that a zone has come, or has changed."""
        for listener in self._listeners:
            listener(apex)
