"""tally and ledger: what is counted comes out once, whatever happens to slots and processes."""

from __future__ import annotations

from clusterdns.chain import registry
from clusterdns.metrics.family import Family
from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.ledger import Ledger, add_up
from clusterdns.metrics.tally import DROPPED, MAX_SINGLES, Profile, Tally

WEB = Profile("cluster.local.", "", "A", "NOERROR", "errors", False, 44, 90)
GONE = WEB._replace(rcode="NXDOMAIN", do=True)
LABELS = ("dns://:53", "cluster.local.", "")


def values(samples):
    return {(name, labels): value for name, labels, value in samples}


def test_hits_become_samples():
    tally = Tally("dns://:53")
    udp, tcp = tally.transport("udp", "1"), tally.transport("tcp", "2")
    slot = tally.slot(WEB)
    udp[slot] += 2
    udp[slot + 1] += 1
    tcp[tally.slot(GONE)] += 1
    found = values(tally.samples())
    assert found["dns_requests_total", (*LABELS, "udp", "1", "A")] == 3
    assert found["dns_requests_total", (*LABELS, "tcp", "2", "A")] == 1
    assert found["dns_responses_total", (*LABELS, "NXDOMAIN", "errors")] == 1
    assert found["dns_do_requests_total", LABELS] == 1
    assert found["dns_request_size_bytes", (*LABELS, "udp")][-1] == 44 + 44 + 55
    assert found["dns_response_size_bytes", (*LABELS, "udp")][-1] == 270


def test_slots_given_back_lose_no_count():
    tally = Tally("dns://:53")
    hits = tally.transport("udp", "1")
    hits[tally.slot(WEB)] += 5
    tally.restart()
    hits[tally.slot(GONE)] += 1
    found = values(tally.samples())
    assert found["dns_requests_total", (*LABELS, "udp", "1", "A")] == 6


def test_what_is_said_once_takes_no_slot_and_loses_no_count():
    """Replies of any size, as upstream servers send them, are added up now and then."""
    tally = Tally("dns://:53")
    hits = tally.transport("udp", "1")
    for i in range(3 * MAX_SINGLES):
        tally.once(WEB._replace(size=i), hits, has_opt=i % 2 == 1)
        assert len(tally._singles) < MAX_SINGLES
    tally.once(GONE, tally.transport("tcp", "2"), has_opt=False)
    tally.restart()
    found = values(tally.samples())
    assert hits == []
    assert found["dns_requests_total", (*LABELS, "udp", "1", "A")] == 3 * MAX_SINGLES
    assert found["dns_requests_total", (*LABELS, "tcp", "2", "A")] == 1
    octets = sum(range(3 * MAX_SINGLES)) + 11 * 3 * MAX_SINGLES // 2
    assert found["dns_request_size_bytes", (*LABELS, "udp")][-1] == octets


def test_samples_are_counts_and_not_differences():
    tally = Tally("dns://:53")
    hits = tally.transport("udp", "1")
    hits[tally.slot(WEB)] += 5
    tally.samples()
    assert values(tally.samples())["dns_requests_total", (*LABELS, "udp", "1", "A")] == 5


def test_every_query_has_a_duration():
    tally = Tally("dns://:53")
    hits = tally.transport("udp", "1")
    hits[tally.slot(WEB)] += 64
    hits[tally.slot(WEB._replace(zone=DROPPED))] += 36
    tally.batches.observe(0.00001, 60)
    tally.batches.observe(0.001, 40)
    hits[tally.slot(GONE)] += 1
    tally.waited("cluster.local.", "", 0.3)
    found = values(tally.samples())
    known = found["dns_request_duration_seconds", LABELS]
    dropped = found["dns_request_duration_seconds", ("dns://:53", DROPPED, "")]
    assert [sum(known[:-1]), sum(dropped[:-1])] == [65, 36]
    assert len(known) == len(TIME_S) + 2
    assert abs(known[-1] + dropped[-1] - (60 * 0.00001 + 40 * 0.001 + 0.3)) < 1e-9


def test_an_unmeasured_block_counts_for_its_plugins_only():
    tally = Tally("dns://:53")
    hits = tally.transport("udp", "1")
    counters = (("cache_hits_total", ("dns://:53", "success", ".", "")),)
    hits[tally.slot(Profile("", "", "", "", "", False, 0, 0, counters))] += 3
    assert tally.samples() == [(*counters[0], 3)]


def test_ledger_keeps_counts_of_the_dead_but_not_their_state():
    families = {
        "cache_entries": Family("", ("kind",), is_gauge=True),
        "clusterdns_forwarding_loop": registry.load("loop").families["clusterdns_forwarding_loop"],
    }
    ledger = Ledger(families)
    ledger.close([("panics_total", (), 2), ("cache_entries", ("a",), 7), ("h", (), (1, 0, 0.5))])
    ledger.close([("panics_total", (), 1), ("clusterdns_forwarding_loop", ("s",), 1)])
    living = [("panics_total", (), 10), ("cache_entries", ("a",), 1), ("h", (), (0, 2, 1.5))]
    assert values(ledger.total(living)) == {
        ("panics_total", ()): 13,
        ("cache_entries", ("a",)): 1,
        ("h", ()): (1, 2, 2.0),
    }
    assert add_up([], families) == []
