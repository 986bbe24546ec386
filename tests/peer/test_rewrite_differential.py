"""`rewrite` beside CoreDNS 1.15.0: random rules and questions, and what either refuses.

``REWRITE_SEED`` picks other rules and questions.
"""

from __future__ import annotations

import os
import random
import re

import beside
import compare
import dns.edns
import dns.message
import pytest

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("REWRITE_SEED", "1"))
ZONE = """$ORIGIN b.test.
@ 60 SOA ns.b.test. hostmaster.b.test. 1 7200 1800 86400 30
@ 60 NS ns.b.test.
ns 60 A 192.0.2.53
web 60 A 192.0.2.1
web 60 AAAA 2001:db8::1
web.sub 300 A 192.0.2.2
alias 120 CNAME web.b.test.
out 120 CNAME web.a.test.
mail 60 MX 10 web.b.test.
_http._tcp.web 60 SRV 0 0 80 web.b.test.
naptr 60 NAPTR 10 10 "u" "E2U" "!^!x!" web.b.test.
ptr 60 PTR web.b.test.
text 60 TXT "text"
"""
NAMES = (
    "web.a.test", "web.b.test", "alias.a.test", "alias.b.test", "mail.a.test", "out.b.test",
    "web.sub.a.test", "_http._tcp.web.a.test", "naptr.a.test", "ptr.a.test", "none.a.test",
    "WEB.A.test", "a.test", "b.test", "whoami.c.test", "host.c.test", "weba.test", "a.b.test",
)  # fmt: skip
NAME_RULES = (
    "name web.a.test web.b.test",
    "name exact alias.a.test alias.b.test answer value web.b.test web.a.test",
    "name suffix .a.test .b.test",
    "name suffix .a.test .b.test answer auto",
    "name suffix a.test b.test answer auto",
    "name prefix web.a web.b",
    "name prefix web web.sub",
    "name substring a.test b.test",
    "name substring a.test b.test answer auto",
    "name substring web. alias.",
    r"name regex (.*)\.a\.test\.$ {1}.b.test",
    r"name regex (.*)\.a\.test\.$ {1}.b.test answer auto",
    r"name regex (.*)\.a\.test {1}.b.test answer name (.*)\.b\.test {1}.a.test",
    r"name regex (.*)\.a\.test {1}.b.test answer name (.*)\.b\.test {1}.a.test "
    r"answer value (.*)\.b\.test {1}.a.test",
    r"name regex ^([a-z]+)\.([a-z]+)\.test\.$ {1}.b.test answer auto value (.*)\.b\. {1}.z.",
    r"name regex (alias|mail)\.(.)\.test {1}{0}",
    r"name regex (?i)(WEB) {1}{1}.b.test",
    "name exact none.a.test ..",
)
OTHER_RULES = (
    "type AAAA A",
    "type ANY HINFO",
    "type A TXT",
    "class CH IN",
    "ttl web.b.test 10",
    "ttl suffix .test 100-200",
    "ttl suffix a.test -50",
    "ttl regex web 90-",
    "rcode exact none.a.test NXDOMAIN NOERROR",
    "rcode suffix .test NXDOMAIN SERVFAIL",
    "rcode regex web NOERROR 3",
    "rcode substring b. REFUSED NXDOMAIN",
    "cname web.b.test. web.sub.b.test.",
    "cname exact web.a.test. web.b.test.",
    r"cname regex (.*)\.a\.test\. {1}.b.test.",
    "cname suffix a.test. b.test.",
    "cname prefix web. none.",
    "edns0 nsid set",
    "edns0 subnet set 24 56",
)


def corefile(rng: random.Random) -> str:
    rules = []
    for _ in range(rng.randint(1, 4)):
        rule = rng.choice(NAME_RULES if rng.random() < 0.6 else OTHER_RULES)
        mode = rng.choice(("", "stop ", "continue "))
        rules.append(f"rewrite {mode}{rule}")
    # A rule at the end that always applies, so that CoreDNS puts the question back, see `rewrite`.
    rules.append("rewrite ttl suffix . 0-2147483647")
    lines = "\n    ".join(rules)
    return f""".:{{PORT}} {{
    {lines}
    file db.b.test b.test
    template IN A c.test {{
        answer "{{{{ .Name }}}} 60 IN A 192.0.2.9"
    }}
    forward c.test 127.0.0.1:1
}}
"""


def packets(rng: random.Random, count: int, *, is_edns: bool) -> list[bytes]:
    """Return random queries; all with EDNS where a rule gives it to them, see `rewrite`."""
    found = []
    for _ in range(count):
        qtype = rng.choice(("A", "A", "AAAA", "MX", "SRV", "TXT", "CNAME", "NAPTR", "PTR", "SOA"))
        edns = 1232 if is_edns else rng.choice((None, 1232))
        found.append(beside.query(rng.choice(NAMES), qtype, edns=edns))
    return found


@pytest.mark.parametrize("number", range(16))
def test_random_rules(number, tmp_path):
    rng = random.Random(1000 * SEED + number)
    beside.files(tmp_path, {"db.b.test": ZONE})
    text = corefile(rng)
    found = beside.differences(
        text,
        packets(rng, 30, is_edns="edns0" in text),
        tmp_path,
        compare.Rules(is_ordered=False),
        transports=("udp",),
    )
    assert not found, text + "\n\n".join(found)


REFUSED_OR_NOT = """
rewrite
rewrite name
rewrite name a
rewrite name a.test b.test
rewrite stop
rewrite continue
rewrite stop name a.test b.test
rewrite CONTINUE Name Exact a.test b.test
rewrite nonsense a b
rewrite answer name a b
rewrite name nonsense a b
rewrite name exact a.test b[.test
rewrite name exact a{0}.test b.test
rewrite name suffix a.test b.test answer
rewrite name suffix a.test b.test answer auto
rewrite name suffix a.test b.test answer auto answer auto
rewrite name suffix a.test b.test answer auto name x y
rewrite name suffix a.test b.test answer name x
rewrite name suffix a.test b.test answer name x y value z v
rewrite name suffix a.test b.test answer name ( y
rewrite name suffix a.test b.test answer nonsense x
rewrite name suffix a.test b.test nonsense auto
rewrite name regex ( b
rewrite name regex (.*) {1}
rewrite name regex (.*) {2}
rewrite name regex (.*) {1}{2}
rewrite name regex (?=a) b
rewrite name regex (.*) {1} answer name (.*) {2}
rewrite name exact a b metadata
rewrite name regex (.*) {1}.{a/b} metadata
rewrite name regex (.*) {1}.{ab} metadata
rewrite name regex (.*) {2} metadata
rewrite name regex (.*) {1 metadata
rewrite name regex (.*) 1} metadata
rewrite name regex (.*) {1} metadata answer auto
rewrite type A
rewrite type A AAAA
rewrite type A nonsense
rewrite type a aaaa
rewrite type A AAAA TXT
rewrite type TYPE1 A
rewrite type None A
rewrite class IN CH
rewrite class IN XX
rewrite class in any
rewrite ttl a.test
rewrite ttl a.test 10
rewrite ttl a.test -
rewrite ttl a.test 10-5
rewrite ttl a.test 5-
rewrite ttl a.test -5
rewrite ttl a.test 4294967296
rewrite ttl a.test 4294967295
rewrite ttl nonsense a.test 10
rewrite ttl regex ( 10
rewrite ttl exact a.test 10 10
rewrite rcode a.test NXDOMAIN
rewrite rcode a.test NXDOMAIN NOERROR
rewrite rcode suffix a.test 3 0
rewrite rcode a.test 24 0
rewrite rcode a.test nxdomain NOTIMPL
rewrite rcode nonsense a.test 3 0
rewrite rcode a.test BADSIG 0
rewrite rcode a.test BADVERS 0
rewrite cname a.test
rewrite cname a.test b.test
rewrite cname regex ( b
rewrite cname nonsense a b
rewrite edns0 local set 0xffee abc
rewrite edns0 local set 0xffee 0xabc
rewrite edns0 local set 0xffee {qname}
rewrite edns0 local set 0xffee {nonsense}
rewrite edns0 local set 0xffee {a/b} revert
rewrite edns0 local set 65536 abc
rewrite edns0 local unset 0xffee
rewrite edns0 local unset 0xffee revert
rewrite edns0 local nonsense 0xffee abc
rewrite edns0 nsid append
rewrite edns0 nsid append revert
rewrite edns0 nsid append more
rewrite edns0 subnet set 24 56
rewrite edns0 subnet set 33 56
rewrite edns0 subnet set 24 129
rewrite edns0 subnet unset
rewrite edns0 nonsense set
rewrite stop { / name suffix a.test b.test / answer auto / }
rewrite { / name a.test b.test / }
rewrite name a.test b.test { / nonsense / }
rewrite continue { / type A AAAA / }
""".strip().splitlines()


@pytest.mark.parametrize("rule", REFUSED_OR_NOT)
def test_what_is_refused(rule, tmp_path):
    lines = rule.replace(" / ", "\n")
    ours, theirs = beside.start(f".:{{PORT}} {{\n{lines}\nwhoami\n}}\n", tmp_path)
    assert bool(ours) == bool(theirs), f"{rule}: clusterdns {ours!r}, CoreDNS {theirs!r}"
    if ours:
        assert re.search(r"Corefile[^:]*:[23]: ", ours)


@pytest.mark.parametrize(
    "rule",
    [
        "local set 65001 x", "local set 65001 x revert", "local append 65001 x",
        "local replace 65001 {protocol}", "local unset 65001", "local append 65001 {qname} revert",
        "local set 65001 {server_ip}", "nsid set revert", "subnet set 24 56 revert",
    ],
)  # fmt: skip
def test_which_options_come_back(rule, tmp_path):
    text = f""".:{{PORT}} {{
    rewrite edns0 {rule}
    template IN A a.test {{
        answer "{{{{ .Name }}}} 60 IN A 192.0.2.9"
    }}
}}
"""
    packets = []
    for datas in ([], [b"mine"], [b"one", b"two"]):
        options = [dns.edns.GenericOption(65001, data) for data in datas]
        packets.append(
            dns.message.make_query("web.a.test", "A", use_edns=0, options=options).to_wire()
        )
    assert [] == beside.differences(text, packets, tmp_path)
