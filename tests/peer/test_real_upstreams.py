"""forward in front of real servers: what they say arrives, by every transport and with every option.

Each question is asked of NSD, Knot, Unbound or dnsmasq itself, and of clusterdns, and of CoreDNS where
it can be had, which forward to it. Header, question and records of the replies have to be equal, and
the OPT record's as CoreDNS has it, but that no option of a client's goes on (RFC 6891 section 6.1.1;
RFC 5001 section 3.1 says of NSID that it is not transitive).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import peers
import pytest
import realupstreams
from realupstreams import ZONE, Address

TTL_SLACK = 2  # seconds that a cache on the way may have counted on

# Label, type. What there is in the zone is in realupstreams.zone_text.
QUESTIONS = [
    ("www", "A"), ("www", "AAAA"), ("www", "MX"), ("WwW", "A"), ("", "MX"), ("", "TXT"), ("", "SOA"),
    ("", "NS"), ("", "DNSKEY"), ("one", "A"), ("zero", "A"), ("c1", "A"), ("c1", "AAAA"), ("c1", "CNAME"),
    ("c1", "MX"), ("dangling", "A"), ("x.wild", "A"), ("x.y.wild", "A"), ("x.wild", "AAAA"), ("ent", "A"),
    ("a.ent", "A"), ("_http._tcp", "SRV"), ("web", "HTTPS"), ("policy", "CAA"), ("odd", "TYPE65280"),
    ("MixedCase", "A"), ("mixedcase", "A"), ("nowhere", "A"), ("a.b.nowhere", "TXT"), ("big", "TXT"),
    ("many", "A"), ("l" * 63, "A"), ("under_score", "A"), ("a\\.b", "A"),
]  # fmt: skip
NSID = dns.edns.GenericOption(dns.edns.NSID, b"")
COOKIE = dns.edns.GenericOption(dns.edns.COOKIE, b"12345678")
UNKNOWN = dns.edns.GenericOption(65001, b"\xab\xcd")
SUBNET = dns.edns.ECSOption("198.51.100.0", 24)
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "no recursion": {"flags": 0},
    "ad": {"flags": dns.flags.RD | dns.flags.AD},
    "cd": {"flags": dns.flags.RD | dns.flags.CD},
    "edns": {"use_edns": 0, "payload": 1232},
    "small": {"use_edns": 0, "payload": 512},
    "large": {"use_edns": 0, "payload": 4096},
    "do": {"use_edns": 0, "payload": 1232, "want_dnssec": True},
    "nsid": {"use_edns": 0, "payload": 1232, "options": [NSID]},
    "options": {"use_edns": 0, "payload": 1400, "options": [COOKIE, UNKNOWN, SUBNET]},
}
MODES = {
    "as asked": "",
    "force_tcp": "force_tcp",
    "prefer_udp": "prefer_udp",
}


@pytest.fixture(scope="module", params=realupstreams.KINDS)
def upstream(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    directory = tmp_path_factory.mktemp("upstream") / request.param
    with realupstreams.running(request.param, directory) as address:
        yield address


def query(label: str, rtype: str, way: str) -> dns.message.Message:
    options = dict(WAYS[way])
    flags = options.pop("flags", dns.flags.RD)
    qname = f"{label}.{ZONE}" if label else ZONE
    return dns.message.make_query(qname, rtype, flags=flags, **options)


def ask(address: Address, asked: dns.message.Message, transport: str) -> dns.message.Message | None:
    send = peers.ask_tcp if transport == "tcp" else peers.ask_udp
    reply = send(address, asked.to_wire(), 6)
    return None if reply is None else dns.message.from_wire(reply)


def told(reply: dns.message.Message | None) -> list[str]:
    """Return all of a reply but its ID, OPT record and TTLs; the order of records is nobody's."""
    if reply is None:
        return ["silence"]
    head = [dns.flags.to_text(reply.flags), dns.rcode.to_text(reply.rcode())]
    found = [line for rrset in reply.question for line in rrset.to_text().splitlines()]
    for i, section in enumerate(reply.sections[1:]):
        found += sorted(
            f"{i} {rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata.to_text()}"
            for rrset in section
            for rdata in rrset
        )
    return head + found


def ttls(reply: dns.message.Message | None) -> dict[tuple[str, str], int]:
    sections = reply.sections[1:] if reply is not None else []
    return {(str(rr.name), str(rr.rdtype)): rr.ttl for section in sections for rr in section}


def opt(reply: dns.message.Message | None, way: str) -> tuple[object, ...]:
    """Return what the OPT record says, but for options that the client has asked for."""
    if reply is None:
        return ()
    asked = {option.otype for option in WAYS[way].get("options", [])}
    options = [
        (int(option.otype), option.to_wire())
        for option in reply.options
        if option.otype not in asked
    ]
    return (reply.edns, reply.payload, reply.ednsflags, sorted(options))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_the_server_says_arrives(upstream, mode, tmp_path):
    found = []
    corefile = f". {{\n forward . {upstream[0]}:{upstream[1]} {{\n {MODES[mode]}\n }}\n}}\n"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(peers.clusterdns(corefile, tmp_path))
        theirs = with_coredns(stack, corefile, tmp_path)
        for way in WAYS:
            for label, rtype in QUESTIONS:
                for transport in ("udp", "tcp"):
                    asked = query(label, rtype, way)
                    direct = expected(upstream, asked, mode, transport)
                    reply = ask(ours.address, asked, transport)
                    where = f"{label} {rtype} {way} over {transport}"
                    found += [
                        f"{where}: {text}" for text in differences(upstream, asked, direct, reply)
                    ]
                    if theirs is not None:
                        other = ask(theirs.address, asked, transport)
                        if opt(other, way) != opt(reply, way):
                            found.append(
                                f"{where}: OPT {opt(reply, way)}, CoreDNS has {opt(other, way)}"
                            )
    assert [] == found, f"{len(found)} differences\n" + "\n".join(found[:8])


def with_coredns(stack: contextlib.ExitStack, corefile: str, tmp_path) -> peers.Server | None:
    """Run a CoreDNS as well, if there is one; the rest is worth to be tested without it."""
    try:
        return stack.enter_context(peers.coredns(corefile, tmp_path))
    except pytest.skip.Exception:
        return None


def expected(
    upstream: Address, asked: dns.message.Message, mode: str, transport: str
) -> dns.message.Message | None:
    """Return what the server itself says to a client that asks as `forward` has been told to."""
    direct = ask(upstream, asked, transport)  # the first time, so that its cache has it
    how = {"force_tcp": "tcp", "prefer_udp": "udp"}.get(mode, transport)
    direct = ask(upstream, asked, how)
    if mode == "prefer_udp" and direct is not None and direct.flags & dns.flags.TC:
        direct = ask(upstream, asked, "tcp")
    return direct


def differences(
    upstream: Address,
    asked: dns.message.Message,
    direct: dns.message.Message | None,
    reply: dns.message.Message | None,
) -> Iterator[str]:
    """Yield in what a forwarded reply is not the server's own."""
    if direct is not None and reply is not None and reply.flags & dns.flags.TC:
        # More than the client takes: cut by us, whoever has cut the server's own.
        whole = ask(upstream, asked, "tcp")
        if not set(told(reply)[2:]) <= set(told(whole)[2:]):
            yield f"cut, and with strangers: {told(reply)}"
        return
    if direct is not None and direct.flags & dns.flags.TC and asked.payload > 1232:
        direct = ask(upstream, asked, "tcp")  # it names fewer octets than the client takes
    if told(direct) != told(reply):
        yield f"server {told(direct)[:6]}, forwarded {told(reply)[:6]}"
    elif any(abs(ttl - ttls(reply)[key]) > TTL_SLACK for key, ttl in ttls(direct).items()):
        yield f"TTLs {ttls(direct)}, forwarded {ttls(reply)}"


@pytest.mark.slow
def test_a_cache_in_front_changes_nothing_but_ttls(upstream, tmp_path):
    """Each question twice over UDP and once over TCP: the first reply, the kept one, the same."""
    corefile = f". {{\n cache 30\n forward . {upstream[0]}:{upstream[1]}\n}}\n"
    found = []
    with peers.clusterdns(corefile, tmp_path) as ours:
        for way in ("edns", "do", "plain"):
            for label, rtype in QUESTIONS:
                asked = query(label, rtype, way)
                ask(upstream, asked, "udp")
                direct = ask(upstream, asked, "udp")
                replies = [
                    ask(ours.address, asked, transport) for transport in ("udp", "udp", "tcp")
                ]
                assert direct is not None
                bare = [line for line in told(direct) if not line.startswith("QR")]
                for reply in replies:
                    assert reply is not None
                    is_whole = not (direct.flags | reply.flags) & dns.flags.TC
                    same = [line for line in told(reply) if not line.startswith("QR")]
                    if is_whole and bare != same:
                        found.append(
                            f"{label} {rtype} {way}: {bare[:5]}, from the cache {same[:5]}"
                        )
                    if is_whole and any(ttl > 30 for ttl in ttls(reply).values()):
                        found.append(f"{label} {rtype} {way}: TTLs {ttls(reply)}")
    assert [] == found, f"{len(found)} differences\n" + "\n".join(found[:8])


def test_a_client_that_is_told_tc_gets_everything_over_tcp(upstream, tmp_path):
    corefile = f". {{\n cache\n forward . {upstream[0]}:{upstream[1]}\n}}\n"
    with peers.clusterdns(corefile, tmp_path) as ours:
        for way in ("plain", "edns", "do"):
            asked = query("big", "TXT", way)
            for _ in range(2):
                cut = ask(ours.address, asked, "udp")
                whole = ask(ours.address, asked, "tcp")
                assert cut is not None
                assert whole is not None
                assert cut.flags & dns.flags.TC
                assert len(cut.to_wire()) <= max(512, asked.payload)
                assert not whole.flags & dns.flags.TC
                assert realupstreams.BIG == sum(
                    len(rrset) for rrset in whole.answer if rrset.rdtype == dns.rdatatype.TXT
                )


def test_a_server_that_restarts_is_asked_again(tmp_path):
    """NSD goes away and comes back at the same port, with a kept TCP connection in between."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        address = first.enter_context(realupstreams.running("nsd", tmp_path / "nsd"))
        corefile = f". {{\n forward . {address[0]}:{address[1]} {{\n  force_tcp\n }}\n}}\n"
        ours = stack.enter_context(peers.clusterdns(corefile, tmp_path))
        asked = query("one", "A", "plain")
        assert told(ask(address, asked, "tcp")) == told(ask(ours.address, asked, "udp"))
        first.close()
        down = ask(ours.address, asked, "udp")
        assert down is not None
        assert down.rcode() == dns.rcode.SERVFAIL
        with realupstreams.running("nsd", tmp_path / "nsd", port=address[1]):
            deadline = time.monotonic() + 3
            while told(ask(address, asked, "tcp")) != told(ask(ours.address, asked, "udp")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
