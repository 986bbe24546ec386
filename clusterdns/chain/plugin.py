"""The base of plugins: one Corefile directive, one file under ``plugins/``, found by its name.

A block's plugins are put in CoreDNS's fixed order and folded into two chains: ``answer`` is
synchronous, from memory and equal for every client, so its response may be kept; ``handle`` runs
once for each query, may wait and may look at the client. A plugin without a response asks the next
one. If ``answer`` returns None, it cannot know without waiting, and the query takes ``handle``.
Both return exactly one ``Response``, or ``DROP``.

Plugins are made by the supervisor, which checks the configuration by making them, and are inherited
by the workers it forks. ``supervise`` runs in the supervisor, ``start`` and ``stop`` in a worker.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from clusterdns.chain.block import Block
from clusterdns.corefile.parser import Directive
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Note, Response, failure

if TYPE_CHECKING:
    from clusterdns.chain.classes import Classes
    from clusterdns.chain.limits import RateLimits
    from clusterdns.chain.route import Relayed, Route
    from clusterdns.cluster.source import Source
    from clusterdns.cluster.store import Store
    from clusterdns.wire.cookies import Cookies

AnswerNext = Callable[[Question], Response | None]
HandleNext = Callable[[Query], Awaitable[Response]]

NO_ZONE = failure(rr.REFUSED)  # behind the last plugin, if it answers from whole zones

# A hit: note, query, client, seconds it took, monotonic second it began, and the reply if the
# observer wants it.
Record = tuple[Note, bytes, tuple[str, int], float, float, bytes | None]

DROP = Response(flags=0, lifetime_s=0, error="dropped")  # send no reply at all


class UpstreamState(NamedTuple):
    """How an upstream server does, as one worker sees it.

    ``fails`` counts failed checks in a row; ``durations`` are counts of exchanges in the buckets of
    ``histogram.TIME_S``, with their sum behind them, by RCODE.
    """

    server: str
    plugin: str
    fails: int
    is_down: bool
    durations: Mapping[str, Sequence[float]]


# Makes an HTTP response: (status, content type, body).
Respond = Callable[[], Awaitable[tuple[int, str, bytes]]]


class Supervisor(Protocol):
    """The part of the supervisor that plugins use."""

    def serve(self, address: str, path: str, respond: Respond) -> None:
        """Answer GET of ``path`` at ``address`` with what ``respond`` returns."""

    @property
    def is_stopping(self) -> bool:
        """Whether the process is stopping."""

    def not_ready(self) -> list[str]:
        """Return the names of the plugins that are not ready, sorted."""

    async def metrics(self) -> bytes:
        """Return the exposition of all metrics."""

    def show_status(self, address: str) -> None:
        """Serve the page about this server at ``address``."""

    def lameduck(self, seconds: float) -> None:
        """Go on serving for ``seconds`` after the signal to stop."""

    def poll_configuration(self, interval_s: float) -> None:
        """Compare the configuration every ``interval_s`` and reload it when it changed."""


class Worker(Protocol):
    """The part of a worker that plugins use; ``number`` counts from 0, below ``workers``."""

    number: int
    workers: int

    def now(self) -> float:
        """Return monotonic seconds."""

    async def store(self, source: Source, timeout_s: float) -> Store:
        """Return the store fed from ``source``, once it is filled or ``timeout_s`` have passed."""

    def forget(self, facts: Iterable[Hashable]) -> None:
        """Remove the answers that depend on any of ``facts`` from the tables."""

    def forget_all(self) -> None:
        """Remove all answers from the tables."""


class Repeats(enum.Enum):
    """The meaning of a directive that is repeated in a server block, as in CoreDNS."""

    NEVER = "a mistake"
    FIRST = "only the first one counts"
    LAST = "the arguments of the last one count, and the blocks of all"
    OPTIONS = "each adds to those before it"


class Plugin:
    """Base of all plugins; the docstring of a subclass is the directive's manual."""

    name: ClassVar[str] = ""  # the file's name, set by `load`
    order: ClassVar[float] = 0  # place in CoreDNS's fixed order, set by `load`
    depth: ClassVar[int] = 0  # of directives placed by others; `load` sets it with the order
    after: ClassVar[str] = ""  # not in CoreDNS: the directive directly before it,
    before: ClassVar[str] = ""  # or directly after it
    families: ClassVar[Mapping[str, Family]] = {}  # of its metrics, by the names in `samples`
    # Types of objects that this completes when made, for plugins that call ``Block.shared``.
    provides: ClassVar[tuple[type[object], ...]] = ()
    # True if CoreDNS exports its metrics, at 0, also without the plugin.
    always_shown: ClassVar[bool] = False
    repeats: ClassVar[Repeats] = Repeats.NEVER
    handles: ClassVar[bool] = True  # false for setup-only directives, in no chain
    denies: ClassVar[bool] = False  # true if it sets ``Response.denies``
    opens_classes: ClassVar[bool] = False  # true for what has questions of all classes let in
    acts_alone: ClassVar[bool] = False  # true if, started, it does things nobody asked for
    answers_zones: ClassVar[bool] = False  # true for what answers from whole zones
    reads_options: ClassVar[bool] = False  # true if it needs queries with EDNS options
    reads_signatures: ClassVar[bool] = False  # true if it needs queries with TSIG records
    takes_updates: ClassVar[bool] = False  # true for what has UPDATE let in
    observes_all: ClassVar[bool] = False  # true if workers collect what `clusterdns top` shows
    # Options with a secret, and how many arguments stand before it: the page of `status` hides it.
    secrets: ClassVar[Mapping[str, int]] = {}
    places: tuple[str, ...] = ()  # file:line of its directives, set when it is made
    slow: str = ""  # for `check`: why it keeps queries off the table
    most_octets: int = 0  # limit of replies over UDP, 0 for the usual one
    limits: RateLimits | None = None  # of queries by client
    cookies: Cookies | None = None  # of the listener
    classes: Classes | None = None  # of clients, if what `answer` returns depends on them
    web_address: str = ""  # where the supervisor serves HTTP for it

    def __init__(self, directive: Directive, block: Block) -> None:
        """Read the directive. Raises ConfigError."""

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return the plugins of all occurrences of the directive in one block.

        Raises:
            ConfigError: the directive is invalid or repeated.
        """
        if len(directives) == 1 or cls.repeats is Repeats.FIRST:
            return [cls(directives[0], block)]
        if cls.repeats is Repeats.NEVER:
            raise directives[1].error("may be given once in a server block")
        args = [each.args for each in directives]
        if cls.repeats is Repeats.OPTIONS:
            args = [each for each in args if each] or [()]
        lines = tuple(line for each in directives for line in each.block)
        has_block = any(each.has_block for each in directives)
        whole = directives[-1]._replace(args=args[-1], block=lines, has_block=has_block)
        return [cls(whole, block)]

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory, or None to call ``handle``."""
        return None

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response; by default that of the next plugin."""
        return await next(query)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether all names below ``cut``, which are denied, get the same answer here."""
        return False

    def passes(self, qtype: int) -> bool:
        """Tell whether all questions of a type, in class IN, are passed on unchanged."""
        return False

    def relay(self, route: Route) -> bool:
        """Enter into the route what this does to plain queries; return False to see them all.

        ``Route.refuse`` returns False, and keeps the reason.
        """
        return False

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why it gave its own response, or else passed the question on, for `explain`.

        It is asked only if it took no notes (``wire.trace``) while it answered.
        """
        return ""

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return the labels it provides for a query; called in a block with `metadata`."""
        return {}

    def remarks(self) -> list[tuple[str, str]]:
        """Return remarks on its lines for `check`: pairs of file:line and text."""
        return []

    def supervise(self, supervisor: Supervisor) -> None:
        """Say what it wants of the supervisor; granted once the configuration is in force."""

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the Kubernetes sources this plugin needs, and the zones it answers from each."""
        return {}

    async def start(self, worker: Worker) -> None:
        """Start its work in a worker, before the first query."""

    async def stop(self) -> None:
        """Stop its work in a worker."""

    @property
    def is_ready(self) -> bool:
        """Whether this plugin can answer correctly (CoreDNS: plugin/ready)."""
        return True

    def samples(self) -> list[Sample]:
        """Return its metrics in this worker; names are without ``coredns_``."""
        return []

    def upstreams(self) -> list[UpstreamState]:
        """Return the state of the servers it asks, in this worker."""
        return []


class Observer(Plugin):
    """A plugin that observes queries with their responses, and changes nothing.

    Its ``answer`` returns the next plugin's response, or None for a query that it has to see in
    ``handle``. Other queries are reported: by ``told`` when the chain has answered from memory, and
    a little later by ``tell`` when the table has repeated an answer, and by ``passed`` when the
    relay has answered.
    """

    wants_replies: bool = False  # whether ``tell`` gets the octets of replies
    wants_exchanges: bool = False  # whether ``passed`` gets those of upstream servers, too

    def note(self, question: Question, response: Response) -> Note | None:
        """Return the note to keep with a response for ``tell``, None not to be told."""
        raise NotImplementedError

    def told(self, query: Query, response: Response, seconds: float) -> None:
        """Observe a query that was answered from memory."""
        raise NotImplementedError

    def tell(
        self, records: Sequence[Record], transport: str, bound: Callable[[Query], None]
    ) -> None:
        """Observe queries that the table has answered; ``bound`` applies `bufsize` to a query.

        The notes are those that ``note`` returned.
        """
        raise NotImplementedError

    def passed(self, records: Sequence[Relayed], servers: Sequence[tuple[str, int]]) -> None:
        """Observe queries that the relay has answered, of the classes entered into the route.

        ``servers`` are upstream servers, by number.
        """
        raise NotImplementedError


class Passive(Plugin):
    """A plugin that answers no question."""

    handles = False

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin."""
        return next(question)


def no_arguments(directive: Directive) -> None:
    """Check that a directive has no arguments and no block.

    Raises:
        ConfigError: it has arguments or a block.
    """
    if directive.args:
        raise directive.error(f"takes no argument, got {directive.args[0]!r}")
    if directive.block:
        raise directive.block[0].unknown()


class Link(Protocol):
    """A plugin in a fold, or one that stands for it."""

    @property
    def name(self) -> str:
        """The directive."""

    @property
    def answers_zones(self) -> bool:
        """As in ``Plugin``."""

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """As in ``Plugin``."""

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """As in ``Plugin``."""


def no_next(plugin: Link | None) -> Response:
    """Return the response behind the last plugin (CoreDNS: plugin.go NextOrFailure, file.go)."""
    if plugin is not None and plugin.answers_zones:
        return NO_ZONE
    word = plugin.name if plugin is not None else ""
    return failure(rr.SERVFAIL, f"plugin/{word}: no next plugin found")


def fold(plugins: Sequence[Link]) -> tuple[AnswerNext, HandleNext]:
    """Return the two folds of a chain: from memory, and waiting."""
    last = no_next(plugins[-1] if plugins else None)

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
