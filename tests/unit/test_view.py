"""`view`: which block answers, and that no client gets what was remembered for another."""

from __future__ import annotations

import asyncio

import dns.message
import pytest
from inprocess import InProcess


def block(zone: str, text: str, expression: str = "") -> str:
    view = f'view {text} {{\n expr "{expression}"\n }}' if expression else ""
    return f"""{zone} {{
    {view}
    template ANY ANY {{
        answer "{{{{ .Name }}}} 60 IN TXT {text}"
    }}
}}
"""


class Asked:
    """A server that is asked, and its table."""

    def __init__(self, server: InProcess) -> None:
        self.server = server.server
        self.hits = [0] * 100

    def ask(self, qname: str, client: str = "192.0.2.1") -> str:
        packet = dns.message.make_query(qname, "TXT").to_wire()
        loop = asyncio.get_event_loop()
        sent = loop.create_future()
        reply = self.server.resolve(packet, (client, 53), "udp", self.hits, sent.set_result)
        assert reply
        found = dns.message.from_wire(reply)
        return found.answer[0][0].to_text().strip('"') if found.answer else ""

    def is_remembered(self, qname: str) -> bool:
        packet = dns.message.make_query(qname, "TXT").to_wire()
        return self.server.table.reply(packet, self.server.clock(), self.hits) is not None


def run(corefile: str, test) -> None:
    async def inside() -> None:
        async with InProcess(corefile, []) as server:
            test(Asked(server))

    asyncio.run(inside())


INTERNAL = "incidr(client_ip(), '10.0.0.0/8')"


def test_what_depends_on_the_client_is_not_remembered():
    def test(asked: Asked) -> None:
        for _ in range(3):
            assert "internal" == asked.ask("www.a.test.", "10.0.0.1")
            assert "external" == asked.ask("www.a.test.", "192.0.2.1")
            assert "other" == asked.ask("www.b.test.")
        assert not asked.is_remembered("www.a.test.")
        assert asked.is_remembered("www.b.test.")  # zones without a view keep the fast path

    blocks = block("a.test", "internal", INTERNAL), block("a.test", "external")
    run("".join((*blocks, block("b.test", "other"))), test)


def test_what_depends_on_the_question_is_remembered():
    def test(asked: Asked) -> None:
        for _ in range(3):
            assert "first" == asked.ask("www.a.test.")
            assert "second" == asked.ask("mail.a.test.")
        assert asked.is_remembered("www.a.test.")
        assert asked.is_remembered("mail.a.test.")

    condition = "name() startsWith 'www.'"
    run(block("a.test", "first", condition) + block("a.test", "second"), test)


@pytest.mark.parametrize("client", ["10.0.0.1", "192.0.2.1"])
def test_the_next_shorter_zone_answers_where_no_view_does(client):
    def test(asked: Asked) -> None:
        expected = "internal" if client.startswith("10.") else "parent"
        for _ in range(3):
            assert expected == asked.ask("www.a.test.", client)
        assert not asked.is_remembered("www.a.test.")

    run(block("a.test", "internal", INTERNAL) + block("test", "parent"), test)


def test_a_condition_that_cannot_be_evaluated_does_not_hold():
    def test(asked: Asked) -> None:
        assert "" == asked.ask("www.a.test.")

    run(block("a.test", "broken", "incidr('nonsense', '10.0.0.0/8')"), test)
