"""Answers that take questions of their own: how a plugin asks about names outside its zone.

A plugin writes a generator that yields each question it has, is sent the response to it, and
returns its own response, or None to let the plugins behind speak. ``answer_by`` drives it from
memory, ``handle_by`` waits where it must, so both folds of the chain say the same.
"""

from __future__ import annotations

from collections.abc import Generator

from clusterdns.chain.block import Resolver
from clusterdns.chain.plugin import AnswerNext, HandleNext
from clusterdns.wire import rr
from clusterdns.wire.message import MIN_UDP_OCTETS, Query, Question
from clusterdns.wire.response import Response, failure, fit

Steps = Generator[Question, Response, Response | None]

MAX_DEPTH = 9  # a question and eight within it (CoreDNS: plugin/file/lookup.go LoopKey)
_depth = 0


def answer_by(
    steps: Steps, question: Question, resolver: Resolver | None, next: AnswerNext
) -> Response | None:
    """Return what the steps come to from memory, None where memory does not know."""
    global _depth
    if _depth >= MAX_DEPTH:
        return failure(rr.SERVFAIL, "aliases lead around in a circle")
    _depth += 1
    try:
        asked = steps.__next__()  # `next` is the chain here
        while True:
            found = resolver.answer(asked) if resolver else None
            if found is None or fit(found, asked, MIN_UDP_OCTETS) is not found:
                return None  # how much of it is used depends on the client's limit
            asked = steps.send(found)
    except StopIteration as done:
        response: Response | None = done.value
        return next(question) if response is None else response
    finally:
        _depth -= 1


async def handle_by(
    steps: Steps, query: Query, resolver: Resolver | None, next: HandleNext
) -> Response:
    """Return what the steps come to, asking the listener about names outside."""
    if query.depth >= MAX_DEPTH:
        return failure(rr.SERVFAIL, "aliases lead around in a circle")
    if resolver is None:
        return failure(rr.SERVFAIL, "no listener to ask about a name outside")
    try:
        asked = steps.__next__()
        while True:
            inner = query.asking(asked)
            inner.depth = query.depth + 1
            found = await resolver.handle(inner)
            asked = steps.send(fit(found, asked, query.limit))
    except StopIteration as done:
        response: Response | None = done.value
        return await next(query) if response is None else response
