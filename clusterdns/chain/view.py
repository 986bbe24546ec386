"""Server blocks at run time: a view is one block, a router one listener with all its views.

A question goes to the block with the longest zone that it lies in (CoreDNS: core/dnsserver
server.go); a DS question to the shortest zone other than the root, since the parent zone answers
it. A question in no zone is refused.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from clusterdns.chain.block import Block, StreamBounds, WebBounds
from clusterdns.chain.metadata import Collector
from clusterdns.chain.plugin import AnswerNext, HandleNext, Observer, Plugin, fold
from clusterdns.chain.watched import Watched
from clusterdns.languages.conditions import Filter
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import OPCODE_QUERY, USUAL_UDP_OCTETS, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Note, Response, failure

REFUSED: Final = failure(rr.REFUSED)
T = TypeVar("T")


class View:
    """One server block: its plugins in order, folded into one chain."""

    def __init__(self, block: Block, plugins: Sequence[Plugin]) -> None:
        self.block = block
        self.plugins = tuple(plugins)
        self.chain = tuple(plugin for plugin in plugins if plugin.handles)
        self._answer, self._handle = fold(self.chain)
        self._watched: tuple[AnswerNext, HandleNext] | None = None  # the folds for explanations
        self.filter = next((p for p in self.chain if isinstance(p, Filter)), None)
        self._collector = next((p for p in self.chain if isinstance(p, Collector)), None)
        self._providers = tuple(p.labels for p in self.chain if type(p).labels is not Plugin.labels)
        self.observers = tuple(plugin for plugin in self.chain if isinstance(plugin, Observer))
        self.place = f"{block.file}:{block.line}"
        names = {plugin.name for plugin in plugins}
        # Of every class, as in CoreDNS: core/dnsserver/server.go EnableChaos.
        self.opens_classes = any(plugin.opens_classes for plugin in plugins)
        self.takes_updates = any(plugin.takes_updates for plugin in plugins)
        self.is_measured = "prometheus" in names
        stated = [plugin.most_octets for plugin in plugins if plugin.most_octets]
        self.most_octets = min(stated, default=USUAL_UDP_OCTETS)
        self.limits = next((p.limits for p in plugins if p.limits is not None), None)
        if self.limits is not None:  # names of the cluster do not count
            inside = [zone for p in plugins for some in p.sources().values() for zone in some]
            self.limits.free = (*self.limits.free, *inside)
        self.reads_options = any(plugin.reads_options for plugin in self.chain)
        self.reads_signatures = any(plugin.reads_signatures for plugin in self.chain)
        self.writer = self._label_of_writer()
        longest_first = sorted(block.zones, key=len, reverse=True)
        self._zone_labels = [(zone, name.text(zone)) for zone in longest_first]

    def answer(self, question: Question) -> Response | None:
        """Return the response of the chain from memory, None if it cannot know."""
        if trace.scribe() is None:
            return self._answer(question)
        return self._explained()[0](question)

    async def handle(self, query: Query) -> Response:
        """Return the response of the chain, waiting if necessary."""
        self.collect(query)
        if trace.scribe() is None:
            return await self._handle(query)
        return await self._explained()[1](query)

    def _explained(self) -> tuple[AnswerNext, HandleNext]:
        """Return the folds of the same plugins, watched."""
        if self._watched is None:
            self._watched = fold([Watched(plugin) for plugin in self.chain])
        return self._watched

    def bound(self, query: Query) -> None:
        """Lower the payload size in a query's OPT to the limit of this server block."""
        if query.edns is not None and query.edns.size > self.most_octets:
            query.edns = query.edns._replace(size=self.most_octets)

    def may_know(self, query: Query) -> bool:
        """Tell whether to try to answer a query from memory."""
        has_options = query.edns is not None and query.edns.options
        is_read = (has_options and self.reads_options) or (query.signed and self.reads_signatures)
        return query.opcode == OPCODE_QUERY and not is_read

    def collect(self, query: Query) -> None:
        """Give a query the labels of this block, if it collects them."""
        if self._collector is not None:
            self._collector.collect(query, self._providers)

    def _label_of_writer(self) -> str:
        """Return the metric label ``plugin``, which does not name the plugin that answered.

        CoreDNS 1.15.0 names the handler behind `prometheus` (seen in its metrics), and dashboards
        group by it.
        """
        order = next((p.order for p in self.plugins if p.name == "prometheus"), None)
        if order is None:
            return ""
        return next((p.name for p in self.chain if p.order > order), "")

    def treats_alike(self, cut: WireName, qtype: int) -> bool:
        """Tell whether names below ``cut``, which are denied, get the same answer for a type."""
        for plugin in self.chain:
            if not plugin.treats_alike(cut) and not plugin.passes(qtype):
                return False
            if plugin.denies:
                return True
        return False

    def zone_label(self, qname: WireName) -> str:
        """Return the metric label ``zone``: the longest zone of this block that holds ``qname``."""
        if len(self._zone_labels) == 1:
            return self._zone_labels[0][1]
        for zone, text in self._zone_labels:
            if name.is_within(qname, zone):
                return text
        return "."


class Choice(NamedTuple):
    """The view that a question belongs to, None if refused.

    ``is_shared`` if every client gets the same view; ``is_plain`` if the conditions of `view` give
    the names below the same view.
    """

    view: View | None
    is_shared: bool = True
    is_plain: bool = True


class Router:
    """Chooses the view of a question on one listener; plugins ask further questions of it."""

    def __init__(self, views: dict[WireName, list[View]]) -> None:
        self.views = views
        all_views = [view for some in views.values() for view in some]
        self.opens_classes = any(view.opens_classes for view in all_views)
        self.takes_updates = any(view.takes_updates for view in all_views)
        self._has_root_only = [*views] == [ROOT]
        self._is_filtered = any(view.filter is not None for view in all_views)
        served = next((view for view in views.get(ROOT, ()) if view.chain), None)
        self._only = Choice(served) if self._has_root_only and not self._is_filtered else None
        most = [view.most_octets for view in all_views] or [USUAL_UDP_OCTETS]
        self.streams = StreamBounds()
        for view in all_views:  # the last setting wins
            said = {k: v for k, v in view.block.streams._asdict().items() if v is not None}
            self.streams = self.streams._replace(**said)
        self.web = _first(view.block.web for view in all_views)
        self.calls = _first(view.block.calls for view in all_views)
        self.bounds = (min(most), max(most))  # least and most octets of replies in its blocks
        self.reads_options = any(view.reads_options for view in all_views)
        self.observed = [view for view in all_views if view.observers]
        of_cookies = (plugin.cookies for view in all_views for plugin in view.plugins)
        self.cookies = next((each for each in of_cookies if each is not None), None)
        self.limits = [view.limits for view in all_views if view.limits is not None]
        told = (plugin.classes for view in all_views for plugin in view.plugins)
        self.classes = [each for each in told if each is not None]
        self.keeps_replies = any(each.wants_replies for v in all_views for each in v.observers)

    def note(self, view: View, question: Question, response: Response) -> Note | None:
        """Return the note for the observers of a view when a response is repeated.

        It is the number of the view in ``observed``, and the note of each observer; None if no
        observer has one.
        """
        notes = [observer.note(question, response) for observer in view.observers]
        if all(note is None for note in notes):
            return None
        return (self.observed.index(view), *notes)

    def choose(self, question: Question, query: Query | None = None) -> Choice:
        """Return the view of ``question``; without a query it is valid only if shared."""
        if self._only is not None and trace.scribe() is None:
            return self._only
        if not self._is_filtered:
            return Choice(self.route(question))
        found: View | None = None
        is_shared = is_plain = True
        for zone in name.parents(question.folded):
            if zone == ROOT and found is not None:
                break
            for view in self.views.get(zone, ()):
                if view.filter is not None:
                    is_plain, is_shared = False, is_shared and view.filter.is_shared
                    if not _is_admitted(view, question, query):
                        _note_block(view, zone, "its `view` does not admit the query")
                        continue
                elif not view.chain and zone == ROOT:
                    continue
                found = view
                _note_block(view, zone, _why(question))
                if question.qtype != rr.DS:  # of several, the last in the file
                    return Choice(view, is_shared, is_plain)
        return Choice(found, is_shared, is_plain)

    def route(self, question: Question) -> View | None:
        """Return the view of ``question`` without conditions, None if refused."""
        found: View | None = None
        for zone in (ROOT,) if self._has_root_only else name.parents(question.folded):
            if zone == ROOT and found is not None:
                break
            for view in self.views.get(zone, ()):
                if not view.chain and zone == ROOT:
                    continue
                found = view
                _note_block(view, zone, _why(question))
                break
            else:
                continue
            if question.qtype != rr.DS:
                break
        return found

    def is_whole(self, cut: WireName) -> bool:
        """Tell whether all names below ``cut`` belong to the same block."""
        return not any(name.is_below(zone, cut) for zone in self.views)

    def answer(self, question: Question) -> Response | None:
        """Return the response of the view of ``question`` from memory, or None."""
        run = trace.begin(question)
        if run is None:
            return self._answer(question)
        with trace.noted_by(run):
            return concluded(run, self._answer(question))

    def _answer(self, question: Question) -> Response | None:
        view, is_shared, _ = self.choose(question)
        if not is_shared:
            return None  # it depends on the client
        if view is None or not view.chain:
            return REFUSED
        if view.observers:
            return None  # they see our own questions in the chain
        return view.answer(question)

    async def handle(self, query: Query) -> Response:
        """Return the response of the view of ``query``, waiting if necessary."""
        run = trace.begin(query.question) if query.question is not None else None
        if run is None:
            return await self._handle(query)
        with trace.noted_by(run):
            return concluded(run, await self._handle(query))

    async def _handle(self, query: Query) -> Response:
        view = self.choose(query.question, query).view if query.question else None
        if view is None or not view.chain:
            return REFUSED
        return await view.handle(query)


def concluded(run: trace.Run, response: T) -> T:
    """Enter a response into a run, and return it."""
    run.verdict = (
        trace.response_text(response)
        if isinstance(response, Response)
        else "cannot answer from memory"
    )
    return response


def _note_block(view: View, zone: WireName, why: str) -> None:
    """Note why a server block is chosen, or is not."""
    taker = trace.scribe()
    if isinstance(taker, trace.Run):
        place = view.place
        taker.zones = " ".join(name.text(each) for each in view.block.zones)
        taker.place = place
        taker.note(f"{name.text(zone)} {why}", place=place)


def _why(question: Question) -> str:
    if question.qtype == rr.DS:
        return "is the zone of a parent, which answers for type DS"
    return "is the longest zone of this listener that the name lies in"


def _first(said: Iterable[WebBounds]) -> WebBounds:
    """Return the settings of a listener: of each, the first one counts."""
    found = WebBounds()
    for each in said:
        mine = zip(found, each, strict=True)
        found = WebBounds(*[theirs if own is None else own for own, theirs in mine])
    return found


def _is_admitted(view: View, question: Question, query: Query | None) -> bool:
    """Tell whether the conditions of a view hold."""
    assert view.filter is not None
    if query is not None:
        view.collect(query)
    return (query is not None or view.filter.is_shared) and view.filter.admits(question, query)
