"""The examples of docs/published-names.md are served as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import dns.message
import dns.rcode
import peers
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "published-names.md"
EXAMPLE = re.compile(
    r"<!-- served: (\w+) -->\n```corefile\n(.*?)```.*?```yaml\n(.*?)```\n\n((?:\|[^\n]*\n)+)",
    re.DOTALL,
)
EXAMPLES = {name: tuple(rest) for name, *rest in EXAMPLE.findall(PAGE.read_text())}


def asked(address: tuple[str, int], by: str, qname: str, rdtype: str) -> str:
    octets = peers.ask_udp(address, dns.message.make_query(qname, rdtype).to_wire(), by=by)
    assert octets is not None, f"no reply about {qname}"
    reply = dns.message.from_wire(octets)
    found = " ".join(str(record) for rrset in reply.answer for record in rrset)
    return found or dns.rcode.to_text(reply.rcode())


@pytest.mark.parametrize("name", ["ingress", "endpoint"])
def test_the_example_is_served(tmp_path, name):
    corefile, objects, table = EXAMPLES[name]
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "all.yaml").write_text(objects)
    text = corefile.replace("manifests cluster", f"manifests {tmp_path / 'cluster'}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert len(rows) >= 4
    with peers.clusterdns(text.replace(". {", ".:{PORT} {", 1), tmp_path) as server:
        for by, question, expected in rows:
            for _ in range(2):
                assert expected == asked(server.address, by, *question.split()), question
        if name == "ingress":
            (line,) = re.findall(r"^      (\[WARNING\].*)$", PAGE.read_text(), re.MULTILINE)
            assert line in server.output.splitlines()
