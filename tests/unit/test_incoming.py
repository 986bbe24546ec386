"""Messages of an AXFR: what is taken for a zone, what is not, and the bounds."""

from __future__ import annotations

import dns.message
import dns.rrset
import pytest

from clusterdns.authority import incoming
from clusterdns.authority.incoming import Incoming, TransferError, is_newer, serial_of
from clusterdns.wire import name, rr

APEX = name.fold(name.parse("example.test."))
SOA = "example.test. 60 IN SOA ns. h. 7 2 3 4 5"
WWW = "www.example.test. 60 IN A 192.0.2.1"
MX = "example.test. 60 IN MX 5 www.example.test."


def message(*records: str, ident: int = 1, qtype: str = "AXFR", rcode: int = 0) -> bytes:
    """Return a message with these records; each stays one of its own."""
    made = dns.message.make_response(dns.message.make_query("example.test.", qtype, id=ident))
    made.set_rcode(rcode)
    made.answer = [dns.rrset.from_text(*text.split(maxsplit=4)) for text in records]
    return made.to_wire(max_size=65535)


def taken(*messages: bytes) -> bool:
    inbound = Incoming(APEX, 1)
    done = False
    for each in messages:
        done = inbound.take(each)
    return done


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_zone_is_the_same_however_its_records_are_spread_over_messages(cut):
    records = (SOA, WWW, MX, SOA)
    inbound = Incoming(APEX, 1)
    assert not inbound.take(message(*records[:cut]))
    assert inbound.take(message(*records[cut:]))
    zone = inbound.zone(lambda _: None)
    assert [rr.SOA, rr.A, rr.MX, rr.SOA] == [record.rtype for record in zone.records()]
    assert 7 == zone.serial


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([message(WWW, SOA)], "does not begin with the SOA"),
        ([message(SOA), message()], "without records"),
        ([message(SOA, WWW, SOA, WWW)], "behind the last SOA"),
        ([message(SOA, SOA.replace(" 7 ", " 8 "))], "changed on the way"),
        ([message(SOA, "sub." + SOA)], "an SOA of sub.example.test."),
        ([message(SOA, WWW.replace(" IN A 192.0.2.1", " CH TXT x"))], "class CH"),
        ([message(SOA, ident=2)], "no reply to ours"),
        ([message(SOA, qtype="A")], "another question"),
        ([message(rcode=5)], "REFUSED"),
        ([dns.message.make_query("example.test.", "AXFR", id=1).to_wire()], "no reply to ours"),
        ([message(SOA)[:-3]], "malformed"),
        ([b""], "malformed"),
    ],
)
def test_what_is_no_transfer_of_this_zone_is_refused(messages, said):
    with pytest.raises(TransferError, match=said):
        taken(*messages)


def test_records_and_octets_are_bounded(monkeypatch):
    monkeypatch.setattr(incoming, "MAX_RECORDS", 3)
    assert taken(message(SOA, WWW, SOA))
    with pytest.raises(TransferError, match="more than 3 records"):
        taken(message(SOA, WWW), message(MX, SOA))
    monkeypatch.setattr(incoming, "MAX_OCTETS", 100)
    with pytest.raises(TransferError, match="or 100 octets"):
        taken(message(SOA, WWW, SOA))


def test_what_lies_outside_of_the_zone_is_left_out():
    inbound = Incoming(APEX, 1)
    inbound.take(message(SOA, "victim.test. 60 IN A 192.0.2.6", SOA))
    assert [rr.SOA, rr.SOA] == [record.rtype for record in inbound.zone(lambda _: None).records()]


@pytest.mark.parametrize(
    ("serial", "known", "expected"),
    [(8, 7, True), (7, 7, False), (6, 7, False), (0, 2**32 - 1, True), (2**32 - 1, 0, False),
     (2**31, 0, False), (2**31 - 1, 0, True)],
)  # fmt: skip
def test_serials_are_compared_around_the_corner(serial, known, expected):
    assert expected == is_newer(serial, known)


def test_the_serial_is_that_of_the_zones_own_soa():
    assert 7 == serial_of(message(SOA, qtype="SOA"), 1, APEX)
    with pytest.raises(TransferError, match="no SOA"):
        serial_of(message("sub." + SOA, qtype="SOA"), 1, APEX)
