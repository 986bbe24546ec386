"""Fuzz the packet path in C: ``python tests/fuzz/fuzz_drain.py [SECONDS [SEED]]``.

Mutated packets go through a socket to ``_drain.drain``, to ``_drain.wait``, and to
``AnswerTable.reply``, which is their specification: the same octets come back, the same slots count,
and what one misses the other does.
``DRAIN`` in the environment names another build of the module, such as one with sanitizers.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import killers
import malformed

from clusterdns.metrics.histogram import TIME_S
from clusterdns.serving.table import AnswerTable, Seen
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Edns, Question
from clusterdns.wire.response import Addresses, Node, Response

NOW = 1000.0
OCTETS, UPDATE_OCTETS = 512, 16_384  # of a datagram that are received, and of an UPDATE
BATCH = 64
NO_LIMITS = (65535, 65535, True)  # of the payload size, and of EDNS options
LIMITS = (
    {},
    {"bounds": (600, 600)},
    {"bounds": (512, 1232)},
    {"passes_options": False},
    {"keeps_replies": True},
)


def built() -> ModuleType | None:
    """Return the module, None where it was not compiled."""
    path = os.environ.get("DRAIN", "")
    if not path:
        try:
            return importlib.import_module("clusterdns.serving._drain")
        except ImportError:
            return None
    loader = importlib.machinery.ExtensionFileLoader("clusterdns.serving._drain", path)
    spec = importlib.util.spec_from_file_location("clusterdns.serving._drain", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def question(text: str, qtype: int = rr.A) -> Question:
    qname = name.parse(text)
    return Question(qname, name.fold(qname), qtype)


def addresses(owner: bytes, count: int) -> tuple[rr.RR, ...]:
    return tuple(rr.RR(owner, rr.A, 5, bytes((10, 0, i >> 8, i & 255))) for i in range(count))


def filled_table(now: float = NOW, **options: Any) -> AnswerTable:
    """Return a table with answers of every kind it can hold."""
    table = AnswerTable(**options)
    web = Question(malformed.WEB, name.fold(malformed.WEB), rr.A)
    table.remember(web, Response(answer=addresses(web.qname, 2), facts=("web",)), now, lambda: 0)
    for i, count in enumerate((1, 27, 29, 60, 300)):
        asked = question(f"n{count}.cluster.local.")
        answer = addresses(asked.qname, count)
        orders = tuple((answer[k:] + answer[:k], (), ()) for k in range(i + 1)) if i else ()
        response = Response(answer=answer, facts=("n",), orders=orders)
        note = (0, i, count) if i % 2 else None  # somebody observes some
        table.remember(asked, response, now, lambda i=i: 2 * i, note)
    for seconds in (-1, 0.5, 9):  # what passes is taken at the second sighting
        for _ in range(2):
            asked = question(f"s{seconds}.example.com.", rr.AAAA)
            table.remember(
                asked, Response(rr.NXDOMAIN, lifetime_s=10 + seconds), now - 10, lambda: 4
            )
    for asked in (web._replace(do=True), web._replace(cd=True), web._replace(do=True, cd=True)):
        two = Response(
            answer=addresses(web.qname, 2), facts=("web",), flags=message.AA | message.AD
        )
        table.remember(asked, two, now, lambda: 8)
    free = question("free.cluster.local.")
    answer = addresses(free.qname, 3)
    orders = tuple((answer[k:] + answer[:k], (), ()) for k in range(3))
    response = Response(answer=answer, facts=("web",), follows_case=True, orders=orders)
    table.remember(free, response, now, lambda: 0)
    spelled = question("FREE-not.cluster.local.")
    for _ in range(2):
        table.remember(spelled, Response(answer=addresses(b"\1y\0", 1)), now, lambda: 4)
    cut = name.parse("com.demo.cluster.local.")
    soa = rr.RR(name.parse("cluster.local."), rr.SOA, 5, rr.soa_rdata(cut, cut, 1, 5))
    for text, follows_case in (("aa.bbb", True), ("www", False)):
        for variant in ({}, {"do": True}):
            asked = question(f"{text}.com.demo.cluster.local.")._replace(**variant)
            response = Response(
                rr.NXDOMAIN, authority=(soa,), denies=cut, spared=b"\2ns\3dns",
                follows_case=follows_case,
            )  # fmt: skip
            for _ in range(2):
                table.remember(asked, response, now, lambda: 4, (0, 7) if follows_case else None)
    node = Node(cut[4:], {b"web", b"com", b"\xff"}, ("node",))
    for text in ("x", "aaa", "aa.bb", "a.b.c.d"):
        asked = question(f"{text}.demo.cluster.local.")
        response = Response(
            rr.NXDOMAIN, authority=(soa,), node=node, spared=b"\2ns\3dns", follows_case=True
        )
        for _ in range(2):
            table.remember(asked, response, now, lambda: 4)
    _fill_nodes(table, now, soa)
    return table


def _fill_nodes(table: AnswerTable, now: float, soa: rr.RR) -> None:
    """Add denials of every kind of children, for some types and lengths."""
    there = {"10.1.0.5": 0, "fd00:2ff::5": 0}
    reverse = Addresses(frozenset((b"svc",)), there, {"10.1.0.6": 0})
    nodes = {
        "demo.pod.cluster.local.": b"-:.",
        "web.demo.svc.cluster.local.": frozenset((b"_tcp", b"10-1-0-5")),
        "10.in-addr.arpa.": reverse,
        "in-addr.arpa.": reverse,
        "ip6.arpa.": reverse,
    }
    for owner, children in nodes.items():
        node = Node(name.parse(owner), children, ("node",))
        for text in ("x.", "abc.", "9.9.9.", "6.0.1.", "5.0.1.10.", f"{'0.' * 31}1."):
            for qtype in (rr.A, rr.PTR, 65):
                asked = question(text + owner, qtype)
                response = Response(
                    rr.NXDOMAIN, authority=(soa,), node=node, spared=b"\2ns\3dns", follows_case=True
                )
                for _ in range(2):
                    table.remember(asked, response, now, lambda: 4)


def option(code: int, data: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


SUBNET = option(8, b"\0\1\x18\0\x0a\0\0")
OPTIONS = (
    b"", option(10, bytes(8)), option(12, bytes(33)), option(9), option(9, b"abcd"), option(11),
    option(11, b"ab"), SUBNET, option(8, b"\0\2\x81\0"), option(8, b"\0\2\x80\x80"), option(3),
    option(8, b"\0\0\0\7"), option(11, b"a"), option(9, b"abc"), option(65001, b"x"),
    option(1, bytes(17)), option(1, bytes(18)), option(2, bytes(4)), option(2, bytes(5)),
    option(15, b"x"), option(15, b"xy"), option(0), option(65535, bytes(99)),
    SUBNET + option(10, bytes(24)) + option(12), option(12)[:3], option(10) + b"\0",
)  # fmt: skip
BESIDE = ("y", "bbb", "WeB", "web", "a.web", "web.a", "aa.bc", "ns.dns", "a.b.c.e", "a.b.c.com")
REVERSE = tuple(
    "".join(f"{nibble}." for nibble in reversed(digits)) + "ip6.arpa."
    for digits in (
        f"fd0002ff{5:024x}",
        f"fd0002ff{6:024x}",
        f"{5:032x}",
        f"fd0002ff{5:023x}",
        "0g" * 16,
    )
)
OTHERS = (
    "y.demo.pod.cluster.local.", "a-b.demo.pod.cluster.local.", "a:b.demo.pod.cluster.local.", "q.a-b.demo.pod.cluster.local.",
    "y.web.demo.svc.cluster.local.", "y._tcp.web.demo.svc.cluster.local.",
    "10-1-0-5.web.demo.svc.cluster.local.", "5.0.1.10.in-addr.arpa.", "6.0.1.10.in-addr.arpa.",
    "7.0.1.10.in-addr.arpa.", "9.9.8.in-addr.arpa.", "y.svc.in-addr.arpa.", "ns.dns.in-addr.arpa.",
    "1.svc.10.in-addr.arpa.", "5.1.10.in-addr.arpa.", "y.in-addr.arpa.", "abd.ip6.arpa.", *REVERSE,
)  # fmt: skip
BELOW = ("xx.yyy", "ww", "ns.dns", "nsx", "a.b.cc", "www.b", "w")


def seeds(table: AnswerTable) -> list[bytes]:
    """Return queries that hit, and others to make neighbors of."""
    found, rng = [*malformed.packets().values(), *killers.seeds()], random.Random(1)
    below = [question(f"{text}.com.demo.cluster.local.").wire for text in BELOW]
    below += [question(f"{text}.demo.cluster.local.").wire for text in BESIDE]
    below += [question(text, qtype).wire for text in OTHERS for qtype in (rr.A, rr.PTR, 65, 66)]
    wires = [*table.questions(), *below]
    wires += [wire[:-4].swapcase() + wire[-4:] for wire in wires if b"0" not in wire]
    opts = [b"", *(message.write_opt(Edns(s, 0, 0)) for s in (0, 600, 1232, 65535, 77))]
    opts.append(message.write_opt(Edns(1232, 0, message.EDNS_DO)))
    for ttl in ((0, 0x4000), (0, 0x8001), (0, 0xFFFF), (1, 0), (255, 0x8000), (1, 0x8001)):
        opts.append(message.write_opt(Edns(1232, *ttl, rng.choice(OPTIONS))))
        opts.append(message.write_opt(Edns(600, *ttl)))
        opts.append(message.write_opt(Edns(1232, *ttl), rng.choice((16, 4095))))
    opts += [
        message.write_opt(Edns(1232, 0, rng.choice((0, message.EDNS_DO)), options))
        for options in OPTIONS
    ]
    for flags in (0, message.RD, message.RD | message.AD, message.CD):
        for wire in wires:
            for opt in opts:
                head = message.HEADER.pack(len(found), flags, 1, 0, 0, 1 if opt else 0)
                found.append(head + wire + opt)
    return found


class Sockets:
    """A server's socket and a client's, connected to it."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.server, self.client = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.server, self.client):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
            sock.setblocking(False)
            sock.bind((host, 0))
        self.client.connect(self.server.getsockname())

    def received(self) -> list[bytes]:
        """Return what has come to the client."""
        found = []
        while True:
            try:
                found.append(self.client.recv(65535))
            except BlockingIOError:
                return found

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self.client.close()


def received(packet: bytes) -> bytes:
    """Return the octets of a datagram that the server takes."""
    is_update = packet[2:3] and packet[2] & 0x78 == message.OPCODE_UPDATE << 3
    return packet[: UPDATE_OCTETS if is_update else OCTETS]


def send_all(
    sockets: Sockets,
    packets: Sequence[bytes],
    table: AnswerTable,
    now: float,
    hits: list[int],
    seen: Seen | None = None,
) -> tuple[list[tuple[bytes, tuple[str, int]]], list[bytes]]:
    """Send packets; return what the table leaves of them, with their client, and its replies."""
    taken = [received(packet) for packet in packets]
    expected = [table.reply(packet, now, hits, False, seen) for packet in taken]
    for packet in packets:
        sockets.client.send(packet)
    client = sockets.client.getsockname()
    left = [(p, client, b"") for p, e in zip(taken, expected, strict=True) if e is None]
    return left, [reply for reply in expected if reply is not None]


def check(
    module: ModuleType, table: AnswerTable, sockets: Sockets, packets: Sequence[bytes]
) -> int:
    """Hold that C and Python do the same with at most a batch of packets; return the hits."""
    by_c, by_python, seen, records = [0] * 12, [0] * 12, [], []
    expected, replies = send_all(sockets, packets, table, NOW, by_python, seen)
    fd = sockets.server.fileno()
    answered, unsent, missed = module.drain(fd, table.maps(by_c, records), NOW)
    client = sockets.client.getsockname()
    told = [(note, packet, reply) for note, packet, _, _, _, reply in records]
    assert (seen, {client} if seen else set()) == (told, {record[2] for record in records})
    assert all(record[3] >= 0 and record[4] == NOW for record in records)
    assert missed == expected
    assert sockets.received() == replies
    assert (answered, unsent, by_c) == (len(replies), 0, by_python)
    return answered


def check_wait(
    module: ModuleType, table: AnswerTable, sockets: Sockets, packets: Sequence[bytes]
) -> int:
    """Hold the same for the wait, whose clock is the real one; return the hits."""
    by_c, by_python, zones, left = [0] * 12, [0] * 12, {}, []
    times = [0] * (len(TIME_S) + 2)
    expected, replies = send_all(sockets, packets, table, time.monotonic(), by_python)
    fd = sockets.server.fileno()
    called: list[None] = []
    reader = (table.maps(by_c), zones, times, left, lambda: called.append(None) or True)
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        found = module.wait(poll.fileno(), 0.0, {fd: reader})
    assert left == expected
    assert (found, called) == (([fd], [None]) if left else ([], []))
    assert sockets.received() == replies
    assert (sum(times[:-1]), by_c) == (len(replies), by_python)
    assert (times[-1] > 0) == bool(replies)
    return len(replies)


def main() -> int:
    """Fuzz for the seconds given."""
    module = built()
    if module is None:
        print("not compiled: nothing to fuzz")
        return 0
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, until, count, hits = random.Random(seed), time.monotonic() + seconds, 0, 0
    limits = LIMITS[seed % len(LIMITS)]
    table = filled_table(**limits)
    lasting = filled_table(time.monotonic() - 20, **limits)  # what passes has passed
    some = seeds(table)
    with Sockets() as sockets:
        while time.monotonic() < until:
            packets = [rng.choice(some) for _ in range(rng.randint(1, BATCH))]
            packets = [killers.mutate(rng, p) if rng.random() < 0.6 else p for p in packets]
            try:
                hits += check(module, table, sockets, packets)
                hits += check_wait(module, lasting, sockets, packets)
            except Exception as error:
                print(f"seed {seed}, after {count}: {error!r:.2000}", file=sys.stderr)
                return 1
            count += len(packets)
    print(f"{count} packets, {hits} hits, seed {seed}")
    return 0 if hits else 1


if __name__ == "__main__":
    sys.exit(main())
