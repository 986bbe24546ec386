"""hosts beside a real CoreDNS: random files, entries and options, and questions about all of them.

Each server block has addresses of its own, so that each has its reverse names, and a zone file
behind `hosts`, which shows what falls through.
"""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import beside
import compare
import dns.message
import peers
import pytest

pytestmark = pytest.mark.peer

BLOCKS = 12
QUESTIONS = 45  # about each block
QTYPES = ("A", "A", "A", "AAAA", "AAAA", "PTR", "MX", "TXT", "ANY", "SOA", "CNAME", "HTTPS")
LABELS = ("a", "B", "node-1", "_tcp", "x" * 63, "*", "w", "0", "sub", "host.dots", "xn--n3h")
NOISE = (
    "# a comment", "", "   ", "10.0.0.1", "not-an-address a", "256.1.1.1 a", "1.2.3 a", "::1%lo",
    "10.0.0.01 octal", "::ffff:10.9.9.9 mapped", "1::2::3 twice", "#", "\x0b\x0c\r", "fe80::1%eth0 zoned",
    "-1.0.0.0 x", "0x0a.0.0.1 hex", "10.0.0.1/8 masked", "1.2.3.4.5 five", "+1.2.3.4 plus",
)  # fmt: skip
SEPARATORS = (" ", "\t", "  ", " \t", "\x0b", "\x0c", "\r ")
ZONE = """@ 60 SOA ns hostmaster 1 2 3 4 5
@ 60 NS ns
* 60 A 192.0.2.1
* 60 TXT "fell through"
* 60 PTR fell.through.
"""


class Block:
    """One server block of random options, its hosts file, and what it may be asked about."""

    def __init__(self, dice: random.Random, number: int, directory: Path) -> None:
        self.dice = dice
        self.number = number
        self.zone = f"z{number}.test"
        self.reverse = f"{number}.10.in-addr.arpa"
        self.reverse6 = f"{number:x}.0.0.0.0.0.d.f.ip6.arpa"
        self.names = [self._name() for _ in range(6)]
        self.addresses = [self._address() for _ in range(5)]
        self.file = f"hosts{number}"
        if dice.random() < 0.9:
            lines = [self._line() for _ in range(dice.randrange(12))]
            text = "\n".join(lines) + dice.choice(("", "\n"))
            (directory / self.file).write_text(text, newline="")
        (directory / f"db{number}").write_text(ZONE)

    def _name(self) -> str:
        labels = self.dice.choices(LABELS, k=self.dice.randrange(3))
        if self.dice.random() < 0.3:
            labels.insert(0, "*")
        suffix = self.dice.choice((self.zone, self.zone, f"sub.{self.zone}", "elsewhere.test"))
        return ".".join((*labels, suffix)) + self.dice.choice(("", "."))

    def _address(self) -> str:
        last = self.dice.randrange(4)
        v6 = self.dice.choice(
            (f"fd00:{self.number:x}::{last}", f"FD00:{self.number:x}:0:0::{last}")
        )
        return self.dice.choice((f"10.{self.number}.0.{last}", v6))

    def _line(self) -> str:
        if self.dice.random() < 0.15:
            return self.dice.choice(NOISE)
        words = [self.dice.choice(self.addresses), *self._some_names()]
        found = "".join(word + self.dice.choice(SEPARATORS) for word in words)
        return found + self.dice.choice(("", "", "# 10.0.0.1 no", "#"))

    def _some_names(self) -> list[str]:
        return [self.dice.choice(self.names) for _ in range(self.dice.randint(1, 3))]

    def corefile(self) -> str:
        dice, lines = self.dice, list[str]()
        for _ in range(dice.randrange(5)):
            lines.append(" ".join((dice.choice(self.addresses), *self._some_names())))
        lines += [line for line in ("ttl 60", "no_reverse", "reload 0") if dice.random() < 0.3]
        if dice.random() < 0.6:
            zones = ("", self.zone, f"sub.{self.zone}", f"a.{self.zone} {self.reverse}")
            lines.append(f"fallthrough {dice.choice(zones)}")
            if dice.random() < 0.3:
                lines.append("fallthrough_unsupported")
        zones = ("", "", self.zone, f"sub.{self.zone}", f"{self.zone} {self.reverse}", ".")
        block = "\n        ".join(lines)
        behind = f"file db{self.number}" if dice.random() < 0.8 else ""
        return f"""{self.zone} {self.reverse} {self.reverse6} {{
    hosts {self.file} {dice.choice(zones)} {{
        {block}
    }}
    {behind}
}}
"""

    def packets(self) -> list[bytes]:
        return [self._packet() for _ in range(QUESTIONS)]

    def _packet(self) -> bytes:
        dice, qtype = self.dice, self.dice.choice(QTYPES)
        if qtype == "PTR" and dice.random() < 0.8:
            qname = self._reverse_name()
        else:
            qname = dice.choice(self.names).replace("*", dice.choice("*yw"), 1)
            qname = qname if self.zone in qname else f"{dice.choice('aw')}.sub.{self.zone}"
        qname = dice.choice((qname, qname, qname.upper(), f"y.{qname}"))
        edns = dice.choice((None, None, 512, 1232))
        return beside.query(qname, qtype, edns=edns, do=dice.random() < 0.1)

    def _reverse_name(self) -> str:
        last = self.dice.randrange(5)
        if self.dice.random() < 0.6:
            return f"{last}.0.{self.reverse}"
        digits = "0" * 23 + str(last)
        return ".".join(self.dice.choice((digits, digits, digits[2:]))[::-1]) + "." + self.reverse6


@pytest.mark.parametrize("seed", range(2))
def test_random_files_and_questions(seed, tmp_path):
    dice = random.Random(seed)
    blocks = [Block(dice, number, tmp_path) for number in range(1, BLOCKS + 1)]
    packets = [packet for block in blocks for packet in block.packets()]
    assert 300 <= len(packets)
    corefile = "".join(block.corefile() for block in blocks)
    found = beside.differences(corefile, packets, tmp_path)
    assert not found, corefile + f"{len(found)} differences\n" + "\n".join(found[:5])


class Pair:
    """Both servers, asked the same; ``rcodes`` are those of ours."""

    def __init__(self, ours: peers.Server, theirs: peers.Server, packets: list[bytes]) -> None:
        self._ours, self._theirs, self._packets = ours, theirs, packets

    def ask(self) -> tuple[list[int], list[str]]:
        """Return our RCODEs, and how our replies differ."""
        rcodes, found = [], []
        for packet in self._packets:
            their_reply = peers.ask_udp(self._theirs.address, packet)
            our_reply = peers.ask_udp(self._ours.address, packet)
            said = compare.difference(packet, their_reply, our_reply, beside.STRICT)
            found += [said] if said else []
            rcodes.append(dns.message.from_wire(our_reply or b"").rcode())
        return rcodes, found


def test_reloads_take_up_the_same(tmp_path):
    """What was asked for in vain is there after a change, what is gone is not."""
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 old.test\n10.0.0.1 both.test\n")
    corefile = ". {\n hosts hosts {\n reload 300ms\n ttl 7\n }\n}\n"
    names = ("old.test", "new.test", "both.test")
    packets = [beside.query(each, qtype) for each in names for qtype in ("A", "AAAA")]
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        pair = Pair(ours, theirs, packets)
        assert ([0, 0, 2, 2, 0, 0], []) == pair.ask()
        path.write_text("10.0.0.2 new.test\nfd00::1 both.test\n")
        deadline = time.monotonic() + 5
        while (last := pair.ask()) != ([2, 2, 0, 0, 0, 0], []):
            assert time.monotonic() < deadline, last
            time.sleep(0.05)


def test_metrics_are_the_same(tmp_path):
    (tmp_path / "hosts").write_text("10.0.0.1 a b\nfd00::1 a *.c\n10.0.0.2 b\n")
    found = []
    for run in (peers.clusterdns, peers.coredns):
        port = peers.free_port()
        corefile = f""". {{
    prometheus 127.0.0.1:{port}
    multisocket 2
    hosts hosts {{
        192.0.2.1 inline
    }}
}}
"""
        with run(corefile, tmp_path):
            found.append(beside.samples(port, "coredns_hosts_"))
    assert found[0] == found[1]
    assert 2 == len(found[0])


# Corefiles that both take, or both refuse.
TAKEN = (
    "hosts", "hosts missing", "hosts . ", "hosts hosts", "hosts hosts example.org",
    "hosts hosts 10.0.0.0/8", "hosts {\n 10.0.0.1 a\n}", "hosts {\n fallthrough\n}",
    "hosts {\n fallthrough a.test\n ttl 5\n}", "hosts {\n ttl 65535\n}", "hosts {\n reload 0\n}",
    "hosts {\n reload 300ms\n}", "hosts {\n reload 1h2m\n}", "hosts {\n no_reverse\n}",
    "hosts {\n fallthrough\n fallthrough_unsupported\n}", "hosts {\n a b c\n}", "hosts {\n}",
    "hosts {\n fallthrough_unsupported\n fallthrough\n}", 'hosts {\n "10.0.0.1 a" b\n}',
    "hosts {\n ttl 5\n ttl 6\n reload 1s\n reload 2s\n}", "hosts {\n ttl 60 70\n}",
)  # fmt: skip
REFUSED = (
    "hosts\nhosts", "hosts {\n ttl\n}", "hosts {\n ttl 0\n}", "hosts {\n ttl 65536\n}",
    "hosts {\n ttl -1\n}", "hosts {\n ttl 1s\n}", "hosts {\n reload\n}", "hosts {\n reload 5\n}",
    "hosts {\n reload -1s\n}", "hosts {\n reload 1s 2s\n}", "hosts {\n fallthrough\n 10.0.0.1 a\n}",
    "hosts {\n fallthrough_unsupported\n}", "hosts {\n fallthrough\n fallthrough_unsupported a\n}",
    "hosts hosts/below", "hosts {\n fallthrough\n bogus yes\n}",
)  # fmt: skip


@pytest.mark.parametrize("lines", [*TAKEN, *REFUSED])
def test_both_take_and_refuse_the_same_corefiles(lines, tmp_path):
    (tmp_path / "hosts").touch()
    ours, theirs = beside.start(f". {{\n{lines}\nwhoami\n}}\n", tmp_path)
    assert (lines in REFUSED) == bool(theirs), theirs
    assert bool(theirs) == bool(ours), ours or theirs
    if ours:
        assert re.search(r"/Corefile-clusterdns-\d+:[23456]: \S+: ", ours), ours
