"""`view` and `metadata` beside CoreDNS 1.15.0: random conditions and questions, and what is refused.

``VIEW_SEED`` picks other conditions and questions.
"""

from __future__ import annotations

import os
import random
import re
import time

import beside
import peers
import pytest
from fakeapi import FakeApi
from faultyupstream import FaultyUpstream, good

pytestmark = pytest.mark.peer

CLUSTER = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}},
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": "demo"},
        "status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]},
    },
)
SEED = int(os.environ.get("VIEW_SEED", "1"))
EXPRESSIONS = (
    "name() == 'one.a.test.'",
    "name() startsWith 'o'",
    "name() endsWith '.b.a.test.' || type() == 'TXT'",
    "name() contains 'two' and not (type() == 'A')",
    "name() matches '^(one|two)[.]'",
    "type() in ['A', 'AAAA']",
    "class() == 'IN'",
    "proto() == 'udp'",
    "size() > 40",
    "incidr(client_ip(), '127.0.0.0/8')",
    "incidr(client_ip(), '10.0.0.0/8')",
    "incidr(client_ip(), 'nonsense')",
    "client_ip() == '127.0.0.1' ? do() : false",
    "id() % 2 == 0",
    "opcode() == 0",
    "do()",
    "!do()",
    "bufsize() > 1000",
    "bufsize()",
    "port() != '0' && server_port() != ''",
    "server_ip() == '127.0.0.1'",
    "metadata('view/name') == 'view1'",
    "metadata('kubernetes/none') == ''",
    "any(['one', 'two'], name() startsWith {#})".replace("{#}", "#"),
    "len(split(name(), '.')) > 4",
    "lower('A') + type() == 'aA'",
)
NAMES = ("one.a.test", "two.a.test", "one.b.a.test", "THREE.a.test", "a.test", "b.a.test", "c.test")


def block(zone: str, text: str, *lines: str) -> str:
    body = "\n    ".join(lines)
    return f"""{zone}:{{PORT}} {{
    {body}
    template ANY ANY {{
        answer "{{{{ .Name }}}} 60 IN TXT {text}"
    }}
}}
"""


def corefile(rng: random.Random) -> str:
    blocks = []
    for i in range(rng.randint(2, 5)):
        lines = ["metadata"] if rng.random() < 0.5 else []
        chosen = rng.sample(EXPRESSIONS, rng.randint(0, 2))
        shown = "\n".join(f'        expr "{each}"' for each in chosen)
        lines.append(f"view view{i} {{\n{shown}\n    }}")
        if rng.random() < 0.3:
            lines.append(r"rewrite name regex ^(one)\..* {1}.{view/name}.test metadata")
        zone = rng.choice(("a.test", "a.test", "b.a.test", "test"))
        blocks.append(block(zone, f"view{i}", *lines))
    if rng.random() < 0.7:
        blocks.append(block("a.test", "rest"))
    return "".join(blocks)


def packets(rng: random.Random, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        qtype = rng.choice(("A", "AAAA", "TXT", "DS", "MX"))
        edns, do = rng.choice((None, 600, 1232)), rng.random() < 0.3
        found.append(beside.query(rng.choice(NAMES), qtype, edns=edns, do=do))
    return found


@pytest.mark.parametrize("number", range(12))
def test_random_conditions(number, tmp_path):
    rng = random.Random(1000 * SEED + number)
    text = corefile(rng)
    found = beside.differences(text, packets(rng, 25), tmp_path)
    assert not found, text + "\n\n".join(found)


REFUSED_OR_NOT = r"""
view
view a b
view a
view a {\n expr true\n }
view a {\n expr\n }
view a {\n expr 1 +\n }
view a {\n expr nonsense()\n }
view a {\n expr name() + 1\n }
view a {\n expr name(1)\n }
view a {\n expr type()\n }
view a {\n expr type(1)\n }
view a {\n expr incidr(client_ip())\n }
view a {\n expr name() matches '('\n }
view a {\n expr port() == 53\n }
view a {\n expr id() in 1..10\n }
view a {\n nonsense\n }
view a\nview b
metadata
metadata example.org
metadata {\n }
metadata\nmetadata
metadata {\n nonsense\n }
""".strip().splitlines()


@pytest.mark.parametrize("line", REFUSED_OR_NOT)
def test_what_is_refused(line, tmp_path):
    lines = line.replace("\\n", "\n")
    ours, theirs = beside.start(f".:{{PORT}} {{\nwhoami\n{lines}\n}}\n", tmp_path)
    # Where a view admits nobody, the first query is refused, which answers, too.
    assert bool(ours) == bool(theirs), f"{line}: clusterdns {ours!r}, CoreDNS {theirs!r}"
    if ours:
        assert re.search(r"Corefile[^:]*:[345]: ", ours)


def test_blocks_that_share_a_zone(tmp_path):
    for texts in (("", ""), ("view a", ""), ("", "view a"), ("view a", "view a")):
        blocks = "".join(f"a.test:{{PORT}} {{\n{text}\nwhoami\n}}\n" for text in texts)
        ours, theirs = beside.start(blocks + ".:{PORT} {\nwhoami\n}\n", tmp_path)
        assert bool(ours) == bool(theirs), f"{texts}: clusterdns {ours!r}, CoreDNS {theirs!r}"


LABELS = (
    "forward/upstream", "view/name", "log/class", "log/type", "kubernetes/service",
    "kubernetes/namespace", "kubernetes/kind", "kubernetes/port-name", "kubernetes/protocol",
    "kubernetes/endpoint", "kubernetes/parse-error", "kubernetes/client-namespace", "none/at-all",
)  # fmt: skip
ASKED = (
    "web.demo.svc.cluster.local", "_http._tcp.web.demo.svc.cluster.local", "svc.cluster.local",
    "a.web.demo.svc.cluster.local", "web.example.org", "no.cluster.local", "1.0.96.10.in-addr.arpa",
)  # fmt: skip


def test_labels_in_the_log(tmp_path):
    shown = " ".join(f"{{/{label}}}" for label in LABELS)

    def lines(run, api: str, upstream: str) -> list[str]:
        text = f""".:{{PORT}} {{
    metadata
    view only {{
        expr true
    }}
    log . "said {{name}} {shown}"
    kubernetes cluster.local 10.96.0.0/16 {{
        endpoint {api}
        pods verified
    }}
    forward . {upstream}
}}
"""
        with run(text, tmp_path) as server:
            for qname in ASKED:
                assert peers.ask_udp(server.address, beside.query(qname)) is not None
            deadline = time.monotonic() + 5
            while len(found := re.findall("said (?!probe[.]).*", server.output)) < len(ASKED):
                assert time.monotonic() < deadline, server.output
                time.sleep(0.02)
            return found

    with FakeApi(CLUSTER) as api, FaultyUpstream(good) as upstream:
        theirs = lines(peers.coredns, api.url, upstream.address)
        ours = lines(peers.clusterdns, api.url, upstream.address)
    assert theirs == ours
    assert f" {upstream.address} only success " in "\n".join(ours)
