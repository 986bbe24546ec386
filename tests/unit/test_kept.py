"""The store of kept replies: its two bounds, and what outlives a flood."""

from __future__ import annotations

import tracemalloc

import pytest
from cacheworld import REPLY, a
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterdns.caching.kept import AVERAGE_OCTETS, CacheKey, Item, Kept
from clusterdns.caching.options import Prefetch
from clusterdns.wire import name, rr
from clusterdns.wire.rr import RR


def key(i: int, label: str = "n") -> CacheKey:
    return name.fold(name.parse(f"{label}{i}.example.com.")) + b"\0\1\0\1"


def item(records: int = 1, octets: int = 4) -> Item:
    found = tuple(RR(b"\1x\0", rr.TXT, 30, bytes(octets)) for _ in range(records))
    return Item(REPLY._replace(answer=found), 0.0, 30)


def hot_left(kept: Kept, hot: list[CacheKey]) -> int:
    return sum(kept.get(each) is not None for each in hot)


@pytest.mark.parametrize("flood", [50_000, 3_000])
def test_what_is_in_use_outlives_a_flood(flood):
    """Asked for twice is enough: the rest of their queries is answered by the AnswerTable."""
    kept, hot = Kept(9984), [key(i, "hot") for i in range(300)]
    for each in hot:
        kept.put(each, item())
    assert 300 == hot_left(kept, hot)
    evicted = sum(kept.put(key(i), item()) for i in range(flood))
    assert max(0, flood + 300 - 9984) == evicted
    assert 300 == hot_left(kept, hot)


def test_large_replies_push_out_themselves():
    kept, hot = Kept(1024), [key(i, "hot") for i in range(300)]
    for each in hot:
        kept.put(each, item())
    assert 300 == hot_left(kept, hot)
    for i in range(1000):
        kept.put(key(i), item(records=3500, octets=16))  # about 64 KiB on the wire
        assert kept.octets <= 1024 * AVERAGE_OCTETS
    assert 300 == hot_left(kept, hot)
    assert len(kept) < 310


def test_as_many_ordinary_replies_as_told_are_kept():
    kept = Kept(9984)
    for i in range(9984):
        assert 0 == kept.put(key(i), item(records=6, octets=16))
    assert 9984 == len(kept)
    assert 1 == kept.put(key(9984), item(records=6, octets=16))
    assert 9984 == len(kept)


def test_what_is_larger_than_everything_is_not_kept():
    kept = Kept(1)
    assert 0 == kept.put(key(1), item())
    assert 0 == kept.put(key(1), item(records=100))
    assert kept.get(key(1)) is None
    assert (0, 0) == (len(kept), kept.octets)


def test_what_grows_while_in_use_does_not_protect_itself_against_all():
    kept = Kept(100)
    for i in range(60):
        kept.put(key(i), item())
        kept.get(key(i))
    for i in range(60):
        kept.put(key(i), item(records=20))  # asked for again, and much more than it was
    for i in range(100, 110):
        kept.put(key(i), item())
    assert 10 == hot_left(kept, [key(i) for i in range(100, 110)])


def test_what_was_in_use_gives_way_to_what_is():
    kept = Kept(100)
    for i in range(80):
        kept.put(key(i), item())
        kept.get(key(i))
    for i in range(100, 180):
        kept.put(key(i), item())
        kept.get(key(i))
    assert 80 == hot_left(kept, [key(i) for i in range(100, 180)])
    assert kept.get(key(0)) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("pgr"), st.integers(0, 30), st.integers(0, 40)), max_size=200
    )
)
@settings(deadline=None)
def test_bounds_and_contents(steps):
    """Whatever is put, got and removed: within both bounds, and never another reply."""
    kept, last = Kept(10), dict[CacheKey, Item]()
    for what, i, records in steps:
        if what == "p":
            last[key(i)] = made = item(records)
            kept.put(key(i), made)
            assert kept.get(key(i)) is made or made.octets > 10 * AVERAGE_OCTETS
        elif what == "r":
            kept.remove(key(i))
            assert kept.get(key(i)) is None
        else:
            assert kept.get(key(i)) in (None, last.get(key(i)))
        assert len(kept) <= 10
        assert kept.octets <= 10 * AVERAGE_OCTETS
        present = [found for each in last if (found := kept.get(each)) is not None]
        assert len(kept) == len(present)
        assert kept.octets == sum(found.octets for found in present)


@pytest.mark.parametrize(("replies", "records", "octets"), [(3000, 1, 4), (500, 30, 16)])
def test_the_estimate_is_what_it_takes(replies, records, octets):
    """Half as much again would be an alarm, and so would less than it takes."""
    kept = Kept(100_000)
    tracemalloc.start()
    try:
        for i in range(replies):
            each = key(i)
            owner = each[:-4]
            answer = tuple(
                RR(owner, rr.A, 30, bytes(octets - 2) + n.to_bytes(2, "big"))
                for n in range(records)
            )
            kept.put(each, Item(REPLY._replace(answer=answer), 0.0, 30))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 <= kept.octets / taken <= 1.5


def test_how_often_it_is_asked_for():
    made = Item(REPLY._replace(answer=(a(),)), 100.0, 30)
    for now, sights in [(100, 1), (110, 2), (170, 3), (230.5, 1), (231, 2)]:
        assert sights == made.sights_with(now, 60)
        made.see(now, 60, 0)
        assert sights == made.sights
    newer = Item(made.response, 231.0, 30)
    newer.inherit(made, 260)
    assert 3 == newer.sights_with(320, 60)
    made.see(232, 60, 1.0)  # until 233 others may have asked
    assert 4 == made.sights_with(293, 60)
    assert 1 == made.sights_with(293.1, 60)


@pytest.mark.parametrize(
    ("percentage", "ttl", "threshold"), [(10, 30, 3), (10, 5, 1), (10, 31, 4), (90, 3600, 3240)]
)
def test_when_it_is_time_to_prefetch(percentage, ttl, threshold):
    assert threshold == Prefetch(1, 60, percentage).threshold(ttl)
