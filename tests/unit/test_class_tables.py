"""Tables by class of client: what they hold together, and what is left of them when dropped."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from clusterdns.serving.classes import MAX_CLASSES, RESTART_S, ClassTables
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR


class EachItsOwn:
    """Each address is a class."""

    def holding(self, host: str) -> Iterable[str]:
        return (host,)


def question(i: int) -> Question:
    qname = name.parse(f"n{i}.example.org")
    return Question(qname, name.fold(qname), rr.A)


def fill(table: AnswerTable, i: int, records: int = 1) -> None:
    """Remember an answer, and cut it for a client over UDP."""
    asked = question(i)
    answer = tuple(
        RR(asked.qname, rr.A, 5, bytes((10, i >> 8, i & 255, n))) for n in range(records)
    )
    assert (
        table.remember(asked, Response(answer=answer, facts=("fact",)), 0.0, lambda: 0) is not None
    )
    packet = message.HEADER.pack(7, message.RD, 1, 0, 0, 0) + asked.wire
    query = reading.read_query(packet)
    assert isinstance(query, message.Query)
    query.transport = "udp"
    assert table.known(query, 1.0, [0]) is not None


def test_a_dropped_table_answers_nothing_more() -> None:
    """A stream may be in the middle of a turn, with the octets of a class."""
    now = 0.0
    tables = ClassTables([EachItsOwn()], AnswerTable(), AnswerTable, lambda: now)
    for drop in (tables.clear, partial(_overflow, tables)):
        table = tables.table(tables.asker("10.0.0.1"))
        assert table is not None
        fill(table, 1)
        lasting, passing, _ = table.shelves
        assert lasting or passing
        now += RESTART_S + 1
        drop()
        assert not lasting
        assert not passing


def _overflow(tables: ClassTables) -> None:
    for i in range(MAX_CLASSES + 1):
        tables.asker(f"10.1.0.{i}")


def test_bodies_to_cut_are_bounded_by_the_octets_of_their_table() -> None:
    octets = 2**18
    table = AnswerTable(octets=octets)
    for i in range(200):
        fill(table, i, records=200)
    assert 0 < table._cuts._octets <= octets // 8
