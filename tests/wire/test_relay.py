"""_relay.c: what the chain says, of replies of every shape, and nothing the sanitizers object to."""

from __future__ import annotations

import errno
import gc
import random
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import replyshapes
import sanitized
from fuzz import fuzz_drain, fuzz_relay
from fuzz.fuzz_relay import NOW, NUMBER, PATIENCE_S, SERVER, Way, World
from replyshapes import Asked

from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import AD, CD, RD, Edns, Question
from clusterdns.wire.response import failure, render_reply

drain = fuzz_drain.built()
needs_drain = pytest.mark.skipif(
    drain is None,
    reason="not compiled: apt-get install gcc python3-dev, then pip install -e . again",
)
pytestmark = needs_drain
MOST = 1024  # MAX_OUT
NAMES = ("www.example.org.", "WwW.eXample.", "x.", ".", "a" * 63 + "." + "b.c." * 40 + "org.")
SHAPES: Mapping[str, Callable[[Asked], Mapping[str, bytes]]] = {
    "plain": replyshapes.plain,
    "whole": replyshapes.whole,
    "saying": replyshapes.saying,
    "other": replyshapes.other,
    "no reply": replyshapes.no_reply,
}


def query(
    text: str, qtype: int = rr.A, *, flags: int = RD, size: int = 0, ident: int = 7, do: int = 0
) -> bytes:
    qname = name.parse(text)
    opt = message.write_opt(Edns(size, 0, do)) if size else b""
    head = message.HEADER.pack(ident, flags, 1, 0, 0, 1 if opt else 0)
    return head + Question(qname, name.fold(qname), qtype).wire + opt


def answered(world: World, packet: bytes, addresses: int = 1) -> bytes | None:
    """Return what the client gets of so many addresses; None if they are handed over."""
    world.drain([packet])
    ((sent, port),) = world.received()
    asked = Asked(sent)
    world.upstream.sendto(asked.message(asked.addresses(addresses)), port)
    left = world.module.collect(NOW)
    found = world.sockets.received()
    assert len(left) + len(found) == 1
    return found[0] if found else None


@pytest.fixture(params=fuzz_relay.ways(), ids=str)
def world(request):
    with World(drain, request.param) as found:
        yield found


@pytest.fixture
def plain_world():
    with World(drain, Way()) as found:
        yield found


def reset(world: World) -> None:
    for kept in world.kept.values():
        kept.clear()


# ---- replies


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("qtype", "size"), [(rr.A, 0), (rr.AAAA, 4096)])
def test_replies_of_every_shape(world, kind, qtype, size):
    """Passed on, handed over or waited out, as the list says that the shape is in."""
    for text in NAMES:
        packet = query(text, qtype, size=size)
        for shape in SHAPES[kind](Asked(packet)):
            sent = []

            def replies(asked: Asked, shape: str = shape, sent: list[bytes] = sent) -> list[bytes]:
                sent.append(SHAPES[kind](asked)[shape])
                return sent

            reset(world)
            found = fuzz_relay.check(world, [packet], replies)
            assert expected(world, kind, has_opt=size > 0) == found, (text, shape)


def expected(world: World, kind: str, *, has_opt: bool) -> tuple[int, int, int]:
    """Return how many are passed on, handed over and waited out."""
    if kind == "no reply":
        return 0, 0, 1
    hides_opt = world.way.is_cached or world.way.is_minimal or not has_opt
    if kind in ("plain", "whole") or (kind == "saying" and hides_opt):
        return 1, 0, 0
    return 0, 1, 0


@pytest.mark.parametrize("seed", range(4))
def test_what_is_mutated(world, seed):
    rng = random.Random(seed)
    totals = [0, 0, 0]
    for _ in range(6):
        reset(world)
        found = fuzz_relay.check(
            world,
            fuzz_relay.queries(rng),
            lambda asked: fuzz_relay.replies(rng, asked),
            lambda _: rng.random() < 0.05,
        )
        totals = [a + b for a, b in zip(totals, found, strict=True)]
    assert all(totals)


def test_a_reply_comes_after_many_that_are_none(plain_world):
    def replies(asked: Asked) -> list[bytes]:
        none = [*replyshapes.no_reply(asked).values()] * 5
        return [*none, replyshapes.plain(asked)["addresses"], *none]

    assert (1, 0, 0) == fuzz_relay.check(plain_world, [query("x.")], replies)


def test_addresses_come_in_every_order(plain_world):
    first = set()
    for _ in range(60):
        reset(plain_world)
        octets = answered(plain_world, query("x."), 3)
        first.add(tuple(record.rdata[-1] for record in reading.read_reply(octets).answer))
    assert 6 == len(first)


def test_a_reply_that_fits_to_the_octet_and_one_that_is_cut(plain_world):
    """31 addresses are 515 octets behind a name of one label of one octet."""
    room = message.MIN_UDP_OCTETS - 12 - 7
    assert 30 == room // 16
    with_opt = 12 + 7 + 31 * 16 + 11
    for packet, sent, came in (
        (query("x."), 30, 30), (query("y."), 31, 30),
        (query("z.", size=with_opt), 31, 31), (query("a.", size=with_opt - 1), 31, 30),
    ):  # fmt: skip
        octets = answered(plain_world, packet, sent)
        assert octets is not None
        reply = reading.read_reply(octets)
        assert came == len(reply.answer)
        assert (came < sent) == bool(reply.flags & message.TC)
        assert len(octets) <= max(512, reading.read_query(packet).limit)
    for kept, sent in zip(plain_world.kept["success"].values(), (30, 31, 31, 31), strict=True):
        assert sent == len(reading.read_reply(kept[3]).answer)


@pytest.mark.parametrize("rtype", [rr.A, 44, 33, 64, 65, 257, 43])
@pytest.mark.parametrize("do", [0, message.EDNS_DO])
@pytest.mark.parametrize("flags", [RD, RD | CD, RD | AD | CD])
def test_each_type_with_do_and_cd(plain_world, rtype, do, flags):
    """Each variant is a question of its own, as `cache` has it."""
    packet = query("www.example.org.", rtype, flags=flags, size=1232, do=do)
    for shape in ("all sections and OPT", "signed", "denial with proofs"):
        reset(plain_world)
        found = fuzz_relay.check(
            plain_world, [packet], lambda asked, shape=shape: [replyshapes.whole(asked)[shape]]
        )
        assert (1, 0, 0) == found
        [key] = [key for kept in plain_world.kept.values() for key in kept]
        assert key == reading.read_query(packet).question.key


def test_variants_of_a_question_do_not_wait_for_each_other(plain_world):
    packets = [
        query("www.example.org.", flags=flags, size=size, do=do)
        for size, do in ((0, 0), (1232, message.EDNS_DO))
        for flags in (RD, RD | CD)
    ]
    assert [] == plain_world.drain(packets)
    assert len(packets) == len(plain_world.received())
    assert {key[21:] for key in plain_world.under_way} == {b"", b"\1", b"\2", b"\3"}


@pytest.mark.parametrize("rtype", [0, rr.HINFO, rr.OPT, 128, 249, 250, 251, 252, 255])
def test_types_that_are_left(plain_world, rtype):
    assert [query("x.", rtype)] == plain_world.drain([query("x.", rtype)])


def test_types_that_the_lane_leaves(plain_world):
    plain_world.lane.left = b"\0\x0c\0\x10\0"  # PTR, TXT, and half a type
    packets = [query("x.", rtype) for rtype in (rr.A, 12, 16, 12 << 8, 16 << 8, rr.AAAA)]
    assert packets[1:3] == plain_world.drain(packets)


def test_questions_for_ds_belong_to_the_zone_above(plain_world):
    zones, ds = plain_world.zones, 43
    zones[b"\7example\0"] = plain_world.lane
    zones[b"\3sub\7example\0"] = None
    asked = ["x.", "x.example.", "example.", "sub.example.", "x.sub.example."]
    packets = [query(text, ds) for text in asked]
    assert packets[3:] == plain_world.drain(packets)


def test_names_that_are_not_there_are_taken_and_others_left(plain_world):
    asked = {
        "6.0.1.10.in-addr.arpa.": True, "5.0.1.10.in-addr.arpa.": False, "10.in-addr.arpa.": True,
        "in-addr.arpa.": False, "SVC.in-addr.arpa.": False, "NS.dns.in-addr.arpa.": False,
        "7.2.0.192.in-addr.arpa.": False, "x.example.": False, "z.d.f.ip6.arpa.": False,
        "1.d.f.ip6.arpa.": True,
    }  # fmt: skip
    packets = [query(text, rr.PTR) for text in asked]
    left = [packet for packet, taken in zip(packets, asked.values(), strict=True) if not taken]
    assert left == plain_world.drain(packets)
    assert [] == plain_world.drain([query("x.example."), query("7.2.0.192.in-addr.arpa.")])
    packet = query("6.0.1.10.in-addr.arpa.", rr.SOA)
    assert [packet] == plain_world.drain([packet])


def test_names_that_come_are_left_at_once(plain_world):
    there, packets = fuzz_relay.THERE.there, [query(f"{i}.1.1.1.in-addr.arpa.", 16) for i in (1, 2)]
    assert [] == plain_world.drain(packets[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(there.endpoints, "1.1.1.2", 1)
        assert packets[1:] == plain_world.drain(packets[1:])
    assert [] == plain_world.drain(packets[1:])


@pytest.mark.parametrize("item", range(4))
@pytest.mark.parametrize("other", [None, 7, (), {}, object()])
def test_a_part_of_other_things_is_for_the_chain(plain_world, item, other):
    zone = fuzz_relay.REVERSE[0]
    part = [*plain_world.zones[zone]]
    part[item] = other
    packet = query("9.9.9.9.in-addr.arpa.", rr.PTR)
    plain_world.zones[zone] = tuple(part)
    assert ([packet] if item < 2 else []) == plain_world.drain([packet])
    plain_world.zones[zone] = tuple(part[:item])
    packet = query("9.9.9.8.in-addr.arpa.", rr.PTR)
    assert [packet] == plain_world.drain([packet])


@pytest.mark.parametrize("held", [7, (), ({}, None, 7), [{"1.1.1.1": 1}]])
def test_addresses_of_another_type_hold_nothing(plain_world, held):
    plain_world.lane.addresses = held
    assert [] == plain_world.drain([query("1.1.1.1.in-addr.arpa.", rr.PTR)])


def test_a_reply_that_costs_too_much_is_handed_over(plain_world):
    """Names of 127 labels, each written out by a pointer, and each to be looked up."""
    packet = query("x.")

    def replies(asked: Asked) -> list[bytes]:
        long = replyshapes.record(b"\1a" * 126 + b"\0", 16, 5, b"")
        head = asked.first
        others = (
            replyshapes.record(replyshapes.pointer(head + 2 * (i % 60)), 16, 5, b"")
            for i in range(100)
        )
        return [asked.message((long, *others))]

    assert (0, 1, 0) == fuzz_relay.check(plain_world, [packet], replies)


# ---- queries


def test_every_length_of_a_query(plain_world):
    for packet in (query("www.example.org."), query("www.example.org.", size=1232) + bytes(300)):
        for i in range(len(packet) + 1):
            fuzz_relay.check(plain_world, [packet[:i]], lambda asked: [asked.message()])


def test_equal_questions_are_asked_once(plain_world):
    """However they are spelled, and whatever their flags and OPT: the chain knows what is alike."""
    first = query("web.example.", ident=1)
    others = [
        query("web.example.", ident=2), query("WEB.example.", ident=3),
        query("web.example.", ident=4, size=1232), query("web.example.", ident=5, flags=RD | AD),
    ]  # fmt: skip
    assert others == plain_world.drain([first, *others])
    assert 1 == len(plain_world.received())
    assert others == plain_world.drain(others)


def test_what_is_known_is_left_until_it_is_over(plain_world):
    packet = query("web.example.")
    key = fuzz_relay.key_of(packet)
    for kept in (plain_world.until, *plain_world.kept.values()):
        for until, is_left in ((NOW + 0.1, True), (NOW, False), (NOW - 9, False)):
            kept[key] = until if kept is plain_world.until else (until, NOW - 9, 9, b"")
            assert ([packet] if is_left else []) == plain_world.drain([packet])
            plain_world.module.expire(NOW + PATIENCE_S)
        kept.clear()


def test_what_is_kept_is_known(plain_world):
    packet = query("web.example.")
    assert answered(plain_world, packet) is not None
    assert [packet] == plain_world.drain([packet])


def test_the_longest_zone_counts(plain_world):
    zones = plain_world.zones
    zones[b"\7example\0"] = None
    zones[b"\3sub\7example\0"] = plain_world.lane
    asked = ["a.example.", "Example.", "sub.exAMPle.", "a.b.sub.example.", "sub.example.org.", "."]
    packets = {text: query(text) for text in asked}
    left = plain_world.drain([*packets.values()])
    assert [packets["a.example."], packets["Example."]] == left
    del zones[b"\0"]
    plain_world.module.expire(NOW + PATIENCE_S)
    assert packets["."] in plain_world.drain([*packets.values()])


def test_so_many_at_most(plain_world):
    """As the lane says, and no more than there is room for in C; the rest is for the chain."""
    plain_world.lane.most = 5
    packets = [query(f"n{i}.example.", ident=i) for i in range(1100)]
    assert packets[5:9] == plain_world.drain(packets[:9])
    plain_world.module.expire(NOW + PATIENCE_S)
    plain_world.lane.most = 1 << 20
    left = []
    for i in range(0, len(packets), fuzz_drain.BATCH):
        left += plain_world.drain(packets[i : i + fuzz_drain.BATCH])
    assert packets[MOST:] == left
    assert MOST == plain_world.lane.busy
    assert packets[-1:] == plain_world.drain(packets[-1:])
    assert MOST == len(plain_world.module.expire(NOW + PATIENCE_S))
    assert [] == plain_world.drain(packets[-1:])


@pytest.mark.parametrize("size", [0, 1232])
@pytest.mark.parametrize("flags", [0, RD, RD | AD])
def test_what_there_is_no_room_for_is_refused_as_the_chain_refuses(plain_world, flags, size):
    """Unless it is known, or the lane says that the chain shall see it."""
    world, lane = plain_world, plain_world.lane
    lane.most = 0
    packet = query("Some.Name.", flags=flags, size=size)
    assert [packet] == world.drain([packet])
    lane.refuses = True
    assert [] == world.drain([packet])
    asked = reading.read_query(packet)
    assert [render_reply(asked, failure(rr.REFUSED), asked.limit)] == drained(world.sockets.client)
    ((octets, (times, seconds)),) = world.counts.items()
    counted = fuzz_relay.COUNT.unpack(octets)
    assert (1, 0.0) == (times, seconds)
    assert (
        65535,
        rr.A,
        len(packet) - (11 if size else 0),
        0,
        rr.REFUSED,
        bool(size),
        0,
    ) == counted[2:9]
    world.under_way[asked.question.folded + b"\0\1\0\1"] = b""
    assert [packet] == world.drain([packet])
    world.under_way.clear()


def test_servers_are_asked_in_turn(plain_world):
    others = [fuzz_relay.bound("127.0.0.1") for _ in range(2)]
    lane = plain_world.lane
    lane.targets.extend(
        fuzz_relay.target_of(sock.getsockname(), number=i) for i, sock in enumerate(others)
    )
    socks = [plain_world.upstream, *others]
    for policy, counts in ((0, [30, 0, 0]), (1, [10, 10, 10]), (2, None)):
        lane.policy = policy
        plain_world.drain([query(f"n{i}.", ident=i) for i in range(30)])
        found = [len(drained(sock)) for sock in socks]
        assert 30 == sum(found)
        assert all(found) if counts is None else counts == found
        plain_world.module.expire(NOW + PATIENCE_S)
    for sock in others:
        sock.close()


def drained(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(512))
        except BlockingIOError:
            return found


@pytest.mark.parametrize(
    "targets", [[], [b""], [b"short"], [bytes(60)], [None], ["x" * 60], [bytes(61)]]
)
def test_nobody_to_ask_is_for_the_chain(plain_world, targets):
    plain_world.lane.targets[:] = targets
    assert [query("x.")] == plain_world.drain([query("x.")])
    assert (0, {}) == (plain_world.lane.busy, plain_world.under_way)


def test_source_address():
    """A query leaves from the address that is given; one that is not ours leaves it to the chain."""
    with World(drain, Way()) as world:
        address = world.upstream.getsockname()
        world.lane.targets[:] = [fuzz_relay.target_of(address, "127.0.0.9")]
        assert [] == world.drain([query("x.")])
        ((_, port),) = world.received()
        assert "127.0.0.9" == port[0]
        world.lane.targets[:] = [fuzz_relay.target_of(address, "192.0.2.1")]
        assert [query("y.")] == world.drain([query("y.")])


def test_every_query_has_a_port_and_an_id_of_its_own(plain_world):
    seen = []
    for i in range(8):
        plain_world.drain([query(f"n{i}-{k}.", ident=3) for k in range(60)])
        seen += [(port[1], octets[:2]) for octets, port in plain_world.received()]
        plain_world.module.expire(NOW + PATIENCE_S)
    ports = {port for port, _ in seen}
    assert len(ports) > 460
    assert len({ident for _, ident in seen}) > 460
    assert min(ports) >= 1024
    assert max(ports) - min(ports) > 50_000


# ---- what is handed over


def test_what_python_wants_to_see_is_handed_over(plain_world):
    packet = query("x.")
    plain_world.drain([packet])
    plain_world.under_way[fuzz_relay.key_of(packet)] = True
    ((sent, port),) = plain_world.received()
    asked = Asked(sent)
    octets = asked.message((asked.address(),))
    plain_world.upstream.sendto(octets, port)
    ((*_, found, error, _),) = plain_world.module.collect(NOW)
    assert (octets, 0) == (found, error)
    assert [] == plain_world.sockets.received()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_where_nobody_listens_is_handed_over_at_once(host):
    with World(drain, Way(host=host)) as world:
        world.upstream.close()
        packet = query("x.")
        assert [] == world.drain([packet])
        ((lane, found, client, _, listener, server, _, octets, error, _),) = world.module.collect(
            NOW
        )
        assert (world.lane, packet, SERVER, None) == (lane, found, server, octets)
        assert (world.sockets.client.getsockname(), world.sockets.server.fileno()) == (
            client,
            listener,
        )
        assert errno.ECONNREFUSED == error
        assert (0, {}) == (lane.busy, world.under_way)


def test_a_server_that_dies_meanwhile(plain_world):
    plain_world.drain([query("x.")])
    plain_world.received()
    plain_world.upstream.close()
    assert [] == plain_world.module.collect(NOW)
    assert [] == plain_world.module.expire(NOW + PATIENCE_S - 0.01)
    ((*_, seconds, octets, error, _),) = plain_world.module.expire(NOW + PATIENCE_S)
    assert (PATIENCE_S, None, errno.ETIMEDOUT) == (seconds, octets, error)


# ---- memory


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_nothing_is_lost_of_memory_references_or_descriptors(world):
    rng = random.Random(5)
    batches = [(fuzz_relay.queries(rng), rng.randrange(2**32)) for _ in range(4)]

    def run() -> None:
        for packets, seed in batches:
            reset(world)
            fuzz_relay.check(world, packets, partial(fuzz_relay.replies, random.Random(seed)))
        reset(world)

    def held() -> list[int]:
        gc.collect()  # errors that dnspython has noted hold the frames of a check
        lane = world.lane
        some = (lane, world.zones, world.under_way, world.counts, lane.targets, lane.targets[0])
        return [sys.getrefcount(each) for each in (*some, lane.known, None)][:-1]

    run()
    before = held(), descriptors(), sys.getallocatedblocks()
    for _ in range(5):
        run()
    assert before[:2] == (held(), descriptors())
    assert abs(sys.getallocatedblocks() - before[2]) < 500


@pytest.mark.parametrize("known", [(), ([],), (None, 7), ({}, "x")])
@pytest.mark.parametrize("until", ["late", None, 7, (), ("late",), [], (None, 1)])
def test_what_is_known_of_another_type_is_left(known, until):
    """The chain never has such; if it had, the process would go on, and Python decide."""
    with World(drain, Way()) as world:
        packet = query("x.")
        under_way: dict[bytes, bytes | bool] = {}
        lane = drain.Lane(0, (*known, {fuzz_relay.key_of(packet): until}), under_way, [], {})
        lane.most, lane.patience = 9, PATIENCE_S
        lane.targets[:] = world.lane.targets
        world.zones[name.ROOT] = lane
        assert [packet] == world.drain([packet])


@pytest.mark.parametrize("lane", [7, "lane", (), {}, b"", object(), drain])
def test_what_is_no_lane_is_for_the_chain(lane, plain_world):
    plain_world.zones[name.ROOT] = lane
    assert [query("x.")] == plain_world.drain([query("x.")])


def test_a_lane_that_was_never_made(plain_world):
    lane = drain.Lane.__new__(drain.Lane)
    lane.most = 9
    plain_world.zones[name.ROOT] = lane
    assert [query("x.")] == plain_world.drain([query("x.")])


@pytest.mark.parametrize("kept", [7, [], "x", None, b""])
@pytest.mark.parametrize("counted", [None, 7, (), ("x", "y"), (1,), [1, 2.0], (2**70, 1.0)])
def test_where_nothing_can_be_kept_or_counted(plain_world, kept, counted):
    world = plain_world
    world.lane.success = kept
    assert answered(world, query("x.")) is not None
    for key in world.counts:
        world.counts[key] = counted
    assert answered(world, query("x.")) is not None
    assert (0, {}) == (world.lane.busy, world.under_way)


@pytest.mark.parametrize("arguments", [(), (0,), (0, (), {}, []), ("0", (), {}, [], {}), (0, [], {}, [], {}),
                                       (0, (), [], [], {}), (0, (), {}, (), {}), (0, (), {}, [], 7)])  # fmt: skip
def test_a_lane_of_other_things(arguments):
    with pytest.raises(TypeError):
        drain.Lane(*arguments)


def test_arguments_that_are_none(plain_world):
    fd = plain_world.sockets.server.fileno()
    with pytest.raises(TypeError):
        drain.drain(fd, ({}, {}, {}, [], *fuzz_drain.NO_LIMITS), NOW, [])
    for call in (drain.collect, drain.expire):
        with pytest.raises(TypeError):
            call()
        with pytest.raises(TypeError):
            call("now")
    assert drain.open() == drain.open()


def test_a_lane_that_is_gone_while_its_query_is_out():
    """A query holds its lane, and the reply still goes to the client."""
    with World(drain, Way()) as world:
        world.drain([query("x.")])
        ((sent, port),) = world.received()
        world.zones.clear()
        del world.lane
        asked = Asked(sent)
        world.upstream.sendto(asked.message((asked.address(),)), port)
        assert [] == world.module.collect(NOW)
        assert 1 == len(world.sockets.received())
        assert {} == world.under_way


def test_under_way_may_change_meanwhile(plain_world):
    plain_world.drain([query("x.")])
    plain_world.under_way.clear()
    assert 1 == len(plain_world.module.expire(NOW + PATIENCE_S))
    assert 0 == plain_world.lane.busy
    assert NUMBER == plain_world.lane.number


def test_sanitizers_have_nothing_to_say(tmp_path):
    said = sanitized.fuzz("fuzz_relay.py", 4, sanitized.built(tmp_path))
    assert "passed on" in said


# ---- observers


@pytest.mark.parametrize("wants", range(8))
@pytest.mark.parametrize("is_full", [True, False])
def test_observers_are_told_of_the_classes_they_want(plain_world, wants, is_full):
    world, told = plain_world, []
    world.lane.told, world.lane.wants, world.lane.many = told, wants, 2
    world.lane.tells_replies = world.lane.tells_exchanges = is_full
    for bit, shape in ((1, "all sections"), (2, "denial with proofs"), (4, "rcode 5")):
        world.drain([query("x.", ident=bit)])
        ((sent, port),) = world.received()
        octets = replyshapes.whole(Asked(sent))[shape]
        world.upstream.sendto(octets, port)
        world.module.collect(NOW + 0.5)
        [reply] = world.sockets.received()
        reset(world)
        if not wants & bit:
            assert [] == told
            continue
        [(lane, packet, client, listener, began, s, log_class, flags, size, server, *rest)] = told
        told.clear()
        assert (world.lane, bit, bit, NOW, 0.5) == (lane, packet[1], log_class, began, s)
        assert (world.sockets.client.getsockname(), SERVER) == (client, server)
        assert world.sockets.server.fileno() == listener
        assert int.from_bytes(reply[2:4], "big") == flags
        assert size >= len(octets) - 20
        assert ([reply, octets, port] if is_full else [None] * 3) == rest


def test_observers_that_nobody_empties_are_bounded(plain_world):
    world = plain_world
    world.lane.told, world.lane.wants, world.lane.many = [None] * 4096, 7, 9
    assert answered(world, query("x.")) is not None
    assert (4096, 1) == (len(world.lane.told), world.lane.untold)
