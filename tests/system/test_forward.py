"""forward, cache and loop through the real binary, with upstream servers that misbehave.

Then `forward` alone, in this process, and what it makes of odd replies beside a real CoreDNS.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import peers
import pytest
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

from clusterdns.config.compile import Configuration, compile_text
from clusterdns.errors import ConfigError
from clusterdns.forwarding import flight, lookup
from clusterdns.forwarding.outside import Outside
from clusterdns.plugins.forward import Forward
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response

A, HINFO = 1, 13
WWW = Scripted("www.example.com.", "answer", ttl=300, rtype=A, rdata="192.0.2.1")
ALSO = Scripted("www.example.com.", "answer", ttl=20, rtype=A, rdata="192.0.2.2")


@pytest.fixture
def upstream():
    made = ScriptedUpstream(
        [
            WWW,
            Scripted("broken.example.com.", "servfail"),
            Scripted("slow.example.com.", "timeout"),
            Scripted("empty.example.com.", "nodata"),
            Scripted("bare.example.com.", "nxdomain", has_soa=False),
        ]
    )
    yield made
    made.stop()


def ask(server: peers.Server, qname: str, *, tcp: bool = False, **options) -> dns.message.Message:
    query = dns.message.make_query(qname, options.pop("rtype", "A"), **options).to_wire()
    wire = (
        peers.ask_tcp(server.address, query, 8) if tcp else peers.ask_udp(server.address, query, 8)
    )
    assert wire is not None
    return dns.message.from_wire(wire)


def run(text: str, directory: Path):
    return peers.clusterdns(f". {{\n errors\n{text}\n}}\n", directory)


def test_an_answer_is_passed_on_and_kept(upstream, tmp_path):
    with run(f"forward . {upstream.address}\ncache 30", tmp_path) as server:
        first = ask(server, "www.example.com.")
        assert first.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA  # the upstream has no AA
        assert [30] == [rrset.ttl for rrset in first.answer]
        for _ in range(3):  # from the cache, then from the table
            again = ask(server, "WWW.example.com.")
            assert again.flags == first.flags
            assert again.answer[0].name.to_text() == "WWW.example.com."
            assert 29 <= again.answer[0].ttl <= 30
        assert upstream.asked("www.example.com.", A) == 1


def test_ttls_count_down(upstream, tmp_path):
    with run(
        f"forward . {upstream.address}\ncache 2 {{\n success 2000 2 1\n}}", tmp_path
    ) as server:
        seen, deadline = set(), time.monotonic() + 5
        while upstream.asked("www.example.com.", A) < 2 and time.monotonic() < deadline:
            seen.add(ask(server, "www.example.com.").answer[0].ttl)
            time.sleep(0.02)
        assert seen == {1, 2}


@pytest.mark.parametrize(
    ("qname", "rcode", "asked"),
    [
        ("broken.example.com.", dns.rcode.SERVFAIL, 1),
        ("empty.example.com.", dns.rcode.NOERROR, 1),
        ("nothing.example.com.", dns.rcode.NXDOMAIN, 1),
        ("bare.example.com.", dns.rcode.NXDOMAIN, 3),  # no SOA: not kept
    ],
)
def test_negative_replies(upstream, tmp_path, qname, rcode, asked):
    with run(f"forward . {upstream.address}\ncache", tmp_path) as server:
        for _ in range(3):
            assert ask(server, qname).rcode() == rcode
        assert upstream.asked(qname, A) == asked


def test_a_silent_upstream_is_servfail_in_time_and_kept_for_a_second(upstream, tmp_path):
    text = f"forward . {upstream.address} {{\n read_timeout 200ms\n max_fails 0\n}}\ncache"
    with run(text, tmp_path) as server:
        began = time.monotonic()
        reply = ask(server, "slow.example.com.")
        assert (dns.rcode.SERVFAIL, False) == (reply.rcode(), bool(reply.flags & dns.flags.AA))
        assert time.monotonic() - began < 2
        assert "slow.example.com. A: read udp " in server.output
        errors = server.output.count("slow.example.com. A: read udp ")
        began = time.monotonic()
        assert dns.rcode.SERVFAIL == ask(server, "slow.example.com.").rcode()
        assert time.monotonic() - began < 0.2
        assert 2 == upstream.asked("slow.example.com.", A)
        assert errors == server.output.count("slow.example.com. A: read udp ")
        time.sleep(max(0.0, began + 1.1 - time.monotonic()))
        ask(server, "slow.example.com.")
        assert 4 == upstream.asked("slow.example.com.", A)


def test_others_do_not_wait_for_a_silent_upstream(upstream, tmp_path):
    with run(f"forward . {upstream.address}", tmp_path) as server:
        query = dns.message.make_query("slow.example.com.", "A").to_wire()
        with socket.create_connection(server.address, 5) as sock:
            sock.sendall(b"".join(len(query).to_bytes(2, "big") + query for _ in range(40)))
            began = time.monotonic()
            for _ in range(20):
                assert ask(server, "www.example.com.").answer
            assert time.monotonic() - began < 1


def test_a_dead_upstream_is_passed_over_and_taken_up_again(upstream, tmp_path):
    dead = peers.free_port()
    text = (
        f"forward . 127.0.0.1:{dead} {upstream.address} {{\n"
        " policy sequential\n health_check 100ms\n read_timeout 500ms\n}"
    )
    with run(text, tmp_path) as server:
        for _ in range(5):
            assert ask(server, "www.example.com.").answer
        began = time.monotonic()
        time.sleep(0.6)  # probes fail meanwhile
        assert ask(server, "www.example.com.").answer
        assert time.monotonic() - began < 0.9


def test_a_reply_to_another_question_is_formerr(tmp_path):
    with (
        liar(lambda query: other_question(query)) as address,
        run(f"forward . {address}", tmp_path) as server,
    ):
        assert ask(server, "www.example.com.").rcode() == dns.rcode.FORMERR


def test_forged_ids_and_garbage_are_waited_out(tmp_path):
    def lie(query: bytes) -> list[bytes]:
        right = dns.message.make_response(dns.message.from_wire(query))
        right.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "A", "192.0.2.7"))
        wire = right.to_wire()
        return [b"", b"x", bytes((wire[0] ^ 1,)) + wire[1:], query[:2] + b"\x81\x80junk", wire]

    with liar(lie) as address, run(f"forward . {address}", tmp_path) as server:
        assert str(ask(server, "www.example.com.").answer[0][0]) == "192.0.2.7"


def test_truncation_goes_to_the_client_unless_udp_is_preferred(tmp_path):
    cut = ScriptedUpstream([WWW, ALSO, Scripted("www.example.com.", "truncated", keep=1)])
    try:
        with run(f"forward . {cut.address}", tmp_path) as server:
            assert ask(server, "www.example.com.").flags & dns.flags.TC
            assert len(ask(server, "www.example.com.", tcp=True).answer[0]) == 2
        with run(f"forward . {cut.address} {{\n prefer_udp\n}}", tmp_path) as server:
            assert len(ask(server, "www.example.com.").answer[0]) == 2
    finally:
        cut.stop()


def test_options_choose_who_is_asked(upstream, tmp_path):
    other = ScriptedUpstream([ALSO, Scripted("in.example.org.", "answer", 9, 1, A, "192.0.2.9")])
    text = (
        f"forward example.com {upstream.address} {{\n except www.example.com\n next NXDOMAIN\n}}\n"
        f"forward . {other.address}"
    )
    try:
        with run(text, tmp_path) as server:
            assert str(ask(server, "www.example.com.").answer[0][0]) == "192.0.2.2"
            assert ask(server, "in.example.org.").answer
            ask(server, "nothing.example.com.")
            assert upstream.asked("nothing.example.com.", A) == 1
            assert other.asked("nothing.example.com.", A) == 1
    finally:
        other.stop()


def test_max_concurrent_is_refused(upstream, tmp_path):
    with run(f"forward . {upstream.address} {{\n max_concurrent 2\n}}", tmp_path) as server:
        query = dns.message.make_query("slow.example.com.", "A").to_wire()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(server.address)
            sock.settimeout(3)
            for _ in range(3):
                sock.send(query)
            assert dns.message.from_wire(sock.recv(512)).rcode() == dns.rcode.REFUSED


def test_edns_is_between_the_client_and_us_and_between_us_and_the_upstream(tmp_path):
    """DO goes on, and what `rewrite edns0` names; the upstream's options come back."""
    seen: list[dns.message.Message] = []
    said = dns.edns.GenericOption(65001, b"from upstream")

    def answer(query: bytes) -> list[bytes]:
        seen.append(dns.message.from_wire(query))
        reply = dns.message.make_response(seen[-1])
        reply.use_edns(0, payload=4000, options=[said])
        return [reply.to_wire()]

    options = [dns.edns.GenericOption(code, b"x" * 8) for code in (10, 65001, 65002)]
    with liar(answer) as upstream:
        for rewriting, sizes, codes in (
            ("", 1232, []),
            ("bufsize 900", 900, []),
            ("rewrite edns0 local append 65001 y", 1232, [65001]),
            ("rewrite edns0 local set 65003 y", 1232, [65003]),
        ):
            with run(f"{rewriting}\nforward . {upstream}", tmp_path) as server:
                for edns in ({}, {"use_edns": 0, "payload": 1400, "options": options}):
                    seen.clear()
                    want_dnssec = bool(edns)
                    reply = ask(server, "www.example.com.", want_dnssec=want_dnssec, **edns)
                    assert (0, sizes) == (seen[0].edns, seen[0].payload)
                    assert want_dnssec == bool(seen[0].ednsflags & dns.flags.DO)
                    assert codes == sorted({option.otype for option in seen[0].options})
                    if edns:
                        assert want_dnssec == bool(reply.ednsflags & dns.flags.DO)
                        assert 65001 in [option.otype for option in reply.options]
                    elif not rewriting.startswith("rewrite"):
                        assert -1 == reply.edns


def test_a_forwarding_loop_fails_outside_names_and_leaves_our_own(tmp_path):
    corefile = ". {\n errors\n loop\n forward . 127.0.0.1:{PORT}\n}\nown.example {\n whoami\n}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        deadline = time.monotonic() + 10
        while "Loop (" not in server.output and time.monotonic() < deadline:
            time.sleep(0.05)
        assert f'-> :{server.port}) detected for zone "."' in server.output
        began = time.monotonic()
        assert ask(server, "www.example.com.").rcode() == dns.rcode.SERVFAIL
        assert time.monotonic() - began < 1
        assert ask(server, "own.example.").additional
        assert server.process.poll() is None


def test_no_loop_where_there_is_none(upstream, tmp_path):
    with run(f"loop\nforward . {upstream.address}", tmp_path) as server:
        deadline = time.monotonic() + 5
        while not any(qtype == HINFO for _, qtype in upstream.queries):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ask(server, "www.example.com.").answer
        assert "Loop" not in server.output


def other_question(query: bytes) -> list[bytes]:
    asked = dns.message.from_wire(query)
    wrong = dns.message.make_query("evil.example.", "A")
    wrong.id = asked.id
    return [dns.message.make_response(wrong).to_wire()]


@contextlib.contextmanager
def liar(lie):
    """Run a UDP server that answers each query with the datagrams that ``lie`` makes of it."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()

        def serve() -> None:
            while True:
                query, client = sock.recvfrom(4096)
                if query == b"stop":
                    return
                for datagram in lie(query):
                    sock.sendto(datagram, client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{address[1]}"
        finally:
            with socket.socket(type=socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"stop", address)
            thread.join(5)


# ---- the plugin alone


class Chain:
    """The plugins of one block, started in the running loop."""

    def __init__(self, text: str) -> None:
        self.configuration = compiled(text)
        self.view = self.configuration.views[0]

    async def __aenter__(self) -> Chain:
        for plugin in self.view.plugins:
            await plugin.start(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        for plugin in self.view.plugins:
            await plugin.stop()

    async def ask(self, qname: str = "www.example.com.", transport: str = "udp") -> Response:
        question = question_of(qname)
        query = Query(1, message.RD, question, None, 50)
        query.transport = transport
        return await self.view.handle(query)

    def count(self, what: str) -> collections.Counter[tuple[str, ...]]:
        found = collections.Counter[tuple[str, ...]]()
        for plugin in self.view.plugins:
            for metric, labels, value in plugin.samples():
                if metric == what:
                    found[labels] += value
        return +found


def compiled(text: str) -> Configuration:
    return compile_text(f". {{\n{text}\n}}\n", "Corefile", port=53, environ={}, warn=print)


def question_of(qname: str) -> Question:
    wire = name.parse(qname)
    return Question(wire, name.fold(wire), rr.A)


def outcome(text: str, *qnames: str) -> list[tuple[int, bytes]]:
    """Return RCODE and last octet of the address that a block gives for each name, in turn."""

    async def test() -> list[tuple[int, bytes]]:
        async with Chain(text) as chain:
            found = [await chain.ask(qname) for qname in qnames or ("www.example.com.",)]
            return [(r.rcode, r.answer[0].rdata[3:] if r.answer else b"") for r in found]

    return asyncio.run(asyncio.wait_for(test(), 20))


@pytest.fixture
def pair():
    """Two servers: the first fails www, has no data for half., and does not know gone."""
    made = [
        ScriptedUpstream(
            [
                Scripted("www.example.com.", "servfail"),
                Scripted("half.example.com.", "nodata"),
                Scripted("slow.example.com.", "timeout"),
            ]
        ),
        ScriptedUpstream(
            [
                Scripted(f"{label}.example.com.", "answer", 60, 1, A, "192.0.2.2")
                for label in ("www", "half", "gone")
            ]
        ),
    ]
    yield made
    for upstream in made:
        upstream.stop()


def test_failover_asks_the_next_server(pair):
    both = f"forward . {pair[0].address} {pair[1].address} {{\n policy sequential\n"
    assert [(rr.SERVFAIL, b"")] == outcome(both + "}")
    assert [(rr.NOERROR, b"\2")] == outcome(both + "failover SERVFAIL REFUSED\n}")
    backwards = f"forward . {pair[1].address} {pair[0].address} {{\n policy sequential\n"
    assert [(rr.NOERROR, b"\2")] == outcome(backwards + "failover SERVFAIL\n}")


def test_the_last_reply_counts_where_all_fail_over(pair):
    async def test() -> None:
        dead = f"127.0.0.1:{peers.free_port()}"
        options = "{\n policy sequential\n failover SERVFAIL\n max_fails 0\n}"
        for servers in (pair[0].address, f"{pair[0].address} {dead}", f"{dead} {pair[0].address}"):
            async with Chain(f"forward . {servers} {options}") as chain:
                response = await chain.ask()
                assert (rr.SERVFAIL, False) == (response.rcode, response.bare)

    asyncio.run(test())
    assert pair[0].asked("www.example.com.", A) == 3


def test_next_asks_the_forward_behind(pair):
    first, second = (f"forward . {upstream.address}" for upstream in pair)
    names = ("half.example.com.", "gone.example.com.")
    for options, expected in [
        ("", [(0, b""), (3, b"")]),
        ("next NXDOMAIN\n", [(0, b""), (0, b"\2")]),
        ("next_on_nodata\n", [(0, b"\2"), (3, b"")]),
        ("next nxdomain SERVFAIL\n next_on_nodata\n", [(0, b"\2"), (0, b"\2")]),
    ]:
        assert expected == outcome(f"{first} {{\n{options}}}\n{second}", *names)
        # Behind the last one there is nobody to ask.
        assert [(0, b""), (3, b"")] == outcome(f"{first} {{\n{options}}}\nwhoami", *names)


def test_round_robin_asks_all_alike(pair):
    text = f"forward . {pair[0].address} {pair[1].address} {{\n policy round_robin\n}}"
    assert [0, 2, 0, 2] == [rcode for rcode, _ in outcome(text, *["www.example.com."] * 4)]


def test_names_that_are_forwarded(pair):
    behind = Response()
    for excepted, qname, is_mine in [
        ("www.example.com", "gone.example.com.", True),
        ("www.example.com", "www.example.com.", False),
        ("www.example.com", "sub.www.example.com.", False),
        ("www.example.com", "example.com.", True),
        ("www.example.com", "xexample.com.", False),
        ("www.example.com", "com.", False),
        ("example.com", "example.com.", True),  # FROM itself, whatever is excepted
        ("example.com", "gone.example.com.", False),
    ]:
        text = f"forward example.com {pair[1].address} {{\n except {excepted}\n}}\nwhoami"
        plugin = compiled(text).views[0].chain[0]
        assert isinstance(plugin, Forward)
        found = plugin.answer(question_of(qname), lambda _question: behind)
        assert found is (None if is_mine else behind), qname


def test_attempts_are_limited(pair):
    dead = f"127.0.0.1:{peers.free_port()}"
    text = f"forward . {dead} {pair[1].address} {{\n policy sequential\n max_connect_attempts "
    assert [(rr.SERVFAIL, b"")] == outcome(f"{text}1\n}}")
    assert [(rr.NOERROR, b"\2")] == outcome(f"{text}2\n}}")


@pytest.mark.parametrize(
    ("options", "least", "most"), [("", 2, 2), ("max_connect_attempts 0\n", 4, 14)]
)
def test_a_refusing_server_is_not_asked_without_end(monkeypatch, options, least, most):
    async def test() -> None:
        text = f"forward . 127.0.0.1:{peers.free_port()} {{\n max_fails 0\n {options}}}"
        async with Chain(text) as chain:
            response = await chain.ask()
            assert (rr.SERVFAIL, True) == (response.rcode, response.bare)
            assert response.error.endswith(": connection refused")
            dials = chain.count("proxy_conn_cache_misses_total")
            assert least <= sum(dials.values()) <= most

    monkeypatch.setattr(flight, "DEADLINE_S", 0.4)
    asyncio.run(test())


def test_all_attempts_together_end_in_time(pair, monkeypatch):
    async def test() -> None:
        text = f"forward . {pair[0].address} {{\n read_timeout 10s\n}}"
        async with Chain(text) as chain:
            began = time.monotonic()
            response = await chain.ask("slow.example.com.")
            assert time.monotonic() - began < 1
            assert response.error == f"read udp {pair[0].address}: i/o timeout"

    monkeypatch.setattr(flight, "DEADLINE_S", 0.2)
    asyncio.run(test())


def test_where_all_are_down_one_is_tried_unless_it_shall_fail_fast():
    async def test(options: str) -> list[str]:
        text = f"forward . 127.0.0.1:{peers.free_port()} {{\n health_check 10ms\n {options}}}"
        async with Chain(text) as chain:
            errors = []
            deadline = time.monotonic() + 5
            while not chain.count("forward_healthcheck_broken_total"):
                assert time.monotonic() < deadline
                errors.append((await chain.ask()).error)
                await asyncio.sleep(0.01)
            errors.append((await chain.ask()).error)
            assert sum(chain.count("proxy_healthcheck_failures_total").values()) >= 3
            return errors

    assert "no healthy proxies" not in asyncio.run(test(""))
    assert asyncio.run(test("failfast_all_unhealthy_upstreams\n"))[-1] == "no healthy proxies"


def test_a_client_that_goes_away_frees_its_place(pair):
    async def test() -> None:
        async with Chain(f"forward . {pair[0].address} {{\n max_concurrent 1\n}}") as chain:
            task = asyncio.create_task(chain.ask("slow.example.com."))
            await asyncio.sleep(0.05)
            response = await chain.ask()
            assert (rr.REFUSED, True) == (response.rcode, response.bare)
            assert response.error == "concurrent queries exceeded maximum 1"
            task.cancel()
            await asyncio.wait([task])
            response = await chain.ask()
            assert (rr.SERVFAIL, False) == (response.rcode, response.bare)
            assert {(): 1} == chain.count("forward_max_concurrent_rejects_total")

    asyncio.run(test())


def test_in_a_loop_nothing_is_forwarded(pair):
    async def test() -> None:
        async with Chain(f"forward . {pair[1].address}") as chain:
            chain.view.block.shared(Outside).is_looping = True
            response = await chain.ask()
            assert (rr.SERVFAIL, True) == (response.rcode, response.bare)
            assert "loop" in response.error
            chain.view.block.shared(Outside).is_looping = False
            assert (await chain.ask()).answer

    asyncio.run(test())
    assert pair[1].asked("www.example.com.", A) == 1


@pytest.mark.parametrize(
    ("options", "transport", "proto"),
    [
        ("", "udp", "udp"),
        ("", "tcp", "tcp"),
        ("force_tcp\n", "udp", "tcp"),
        ("prefer_udp\n", "tcp", "udp"),
        ("force_tcp\n prefer_udp\n", "udp", "tcp"),
    ],
)
def test_how_the_server_is_asked(pair, options, transport, proto):
    async def test() -> None:
        async with Chain(f"forward . {pair[1].address} {{\n{options}}}") as chain:
            assert (await chain.ask(transport=transport)).answer
            labels = ("forward", pair[1].address)
            assert {(*labels, proto): 1} == chain.count("proxy_conn_cache_misses_total")
            (sample,) = [
                (found, value)
                for plugin in chain.view.plugins
                for metric, found, value in plugin.samples()
                if metric == "proxy_request_duration_seconds"
            ]
            assert ((*labels, "NOERROR"), 1) == (sample[0], sum(sample[1][:-1]))

    asyncio.run(test())


# ---- configuration


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("192.0.2.1", [("192.0.2.1", 53)]),
        ("192.0.2.1:5353 dns://192.0.2.2", [("192.0.2.1", 5353), ("192.0.2.2", 53)]),
        ("2001:db8::1 [2001:db8::2] [2001:db8::3]:5353",
         [("2001:db8::1", 53), ("2001:db8::2", 53), ("2001:db8::3", 5353)]),
        ("192.0.2.1 192.0.2.1:53 dns://192.0.2.1:53", [("192.0.2.1", 53)]),
        ("192.0.2.1:853 tls://192.0.2.1 tls://192.0.2.1%a.test tls://192.0.2.1%A.test",
         [("192.0.2.1", 853)] * 3),
        ("DIR/resolv.conf", [("192.0.2.7", 53), ("2001:db8::7", 53), ("fe80::1%lo", 53)]),
        ("DIR/empty.conf 192.0.2.1", [("192.0.2.1", 53)]),
        (" ".join(f"192.0.2.{i}" for i in range(15)), [(f"192.0.2.{i}", 53) for i in range(15)]),
    ],
)  # fmt: skip
def test_servers(servers, expected, tmp_path):
    (tmp_path / "empty.conf").write_text("search example.com\n# nameserver 192.0.2.9\n")
    (tmp_path / "resolv.conf").write_text(
        "nameserver 192.0.2.7 # the first\nnameserver\nnameserver nobody\nsearch a\n"
        "nameserver 2001:db8::7\nnameserver fe80::1%lo\n"
    )
    (plugin,) = compiled(f"forward . {servers.replace('DIR', str(tmp_path))}").plugins
    assert isinstance(plugin, Forward)
    assert expected == [one[:2] for one in plugin._destinations]


def test_a_host_name_is_looked_up():
    (plugin,) = compiled("forward . localhost:5300").plugins
    assert isinstance(plugin, Forward)
    assert ("127.0.0.1", 5300) in [one[:2] for one in plugin._destinations]


def test_host_names_are_absolute_but_in_the_hosts_file(tmp_path, monkeypatch):
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.8 Up  # here\n2001:db8::8 other up.\nnobody up\n")
    monkeypatch.setattr(lookup, "HOSTS_FILE", hosts)
    asked: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", ("192.0.2.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (plugin,) = compiled("forward . up elsewhere down.test.").plugins
    assert isinstance(plugin, Forward)
    expected = ["192.0.2.8", "2001:db8::8", "192.0.2.9"]
    assert expected == [one.host for one in plugin._destinations]
    assert ["elsewhere.", "down.test."] == asked


@pytest.mark.parametrize(
    "text",
    [
        "forward",
        "forward .",
        "forward . a..b",
        "forward . nobody.invalid",
        "forward . " + "a" * 300,
        "forward . 127.0.0.1:0",
        "forward . 127.0.0.1:dns",
        "forward . quic://127.0.0.1",
        "forward . tls://127.0.0.1%",
        "forward . tls://127.0.0.1%a.test {\n tls_servername b.test\n}",
        "forward . tls://127.0.0.1:0",
        "forward . [::1]53",
        "forward . [::1]:",
        "forward . https://127.0.0.1/dns-query",
        "forward . https://127.0.0.1 {\n doh_method PUT\n}",
        "forward . https3://127.0.0.1",
        "forward . /dev/null",
        "forward a..b 127.0.0.1",
        "forward . " + " ".join(["127.0.0.1"] * 16),
        *(
            f"forward . 127.0.0.1 {{\n {option}\n}}"
            for option in """
                except; force_tcp yes; prefer_udp yes; max_fails; max_fails -1; max_fails 4294967296
                max_connect_attempts -1; health_check; health_check -1s; health_check soon
                health_check 1s domain; health_check 1s domain a..b; health_check 1s often
                expire; expire -1s; max_age 5s; max_idle_conns -1; read_timeout 0; read_timeout -1s
                policy; policy slowest; policy random random; max_concurrent -1; next; next NOBODY
                next_on_nodata yes; failover; failover NOERROR; failfast_all_unhealthy_upstreams no
                source_address; source_address here; tls_servername; tls_servername a b
                tls nowhere.pem; tls nowhere.pem key.pem; tls a b c d; doh_method; doh_method get
                resolver; resolver dns.test; resolver 127.0.0.1:0; unknown
            """.replace("\n", ";").split(";")
            if option.strip()
        ),
    ],
)
def test_mistakes_name_their_line(text):
    with pytest.raises(ConfigError, match=r"^Corefile:[23]: "):
        compiled(text)


def test_every_option_is_taken():
    options = """
        except a.test 10.0.0.0/9; force_tcp; prefer_udp; expire 1m; max_age 2m; max_idle_conns 5
        max_fails 4294967295; max_connect_attempts 0; max_concurrent 1000; read_timeout 1s
        health_check 0s; health_check 1s no_rec domain example.org; policy sequential
        next NXDOMAIN nxrrset; next SERVFAIL; next_on_nodata; failover REFUSED BADSIG
        failfast_all_unhealthy_upstreams; source_address 127.0.0.1; doh_method GET
    """
    text = "forward . 127.0.0.1 {\n" + re.sub(r";", "\n", options) + "}"
    (plugin,) = compiled(text).plugins
    assert isinstance(plugin, Forward)
    made = plugin._settings.options
    assert (60, 120, 5) == made.idle
    assert (1, False, True) == (made.probe_interval_s, made.probe_recursion, made.probe_tcp)
    assert {rr.NXDOMAIN, 8, rr.SERVFAIL} == plugin._settings.next


# ---- odd replies, beside a real CoreDNS

_SOA = "authority example.com. 60 SOA ns.example.com. h.example.com. 1 2 3 4 60"
_ALIAS = "answer @ 20 CNAME b.test."
_ANSWER = "answer @ 300 A 192.0.2.1"
_RECORDS = {
    "answer": _ANSWER,
    "ttl-0": "answer @ 0 A 192.0.2.1",
    "least-ttl": "answer @ 20 A 192.0.2.1; authority com. 9 NS a.test.; additional a. 7 A 1.1.1.1",
    "alias": f"{_ALIAS}; answer b.test. 12 A 192.0.2.1",
    "alias-backwards": f"answer b.test. 12 A 192.0.2.1; {_ALIAS}",
    "alias-of-itself": f"{_ALIAS}; answer b.test. 12 CNAME @",
    "fork": f"{_ALIAS}; answer @ 20 CNAME c.test.; answer b.test. 9 A 192.0.2.1",
    "lone-alias": _ALIAS,
    "lone-alias-soa": f"{_ALIAS}; {_SOA}",
    "another-name": "answer evil.test. 300 A 192.0.2.66",
    "another-type": "answer @ 300 TXT x",
    "nothing": "",
    "referral": "authority example.com. 300 NS ns.test.; additional ns.test. 300 A 1.1.1.1",
    "no-data": _SOA,
}


def reply_with(query: bytes, records: str = "", *, rcode: int = 0, flags: int = 0) -> bytes:
    """Return a reply with records such as ``answer @ 300 A 192.0.2.1``; @ is the name asked for."""
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked, recursion_available=True)
    made.flags |= flags
    for record in filter(None, records.split("; ")):
        section, owner, ttl, *rest = record.split(" ", 4)
        qname = asked.question[0].name.to_text()
        rtype, rdata = rest[0], rest[1].replace("@", qname)
        rrset = dns.rrset.from_text(owner.replace("@", qname), int(ttl), "IN", rtype, rdata)
        getattr(made, section).append(rrset)
    made.set_rcode(dns.rcode.Rcode(rcode))
    return made.to_wire()


def odd_replies() -> dict[str, Callable[[bytes], list[bytes]]]:
    """Return what an upstream server may do: of a query, by the first label of its name."""
    made: dict[str, Callable[[bytes], list[bytes]]] = {}
    for label, records in _RECORDS.items():
        made[label] = lambda query, records=records: [reply_with(query, records)]
    for flag in ("AA", "TC", "AD", "CD"):
        bit = int(dns.flags.Flag[flag])
        made[flag] = lambda query, bit=bit: [reply_with(query, _ANSWER, flags=bit)]
    for rcode in range(1, 7):
        for label, records in {"": "", "-soa": _SOA, "-answer": _ANSWER}.items():
            made[f"rcode-{rcode}{label}"] = lambda query, rcode=rcode, records=records: [
                reply_with(query, records, rcode=rcode)
            ]

    def right(query: bytes) -> bytes:
        return reply_with(query, _ANSWER)

    made["another-question"] = other_question
    made["no-question"] = lambda query: [query[:2] + b"\x81\x80" + bytes(8)]
    made["qr-0"] = lambda query: [query[:2] + b"\x01" + right(query)[3:]]
    made["cut-short"] = lambda query: [right(query)[:-3]]
    made["cut-short-then-right"] = lambda query: [right(query)[:-3], right(query)]
    made["trailing"] = lambda query: [right(query) + b"abc"]
    made["noise"] = lambda query: [
        b"",
        query[:2] + b"\x81\x80",
        bytes((query[0] ^ 1,)) + right(query)[1:],
        right(query),
    ]
    return {label.lower(): lie for label, lie in made.items()}


@pytest.mark.peer
@pytest.mark.parametrize("cache", ["", "cache 30"])
def test_odd_replies_come_out_as_coredns_passes_them(cache, tmp_path):
    """Asked for three times in each of three ways, on both servers: replies and queries agree."""
    odd = odd_replies()
    asked = collections.Counter[str]()

    def lie(query: bytes) -> list[bytes]:
        label = query[13 : 13 + query[12]].decode().lower()
        asked[label] += 1
        return odd[label](query) if label in odd else [reply_with(query, rcode=3)]

    ways = [{}, {"use_edns": 0, "want_dnssec": True}, {"flags": dns.flags.RD | dns.flags.AD}]
    found: list[dict[str, Any]] = []
    with liar(lie) as upstream:
        options = "{\n read_timeout 300ms\n max_fails 0\n}"
        corefile = f". {{\n forward . {upstream} {options}\n{cache}\n}}\n"
        for run_server in (peers.coredns, peers.clusterdns):
            asked.clear()
            with run_server(corefile, tmp_path) as server:
                told = {
                    label: [
                        (i, printed(ask(server, f"{label}.example.com.", **way)))
                        for i, way in enumerate(ways)
                        for _ in range(3)
                    ]
                    for label in odd
                }
            found.append({label: (replies, asked[label]) for label, replies in told.items()})
    if not cache:  # AD is told to who understands it, also where the upstream tells everybody
        for _, reply in found[0]["ad"][0][:3]:
            reply[0] = reply[0].removesuffix(" AD")
    # We ask once more: only forgers reply to another question, and the right reply is lost.
    for label in ("another-question", "no-question", "qr-0"):
        replies, count = found[0][label]
        found[0][label] = replies, 2 * count
    for label, expected in found[0].items():
        assert expected == found[1][label], label


def printed(reply: dns.message.Message) -> list[str]:
    """Return a reply without its ID, the records of each section in an order of their own."""
    sections = [
        sorted(f"{i} {line}" for rrset in section for line in rrset.to_text().splitlines())
        for i, section in enumerate(reply.sections)
    ]
    edns = (reply.edns, reply.payload, reply.ednsflags)
    return [dns.flags.to_text(reply.flags), dns.rcode.to_text(reply.rcode()), str(edns)] + [
        line for section in sections for line in section
    ]
