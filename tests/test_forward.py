"""forward, cache and loop through the real binary, with upstream servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import peers
import pytest
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

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
            assert again.flags == first.flags | dns.flags.AA
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


def test_a_silent_upstream_is_servfail_in_time_and_not_kept(upstream, tmp_path):
    text = f"forward . {upstream.address} {{\n read_timeout 200ms\n max_fails 0\n}}\ncache"
    with run(text, tmp_path) as server:
        began = time.monotonic()
        reply = ask(server, "slow.example.com.")
        assert (dns.rcode.SERVFAIL, False) == (reply.rcode(), bool(reply.flags & dns.flags.AA))
        assert time.monotonic() - began < 2
        assert "slow.example.com. A: read udp " in server.output
        ask(server, "slow.example.com.")
        assert upstream.asked("slow.example.com.", A) == 4


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


def test_edns_of_the_client_reaches_the_upstream_and_comes_back(upstream, tmp_path):
    with run(f"forward . {upstream.address}", tmp_path) as server:
        reply = ask(server, "www.example.com.", use_edns=0, payload=1400, want_dnssec=True)
        assert (1400, True) == (reply.payload, bool(reply.ednsflags & dns.flags.DO))


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
