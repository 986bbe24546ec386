"""Zones of a server block whose answers `cache` passes on as they are.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from clusterdns.wire.name import WireName


class Spared:
    """Zones that change at any time; a plugin adds its own."""

    def __init__(self) -> None:
        self.zones: list[WireName] = []
