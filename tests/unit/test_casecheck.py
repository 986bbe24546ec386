"""The judge of the case files: what it lets pass, what it does not, and where a file goes wrong."""

from __future__ import annotations

import casecheck
import casefile
import caseparser
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

HEAD = """corefile
  . {
  }
origin     example.org.

case one

"""
WANTED = """? web A +edns=1232
= NOERROR aa
  @ 5 A 192.0.2.[1-2]
  additional ns 5 A *
"""


def load(tmp_path, text: str) -> casefile.Step:
    path = tmp_path / "one.case"
    path.write_text(HEAD + text)
    return caseparser.load(path)[0].steps[0]


def reply() -> dns.message.Message:
    query = dns.message.make_query("web.example.org.", "A", use_edns=0, payload=1232)
    made = dns.message.make_response(query, our_payload=1232)
    made.flags |= dns.flags.AA
    for address in ("192.0.2.2", "192.0.2.1"):  # one by one: dnspython shuffles an RRset
        made.answer.append(dns.rrset.from_text("web.example.org.", 5, 1, "A", address))
    made.additional.append(dns.rrset.from_text("ns.example.org.", 5, 1, "A", "192.0.2.53"))
    return made


def other_rcode(made):
    made.set_rcode(dns.rcode.NXDOMAIN)


def other_flags(made):
    made.flags ^= dns.flags.AA


def rd_lost(made):
    made.flags ^= dns.flags.RD


def record_too_many(made):
    made.authority.append(dns.rrset.from_text("example.org.", 5, 1, "NS", "ns.example.org."))


def record_missing(made):
    made.additional.clear()


def other_ttl(made):
    made.answer[0].ttl = 4


def other_case(made):
    made.additional[0] = dns.rrset.from_text("NS.example.org.", 5, 1, "A", "192.0.2.53")


def other_rdata(made):
    made.answer[0] = dns.rrset.from_text("web.example.org.", 5, 1, "A", "192.0.2.3")


def other_question(made):
    made.question = dns.message.make_query("wEb.example.org.", "A").question


def other_payload(made):
    made.use_edns(0, payload=512)


def no_opt(made):
    made.use_edns(False)


def test_what_is_wanted_passes(tmp_path):
    step = load(tmp_path, WANTED)
    assert casecheck.check_any(step.expected("clusterdns"), reply().to_wire()) is None


@pytest.mark.parametrize(
    "change",
    [other_rcode, other_flags, rd_lost, record_too_many, record_missing, other_ttl, other_case,
     other_rdata, other_question, other_payload, no_opt],
)  # fmt: skip
def test_what_is_not_does_not(tmp_path, change):
    made = reply()
    change(made)
    difference = casecheck.check_any(load(tmp_path, WANTED).expected("coredns"), made.to_wire())
    assert difference is not None
    assert any(line[0] in "+-" for line in difference.splitlines())


@pytest.mark.parametrize("word", ["ordered", "size=1", "tc", "nord"])
def test_words_of_an_expectation_count(tmp_path, word):
    step = load(tmp_path, WANTED.replace("NOERROR aa", f"NOERROR aa {word}"))
    assert casecheck.check_any(step.expected("coredns"), reply().to_wire()) is not None


def test_silence_is_silence(tmp_path):
    step = load(tmp_path, "? web A\n= silence\n")
    assert casecheck.check_any(step.expected("coredns"), None) is None
    assert casecheck.check_any(step.expected("coredns"), reply().to_wire()) is not None
    spoken = load(tmp_path, WANTED)
    assert casecheck.check_any(spoken.expected("coredns"), None) is not None


def test_octets_that_are_no_message_are_a_difference(tmp_path):
    step = load(tmp_path, WANTED)
    assert casecheck.check_any(step.expected("coredns"), reply().to_wire()[:-3]) is not None


def test_each_subject_has_its_own_expectation(tmp_path):
    step = load(tmp_path, "? web A\n=coredns REFUSED\n=clusterdns SERVFAIL\n")
    assert [5] == [e.rcode for e in step.expected("coredns")]
    assert [2] == [e.rcode for e in step.expected("clusterdns")]


@pytest.mark.parametrize(
    "text",
    ["? web\n= NOERROR\n", "? web A\n", "? web A\n= OKAY\n", "? web A\n= NOERROR ab\n", "jump 3\n",
     "? web A\n=coredns REFUSED\n", "? web A\n= NOERROR\n  @ 5 A 192.0.2.300\n", "time 3\n",
     "! 12345\n= silence\n", "? web A +fast\n= NOERROR\n"],
)  # fmt: skip
def test_a_mistake_names_file_and_line(tmp_path, text):
    with pytest.raises(casefile.CaseError, match=r"one\.case:\d+: "):
        load(tmp_path, text)
