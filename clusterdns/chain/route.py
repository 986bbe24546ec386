"""Routes: the facts of a chain that the relay needs to forward plain queries without it.

``relay.py`` calls ``Plugin.relay`` of each plugin of a server block, which enters what it would do.
If a plugin has to see every query, all queries take the chain.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from clusterdns.caching.fresh import Fresh
from clusterdns.caching.kept import Kept
from clusterdns.caching.options import DENIAL, SUCCESS, CacheOptions, Limits
from clusterdns.chain.limits import RateLimits
from clusterdns.wire import name
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Passing

# A query that the relay has answered: query, client, listener, monotonic second it began, seconds
# it took, class, header flags of the reply and its octets without compression, number of the
# upstream server, and the reply if an observer wants it; if one wants exchanges, the reply as
# received, and the address of our socket.
Relayed = tuple[
    bytes, tuple[str, int], int, float, float, int, int, int, int, bytes | None, bytes | None,
    tuple[str, int] | None,
]  # fmt: skip
CLASSES = {"success": 1, "denial": 2, "error": 4}  # of replies, as `log` has them
ALL_CLASSES = sum(CLASSES.values())


class Route:
    """The route of plain queries for names in ``zone``, except names in ``claimed``.

    Of the zones in ``parts``, the names that the plugin passes on are not excepted.
    """

    def __init__(self, zone: WireName) -> None:
        self.zone = zone
        self.claimed: list[WireName] = []  # names below take the chain
        self.is_claimed = False  # all names take the chain
        self.parts: dict[WireName, Passing] = {}
        self.reasons: list[str] = []  # why all queries take the chain, for `check`
        # Names that take the chain, and parents whose children do; both may change at any time.
        self.held: list[tuple[Mapping[WireName, object], Mapping[WireName, object]]] = []
        self.addresses: list[Mapping[str, object]] = []  # their PTR questions take the chain
        self.left: list[int] = []  # types that take the chain
        self.guarded: list[WireName] = []  # replies with a name in one of these take the chain
        self.starts: bytes | None = None  # names that begin with these octets take the chain
        self.passed: list[Callable[[int], None]] = []  # called with the number of relayed queries
        self.shuffles = self.is_minimal = False
        self.limits: RateLimits | None = None  # of queries by client
        self.observers: list[RelayObserver] = []  # told of relayed queries, of these classes:
        self.observed_classes = 0
        self.cached: Cached | None = None
        self.forwarded: Forwarded | None = None

    def claim(self, zones: tuple[WireName, ...]) -> bool:
        """Leave names in ``zones`` to the chain; tell whether other names remain."""
        self.claimed += [zone for zone in zones if name.is_within(zone, self.zone)]
        self.is_claimed |= name.is_within_any(self.zone, zones)
        return not self.is_claimed

    def share(self, zones: tuple[WireName, ...], passing: Passing) -> bool:
        """Leave the names in ``zones`` to the chain but those of ``passing``; return as `claim`.

        The names of ``passing`` are read at the time of each query. Two plugins do not share: then
        all names take the chain.
        """
        if any(each is not passing for each in self.parts.values()):
            return self.claim(zones)
        for zone in zones:
            if name.is_within(zone, self.zone):
                self.parts[zone] = passing
            elif name.is_within(self.zone, zone):
                self.parts[self.zone] = passing
        return True

    def part_of(self, zone: WireName) -> Passing | None:
        """Return which names of a zone do not take the chain, None if all do."""
        return None if name.is_within_any(zone, self.claimed) else self.parts.get(zone)

    def refuse(self, *reasons: str) -> bool:
        """Keep why all queries take the chain; return False, as ``Plugin.relay`` then does."""
        self.reasons += reasons
        return False

    def leave(self, qtype: int) -> bool:
        """Leave questions of a type to the chain; return True, since other types remain."""
        if qtype not in self.left:
            self.left.append(qtype)
        return True

    def guard(self, zones: Iterable[WireName]) -> None:
        """Leave replies in which a name is in one of ``zones`` to the chain."""
        self.guarded += [zone for zone in zones if zone not in self.guarded]

    def observe(self, observer: RelayObserver, classes: int) -> bool:
        """Report relayed queries to an observer, those with a reply of the classes; return True."""
        self.observers.append(observer)
        self.observed_classes |= classes
        return True

    def hold(self, names: Mapping[WireName, object], below: Mapping[WireName, object]) -> None:
        """Leave ``names`` to the chain, and names with one label more than one of ``below``.

        The mappings are dicts that are read at the time of each query: they may be changed, not
        replaced.
        """
        self.held.append((names, below))


class RelayObserver(Protocol):
    """A plugin that is told of relayed queries: plugin.Observer."""

    name: ClassVar[str]
    wants_replies: bool
    wants_exchanges: bool

    def passed(self, records: Sequence[Relayed], servers: Sequence[tuple[str, int]]) -> None:
        """Observe queries that the relay has answered; ``servers`` are upstream, by number."""


class Cached:
    """The part of `cache` in a route: kept replies, where to keep more, and their TTLs."""

    def __init__(
        self,
        route: Route,
        options: CacheOptions,
        kept: Mapping[str, Kept],
        fresh: Mapping[str, Fresh],
    ) -> None:
        # By question: the monotonic second of its end, or a tuple that begins with it.
        self.known: tuple[dict[bytes, Any], ...] = (
            *(each.until for each in kept.values()),
            *(part for each in fresh.values() for part in (each.young, each.old)),
        )
        self.fresh = fresh
        self.limits: Mapping[str, Limits] = options.limits
        self.keeps = {SUCCESS: True, DENIAL: True}
        for cache_type, limits in options.limits.items():
            self.keeps[cache_type] = not name.is_within_any(route.zone, limits.disabled)
            if self.keeps[cache_type]:
                route.claim(limits.disabled)
        self.stale_s = options.stale.up_to_s
        self.failure_s = options.servfail_s
        self.misses = 0  # not seen by the chain


class Forwarded:
    """The part of `forward` in a route: its servers, time limit of a reply, and ``room``.

    ``pool`` is a forwarding.flight.Pool, which this module must not import; it is None before the
    worker starts. ``room`` returns how many queries may be under way besides those of the chain,
    or None if all must take the chain. ``refuse`` is called with the number of queries refused for
    lack of room.
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
