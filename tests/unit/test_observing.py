"""Sketches, samples, the ring of the last queries, and their answers, without processes."""

from __future__ import annotations

import json
import marshal
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterdns.observing import ring, sketch, window
from clusterdns.observing.collector import CHAIN, RELAY, TABLE, WINDOW_S, Collector
from clusterdns.observing.ring import Ring
from clusterdns.observing.sampling import (
    BUDGET,
    DENIED,
    FAILED,
    MAX_EVERY,
    MAX_RECORDS,
    PLAIN,
    SLOW_S,
    Sampler,
    kind_of,
)
from clusterdns.observing.selection import Selection
from clusterdns.observing.sketch import Sketch
from clusterdns.wire import name, rr

ZONE = name.fold(name.parse("cluster.local"))
CLIENT = ("10.1.2.3", 5353)
KEYS = st.integers(0, 40).map(lambda n: f"key {n}")
STREAMS = st.lists(st.tuples(KEYS, st.integers(1, 50)), max_size=300)


class Clock:
    """A virtual clock: monotonic seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


# ---- sketches


def sketched(stream, k):
    made, exact = Sketch[str](k), Counter[str]()
    for key, times in stream:
        made.add(key, times)
        exact[key] += times
    return made, exact


@given(STREAMS, st.integers(1, 60))
def test_a_sketch_keeps_its_bounds(stream, k):
    made, exact = sketched(stream, k)
    total, counted = exact.total(), made.counted()
    assert len(counted) <= k
    for key, (count, error) in counted.items():
        assert exact[key] <= count <= exact[key] + error
        assert error <= total / k
    for key, times in exact.items():
        if key not in counted:
            assert times <= made.floor <= total / k
    assert {key for key, times in exact.items() if times > total / k} <= counted.keys()


@given(st.lists(STREAMS, min_size=1, max_size=4), st.integers(1, 30))
def test_merged_sketches_keep_their_bounds(streams, k):
    made = [sketched(stream, k) for stream in streams]
    exact = sum((counts for _, counts in made), Counter[str]())
    rows = sketch.merged([(each.floor, each.counted()) for each, _ in made], k)
    assert len(rows) <= k
    assert rows == sorted(rows, key=lambda row: (-row[1][0], row[0]))
    for key, (count, error) in rows:
        assert exact[key] <= count <= exact[key] + error
    found = {key for key, _ in rows}
    bound = sum(counts.total() / k for _, counts in made)
    assert all(times <= bound for key, times in exact.items() if key not in found)


def test_a_sketch_with_room_is_exact():
    made, exact = sketched([(f"key {i % 7}", i) for i in range(1, 200)], 100)
    assert {key: (times, 0) for key, times in exact.items()} == made.counted()


# ---- samples


@pytest.mark.parametrize("batch", [1, 7, 64, 5000])
def test_samples_stand_for_all_queries(batch):
    sampler = Sampler("dns://:53", "udp", TABLE)
    counted = hits = 0
    while hits < 200_000:
        for place, stands_for in sampler.draw(PLAIN, batch):
            assert 0 <= place < batch
            counted += stands_for
        hits += batch
        assert abs(hits - counted) < sampler.every()  # one of each row


def test_what_alternates_is_sampled_evenly():
    sampler = Sampler("dns://:53", "udp", TABLE)
    crowd = 64 * BUDGET
    sampler.draw(PLAIN, crowd)
    sampler.adapt()
    odd = even = hits = 0
    for _ in range(400):
        for place, stands_for in sampler.draw(PLAIN, crowd):
            if (hits + place) % 2:
                odd += stands_for
            else:
                even += stands_for
        sampler.adapt()
        hits += crowd
    assert abs(hits - odd - even) <= 64
    assert abs(odd - even) < hits / 10  # a fixed place would count one of them only


def test_the_samples_of_a_tick_are_bounded():
    sampler = Sampler("dns://:53", "udp", TABLE)
    found = sum(len(sampler.draw(PLAIN, 64)) for _ in range(400_000 // 64))
    assert BUDGET < found <= BUDGET * 16
    assert 1 < sampler.every() <= MAX_EVERY
    sampler.adapt()
    assert 400_000 / BUDGET <= sampler.every() <= 800_000 / BUDGET
    sampler.draw(PLAIN, 10)
    sampler.adapt()  # the rate falls
    assert [(0, 1), (1, 1)] == sampler.draw(PLAIN, 2)  # and each is looked at again, at once


def test_the_rate_that_counts_is_that_since_the_last_tick():
    sampler = Sampler("dns://:53", "udp", TABLE)
    for queries in (10_000, 100_000, 3_000, 50_000, 300, 1):
        for _ in range(queries // 50):
            sampler.draw(PLAIN, 50)
        sampler.draw(PLAIN, queries % 50)
        sampler.adapt()
        assert queries <= sampler.every() * BUDGET < max(2 * queries, 2 * BUDGET)


@given(st.lists(st.integers(0, 700), max_size=30))
def test_queries_drawn_together_are_those_drawn_one_by_one(batches):
    """C draws one by one."""
    together, alone = (Sampler("dns://:53", "udp", TABLE, seed=3) for _ in range(2))
    for batch in batches:
        found = [(i, n) for i in range(batch) for _, n in alone.draw(PLAIN)]
        assert found == together.draw(PLAIN, batch)
    assert alone.state == together.state


def test_what_is_rare_is_seen_beside_a_flood():
    """Denials and failures have rows of their own."""
    sampler = Sampler("dns://:53", "udp", TABLE)
    seen = Counter[int]()
    for _ in range(20):
        for number in range(5000):
            kinds = [PLAIN] if number % 500 else [PLAIN, DENIED, FAILED]
            for kind in kinds:
                seen.update({kind: len(sampler.draw(kind))})
        sampler.adapt()
    assert (200, 200) == (seen[DENIED], seen[FAILED])
    assert seen[PLAIN] < 20 * 5000 / 10
    assert (1, 1) == (sampler.every(DENIED), sampler.every(FAILED))


@pytest.mark.parametrize(
    "rcode, seconds, kind",
    [
        (rr.NOERROR, 0.0, PLAIN),
        (rr.NXDOMAIN, 0.0, DENIED),
        (rr.SERVFAIL, 0.0, FAILED),
        (rr.REFUSED, SLOW_S - 1e-6, FAILED),
        (rr.NOERROR, SLOW_S - 1e-6, PLAIN),
        (rr.NOERROR, SLOW_S, FAILED),
        (rr.NXDOMAIN, 2.0, FAILED),
    ],
)
def test_the_kind_of_a_reply(rcode, seconds, kind):
    assert kind == kind_of(rcode, seconds)


def test_records_that_nobody_takes_are_bounded():
    sampler = Sampler("dns://:53", "udp", TABLE)
    for _ in range(MAX_RECORDS + 5):
        sampler.add((1, b"", CLIENT, 0.0, 0.0, b""))
    assert MAX_RECORDS == len(sampler.take())
    assert [] == sampler.take()


# ---- the ring


def put(held: Ring, qname: str, **changed):
    numbers = {
        "number": 0, "at": 0.0, "seconds": 0.001, "size": 50, "qtype": rr.A, "qclass": 1,
        "rcode": 0, "port": 4000, "stands_for": 1, "listener": 1, "transport": 2, "path": 3,
    } | changed  # fmt: skip
    held.put(tuple(numbers.values()), "10.0.0.1", name.parse(qname))


def anything(_seen):
    return True


def test_a_reader_that_keeps_up_loses_nothing():
    clock = Clock()
    held, number, read = Ring(clock, 4096), 0, list[bytes]()
    number = held.mark()
    for i in range(1000):
        put(held, f"n{i}.example.org")
        if i % 10 == 9:
            part = held.since(number, 100, anything)
            assert 0 == part.lost
            number = part.next
            read += [seen.qname for seen in part.seen]
        clock.seconds += (i % 3) * 1e-6  # so some come in the same microsecond
    assert [name.parse(f"n{i}.example.org") for i in range(1000)] == read
    assert held.octets <= 4096


def test_a_reader_that_is_slow_learns_what_it_lost():
    clock = Clock()
    held = Ring(clock, 4096)
    put(held, "first.example.org")
    number = held.since(0, 10, anything).next
    for i in range(1000):
        put(held, f"n{i}.example.org")
    part = held.since(number, 1000, anything)
    assert 1000 == part.lost + len(part.seen)
    assert 0 < part.lost
    assert len(held) == len(part.seen)


def test_a_reader_gets_the_oldest_first_and_goes_on_there():
    held = Ring(Clock())
    number = held.mark()
    for i in range(25):
        put(held, f"n{i}.example.org", rcode=i % 2)
    read = list[bytes]()
    for _ in range(4):
        part = held.since(number, 4, lambda seen: seen.rcode == 1)
        read += [seen.qname for seen in part.seen]
        number = part.next
    assert [name.parse(f"n{i}.example.org") for i in range(1, 25, 2)] == read
    assert [] == held.since(number, 4, anything).seen[1:]


def test_number_0_gives_the_last_ones():
    held = Ring(Clock())
    for i in range(25):
        put(held, f"n{i}.example.org")
    part = held.since(0, 3, anything)
    assert [name.parse(f"n{i}.example.org") for i in (22, 23, 24)] == [s.qname for s in part.seen]
    assert 0 == part.lost


def test_all_of_a_query_comes_back():
    held = Ring(Clock())
    wanted = {
        "at": 12.5, "seconds": 0.25, "size": 65_000, "qtype": 65_535, "qclass": 3,
        "rcode": 23, "port": 65_535, "stands_for": MAX_EVERY, "listener": 255, "transport": 4,
        "path": 5,
    }  # fmt: skip
    put(held, r"odd\000\.name.example", **wanted)
    (seen,) = held.since(0, 1, anything).seen
    assert wanted == {key: getattr(seen, key) for key in wanted}
    assert ("10.0.0.1", name.parse(r"odd\000\.name.example")) == (seen.host, seen.qname)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=60), st.integers(1, 9))
def test_several_rings_are_read_as_one(steps, limit):
    """Workers put queries at any time, a reader reads all of their rings: each comes once."""
    clock = Clock()
    rings, read, wanted = [Ring(clock) for _ in range(3)], list[str](), list[str]()
    number = max(each.mark() for each in rings)
    for i, (worker, later) in enumerate([*steps, (0, 0)]):
        put(rings[worker], f"n{i}.example.org")
        wanted.append(f"n{i}.example.org.")
        clock.seconds += later * 1e-6
        if i % 7 == 3:
            number = read_all(rings, number, limit, read)
    for _ in range(len(wanted) + 1):
        clock.seconds += 1e-5
        number = read_all(rings, number, limit, read)
    assert sorted(wanted) == sorted(read)


def read_all(rings, number, limit, read):
    parts = []
    for each in rings:
        part = each.since(number, limit, anything)
        queries = [{"number": s.number, "name": name.text(s.qname)} for s in part.seen]
        parts.append((queries, part.next, part.lost))
    queries, end, lost = ring.merged(parts, number, limit)
    assert len(queries) <= limit + len(rings) - 1  # those with equal numbers
    assert 0 == lost
    read += [query["name"] for query in queries]
    return end


# ---- the collector


def reply_of(rcode: int) -> bytes:
    return bytes((0, 1, 0x80, rcode)) + bytes(8)


def see(collector, qname, *, qtype=rr.A, rcode=0, seconds=0.001, client=CLIENT, times=1):
    wire = name.fold(name.parse(qname))
    source = ("dns://:53", "udp", CHAIN)
    collector.see(
        wire, qtype, 1, reply_of(rcode), seconds, client, source, at=1e9, stands_for=times
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def collector(clock):
    return Collector([ZONE], clock, lambda: 1e9 + clock.seconds - 1000)


def summary(*collectors, now=1001.0):
    parts = [marshal.loads(marshal.dumps(each.top())) for each in collectors]  # as it is sent
    windows = [each for part in parts for each in part["windows"]]
    found = window.summary(windows, [part["history"] for part in parts], now)
    return json.loads(json.dumps(found))


def test_top_counts_all_that_was_seen(collector):
    for _ in range(3):
        see(collector, "web.shop.svc.cluster.local", client=("10.0.0.9", 1))
    see(collector, "nosuch.shop.svc.cluster.local", rcode=rr.NXDOMAIN, times=64)
    see(collector, "example.org", qtype=rr.AAAA, rcode=rr.SERVFAIL, seconds=2.0)
    found = summary(collector)
    assert 68 == found["queries"]
    assert {"NOERROR": 3, "NXDOMAIN": 64, "SERVFAIL": 1} == found["rcodes"]
    assert {"A": 67, "AAAA": 1} == found["types"]
    assert round(68 / 5) == found["sampled"]
    assert {
        "name": "nosuch.shop.svc.cluster.local.", "type": "A", "count": 64, "error": 0,
    } == found["names"][0]  # fmt: skip
    assert [{"namespace": "shop", "count": 67, "error": 0}] == found["namespaces"]
    assert [65, 3] == [row["count"] for row in found["clients"]]
    denied = [(row["name"], row["count"]) for row in found["denied"]]
    assert [("nosuch.shop.svc.cluster.local.", 64)] == denied
    assert {"name": "example.org.", "type": "AAAA", "seconds": 2.0, "at": 1e9} == found["slow"][0]
    assert 68 == sum(times for _, times in found["latency"]["buckets"])
    assert 0.0006 < found["latency"]["p50"] <= 0.001
    assert 1.0 == found["seconds"]
    ((_, queries, p50, p99),) = found["history"]
    assert (68, True) == (queries, p50 < p99)


def test_top_of_workers_is_their_sum(clock):
    workers = [Collector([ZONE], clock, lambda: 1e9) for _ in range(3)]
    for i, each in enumerate(workers):
        see(each, "web.shop.svc.cluster.local", times=10)
        see(each, f"only{i}.example.org", seconds=i + 1)
    found = summary(*workers)
    assert (33, 30) == (found["queries"], found["names"][0]["count"])
    assert 4 == len(found["names"])
    assert ["only2.example.org.", "only1.example.org."] == [s["name"] for s in found["slow"]][:2]
    assert 33 == found["history"][0][1]


def test_top_forgets_what_is_old(collector, clock):
    see(collector, "old.example.org")
    for _ in range(2):
        clock.seconds += WINDOW_S
        collector.tick()
        see(collector, "new.example.org")
    clock.seconds += 1
    found = summary(collector, now=clock.seconds)
    assert ["new.example.org."] == [row["name"] for row in found["names"]]
    assert WINDOW_S + 1 == found["seconds"]


def test_nothing_seen_is_an_answer(collector):
    found = summary(collector)
    assert (0, [], 1) == (found["queries"], found["names"], found["sampled"])
    assert 0.0 == found["latency"]["p99"]


def test_floods_of_anything_are_bounded(collector):
    for i in range(20_000):
        see(
            collector, f"random{i}.example.org", qtype=i % 65_536, rcode=i % 16,
            seconds=i / 20_000, client=(f"10.0.{i % 250}.{i // 250}", 1),
        )  # fmt: skip
    found = summary(collector)
    assert 20_000 == found["queries"] == sum(found["types"].values())
    assert len(found["types"]) <= 65
    assert [100, 100, 100, 100] == [
        len(found[word]) for word in ("names", "clients", "denied", "slow")
    ]
    assert len(marshal.dumps(collector.top())) < 100_000
    assert 0.99 < found["slow"][-1]["seconds"]


@pytest.mark.parametrize(
    "qname, wanted",
    [
        ("web.shop.svc.cluster.local", b"shop"),
        ("_http._tcp.web.shop.svc.cluster.local", b"shop"),
        ("10-0-0-1.shop.pod.cluster.local", b"shop"),
        ("www.example.org.shop.svc.cluster.local", b"shop"),
        ("shop.svc.cluster.local", b"shop"),
        ("svc.cluster.local", b""),
        ("web.shop.svc.cluster.local.example.org", b""),
        ("web.shop.other.cluster.local", b""),
        (r"web.shop.x\003svc.cluster.local", b""),
        (".", b""),
    ],
)
def test_the_namespace_of_a_name(collector, qname, wanted):
    assert wanted == collector.namespace_of(name.parse(qname))


@pytest.mark.parametrize(
    "request_, wanted",
    [
        ({}, "abcd"),
        ({"rcode": "nxdomain"}, "b"),
        ({"rcode": "NXDOMAIN,SERVFAIL"}, "bc"),
        ({"namespace": "Shop"}, "ab"),
        ({"slow": "0.5"}, "c"),
        ({"name": "Example.ORG"}, "cd"),
        ({"client": "10.0.0."}, "ad"),
        ({"client": "10.1.0.0/16"}, "bc"),
        ({"client": "fe80::/10"}, ""),
        ({"client": "10.0.0.0/8", "rcode": "NOERROR", "name": "org"}, "d"),
    ],
)
def test_tail_selects(collector, request_, wanted):
    see(collector, "a.shop.svc.cluster.local", client=("10.0.0.1", 1))
    see(collector, "b.shop.svc.cluster.local", client=("10.1.0.1", 1), rcode=rr.NXDOMAIN)
    see(collector, "c.example.org", client=("10.1.0.2", 1), rcode=rr.SERVFAIL, seconds=1.5)
    see(collector, "d.example.org", client=("10.0.0.2", 1))
    found = collector.tail(0, 10, Selection.of(request_))
    assert wanted == "".join(query["name"][0] for query in found["queries"])


@pytest.mark.parametrize(
    "request_",
    [
        {"rcode": "NOSUCH"}, {"slow": "soon"}, {"slow": "nan"}, {"slow": "-1"},
        {"name": "a..b"}, {"client": "10.0.0.0/99"},
    ],
)  # fmt: skip
def test_a_selection_that_is_none_is_refused(request_):
    with pytest.raises(ValueError, match=r"."):
        Selection.of(request_)


def test_samples_are_taken_up(collector, clock):
    packet = (
        bytes((0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + name.parse("WEB.example.org") + (b"\0\1\0\1")
    )
    for path in (TABLE, RELAY):
        sampler = collector.sampler("dns://:53", "udp", path)
        sampler.add((16, packet, ("::1", 9, 0, 0)[:2], 2e-6, clock.seconds - 3, reply_of(3)))
    found = collector.tail(0, 10, Selection())
    assert [TABLE, RELAY] == [query["path"] for query in found["queries"]]
    assert {
        "at": 1e9 - 3, "client": "::1", "port": 9, "name": "web.example.org.", "type": "A",
        "class": "IN", "rcode": "NXDOMAIN", "size": 12, "seconds": 2e-6, "listener": "dns://:53",
        "transport": "udp", "path": TABLE, "stands_for": 16,
    } == {key: value for key, value in found["queries"][0].items() if key != "number"}  # fmt: skip
    assert 32 == summary(collector)["queries"]


def test_badvers_is_read_from_the_opt(collector):
    opt = b"\0\0\x29\x10\0\1\0\0\0\0\0"
    reply = bytes((0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 1)) + name.parse("a.org") + b"\0\1\0\1" + opt
    collector.see(name.parse("a.org"), 1, 1, reply, 0.1, CLIENT, ("x", "udp", CHAIN))
    assert {"BADVERS": 1} == summary(collector)["rcodes"]
