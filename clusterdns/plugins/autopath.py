"""autopath - walk the client's search path in the server, to save the client queries.

Syntax:

    autopath [ZONES...] RESOLV-CONF
    autopath [ZONES...] @PLUGIN

A name below the first domain of the search path is looked up in each domain of the path, and then
without a domain. The reply is the first one that is not NXDOMAIN, with a CNAME from the name asked
for to the name found. If all are NXDOMAIN, the reply is that for the first name.
RESOLV-CONF is a file whose `search` line is the path of every client; it is read at the start. With
`@kubernetes` the path is that of the client's Pod, which needs `pods verified`; queries
of other clients are not changed. ZONES default to the keys of the server block.

Examples:

    . {
        autopath @kubernetes
        kubernetes cluster.local {
            manifests cluster
            pods verified
        }
        forward . 192.0.2.53
    }

Metrics: `coredns_autopath_success_total{server}` counts replies that are not NXDOMAIN.

Differences from CoreDNS: with `@PLUGIN`, a name that exists as it was asked is answered without
looking up the client, and is not counted as a success. The question is echoed as the client spelled
it, even if no name was found. An invalid domain in the file is skipped.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.chain import searchpath
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Repeats, Worker
from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.chain.searchpath import SearchPaths, Walk
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host import logs
from clusterdns.host.stamp import read_regular
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response, failure

SUCCESSES = "autopath_success_total"
# The plugins that know search paths, as in CoreDNS.
_KNOWERS = ("kubernetes", "erratic")
_SVC = b"\x03svc"
MAX_FILE_OCTETS = 64 * 1024  # of a resolv.conf
_log = logs.plugin_logger("autopath")


class Autopath(Plugin):
    """Walks a search path that is the same for all clients, or that of each Pod."""

    families: ClassVar = {
        SUCCESSES: Family("Counter of requests that did autopath.", ("server",)),
    }
    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._paths = block.shared(SearchPaths)
        *zones, source = arguments.some(directive)
        if directive.block:
            raise directive.block[0].unknown()
        self._zones = arguments.zone_names(zones, directive) or block.zones
        self._knower = source.removeprefix("@") if source.startswith("@") else ""
        if self._knower in COREDNS_ORDER and self._knower not in _KNOWERS:
            raise directive.error(f"{self._knower} knows no search paths")
        self._path = () if source.startswith("@") else _read(source, directive, block)
        self._successes = 0

    async def start(self, worker: Worker) -> None:
        """Warn if no plugin knows the search paths of clients."""
        if not self._path and self._knower not in self._paths:
            _log.warning("no search path is known in this server block")

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response for every client, None if the search path decides."""
        folded = question.folded
        if not name.is_within_any(folded, self._zones):
            return next(question)
        if self._path:
            if not name.is_within(folded, self._path[0]):
                return next(question)
            return searchpath.answer_walk(self._walk(question, self._path), question, next)
        if self._knower not in self._paths or not _is_below_svc(folded):
            return next(question)
        if folded[1 + folded[0] :].startswith(_SVC):
            return None  # it may be the first domain of some client
        response = next(question)
        if response is DROP:
            return DROP  # a walk ends there, for every client
        if response is None or not _is_final(question, response):
            return None
        return response._replace(follows_case=False)  # a walk changes the letter case

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the client's search path."""
        question = query.question
        if question is None or not name.is_within_any(question.folded, self._zones):
            return await next(query)
        path = self._path
        if self._knower in self._paths:
            path = self._paths.of(self._knower, query.client[0], question.folded)
            searchpath.note_path(path, f"the client {query.client[0]}")
        if not path or not name.is_within(question.folded, path[0]):
            return await next(query)
        return await searchpath.handle_walk(self._walk(question, path), query, next)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no search begins with the name, for `explain`."""
        if is_own:
            return ""
        if not name.is_within_any(question.folded, self._zones):
            return f"in none of its zones {trace.names_text(self._zones)}"
        return "not below the first domain of a search path"

    def _walk(self, question: Question, path: tuple[WireName, ...]) -> Walk:
        """Ask for the name below each domain (CoreDNS: plugin/autopath/autopath.go)."""
        prefix = question.qname[: -len(path[0])]
        if not prefix:
            zone = name.text(path[0])
            if (taker := trace.scribe()) is not None:
                taker.blame(f"the name is {zone} itself, the first domain of the search path")
            return failure(rr.SERVFAIL, f"trimzone: overshot qname: {zone}for zone {zone}")
        first: Response | None = None
        for domain in path:
            asked = searchpath.below(question, prefix, domain)
            if asked is None:
                continue  # too long to be a name
            found = yield asked
            first = first or found
            if found is DROP or (found.bare and found.error):
                return found
            if not found.bare and found.rcode != rr.NXDOMAIN:
                return self._counted(searchpath.with_alias(found, question))
        assert first is not None  # the first is as long as the question
        return first

    def _counted(self, response: Response) -> Response:
        self._successes += 1
        moves = (SUCCESSES, (self._block.server,))
        return response._replace(counters=(*response.counters, moves))

    def samples(self) -> list[Sample]:
        """Return the number of successful walks."""
        if not self._successes:
            return []
        return [(SUCCESSES, (self._block.server,), self._successes)]


def _read(text: str, directive: Directive, block: Block) -> tuple[WireName, ...]:
    """Return the search path of a resolv.conf, the root last; () if it has none.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = block.path(text)
    try:
        read = read_regular(path, MAX_FILE_OCTETS)
    except OSError as error:
        why = error.strerror or error
        raise directive.error(f"failed to parse {text!r}: {path}: {why}") from error
    assert read is not None  # no stamp was given
    found, bad = searchpath.of_resolv_conf(read[1].decode("utf-8", "replace"))
    for domain in bad:
        _log.warning("%s: search domain %.50s is no domain name", path, domain)
    return (*found, ROOT) if found else ()


def _is_below_svc(folded: WireName) -> bool:
    """Tell whether a label behind the first is ``svc``, as in any search path of a Pod."""
    return _SVC in folded[1:] and b"svc" in name.labels(folded)[1:]


def _is_final(question: Question, response: Response) -> bool:
    """Tell whether a walk that begins with this response ends with it unchanged.

    It does not if it continues, changes the letter case of the name, or adds an alias.
    """
    if response.bare or response.rcode == rr.NXDOMAIN or question.qname != question.folded:
        return False
    return all(record.owner.lower() == question.folded for record in response.answer)
