# Invariant: whatever the octets, the gate, the table and the reply walker return or raise FormError, in
# time linear in the length; a reply echoes ID and question and is never to a reply; what the table
# says is what the gate and the renderer say; and a reply that can be read is rendered as it was.
"""Fuzz messages: ``python tests/fuzz/fuzz_message.py [SECONDS [SEED]]``.

Mutates the packets of ``malformed.py`` and ``killers.py``. A failure is written to standard error with
its packet in hexadecimal, and the status is 1; put the packet into one of the two then.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import killers
import malformed

from clusterdns.errors import FormError
from clusterdns.serving.server import bad_version
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response, render, render_reply

SLOW_S = 0.5
WEB = Question(malformed.WEB, name.fold(malformed.WEB), rr.A)
ANSWER = Response(
    answer=tuple(rr.RR(WEB.qname, rr.A, 5, bytes((10, 1, 0, i))) for i in range(40)),
    facts=("web",),
)


CUT = name.parse("demo.svc.cluster.local.")
SOA = rr.soa_rdata(name.parse("ns.dns.cluster.local."), name.parse("h.cluster.local."), 1, 5)
DENIAL = Response(
    rr.NXDOMAIN,
    authority=(rr.RR(name.parse("cluster.local."), rr.SOA, 5, SOA),),
    facts=("web",),
    denies=CUT,
)


def filled_table() -> AnswerTable:
    table = AnswerTable()
    table.remember(WEB, ANSWER, 0.0, lambda: 0)
    for octets in range(2, name.MAX_NAME_OCTETS - len(CUT) + 1):
        full, rest = divmod(octets, 60)
        if rest == 1:  # no label is that short
            full, rest = full - 1, 61
        labels = [b"x" * 59] * full + ([b"x" * (rest - 1)] if rest else [])
        below = name.join(labels, CUT)
        for qtype in (rr.A, rr.A, rr.AAAA):  # a cut is made at the second sight
            table.remember(Question(below, name.WireName(below), qtype), DENIAL, 0.0, lambda: 0)
    return table


def check(packet: bytes, table: AnswerTable) -> None:
    """Hold the invariant for one packet."""
    began = time.process_time()
    found = reading.read_query(packet)
    for transport in ("udp", "tcp"):
        reply = table.reply(packet, 0.0, [0] * 4, transport == "tcp")
        if isinstance(found, Query) and found.question is not None:
            found.transport = transport
            check_reply(packet, found, reply)
        else:
            assert reply is None, "the table answers what the gate does not let in"
    if isinstance(found, bytes):
        assert found[:2] == packet[:2]
        assert found[2] & 0x80
    if found is not None:
        assert not packet[2] & 0x80, "a reply to a reply"
    check_walker(packet)
    assert time.process_time() - began < SLOW_S, "slow"


def check_reply(packet: bytes, query: Query, reply: bytes | None) -> None:
    whole = render_reply(query, ANSWER, query.limit)
    denied = render_reply(query, DENIAL, query.limit)
    if query.edns is not None and query.edns.version:
        assert reply in (None, bad_version(query)), "the table differs from the server"
    else:
        assert reply in (None, whole, denied), "the table differs from the renderer"
    assert whole[:2] == packet[:2]
    assert query.question is not None
    asked = query.question.wire
    assert whole[12 : 12 + len(asked)] == asked
    assert (packet[12:] + bytes(4)).startswith(asked)
    opt = message.write_opt(message.reply_edns(query.edns)) if query.edns is not None else b""
    least = message.HEADER_OCTETS + len(asked) + len(opt)
    assert len(whole) <= max(query.limit, least), "longer than the client takes"


def check_walker(packet: bytes) -> None:
    try:
        first = reading.read_reply(packet)
    except FormError:
        return
    sections = first.answer, first.authority, first.additional
    counts, body, is_cut = render(WEB.qname, sections, message.MAX_OCTETS)
    if not is_cut:  # decompressed names are longer
        head = message.HEADER.pack(1, message.QR, 1, *counts)
        again = reading.read_reply(head + WEB.wire + body)
        assert sections == (again.answer, again.authority, again.additional), "rendered otherwise"


def main() -> int:
    """Fuzz for the seconds given."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, until, count = random.Random(seed), time.monotonic() + seconds, 0
    table = filled_table()
    small = [*malformed.packets().values(), *killers.seeds() * 10]
    large = [*killers.queries().values(), *killers.replies().values()]
    while time.monotonic() < until:
        packet = killers.mutate(rng, rng.choice(large if rng.random() < 0.01 else small))
        try:
            check(packet, table)
        except Exception as error:
            print(f"seed {seed}, packet {count}: {error!r}: {packet.hex()}", file=sys.stderr)
            return 1
        count += 1
    print(f"{count} packets, seed {seed}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
