"""template beside a real CoreDNS: random rules, templates and questions, and mistakes.

Each server block is one zone with some rules, and a zone file behind them, which shows what falls
through. Templates and regular expressions come from lists that cover the two languages; how they
are put together is random.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import beside
import dns.message
import dns.rcode
import peers
import pytest

pytestmark = pytest.mark.peer

BLOCKS = 14
QUESTIONS = 40  # about each block
REGEXPS = (
    "", "", r"^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)\.", r"^(?P<x>[^.]+)\.(.*)$", r"^([a-z]+)([0-9]*)\.", ".*",
    r"(?i)^IP-([0-9]+)", r"^[^.]+\.[^.]+\.$", r"a|b", r"(?P<e>q)?", r"^x(?P<a>[0-9a-f]{2})\.", r"\bip\b",
    r"^([[:alpha:]]+)-?(\d*)", r"(?U)^(.+)\.", r"\Aa", r"\.test\.$", r"^(a+)+\.", r"nothing[.]at[.]all",
)  # fmt: skip
TEMPLATES = (
    "{{ .Name }} 60 IN A 10.0.0.1", "{{ .Name }} A 10.0.0.2", "{{ .Name }} 1h IN AAAA fd00::1",
    "{{ .Zone }} 30 IN SOA ns.{{ .Zone }} admin.{{ .Zone }} 1 2 3 4 5", "{{ .Name }} IN 5 MX 10 {{ .Zone }}",
    "{{ .Name }} 60 IN A 10.{{ .Group.a }}.{{ .Group.b }}.1", "{{ .Name }} 60 IN TXT '{{ .Match }}'",
    "{{ .Name }} 60 IN TXT {{ len .Match }} {{ .Class }} {{ .Type }}", "{{ .Name }} 7 CH TXT v",
    "{{ .Name }} 60 IN CNAME a.target.test.", "{{ .Name }} 60 IN CNAME gone.target.test.",
    "{{ .Name }} 60 IN TXT w{{ index .Match 0 }}", "{{ .Name }} 60 IN TXT x{{ index .Match 1 }}",
    "{{ .Name }} 60 IN TXT {{ range $i, $m := .Match }}{{ $i }}={{ $m }},{{ end }}",
    "{{ .Name }} 60 IN TXT {{ if .Group.a }}a{{ .Group.a }}{{ else }}none{{ end }}",
    "{{ .Name }} 60 IN A 10.0.0.{{ parseInt .Group.x 16 8 }}", "{{ .Name }} 60 IN PTR {{ .Group.x }}.",
    '{{ .Name }} 60 IN TXT {{ printf `%03d|%s` 7 .Type }}', "{{ .Question.Name }} 60 IN NS ns.{{ .Zone }}",
    "{{ .Name }} 60 IN TXT {{ .Question.Qtype }} {{ .Question.Qclass }} {{ .Message.RecursionDesired }}",
    "{{ .Name }} 60 IN TXT {{ .Message.Id }} {{ .Message.CheckingDisabled }}", "{{ .Name }} 60 IN TXT {{ .Remote }}",
    "{{ .Name }} 60 IN SRV 0 1 80 {{ .Zone }}", "{{ .Name }} 60 IN TXT {{ .Meta `a/b` }}-", "*.{{ .Name }} 60 IN A 1.2.3.4",
    "{{ .Name }} 60 IN TXT {{ .Regex | len }}", "{{ .Nothing }}", "{{ .Name }} 60 IN A 10.0.0.{{ .Group.nothing }}",
    "{{ .Name }} 60 IN", "no record", "relative 60 IN A 10.0.0.3", "{{ .Name }} 60 IN HTTPS 1 . alpn=h2",
    "{{ .Name }} 60 IN CAA 0 issue ca.test", "{{ .Name }} 60 IN TYPE65280 \\# 2 0102", "{{ .Name }} 4294967295 IN A 1.2.3.4",
    "{{ .Name }} 60 IN A 1.2.3.4 ; a comment", "{{ .Name }} 60 IN A 1.2.3.4 5", "{{ .Name }} 60 IN TXT ( a b )",
    "{{ .Name }} 60 IN TXT {{ if and (eq .Type `A`) (ne .Class `CH`) }}yes{{ else }}no{{ end }}",
    "{{ .Name }} 60 IN TXT {{ slice .Name 0 1 }} {{ html `<` }} {{ not .Group.a }}",
)  # fmt: skip
VARIABLES = (
    ("n", "len(name())"), ("s", "split(name(), '.')"), ("f", "first(split(name(), '.'))"),
    ("b", "type() == 'A' and class() == 'IN'"), ("g", "group('a')"), ("h", "group(0) + group(1) + group(9)"),
    ("m", "{k: type(), l: [1, 2.5]}"), ("r", "replace(name(), '.', '-')"), ("c", "client_ip() + proto()"),
    ("o", "opcode() + (do() ? 1 : 0)"), ("u", "upper(name()) contains 'A'"), ("z", "nil"), ("p", "bufsize() + size()"),
    ("i", "server_ip() + metadata('a/b')"), ("x", "let y = 2; map(1..3, # * y)"), ("q", "name()[:2] matches '^[a-i]'"),
)  # fmt: skip
CONDITIONS = (
    "true", "name() startsWith 'a'", "len(name()) % 2 == 0", "incidr(client_ip(), '127.0.0.0/8')", "type() in ['A', 'TXT']",
    "not (name() contains '-')", "any([1, 2, 3], # > 2)", "'text' ?? 'other'", "proto() == 'udp' || name() endsWith '.test.'",
    "metadata('a/b') == ''", "get({a: true}, 'a')", "1", "nil", "group('x') == '' ?: false",
)  # fmt: skip
CLASSES = ("IN", "IN", "IN", "ANY", "CH")
QTYPES = ("A", "AAAA", "TXT", "ANY", "MX", "SRV", "CNAME", "PTR")
RCODES = ("NOERROR", "NXDOMAIN", "SERVFAIL", "YXDOMAIN")
NAMES = (
    "", "ip-1-2.", "IP-10-20.", "a.", "ab12.", "x0f.", "xzz.", "a.b.c.", "ip.", "sub.", "x1e.sub.", "q.",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa.", "1.", "*.", "under_score.", "\\000odd\\.dot.", "with\\032blank.",
)  # fmt: skip
ZONE = """@ 60 SOA ns hostmaster 1 2 3 4 5
@ 60 NS ns
* 60 A 192.0.2.1
* 60 TXT "fell through"
"""
TARGET = """target.test {
    file target
}
"""
TARGET_ZONE = """@ 60 SOA ns hostmaster 1 2 3 4 5
@ 60 NS ns
a 9 A 192.0.2.7
a 9 AAAA fd00::7
"""


class Block:
    """One zone with random rules."""

    def __init__(self, dice: random.Random, number: int, directory: Path) -> None:
        self.dice = dice
        self.zone = f"z{number}.test"
        self.behind = ""
        if dice.random() < 0.8:
            self.behind = f"file db{number}"
            (directory / f"db{number}").write_text(ZONE)

    def corefile(self) -> str:
        rules = "".join(self._rule() for _ in range(self.dice.randint(1, 4)))
        return f"{self.zone} {{\n{rules}    {self.behind}\n}}\n"

    def _rule(self) -> str:
        dice = self.dice
        lines = []
        for regexp in dice.sample(REGEXPS, dice.randint(1, 2)):
            lines += [f"match {quoted(regexp)}"] if regexp else []
        variables = dice.sample(VARIABLES, dice.choice((0, 0, 1, 3)))
        lines += [f"expr {quoted(dice.choice(CONDITIONS))}"] if dice.random() < 0.3 else []
        for section, most in (("answer", 3), ("additional", 1), ("authority", 1)):
            for _ in range(dice.randint(section == "answer", most)):
                lines.append(f"{section} {quoted(dice.choice(TEMPLATES))}")
        for word, _ in variables:
            lines.append(
                f'answer "{{{{ .Name }}}} 60 IN TXT w{{{{ .Var.{word} }}}} {{{{ .Var.no }}}}"'
            )
        lines += [f"rcode {dice.choice(RCODES)}"] if dice.random() < 0.3 else []
        zones = ("", f" {self.zone}", f" sub.{self.zone}")
        lines += [f"fallthrough{dice.choice(zones)}"] if dice.random() < 0.6 else []
        dice.shuffle(lines)
        lines = [f"var {word} {quoted(text)}" for word, text in variables] + lines
        head = f"template {dice.choice(CLASSES)} {dice.choice(QTYPES)}{dice.choice(zones)}"
        return f"    {head} {{\n" + "".join(f"        {line}\n" for line in lines) + "    }\n"

    def packets(self) -> list[bytes]:
        dice = self.dice
        return [
            beside.query(
                dice.choice(NAMES) + self.zone + ".",
                dice.choice(QTYPES),
                edns=dice.choice((None, None, 1232)),
                do=dice.random() < 0.1,
            )
            for _ in range(QUESTIONS)
        ]


def quoted(text: str) -> str:
    """Return a word of a Corefile: in quotes only an escaped quote is another than it looks."""
    return '"' + text.replace('"', '\\"') + '"'


@pytest.mark.parametrize("seed", range(2))
def test_random_rules_and_questions(seed, tmp_path):
    dice = random.Random(seed)
    blocks = [Block(dice, number, tmp_path) for number in range(BLOCKS)]
    (tmp_path / "target").write_text(TARGET_ZONE)
    packets = [packet for block in blocks for packet in block.packets()]
    assert 300 <= len(packets)
    corefile = "".join(block.corefile() for block in blocks) + TARGET
    found = beside.differences(corefile, packets, tmp_path)
    assert not found, corefile + f"{len(found)} differences\n" + "\n".join(found[:5])


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_makes_the_same_records(template, tmp_path):
    corefile = f"""z.test {{
    template ANY ANY {{
        match "^x(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<x>[0-9a-f]+)[.]"
        answer {quoted(template)}
        authority "{{{{ .Zone }}}} 5 IN NS ns.{{{{ .Zone }}}}"
        ederror 15 why
    }}
}}
{TARGET}"""
    (tmp_path / "target").write_text(TARGET_ZONE)
    packets = [
        beside.query(f"x{a}.Z.test.", qtype, edns=edns, do=True)
        for a in ("1-2-f", "1-2-fff", "256-0-1")
        for qtype in ("A", "TXT")
        for edns in (512, 1400)
    ]
    found = beside.differences(corefile, packets, tmp_path)
    assert not found, "\n".join(found[:3])


def test_metrics_are_the_same(tmp_path):
    found = []
    for run in (peers.clusterdns, peers.coredns):
        metrics = peers.free_port()
        corefile = f"""z.test a.test {{
    prometheus 127.0.0.1:{metrics}
    template IN A a.test {{
        match ^ok
        answer "{{{{ .Name }}}} 60 IN A 10.0.0.1"
        fallthrough
    }}
    template ANY ANY {{
        match ^bad
        answer "{{{{ .Nothing }}}}"
        fallthrough
    }}
    template IN TXT {{
        authority "no {{{{if  .Name}}}} record {{{{- end }}}}"
    }}
}}
"""
        with run(corefile, tmp_path) as server:
            for qname in (
                "ok.a.test.",
                "ok.a.test.",
                "ok.a.test.",
                "bad.a.test.",
                "bad.z.test.",
                "no.z.test.",
            ):
                for qtype in ("A", "TXT"):
                    assert peers.ask_udp(server.address, beside.query(qname, qtype))
            some = beside.samples(metrics, "coredns_template_").items()
            text = {tuple(map(str, key)): value for key, value in some}
            found.append({str(key).replace(f":{server.port}'", ":53'"): text[key] for key in text})
    assert found[1] == found[0]
    assert 6 <= len(found[0])


def test_what_cannot_be_evaluated_is_not_about_the_question(tmp_path):
    """CoreDNS says SERVFAIL, whatever `fallthrough` says, and logs nothing."""
    corefile = """. {
    template IN A {
        match "^(.*)[.]x[.]$"
        expr incidr(group(1), '10.0.0.0/8')
        answer "{{ .Name }} 60 IN A 10.0.0.1"
        fallthrough
    }
    template IN A {
        answer "{{ .Name }} 60 IN A 10.0.0.2"
    }
}
"""
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for qname, found in {"10.1.2.3.x.": "10.0.0.1", "8.8.8.8.x.": "10.0.0.2"}.items():
            for server in (ours, theirs):
                reply = dns.message.from_wire(
                    peers.ask_udp(server.address, beside.query(qname)) or b""
                )
                assert found == reply.answer[0][0].to_text()
        packet = beside.query("none.x.")
        their_reply = dns.message.from_wire(peers.ask_udp(theirs.address, packet) or b"")
        assert dns.rcode.SERVFAIL == their_reply.rcode()
        for _ in range(3):
            our_reply = dns.message.from_wire(peers.ask_udp(ours.address, packet) or b"")
            assert "10.0.0.2" == our_reply.answer[0][0].to_text()
        assert 1 == ours.output.count("plugin/template: expression for none.x. cannot be evaluated")


TAKEN = (
    "template IN A {\n var a 1\n var b a + 1\n expr b == 2\n}", "template IN A {\n expr group(1) == 'x'\n}",
    'template IN A {\n expr "any([1], # > 0)"\n}', "template IN A {\n expr 1\n expr 'a'\n}",
    "template IN A", "template ANY ANY {\n}", "template CH TXT a.test b.test", "template IN A {\n match a b c\n}",
     "template IN A {\n rcode NXDOMAIN\n}", "template IN A {\n ederror 15 a\n}",
    "template IN A {\n ederror 65535\n}", "template IN A {\n fallthrough a.test\n upstream\n}", 'template IN A {\n answer "no record"\n}',
    "template IN A\ntemplate IN A", "template NONE HTTPS {\n rcode BADKEY\n}", 'template IN A {\n match "(?<a>x)"\n}',
    'template IN A {\n answer "{{ .Nothing }}"\n}', "template HS MX",
)  # fmt: skip
REFUSED = (
    "template IN A {\n var a\n}", "template IN A {\n var a-b 1\n}", "template IN A {\n var len 1\n}",
    "template IN A {\n var not 1\n}", "template IN A {\n var name 1\n}", "template IN A {\n var a 1\n var a 1\n}",
    "template IN A {\n expr\n}", "template IN A {\n expr nothing()\n}", "template IN A {\n expr name() + 1\n}",
    "template IN A {\n var a 1\n expr a + 'x'\n}", "template IN A {\n expr type('x')\n}", "template IN A {\n var a 1 +\n}",
    "template IN A {\n expr b\n var b 1\n}", "template IN A {\n expr incidr('a')\n}",
    "template IN A {\n answer {{ .Name }}\n}",
    "template", "template IN", "template XX A", "template IN XX", "template in A", "template IN a", "template IN A {\n bogus\n}",
    "template IN A {\n match\n}", 'template IN A {\n match "("\n}', 'template IN A {\n match "(?=a)"\n}',
    'template IN A {\n match "a**"\n}', "template IN A {\n answer\n}", 'template IN A {\n answer "{{ .Name"\n}',
    'template IN A {\n answer "{{ nothing }}"\n}', 'template IN A {\n additional "{{ end }}"\n}', "template IN A {\n authority\n}",
    "template IN A {\n rcode\n}", "template IN A {\n rcode NOPE\n}", "template IN A {\n rcode BADVERS\n}", "template IN A {\n ederror\n}",
    "template IN A {\n ederror 65536\n}", "template IN A {\n ederror x\n}", "template IN A {\n ederror 1 a b\n}",
    "template IN TYPE1", "template CLASS1 A",
)  # fmt: skip


@pytest.mark.parametrize("lines", [*TAKEN, *REFUSED])
def test_both_take_and_refuse_the_same_corefiles(lines, tmp_path):
    ours, theirs = beside.start(f". {{\n{lines}\nwhoami\n}}\n", tmp_path)
    assert (lines in REFUSED) == bool(theirs), theirs
    assert bool(theirs) == bool(ours), ours or theirs
    if ours:
        assert re.search(r"/Corefile-clusterdns-\d+:[23456]: .+: ", ours), ours
