"""Questions within an answer: why there is no answer is told by its reason."""

from __future__ import annotations

import asyncio

import pytest

from clusterdns.chain.asking import MAX_DEPTH, Steps, handle_by
from clusterdns.wire import name, rr
from clusterdns.wire.message import RD, Query, Question
from clusterdns.wire.response import Response

ALIAS = name.parse("www.example.")


def steps() -> Steps:
    return (yield Question(ALIAS, name.fold(ALIAS), rr.A))


async def nobody(_query: Query) -> Response:
    raise AssertionError("the plugins behind were asked")


@pytest.mark.parametrize(("depth", "reason"), [(0, "no listener to ask"), (MAX_DEPTH, "circle")])
def test_a_missing_listener_is_no_circle_of_aliases(depth, reason):
    query = Query(1, RD, Question(ALIAS, name.fold(ALIAS), rr.A), None, 30)
    query.depth = depth
    response = asyncio.run(handle_by(steps(), query, None, nobody))
    assert rr.SERVFAIL == response.rcode
    assert reason in response.error
