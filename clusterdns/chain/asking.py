"""Answers that need further questions, in both folds of a chain.

A plugin writes a generator that yields each question, is sent its response, and returns the
response of the plugin. ``from_memory`` drives it without waiting, ``waiting`` waits if it must, so
both folds of the chain give the same response. ``answer_by`` and ``handle_by`` ask the whole
listener, for names outside a plugin's zone; if a generator returns None, the next plugin answers. A
walk along a search path asks the next plugins, see ``searchpath``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Final, TypeVar

from clusterdns.chain.block import Resolver
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext
from clusterdns.wire import rr
from clusterdns.wire.message import MIN_UDP_OCTETS, Query, Question
from clusterdns.wire.response import Response, failure, fit

T = TypeVar("T")
Steps = Generator[Question, Response, Response | None]

MAX_DEPTH: Final = 9  # a question and eight nested in it (CoreDNS: plugin/file/lookup.go LoopKey)
_CIRCLE: Final = failure(rr.SERVFAIL, "aliases lead around in a circle")


def from_memory(
    steps: Generator[Question, Response, T], ask: Callable[[Question], Response | None]
) -> tuple[T] | None:
    """Return the result of the steps in a tuple; None if ``ask`` does not know."""
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
    """Return the result of the steps."""
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
    """Return the result of the steps from memory, None if memory does not know."""
    if question.depth >= MAX_DEPTH:
        return _CIRCLE

    is_personal = False

    def ask(asked: Question) -> Response | None:
        nonlocal is_personal
        inner = asked._replace(depth=question.depth + 1, asker=question.asker)
        found = resolver.answer(inner) if resolver else None
        is_personal |= found is not None and found.personal
        # The client's limit decides how much of a long response is used.
        is_whole = found is not None and fit(found, asked, MIN_UDP_OCTETS) is found
        return found if is_whole else None

    done = from_memory(steps, ask)
    if done is None:
        return None
    if done[0] is None:
        return next(question)
    return _marked(done[0]) if is_personal else done[0]


async def handle_by(
    steps: Steps, query: Query, resolver: Resolver | None, next: HandleNext
) -> Response:
    """Return the result of the steps; ask the listener about names outside."""
    depth = query.question.depth if query.question else 0
    asker, is_personal = query.question.asker if query.question else None, False
    if depth >= MAX_DEPTH:
        return _CIRCLE
    if resolver is None:
        return failure(rr.SERVFAIL, "no listener to ask about a name outside")

    async def ask(asked: Question) -> Response:
        nonlocal is_personal
        inner = query.asking(asked._replace(depth=depth + 1, asker=asker))
        found = await resolver.handle(inner)
        is_personal |= found.personal
        return fit(found, asked, query.limit)

    response = await waiting(steps, ask)
    if response is None:
        return await next(query)
    return _marked(response) if is_personal else response


def _marked(response: Response) -> Response:
    """Return a response that was made of a personal one, and so is one, too."""
    return response if response is DROP else response._replace(personal=True)
