"""cache: what is refreshed before it ends (`prefetch`) and used after it has (`serve_stale`).

First by a clock of the test's own, then through the real binary. That all options together do what
CoreDNS does is shown beside it, in test_cache_differential.py.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time

import dns.edns
import dns.flags
import dns.message
import peers
import pytest
from cacheworld import NXDOMAIN, OTHER, SERVFAIL, World, a, ask, positive, soa, ttls
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

from clusterdns.caching.kept import key_of
from clusterdns.plugins import cache
from clusterdns.wire import name, rr
from clusterdns.wire.message import AD, CD, RA, RD
from clusterdns.wire.response import Response, failure

TIMEOUT = failure(rr.SERVFAIL, "i/o timeout")
LABELS = ("dns://:53", ".", "")


def last(response: Response) -> int:
    """Return which address a reply has."""
    return response.answer[0].rdata[3]


def world_with(*options: str) -> World:
    lines = "\n ".join(options)
    return World(f"cache 30 {{\n {lines}\n}}")


# ---- prefetch


def test_what_is_in_use_never_ends():
    world = world_with("prefetch 2 1m 20%")  # with six seconds of thirty left
    assert 1 == last(world.get())
    for i in range(40):
        world.time_s += 5
        world.says = positive(last=i + 2)
        found = world.get()
        assert RA == found.flags
        assert 0 < ttls(found)[0] <= 30
        world.settle()
    misses = world.count("cache_misses_total")[LABELS]
    assert 1 == misses
    assert len(world.asked) - misses == world.count("cache_prefetch_total")[LABELS]
    assert 8 == world.count("cache_prefetch_total")[LABELS]  # 200 s: one each 25 s


def test_a_refresh_looks_like_a_client_over_tcp():
    world = world_with("prefetch 1 1m 90%")
    query = ask(flags=RD | CD, do=True)
    world.get(query)
    world.time_s += 3
    world.get(query)
    world.settle()
    first, refresh = world.asked
    assert ("udp", "tcp") == (first.transport, refresh.transport)
    assert RD | CD | AD == refresh.flags
    assert (query.question, query.edns) == (refresh.question, refresh.edns)
    assert (RD | CD, "udp") == (query.flags, query.transport)


def test_the_client_does_not_wait_and_one_refresh_is_enough():
    world = world_with("prefetch 1 1m 50%")
    world.get()
    world.later = asyncio.Event().wait
    world.time_s += 20
    for _ in range(5):
        assert [10] == ttls(world.get())
        world.settle()
    assert len(world.asked) == 2
    assert 1 == world.count("cache_prefetch_total")[LABELS]
    world.runner.run(world.cache.stop())
    assert {} == world.cache._refreshes


@pytest.mark.parametrize(("amount", "asked"), [(0, 1), (1, 2), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_it_takes_so_many_sights(amount, asked):
    world = world_with(f"prefetch {amount} 10s 50%")
    world.get()
    for after_s in (1, 2, 20):  # the window has passed between the last two
        world.time_s = 1000.25 + after_s
        found = world.get()
        if after_s < 20:
            is_counting = 0 < after_s < amount
            assert (found.lifetime_s == 0) == is_counting
    world.settle()
    assert (2 if amount == 1 else 1) == len(world.asked)
    world = world_with(f"prefetch {amount} 10s 50%")
    world.get()
    for after_s in (1, 8, 16):
        world.time_s = 1000.25 + after_s
        world.get()
    world.settle()
    assert asked == len(world.asked)


def test_the_table_may_answer_a_second_long_between_two_sights():
    """One sight a second stands for all: a window shorter than that is not missed."""
    world = world_with("prefetch 3 500ms 90%")
    world.get()
    for _ in range(3):
        world.time_s += 0.4
        found = world.get()
    assert found.lifetime_s > 0
    world.time_s += found.lifetime_s + 0.4
    found = world.get()
    assert 4 == world.cache._shelf.kept["success"].get(key_of(ask().question)).sights


@pytest.mark.parametrize("says", [TIMEOUT, SERVFAIL, positive()._replace(rcode=rr.REFUSED)])
def test_a_refresh_that_fails_leaves_what_there_is(says):
    world = world_with("prefetch 1 1m 50%")
    world.get()
    world.says = says
    for left in (15, 8, 1):
        world.time_s = 1000.25 + 30 - left
        assert [left] == ttls(world.get())
        world.settle()
    assert len(world.asked) == 4
    world.time_s += 1
    assert says.rcode == world.get().rcode


def test_a_refresh_that_denies_counts():
    world = world_with("prefetch 1 1m 50%")
    world.get()
    world.says = NXDOMAIN
    world.time_s += 20
    assert rr.NOERROR == world.get().rcode
    world.settle()
    assert rr.NXDOMAIN == world.get().rcode
    world.says = positive(last=7)
    world.time_s += 20
    assert rr.NXDOMAIN == world.get().rcode
    world.settle()
    assert (7, 3) == (last(world.get()), len(world.asked))


def test_a_young_reply_is_not_refreshed():
    """Else a percentage near 100 would ask the upstream server as often as clients ask us."""
    world = world_with("prefetch 1 1m 90%", "success 2000 5")
    world.get()
    for _ in range(40):  # over 8 s
        world.time_s += 0.2
        world.get()
        world.settle()
    assert len(world.asked) == 1 + 8


def test_a_query_waits_for_the_refresh_under_way():
    """When what was to be refreshed ends meanwhile: one query to the upstream server, not two."""
    world = world_with("prefetch 1 1m 50%")
    world.get()
    gate = asyncio.Event()
    world.later = gate.wait
    world.time_s += 20
    world.get()
    world.settle()
    world.time_s += 20
    world.says = positive(last=2)

    async def both() -> Response:
        waiting = asyncio.ensure_future(world.cache.handle(ask(), world.next))
        await asyncio.sleep(0.01)
        gate.set()
        return await waiting

    found = world.runner.run(both())
    assert (2, 2) == (last(found), len(world.asked))
    assert RA == found.flags


def test_a_query_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.01)
    world = world_with("prefetch 1 1m 50%")
    world.get()
    world.later = asyncio.Event().wait
    world.time_s += 20
    world.get()
    world.settle()
    world.time_s += 20
    world.later, world.says = None, positive(last=2)
    assert (2, 3) == (last(world.get()), len(world.asked))
    world.runner.run(world.cache.stop())


def test_refreshes_are_bounded(monkeypatch):
    monkeypatch.setattr(cache, "MAX_REFRESHES", 3)
    world = world_with("prefetch 1 1m 50%")
    owners = [name.parse(f"n{i}.example.com.") for i in range(10)]
    for owner in owners:
        world.says = positive(owner=owner)
        world.get(ask(owner))
    world.later = asyncio.Event().wait
    world.time_s += 20
    for owner in owners:
        assert [10] == ttls(world.get(ask(owner)))
    world.settle()
    assert len(world.asked) == 13
    world.runner.run(world.cache.stop())


def test_a_bug_behind_is_logged_and_over(caplog):
    world = world_with("prefetch 1 1m 50%")
    world.get()

    async def fail() -> None:
        raise RuntimeError("a bug")

    world.later = fail
    world.time_s += 20
    for _ in range(2):
        assert [10] == ttls(world.get())
        world.settle()
    assert 2 == caplog.text.count("refresh of www.example.com. failed: RuntimeError('a bug')")
    assert {} == world.cache._refreshes


# ---- serve_stale, immediate


def test_what_has_ended_is_served_while_it_is_refreshed():
    world = world_with("serve_stale")
    world.get()
    world.time_s += 30
    world.says = positive(last=2)
    found = world.get()
    assert (1, [0], RA, 0) == (last(found), ttls(found), found.flags, found.lifetime_s)
    world.settle()
    assert "tcp" == world.asked[1].transport
    found = world.get()
    assert (2, [30]) == (last(found), ttls(found))
    assert 2 == len(world.asked)
    for metric, times in [("served_stale", 1), ("prefetch", 1), ("misses", 1), ("requests", 3)]:
        assert {LABELS: times} == world.count(f"cache_{metric}_total")


@pytest.mark.parametrize(
    ("options", "age_s", "ttl"),
    [
        ("serve_stale 10s", 39.9, 0),
        ("serve_stale 10s", 40, None),
        ("serve_stale 1500ms", 30.9, 0),  # whole seconds
        ("serve_stale 1500ms", 31, None),
        ("serve_stale 0", 30, None),
        ("serve_stale 1h", 3629, 0),
        ("serve_stale 1h", 3630, None),
        ("serve_stale 1h immediate 7s", 31, 7),
        ("serve_stale 1h immediate 7s\n keepttl", 31, 7),
        ("serve_stale 1h\n keepttl", 31, 30),
    ],
)
def test_how_long_and_with_which_ttl(options, age_s, ttl):
    world = world_with(options)
    world.get()
    world.time_s += age_s
    world.says = positive(last=2)
    found = world.get()
    assert ((2, [30]) if ttl is None else (1, [ttl])) == (last(found), ttls(found))
    world.settle()


@pytest.mark.parametrize("says", [TIMEOUT, SERVFAIL, positive()._replace(rcode=rr.REFUSED)])
def test_no_failure_takes_the_place_of_a_stale_answer(says):
    world = world_with("serve_stale")
    world.get()
    world.says = says
    for i in range(10):
        world.time_s += 30
        found = world.get()
        assert (1, [0]) == (last(found), ttls(found))
        world.settle()
        assert i + 2 == len(world.asked)
    world.says = positive(last=2)
    world.get()
    world.settle()
    assert (2, [30]) == (last(world.get()), ttls(world.get()))


def test_what_is_gone_is_gone():
    world = world_with("serve_stale", "disable denial")
    world.get()
    world.time_s += 30
    world.says = NXDOMAIN
    world.get()
    world.settle()
    assert rr.NXDOMAIN == world.get().rcode


def test_a_refresh_that_failed_is_not_tried_again_at_once():
    world = world_with("serve_stale 1h immediate 0s 10s")
    world.get()
    world.says = SERVFAIL
    world.time_s += 30
    for after_s, asked in [(0, 2), (1, 2), (8.9, 2), (0.1, 3), (9.9, 3), (0.2, 4)]:
        world.time_s += after_s
        assert [0] == ttls(world.get())
        world.settle()
        assert asked == len(world.asked)
    world.time_s += 10
    world.says = positive(last=2)
    world.get()
    world.settle()
    world.time_s += 30
    world.get()
    world.settle()
    assert len(world.asked) == 6


@pytest.mark.parametrize(("says", "info"), [(positive(), 3), (NXDOMAIN, 19)])
def test_a_client_is_told_that_it_is_stale(says, info):
    world = world_with("serve_stale 1h verify")
    world.says = says
    assert world.get().edns is None
    assert world.get().edns is None
    world.time_s += 30
    world.says = TIMEOUT
    found = world.get().edns
    assert found is not None
    assert struct.pack("!HHH", 15, 2, info) == found.options


def test_what_memory_knows_is_never_stale():
    """A name that the cluster has come to know is answered by the cluster, whatever was kept."""
    world = world_with("serve_stale")
    world.get()
    known = Response(answer=(a(5, last=9),), facts=(("service", "demo", "web"),))
    for after_s in (0, 40):
        world.time_s += after_s
        found = world.cache.answer(ask().question, lambda _question: known)
        assert found is not None
        assert (9, [5], math.inf) == (last(found), ttls(found), found.lifetime_s)
    world.says = known
    world.time_s += 4000
    world.get()
    world.time_s += 40
    world.get()
    assert len(world.asked) == 3  # never kept


# ---- serve_stale, verify


def test_what_is_verified_is_served_as_the_upstream_says_it():
    world = world_with("serve_stale 1h verify")
    world.get()
    world.time_s += 30
    world.says = positive(last=2)
    found = world.get()
    assert (2, [30], RD | RA) == (last(found), ttls(found), found.flags)
    assert ("udp", RD | AD) == (world.asked[1].transport, world.asked[1].flags)
    assert (2, RA) == (last(world.get()), world.get().flags)
    assert {} == world.count("cache_served_stale_total") == world.count("cache_prefetch_total")


@pytest.mark.parametrize("says", [TIMEOUT, SERVFAIL, positive()._replace(rcode=rr.REFUSED)])
def test_what_cannot_be_verified_is_served_stale(says):
    world = world_with("serve_stale 1h verify 0s 9s")
    world.get()
    world.says = says
    for i in range(3):
        world.time_s += 30
        found = world.get()
        assert (1, [9], i + 2) == (last(found), ttls(found), len(world.asked))
    assert {LABELS: 3} == world.count("cache_served_stale_total")
    world.says = NXDOMAIN
    assert rr.NXDOMAIN == world.get().rcode


def test_a_verification_that_takes_too_long_goes_on():
    world = world_with("serve_stale 1h verify 20ms")
    world.get()
    gate = asyncio.Event()
    world.later, world.says = gate.wait, positive(last=2)
    world.time_s += 30
    for _ in range(3):  # they share one refresh
        assert [0] == ttls(world.get())
        assert len(world.asked) == 2
    gate.set()
    world.settle()
    assert (2, [30]) == (last(world.get()), ttls(world.get()))
    world.time_s += 30
    world.says = positive(last=3)
    found = world.get()
    assert (3, [30], RA) == (last(found), ttls(found), found.flags)  # as from the cache
    assert len(world.asked) == 3


def test_one_refresh_does_for_many_clients():
    world = world_with("serve_stale 1h verify")
    world.get()
    world.time_s += 30
    world.says = positive(last=2)

    async def pause() -> None:
        await asyncio.sleep(0.01)

    async def many() -> list[Response]:
        return await asyncio.gather(*(world.cache.handle(ask(), world.next) for _ in range(50)))

    world.later = pause
    found = world.runner.run(many())
    assert {(2, 30)} == {(last(response), ttls(response)[0]) for response in found}
    assert len(world.asked) == 2


def test_with_a_pause_after_failures_others_are_served_at_once():
    world = world_with("serve_stale 1h verify 0s 0s 10s")
    world.get()
    world.time_s += 30
    world.says = SERVFAIL
    for after_s, asked in [(0, 2), (0, 2), (9.9, 2), (0.1, 3)]:
        world.time_s += after_s
        assert [0] == ttls(world.get())
        assert asked == len(world.asked)


def test_the_client_that_goes_away_takes_no_refresh_with_it():
    world = world_with("serve_stale 1h verify")
    world.get()
    world.time_s += 30
    gate = asyncio.Event()
    world.later, world.says = gate.wait, positive(last=2)

    async def leave() -> None:
        waiting = asyncio.ensure_future(world.cache.handle(ask(), world.next))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait((waiting,))

    world.runner.run(leave())
    gate.set()
    world.settle()
    assert (2, 2) == (last(world.get()), len(world.asked))


# ---- serve_stale_policy prefer_positive


@pytest.mark.parametrize("mode", ["immediate", "verify"])
@pytest.mark.parametrize(
    "says", [NXDOMAIN, SERVFAIL, TIMEOUT, NXDOMAIN._replace(rcode=0, authority=(soa(6),))]
)
def test_no_denial_takes_the_place_of_an_answer(mode, says):
    world = world_with(f"serve_stale 1h {mode}", "serve_stale_policy prefer_positive")
    world.get()
    world.says = says
    for _ in range(5):
        world.time_s += 30
        assert (1, [0]) == (last(world.get()), ttls(world.get()))
        world.settle()
    world.says = positive(last=2)
    world.get()
    world.settle()
    assert (2, [30]) == (last(world.get()), ttls(world.get()))
    world.time_s += 3630
    world.says = NXDOMAIN
    assert rr.NXDOMAIN == world.get().rcode


def test_the_last_answer_is_held_when_a_reply_without_one_takes_its_key():
    """A referral is kept as success: the answer it takes the place of is still preferred."""
    world = world_with("serve_stale 1h", "serve_stale_policy prefer_positive")
    world.get()
    world.time_s += 30
    world.says = positive()._replace(answer=(), authority=(a(60, OTHER)._replace(rtype=rr.NS),))
    for _ in range(3):
        found = world.get()
        assert (1, [0]) == (last(found), ttls(found))
        world.settle()
        world.time_s += 3
    kept = world.cache._shelf.kept["success"]
    assert kept.get(key_of(ask().question)).good is not None


# ---- through the real binary

A = 1
DELAY_S = 0.4


class SlowUpstream(ScriptedUpstream):
    """Takes its time over TCP, which is how a refresh comes."""

    def answer(self, wire: bytes, *, is_udp: bool) -> bytes | None:
        if not is_udp:
            time.sleep(DELAY_S)
        return super().answer(wire, is_udp=is_udp)


def said(address: str, ttl: int = 300) -> list[Scripted]:
    return [Scripted("www.example.com.", "answer", ttl=ttl, rtype=A, rdata=address)]


@pytest.fixture
def upstream():
    made = SlowUpstream(said("192.0.2.1"))
    yield made
    made.stop()


def block(upstream: ScriptedUpstream, *options: str, key: str = ".") -> str:
    lines = "\n ".join(options)
    return (
        f"{key} {{\n cache 2 {{\n success 2000 2 1\n denial 2000 2 1\n {lines}\n }}\n"
        f" forward . {upstream.address} {{\n max_fails 0\n read_timeout 200ms\n }}\n}}\n"
    )


def send(server: peers.Server, port: int = 0, **options) -> dns.message.Message:
    query = dns.message.make_query("www.example.com.", "A", **options).to_wire()
    wire = peers.ask_udp((server.host, port or server.port), query, 5)
    assert wire is not None
    return dns.message.from_wire(wire)


def test_a_name_in_use_never_makes_a_client_wait(upstream, tmp_path):
    text = block(upstream, "prefetch 2 1m 50%")
    text = text.replace("read_timeout 200ms", "read_timeout 2s")
    with peers.clusterdns(text, tmp_path) as server:
        send(server)
        began, slowest, seen = time.monotonic(), 0.0, set()
        while time.monotonic() < began + 5:
            before = time.monotonic()
            reply = send(server)
            slowest = max(slowest, time.monotonic() - before)
            seen.add(reply.answer[0].ttl)
            time.sleep(0.005)
        assert slowest < DELAY_S / 2
        assert {1, 2} == seen
        assert 3 <= upstream.asked("www.example.com.", A) <= 1 + 5 * 1.2


def test_an_outage_is_not_seen(upstream, tmp_path):
    text = block(upstream, "serve_stale 1h verify 100ms 30s 1s")
    with peers.clusterdns(text, tmp_path) as server:
        send(server)
        upstream.entries["www.example.com."] = [Scripted("www.example.com.", "timeout")]
        time.sleep(2.1)
        for edns in (-1, 0):
            reply = send(server, use_edns=edns)
            assert ["192.0.2.1"] == [rdata.address for rdata in reply.answer[0]]
            assert 30 == reply.answer[0].ttl
            told = [option.code for option in reply.options if option.otype == dns.edns.EDE]
            assert ([3] if edns == 0 else []) == told
        upstream.entries["www.example.com."] = said("192.0.2.2")
        deadline = time.monotonic() + 3
        while send(server).answer[0][0].address != "192.0.2.2":
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_flood_of_names_leaves_what_is_in_use(upstream, tmp_path):
    """Each name of the flood exists, so they are kept as success too."""
    text = block(upstream).replace("2000 2 1", "1024 3600")
    with peers.clusterdns(text, tmp_path) as server:
        for i in range(3000):
            qname = f"n{i}.example.com."
            upstream.entries[qname] = [Scripted(qname, "answer", 300, 1, A, "192.0.2.9")]
        for _ in range(5):
            send(server)
        query = dns.message.make_query("n.example.com.", "A")
        for i in range(3000):
            query.question[0].name = dns.name.from_text(f"n{i}.example.com.")
            assert peers.ask_udp(server.address, query.to_wire(), 5) is not None
        assert not send(server).flags & dns.flags.AA
        assert 1 == upstream.asked("www.example.com.", A)


def test_each_block_has_a_cache_of_its_own(upstream, tmp_path):
    other = ScriptedUpstream(said("192.0.2.7"))
    port = peers.free_port()
    text = block(upstream) + block(other, key=f".:{port}")
    try:
        with peers.clusterdns(text, tmp_path) as server:
            for _ in range(3):
                assert "192.0.2.1" == send(server).answer[0][0].address
                assert "192.0.2.7" == send(server, port).answer[0][0].address
            assert [1, 1] == [each.asked("www.example.com.", A) for each in (upstream, other)]
    finally:
        other.stop()
