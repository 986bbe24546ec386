"""What a plugin is: one Corefile directive, one file under ``plugins/``, found by its name.

A block's plugins are put in CoreDNS's fixed order and folded twice: ``answer`` is synchronous, from
memory and the same for every client, so what it says may be remembered; ``handle`` runs once per
query, may wait and may look at the client. A plugin that knows nothing about a question lets the
next one speak. ``answer`` says None for "cannot know without waiting", and the query takes the
other fold. Either way exactly one ``Response`` comes out, or ``DROP``.

Plugins are made by the supervisor, which checks the configuration by making them, and are inherited
by the workers it forks. ``supervise`` runs in the supervisor, ``start`` and ``stop`` in a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from clusterdns.chain.outside import Outside
from clusterdns.chain.transfers import Transfers
from clusterdns.corefile.checks import ORDER
from clusterdns.corefile.parser import Directive
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import rr
from clusterdns.wire.message import MAX_OCTETS, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure

if TYPE_CHECKING:
    from clusterdns.chain.route import Route
    from clusterdns.cluster.external import Cluster
    from clusterdns.cluster.source import Source
    from clusterdns.cluster.store import Store

AnswerNext = Callable[[Question], Response | None]
HandleNext = Callable[[Query], Awaitable[Response]]

# Takes a client's address and a folded name; returns the folded domains that this client's resolver
# would put behind a short name, the root last, or () if nothing is known of the client.
SearchPath = Callable[[str, WireName], tuple[WireName, ...]]

# Takes the folded labels of a namespace and a Service; tells whether it exists, with or without
# endpoints.
IsService = Callable[[bytes, bytes], bool]

DROP = Response(flags=0, lifetime_s=0, error="dropped")  # send no reply at all


# Makes an HTTP response: (status, content type, body).
Respond = Callable[[], Awaitable[tuple[int, str, bytes]]]


ENTRY_POINTS = "clusterdns.plugins"  # the group of other packages


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


class Block:
    """The server block a plugin is made for. Setup-only directives shape it as they are made."""

    def __init__(self, zones: Sequence[WireName], file: str) -> None:
        self.zones = tuple(zones)
        self.file = file
        self.directives: frozenset[str] = frozenset()  # the names of all that are in it
        self.root = Path()  # `root`: what relative paths are relative to
        self.hosts: list[str] = []  # `bind`: listen addresses; empty is every address
        self.ports: tuple[int, ...] = ()
        self.debug = False
        self.streams = StreamBounds()
        self.workers = 1  # `multisocket`: processes that read the sockets
        self.resolver: Resolver | None = None  # set when the block's listener is known
        self.local_addresses: tuple[str, ...] = ()  # what `NS` and `ns.dns` name, see plugins/bind
        self.server = ""  # metric label of the block's first listener, such as `dns://:53`
        self.view = ""  # metric label
        self.search_paths: dict[str, SearchPath] = {}  # by the plugin that knows them
        self.services: list[IsService] = []  # those of each plugin that knows some
        self.transfers = Transfers()  # whole zones, and their changes
        self.cluster: Callable[[], Cluster] | None = None  # `kubernetes`: what it answers from
        self.outside = Outside()  # whom names are forwarded to, and whether that loops

    def path(self, text: str) -> Path:
        """Return a path of the configuration, made absolute by ``root``."""
        return self.root / text


class Supervisor(Protocol):
    """What the supervisor lends to a plugin."""

    def serve(self, address: str, path: str, respond: Respond) -> None:
        """Answer GET of ``path`` at ``address`` with what ``respond`` returns."""

    @property
    def is_stopping(self) -> bool:
        """Whether the process is about to end."""

    def not_ready(self) -> list[str]:
        """Return the names of the plugins that are not ready, sorted."""

    async def metrics(self) -> bytes:
        """Return the exposition of all metrics."""

    def lameduck(self, seconds: float) -> None:
        """Go on serving for ``seconds`` after the signal to stop."""

    def watch_configuration(self, interval_s: float) -> None:
        """Compare the configuration every ``interval_s`` and reload it when it changed."""


class Worker(Protocol):
    """What a worker lends to a plugin; it is the ``number``-th, from 0, of ``workers``."""

    number: int
    workers: int

    def now(self) -> float:
        """Return monotonic seconds."""

    async def store(self, source: Source, timeout_s: float) -> Store:
        """Return the store fed from ``source``, once it is filled or ``timeout_s`` have passed."""

    def forget_all(self) -> None:
        """Forget every remembered answer."""


class Plugin:
    """Base of all plugins; the docstring of a subclass is the directive's manual."""

    name: ClassVar[str] = ""  # the file's name, set by `load`
    order: ClassVar[float] = 0  # place in CoreDNS's fixed order, set by `load`
    after: ClassVar[str] = ""  # of another package: the directive that it is right behind,
    before: ClassVar[str] = ""  # or right in front of
    families: ClassVar[Mapping[str, Family]] = {}  # of its metrics, by the names in `samples`
    handles: ClassVar[bool] = True  # false for setup-only directives, which are in no chain
    denies: ClassVar[bool] = False  # true for what fills in ``Response.denies``
    reads_options: ClassVar[bool] = False  # true for what has to see queries with EDNS options
    reads_signatures: ClassVar[bool] = False  # true for what has to see queries with TSIG records
    most_octets: int = MAX_OCTETS  # of datagrams that are replies, whatever clients allow

    def __init__(self, directive: Directive, block: Block) -> None:
        """Read the directive. Raises ConfigError."""

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return the plugins of all occurrences of the directive in one block.

        Raises:
            ConfigError: the directive is wrong, or stands more than once.
        """
        if len(directives) > 1:
            raise directives[1].error("may be given once in a server block")
        return [cls(directives[0], block)]

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response known from memory, or None to have ``handle`` asked."""
        return None

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response; by default the one of the plugins behind."""
        return await next(query)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether this gives all names below ``cut``, which are denied, the same answer."""
        return False

    def relay(self, route: Route) -> bool:
        """Enter what this does to plain queries of a zone, or say that it has to see them."""
        return False

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return what this says of a query to other plugins; asked where there is `metadata`."""
        return {}

    def supervise(self, supervisor: Supervisor) -> None:
        """Take up this plugin's duties in the supervisor, once the configuration is in force."""

    def sources(self) -> list[Source]:
        """Return the Kubernetes sources this plugin needs to be fed from."""
        return []

    async def start(self, worker: Worker) -> None:
        """Take up this plugin's duties in a worker, before its first query."""

    async def stop(self) -> None:
        """Leave the worker: close what ``start`` opened."""

    @property
    def is_ready(self) -> bool:
        """Whether this plugin answers truly by now (CoreDNS: plugin/ready)."""
        return True

    def samples(self) -> list[Sample]:
        """Return what this plugin has counted in this worker; a name without ``coredns_``."""
        return []


class Passive(Plugin):
    """A plugin that has nothing to say about any question."""

    handles = False

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind say."""
        return next(question)


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a plugin's task and wait until it is gone."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def no_arguments(directive: Directive) -> None:
    """Check that a directive is a lone word.

    Raises:
        ConfigError: it has arguments or a block.
    """
    if directive.args:
        raise directive.error(f"takes no argument, got {directive.args[0]!r}")
    if directive.block:
        raise directive.block[0].unknown()


class PluginError(ClusterDNSError):
    """A plugin of another package that cannot be loaded."""


def available() -> list[str]:
    """Return the names of all plugins, in the order of their chain.

    Those of other packages come last: only loading one tells its place.
    """
    own = [
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent.parent / "plugins")])
    ]
    return [*sorted(own, key=_order), *sorted(_installed().keys() - set(own))]


def load(word: str) -> type[Plugin]:
    """Return the plugin class of a directive: the one that ``plugins/<word>.py`` defines.

    Else it is the one that an installed package has under the entry point ``word``.

    Raises:
        PluginError: that package is broken.
    """
    path = f"clusterdns.plugins.{word}"
    if importlib.util.find_spec(path) is not None:
        return _named(word, _class_in(importlib.import_module(path)))
    entry = _installed()[word]
    try:
        found = entry.load()
        found = _class_in(found) if isinstance(found, ModuleType) else found
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise TypeError(f"{entry.value} is no plugin")
        return _named(word, found)
    except (Exception, SystemExit) as error:  # it is not ours, and may raise anything
        raise PluginError(f"cannot load {entry.value}: {type(error).__name__}: {error}") from error


def _installed() -> dict[str, EntryPoint]:
    """Return the plugins of installed packages, by the name of their directive."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _class_in(module: ModuleType) -> type[Plugin]:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Plugin)
            and value.__module__ == module.__name__
        ):
            return value
    raise TypeError(f"{module.__name__} defines no plugin")


def _named(word: str, found: type[Plugin]) -> type[Plugin]:
    found.name, found.order = word, _order(word)
    if word not in ORDER:
        anchor = found.after or found.before
        if anchor not in ORDER or (found.after and found.before):
            raise TypeError("wants `after` or `before`, one directive in the chain")
        found.order = _order(anchor) + (0.5 if found.after else -0.5)
    return found


def _order(word: str) -> float:
    return ORDER.index(word) if word in ORDER else len(ORDER)


def no_next(plugin: str) -> Response:
    """Return what falls off the end of a chain (CoreDNS: plugin.go NextOrFailure, file.go)."""
    if plugin in ("file", "auto", "secondary"):
        return failure(rr.REFUSED)
    return failure(rr.SERVFAIL, f"plugin/{plugin}: no next plugin found")


def fold(plugins: Sequence[Plugin]) -> tuple[AnswerNext, HandleNext]:
    """Return the two folds of a chain: what answers from memory, and what may wait."""
    last = no_next(plugins[-1].name if plugins else "")

    def answer_end(_question: Question) -> Response | None:
        return last

    async def handle_end(_query: Query) -> Response:
        return last

    answer: AnswerNext = answer_end
    handle: HandleNext = handle_end
    for plugin in reversed(plugins):
        answer = functools.partial(plugin.answer, next=answer)
        handle = functools.partial(plugin.handle, next=handle)
    return answer, handle
