"""What has to be known of a chain to send plain queries of a zone on without it.

``relay.py`` asks each plugin of a server block in turn to enter what it would do
(``Plugin.relay``); one that has to see every query says so, and then all take the chain.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clusterdns.caching.fresh import Fresh
from clusterdns.caching.kept import Kept
from clusterdns.caching.options import DENIAL, SUCCESS, CacheOptions, Limits
from clusterdns.wire import name
from clusterdns.wire.name import WireName


class Route:
    """The way of plain queries for names in ``zone``, but for those in ``claimed``."""

    def __init__(self, zone: WireName) -> None:
        self.zone = zone
        self.claimed: list[WireName] = []  # what is below is for the chain
        # Names for the chain, and names directly below which all are; both may change all the time.
        self.held: list[tuple[Mapping[WireName, object], Mapping[WireName, object]]] = []
        self.left = 0  # the type that is for the chain, 0 for none
        self.starts: bytes | None = None  # names that begin with these octets are for the chain
        self.passed: list[Callable[[int], None]] = []  # told how many have gone this way
        self.shuffles = False
        self.cached: Cached | None = None
        self.forwarded: Forwarded | None = None

    def claim(self, zones: tuple[WireName, ...]) -> bool:
        """Leave names in ``zones`` to the chain; tell whether that leaves anything."""
        self.claimed += [zone for zone in zones if name.is_within(zone, self.zone)]
        return not name.is_within_any(self.zone, zones)

    def leave(self, qtype: int) -> bool:
        """Leave questions of type A or AAAA to the chain; tell whether that leaves anything."""
        is_left = self.left in (0, qtype)
        self.left = qtype
        return is_left

    def hold(self, names: Mapping[WireName, object], below: Mapping[WireName, object]) -> None:
        """Leave ``names`` to the chain, and names with one label more than one of ``below``.

        The mappings are dicts whose keys count at the time of each query: they may be changed, not
        replaced.
        """
        self.held.append((names, below))


class Cached:
    """What `cache` enters: what is known, where to keep replies, and their TTLs."""

    def __init__(
        self,
        route: Route,
        options: CacheOptions,
        kept: Mapping[str, Kept],
        fresh: Mapping[str, Fresh],
    ) -> None:
        # By question: the second until which it is known, or a tuple that begins with it.
        self.known: tuple[dict[bytes, Any], ...] = (
            *(each.until for each in kept.values()),
            *(part for each in fresh.values() for part in (each.young, each.old)),
        )
        self.fresh = fresh
        self.limits: Mapping[str, Limits] = options.limits
        self.keeps = {SUCCESS: True, DENIAL: True}
        for cache_type, limits in options.limits.items():
            self.keeps[cache_type] = route.claim(limits.disabled)
        self.stale_s = options.stale.up_to_s
        self.misses = 0  # that the chain has not seen


class Forwarded:
    """What `forward` enters: its servers, how long to wait for a reply, and ``room``.

    ``pool`` is a forwarding.flight.Pool, which the relay uses and this module must not know.
    ``room`` says how many queries may be under way just now besides those of the chain, None that
    all have to take it. ``refuse`` is told how many were refused for want of room.
    """

    def __init__(
        self,
        pool: object,
        patience_s: float,
        room: Callable[[], int | None],
        refuse: Callable[[int], None],
    ) -> None:
        self.pool = pool
        self.patience_s = patience_s
        self.room = room
        self.refuse = refuse
