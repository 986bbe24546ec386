"""The servers of one `forward` in a worker, while the file that names them changes.

A server that stays keeps its state. One that is named no more goes on with what is under way, and
is kept for its counts, and for the day it is named again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clusterdns.forwarding.destinations import Destination
from clusterdns.forwarding.upstream import Upstream

MAX_RETIRED = 64  # servers that are asked no more, kept for their counts


class Roster:
    """Who is asked, and who was: ``make`` opens a server, in the running loop."""

    def __init__(
        self, servers: Iterable[Destination], make: Callable[[Destination], Upstream]
    ) -> None:
        self._make = make
        self._asked = {one: make(one) for one in servers}
        self._retired: dict[Destination, Upstream] = {}

    @property
    def asked(self) -> tuple[Upstream, ...]:
        """The servers that are asked, in the order of TO."""
        return tuple(self._asked.values())

    @property
    def known(self) -> tuple[Upstream, ...]:
        """The same, and those that are asked no more."""
        return (*self.asked, *self._retired.values())

    def replace(self, servers: Iterable[Destination]) -> None:
        """Ask these servers from now on."""
        before, self._asked = self._asked, {}
        for one in servers:
            if one in self._retired:
                self._asked[one] = self._retired.pop(one)
                self._asked[one].revive()
            else:
                self._asked[one] = before.pop(one) if one in before else self._make(one)
        for one, upstream in before.items():
            upstream.retire()
            self._retired[one] = upstream
        for one in [*self._retired][:-MAX_RETIRED]:
            self._retired.pop(one).close()

    def close(self) -> None:
        """Close them all."""
        for upstream in self.known:
            upstream.close()
