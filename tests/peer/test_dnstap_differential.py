"""`dnstap` beside CoreDNS 1.15.0: the same messages for the same queries, but for times and ports."""

from __future__ import annotations

import bisect
import random
import time
from pathlib import Path

import beside
import compare
import dns.edns
import dns.flags
import dns.message
import peers
import pytest
import tapreader
from scriptedupstream import ScriptedUpstream
from tapreader import Told

pytestmark = pytest.mark.peer

COREFILE = """. {
    bufsize 1100
    metadata
    log . {
        class error
    }
    dnstap PLACE OPTIONS
    hosts {
        10.0.0.1 a.test two.test
        10.0.0.2 two.test
        fd00::1 a.test
        fallthrough
    }
    template IN TXT long.test {
        answer "{{ .Name }} 5 TXT xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    }
    forward up.test UPSTREAM
    forward tcp.test UPSTREAM {
        force_tcp
    }
    forward gone.test 127.0.0.1:1 {
        max_connect_attempts 1
    }
}
"""
NAMES = (
    "a.test.", "A.tesT.", "two.test.", "no.test.", "long.test.", "www.up.test.", "nx.up.test.",
    "www.tcp.test.", "www.gone.test.",
)  # fmt: skip
OPTIONS = [
    "full",
    "",
    "full {\n identity me\n version 7\n extra \"{type} {name} {rcode} {>id} {port} {>bufsize} {x}\"\n }",
    "full 2 1 {\n extra \"{/forward/upstream} {local} {/log/class}\"\n }",
    "notfull 1 1 more",
    "full\n dnstap PLACE.2 {\n extra second\n }",
]  # fmt: skip


def packets(rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Return queries of all forms, each with its transport."""
    found = []
    for _ in range(count):
        query = dns.message.make_query(rng.choice(NAMES), rng.choice(("A", "AAAA", "TXT", "MX")))
        query.flags = rng.choice((0, dns.flags.RD, dns.flags.RD | dns.flags.AD | dns.flags.CD))
        if rng.random() < 0.6:
            options = [dns.edns.GenericOption(10, b"abcdefgh")] if rng.random() < 0.3 else []
            flags = rng.choice((0, dns.flags.DO))
            query.use_edns(0, flags, rng.choice((512, 1232, 4096)), options=options)
        found.append((rng.choice(("udp", "udp", "tcp")), query.to_wire()))
    return [each for each in found for _ in range(rng.choice((1, 3)))]  # hits of the table


def tell(which, directory: Path, corefile: str, asked: list[tuple[str, bytes]]) -> list[list[Told]]:
    """Return what a server tells each of its readers of the queries."""
    places = [directory / "tap", directory / "tap.2"]
    readers = [tapreader.Reader(place) for place in places]
    try:
        with which(corefile.replace("PLACE", str(places[0])), directory) as server:
            for transport, packet in asked:
                ask = peers.ask_udp if transport == "udp" else peers.ask_tcp
                assert ask(server.address, packet) is not None
            time.sleep(0.1)
        for reader in readers:
            assert not reader.errors, reader.errors
        return [reader.messages for reader in readers]
    finally:
        for reader in readers:
            reader.close()


def difference(theirs: Told, ours: Told) -> str:
    if plain(theirs) != plain(ours):
        return f"\n{theirs}\n{ours}"
    assert ours.query_time <= (ours.response_time or ours.query_time) < ours.query_time + 6
    assert abs(ours.query_time - time.time()) < 60
    is_sent_on = theirs.kind.startswith("FORWARDER")  # with AD and an OPT record of our own
    if is_sent_on and theirs.query is not None and ours.query is not None:
        theirs = theirs._replace(query=plainer(theirs.query))
        ours = ours._replace(query=plainer(ours.query))
    if theirs.query != ours.query:
        return f"queries: {theirs.query!r} {ours.query!r}"
    if theirs.response is None or ours.response is None:
        return "" if theirs.response is ours.response else "one response"
    query = dns.message.make_response(dns.message.make_query(".", "A")).to_wire()
    expected, found = theirs.response, ours.response
    if is_sent_on:
        expected, found = plainer(expected), plainer(found)
    if theirs.kind == "CLIENT_RESPONSE" and not dns.message.from_wire(expected).edns + 1:
        found = without_opt(found)
    return compare.difference(query, expected, found, beside.STRICT)


def without_opt(reply: bytes) -> bytes:
    """Return a reply that the core makes as CoreDNS tells of it: before its OPT is put in."""
    message = dns.message.from_wire(reply)
    is_bare = not (message.answer or message.authority or message.additional)
    if message.edns >= 0 and is_bare and message.rcode():
        return reply[:10] + b"\0\0" + reply[12:-11]
    return reply


def plainer(packet: bytes) -> bytes:
    """Return a message without AD and OPT."""
    message = dns.message.from_wire(packet, one_rr_per_rrset=True)
    message.flags &= ~dns.flags.AD
    message.use_edns(False)
    return message.to_wire()


def plain(said: Told) -> tuple[object, ...]:
    return (
        said.kind, said.family, said.protocol, said.query_address, said.query_port is None,
        said.response_address, said.response_port, said.response_time is None, said.query is None,
        said.identity, said.version, extra(said),
    )  # fmt: skip


def extra(said: Told) -> bytes | None:
    """Return EXTRA without the client's port, the fifth word of one of ``OPTIONS``."""
    words = (said.extra or b"").split()
    if len(words) == 7:
        assert int(words[4]) > 0
        words[4] = b""
    return said.extra and b" ".join(words)


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_messages_are_those_of_coredns(tmp_path, number):
    rng = random.Random(number)
    upstream = ScriptedUpstream([])
    try:
        corefile = COREFILE.replace("OPTIONS", OPTIONS[number]).replace(
            "UPSTREAM", upstream.address
        )
        asked = packets(rng, 60)
        theirs = tell(peers.coredns, tmp_path, corefile, asked)
        ours = tell(peers.clusterdns, tmp_path, corefile, asked)
    finally:
        upstream.stop()
    for their_messages, our_messages in zip(theirs, ours, strict=True):
        # The first queries of all ask whether the server has started.
        some = (by_query(each)[-len(asked) :] for each in (their_messages, our_messages))
        for expected, found in zip(*some, strict=True):
            assert [m.kind for m in expected] == [m.kind for m in found], (expected, found)
            for one, other in zip(expected, found, strict=True):
                assert not difference(one, other)
    assert len(ours[0]) > 2 * len(asked)


def by_query(messages: list[Told]) -> list[list[Told]]:
    """Return the messages of each query: ours about hits of the table come later than others.

    The queries came one after another, so the times tell whose each message is.
    """
    asked = [each for each in messages if each.kind == "CLIENT_QUERY"]
    begun = sorted(each.query_time for each in asked)
    found: list[list[Told]] = [[] for _ in asked]
    for each in messages:
        found[bisect.bisect_right(begun, each.query_time) - 1].append(each)
    order = list(tapreader.KINDS.values())
    order = [order[0], *order[2:], order[1]]
    return [sorted(some, key=lambda each: order.index(each.kind)) for some in found]
