"""Answers that take questions of their own, and how they are driven in both folds of a chain.

A plugin writes a generator that yields each question it has, is sent the response to it, and
returns its own response. ``from_memory`` drives it without waiting, ``waiting`` waits where it
must, so both folds of the chain say the same. ``answer_by`` and ``handle_by`` ask the whole
listener, for names outside a plugin's zone; a generator that returns None lets the plugins behind
speak. A walk along a search path asks the plugins behind, see ``searchpath``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from clusterdns.chain.block import Resolver
from clusterdns.chain.plugin import AnswerNext, HandleNext
from clusterdns.wire import rr
from clusterdns.wire.message import MIN_UDP_OCTETS, Query, Question
from clusterdns.wire.response import Response, failure, fit

T = TypeVar("T")
Steps = Generator[Question, Response, Response | None]

MAX_DEPTH = 9  # a question and eight within it (CoreDNS: plugin/file/lookup.go LoopKey)
_CIRCLE = failure(rr.SERVFAIL, "aliases lead around in a circle")


def from_memory(
    steps: Generator[Question, Response, T], ask: Callable[[Question], Response | None]
) -> tuple[T] | None:
    """Return, in a tuple, what the steps come to; None where ``ask`` does not know."""
    try:
        asked = steps.__next__()  # `next` is the chain here
        while True:
            found = ask(asked)
            if found is None:
                return None
            asked = steps.send(found)
    except StopIteration as done:
        return (done.value,)


async def waiting(
    steps: Generator[Question, Response, T], ask: Callable[[Question], Awaitable[Response]]
) -> T:
    """Return what the steps come to."""
    try:
        asked = steps.__next__()
        while True:
            asked = steps.send(await ask(asked))
    except StopIteration as done:
        found: T = done.value
        return found


def answer_by(
    steps: Steps, question: Question, resolver: Resolver | None, next: AnswerNext
) -> Response | None:
    """Return what the steps come to from memory, None where memory does not know."""
    if question.depth >= MAX_DEPTH:
        return _CIRCLE

    def ask(asked: Question) -> Response | None:
        inner = asked._replace(depth=question.depth + 1)
        found = resolver.answer(inner) if resolver else None
        # How much of a long response is used depends on the client's limit.
        is_whole = found is not None and fit(found, asked, MIN_UDP_OCTETS) is found
        return found if is_whole else None

    done = from_memory(steps, ask)
    if done is None:
        return None
    return next(question) if done[0] is None else done[0]


async def handle_by(
    steps: Steps, query: Query, resolver: Resolver | None, next: HandleNext
) -> Response:
    """Return what the steps come to, asking the listener about names outside."""
    depth = query.question.depth if query.question else 0
    if depth >= MAX_DEPTH:
        return _CIRCLE
    if resolver is None:
        return failure(rr.SERVFAIL, "no listener to ask about a name outside")

    async def ask(asked: Question) -> Response:
        inner = query.asking(asked._replace(depth=depth + 1))
        return fit(await resolver.handle(inner), asked, query.limit)

    response = await waiting(steps, ask)
    return await next(query) if response is None else response
