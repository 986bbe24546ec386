"""cache: what is kept, for how long and under which key, by a clock of the test's own."""

from __future__ import annotations

import math

import pytest
from cacheworld import (
    EXAMPLE,
    NXDOMAIN,
    ORG,
    OTHER,
    REPLY,
    SERVFAIL,
    WWW,
    World,
    a,
    ask,
    cname,
    positive,
    soa,
    ttls,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterdns.chain.plugin import DROP
from clusterdns.errors import ConfigError
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import AA, AD, CD, RA, RD, TC, Edns
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

# ---- time


def test_ttls_count_down_in_whole_seconds_and_end():
    world = World()
    assert [30] == ttls(world.get())
    for after_s, ttl, until_s in [(0, 30, 1), (0.5, 30, 0.5), (1.75, 29, 0.25), (29.5, 1, 0.5)]:
        world.time_s = 1000.25 + after_s
        found = world.get()
        assert [ttl] == ttls(found)
        assert math.isclose(until_s, found.lifetime_s)
    assert len(world.asked) == 1
    world.time_s = 1030.25
    assert [30] == ttls(world.get())
    assert len(world.asked) == 2


def test_keepttl_keeps_the_ttl_and_not_the_reply():
    world = World("cache 30 {\n keepttl\n}")
    world.get()
    world.time_s += 29.9
    assert [30] == ttls(world.get())
    world.time_s += 0.1
    world.get()
    assert len(world.asked) == 2


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 50)), max_size=30))
@settings(deadline=None, max_examples=60)
def test_nothing_outlives_its_ttl(steps):
    """Whatever is asked when: a reply is the newest one, and not older than it may be."""
    world = World()
    stored: dict[int, tuple[float, int, int]] = {}
    for i, (tenths, last, ttl) in enumerate(steps):
        world.time_s += tenths / 10
        asked = len(world.asked)
        owner = name.parse(f"n{last}.example.com.")
        world.says = positive(ttl, owner, i)
        found = world.get(ask(owner))
        begin, bounded, serial = stored.get(last, (0.0, 0, 0))
        if math.floor(world.time_s - begin) < bounded:
            assert (serial, asked) == (found.answer[0].rdata[3], len(world.asked))
            assert [bounded - math.floor(world.time_s - begin)] == ttls(found)
        else:
            assert (i, asked + 1) == (found.answer[0].rdata[3], len(world.asked))
            stored[last] = (world.time_s, min(30, max(5, ttl)), i)


# ---- what is kept


@pytest.mark.parametrize(
    ("says", "ttl", "kept_s"),
    [
        (positive(300), 30, 30),
        (positive(7), 7, 7),
        (positive(0), 5, 5),
        (REPLY._replace(answer=(cname(300), a(12, OTHER))), 12, 12),
        (REPLY._replace(answer=(a(20),), authority=(soa(9),), additional=(a(7, OTHER),)), 7, 7),
        (NXDOMAIN, 30, 30),
        (NXDOMAIN._replace(authority=(soa(6),)), 6, 6),
        (NXDOMAIN._replace(authority=(soa(3600, 7),)), 7, 7),  # RFC 2308 sections 3 and 5
        (NXDOMAIN._replace(authority=(soa(7, 3600),)), 7, 7),
        (NXDOMAIN._replace(authority=(soa(3600, 1),)), 5, 5),
        (NXDOMAIN._replace(authority=()), None, 0),
        (NXDOMAIN._replace(answer=(cname(),)), 5, 0),
        (REPLY._replace(authority=(soa(10),)), 10, 10),
        (REPLY._replace(authority=(soa(0),)), 5, 5),
        (REPLY._replace(authority=(soa(3600, 8),)), 8, 8),
        (REPLY._replace(answer=(cname(),), authority=(soa(3600, 8),)), 8, 8),
        (REPLY._replace(answer=(a(20),), authority=(soa(30, 8),)), 20, 20),
        (REPLY._replace(answer=(cname(),)), 30, 0),
        (REPLY._replace(answer=(cname(),), authority=(soa(10),)), 10, 10),
        (REPLY._replace(answer=(a(owner=OTHER),)), 30, 0),
        (REPLY._replace(answer=(cname(), cname(owner=OTHER, target=WWW))), 30, 0),
        (REPLY, None, 5),
        (REPLY._replace(additional=(a(9),)), 9, 9),  # as `whoami` answers
        (REPLY._replace(authority=(RR(EXAMPLE, rr.NS, 300, OTHER),)), 5, 5),
        (SERVFAIL, None, 5),
        (SERVFAIL._replace(authority=(soa(),)), 5, 5),
        (SERVFAIL._replace(answer=(a(),)), 5, 5),
        (REPLY._replace(rcode=rr.NOTIMP), None, 5),
        (REPLY._replace(rcode=rr.REFUSED), None, 0),
        (REPLY._replace(rcode=rr.FORMERR), None, 0),
        (positive()._replace(flags=RD | RA | TC), 30, 0),
        (failure(rr.SERVFAIL, "i/o timeout"), None, 0),
        (DROP, None, 0),
    ],
)
def test_what_is_kept_and_how_long(says, ttl, kept_s):
    world = World()
    world.says = says
    first = world.get()
    assert {ttl} == set(ttls(first)) or (ttl is None and not ttls(first))
    assert (says.rcode, says.flags, says.verbatim) == (first.rcode, first.flags, first.verbatim)
    if kept_s:
        world.time_s += kept_s - 0.1
        again = world.get()
        assert (says.rcode, says.flags & (AA | RA)) == (again.rcode, again.flags)
        assert not again.verbatim
        assert len(world.asked) == 1
        world.time_s += 0.1
    world.get()
    assert len(world.asked) == 2


def test_zone_transfers_and_notifies_are_not_kept():
    for query in (ask(qtype=rr.AXFR), ask(flags=message.OPCODE_NOTIFY << 11)):
        world = World()
        assert [300] == ttls(world.get(query))
        world.get(query)
        assert len(world.asked) == 2


UNANSWERED = failure(rr.SERVFAIL, "read udp: i/o timeout")._replace(unanswered=True)


def test_a_failure_for_want_of_a_reply_is_kept_twice_as_long_each_time():
    world = World("cache {\n servfail 5s\n}")
    world.says = UNANSWERED
    for asked, kept_s in enumerate((1, 2, 4, 5, 5), 1):
        assert (rr.SERVFAIL, UNANSWERED.error) == (
            world.get().rcode,
            world.get().error or UNANSWERED.error,
        )
        world.time_s += kept_s - 0.01
        assert (rr.SERVFAIL, "") == (world.get().rcode, world.get().error)
        assert asked == len(world.asked)
        world.time_s += 4.01  # an attempt takes its time
    world.time_s += 60
    world.get()
    world.time_s += 1
    world.says = positive()
    assert rr.NOERROR == world.get().rcode


@pytest.mark.parametrize("corefile", ["cache {\n servfail 0\n}", "cache {\n disable denial\n}"])
def test_a_failure_is_not_kept_where_it_may_not_be(corefile):
    world = World(corefile)
    world.says = UNANSWERED
    world.get()
    world.says = positive()
    assert rr.NOERROR == world.get().rcode


def test_a_failure_takes_the_place_of_no_denial_that_holds():
    world = World()
    world.says = NXDOMAIN
    world.get()
    world.cache._shelf.keep_failure(ask().question, world.cache._now())
    assert rr.NXDOMAIN == world.get().rcode


@pytest.mark.parametrize("said", [UNANSWERED, failure(rr.SERVFAIL)._replace(bare=False)])
def test_a_failure_that_has_ended_is_not_served_stale(said):
    world = World("cache {\n serve_stale 1h\n}")
    world.says = said
    assert rr.SERVFAIL == world.get().rcode
    world.time_s += 6
    world.says = positive()
    assert rr.NOERROR == world.get().rcode


def test_a_mistake_of_the_configuration_is_not_kept():
    world = World()
    world.says = failure(rr.SERVFAIL, "no next plugin found")
    world.get()
    world.says = positive()
    assert rr.NOERROR == world.get().rcode


def test_an_opt_does_not_pass():
    world = World()
    world.says = positive()._replace(edns=Edns(4096, 0, 0, b"\0\x0a\0\0"))
    assert [None, None] == [world.get().edns for _ in range(2)]


def test_the_bounds_of_success_and_denial_are_their_own():
    world = World("cache {\n success 5000 100 50\n denial 5000 20 10\n}")
    world.says = positive(7)
    assert [50] == ttls(world.get())
    world.says = NXDOMAIN
    assert [20] == ttls(world.get(ask(OTHER)))
    world = World("cache")
    world.says = positive(10**6)
    assert [3600] == ttls(world.get())
    world.says = NXDOMAIN._replace(authority=(soa(10**6),))
    assert [1800] == ttls(world.get(ask(OTHER)))


@pytest.mark.parametrize(
    ("option", "kept_s"), [("denial 5000 2", 2), ("denial 5000 60 20", 20), ("disable denial", 0),
                           ("success 5000 2", 5), ("disable success", 5)],
)  # fmt: skip
def test_an_empty_reply_is_a_denial(option, kept_s):
    """NODATA without SOA: 5 s within the bounds of `denial`."""
    world = World(f"cache {{\n {option}\n}}")
    world.says = REPLY
    world.get()
    world.time_s += max(0, kept_s - 0.1)
    world.get()
    assert (1 if kept_s else 2) == len(world.asked)
    world.time_s += 0.2
    world.get()
    assert (2 if kept_s else 3) == len(world.asked)


@pytest.mark.parametrize(("duration", "kept_s"), [("0", 0), ("2s", 2), ("900ms", 0), ("5m", 300)])
def test_servfail_is_kept_as_long_as_told(duration, kept_s):
    world = World(f"cache {{\n servfail {duration}\n}}")
    world.says = SERVFAIL
    world.get()
    world.time_s += max(0, kept_s - 0.1)
    world.get()
    assert (1 if kept_s else 2) == len(world.asked)


def test_servfail_gives_way_to_an_answer_and_nothing_else_does():
    world = World()
    world.get()
    for says, rcode in ((SERVFAIL, rr.NOERROR), (NXDOMAIN, rr.NXDOMAIN)):
        world.cache._shelf.take(
            ask().question, says, 0, world.cache._now()
        )  # as a query that was under way before
        assert rcode == world.get().rcode
    assert len(world.asked) == 1


def test_disabled_zones_are_not_kept_and_counted_as_misses():
    world = World("cache 30 {\n disable success example.com\n}")
    for _ in range(2):
        assert [30] == ttls(world.get())
    world.says = NXDOMAIN
    for _ in range(2):
        world.get(ask(OTHER))
    assert len(world.asked) == 3
    assert {("dns://:53", ".", ""): 3} == world.count("cache_misses_total")


def test_disable_without_zones_is_everywhere():
    world = World("cache 30 {\n disable denial\n}")
    world.says = NXDOMAIN
    for _ in range(2):
        world.get()
    assert len(world.asked) == 2


def test_names_outside_the_zones_pass_untouched():
    world = World("cache 30 example.org")
    for _ in range(2):
        assert world.get() == positive()
    assert [0, 0] == [query.flags & AD for query in world.asked]
    assert [] == world.cache.samples()


# ---- keys and flags


def test_what_makes_another_entry():
    world = World()
    queries = [
        ask(),
        ask(do=True),
        ask(flags=RD | CD),
        ask(flags=RD | CD, do=True),
        ask(qtype=rr.AAAA),
        ask(OTHER),
    ]
    for query in queries:
        world.says = NXDOMAIN if query.question.qtype == rr.AAAA else positive()
        world.says = positive(owner=OTHER) if query.question.qname == OTHER else world.says
        world.get(query)
    for query in queries:
        world.get(query)
    assert len(world.asked) == 6
    for same in (ask(flags=0), ask(flags=RD | AD), ask(name.parse("WWW.Example.Com."))):
        world.get(same)
    assert len(world.asked) == 6


def test_the_owner_is_spelled_as_the_question_is():
    world = World()
    world.get()
    found = world.get(ask(name.parse("wWw.eXample.com.")))
    assert [name.parse("wWw.eXample.com.")] == [record.owner for record in found.answer]


def test_the_upstream_is_asked_for_ad_and_the_query_stays():
    world = World()
    query = ask(flags=RD | CD)
    world.get(query)
    assert (RD | CD | AD, RD | CD) == (world.asked[0].flags, query.flags)
    assert query.client == world.asked[0].client


@pytest.mark.parametrize(
    ("query", "ad"), [(ask(), 0), (ask(flags=RD | AD), AD), (ask(do=True), AD)]
)
def test_ad_is_for_who_understands_it(query, ad):
    world = World()
    world.says = positive()._replace(flags=RD | RA | AD)
    assert ad == world.get(query).flags & AD
    hit = world.wait(query)
    assert (ad, 1) == (hit.flags & AD, len(world.asked))


# ---- what is known from memory


def test_what_memory_knows_is_bounded_and_never_kept():
    world = World()
    fact = ("service", "demo", "web")
    for ttl, expected in ((0, 5), (60, 30)):
        known = Response(answer=(a(ttl),), facts=(fact,))
        found = world.cache.answer(ask().question, lambda _question, known=known: known)
        assert found is not None
        assert [expected] == ttls(found)
        assert ((fact,), math.inf) == (found.facts, found.lifetime_s)
        assert ["cache_requests_total", "cache_misses_total"] == [c[0] for c in found.counters]
        world.says = known
        assert [expected] == ttls(world.get())
    assert len(world.asked) == 2
    assert {} == world.count("cache_entries")


def test_memory_that_fails_or_is_silent_is_passed_on():
    world = World()
    for known in (failure(rr.SERVFAIL, "not synced"), DROP):
        assert world.cache.answer(ask().question, lambda _question, known=known: known) is known
    assert world.cache.answer(ask().question, lambda _question: None) is None
    assert {} == world.count("cache_requests_total")


# ---- bounds and counts


def test_the_least_recently_used_makes_room():
    world = World("cache 30 {\n success 1\n}")  # 1024 is the least there is

    def get(i: int) -> bool:
        """Tell whether a reply about one name was kept."""
        asked = len(world.asked)
        owner = name.parse(f"n{i}.example.com.")
        world.says = positive(owner=owner)
        world.get(ask(owner))
        return asked == len(world.asked)

    assert not any(get(i) for i in range(1024))
    assert get(0)
    assert {} == world.count("cache_evictions_total")
    assert not get(1024)
    assert get(0)
    assert not get(1)
    labels = ("dns://:53", "success", ".", "")
    assert {labels: 2} == world.count("cache_evictions_total")
    none = (labels[0], "denial", *labels[2:])
    assert {labels: 1024, none: 0} == world.count("cache_entries")
    world.time_s += 30
    assert not get(0)  # takes the place it has
    assert {labels: 2} == world.count("cache_evictions_total")


def test_a_flood_of_names_that_do_not_exist_leaves_answers_alone():
    world = World("cache 30 {\n denial 1\n}")
    world.get()
    world.says = NXDOMAIN
    for i in range(3000):
        world.get(ask(name.parse(f"x{i}.example.com.")))
    assert len(world.asked) == 3001
    world.get()
    assert len(world.asked) == 3001
    assert {("dns://:53", "denial", ".", ""): 1976} == world.count("cache_evictions_total")


def test_counts():
    world = World("cache 30 example.com example.org")
    world.get()
    for _ in range(3):
        found = world.get()
    world.says = NXDOMAIN
    world.get(ask(ORG))
    world.get(ask(ORG))
    zones = "example.com.,example.org."
    assert {("dns://:53", zones, ""): 6} == world.count("cache_requests_total")
    assert {("dns://:53", zones, ""): 2} == world.count("cache_misses_total")
    assert {
        ("dns://:53", "success", zones, ""): 3,
        ("dns://:53", "denial", zones, ""): 1,
    } == world.count("cache_hits_total")
    assert found.counters == (
        ("cache_requests_total", ("dns://:53", zones, "")),
        ("cache_hits_total", ("dns://:53", "success", zones, "")),
    )


# ---- configuration


@pytest.mark.parametrize(
    "text",
    [
        "cache 0",
        "cache -1",
        "cache 30 a..b",
        "cache {\n success\n}",
        "cache {\n success many\n}",
        "cache {\n success 10 0\n}",
        "cache {\n denial 10 30 -1\n}",
        "cache {\n servfail\n}",
        "cache {\n servfail 301s\n}",
        "cache {\n servfail -1s\n}",
        "cache {\n disable\n}",
        "cache {\n disable everything\n}",
        "cache {\n keepttl 5\n}",
        "cache {\n prefetch\n}",
        "cache {\n prefetch -1\n}",
        "cache {\n prefetch 1 1m 9%\n}",
        "cache {\n prefetch 1 1m 91%\n}",
        "cache {\n prefetch 1 1m 10\n}",
        "cache {\n prefetch 1 1m 10% 4\n}",
        "cache {\n serve_stale -1s\n}",
        "cache {\n serve_stale verify\n}",
        "cache {\n serve_stale 1h at_once\n}",
        "cache {\n serve_stale 1h immediate 30s 30s 1s\n}",
        "cache {\n serve_stale 1h immediate 1500ms\n}",
        "cache {\n serve_stale 1h immediate -1s\n}",
        "cache {\n serve_stale 1h immediate 1s 6m\n}",
        "cache {\n serve_stale 1h verify -1s\n}",
        "cache {\n serve_stale 1h verify 1s 30s 6m\n}",
        "cache {\n serve_stale 1h verify 1s 30s 5m 1s\n}",
        "cache {\n serve_stale_policy prefer_positive\n}",
        "cache {\n serve_stale 1h\n serve_stale_policy none\n}",
        "cache {\n serve_stale\n serve_stale_policy prefer_positive\n"
        " serve_stale_policy prefer_positive\n}",
        "cache {\n serve_stale 1h immediate 4294967296s\n}",
        "cache {\n unknown\n}",
        "cache\ncache",
    ],
)
def test_mistakes_name_their_line(text):
    with pytest.raises(ConfigError, match=r"^Corefile:[2-5]: "):
        World(text)


@pytest.mark.parametrize(
    "option",
    [
        "prefetch 0",
        "prefetch 2 1m 20%",
        "serve_stale",
        "serve_stale 0",
        "serve_stale 1h Immediate 30s 5m",
        "serve_stale 1h verify 500ms 30s 5m",
        "serve_stale\n serve_stale_policy Prefer_Positive",
    ],
)
def test_what_is_taken(option):
    assert [30] == ttls(World(f"cache 30 {{\n {option}\n}}").get())
