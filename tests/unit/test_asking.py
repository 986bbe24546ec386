"""Questions within an answer: both folds count their depth, and say why there is no answer."""

from __future__ import annotations

import asyncio

import pytest

from clusterdns.chain.asking import MAX_DEPTH, Steps, answer_by, handle_by
from clusterdns.chain.searchpath import Walk, answer_walk, handle_walk
from clusterdns.wire import name, rr
from clusterdns.wire.message import RD, Query, Question
from clusterdns.wire.response import Response

ALIAS = name.parse("www.example.")
ASKED = Question(ALIAS, name.fold(ALIAS), rr.A)


def steps() -> Steps:
    return (yield ASKED)


def walk() -> Walk:
    return (yield ASKED)  # made anew, as that of `search` is


def query_of(question: Question) -> Query:
    return Query(1, RD, question, None, 30)


async def nobody(_query: Query) -> Response:
    raise AssertionError("the plugins behind were asked")


@pytest.mark.parametrize(("depth", "reason"), [(0, "no listener to ask"), (MAX_DEPTH, "circle")])
def test_a_missing_listener_is_no_circle_of_aliases(depth, reason):
    query = query_of(ASKED._replace(depth=depth))
    response = asyncio.run(handle_by(steps(), query, None, nobody))
    assert rr.SERVFAIL == response.rcode
    assert reason in response.error


class Circle:
    """A listener whose only plugin asks it again; on the way, a walk asks the plugins behind."""

    def __init__(self) -> None:
        self.depths: list[int] = []

    def answer(self, question: Question) -> Response | None:
        return answer_walk(walk(), question, self._again)

    async def handle(self, query: Query) -> Response:
        return await handle_walk(walk(), query, self._handle_again)

    def _again(self, question: Question) -> Response | None:
        self.depths.append(question.depth)
        return answer_by(steps(), question, self, self._again)

    async def _handle_again(self, query: Query) -> Response:
        assert query.question is not None
        self.depths.append(query.question.depth)
        return await handle_by(steps(), query, self, self._handle_again)


def test_both_folds_end_a_circle_at_the_same_depth():
    by_answer, by_handle = Circle(), Circle()
    from_memory = by_answer.answer(ASKED)
    assert from_memory is not None
    assert "circle" in from_memory.error
    assert from_memory == asyncio.run(by_handle.handle(query_of(ASKED)))
    assert by_answer.depths == by_handle.depths == [*range(MAX_DEPTH + 1)]


def test_questions_that_interleave_do_not_count_for_each_other():
    """The depth lies in the question: one that waits leaves that of others as it is."""

    async def run() -> list[Response]:
        queries = (query_of(ASKED) for _ in range(MAX_DEPTH + 1))
        return await asyncio.gather(*(handle_by(steps(), each, Slow(), nobody) for each in queries))

    assert {rr.NOERROR} == {each.rcode for each in asyncio.run(run())}


class Slow(Circle):
    """A listener that takes its time."""

    async def handle(self, query: Query) -> Response:
        await asyncio.sleep(0)
        return Response(rr.NOERROR)
