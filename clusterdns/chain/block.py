"""A server block as its plugins see it while they are made.

Data that plugins share with each other has classes of its own, each declared with its subject;
``Block.shared`` returns the object of the block.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

if TYPE_CHECKING:  # without TLS nothing imports ssl
    from clusterdns.host.encryption import Encryption

T = TypeVar("T")


class Resolver(Protocol):
    """Answers further questions of plugins: the listener of a block, with all its blocks."""

    def answer(self, question: Question) -> Response | None:
        """Return the response from memory, or None."""

    async def handle(self, query: Query) -> Response:
        """Return the response, waiting if necessary."""


class StreamBounds(NamedTuple):
    """Settings of `timeouts` for TCP connections, None if not set; 0 queries is no limit."""

    first_s: float | None = None
    idle_s: float | None = None
    most_queries: int | None = None


class WebBounds(NamedTuple):
    """Settings of `https` or `grpc_server`, None if not set; 0 is no limit.

    The defaults are those of CoreDNS (core/dnsserver/server_https.go and others).
    """

    most_connections: int | None = None
    most_streams: int | None = None


class Directory:
    """The directory of `root`, the base of relative paths in the server block."""

    def __init__(self) -> None:
        self.path = Path()


class ListenHosts:
    """The addresses of `bind` that the server block listens on; none is every address."""

    def __init__(self) -> None:
        self.found: list[str] = []


class Block:
    """The server block that plugins are made for.

    Setup-only directives set some of its fields, which are read when all plugins are made. A plugin
    that needs data of another while it is made calls ``shared``.
    """

    def __init__(self, zones: Sequence[WireName], file: str, line: int = 0) -> None:
        self.zones = tuple(zones)
        self.file = file
        self.line = line
        self.ports: tuple[int, ...] = ()
        self.schemes: tuple[str, ...] = ()  # "dns", "tls" or another, for each zone
        self.encryption: Encryption | None = None  # `tls`
        self.debug = False
        self.streams = StreamBounds()
        self.web = WebBounds()  # `https`
        self.calls = WebBounds()  # `grpc_server`
        self.workers = 1  # `multisocket`: processes that read the sockets
        self.view = ""  # `view`: metric label
        self.resolver: Resolver | None = None  # set when the block's listener is known
        self.local_addresses: tuple[str, ...] = ()  # addresses of `ns.dns`, see plugins/bind
        self.server = ""  # metric label of the block's first listener, such as `dns://:53`
        self.make_what_provides: Callable[[type[object]], None] = lambda _type: None
        self._shared: dict[type[object], object] = {}

    def shared(self, type_: type[T]) -> T:
        """Return the object of a type that the plugins of this block share.

        If a plugin ``provides`` the type and is not made yet, it is made first, so the order in
        which plugins are made does not matter.
        """
        self.make_what_provides(type_)
        found = self._shared.get(type_)
        if not isinstance(found, type_):
            found = self._shared[type_] = type_()
        return found

    @property
    def hosts(self) -> list[str]:
        """The addresses to listen on; none is every address."""
        return self.shared(ListenHosts).found

    @property
    def root(self) -> Path:
        """The base of relative paths."""
        return self.shared(Directory).path

    def path(self, text: str) -> Path:
        """Return a path of the configuration, made absolute by ``root``."""
        return self.root / text
