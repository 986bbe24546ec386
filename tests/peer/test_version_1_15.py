"""What CoreDNS 1.15.0 changed in answers, item by item: the same from both, on purpose of each.

Items that other tests hold are not repeated here: TLS of a shared port (test_tls_differential), ICMP
errors and the time of a handshake (test_unreachable), circles of aliases and times of files
(test_file), `expr` and `metadata` (test_template_differential, test_rewrite_differential), UPDATE
(test_dynupdate_differential).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import beside
import compare
import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import peers
import pytest

pytestmark = pytest.mark.peer


class Upstream:
    """A server that does what the first label of a name says, over UDP."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, client = self.sock.recvfrom(4096)
                query = dns.message.from_wire(packet)
                if (reply := self.reply(query)) is not None:
                    self.sock.sendto(reply.to_wire(), client)

    def reply(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        qname, qtype = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{qname} {qtype}")
        words = qname.split(".")[0].split("-")
        reply = dns.message.make_response(query, recursion_available=True)
        reply.use_edns(False)
        if "lost" in words:
            return None
        if "aa" in words:
            reply.flags |= dns.flags.AA
        for word, rcode in (("nx", 3), ("sf", 2), ("re", 5)):
            if word in words and (qtype == "A" or "all" in words):
                reply.set_rcode(rcode)
        if reply.rcode() == 0 and qtype == "A" and "loop" in qname and qname.startswith("a."):
            reply.answer.append(dns.rrset.from_text(qname, 60, "IN", "CNAME", "t.loop."))
        elif reply.rcode() == 0 and qtype == "A" and "none" not in words:
            reply.answer.append(dns.rrset.from_text(qname, 60, "IN", "A", "192.0.2.1"))
        elif reply.rcode() in (0, 3):
            reply.authority.append(dns.rrset.from_text(".", 300, "IN", "SOA", "a. b. 1 2 3 4 300"))
        return reply


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.sock.close()


@contextlib.contextmanager
def both(text: str, directory) -> Iterator[tuple[peers.Server, peers.Server]]:
    with peers.clusterdns(text, directory) as ours, peers.coredns(text, directory) as theirs:
        yield ours, theirs


def differing(servers, packets, rules=beside.UNORDERED) -> list[str]:
    ours, theirs = servers
    found = []
    for packet in packets:
        for ask in (peers.ask_udp, peers.ask_tcp):
            said = compare.difference(
                packet, ask(theirs.address, packet), ask(ours.address, packet), rules
            )
            found += [said] if said else []
    return found


def test_d1_a_hit_has_the_aa_of_what_was_kept(upstream, tmp_path):
    text = f". {{\n cache 30\n forward . {upstream.address}\n}}\n"
    packets = [
        beside.query(f"{word}.d1.test", qtype)
        for word in ("plain", "aa", "nx", "aa-nx", "sf-all", "none")
        for qtype in ("A", "A", "TXT", "TXT")
    ]
    with both(text, tmp_path) as servers:
        assert not differing(servers, packets, beside.UNORDERED._replace(age_s=3))


def test_d2_a_failure_without_a_reply_is_repeated_at_once(upstream, tmp_path):
    """How long it is kept is our own: a second first, CoreDNS five."""
    text = f". {{\n cache 30\n forward . {upstream.address} {{\n read_timeout 300ms\n }}\n}}\n"
    packet = beside.query("lost.d2.test")
    with both(text, tmp_path) as servers:
        for server in servers:
            first = peers.ask_udp(server.address, packet, 8)
            began, asked = time.monotonic(), upstream.asked.count("lost.d2.test. A")
            again = peers.ask_udp(server.address, packet, 8)
            assert [2, 2] == [reply[3] & 15 for reply in (first, again)]
            assert (asked, True) == (
                upstream.asked.count("lost.d2.test. A"),
                time.monotonic() - began < 0.5,
            )


def test_d5_a_notify_is_not_answered_from_the_cache(tmp_path):
    text = '. {\n cache 30\n template IN SOA . {\n answer "{{ .Name }} 60 IN SOA a. b. 1 2 3 4 5"\n }\n}\n'
    notify = bytearray(beside.query("d5.test", "SOA"))
    notify[2] |= dns.opcode.NOTIFY << 3
    packets = [bytes(notify), beside.query("d5.test", "SOA"), bytes(notify)]
    with both(text, tmp_path) as servers:
        assert not differing(servers, packets)
        reply = dns.message.from_wire(peers.ask_udp(servers[0].address, bytes(notify)))
        assert 60 == reply.answer[0].ttl


OPTIONS = [
    dns.edns.GenericOption(3, b""), dns.edns.GenericOption(9, b""), dns.edns.GenericOption(10, b"12345678"),
    dns.edns.GenericOption(11, b""), dns.edns.GenericOption(12, b"\0\0"), dns.edns.ECSOption("192.0.2.0", 24),
    dns.edns.GenericOption(65001, b"x"),
]  # fmt: skip


@pytest.mark.parametrize(
    "plugins",
    ["hosts {\n 192.0.2.1 d7.test\n}", "erratic {\n drop 0\n delay 0\n}", "hosts {\n}\n",
     "cache\n forward . UPSTREAM", "rewrite edns0 local set 65001 y\n hosts {\n 192.0.2.1 d7.test\n}"],
)  # fmt: skip
def test_d7_options_of_the_client_do_not_come_back(upstream, tmp_path, plugins):
    text = f". {{\n {plugins.replace('UPSTREAM', upstream.address)}\n}}\n"
    packets = []
    for flags in (0, dns.flags.DO):
        query = dns.message.make_query("d7.test", "A")
        query.use_edns(0, flags, 1400, options=OPTIONS)
        packets.append(query.to_wire())
    with both(text, tmp_path) as servers:
        assert not differing(servers, packets, beside.UNORDERED._replace(age_s=3))


@pytest.mark.parametrize(
    ("zone", "is_taken"),
    [
        ("@ SOA ns h 1 2 3 4 5\n@ NS ns\n", True), ("sub SOA ns h 1 2 3 4 5\n@ NS ns\n", False),
        ("@ SOA ns h 1 2 3 4 5\nsub SOA ns h 1 2 3 4 5\n", False), ("D20.test. SOA ns h 1 2 3 4 5\n", True),
    ],
)  # fmt: skip
def test_d20_every_soa_is_owned_by_the_zone(tmp_path, zone, is_taken):
    beside.files(tmp_path, {"zone": "$TTL 60\n" + zone})
    refused = beside.start("d20.test {\n file zone\n}\n. {\n erratic\n}\n", tmp_path)
    assert [not is_taken] * 2 == [bool(each) for each in refused], refused


def test_d23_a_long_line_of_a_hosts_file_drops_no_other(tmp_path):
    lines = ["192.0.2.1 a.d23", "192.0.2.2 b.d23 " + "x" * 70_000 + " c.d23", "192.0.2.3 d.d23",
             "2" * 2000 + " e.d23", "192.0.2.4 " + "y" * 1025 + " f.d23", "192.0.2.5 g.d23"]  # fmt: skip
    beside.files(tmp_path, {"hosts": "\n".join(lines) + "\n"})
    packets = [beside.query(f"{letter}.d23") for letter in "abcdefg"]
    with both(". {\n hosts hosts\n}\n", tmp_path) as servers:
        assert not differing(servers, packets)
        assert all(
            dns.message.from_wire(peers.ask_udp(servers[0].address, p)).answer
            for p in packets[:4:3]
        )


def test_d24_dns64_has_the_rcode_of_the_address_lookup(upstream, tmp_path):
    text = f". {{\n dns64 {{\n allow_ipv4\n }}\n forward . {upstream.address}\n}}\n"
    packets = [
        beside.query(f"{word}.d24.test", "AAAA")
        for word in ("plain", "nx", "sf", "re", "aa", "nx-all", "sf-all", "none")
    ]
    with both(text, tmp_path) as servers:
        assert not differing(servers, packets)


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 72, 80, 88, 96, 128])
def test_d25_lengths_of_prefixes(tmp_path, length):
    refused = beside.start(f". {{\n dns64 64:ff9b:1::/{length}\n erratic\n}}\n", tmp_path)
    assert [length in (72, 80, 88, 128)] * 2 == [bool(each) for each in refused]


def test_d26_lookups_of_rewrite_cname_end(upstream, tmp_path):
    text = f". {{\n rewrite cname exact t.loop. a.loop.\n forward . {upstream.address}\n}}\n"
    with both(text, tmp_path) as servers:
        for server in servers:
            before = len(upstream.asked)
            reply = peers.ask_udp(server.address, beside.query("a.loop"), 5)
            assert reply is not None and not reply[3] & 15
            assert 1 <= len(upstream.asked) - before <= 12


def test_d29_a_signature_that_is_not_last_is_formerr(tmp_path):
    secret = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="
    text = (
        f". {{\n tsig {{\n secret k.test. {secret}\n }}\n erratic {{\n drop 0\n delay 0\n }}\n}}\n"
    )
    query = dns.message.make_query("d29.test", "A")
    query.use_tsig(dns.tsig.Key("k.test.", secret))
    packet = query.to_wire()
    packet = (
        packet[:10] + struct.pack("!H", 2) + packet[12:] + bytes.fromhex("0000290400000000000000")
    )
    with both(text, tmp_path) as servers:
        for ask in (peers.ask_udp, peers.ask_tcp):
            theirs, ours = (ask(server.address, packet) for server in reversed(servers))
            assert (1, 1) == (theirs[3] & 15, ours[3] & 15)


def test_d18_servers_that_differ_in_transport_or_name_are_several(tmp_path):
    text = (
        ". {\n forward . 127.0.0.1:853 tls://127.0.0.1:853 tls://127.0.0.1%a.test:853"
        " tls://127.0.0.1%A.test:853 https://127.0.0.1:853\n}\n"
    )
    assert ("", "") == beside.start(text, tmp_path)


def test_d17_host_names_of_servers_are_absolute(tmp_path):
    """`localhost` is in the hosts file, where CoreDNS does not find it with a dot (X5)."""
    for host, expected in (("no-such-host.invalid", [True, True]), ("localhost", [False, True])):
        refused = beside.start(f". {{\n forward . {host}\n}}\n", tmp_path)
        assert expected == [bool(each) for each in refused], (host, refused)


@pytest.mark.parametrize("word", ["text", "json", "xml", ""])
def test_n1_formats_of_the_log(tmp_path, word):
    beside.files(tmp_path, {"Corefile": ". {\n erratic\n}\n"})
    ours = [sys.executable, "-m", "clusterdns"]
    said = []
    for command in (ours, [str(peers.coredns_path())]):
        done = subprocess.run(
            [*command, f"-log-format={word}", "-version"],
            cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        said.append((done.returncode, "unknown log format" in done.stderr))
    assert said[0] == said[1]
