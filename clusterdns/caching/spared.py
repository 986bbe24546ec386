"""Names of a server block whose answers `cache` passes on as they are.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable

from clusterdns.wire import name
from clusterdns.wire.name import WireName


class Spared:
    """Zones that change at any time, and what tells of names of others; a plugin adds its own.

    A plugin that passes on names it does not have tells which ones it has now: a reply that is kept
    may be of a time when it did not.
    """

    def __init__(self) -> None:
        self.zones: list[WireName] = []
        self.has: list[Callable[[WireName], bool]] = []

    def is_in_zones(self, folded: WireName) -> bool:
        """Tell whether a name is in one of the zones."""
        return bool(self.zones) and name.is_within_any(folded, self.zones)

    def spares(self, folded: WireName) -> bool:
        """Tell whether no kept reply is used for a name, and none is kept."""
        return self.is_in_zones(folded) or any(has(folded) for has in self.has)
