"""A server block as its plugins see it while they are made.

Setup-only directives shape it, and its listener tells it where it listens. What plugins tell each
other is not here: each talk has an object of its own, which ``Block.shared`` hands over.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from clusterdns.forwarding.outside import Outside
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

if TYPE_CHECKING:  # ssl is not needed by who has no TLS
    from clusterdns.host.encryption import Encryption

T = TypeVar("T")


class Resolver(Protocol):
    """Where a plugin asks again: the listener a block belongs to, with all its blocks."""

    def answer(self, question: Question) -> Response | None:
        """Return what the listener says from memory, or None."""

    async def handle(self, query: Query) -> Response:
        """Return what the listener says, waiting if it must."""


class StreamBounds(NamedTuple):
    """What `timeouts` sets for TCP connections, None for what it does not; 0 queries is any."""

    first_s: float | None = None
    idle_s: float | None = None
    most_queries: int | None = None


class WebBounds(NamedTuple):
    """What `https` sets for HTTP connections, None for what it does not; 0 is no bound of its own.

    The defaults are those of CoreDNS (core/dnsserver/server_https.go).
    """

    most_connections: int | None = None
    most_streams: int | None = None


class Block:
    """The server block a plugin is made for. Setup-only directives shape it (``shapes_block``)."""

    def __init__(self, zones: Sequence[WireName], file: str) -> None:
        self.zones = tuple(zones)
        self.file = file
        self.directives: frozenset[str] = frozenset()  # the names of all that are in it
        self.root = Path()  # `root`: what relative paths are relative to
        self.hosts: list[str] = []  # `bind`: listen addresses; empty is every address
        self.ports: tuple[int, ...] = ()
        self.schemes: tuple[str, ...] = ()  # "dns", "tls" or "https", of each zone as the ports are
        self.encryption: Encryption | None = None  # `tls`
        self.debug = False
        self.streams = StreamBounds()
        self.web = WebBounds()
        self.workers = 1  # `multisocket`: processes that read the sockets
        self.resolver: Resolver | None = None  # set when the block's listener is known
        self.local_addresses: tuple[str, ...] = ()  # what `NS` and `ns.dns` name, see plugins/bind
        self.server = ""  # metric label of the block's first listener, such as `dns://:53`
        self.view = ""  # metric label
        self.outside = Outside()  # whom names are forwarded to, and whether that loops
        self._shared: dict[type[object], object] = {}

    def shared(self, type_: type[T]) -> T:
        """Return the one object of a kind through which the plugins of this block talk.

        Whoever asks first makes it, so no plugin has to be made before another.
        """
        found = self._shared.get(type_)
        if not isinstance(found, type_):
            found = self._shared[type_] = type_()
        return found

    def path(self, text: str) -> Path:
        """Return a path of the configuration, made absolute by ``root``."""
        return self.root / text
