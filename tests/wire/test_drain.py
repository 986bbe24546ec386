"""_drain.c: what AnswerTable.reply says, octet for octet, and nothing the sanitizers object to."""

from __future__ import annotations

import math
import resource
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace

import malformed
import pytest
import sanitized
from fuzz import fuzz_drain
from peers import ask_udp, clusterdns

from clusterdns.observing import sampling
from clusterdns.serving.batch import Batch
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, name
from clusterdns.wire.message import Edns

drain = fuzz_drain.built()
needs_drain = pytest.mark.skipif(
    drain is None,
    reason="not compiled: apt-get install gcc python3-dev, then pip install -e . again",
)
HEADS = (b"h",) * 16
BATCH, NOW, NO_LIMITS = fuzz_drain.BATCH, fuzz_drain.NOW, fuzz_drain.NO_LIMITS
WEB = message.HEADER.pack(7, 0, 1, 0, 0, 0) + malformed.WEB + b"\0\1\0\1"
GONE = WEB[:12] + name.parse("nosuch.com.demo.cluster.local.") + b"\0\1\0\1"
STATE = sampling.STATE_OCTETS


@pytest.fixture(params=["127.0.0.1", "::1"])
def sockets(request):
    with fuzz_drain.Sockets(request.param) as found:
        yield found


@needs_drain
@pytest.mark.parametrize("limits", fuzz_drain.LIMITS)
def test_all_that_hits_and_all_that_is_malformed(sockets, limits):
    table = fuzz_drain.filled_table(**limits)
    seeds = fuzz_drain.seeds(table)
    hits = 0
    for i in range(0, len(seeds), BATCH):
        hits += fuzz_drain.check(drain, table, sockets, seeds[i : i + BATCH])
    assert hits > 30


@needs_drain
def test_every_length_of_a_query(sockets):
    table = fuzz_drain.filled_table()
    with_opt = WEB[:11] + b"\1" + WEB[12:] + message.write_opt(Edns(1232, 0, 0))
    for packet in (WEB, with_opt, with_opt + bytes(600)):
        cuts = [packet[:i] for i in range(len(packet) + 1)]
        for i in range(0, len(cuts), BATCH):
            fuzz_drain.check(drain, table, sockets, cuts[i : i + BATCH])


@needs_drain
def test_a_batch_is_bounded(sockets):
    table, hits = fuzz_drain.filled_table(), [0, 0]
    for _ in range(BATCH + 9):
        sockets.client.send(WEB)
    taken = [drain.drain(sockets.server.fileno(), table.maps(hits), NOW)[0] for _ in range(3)]
    assert [BATCH, 9, 0] == taken
    assert [BATCH + 9, 0] == hits


@needs_drain
@pytest.mark.parametrize(
    "answer",
    [
        (), (NOW + 1,), (NOW + 1, 0, HEADS, True, b"", None), None, b"answer",
        [NOW + 1, 0, HEADS, True, b"", None, b"b"], ("late", 0, HEADS, True, b"", None, b"b"),
        (NOW, 0, HEADS, True, b"", None, b"b"), (NOW + 1, 0, HEADS[1:], True, b"", None, b"b"),
        (NOW + 1, 0, [*HEADS], True, b"", None, b"b"), (NOW + 1, 0, ("h",) * 16, True, b"", None, b"b"),
        (NOW + 1, 0, HEADS, True, b"", None, 7), (NOW + 1, 0, HEADS, True, 7, None, b"b"),
        (NOW + 1, 0, HEADS, True, b"", (), b"b"), (NOW + 1, 0, HEADS, True, b"", {b"x": 1}, b"b"),
        (NOW + 1, 0, HEADS, True, b"", ({b"x"}, {}, 7), b"b"),
        (NOW + 1, -1, HEADS, True, b"", None, b"b"), (NOW + 1, 2, HEADS, True, b"", None, b"b"),
        (NOW + 1, 2**70, HEADS, True, b"", None, b"b"), (NOW + 1, "0", HEADS, True, b"", None, b"b"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_miss(answer):
    """The table never holds such; if it did, the process would go on."""
    hits = [0, 0]
    with fuzz_drain.Sockets() as sockets:
        sockets.client.send(WEB)
        client = sockets.client.getsockname()
        found = drain.drain(
            sockets.server.fileno(), ({WEB[12:] + b"\0": answer}, {}, {}, hits, *NO_LIMITS), NOW
        )
        assert (0, 0, [(WEB, client, b"")]) == found
        assert [0, 0] == hits


@needs_drain
def test_a_reply_that_cannot_be_sent_is_counted_and_the_others_are_sent(sockets):
    """There is no sending to port 0, which a query can come from all the same."""
    to = sockets.server.getsockname()
    try:
        raw = socket.socket(sockets.server.family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW: run as root")
    with raw:
        if raw.family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
        sockets.client.send(WEB)
        raw.sendto(struct.pack("!HHHH", 0, to[1], 8 + len(WEB), 0) + WEB, (to[0], 0))
        sockets.client.send(WEB)
    maps = fuzz_drain.filled_table().maps([0, 0])
    assert (3, 1, []) == drain.drain(sockets.server.fileno(), maps, NOW)
    assert 2 == len(sockets.received())


@needs_drain
def test_replies_are_sent_together_but_for_those_that_cannot_be(sockets):
    sockets.client.send(WEB)
    *_, left = drain.drain(sockets.server.fileno(), AnswerTable().maps([]), NOW)
    _, client, source = left[0]
    replies = [(b"%d" % i, client, source) for i in range(2 * BATCH + 5)]
    replies[BATCH + 1] = (b"x", (client[0], 0, *client[2:]), source)  # no sending to port 0
    assert 1 == drain.send(sockets.server.fileno(), replies)
    assert [octets for octets, *_ in replies if octets != b"x"] == sockets.received()
    assert 0 == drain.send(sockets.server.fileno(), [])


@needs_drain
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((b"x", ("127.0.0.1", 7), bytes(99)), ValueError),
        ((b"x", ("localhost", 7), b""), ValueError),
        ((b"x", ("127.0.0.1",), b""), TypeError), ((b"x", "127.0.0.1", b""), TypeError),
        (("x", ("127.0.0.1", 7), b""), TypeError), ((b"x", ("127.0.0.1", 7)), TypeError),
        (b"x", TypeError),
    ],
)  # fmt: skip
def test_what_is_no_reply_is_refused(reply, error):
    with fuzz_drain.Sockets() as sockets, pytest.raises(error):
        drain.send(sockets.server.fileno(), [reply])


@needs_drain
def test_a_reply_that_no_datagram_has_room_for_is_left(sockets):
    """Only the chain cuts."""
    lasting, *others = fuzz_drain.filled_table().maps([0, 0])
    other = b"\x01x\0\0\1\0\1"
    query = message.HEADER.pack(7, 0, 1, 0, 0, 1) + other + message.write_opt(Edns(65535, 0, 0))
    for size, is_left in ((65_507, False), (65_508, True)):
        body = bytes(size - 12 - len(other) - 11)
        maps = (
            {**lasting, other + b"\0": (NOW + 1, 0, (bytes(10),) * 16, False, b"", None, body)},
            *others,
        )
        sockets.client.send(query)
        hits, _, left = drain.drain(sockets.server.fileno(), maps, NOW)
        assert (not is_left, is_left) == (bool(hits), bool(left))
        sockets.received()


@needs_drain
def test_the_wait_does_the_same(sockets):
    table = fuzz_drain.filled_table(time.monotonic() - 20)
    seeds, hits = fuzz_drain.seeds(table), 0
    for i in range(0, len(seeds), BATCH):
        hits += fuzz_drain.check_wait(drain, table, sockets, seeds[i : i + BATCH])
    assert hits > 50


@needs_drain
@pytest.mark.parametrize(
    "reader",
    [
        (),
        (({}, {}, {}, [], *NO_LIMITS), {}, []),
        (({}, {}, {}, [], *NO_LIMITS), {}, [], {}, print),
        (({}, {}, {}), {}, [], [], print),
        (7, {}, [], [], print),
        ([],) * 5,
        7,
        None,
        {},
        ([], 7, 8),
        ({}, print),
        (({}, {}, {}, [], *NO_LIMITS), {}, [], [], 7),
    ],
)
def test_a_wait_for_what_is_no_reader(sockets, reader):
    fd = sockets.server.fileno()
    sockets.client.send(WEB)
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        with pytest.raises(TypeError):
            drain.wait(poll.fileno(), 1.0, {fd: reader})


@needs_drain
def test_a_reader_in_python_says_whether_the_wait_ends(sockets):
    fd, told = sockets.server.fileno(), [0, False, [], "enough"]

    def read() -> object:
        sockets.server.recv(512)
        return told.pop(0)

    def fails() -> bool:
        raise KeyError(1)

    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        for _ in range(5):
            sockets.client.send(WEB)
        assert [fd] == drain.wait(poll.fileno(), 1.0, {fd: read})
        assert [] == told
        with pytest.raises(KeyError):
            drain.wait(poll.fileno(), 1.0, {fd: fails})


@needs_drain
def test_how_long_the_wait_lasts(sockets):
    began, fd = time.monotonic(), sockets.server.fileno()
    times = [0] * 18
    table = fuzz_drain.filled_table(began - 20)
    reader = (table.maps([0] * 12), {}, times, [], bool)
    with select.epoll() as poll, socket.socket(type=socket.SOCK_DGRAM) as other:
        poll.register(fd, select.EPOLLIN)
        assert [] == drain.wait(poll.fileno(), 0.05, {fd: reader})
        assert 0.05 <= time.monotonic() - began < 1
        other.bind(("127.0.0.1", 0))
        poll.register(other, select.EPOLLIN)
        sockets.client.send(WEB)
        poke = threading.Timer(0.05, other.sendto, (b"x", other.getsockname()))
        poke.start()
        assert [other.fileno()] == drain.wait(poll.fileno(), math.inf, {fd: reader})
        poke.join()
        assert 1 == sum(times[:-1])
    assert [] == drain.wait(-1, 1.0, {fd: reader})  # no epoll: as if a signal had ended it


@needs_drain
def test_nothing_is_lost_of_memory_or_references(sockets):
    table = fuzz_drain.filled_table()
    packets = fuzz_drain.seeds(table)[:BATCH]
    answer = table.maps([])[0][WEB[12:] + b"\0"]
    for _ in range(50):
        fuzz_drain.check(drain, table, sockets, packets)
    before = sys.getrefcount(answer), sys.getrefcount(answer[5]), _most_kib()
    for _ in range(1500):
        fuzz_drain.check(drain, table, sockets, packets)
        fuzz_drain.check_wait(drain, table, sockets, packets)
    assert before[:2] == (sys.getrefcount(answer), sys.getrefcount(answer[5]))
    assert _most_kib() - before[2] < 2048


def _most_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@needs_drain
def test_a_socket_that_is_closed_and_arguments_that_are_none():
    table = AnswerTable()
    assert (0, 0, []) == drain.drain(-1, table.maps([]), NOW)
    with pytest.raises(TypeError):
        drain.drain(0, ([], {}, {}, [], *NO_LIMITS), NOW)
    with pytest.raises(TypeError):
        drain.drain(0, ({}, {}, {}, (), *NO_LIMITS), NOW)


def test_every_file_in_c_is_compiled():
    """The image takes what lies in the folder, setuptools and the sanitizers what pyproject names."""
    [module] = sanitized.extension_modules()
    folder = sanitized.ROOT / "clusterdns" / "serving"
    assert (
        sorted(str(p.relative_to(sanitized.ROOT)) for p in folder.glob("_*.c")) == module["sources"]
    )
    assert (
        sorted(str(p.relative_to(sanitized.ROOT)) for p in folder.glob("_*.h")) == module["depends"]
    )


def test_sanitizers_have_nothing_to_say(tmp_path):
    said = sanitized.fuzz("fuzz_drain.py", 4, sanitized.built(tmp_path))
    assert "packets" in said


@needs_drain
def test_the_binary_says_the_same_without_it(tmp_path, monkeypatch):
    corefile = "cluster.local:{PORT} {\n whoami\n}\n"
    packets = [*malformed.packets().values(), WEB, WEB]
    told = []
    for pure in ("", "1"):
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
        (tmp_path / f"pure{pure}").mkdir()
        with clusterdns(corefile, tmp_path / f"pure{pure}") as server:
            told.append([ask_udp(server.address, p, timeout_s=0.15) for p in packets])
    with_c, without = told
    assert [r and r[:12] for r in with_c] == [r and r[:12] for r in without]
    assert any(with_c)


def query_number(number: int) -> tuple[bytes, int]:
    """Return a query that the table answers, with its kind: one in five is denied."""
    kind = sampling.DENIED if number % 5 == 2 else sampling.PLAIN
    packet = GONE if kind == sampling.DENIED else WEB
    return struct.pack("!H", number % 65_536) + packet[2:], kind


def draw(sampler: sampling.Sampler, numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return which queries are looked at, and how many each stands for."""
    return [
        (number, stands_for)
        for number in numbers
        for _, stands_for in sampler.draw(query_number(number)[1])
    ]


def by_batch(sock: socket.socket, table: AnswerTable, sampler: sampling.Sampler) -> int:
    """Answer a batch in Python, as the specification of ``drain``."""
    observed = SimpleNamespace(seen=[], sampler=sampler)

    def take(client):
        for note, packet, reply in observed.seen:
            if isinstance(note, int):
                sampler.add((note, packet, client, 0.0, NOW, reply))
        observed.seen.clear()

    observed.take = take
    return Batch(sock).drain(table, NOW, [0] * 8, observed)[0]


def by_drain(sock: socket.socket, table: AnswerTable, sampler: sampling.Sampler) -> int:
    return drain.drain(sock.fileno(), table.maps([0] * 8, [], sampler.parts), NOW)[0]


@needs_drain
@pytest.mark.parametrize("drained", [by_batch, by_drain])
def test_hits_are_looked_at_by_their_kind(sockets, drained):
    table = fuzz_drain.filled_table()
    ours, theirs = (sampling.Sampler("", "udp", "table", seed=5) for _ in range(2))
    expected, found, sent = list[tuple[int, int]](), list[tuple[int, int]](), 0
    for i in range(400):
        batch = range(sent, sent + 1 + i * 7 % BATCH)
        sent = batch.stop
        for number in batch:
            sockets.client.send(query_number(number)[0])
        expected += draw(ours, batch)
        assert len(batch) == drained(sockets.server, table, theirs)
        for stands_for, packet, client, seconds, began, reply in theirs.take():
            number = next(n for n in batch if query_number(n)[0] == packet)
            found.append((number, stands_for))
            assert (NOW, sockets.client.getsockname()[:2]) == (began, client[:2])
            assert seconds >= 0
            assert reply == table.reply(packet, NOW, [0] * 8, False, [])
        if i % 150 == 149:
            ours.adapt()
            theirs.adapt()
    assert expected == found
    assert ours.state == theirs.state
    for denied in (True, False):  # each kind has a rate of its own
        assert 2 < len({times for number, times in found if (number % 5 == 2) == denied})


@needs_drain
def test_c_looks_at_the_hits_of_a_stream_that_python_would():
    table, counts, seen = fuzz_drain.filled_table(), [0] * 8, list[tuple[int, bytes, bytes]]()
    ours, theirs = (sampling.Sampler("", "tcp", "table", seed=6) for _ in range(2))
    packets = [query_number(number)[0] for number in range(3 * sampling.BUDGET)]
    frames = b"".join(struct.pack("!H", len(packet)) + packet for packet in packets)
    maps, at, hits = table.maps(counts, seen, theirs.parts), 0, 0
    while at < len(frames):
        _, at, more = drain.answer(maps, frames, at, BATCH, NOW)
        hits += more
    found = [each for each in seen if isinstance(each[0], int)]  # the others have observers
    assert draw(ours, range(hits)) == [(packets.index(packet), n) for n, packet, _ in found]
    assert all(r == table.reply(packet, NOW, [0] * 8, True, []) for _, packet, r in found)
    assert ours.state == theirs.state


@needs_drain
@pytest.mark.parametrize(
    "sampler",
    [
        (),
        (bytearray(STATE),),
        (bytearray(STATE - 1), []),
        (bytes(STATE), []),
        (bytearray(STATE), ()),
        5,
    ],
)
def test_a_sampler_that_is_none_is_left_alone(sockets, sampler):
    table = fuzz_drain.filled_table()
    sockets.client.send(WEB)
    maps = (*table.maps([0] * 8, [])[:-1], sampler)
    assert 1 == drain.drain(sockets.server.fileno(), maps, NOW)[0]
