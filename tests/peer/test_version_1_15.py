"""What CoreDNS 1.15.0 changed in answers (D), and got wrong, where ours differs (X), item by item.

Items that other tests hold are not repeated here: TLS of a shared port (test_tls_differential), ICMP
errors and the time of a handshake (test_unreachable), circles of aliases and times of files
(test_file), `expr` and `metadata` (test_template_differential, test_rewrite_differential), UPDATE
(test_dynupdate_differential); and of CoreDNS's mistakes: kept failures (test_cache, test_flight), the
template that cannot be evaluated (test_template_differential), SIGUSR1 (test_process).
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
from fakeapi import FakeApi

pytestmark = pytest.mark.peer


class Upstream:
    """A server that does what the first label of a name says, over UDP."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"
        self.asked: list[str] = []
        self.delay_s = 0.0  # of names with "slow"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, client = self.sock.recvfrom(4096)
                query = dns.message.from_wire(packet)
                if (reply := self.reply(query)) is None:
                    continue
                wait_s = self.delay_s if "slow" in query.question[0].name.to_text() else 0
                threading.Timer(wait_s, self.send, (reply.to_wire(), client)).start()

    def send(self, reply: bytes, client: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendto(reply, client)

    def reply(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        qname, qtype = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{qname} {qtype}")
        words = qname.split(".")[0].split("-")
        reply = dns.message.make_response(query, recursion_available=True)
        reply.use_edns(False)
        if "lost" in words:
            return None
        if "bare" in words:
            reply.question = []
            return reply
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


def _answered(
    server: peers.Server, packet: bytes, timeout_s: float = 8
) -> tuple[float, dns.message.Message]:
    """Return how many seconds a reply took, and the reply."""
    began = time.monotonic()
    reply = peers.ask_udp(server.address, packet, timeout_s)
    assert reply is not None, server.output
    return time.monotonic() - began, dns.message.from_wire(reply)


ALIAS = {
    "kind": "Service", "metadata": {"name": "out", "namespace": "default"},
    "spec": {"type": "ExternalName", "externalName": "lost.d3.test"},
}  # fmt: skip
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}


def test_d3_an_alias_waits_once_for_a_dead_server(upstream, tmp_path):
    """The failure of the name that it leads to is kept, also where cluster names are not."""
    with FakeApi([NAMESPACE, ALIAS]) as api:
        text = f""". {{
            kubernetes cluster.local {{
                endpoint {api.url}
            }}
            cache 30 {{
                disable success cluster.local
                disable denial cluster.local
            }}
            forward . {upstream.address} {{
                read_timeout 300ms
            }}
        }}
        """
        packet = beside.query("out.default.svc.cluster.local")
        with both(text, tmp_path) as servers:
            for server in servers:
                first_s, first = _answered(server, packet)
                asked = upstream.asked.count("lost.d3.test. A")
                again_s, again = _answered(server, packet)
                assert first_s > 0.25
                assert again_s < 0.2
                assert asked == upstream.asked.count("lost.d3.test. A")
                for reply in (first, again):
                    assert [dns.rdatatype.CNAME] == [rrset.rdtype for rrset in reply.answer]
                    assert dns.rcode.NOERROR == reply.rcode()


def test_d4_what_is_verified_is_asked_for_once(upstream, tmp_path):
    """Four clients ask for a stale reply while the upstream server is slower than they wait."""
    text = f""". {{
        cache 1 {{
            success 100 1 1
            serve_stale 1h verify 300ms
        }}
        forward . {upstream.address}
    }}
    """
    with both(text, tmp_path) as servers:
        for server in servers:
            packet = beside.query("slow.d4.test")
            upstream.delay_s = 0
            _answered(server, packet)
            time.sleep(1.2)
            upstream.delay_s = 1.2
            asked = upstream.asked.count("slow.d4.test. A")
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda _: _answered(server, packet), range(4)))  # noqa: B023
            assert 1 == upstream.asked.count("slow.d4.test. A") - asked
            assert all(reply.answer and took_s < 0.9 for took_s, reply in found), found
            time.sleep(1.1)


@pytest.mark.parametrize(
    "plugins",
    ["cache", "rewrite name suffix .in.test .out.test answer auto", "loadbalance", "minimal",
     "dns64 {\n allow_ipv4\n}", "autopath resolv.conf", "siit", "header {\n response set ra\n}"],
)  # fmt: skip
def test_d6_a_reply_without_a_question_ends_nothing(upstream, tmp_path, plugins):
    beside.files(tmp_path, {"resolv.conf": "search in.test out.test\n"})
    text = f". {{\n errors\n {plugins}\n forward . {upstream.address} {{\n read_timeout 200ms\n }}\n}}\n"
    with both(text, tmp_path) as servers:
        for server in servers:
            for qtype in ("A", "AAAA", "TXT"):
                peers.ask_udp(server.address, beside.query("bare.in.test", qtype), 3)
            assert dns.rcode.NOERROR == _answered(server, beside.query("plain.out.test"))[1].rcode()
            assert "panic" not in server.output.lower()
            assert "Traceback" not in server.output


def test_d13_nobody_replies_where_a_query_is_dropped_behind_autopath(tmp_path):
    """CoreDNS 1.14 panicked there; `drop` means that there is no reply."""
    pod = {"kind": "Pod", "metadata": {"name": "client", "namespace": "default"},
           "status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "phase": "Running"}}  # fmt: skip
    with FakeApi([NAMESPACE, ALIAS, pod]) as api:
        text = f""". {{
            errors
            acl {{
                drop type TXT
            }}
            autopath @kubernetes
            kubernetes cluster.local {{
                endpoint {api.url}
                pods verified
            }}
        }}
        """
        with both(text, tmp_path) as servers:
            for server in servers:
                for qname in ("x.default.svc.cluster.local", "x.y.default.svc.cluster.local"):
                    assert peers.ask_udp(server.address, beside.query(qname, "TXT"), 0.5) is None
                _answered(server, beside.query("out.default.svc.cluster.local", "CNAME"))


@pytest.mark.parametrize("qname", ["sf-all.x7.test", "re-all.x7.test", "plain-none.x7.test"])
def test_x7_siit_replies_once(upstream, tmp_path, qname):
    """CoreDNS 1.15.0 writes two replies of one query if the lookup of AAAA has an error."""
    text = f". {{\n siit\n forward . {upstream.address}\n}}\n"
    packet = beside.query(qname)
    with both(text, tmp_path) as servers:
        counts = []
        for server in servers:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(server.address)
                sock.send(packet)
                sock.settimeout(0.5)
                found = []
                with contextlib.suppress(TimeoutError):
                    while True:
                        found.append(sock.recv(4096))
            counts.append(len(found))
        assert [1, 1 if "none" in qname else 2] == counts


def test_x15_options_of_one_block_do_not_come_back_from_another(tmp_path):
    """CoreDNS 1.15.0 returns them from each block of the process, and `nsid` sets DO."""
    local = "erratic {\n drop 0\n delay 0\n }"
    text = f"a.test {{\n rewrite edns0 local set 65001 x\n {local}\n}}\n"
    text += f"b.test {{\n {local}\n}}\nc.test {{\n nsid me\n {local}\n}}\n"
    with both(text, tmp_path) as servers:
        said = []
        for server in servers:
            for zone in ("b.test", "c.test"):
                query = dns.message.make_query(zone, "A")
                query.use_edns(0, 0, 1400, options=OPTIONS)
                reply = _answered(server, query.to_wire())[1]
                said.append(({int(each.otype) for each in reply.options}, reply.ednsflags != 0))
    assert [(set(), False), ({3}, False), ({65001}, False), ({3}, True)] == said


def test_x16_a_block_inside_of_an_options_line_is_a_mistake(tmp_path):
    """CoreDNS 1.15.0 says that `cache` is twice in the block."""
    text = ". {\n cache {\n success 5000 {\n denial 6000\n }\n servfail 1s\n }\n erratic\n}\n"
    ours, theirs = beside.start(text, tmp_path)
    assert theirs
    assert ":3: {: 'success' takes no block" in ours


def test_x17_an_outage_of_the_api_server_is_told_in_few_lines(tmp_path):
    """CoreDNS 1.15.0 has a line of each kind and attempt, with paths of its source."""
    with FakeApi([NAMESPACE, ALIAS]) as api:
        text = f". {{\n kubernetes cluster.local {{\n endpoint {api.url}\n }}\n}}\n"
        with peers.clusterdns(text, tmp_path) as server:
            _answered(server, beside.query("out.default.svc.cluster.local", "CNAME"))
            before = len(server.output.splitlines())
            api.__exit__()
            time.sleep(3)
            lines = server.output.splitlines()[before:]
    assert 1 <= len(lines) <= 4, lines
    assert not [line for line in lines if ".py" in line or "Traceback" in line]


def test_x19_metrics_that_cannot_be_served_end_the_start(tmp_path):
    """CoreDNS 1.15.0 starts without them."""
    beside.files(tmp_path, {"tls.yml": "tls_server_config:\n  cert_file: none\n  key_file: none\n"})
    text = f". {{\n prometheus 127.0.0.1:{peers.free_port()} {{\n tls tls.yml\n }}\n erratic\n}}\n"
    ours, theirs = beside.start(text, tmp_path)
    assert not theirs
    assert ":3: tls" in ours


def test_x6_servers_over_quic_are_refused(tmp_path):
    text = "a.test {\n forward . quic://127.0.0.1:853\n}\n. {\n erratic\n}\n"
    ours, theirs = beside.start(text, tmp_path)
    assert not theirs
    assert ":2: forward" in ours


def test_x14_a_reload_that_fails_is_an_error_in_json(tmp_path):
    """CoreDNS 1.15.0 logs "[ERROR] Restart failed" with the level INFO."""
    text = ". {\n reload 2s 1s\n erratic\n}\n"
    with peers.clusterdns(text, tmp_path, "-log-format", "json") as server:
        conf = next(tmp_path.glob(f"Corefile-*-{server.port}"))
        conf.write_text(text + ". {\n nonsense\n}\n")
        server.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 8
        while not (said := [each for each in server.output.splitlines() if "nonsense" in each]):
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)
        records = [json.loads(line) for line in server.output.splitlines()]
    assert {"ERROR"} == {json.loads(each)["level"] for each in said}
    assert not [each for each in records if "\n" in each["msg"] or each["msg"].startswith("[")]


def test_failures_that_are_kept_count_as_hits_and_as_replies_of_a_plugin(upstream, tmp_path):
    found = []
    for run in (peers.coredns, peers.clusterdns):
        port = peers.free_port()
        text = f""". {{
            prometheus 127.0.0.1:{port}
            errors
            cache 30
            forward . {upstream.address} {{
                read_timeout 300ms
                max_fails 0
            }}
        }}
        """
        with run(text, tmp_path) as server:
            for qname in (
                "lost.count.test",
                "lost.count.test",
                "sf-all.count.test",
                "sf-all.count.test",
            ):
                _answered(server, beside.query(qname))
            own = f":{server.port}"
            found.append({
                tuple(str(part).replace(own, ":PORT") for part in key): value
                for prefix in ("coredns_cache_", "coredns_dns_responses", "coredns_dns_response_size_bytes_count")
                for key, value in beside.samples(port, prefix).items()
                if "probe" not in str(key)
            })  # fmt: skip
    assert found[0] == found[1]


BEFORE_ACL = [
    "metadata", "cancel 3s", "bufsize 1232", "nsid me", "cookie", "tsig {\n secret k.test. c2VjcmV0\n }", "any",
    "dns64 {\n allow_ipv4\n }", "siit", "loadbalance", "rewrite name suffix .in.test .out.test answer auto",
    "rewrite edns0 local set 65001 x", "rewrite cname exact a.test. b.test.", "autopath resolv.conf", "minimal",
    "header {\n response set ra\n }", "cache 30", "families ipv4", "private", "search {\n domains corp.test\n }",
    "local", "log", "errors", "dnstap tap full", "ratelimit 100", "loop",
]  # fmt: skip


@pytest.mark.parametrize("last", ["acl {\n drop\n }\n erratic", "erratic {\n drop 1\n delay 0\n }"])
def test_nothing_makes_a_reply_of_a_dropped_query(tmp_path, last):
    """Each plugin has a block of its own, in which all queries are dropped behind it."""
    zone = f"svc.p{BEFORE_ACL.index('autopath resolv.conf')}.test"
    beside.files(tmp_path, {"resolv.conf": f"search ns.{zone} {zone}\n"})
    blocks = [f"p{i}.test {{\n {each}\n {last}\n}}\n" for i, each in enumerate(BEFORE_ACL)]
    with (
        peers.clusterdns("".join(blocks), tmp_path) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(server.address)
        for i in range(len(BEFORE_ACL)):
            for qtype in ("A", "AAAA", "TXT"):
                sock.send(beside.query(f"www.example.com.ns.svc.p{i}.test", qtype))
        sock.settimeout(1)
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(dns.message.from_wire(sock.recv(4096)).question[0].to_text())
    families = f"p{BEFORE_ACL.index('families ipv4')}.test. IN AAAA"  # it knows that answer
    assert not [each for each in found if families not in each]


def test_a_search_that_is_dropped_on_its_way_is_left_to_the_client(tmp_path):
    with FakeApi([NAMESPACE]) as api:
        text = f"""invalid {{
            erratic {{
                drop 0
            }}
        }}
        . {{
            search cluster.local {{
                domains corp.test
            }}
            kubernetes cluster.local {{
                endpoint {api.url}
            }}
            erratic {{
                drop 1
            }}
        }}
        """
        qname = "www.example.com.default.svc.cluster.local"
        with peers.clusterdns(text, tmp_path) as server:
            deadline = time.monotonic() + 10
            while (
                reply := _answered(server, beside.query(qname))[1]
            ).rcode() == dns.rcode.SERVFAIL:
                assert time.monotonic() < deadline
            assert (dns.rcode.NXDOMAIN, []) == (reply.rcode(), reply.answer)


@pytest.mark.parametrize(
    ("status", "qname", "qtype", "found"),
    [({"podIP": "10.1.0.2"}, "10-1-0-2", "A", "10.1.0.2"),
     ({"podIP": "10.1.0.3", "podIPs": [{"ip": "fd00::7"}]}, "10-1-0-3", "A", "10.1.0.3"),
     ({"podIP": "10.1.0.3", "podIPs": [{"ip": "fd00::7"}]}, "fd00--7", "AAAA", "fd00::7"),
     ({"podIPs": [{"ip": "10.1.0.4"}, {"ip": "FD00:0:0::8"}]}, "fd00--8", "AAAA", "fd00::8")],
)  # fmt: skip
def test_x13_a_pod_has_all_its_addresses_in_any_notation(tmp_path, status, qname, qtype, found):
    """CoreDNS 1.15.0 finds the third alone."""
    pod = {"kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
           "status": {"phase": "Running", **status}}  # fmt: skip
    packet = beside.query(f"{qname}.default.pod.cluster.local", qtype)
    with FakeApi([NAMESPACE, pod]) as api:
        text = f". {{\n kubernetes cluster.local {{\n endpoint {api.url}\n pods verified\n }}\n}}\n"
        with both(text, tmp_path) as servers:
            said = []
            for server in servers:
                deadline = time.monotonic() + 10
                while (reply := _answered(server, packet)[1]).rcode() == dns.rcode.SERVFAIL:
                    assert time.monotonic() < deadline
                said.append([each.to_text() for rrset in reply.answer for each in rrset])
    assert [[found], [found] if qname == "fd00--7" else []] == said


def test_x18_who_waits_for_the_refresh_of_another_gets_its_reply(upstream, tmp_path):
    """CoreDNS 1.15.0 gives a stale reply to all but the first, although the refresh is in time."""
    text = f""". {{
        cache 1 {{
            success 100 1 1
            serve_stale 1h verify 3s
        }}
        forward . {upstream.address}
    }}
    """
    packet, fresh = beside.query("slow.x18.test"), []
    with both(text, tmp_path) as servers:
        for server in servers:
            upstream.delay_s = 0
            _answered(server, packet)
            time.sleep(1.2)
            upstream.delay_s = 0.5
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda _: _answered(server, packet), range(4)))  # noqa: B023
            fresh.append(sum(reply.answer[0].ttl > 0 for _, reply in found))
    assert [4, 1] == fresh
