"""Zone transfers within a server block: who has whole zones, and who wants to know of a change.

A plugin that can say all of a zone appends a ``Source``; one that sends notifications, a
``Listener``. Neither knows the other.
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
        self.sources: list[Source] = []
        self.listeners: list[Listener] = []

    def records(self, apex: WireName) -> Iterator[RR] | None:
        """Return the records of a zone from the first that knows it, None if nobody does.

        Raises:
            LookupError: it is known, and has no records just now.
        """
        for source in self.sources:
            found = source(apex)
            if found is not None:
                return found
        return None

    def changed(self, apex: WireName) -> None:
        """Tell that a zone has come, or has changed."""
        for listener in self.listeners:
            listener(apex)
