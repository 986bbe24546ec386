"""Small plugins beside a real CoreDNS: random options, and questions that they are about.

Each server block has options of one plugin that a seed chose, over a zone file or an upstream
server; ``MISTAKES`` are Corefiles that both refuse, or both take.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import beside
import compare
import dns.edns
import dns.flags
import dns.message
import peers
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

pytestmark = pytest.mark.peer

ZONE = """@ 60 SOA ns hostmaster 1 2 3 4 5
@ 60 NS ns
@ 60 NS ns2
@ 60 MX 1 ns
ns 60 A 192.0.2.1
ns2 60 A 192.0.2.2
both 60 A 192.0.2.3
both 70 AAAA 2001:db8::3
four 900 A 192.0.2.4
four 900 A 192.0.2.5
six 60 AAAA 2001:db8::6
six 60 AAAA 64:ff9b::c000:207
six 60 AAAA 64:ff9b:0:0:1::1
alias 60 CNAME four
alias6 60 CNAME six
sub 60 NS ns.sub
ns.sub 60 A 192.0.2.9
""" + "".join(f"big 60 A 198.51.100.{i}\n" for i in range(1, 250)) + "".join(
    f"mid 60 TXT \"{'x' * 60}{i}\"\n" for i in range(12)
)  # fmt: skip
LABELS = (
    "",
    "both",
    "four",
    "six",
    "alias",
    "alias6",
    "big",
    "mid",
    "sub",
    "x.sub",
    "none",
    "Four",
)
QTYPES = ("A", "AAAA", "A", "AAAA", "TXT", "MX", "NS", "SOA", "ANY", "HINFO", "CNAME")
FORWARDED = "forward . 127.0.0.1:{PORT}"


def some(dice: random.Random, *words: str) -> str:
    return dice.choice(words)


def bufsize(dice: random.Random) -> str:
    return f"bufsize {some(dice, '', '512', '1232', '700', '4096')}"


def chaos(dice: random.Random) -> str:
    return f"chaos v{dice.randrange(9)} {some(dice, 'Me', 'Me Me', 'Ä')}"


def minimal(dice: random.Random) -> str:
    return "minimal"


def any_(dice: random.Random) -> str:
    return "any"


def nsid(dice: random.Random) -> str:
    return f"nsid {some(dice, 'one', 'one two', 'Zwölf')}"


def cancel(dice: random.Random) -> str:
    return f"cancel {some(dice, '', '4s', '1500ms', '1h')}"


def header(dice: random.Random) -> str:
    lines = [
        f"{some(dice, 'query', 'response', 'Response')} {some(dice, 'set', 'CLEAR')} "
        f"{' '.join(dice.choices(('aa', 'ra', 'rd', 'AA', 'Rd'), k=dice.randint(1, 3)))}"
        for _ in range(dice.randint(1, 4))
    ]
    return "header {\n" + "\n".join(lines) + "\n}"


def local(dice: random.Random) -> str:
    return some(
        dice, "local", *(f"local {{\nlocalhost_prefix {word}\n}}" for word in ("on", "off"))
    )


def acl(dice: random.Random) -> str:
    lines = []
    for _ in range(dice.randint(1, 4)):
        line = some(dice, "allow", "block", "filter", "BLOCK")
        if dice.random() < 0.6:
            line += f" type {' '.join(dice.choices(('A', 'AAAA', 'TXT', 'MX', '*'), k=dice.randint(1, 2)))}"
        if dice.random() < 0.7:
            nets = ("127.0.0.0/8", "10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8", "*", "126.1.1.1/7")
            line += f" net {' '.join(dice.choices(nets, k=dice.randint(1, 3)))}"
        lines.append(line)
    zones = some(dice, "", "", "ZONE", "sub.ZONE four.ZONE", "other.test")
    return f"acl {zones} {{\n" + "\n".join(lines) + "\n}"


def dns64(dice: random.Random) -> str:
    lengths = dice.choice((32, 40, 48, 56, 64, 96))
    lines = [f"prefix 2001:db8:1:2::/{lengths}"] if dice.random() < 0.7 else []
    lines += ["translate_all"] if dice.random() < 0.4 else []
    lines += ["allow_ipv4"] if dice.random() < 0.8 else []
    return "dns64 {\n" + "\n".join(lines) + "\n}" if lines else "dns64"


def siit(dice: random.Random) -> str:
    lines = [f"ipv6_prefix {some(dice, '64:ff9b::/96', '64:ff9b::/64', '2001:db8::/32')}"]
    lines += [f"eam 203.0.113.{i} 2001:db8::{i}" for i in (3, 6) if dice.random() < 0.5]
    return "siit {\n" + "\n".join(lines[dice.randrange(2) :]) + "\n}" if lines[1:] else "siit"


PLUGINS = (bufsize, chaos, minimal, any_, nsid, cancel, header, local, acl, dns64, siit)


def block(dice: random.Random, number: int, plugin: object) -> str:
    lines = [plugin(dice).replace("ZONE", f"z{number}.test")]  # type: ignore[operator]
    lines += dice.sample(("bufsize 900", "minimal", "errors", "cancel", "any"), k=dice.randrange(3))
    lines = [line for i, line in enumerate(lines) if line.split()[0] not in {each.split()[0] for each in lines[:i]}]  # fmt: skip
    source = dice.choice(("file db\n", "file db\n", "erratic {\ndrop 0\n}\n"))
    return f"z{number}.test localhost.z{number}.test {{\n" + "\n".join(lines) + f"\n{source}}}\n"


def packet(dice: random.Random, qname: str, qtype: str = "", qclass: str = "IN") -> bytes:
    """Return the packet of a question asked in one of many ways."""
    made = dns.message.make_query(qname, qtype or dice.choice(QTYPES), qclass)
    made.flags = dice.choice((dns.flags.RD, 0, dns.flags.RD | dns.flags.CD, dns.flags.AD))
    if dice.random() < 0.6:
        options = [dns.edns.GenericOption(3, b"")] if dice.random() < 0.3 else []
        flags = dns.flags.DO if dice.random() < 0.2 else 0
        made.use_edns(0, flags, dice.choice((512, 700, 1232, 4096, 100)), options=options)
    return made.to_wire()


def packets(dice: random.Random, corefile: str, count: int) -> Iterator[bytes]:
    zones = re.findall(r"^(z\d+\.test)", corefile, re.MULTILINE)
    for zone in zones:
        for _ in range(count):
            label = dice.choice((*LABELS, "localhost", "localhost.four", "localhostx"))
            yield packet(dice, f"{label}.{zone}".removeprefix("."))


def better(packet: bytes, reply: bytes | None) -> bytes | None:
    """Return a reply without what CoreDNS should not have set in it.

    Where it says NSID or why it refuses, it sets DO, and gives an OPT to who has sent none.
    """
    if reply is None:
        return None
    message = dns.message.from_wire(reply, one_rr_per_rrset=True, ignore_trailing=False)
    asked = dns.message.from_wire(packet)
    if not any(option.otype in (3, 15) for option in message.options):
        return reply
    at = reply.rindex(b"\0\0\x29")
    if asked.edns < 0:
        return reply[:10] + b"\0\0" + reply[12:at]
    do = 0x80 if asked.ednsflags & dns.flags.DO else 0
    return reply[: at + 7] + bytes((reply[at + 7] & 0x7F | do,)) + reply[at + 8 :]


def differences(corefile: str, asked: list[bytes], directory: Path) -> list[str]:
    found = []
    with (
        peers.clusterdns(corefile, directory) as ours,
        peers.coredns(corefile, directory) as theirs,
    ):
        for each in asked:
            for ask in (peers.ask_udp, peers.ask_tcp, peers.ask_udp):  # and from the table
                their_reply, our_reply = ask(theirs.address, each), ask(ours.address, each)
                is_random = b"authors" in each
                said = compare.difference(
                    each, better(each, their_reply), our_reply,
                    beside.UNORDERED if is_random else beside.STRICT,
                )  # fmt: skip
                found += [f"{ask.__name__} {said}"] if said else []
    return found


@pytest.mark.parametrize("seed", range(2))
def test_random_options_and_questions(seed, tmp_path):
    dice = random.Random(seed)
    (tmp_path / "db").write_text(ZONE)
    corefile = "".join(block(dice, i, plugin) for i, plugin in enumerate((*PLUGINS, *PLUGINS)))
    corefile += (
        "localhost in-addr.arpa bind server {\n" + local(dice) + "\n" + chaos(dice) + "\n}\n"
    )
    asked = list(packets(dice, corefile, 12))
    for qname in (
        "version.bind",
        "Version.Server",
        "authors.bind",
        "hostname.bind",
        "id.server",
        "x.bind",
    ):
        asked += [packet(dice, qname, qtype, "CH") for qtype in ("TXT", "TXT", "A", "ANY")]
        asked.append(packet(dice, qname, "TXT"))
    for qname in ("localhost", "x.Localhost", "127.in-addr.arpa", "1.0.0.127.in-addr.arpa",
                  "2.0.0.127.in-addr.ARPA", "0.in-addr.arpa", "9.in-addr.arpa"):  # fmt: skip
        asked += [packet(dice, qname, qtype) for qtype in (*QTYPES, "PTR")]
    found = differences(corefile, asked, tmp_path)
    assert not found, corefile + f"{len(found)} differences\n" + "\n".join(found[:5])


TIMEOUTS = """. {
    erratic {
        drop 0
    }
    timeouts {
        read 2
        idle 1s
        write 10s
        maxtcpqueries 3
    }
}
"""


@pytest.mark.parametrize("run", [peers.clusterdns, peers.coredns])
def test_timeouts_of_connections(run, tmp_path):
    """A connection ends after so many queries, and when it has been quiet for so long."""
    asked = [beside.query(f"q{i}.test") for i in range(5)]
    with run(TIMEOUTS, tmp_path) as server:
        with socket.create_connection(server.address, 5) as sock:
            sock.sendall(b"".join(len(each).to_bytes(2, "big") + each for each in asked))
            got = [peers.read_frame(sock)[:2] for _ in range(3)]
            assert [each[:2] for each in asked[:3]] == got
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        for first, least_s in ((b"", 1.9), (len(asked[0]).to_bytes(2, "big") + asked[0], 0.9)):
            with socket.create_connection(server.address, 5) as sock:
                began = time.monotonic()
                sock.sendall(first)
                if first:
                    peers.read_frame(sock)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
                assert least_s <= time.monotonic() - began < least_s + 2.1


def test_both_put_an_address_first_as_often_as_its_weight_says(tmp_path):
    (tmp_path / "weights").write_text("a.test\n192.0.2.1 200\n192.0.2.2 50\n")
    entries = "\n".join(f"192.0.2.{i} a.test" for i in range(1, 4))
    corefile = f". {{\nloadbalance weighted weights\nhosts none {{\n{entries}\n}}\n}}"
    shares = []
    for run in (peers.clusterdns, peers.coredns):
        with run(corefile, tmp_path) as server:
            replies = [peers.ask_udp(server.address, beside.query("a.test")) for _ in range(400)]
        answers = [compare.parse(reply or b"").answer for reply in replies]
        assert all(len(answer) == 3 for answer in answers)
        firsts = [answer[0][0].to_text() for answer in answers]
        shares.append(firsts.count("192.0.2.1") / 400)
    assert all(abs(share - 200 / 251) < 0.1 for share in shares), shares


# Each is the body of a server block. CoreDNS takes some that we refuse on purpose: a directive that
# stands twice and counts once, and a block behind one that has none.
REFUSED = (
    "bufsize 511", "bufsize 4097", "bufsize x", "bufsize 512 512", "chaos {\nx\n}", "any x",
    "any {\nx\n}", "minimal x", "cancel 0s", "cancel -1s", "cancel x", "cancel 1s 2s", "header",
    "header {\nquery\n}", "header {\nquery set\n}", "header {\nquery set ad\n}",
    "header {\nquery flip rd\n}", "header {\nboth set rd\n}", "local x", "local {\nx\n}",
    "local {\nlocalhost_prefix\n}", "local {\nlocalhost_prefix maybe\n}", "erratic {\nx\n}",
    "erratic {\ndrop x\n}", "erratic {\ndrop -1\n}", "erratic {\ndelay 1 x\n}",
    "erratic {\ndrop 1 2\n}", "nsid a\nnsid b", "timeouts", "timeouts x",
    "timeouts {\nread 500ms\n}", "timeouts {\nread 25h\n}", "timeouts {\nidle\n}",
    "timeouts {\nmaxtcpqueries 0\n}", "timeouts {\nmaxtcpqueries -2\n}", "timeouts {\nsleep 5s\n}",
    "acl {\npermit\n}", "acl {\nblock net\n}", "acl {\nblock type net 10.0.0.0/8\n}",
    "acl {\nblock type NONSENSE\n}", "acl {\nblock type a\n}", "acl {\nblock net 10.0.0.0/33\n}",
    "acl {\nblock 10.0.0.0/8\n}", "acl {\nblock net 10.0.0.0/255.0.0.0\n}",
    "acl {\nblock net 010.0.0.1\n}", "dns64 64:ff9b::/72", "dns64 64:ff9b::/96 x",
    "dns64 10.0.0.0/32", "dns64 64:ff9b::", "dns64 {\nx\n}", "dns64 {\nprefix\n}", "siit x",
    "siit {\nx\n}", "siit {\neam 1.2.3.4\n}", "siit {\neam ::1 1.2.3.4\n}",
    "siit {\neam 1.2.3.4 1.2.3.4\n}", "siit {\nipv6_prefix 64:ff9b::/97\n}",
    "siit {\nipv6_prefix 64:ff9b:0:0:ff00::/96\n}", "loadbalance weighted",
    "loadbalance weighted a b", "loadbalance random", "loadbalance round_robin x",
    "loadbalance weighted f {\nprefer 10.0.0.0/8\n}", "loadbalance {\nprefer 10.0.0.1\n}",
    "loadbalance weighted f {\nreload x\n}", "loadbalance {\nreload 5s\n}", "proxy . 127.0.0.1",
    "federation", "reverse", "upstream", "kubernetes {\nupstream\n}", "kubernetes {\nresyncperiod 5s\n}",
)  # fmt: skip
TAKEN = (
    "bufsize", "bufsize 512", "chaos", "chaos a b c", "any", "minimal", "nsid", "nsid a b",
    "cancel", "cancel 1ms", "header {\nQUERY Set RD ra\n}", "local", "local {\n}",
    "local {\nlocalhost_prefix off\n}", "erratic {\ndrop\n}", "erratic {\ndelay 0 5ms\ntruncate\nlarge\n}",
    "timeouts {\nread 5\nwrite 1m\nidle 24h\nmaxtcpqueries -1\n}", "acl {\n}", "acl a.test b.test {\nallow\n}",
    "acl {\nBLOCK TYPE A AAAA NET 10.1.2.3/8 ::1 *\n}\nacl {\ndrop\n}", "acl {\nblock type * nonsense\n}",
    "acl {\nblock net 10.0.0.0/8 type A net 11.0.0.1\n}", "dns64", "dns64 64:ff9b::1/32",
    "dns64 {\ntranslate_all\nallow_ipv4\nprefix 2001:db8::/64\n}", "siit",
    "siit {\neam 1.2.3.4 ::1\neam 1.2.3.4 ::1\n}", "loadbalance {\nprefer\n}",
    "loadbalance weighted none", "loadbalance weighted none {\nreload 1h\n}", "loadbalance {\nprefer 10.0.0.1/8 fd00::/8\n}",
)  # fmt: skip


def test_both_refuse_the_same_mistakes(tmp_path):
    def verdicts(body: str) -> tuple[str, str, str]:
        place = tmp_path / str(abs(hash(body)))
        place.mkdir()
        corefile = (
            f". {{\n{body}\nerratic\n}}\n" if "erratic" not in body else f". {{\n{body}\n}}\n"
        )
        try:
            compile_text(corefile, "Corefile", port=53, environ={}, warn=print)
            ours = ""
        except ConfigError as error:
            ours = str(error)
        return body, ours, beside.refusal("coredns", corefile, place)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(verdicts, (*REFUSED, *TAKEN)))
    wrong = [(body, ours, theirs) for body, ours, theirs in found if bool(ours) != bool(theirs)]
    assert not wrong, "\n".join(map(repr, wrong))
    assert {body for body, ours, _ in found if ours} == set(REFUSED)
    assert all(re.match(r"Corefile:\d+: ", ours) for _, ours, _ in found if ours)


COUNTED = """z.test {
    prometheus 127.0.0.1:METRICS
    acl a.z.test {
        block type A net 127.0.0.0/8
        filter type TXT
        drop type MX
    }
    local
    dns64 {
        allow_ipv4
    }
    file db
}
y.test {
    prometheus 127.0.0.1:METRICS
    siit
    erratic {
        drop 0
    }
}
s.test {
    prometheus 127.0.0.1:METRICS
    siit
    file db
}
"""


def counts(
    run: Callable[..., Any], directory: Path
) -> dict[str, tuple[str, str, list[tuple[Any, float]]]]:
    """Return the families of these plugins after some queries: help, type, samples by labels."""
    metrics = peers.free_port()
    with run(COUNTED.replace("METRICS", str(metrics)), directory) as server:
        for qname in ("four.z.test", "a.z.test", "localhost.z.test", "six.s.test", "q.y.test"):
            for qtype in ("A", "A", "A", "AAAA", "AAAA", "AAAA", "TXT", "TXT"):
                assert peers.ask_udp(server.address, beside.query(qname, qtype))
        peers.ask_udp(server.address, beside.query("a.z.test", "MX"), 0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as response:
            text = response.read().decode().replace(f":{server.port}", ":PORT")
    families = text_string_to_metric_families(text)
    return {
        family.name: (
            family.documentation,
            family.type,
            sorted((sorted(sample.labels.items()), sample.value) for sample in family.samples if sample.name.endswith("_total")),
        )
        for family in families
        if re.match(r"coredns_(acl|dns64|siit|local)_", family.name)
    }  # fmt: skip


def test_both_count_the_same(tmp_path):
    (tmp_path / "db").write_text(ZONE)
    ours, theirs = (counts(run, tmp_path) for run in (peers.clusterdns, peers.coredns))
    assert 7 == len(theirs)
    assert theirs == ours
