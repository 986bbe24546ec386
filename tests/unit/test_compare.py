"""The comparison itself: it finds what differs, and allows what it says it allows, no more."""

from __future__ import annotations

import compare
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from compare import Rules, difference
from fakeapi import FakeApi, event_of

QNAME = "Web.demo.svc.cluster.local."
QUERY = dns.message.make_query(QNAME, "A", id=7).to_wire()
SOA = "ns.dns.cluster.local. hostmaster.cluster.local. {} 7200 1800 86400 5"


def reply(*records, rcode=0, flags=dns.flags.AA, section="answer", ident=7, qname=QNAME, opt=None):
    """Return a reply in wire form; records are (owner, TTL, type, RDATA)."""
    message = dns.message.make_query(qname, "A", id=ident)
    message.flags |= dns.flags.QR | flags
    message.set_rcode(rcode)
    if opt is not None:
        message.use_edns(0, payload=opt)
    for owner, ttl, rtype, rdata in records:
        rrset = dns.rrset.from_text(owner, ttl, "IN", rtype, rdata)
        getattr(message, section).append(rrset)
    return message.to_wire(max_size=65535)


def address(i, *, ttl=5, owner=QNAME):
    return (owner, ttl, "A", f"10.0.0.{i}")


ONE, TWO = address(1), address(2)
DIFFERENT = {
    "rcode": (reply(), reply(rcode=3)),
    "flags": (reply(ONE), reply(ONE, flags=0)),
    "ID": (reply(ONE), reply(ONE, ident=8)),
    "letter case of the question": (reply(ONE), reply(ONE, qname=QNAME.lower())),
    "letter case of the owner": (reply(address(1, owner="a.b.")), reply(address(1, owner="A.b."))),
    "TTL": (reply(ONE), reply(address(1, ttl=4))),
    "RDATA": (reply(ONE), reply(TWO)),
    "one more": (reply(ONE), reply(ONE, TWO)),
    "order": (reply(ONE, TWO), reply(TWO, ONE)),
    "section": (reply(ONE), reply(ONE, section="additional")),
    "OPT": (reply(ONE, opt=1232), reply(ONE)),
    "OPT size": (reply(ONE, opt=1232), reply(ONE, opt=4096)),
    "silence": (reply(ONE), None),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_no_rule_allows_is_found(what):
    theirs, ours = DIFFERENT[what]
    assert difference(QUERY, theirs, theirs, Rules()) == ""
    assert difference(QUERY, theirs, ours, Rules()) != ""
    assert difference(QUERY, ours, theirs, Rules()) != ""


def test_both_silent_agree():
    assert difference(QUERY, None, None, Rules()) == ""


def test_the_serial_is_each_servers_own():
    theirs, ours = (
        reply(("cluster.local.", 5, "SOA", SOA.format(n)), rcode=3, section="authority")
        for n in (1, 2)
    )
    assert difference(QUERY, theirs, ours, Rules()) == ""


def test_order_counts_where_it_is_specified():
    theirs, ours = reply(ONE, TWO), reply(TWO, ONE)
    assert difference(QUERY, theirs, ours, Rules(is_ordered=False)) == ""
    assert difference(QUERY, reply(ONE, (*ONE[:3], "10.0.0.9")), ours, Rules(is_ordered=False))


@pytest.mark.parametrize(("ttl", "is_allowed"), [(5, True), (2, True), (1, False), (6, False)])
def test_a_cached_ttl_is_as_old_as_the_test_at_most(ttl, is_allowed):
    theirs, ours = reply(address(1, ttl=ttl)), reply(address(1, ttl=5))
    assert is_allowed == (difference(QUERY, theirs, ours, Rules(age_s=2.0)) == "")


def test_hits_and_misses_differ_for_names_outside_only():
    theirs, ours = reply(address(1, ttl=30)), reply(address(1, ttl=20), flags=0)
    assert difference(QUERY, theirs, ours, Rules(age_s=2.0, is_outside=True)) == ""
    assert difference(QUERY, theirs, ours, Rules(age_s=20.0)) != ""
    assert difference(QUERY, theirs, ours, Rules(is_outside=True)) != ""


def test_a_truncated_reply_is_a_part_of_the_whole_and_as_long_as_theirs():
    tc = dns.flags.AA | dns.flags.TC
    whole = compare.parse(reply(ONE, TWO, address(3)))
    rules = Rules(is_ordered=False, whole=whole)
    theirs = reply(ONE, TWO, flags=tc)
    assert difference(QUERY, theirs, reply(address(3), ONE, flags=tc), rules) == ""
    assert difference(QUERY, theirs, reply(ONE, flags=tc), rules) != ""
    assert difference(QUERY, theirs, reply(ONE, address(4), flags=tc), rules) != ""
    assert difference(QUERY, theirs, reply(ONE, address(3, ttl=9), flags=tc), rules) != ""
    assert difference(QUERY, theirs, reply(ONE, address(3)), rules) != ""


def manifest(team):
    return {"kind": "Namespace", "metadata": {"name": "demo", "labels": {"team": team}}}


def test_a_watch_hears_of_what_enters_and_leaves_its_selection():
    a, b = manifest("a"), manifest("b")
    query = {"labelSelector": "team=a"}
    events = [event_of(*pair, 9, query) for pair in ((None, a), (a, a), (a, b), (b, a), (a, None))]
    expected = ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
    assert expected == [event and event["type"] for event in events]
    assert [event_of(*pair, 9, query) for pair in ((None, b), (b, b), (b, None))] == [None] * 3


def test_the_fake_api_keeps_what_is_applied():
    with FakeApi([manifest("a")]) as api:
        api.apply(manifest("b"))
        (kept,) = api.select("namespaces", {"labelSelector": "team=b"})
        assert kept["metadata"]["name"] == "demo"
        api.delete("Namespace", "demo")
        assert api.select("namespaces", {}) == []
