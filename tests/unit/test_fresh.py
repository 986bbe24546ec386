"""caching/fresh.py: replies in two generations, taken out once."""

from __future__ import annotations

import pytest

from clusterdns.caching.fresh import PART, Fresh, Raw

ONE, OTHER = (10.0, 5.0, 5, b"one"), (20.0, 15.0, 5, b"other")


def aged(fresh: Fresh) -> bool:
    """Begin a new generation if it is due, as the relay does."""
    is_due = len(fresh.young) >= fresh.limit
    if is_due:
        fresh.age()
    return is_due


def test_a_reply_is_taken_out_once():
    fresh = Fresh(1024)
    assert fresh.take(b"q") is None
    fresh.young[b"q"] = ONE
    assert Raw(10.0, 5.0, 5, b"one") == fresh.take(b"q")
    assert fresh.take(b"q") is None
    assert 0 == len(fresh)


def test_the_younger_of_two_is_taken_and_both_are_gone():
    fresh = Fresh(1024)
    fresh.old[b"q"], fresh.young[b"q"] = ONE, OTHER
    assert Raw(*OTHER) == fresh.take(b"q")
    assert fresh.take(b"q") is None


@pytest.mark.parametrize("capacity", [0, 1, PART, 1024])
def test_two_generations_bound_it(capacity):
    fresh = Fresh(capacity)
    young, old = fresh.young, fresh.old
    limit = max(1, capacity // PART)
    assert limit == fresh.limit
    for i in range(5 * limit + limit // 2):
        fresh.young[b"%d" % i] = ONE
        aged(fresh)
        assert len(fresh) <= 2 * limit
    assert (young, old) == (fresh.young, fresh.old)
    assert young is fresh.young  # C holds it
    assert old is fresh.old
    assert {b"%d" % i for i in range(4 * limit, 5 * limit + limit // 2)} == {*young, *old}


def test_what_is_dropped_is_counted_once():
    fresh = Fresh(2 * PART)
    for i in range(6):
        fresh.young[b"%d" % i] = ONE
        aged(fresh)
    assert 4 == fresh.evictions()
    assert 0 == fresh.evictions()
    assert 2 == len(fresh)


def test_what_was_asked_for_again_is_not_counted_as_dropped():
    fresh = Fresh(2 * PART)
    for i in range(2):
        fresh.young[b"%d" % i] = ONE
    assert aged(fresh)
    assert fresh.take(b"0") is not None
    for i in range(2, 4):
        fresh.young[b"%d" % i] = ONE
    assert aged(fresh)
    assert 1 == fresh.evictions()
