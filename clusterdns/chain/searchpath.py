"""Walks along a client's search path, done by the server.

A stub resolver appends the domains of its search path to a short name, one after the other, until a
name exists (resolv.conf(5)). A plugin that does this walk for the client writes a generator that
yields each question, is sent the response of the next plugins, and returns the response to the
client's question. ``answer_walk`` drives it from memory, ``handle_walk`` waits if necessary, so
both folds give the same response. Unlike ``answer_by``, which asks the whole listener, a walk asks
the rest of its own chain, as CoreDNS does, so access rules behind it see every name of the walk.

Pure but for ``of_host``: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from clusterdns.chain.asking import from_memory, waiting
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext
from clusterdns.errors import FormError
from clusterdns.host import resolvconf
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

_RESOLV_CONF = Path("/etc/resolv.conf")

Walk = Generator[Question, Response, Response]

# Takes a client's address and a folded name; returns the folded domains that the client's resolver
# would append to a short name, the root last, or () for an unknown client.
SearchPath = Callable[[str, WireName], tuple[WireName, ...]]


class SearchPaths:
    """The plugins of a server block that know the search paths of clients, by their names."""

    def __init__(self) -> None:
        self._knowers: dict[str, SearchPath] = {}

    def add(self, plugin: str, path: SearchPath) -> None:
        """Add a plugin that knows them."""
        self._knowers[plugin] = path

    def __contains__(self, plugin: str) -> bool:
        """Tell whether a plugin knows them."""
        return plugin in self._knowers

    def of(self, plugin: str, client: str, folded: WireName) -> tuple[WireName, ...]:
        """Return the search path of a client by a plugin; see ``SearchPath``."""
        return self._knowers[plugin](client, folded)


def answer_walk(walk: Walk, question: Question, next: AnswerNext) -> Response | None:
    """Return the result of a walk from memory, None if memory does not know."""
    passed: list[Response] = []

    def ask(asked: Question) -> Response | None:
        found = next(asked._replace(depth=question.depth, asker=question.asker))
        if found is not None:
            passed.append(found)
        return found

    done = from_memory(walk, ask)
    return None if done is None else _decided_by(passed, done[0])


async def handle_walk(walk: Walk, query: Query, next: HandleNext) -> Response:
    """Return the result of a walk, waiting for the next plugins."""
    passed: list[Response] = []
    depth = query.question.depth if query.question else 0
    asker = query.question.asker if query.question else None

    async def ask(asked: Question) -> Response:
        found = await next(query.asking(asked._replace(depth=depth, asker=asker)))
        passed.append(found)
        return found

    return _decided_by(passed, await waiting(walk, ask))


def _decided_by(passed: list[Response], response: Response) -> Response:
    """Return ``response`` combined with the responses passed on the way to it.

    It has the shortest of their lifetimes, the facts of all, and the counters of all.
    """
    if len(passed) < 2 or response is DROP:
        return response
    facts = dict.fromkeys(fact for one in passed for fact in one.facts)
    counters = tuple(counter for one in passed[:-1] for counter in one.counters)
    return response._replace(
        lifetime_s=min(one.lifetime_s for one in passed),
        facts=tuple(facts),
        counters=(*counters, *response.counters),
        personal=any(one.personal for one in passed),
    )


def note_path(domains: Iterable[WireName], whose: str) -> None:
    """Note the search path of an explained query."""
    if (taker := trace.scribe()) is not None:
        path = " ".join(name.text(domain) for domain in domains)
        taker.note(f"the search path of {whose} is {path or '(unknown)'}")


def below(question: Question, prefix: bytes, domain: bytes) -> Question | None:
    """Return the question about ``prefix`` below ``domain``, None if that is too long.

    ``prefix`` is part of a name in wire form, without a root label.
    """
    qname = prefix + domain
    if len(qname) > name.MAX_NAME_OCTETS:
        return None
    return question._replace(qname=qname, folded=name.fold(qname))


def with_alias(response: Response, question: Question) -> Response:
    """Return ``response`` as the answer to ``question``, with an alias as the first record.

    The alias points to the owner of the first record with another name, and has its TTL (CoreDNS:
    plugin/autopath/cname.go).
    """
    for record in response.answer:
        if record.owner.lower() != question.folded:
            alias = RR(question.qname, rr.CNAME, record.ttl, record.owner)
            return response._replace(
                answer=(alias, *response.answer), orders=(), follows_case=False
            )
    return response


def domains(texts: Iterable[str]) -> tuple[tuple[WireName, ...], list[str]]:
    """Return search domains in wire form, each once, and the texts that are not names."""
    found, bad = dict[WireName, None](), []
    for text in texts:
        try:
            found[name.fold(name.parse(text))] = None
        except FormError:
            bad.append(text)
    return tuple(found), bad


def of_resolv_conf(text: str) -> tuple[tuple[WireName, ...], list[str]]:
    """Return the search domains of a resolv.conf, and the texts that are not names."""
    return domains(resolvconf.parse(text).search)


def of_host() -> tuple[WireName, ...]:
    """Return the search domains of this host's resolv.conf, () if it has none."""
    try:
        found, _ = of_resolv_conf(_RESOLV_CONF.read_text("utf-8", "replace"))
    except OSError:
        return ()
    return found
