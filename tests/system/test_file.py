"""file, zone: awkward zones beside a real CoreDNS; options, mistakes and reload of a master file."""

from __future__ import annotations

import os
import re
import time

import dns.flags
import dns.message
import dns.rcode
import peers
import pytest
from scriptedupstream import ScriptedUpstream

from clusterdns.authority.zoneanswer import Result
from clusterdns.authority.zonefile import read
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question

NET = r"""$ORIGIN example.net.
$TTL 600
@           IN SOA   NS1 Host.Master 7 3600 600 86400 120
            IN NS    ns1
            IN NS    NS1.other.test.
            IN MX    10 Mail
            IN MX    20 mail
            IN MX    30 mail.other.test.
            IN CAA   0 issue "ca.test"
ns1         IN A     192.0.2.1
            IN AAAA  2001:db8::1
mail   60   IN A     192.0.2.2
mail   90   IN AAAA  2001:db8::2
MiXeD       IN A     192.0.2.3
two         IN TXT   "one" "two \" \; \\ \007"
esc\.dot    IN A     192.0.2.4
\065bc      IN A     192.0.2.5
ptr         IN PTR   Mixed
unknown     IN TYPE65280 \# 3 010203
_x._tcp     IN SRV   1 2 3 Mail
            IN SRV   1 2 4 mail
            IN SRV   1 2 5 .
svc         IN HTTPS 1 mail alpn="h2"
            IN SVCB  1 mail port=53

alias       IN CNAME MiXeD
alias2      IN CNAME alias
nowhere     IN CNAME gone
noaddress   IN CNAME two
toapex      IN CNAME @
outside     IN CNAME www.example.edu.
outsidenx   IN CNAME gone.example.edu.
outsidend   IN CNAME only4.example.edu.
refused     IN CNAME www.unserved.test.
round1      IN CNAME round2
round2      IN CNAME round1
self        IN CNAME self
toself      IN CNAME self
*.wildself  IN CNAME *.wildself
thence      IN CNAME back.example.edu.
topingpong  IN CNAME pong.example.edu.
tocut       IN CNAME www.cut
toglue      IN CNAME ns.cut
tocutitself IN CNAME cut
towild      IN CNAME any.wild
c1          IN CNAME c2
c2          IN CNAME c3
c3          IN CNAME c4
c4          IN CNAME c5
c5          IN CNAME c6
c6          IN CNAME c7
c7          IN CNAME c8
c8          IN CNAME c9
c9          IN CNAME c10
c10         IN CNAME c11
c11         IN CNAME mixed

*.wild      IN A     192.0.2.10
            IN MX    5 mail
            IN TXT   "wild"
leaf.wild   IN A     192.0.2.11
x.ent.wild  IN A     192.0.2.12
*.wildcname IN CNAME mixed
*.wildout   IN CNAME www.example.edu.
*.wildloop  IN CNAME x.wildloop
*.wildsrv   IN SRV   1 2 3 mail
sub.*.star  IN A     192.0.2.13
*.a.deep    IN A     192.0.2.14
*.deep      IN A     192.0.2.15
a.b.c.ent   IN A     192.0.2.16

cut         IN NS    ns.cut
            IN NS    ns2.CUT
            IN NS    ns1
            IN NS    ns.example.edu.
            IN DS    1 8 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ns.cut      IN A     192.0.2.20
ns2.cut     IN AAAA  2001:db8::20
www.cut     IN A     192.0.2.21
lower.cut   IN NS    ns.cut
*.wildcut   IN NS    ns1
under.wild2 IN NS    ns1
*.wild2     IN A     192.0.2.22

old         IN DNAME new
            IN A     192.0.2.30
x.new       IN A     192.0.2.31
far         IN DNAME example.edu.
looping     IN DNAME looping
deeper.old  IN A     192.0.2.32
"""

EDU = """$ORIGIN example.edu.
@ 300       IN SOA   ns hostmaster 9 3600 600 86400 30
  300       IN NS    ns
ns    300   IN A     198.51.100.1
www   300   IN A     198.51.100.2
www   300   IN AAAA  2001:db8:2::2
only4 300   IN A     198.51.100.3
back  300   IN CNAME mixed.example.net.
pong  300   IN CNAME topingpong.example.net.
x     300   IN A     198.51.100.4
"""

COREFILE = """. {
    file net.db example.net
    file edu.db example.edu
}
"""

OWNERS = (
    "example.net", "ns1.example.net", "mail.example.net", "mixed.example.net", "MIXED.Example.NET",
    "two.example.net", r"esc\.dot.example.net", "abc.example.net", "ptr.example.net",
    "unknown.example.net", "_x._tcp.example.net", "_tcp.example.net", "svc.example.net",
    "alias.example.net", "ALIAS2.example.net", "nowhere.example.net", "noaddress.example.net",
    "toapex.example.net", "outside.example.net", "outsidenx.example.net", "outsidend.example.net",
    "refused.example.net", "round1.example.net", "thence.example.net",
    "topingpong.example.net", "tocut.example.net", "toglue.example.net", "tocutitself.example.net",
    "towild.example.net", "c1.example.net", "c2.example.net", "c3.example.net", "c4.example.net",
    "wild.example.net", "*.wild.example.net", "q.wild.example.net", "r.q.wild.example.net",
    "leaf.wild.example.net", "q.leaf.wild.example.net", "ent.wild.example.net",
    "q.ent.wild.example.net", "x.ent.wild.example.net", "Q.WildCname.example.net",
    "q.wildout.example.net", "q.wildloop.example.net", "q.wildsrv.example.net", "star.example.net",
    "*.star.example.net", "q.star.example.net", "sub.q.star.example.net", "deep.example.net",
    "a.deep.example.net", "q.a.deep.example.net", "q.b.deep.example.net", "b.c.ent.example.net",
    "ent.example.net", "q.b.c.ent.example.net", "cut.example.net", "ns.cut.example.net",
    "www.cut.example.net", "q.cut.example.net", "q.lower.cut.example.net", "wildcut.example.net",
    "q.wildcut.example.net", "under.wild2.example.net", "q.under.wild2.example.net",
    "q.wild2.example.net", "old.example.net", "x.old.example.net", "y.old.example.net",
    "X.far.example.net", "gone.far.example.net", "q.looping.example.net",
    "deeper.old.example.net", f"{'y' * 63}.{'y' * 63}.{'y' * 63}.{'y' * 40}.old.example.net",
    "gone.example.net", "q.gone.example.net", "www.example.edu", "back.example.edu",
    "pong.example.edu", "gone.example.edu", "example.com",
)  # fmt: skip
TYPES = (
    "A", "AAAA", "MX", "NS", "SOA", "TXT", "SRV", "CNAME", "DNAME", "DS", "HTTPS", "SVCB", "CAA",
    "PTR", "ANY", "TYPE65280", "AXFR",
)  # fmt: skip


def test_every_circle_of_aliases_is_answered_alike(ours):
    """CoreDNS says SERVFAIL where one of them is an alias of itself, and loses the others."""
    for qname, aliases in (("self", 1), ("round1", 2), ("toself", 2), ("q.wildself", 2)):
        reply = ask(ours, f"{qname}.example.net", "A")
        assert reply is not None
        assert ("NOERROR", aliases) == (dns.rcode.to_text(reply.rcode()), len(reply.answer))
        assert reply.flags & dns.flags.AA


def write(directory):
    (directory / "net.db").write_text(NET)
    (directory / "edu.db").write_text(EDU)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write(tmp_path_factory.mktemp("file"))


@pytest.fixture(scope="module")
def ours(directory):
    with peers.clusterdns(COREFILE, directory) as server:
        yield server


@pytest.fixture(scope="module")
def theirs(directory):
    with peers.coredns(COREFILE, directory) as server:
        yield server


def ask(server: peers.Server, qname: str, rtype: str, **options) -> dns.message.Message | None:
    query = dns.message.make_query(qname, rtype, id=7, **options).to_wire()
    reply = peers.ask_udp(server.address, query, 2)
    return None if reply is None else dns.message.from_wire(reply, one_rr_per_rrset=True)


def outline(reply: dns.message.Message | None) -> tuple[object, ...]:
    """Return what must be equal; the order within a section counts, since CoreDNS keeps it."""
    if reply is None:
        return ("no reply",)
    # Around a circle of aliases CoreDNS goes ten times.
    sections = [list(dict.fromkeys(map(str, section))) for section in reply.sections[1:]]
    return dns.flags.to_text(reply.flags), dns.rcode.to_text(reply.rcode()), *sections


@pytest.mark.peer
@pytest.mark.parametrize("qname", OWNERS)
def test_says_what_coredns_says(ours, theirs, qname):
    for rtype in TYPES:
        expected = outline(ask(theirs, qname, rtype, payload=4096))
        assert expected == outline(ask(ours, qname, rtype, payload=4096)), rtype


@pytest.mark.peer
def test_a_name_in_the_second_of_nested_zones(tmp_path):
    (tmp_path / "outer.db").write_text(EDU)
    (tmp_path / "inner.db").write_text(EDU.replace("example.edu", "www.example.edu"))
    corefile = ". {\n file outer.db example.edu\n file inner.db www.example.edu\n}\n"
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for qname in (
            "www.example.edu",
            "www.www.example.edu",
            "x.example.edu",
            "x.www.example.edu",
        ):
            for rtype in ("A", "SOA", "NS", "DS"):
                assert outline(ask(theirs, qname, rtype)) == outline(ask(ours, qname, rtype))


@pytest.mark.peer
def test_falls_through_as_coredns_does(tmp_path):
    write(tmp_path)
    options = "{\n fallthrough wild.example.net ent.example.net gone.example.net example.edu\n }"
    corefile = f". {{\n file net.db example.net {options}\n whoami\n}}\n"
    names = (
        "gone.example.net", "gone2.example.net", "ent.example.net", "c.ent.example.net",
        "q.wild.example.net", "q.leaf.wild.example.net", "nowhere.example.net", "www.example.edu",
    )  # fmt: skip
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for qname in names:
            for rtype in ("A", "MX"):
                expected = what(ask(theirs, qname, rtype))
                assert expected == what(ask(ours, qname, rtype)), qname


def what(reply: dns.message.Message | None) -> object:
    """Return the outline of a reply without the port and the address `whoami` tells."""
    assert reply is not None
    return outline(reply)[:4], len(reply.additional)


@pytest.mark.peer
def test_a_file_that_comes_later_is_served_by_both(tmp_path):
    corefile = ". {\n file late.db example.edu {\n reload 1s\n }\n}\n"
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for server in (ours, theirs):
            assert outline(ask(server, "www.example.edu", "A"))[1] == "SERVFAIL"
        (tmp_path / "late.db").write_text(EDU)
        for server in (ours, theirs):
            wait_for(server, "www.example.edu", "198.51.100.2")


def wait_for(server: peers.Server, qname: str, address: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        reply = ask(server, qname, "A")
        if reply is not None and [str(item) for found in reply.answer for item in found] == [
            address
        ]:
            return
        time.sleep(0.1)
    raise AssertionError(f"{qname} is not {address}:\n{server.output}")


def test_a_changed_serial_is_taken_up_and_a_broken_file_is_not(tmp_path):
    path = tmp_path / "edu.db"
    path.write_text(EDU)
    corefile = ". {\n errors\n file edu.db example.edu {\n reload 200ms\n }\n}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        for _ in range(3):  # often enough for the answer to be remembered
            wait_for(server, "www.example.edu", "198.51.100.2")
        path.write_text(EDU.replace("198.51.100.2", "198.51.100.9"))
        time.sleep(0.6)
        wait_for(server, "www.example.edu", "198.51.100.2")  # the serial is the same
        path.write_text(EDU.replace("198.51.100.2", "198.51.100.9").replace(" 9 3600", " 10 3600"))
        wait_for(server, "www.example.edu", "198.51.100.9")
        path.write_text("$ORIGIN example.edu.\n@ 300 IN SOA ns\n")
        deadline = time.monotonic() + 10
        while "edu.db:2" not in server.output and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "the last good zone stays in force" in server.output
        wait_for(server, "www.example.edu", "198.51.100.9")


def test_by_mtime_an_older_file_is_another_one(tmp_path):
    """A backup that is put back has the time it was made at."""
    path = tmp_path / "edu.db"
    path.write_text(EDU)
    corefile = ". {\n file edu.db example.edu {\n reload 200ms\n reload_by_mtime\n }\n}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        wait_for(server, "www.example.edu", "198.51.100.2")
        (tmp_path / "backup").write_text(EDU.replace("198.51.100.2", "198.51.100.9"))
        os.utime(tmp_path / "backup", (1e9, 1e9))
        (tmp_path / "backup").rename(path)
        wait_for(server, "www.example.edu", "198.51.100.9")


def test_by_mtime_the_serial_does_not_matter(tmp_path):
    path = tmp_path / "edu.db"
    path.write_text(EDU)
    corefile = ". {\n file edu.db example.edu {\n reload 200ms\n reload_by_mtime\n }\n}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        wait_for(server, "www.example.edu", "198.51.100.2")
        path.write_text(EDU.replace("198.51.100.2", "198.51.100.9"))
        wait_for(server, "www.example.edu", "198.51.100.9")


def test_a_kept_denial_of_the_next_plugin_does_not_hide_an_alias(tmp_path):
    path = tmp_path / "edu.db"
    path.write_text(EDU)
    upstream = ScriptedUpstream([])
    corefile = (
        ". {\n cache\n file edu.db example.edu {\n reload 200ms\n reload_by_mtime\n fallthrough\n }\n"
        f" forward . {upstream.address}\n}}\n"
    )
    try:
        with peers.clusterdns(corefile, tmp_path) as server:
            reply = ask(server, "later.example.edu", "A")
            assert reply is not None
            assert dns.rcode.NXDOMAIN == reply.rcode()
            path.write_text(
                EDU + "later 300 IN CNAME www.example.org.\nlast 300 IN A 198.51.100.5\n"
            )
            wait_for(server, "last.example.edu", "198.51.100.5")
            reply = ask(server, "later.example.edu", "A")
            assert reply is not None
            assert ["www.example.org."] == [str(item) for rrset in reply.answer for item in rrset]
    finally:
        upstream.stop()


HEAD = "$TTL 60\n@ IN SOA ns h 1 2 3 4 5\n@ IN NS ns\n"
APEX = name.fold(name.parse("example.test"))


def found(directory, text: str, qname: str, qtype: int = rr.A):
    path = directory / "test.db"
    path.write_text(text)
    wire = name.parse(qname)
    return read(path, APEX).find(Question(wire, name.fold(wire), qtype))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no SOA"),
        ("@ 5 IN A 192.0.2.1\n", "no SOA"),
        (HEAD + "x IN A 192.0.2.300\n", "test.db:4: "),
        (HEAD + "\n\nx IN NONSENSE y\n", "test.db:6: 'NONSENSE' is no type"),
        (HEAD + 'x IN TXT "no end\n', "test.db:4: "),
        (HEAD + "$INCLUDE nothing.db\n", "nothing.db"),
        (HEAD + f"{'l' * 64} IN A 192.0.2.1\n", "test.db:4"),
        (HEAD + "x IN CNAME y\nx IN A 192.0.2.1\n", "test.db"),
        ("\0\1\2\xff", "test.db"),
    ],
)
def test_what_is_no_zone(tmp_path, text, reason):
    with pytest.raises(MasterFileError, match=reason):
        found(tmp_path, text, "example.test")


def test_a_mistake_in_the_file_stops_the_start(tmp_path):
    (tmp_path / "edu.db").write_text(HEAD + "x IN A nonsense\n")
    with pytest.raises(RuntimeError) as caught:  # noqa: SIM117 - the server is what raises
        with peers.clusterdns("\n. {\n file edu.db example.edu\n}\n", tmp_path):
            pass
    assert ":3: file: " in str(caught.value)
    assert re.search("edu.db:4: ", str(caught.value))


def test_include_starts_from_the_directory_of_the_file(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "hosts.db").write_text("h IN A 192.0.2.7\n")
    text = HEAD + '$INCLUDE more/hosts.db\n$include "more/hosts.db" sub.example.test.\n'
    for qname in ("h.example.test", "h.sub.example.test"):
        result = found(tmp_path, text, qname)
        assert [bytes((192, 0, 2, 7))] == [record.rdata for record in result.answer]


def test_an_alias_within_the_zone_is_followed_and_one_outside_is_told(tmp_path):
    text = HEAD + "a IN CNAME b\nb IN CNAME c\nc IN A 192.0.2.1\nd IN CNAME e.example.\n"
    result = found(tmp_path, text, "a.example.test")
    assert [rr.CNAME, rr.CNAME, rr.A] == [record.rtype for record in result.answer]
    assert (Result.SUCCESS, b"") == (result.result, result.target)
    result = found(tmp_path, text, "d.example.test")
    assert name.parse("e.example") == result.target


@pytest.mark.parametrize(
    ("rcode", "answers", "expected"),
    [
        (rr.NOERROR, 1, Result.SUCCESS),
        (rr.NOERROR, 0, Result.NODATA),
        (rr.NXDOMAIN, 0, Result.NAME_ERROR),
        (rr.SERVFAIL, 0, Result.FAILURE),
        (rr.REFUSED, 0, Result.SUCCESS),
    ],
)
def test_what_is_outside_decides(tmp_path, rcode, answers, expected):
    (tmp_path / "test.db").write_text(HEAD + "d IN CNAME e.example.\n")
    zone = read(tmp_path / "test.db", APEX)
    wire = name.fold(name.parse("d.example.test"))
    outside = (rr.RR(name.parse("e.example"), rr.A, 5, b"\1\2\3\4"),) * answers
    question = Question(wire, wire, rr.A)
    joined = zone.join(question, zone.find(question), rcode, outside)
    assert expected is joined.result
    assert rr.CNAME == joined.answer[0].rtype
    is_negative = expected in (Result.NODATA, Result.NAME_ERROR)
    assert (rr.SOA if is_negative else rr.NS) == joined.authority[0].rtype


def test_only_names_of_the_file_are_held(tmp_path):
    (tmp_path / "test.db").write_text(HEAD + "*.w IN A 192.0.2.1\nx.y IN A 192.0.2.1\n")
    zone = read(tmp_path / "test.db", APEX)
    expected = {"example.test": True, "x.y.example.test": True, "*.w.example.test": True}
    expected |= {"q.w.example.test": False, "y.example.test": False}
    assert expected == {qname: zone.holds(name.fold(name.parse(qname))) for qname in expected}


def test_a_dname_that_makes_a_name_too_long_fails(tmp_path):
    long = f"{'y' * 63}.{'y' * 63}.{'y' * 63}"
    text = HEAD + f"d IN DNAME {'z' * 60}.example.test.\n"
    assert Result.FAILURE is found(tmp_path, text, f"{long}.d.example.test").result
