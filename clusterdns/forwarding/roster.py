"""The servers of one `forward` in a worker, while the file that names them changes.

A server that stays keeps its state. A removed server completes its queries under way, and is kept
for its counts and in case it is named again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clusterdns.forwarding.destinations import Destination
from clusterdns.forwarding.upstream import Upstream

MAX_RETIRED = 64  # removed servers, kept for their counts


class Roster:
    """The present and the removed servers; ``make`` opens a server in the running loop."""

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
        """The same, and removed servers."""
        return (*self.asked, *self._retired.values())

    def replace(self, servers: Iterable[Destination]) -> None:
        """Replace the servers that are asked."""
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
        """Close all servers."""
        for upstream in self.known:
            upstream.close()
