"""answers: the table's rules, and rendering as miekg/dns does it, judged by dnspython."""

from __future__ import annotations

import random
import resource
import struct
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterdns.serving.cut import Cuts
from clusterdns.serving.table import MAX_TABLE_OCTETS, AnswerTable
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.facts import Renewal
from clusterdns.wire.message import Question
from clusterdns.wire.response import (
    Node,
    Response,
    _Writer,
    fit,
    render,
    render_orders,
    render_reply,
)
from clusterdns.wire.rr import RR

WEB = name.parse("web.demo.svc.cluster.local.")
FACT = ("service", "demo", "web")
SOA = RR(
    name.parse("cluster.local."),
    rr.SOA,
    5,
    rr.soa_rdata(name.parse("ns.dns.cluster.local."), name.parse("h.cluster.local."), 1, 5),
)


def question(qname: bytes = WEB, qtype: int = rr.A) -> Question:
    return Question(qname, name.fold(qname), qtype)


def address(last: int, owner: bytes = WEB) -> RR:
    return RR(owner, rr.A, 5, bytes((10, 0, last >> 8, last & 255)))


def positive(count: int = 1, **fields) -> Response:
    answer = tuple(address(i) for i in range(1, count + 1))
    return Response(answer=answer, facts=(FACT,), **fields)


def negative(**fields) -> Response:
    return Response(rr.NXDOMAIN, **{"authority": (SOA,), "facts": (FACT,)} | fields)


def query(asked: Question, ident: int = 7, opt: bytes = b"", flags: int = 0x0100) -> bytes:
    head = message.HEADER.pack(ident, flags, 1, 0, 0, 1 if opt else 0)
    return head + asked.wire + opt


def bare_opt(size: int) -> bytes:
    return message.write_opt(message.Edns(size, 0, 0))


class Subject:
    """A table with a clock, and hits to count in."""

    def __init__(self, **limits) -> None:
        self.table = AnswerTable(**limits)
        self.hits = [0, 0]
        self.now = 100.0

    def remember(self, asked: Question, response: Response, times: int = 2) -> None:
        for _ in range(times):  # what passes is taken at the second sighting
            self.table.remember(asked, response, self.now, lambda: 0)

    def ask(self, asked: Question, **options) -> dns.message.Message | None:
        reply = self.table.reply(query(asked, **options), self.now, self.hits)
        return None if reply is None else dns.message.from_wire(reply)


def test_a_hit_echoes_id_question_and_rd():
    subject = Subject()
    subject.remember(question(), positive())
    reply = subject.ask(question(), ident=0xBEEF)
    assert (0xBEEF, dns.flags.QR | dns.flags.AA | dns.flags.RD) == (reply.id, reply.flags)
    assert "10.0.0.1" == str(reply.answer[0][0])
    assert not subject.ask(question(), flags=0).flags & dns.flags.RD
    assert [2, 0] == subject.hits


def test_a_lasting_answer_is_taken_at_first_sight_a_passing_one_at_the_second():
    subject = Subject()
    subject.remember(question(), positive(), times=1)
    subject.remember(question(qtype=rr.AAAA), negative(), times=1)
    assert subject.ask(question()) is not None
    assert subject.ask(question(qtype=rr.AAAA)) is None
    subject.remember(question(qtype=rr.AAAA), negative(), times=1)
    assert subject.ask(question(qtype=rr.AAAA)) is not None


def test_a_fact_that_changes_forgets_what_was_decided_from_it():
    subject = Subject()
    subject.remember(question(), positive())
    subject.remember(question(qtype=rr.AAAA), negative())
    subject.table.forget([("service", "demo", "other")])
    assert subject.ask(question()) is not None
    subject.table.forget([FACT])
    assert subject.ask(question()) is subject.ask(question(qtype=rr.AAAA)) is None


def test_an_answer_ends_with_its_lifetime():
    subject = Subject()
    subject.remember(question(), positive(lifetime_s=2.0))
    subject.now += 1.9
    assert subject.ask(question()) is not None
    subject.now += 0.2
    assert subject.ask(question()) is None


def test_lifetime_nothing_is_never_remembered():
    subject = Subject()
    subject.remember(question(), positive(lifetime_s=0), times=5)
    assert len(subject.table) == 0


def option(code: int, data: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def test_an_opt_is_answered_without_the_options_nobody_answers():
    """CoreDNS 1.15.0 echoes size and DO, and no option."""
    subject = Subject()
    subject.hits = [0] * 4
    subject.remember(question(), positive())
    plain = subject.table.reply(query(question(), opt=bare_opt(1232)), 100.0, subject.hits)
    assert plain.endswith(bare_opt(1232))
    assert [0, 1, 0, 0] == subject.hits
    subnet = option(8, b"\0\1\x18\0\x0a\0\0")
    some = (option(10, bytes(8)), option(3), subnet, option(9), option(11), option(12, bytes(40)))
    for options in (*some, b"".join(some)):
        opt = message.write_opt(message.Edns(1232, 0, 0, options))
        assert plain == subject.table.reply(query(question(), opt=opt), 100.0, subject.hits)
    assert [0, 1, 7, 2 * len(b"".join(some))] == subject.hits


def test_options_are_for_the_chain_where_a_plugin_reads_them():
    subject = Subject(passes_options=False)
    subject.remember(question(), positive())
    opt = message.write_opt(message.Edns(1232, 0, 0, option(3)))
    assert subject.ask(question(), opt=opt) is None
    assert subject.ask(question(), opt=bare_opt(1232)) is not None


def test_the_payload_size_is_bounded_where_all_blocks_bound_it_alike():
    for bounds, sizes in (((1232, 1232), [1200, 1232, 1232]), ((600, 1232), [None] * 3)):
        subject = Subject(bounds=bounds)
        subject.remember(question(), positive())
        replies = [subject.ask(question(), opt=bare_opt(size)) for size in (1200, 1233, 4096)]
        assert sizes == [reply and reply.payload for reply in replies]
    subject.remember(question(), positive(40))
    assert subject.ask(question(), opt=bare_opt(600)).payload == 600


def test_do_and_cd_are_questions_of_their_own():
    subject = Subject()
    do = message.write_opt(message.Edns(1232, 0, message.EDNS_DO))
    subject.remember(question(), positive(flags=message.AA | message.AD))
    assert subject.ask(question(), opt=do) is subject.ask(question(), flags=0x0110) is None
    for asked in (question()._replace(do=True), question()._replace(cd=True)):
        subject.remember(asked, positive(2, flags=message.AA | message.AD))
    for flags, opt in ((0x0100, do), (0x0110, b"")):
        reply = subject.ask(question(), flags=flags, opt=opt)
        assert 2 == len(reply.answer[0])
        assert bool(opt) == bool(reply.flags & dns.flags.AD), "AD to who understands it"
        assert bool(flags & message.CD) == bool(reply.flags & dns.flags.CD)
    assert subject.ask(question(), opt=do, flags=0x0110) is None
    assert 1 == len(subject.ask(question()).answer[0])


def test_variants_that_are_alike_share_one_body():
    subject = Subject()
    for asked in (question(), question()._replace(do=True), question()._replace(cd=True)):
        subject.remember(asked, positive(60))
    bodies = {id(answer[-1]) for answer in subject.table.maps([])[0].values()}
    assert (3, 1) == (len(subject.table), len(bodies))


def test_opts_with_any_flags_options_or_version_are_for_the_table():
    subject = Subject()
    subject.hits = [0] * 4  # those with options apart
    subject.remember(question(), positive())
    for flags, extended_rcode, options in (
        (0x4000, 0, b""), (0x4001, 1, b""), (0, 255, option(65001, b"x")),
    ):  # fmt: skip
        opt = bytearray(message.write_opt(message.Edns(1232, 0, flags, options)))
        opt[5] = extended_rcode
        reply = subject.ask(question(), opt=bytes(opt))
        assert (rr.NOERROR, flags & 0xFF00, ()) == (reply.rcode(), reply.ednsflags, reply.options)
    for version in (1, 255):
        reply = subject.ask(question(), opt=message.write_opt(message.Edns(1232, version, 0)))
        assert (rr.BADVERS, 0, []) == (reply.rcode(), reply.edns, reply.answer)
    cautious = Subject(passes_options=False)
    cautious.remember(question(), positive())
    for edns in (message.Edns(1232, 1, 0), message.Edns(1232, 0, 0, option(65001, b"x"))):
        assert cautious.ask(question(), opt=message.write_opt(edns)) is None


def test_opts_that_get_an_error_are_not_for_the_table():
    subject = Subject()
    subject.remember(question(), positive())
    for edns in (
        message.Edns(1232, 0, 0, option(11, b"x")),
        message.Edns(1232, 0, 0, option(8, b"\0\3\0\0")),
        message.Edns(1232, 0, 0, option(10, bytes(8))[:-1]),
        message.Edns(1232, 0, 0, option(10, bytes(8)) + b"\0"),
    ):
        assert subject.ask(question(), opt=message.write_opt(edns)) is None, edns
    opt = bare_opt(1232)
    for bad in (opt[:-1], opt + b"\0", b"\0" + opt, opt[:9] + b"\0\1", opt[:2] + b"\x2a" + opt[3:]):
        assert subject.table.reply(query(question(), opt=bad), 100.0, subject.hits) is None


def test_too_long_for_the_client_is_a_miss_but_not_on_a_stream():
    subject = Subject()
    subject.remember(question(), positive(60))
    assert subject.ask(question()) is None
    whole = subject.table.reply(query(question()), subject.now, subject.hits, True)
    assert len(dns.message.from_wire(whole).answer[0]) == 60


def test_only_plain_queries_hit():
    subject = Subject()
    subject.remember(question(), positive())
    for flags in (0x8100, 0x0900, 0x2100, 0x0110, 0x0102, 0x0500):
        assert subject.ask(question(), flags=flags) is None
    assert subject.ask(question(), flags=0x0120) is not None  # AD (RFC 6840 section 5.7)


MIXED = name.parse("wEb.dEmo.SVC.cluster.LOCAL.")


def test_all_spellings_find_one_answer_where_they_are_alike():
    """Its owners are where the question's name is; the question comes back as it was asked."""
    for first in (WEB, MIXED):
        subject = Subject()
        answer = tuple(address(i, first) for i in (1, 2))
        subject.remember(question(first), Response(answer=answer, facts=(FACT,), follows_case=True))
        assert [question().wire] == subject.table.questions()
        for asked in (WEB, MIXED, WEB.upper()):
            packet = query(Question(asked, name.fold(asked), rr.A))
            reply = subject.table.reply(packet, subject.now, subject.hits)
            assert packet[12:] == reply[12 : len(packet)]
            assert {asked} == {record.owner for record in reading.read_reply(reply).answer}


def test_the_type_is_not_folded():
    """65 is HTTPS and the letter A; 97 is nothing, and the letter a."""
    subject = Subject()
    subject.remember(question(qtype=97), positive(follows_case=True))
    assert subject.ask(question(qtype=65)) is None
    assert subject.ask(question(qtype=97)) is not None


def test_a_spelling_that_matters_has_an_answer_of_its_own():
    subject = Subject()
    subject.remember(question(), positive(1))
    assert subject.ask(question(MIXED)) is None
    subject.remember(question(MIXED), positive(2))
    subject.remember(question(WEB.upper()), positive(3), times=1)  # it passes
    assert [1, 2] == [len(subject.ask(question(q)).answer[0]) for q in (WEB, MIXED)]
    assert subject.ask(question(WEB.upper())) is None
    # what says that it follows the spelling, and has a name that shares a label written out
    for owner, is_free in ((b"\1x\5local\0", False), (b"\1x\5LOCAL\0", False), (b"\1x\0", True)):
        subject, asked = Subject(), question(qtype=rr.AAAA)
        subject.remember(asked, negative(authority=(address(1, owner),), follows_case=True))
        assert is_free == (subject.ask(question(MIXED, qtype=rr.AAAA)) is not None), owner


def test_bodies_are_bounded_in_octets():
    subject = Subject(octets=2**20)
    for i in range(100):
        asked = question(name.parse(f"n{i}.cluster.local."))
        many = tuple(RR(asked.qname, rr.TXT, 5, bytes((k,)) * 30_000) for k in (1, 2))
        orders = tuple((many[:: 1 - k % 2 * 2], (), ()) for k in range(i % 5 + 1))
        for facts in ((FACT,), ()):  # what lasts, and what passes
            subject.remember(asked, Response(answer=many, facts=facts, orders=orders))
            bodies = [
                b for some in subject.table.maps([])[:3] for a in some.values() for b in a[6:]
            ]
            assert sum(map(len, bodies)) == subject.table.octets <= 2**20
    assert subject.table.octets > 2**18
    subject.table.forget([FACT])
    subject.table.clear()
    assert 0 == subject.table.octets


def test_one_set_of_children_counts_once_for_all_its_denials():
    """One of 300 kB, for each length: the shelf of 16 MiB has room for all, and nothing is left."""
    subject, zone = Subject(), name.parse("hl.demo.svc.cluster.local.")
    children = frozenset(b"pod-%d" % i for i in range(5000))
    lasting = Node(zone, children, (FACT,))
    for length in range(1, 61):
        asked = question(name.join([b"x" * length], zone))
        for _ in range(2):
            subject.remember(asked, negative(node=lasting, facts=(FACT,), follows_case=True))
    there = [question(name.join([b"y" * length], zone)) for length in range(1, 61)]
    assert all(subject.ask(asked) for asked in there)
    assert 64 * 5000 < subject.table.octets < 64 * 6000
    again = question(name.join([b"z"], zone))
    subject.remember(again, negative(node=lasting._replace(children=frozenset(children | {b"z"}))))
    assert 2 * 64 * 5000 < subject.table.octets
    subject.table.forget([FACT])
    assert subject.table.octets == 0


def resident_octets() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_the_largest_replies_in_many_orders_do_not_make_a_worker_grow_beyond_its_budget():
    """250 names with replies of 64 KiB, as TCP gives them, each in the sixteen orders of loadbalance."""
    subject, before = Subject(), resident_octets()
    for i in range(250):
        asked = question(name.parse(f"n{i}.cluster.local."), rr.TXT)
        orders = tuple(
            ((RR(asked.qname, rr.TXT, 5, bytes((k,)) * 65_000),), (), ()) for k in range(16)
        )
        response = Response(answer=orders[0][0], facts=(FACT,), orders=orders)
        assert subject.table.remember(asked, response, subject.now, lambda: 0) is not None
        packet = query(asked)
        reply = subject.table.reply(packet, subject.now, subject.hits, True)
        assert len(reply) > 65_000
    assert 16 * 2**20 < subject.table.octets <= MAX_TABLE_OCTETS
    assert resident_octets() - before < 1.25 * MAX_TABLE_OCTETS


def test_remembering_again_costs_no_search_among_the_answers_of_a_fact():
    """All names under one fact: what misses for its OPT, or has ended, is filed in constant time."""
    subject = Subject(lasting=20_000, passing=20_000)
    asked = [question(name.parse(f"n{i}.cluster.local.")) for i in range(20_000)]
    for lifetime_s in (5.0, 5.0, 5.0):
        began = time.process_time()
        for each in asked:
            subject.remember(each, positive(lifetime_s=lifetime_s))
        assert time.process_time() - began < 5
        subject.now += 10
    assert len(subject.table) == 20_000
    assert max(map(len, subject.table._passing._filed.values())) <= 40_001
    subject.table.forget([FACT])
    assert len(subject.table) == 0


def test_orders_are_picked_by_the_id():
    orders = tuple(((address(i), address(3 - i)), (), ()) for i in (1, 2))
    subject = Subject()
    subject.remember(question(), positive(2, orders=orders))
    first = {str(subject.ask(question(), ident=i).answer[0][0]) for i in range(4)}
    assert {"10.0.0.1", "10.0.0.2"} == first


def test_a_full_shelf_starts_anew_and_the_other_stays():
    subject = Subject(lasting=4, passing=4)
    subject.remember(question(), positive())
    for i in range(100):
        other = question(name.parse(f"n{i}.cluster.local."))
        subject.remember(other, negative())
        assert len(subject.table._passing.answers) <= 4
    assert subject.ask(question()) is not None


CUT = name.parse("com.demo.svc.cluster.local.")


def denial(**fields) -> Response:
    return negative(denies=CUT, spared=b"\2ns\3dns", **fields)


def below(labels: str) -> bytes:
    return name.parse(f"{labels}.com.demo.svc.cluster.local.")


def test_names_below_one_that_does_not_exist_are_denied_by_it():
    subject = Subject()
    subject.remember(question(below("www.a")), denial(follows_case=True))
    for asked in (below("www.b"), below("c.def"), below("WWW.b"), below("x" * 5)):
        for opt in (b"", bare_opt(1232)):
            packet = query(question(asked), opt=opt)
            gate = reading.read_query(packet)
            whole = render_reply(gate, negative(), 1232)
            assert whole == subject.table.reply(packet, subject.now, subject.hits), asked


def test_a_denial_is_for_its_own_length_and_type():
    """Its body points to where the zone begins in a question of this length."""
    subject = Subject()
    subject.remember(question(below("www.a")), denial())
    assert subject.ask(question(below("www.bb"))) is None
    assert subject.ask(question(below("www.b"), qtype=rr.AAAA)) is None
    assert subject.ask(question(below("www.b"), qtype=rr.MX)) is None
    assert subject.ask(question(CUT)) is None
    assert subject.ask(question(name.parse("www.xcom.demo.svc.cluster.local."))) is None
    assert subject.ask(question(name.parse("a.b.www.a.com.demo.svc.cluster."))) is None


def test_a_denial_is_taken_at_the_second_name():
    subject = Subject()
    subject.remember(question(below("www.a")), denial(), times=1)
    assert subject.ask(question(below("www.b"))) is None
    subject.remember(question(below("www.b")), denial(), times=1)
    for _ in range(2):
        assert subject.ask(question(below("www.c"))) is not None
    assert subject.ask(question(below("WWW.c"))) is None, "it may depend on the spelling"
    assert [2, 0] == subject.hits


def test_denials_are_forgotten_with_their_facts_their_zone_and_their_time():
    for forget in (
        lambda subject: subject.table.forget([FACT]),
        lambda subject: subject.table.forget([("everything",)]),
        lambda subject: subject.table.clear(),
        lambda subject: setattr(subject, "now", subject.now + 10),
    ):
        subject = Subject()
        subject.remember(question(below("www.a")), denial(lifetime_s=9))
        assert subject.ask(question(below("www.b"))) is not None
        assert subject.ask(question(below("www.b"))) is not None
        forget(subject)
        assert subject.ask(question(below("www.b"))) is None


def test_denials_are_bounded():
    subject = Subject(passing=8)
    for i in range(300):
        cut = name.parse(f"com.demo-{i}.svc.cluster.local.")
        for labels in ("a", "bb", "ccc"):
            asked = question(name.parse(f"{labels}.com.demo-{i}.svc.cluster.local."))
            subject.remember(asked, negative(denies=cut))
            assert len(subject.table._denials.answers) <= 8


def test_the_name_server_may_be_below_what_does_not_exist():
    """`ns.dns` and the zone once more, as CoreDNS reads it."""
    subject = Subject()
    subject.remember(question(below("xx.xxx")), denial())
    assert subject.ask(question(below("ns.xxx"))) is not None
    assert subject.ask(question(below("ns.dns"))) is None


DEMO = name.parse("demo.svc.cluster.local.")


def node_denial(children: set[bytes], **fields) -> Response:
    return negative(
        node=Node(DEMO, children, (FACT,)), spared=b"\2ns\3dns", follows_case=True, **fields
    )


def in_demo(labels: str) -> bytes:
    return name.parse(f"{labels}.demo.svc.cluster.local.")


def test_a_node_denies_what_is_not_below_its_children():
    subject, children = Subject(), {b"web", b"db"}
    subject.remember(question(in_demo("nosuch")), node_denial(children))
    subject.remember(question(in_demo("a.b.nosuch")), node_denial(children))
    for asked in ("nothig", "NoThig", "xx-xxx", "a.b.xxx.xx", "a.web.b.cd", "1234.56789"):
        assert subject.ask(question(in_demo(asked))) is not None, asked
    for asked in ("web", "aaa.db", "WEB", "a.b.c.d.web", "ns.dns", "nosuch2"):
        assert subject.ask(question(in_demo(asked))) is None, asked
    assert subject.ask(question(in_demo("nothig"), qtype=rr.MX)) is None
    assert subject.ask(question(DEMO)) is None


def test_a_child_that_comes_is_no_longer_denied_and_one_that_goes_is():
    subject, children = Subject(), {b"web"}
    subject.remember(question(in_demo("nosuch")), node_denial(children))
    coming = question(in_demo("coming"))
    for _ in range(2):
        assert subject.ask(coming) is not None
        children.add(b"coming")
        assert subject.ask(coming) is None
        children.discard(b"coming")
    subject.table.forget([("service", "demo", "coming")])
    assert subject.ask(coming) is not None, "nothing is forgotten for it"
    subject.table.forget([FACT])
    assert subject.ask(coming) is None


def test_names_that_never_were_make_nothing_grow():
    subject, children = Subject(), set[bytes]()
    for i in range(1000):
        asked = question(in_demo(f"n{i:04}"))
        if subject.ask(asked) is None:
            subject.remember(asked, node_denial(children), times=1)
    assert 1 == len(subject.table._denials.answers)
    assert 0 == len(subject.table)


def test_a_cut_below_a_node_comes_first():
    """Where one child has to be looked at, what is denied below it is so all the same."""
    subject = Subject()
    subject.remember(question(in_demo("aaa.bbb")), node_denial({b"com"}))
    subject.remember(question(below("www")), denial())
    assert subject.ask(question(below("abc"))) is not None
    assert subject.ask(question(in_demo("abc.org"))) is not None
    assert subject.ask(question(in_demo("abc.com"))) is not None
    assert subject.ask(question(CUT)) is None


@given(
    st.lists(st.one_of(st.integers(0, 70), st.integers(1, 20)), min_size=1, max_size=9),
    st.binary(min_size=640, max_size=640),
)
def test_denials_are_total(lengths, octets):
    """Whatever stands before a cut: denied if the gate finds a name there, and else not ours."""
    labels = b"".join(bytes([n]) + octets[i * 70 : i * 70 + n] for i, n in enumerate(lengths))
    subject = Subject()
    if 2 <= len(labels) <= 255 - len(CUT):  # what was denied before, of the same length
        parts = [b"x"] * (len(labels) // 2 - 1) + [b"xx" if len(labels) % 2 else b"x"]
        denied = name.join(parts, CUT)
        subject.remember(Question(denied, name.fold(denied), rr.A), denial(follows_case=True))
    packet = query(Question(labels + CUT, name.fold(labels + CUT), rr.A))
    reply = subject.table.reply(packet, subject.now, subject.hits)
    gate = reading.read_query(packet)
    is_name = isinstance(gate, message.Query) and gate.question.qname == labels + CUT
    is_ours = is_name and b"\0" not in labels and labels[:7] != b"\x02ns\x03dns"
    assert (reply is not None) == is_ours


@given(st.binary(max_size=600))
@settings(max_examples=500)
def test_reply_is_total(packet):
    subject = Subject()
    subject.remember(question(), positive())
    reply = subject.table.reply(packet, subject.now, subject.hits)
    assert reply is None or reply[:2] == packet[:2]


@given(st.integers(0, 80), st.integers(512, 4096))
def test_rendering_cuts_where_the_next_record_does_not_fit(count, limit):
    sections = (tuple(address(i) for i in range(count)), (), (address(1, b"\x02ns" + WEB),))
    counts, body, cut = render(WEB, sections, limit)
    octets = message.HEADER_OCTETS + len(WEB) + 4 + len(body)
    assert octets <= limit
    assert cut == (counts != (count, 0, 1))
    if cut:
        following = 16 if counts[0] < count else 19
        assert octets + following > limit


def test_names_are_compressed_into_question_and_rdata():
    target = name.parse("a.web.demo.svc.cluster.local.")
    server = RR(WEB, rr.SRV, 5, rr.srv_rdata(0, 50, 80, target))
    alias = RR(WEB, rr.CNAME, 5, target)
    sections = ((alias, server), (SOA,), (RR(target, rr.A, 5, b"\x0a\0\0\1"),))
    _, body, _ = render(WEB, sections, 4096)
    asked = question()
    whole = message.HEADER.pack(1, message.QR, 1, 2, 1, 1) + asked.wire + body
    reply = dns.message.from_wire(whole)
    assert ["a.web.demo.svc.cluster.local."] == [str(r.target) for r in reply.answer[0]]
    assert "a.web.demo.svc.cluster.local." == str(reply.answer[1][0].target)
    assert b"\x01a" + WEB in body  # an SRV target is not compressed (RFC 2782)


def test_fit_is_what_the_client_sees():
    asked = question()
    response = positive(60)
    small = fit(response, asked, 512)
    assert small.flags & message.TC
    assert fit(response, asked, 4096) is response
    slow = reading.read_query(query(asked))
    assert isinstance(slow, message.Query)
    reply = dns.message.from_wire(render_reply(slow, response, 512))
    assert len(small.answer) == len(reply.answer[0])
    assert reply.flags & dns.flags.TC


def many(owner: bytes, count: int) -> Response:
    """Return a response whose records differ in length, with all sections and with aliases."""
    rng = random.Random(count)
    targets = [bytes((4,)) + f"{i:04}".encode() + owner for i in range(count)]
    answer = [rr.RR(owner, rr.SRV, 5, bytes(6) + target) for target in targets]
    answer[:0] = [rr.RR(b"\1a" + owner, rr.CNAME, 5, owner)]
    texts = [rng.randbytes(rng.randrange(200)) for _ in range(count // 8)]
    authority = [rr.RR(owner, 16, 5, bytes((len(text),)) + text) for text in texts]
    additional = [rr.RR(target, rr.A, 5, rng.randbytes(4)) for target in targets]
    return Response(
        answer=tuple(answer), authority=tuple(authority), additional=tuple(additional),
        facts=("big",),
    )  # fmt: skip


def asked_of(qname: bytes, size: int, transport: str = "udp") -> message.Query:
    opt = message.write_opt(message.Edns(size, 0, 0)) if size else b""
    head = message.HEADER.pack(7, message.RD, 1, 0, 0, 1 if opt else 0)
    found = reading.read_query(head + Question(qname, name.fold(qname), rr.SRV).wire + opt)
    assert isinstance(found, message.Query)
    found.transport = transport
    return found


@pytest.mark.parametrize("count", [0, 1, 30, 300, 5000])
def test_an_answer_is_cut_as_the_chain_would_cut_it(count):
    """For every size, and also what no message has room for."""
    qname = b"\3big\4test\0"
    table, response, hits = AnswerTable(), many(qname, count), [0] * 4
    asked = Question(qname, name.fold(qname), rr.SRV)
    assert table.remember(asked, response, 0.0, lambda: 0) is not None
    sizes = [0, *range(512, 1600, 7), 4096, 16_383, 16_400, 65_000, 65_507, 65_535]
    for i, (size, transport) in enumerate(
        [*((size, "udp") for size in sizes), (0, "tcp"), (9, "tcp")]
    ):
        query = asked_of(qname, size, transport)
        expected = render_reply(query, response, query.limit)
        assert expected == table.known(query, 1.0, hits), (size, transport)
        assert sum(hits) == i + 1
    assert table.known(asked_of(b"\3Big\4test\0", 0), 1.0, hits) is None, "it is not free"
    table.forget(["big"])
    assert table.known(asked_of(qname, 512), 1.0, hits) is None


def test_where_answers_are_cut_is_forgotten_in_time():
    cuts = Cuts(max_octets=1000)
    body = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 300) + bytes(300)
    head = struct.pack("!HHHHH", 0x8000, 1, 1, 0, 0)
    for i in range(20):
        other = body[:-1] + bytes((i,))
        assert (b"\x82\0\0\1" + bytes(6), b"") == cuts.cut(head, other, 311, has_opt=False)
        assert cuts._octets <= 1000
        assert len(cuts._ends) <= 3


SERIAL = ("serial",)


def soa(serial: int) -> RR:
    rdata = rr.soa_rdata(name.parse("ns.dns.cluster.local."), name.parse("h."), serial, 5)
    return RR(name.parse("cluster.local."), rr.SOA, 5, rdata)


def renewal(old: int, new: int) -> Renewal:
    return Renewal(SERIAL, rr.soa_serial(old), rr.soa_serial(new))


def serial_of(reply: dns.message.Message | None) -> int | None:
    return None if reply is None else reply.authority[0][0].serial


def test_a_serial_that_moves_is_replaced_in_what_shows_it():
    subject = Subject()
    subject.remember(question(), positive())
    aaaa = question(qtype=rr.AAAA)
    subject.remember(aaaa, negative(authority=(soa(7),), facts=(FACT, SERIAL)))
    subject.remember(question(below("www.a")), denial(authority=(soa(7),), facts=(FACT, SERIAL)))
    for _ in range(2):  # the second time it has a place of its own
        assert 7 == serial_of(subject.ask(question(below("www.b"))))
    subject.table.forget([renewal(7, 8)])
    subject.table.forget([renewal(8, 9)])
    for asked in (aaaa, question(below("www.b")), question(below("www.c"))):
        assert 9 == serial_of(subject.ask(asked)), asked
    assert subject.ask(question()) is not None
    subject.table.forget([FACT, renewal(9, 10)])
    for asked in (aaaa, question(below("www.b")), question(below("www.c"))):
        assert subject.ask(asked) is None


def test_what_does_not_show_the_old_serial_is_dropped():
    subject = Subject()
    subject.remember(question(qtype=rr.AAAA), negative(authority=(soa(7),), facts=(FACT, SERIAL)))
    subject.table.forget([renewal(6, 8)])
    assert subject.ask(question(qtype=rr.AAAA)) is None
    assert len(subject.table) == 0


def test_too_many_answers_to_be_renewed_are_dropped(monkeypatch):
    monkeypatch.setattr("clusterdns.serving.table._MAX_RENEWED", 10)
    subject = Subject()
    asked = [question(name.parse(f"n{i}.cluster.local.")) for i in range(30)]
    for each in asked:
        subject.remember(each, negative(authority=(soa(7),), facts=(SERIAL,)))
    subject.table.forget([renewal(7, 8)])
    assert [8] * 10 + [None] * 20 == [serial_of(subject.ask(each)) for each in asked]


def test_what_is_filed_is_bounded_however_often_answers_come_and_go():
    subject = Subject(passing=50)
    for i in range(2000):
        facts = (("service", "demo", f"s{i % 3}"), SERIAL)
        each = question(name.parse(f"n{i % 40 if i < 1000 else i}.cluster.local."))
        subject.remember(each, negative(authority=(soa(i),), facts=facts))
        subject.table.forget([renewal(0, 1)])  # none shows it: all are dropped
        filed = subject.table._passing._filed.values()
        count = sum(1 if isinstance(keys, bytes) else len(keys) for keys in filed)
        assert count == subject.table._passing._filings <= 202


def test_every_octet_of_a_label_is_printed_as_miekg_does():
    for octet in range(256):
        printed = f"\\{octet:03d}"
        if 0x20 < octet < 0x7F or octet in b" \"'().;@\\":
            printed = "\\" * (octet in b" \"'().;@\\") + chr(octet)
        assert f"a{printed}b." == name.text(bytes((3, 0x61, octet, 0x62, 0)))


@pytest.mark.parametrize("code", [10, 12, 65001])
def test_options_are_counted(code):
    """A client's OPT may hold 64, at the gate and in the table."""
    asked = b"\3www\4test\0\0\1\0\1"
    table, question = AnswerTable(), Question(asked[:-4], name.fold(asked[:-4]), rr.A)
    table.remember(question, positive(1)._replace(facts=("a",)), 0.0, lambda: 0)
    for count, is_taken in ((64, True), (65, False)):
        options = message.write_option(code, bytes(8)) * count
        opt = message.write_opt(message.Edns(1232, 0, 0, options))
        packet = message.HEADER.pack(7, message.RD, 1, 0, 0, 1) + asked + opt
        assert is_taken == isinstance(reading.read_query(packet), message.Query)
        assert is_taken == (table.reply(packet, 0.0, [0] * 4) is not None)


@pytest.mark.parametrize("owner", [WEB, WEB.upper(), b"\1x\0", b"\0"])
@pytest.mark.parametrize("limit", [60, 75, 512, 65_535])
@pytest.mark.parametrize(
    "rtypes", [(rr.A,), (rr.AAAA, rr.A, rr.A), (rr.A, rr.TXT), (rr.A, rr.CNAME)]
)
def test_addresses_of_the_question_are_written_as_any_records(owner, limit, rtypes):
    rdata = {rr.A: bytes(4), rr.AAAA: bytes(16), rr.TXT: b"\1x", rr.CNAME: b"\1y" + WEB}
    for qname in (WEB, b"\0"):
        answer = tuple(RR(owner, rtype, 5, rdata[rtype]) for rtype in rtypes)
        writer, fits = _Writer(qname), 0
        for record in answer:
            before = bytes(writer.octets)
            writer.write(record)
            if writer.offset > limit:
                writer.octets[:] = before
                break
            fits += 1
        counts, body, is_cut = render(qname, (answer, (), ()), limit)
        assert (fits, bytes(writer.octets), fits < len(answer)) == (counts[0], body, is_cut)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(("0", "1", "01", "255", "256", "1000", "", "+1", "1\n", "\u0663"))
    ).map(".".join)
    | st.lists(st.integers(0, 255), min_size=4, max_size=4).map(lambda n: ".".join(map(str, n)))
    | st.text("0123456789abcdef.:%", max_size=24)
)
def test_an_address_is_what_ipaddress_reads(text):
    read = name.ip_address(text)
    expected = None if read is None else (rr.A if read.version == 4 else rr.AAAA, read.packed)
    assert expected == rr.address_rdata(text)


OWNERS = [WEB, name.parse("a.web.demo.svc.cluster.local."), name.parse("b.example.com."), b"\0"]


def record_of(owner: bytes, kind: int, i: int) -> RR:
    rdata = {
        rr.A: bytes((10, 0, 0, i)),
        rr.AAAA: bytes(15) + bytes((i,)),
        rr.MX: bytes((0, i)) + OWNERS[i % 3],
        rr.SRV: rr.srv_rdata(0, 1, i, OWNERS[i % 3]),
        rr.CNAME: OWNERS[i % 3],
        rr.TXT: rr.txt_rdata("x" * 250),
    }
    return RR(owner, kind, 5, rdata[kind])


RECORDS = st.builds(
    record_of,
    st.sampled_from(OWNERS),
    st.sampled_from((rr.A, rr.A, rr.AAAA, rr.MX, rr.SRV, rr.CNAME, rr.TXT)),
    st.integers(0, 9),
)


@settings(deadline=None)
@given(st.tuples(*[st.lists(RECORDS, max_size=6)] * 3), st.randoms(), st.integers(0, 120))
def test_each_order_of_records_is_rendered_as_if_it_were_the_only_one(sections, rng, filling):
    """`filling` moves names behind what a pointer can lead to."""
    filler = [record_of(WEB, rr.TXT, 0)] * filling
    some = [(tuple(filler + sections[0]), tuple(sections[1]), tuple(sections[2]))]
    for _ in range(3):
        mixed = [rng.sample(section, len(section)) for section in sections]
        some.append((tuple(filler + mixed[0]), tuple(mixed[1]), tuple(mixed[2])))
    expected = [render(WEB, order, 65_535) for order in some]
    counts, bodies, is_cut = render_orders(WEB, tuple(some), 65_535)
    assert [(counts, body, is_cut) for body in bodies] == expected


def test_orders_of_addresses_behind_their_names_are_made_of_pieces():
    hosts = [name.parse(f"host-{i}.web.demo.svc.cluster.local.") for i in range(10)]
    srv = tuple(RR(WEB, rr.SRV, 5, rr.srv_rdata(0, 10, 80, host)) for host in hosts)
    glue = [address(i, host) for i, host in enumerate(hosts)]
    orders = tuple((srv, (), tuple(glue[i:] + glue[:i])) for i in range(10))
    began = time.process_time()
    for _ in range(100):
        render(WEB, orders[0], 65_535)
    once = time.process_time() - began
    began = time.process_time()
    for _ in range(100):
        render_orders(WEB, orders, 65_535)
    assert time.process_time() - began < 5 * once  # each on its own would be 10
