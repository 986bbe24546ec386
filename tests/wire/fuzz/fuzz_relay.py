"""Fuzz the relay in C: ``python tests/fuzz/fuzz_relay.py [SECONDS [SEED]]``.

Queries go through a socket to ``_drain.drain``, replies come back to ``_drain.collect`` from a server
that is this program. The chain is the specification: what C sends, passes on, keeps and counts is
what ``Exchange``, the rules of `cache` and ``render_reply`` make of the same octets; what it does not
pass on it hands over as it came; and it waits on for as long as nothing is a reply to the query.
``DRAIN`` in the environment names another build of the module, such as one with sanitizers.
"""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
import struct
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import dns.message
import killers
import replyshapes
from replyshapes import Asked

from clusterdns.caching import rules
from clusterdns.caching.options import DENIAL, SUCCESS, CacheOptions, Limits
from clusterdns.forwarding.exchange import Asked as Sent
from clusterdns.forwarding.exchange import Exchange
from clusterdns.forwarding.outside import OWN_OCTETS
from clusterdns.host.interfaces import sockaddr
from clusterdns.metrics.histogram import TIME_S
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import AD, CD, EDNS_DO, RD, Edns, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.outcome import Outcome, outcome_of
from clusterdns.wire.reading import Reply
from clusterdns.wire.response import (
    Addresses,
    Passing,
    Response,
    Sections,
    render_reply,
    response_of,
    uncompressed_octets,
)
from clusterdns.wire.rr import RR
from fuzz import fuzz_drain

NOW, WAITED_S, PATIENCE_S, STALE_S = 1000.0, 0.003, 2.0, 7.0
SERVER, NUMBER = 3, 5  # numbers of the upstream server and of the lane
COUNT = struct.Struct("=iHHHHHBBBBxx")
BATCH, OCTETS = fuzz_drain.BATCH, fuzz_drain.OCTETS
ELSEWHERE = b"\x09elsewhere\0"  # a zone for the chain
# Zones of addresses, for the chain where a name may exist.
REVERSE = (b"\7in-addr\4arpa\0", b"\1d\1f\3ip6\4arpa\0")
THERE = Passing(
    Addresses(frozenset((b"svc", b"dns")), {"10.96.0.1": 1}, {"10.1.0.5": 1, "fd00::ff:5": 1}),
    b"\2ns\3dns",
    (rr.SOA, rr.MX),
)
NAMED = {"192.0.2.7": (), "2001:db8::7": ()}  # addresses with names that `hosts` knows
_REVERSE_NAMES = tuple(
    name.fold(name.parse(text + ".arpa."))
    for text in (
        "1.0.96.10.in-addr", "5.0.1.10.in-addr", "6.0.1.10.in-addr", "7.2.0.192.in-addr",
        "10.in-addr", "in-addr", "x.svc.in-addr", "svcs.in-addr", "ns.dns.in-addr", "x.y.in-addr",
        "256.0.1.10.in-addr", "5.0.1.10.5.0.1.10.in-addr", "2.d.f.ip6", "d.f.ip6", "zz.d.f.ip6",
        *(
            ipaddress.ip_address(text).reverse_pointer.removesuffix(".arpa")
            for text in ("fd00::ff:5", "fd00::ff:6", "fd00::ff:0:5", "2001:db8::7", "2001:db8::8", "::7")
        ),
    )
)  # fmt: skip
_KINDS = (
    rr.A,
    rr.AAAA,
    rr.A,
    rr.PTR,
    rr.MX,
    rr.SRV,
    65,
    rr.NS,
    rr.SOA,
    43,
    rr.TXT,
    0x61,
    0x41,
    257,
)
_NOT_RELAYED = (0, rr.HINFO, rr.OPT, *range(128, 256))


class Way(NamedTuple):
    """What a lane is told of its server block."""

    is_cached: bool = True
    shuffles: bool = True
    keeps: tuple[bool, bool] = (True, True)
    least: tuple[int, int] = (5, 2)
    host: str = "127.0.0.1"
    is_minimal: bool = False
    servfail_s: int = 5

    @property
    def options(self) -> CacheOptions:
        """What `cache` says."""
        success, denial = self.least
        limits = {SUCCESS: Limits(250, success), DENIAL: Limits(30, denial)}
        return CacheOptions((name.ROOT,), limits, self.servfail_s)


class World:
    """A lane with a server, a listener and a client."""

    def __init__(self, module: ModuleType, way: Way) -> None:
        self.module, self.way = module, way
        self.sockets = fuzz_drain.Sockets(way.host)
        self.table = AnswerTable()  # an empty one
        self.upstream = bound(way.host)
        self.under_way: dict[bytes, bytes | bool] = {}
        self.until: dict[bytes, float] = {}
        self.kept: dict[str, dict[bytes, Any]] = {SUCCESS: {}, DENIAL: {}}
        self.counts: dict[bytes, tuple[int, float]] = {}
        self.expected: Counter[bytes] = Counter()
        known = (self.until, *self.kept.values())
        target = target_of(self.upstream.getsockname())
        self.lane = module.Lane(NUMBER, known, self.under_way, [target], self.counts)
        lane, limits = self.lane, way.options.limits
        lane.most, lane.patience, lane.stale = 1024, PATIENCE_S, STALE_S
        lane.own_octets = OWN_OCTETS
        lane.is_cached, lane.shuffles = way.is_cached, way.shuffles
        lane.is_minimal, lane.failure = way.is_minimal, way.servfail_s
        lane.success_least, lane.success_most = limits[SUCCESS].min_ttl, limits[SUCCESS].max_ttl
        lane.denial_least, lane.denial_most = limits[DENIAL].min_ttl, limits[DENIAL].max_ttl
        lane.success = self.kept[SUCCESS] if way.keeps[0] else None
        lane.denial = self.kept[DENIAL] if way.keeps[1] else None
        lane.addresses = (NAMED, {})
        self.zones: dict[bytes, object] = {name.ROOT: lane, ELSEWHERE: None}
        types = b"".join(rtype.to_bytes(2, "big") for rtype in THERE.types)
        for zone in REVERSE:
            self.zones[zone] = lane, THERE.there, THERE.spared, types
        module.open()

    def drain(self, packets: Sequence[bytes]) -> list[bytes]:
        """Let the client send queries; return those that C has left."""
        for packet in packets:
            self.sockets.client.send(packet)
        fd = self.sockets.server.fileno()
        replies = [reply for packet in packets if (reply := self.answered(packet))]
        answered, unsent, left = self.module.drain(
            fd, ({}, {}, {}, [], *fuzz_drain.NO_LIMITS), NOW, self.zones
        )
        assert (len(replies), 0) == (answered, unsent)
        assert replies == [self.sockets.client.recv(OCTETS) for _ in replies]
        assert all(client == self.sockets.client.getsockname() for _, client, _ in left)
        return [packet for packet, *_ in left]

    def answered(self, packet: bytes) -> bytes | None:
        """Return the reply that needs no upstream server: that to an EDNS version but 0."""
        return self.table.reply(fuzz_drain.received(packet), NOW, [0] * 64)

    def received(self) -> list[tuple[bytes, tuple[str, int]]]:
        """Return what has come to the server, and from where."""
        found = []
        while True:
            try:
                found.append(self.upstream.recvfrom(65535))
            except BlockingIOError:
                return found

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.module.expire(NOW + 1e6)  # what a failed check has left out
        self.sockets.__exit__()
        self.upstream.close()


def bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


def target_of(address: tuple[Any, ...], source: str = "", number: int = SERVER) -> bytes:
    """Return a server as a lane has it: struct target."""
    host, port = address[:2]
    source = source or ("::" if ":" in host else "0.0.0.0")
    return struct.pack("!Hxx", number) + sockaddr(host, port) + sockaddr(source, 0)


# ---- out: which queries C takes, and what it sends


def is_plain(packet: bytes) -> bool:
    """Tell whether a query is one that C may take, as DESIGN.md says it."""
    query = reading.read_query(packet)
    if not isinstance(query, Query) or query.question is None:
        return False
    question, edns = query.question, query.edns
    counts = (1, 0, 0, 0 if edns is None else 1)
    is_bare = edns is None or (packet[-4] in (0, 0x80) and not any(packet[-6:-4] + packet[-3:]))
    octets = message.HEADER_OCTETS + len(question.wire) + (0 if edns is None else 11)
    return (
        not query.flags & ~(RD | AD | CD)
        and message.HEADER.unpack_from(packet)[2:] == counts
        and is_bare
        and len(packet) == octets
        and question.qtype not in _NOT_RELAYED
        and question.qclass == rr.CLASS_IN
        and not name.is_within(question.folded, WireName(ELSEWHERE))
        and not any(b"." in label for label in name.labels(question.folded))
        and all(
            THERE.has(question, WireName(zone))
            for zone in REVERSE
            if name.is_within(question.folded, WireName(zone))
        )
        and not (question.qtype == rr.PTR and may_be_named(question.folded))
    )


def may_be_named(folded: WireName) -> bool:
    """Tell whether `hosts` has to look at a PTR question."""
    address = name.plain_address(folded)
    return address is None or address in NAMED


class Out(NamedTuple):
    """A query that C has sent: as it came, and as the server got it."""

    packet: bytes
    query: Query
    exchange: Exchange
    key: bytes
    port: tuple[Any, ...]


def send_on(world: World, packets: Sequence[bytes]) -> list[Out]:
    """Hold that C takes the plain ones among queries, once each, and sends what the chain would."""
    taken: dict[bytes, bytes] = {}
    left = []
    for packet in map(fuzz_drain.received, packets):
        if world.answered(packet):
            continue
        key = key_of(packet) if is_plain(packet) else b""
        if key and key not in taken and not is_known(world, key):
            taken[key] = packet
        else:
            left.append(packet)
    assert world.drain(packets) == left
    assert world.lane.busy == len(taken)
    came = world.received()
    assert len(came) == len(taken)
    found = []
    for packet, (octets, port) in zip(taken.values(), came, strict=True):
        query = reading.read_query(packet)
        assert isinstance(query, Query)
        assert query.question is not None
        sent = Sent.of(query, query.question, "udp", OWN_OCTETS, frozenset())
        ident = int.from_bytes(octets[:2], "big")
        exchange = Exchange.begin(ident, query.question, sent.flags, sent.edns)
        assert octets == exchange.packet
        key = key_of(packet)
        assert world.under_way[key] == octets[2:4]
        found.append(Out(packet, query, exchange, key, port))
    assert len({out.port for out in found}) == len(found)
    return found


def key_of(packet: bytes) -> bytes:
    query = reading.read_query(packet)
    assert isinstance(query, Query)
    assert query.question is not None
    return query.question.key


def is_known(world: World, key: bytes) -> bool:
    """Tell whether a question is answered from what is kept."""
    kept = [d[key][0] for d in world.kept.values() if key in d]
    return any(until > NOW for until in (*kept, world.until.get(key, 0.0)))


# ---- back: what becomes of a reply


def reply_to(out: Out, octets: bytes) -> Reply | None:
    """Return the reply that octets are to a query, None if they are none.

    C is stricter in one thing: the question has to be spelled out, not pointed to.
    """
    reply = out.exchange.read(octets)
    asked = out.exchange.question.wire
    if reply is None or not out.exchange.accepts(reply):
        return None
    if not reply.questions:
        return reply if len(octets) == message.HEADER_OCTETS else None
    literal = octets[message.HEADER_OCTETS :][: len(asked)]
    return reply if literal.lower() == asked.lower() else None


def answer(world: World, out: Out, replies: Sequence[bytes]) -> Reply | None:
    """Send replies to a query; return the first that is one, and count the others."""
    for octets in replies:
        world.upstream.sendto(octets, out.port)
        reply = reply_to(out, octets)
        if reply is not None:
            return reply
        world.expected[struct.pack("=H", SERVER)] += 1
    return None


def check(
    world: World,
    packets: Sequence[bytes],
    replies_to: Callable[[Asked], Sequence[bytes]],
    wanted: Callable[[bytes], bool] = lambda key: False,
) -> tuple[int, int, int]:
    """Hold a batch of queries and the replies to each against the chain.

    ``wanted`` says of which questions Python wants to see the reply itself.
    Returns how many were passed on, handed over, and never answered.
    """
    module, lane, client = world.module, world.lane, world.sockets.client.getsockname()
    outs = send_on(world, packets)
    awaited: dict[bytes, tuple[Out, Reply, bytes]] = {}
    silent: dict[bytes, tuple[Out, Sequence[bytes]]] = {}
    seen: set[bytes] = set()  # whose replies Python has to see
    for out in outs:
        replies = replies_to(Asked(out.exchange.packet))
        reply = answer(world, out, replies)
        if reply is not None:
            first = next(octets for octets in replies if reply_to(out, octets) is not None)
            awaited[out.packet] = out, reply, first
            if wanted(out.key):
                world.under_way[out.key] = True
                seen.add(out.packet)
        else:
            silent[out.packet] = out, replies
    now = NOW + WAITED_S
    left = [each for _ in range(len(outs) // 16 + 2) for each in module.collect(now)]
    assert lane.busy == len(silent)
    assert world.under_way.keys() == {out.key for out, _ in silent.values()}
    for found, packet, who, _, listener, server, seconds, octets, error, ours in left:
        assert (lane, client, SERVER, 0, None) == (found, who, server, error, ours)
        assert world.sockets.server.fileno() == listener
        assert abs(seconds - WAITED_S) < 1e-9
        assert awaited.pop(packet)[2] == octets
    passed = world.sockets.received()
    assert not seen & awaited.keys()
    assert len(awaited) == len(passed)
    for octets in passed:
        asked = octets[12 : 12 + len(reading.read_reply(octets).questions[0][0]) + 4]
        [packet] = [
            p
            for p, (out, *_) in awaited.items()
            if p[:2] == octets[:2] and out.exchange.question.wire == asked
        ]
        check_passed(world, *awaited.pop(packet)[:2], octets)
    check_silent(world, silent)
    assert {**world.expected} == {key: times for key, (times, _) in world.counts.items()}
    return len(passed), len(left), len(silent)


def check_silent(world: World, silent: Mapping[bytes, tuple[Out, Sequence[bytes]]]) -> None:
    """Hold that what has had no reply is handed over when it has waited for long enough.

    The error is -1 if something well-formed had our ID and one question or none. C looks no farther than
    that, and may take for it what is not well-formed behind.
    """
    assert [] == world.module.expire(NOW + PATIENCE_S - 0.001)
    left = world.module.expire(NOW + PATIENCE_S)
    assert {packet for _, packet, *_ in left} == {*silent}
    for _, packet, client, _, _, server, _, octets, error, _ in left:
        assert (world.sockets.client.getsockname(), SERVER, None) == (client, server, octets)
        assert error in (-1, errno.ETIMEDOUT)
        out, replies = silent[packet]
        ours = [o for o in replies if o[:2] == out.exchange.packet[:2]]
        seen = [o for o in ours if (is_spelled_out(o) and o[4:6] == b"\0\1") or o[4:6] == b"\0\0"]
        if any(out.exchange.read(o) is not None for o in seen):
            assert error == -1
        if not [o for o in seen if len(o) >= message.HEADER_OCTETS]:
            assert error == errno.ETIMEDOUT
    assert (0, {}) == (world.lane.busy, world.under_way)


def is_spelled_out(octets: bytes) -> bool:
    """Tell whether a message begins with a whole question that has no pointer."""
    at = message.HEADER_OCTETS
    while at < len(octets) and 0 < octets[at] <= name.MAX_LABEL_OCTETS:
        at += 1 + octets[at]
    is_name = (
        at < len(octets) and not octets[at] and at < message.HEADER_OCTETS + name.MAX_NAME_OCTETS
    )
    return is_name and at + 5 <= len(octets)


def check_passed(world: World, out: Out, reply: Reply, octets: bytes) -> None:
    """Hold what C has passed on, kept and counted against what the chain would have."""
    query, question = out.query, out.query.question
    assert question is not None
    response = response_of(reply)
    is_positive = outcome_of(question, response) is Outcome.NOERROR
    if world.way.is_minimal and is_positive:
        response = response.with_sections((response.answer, (), ()))._replace(edns=None)
    kind, ttl = None, 0
    if world.way.is_cached:
        outcome = rules.outcome(question, response)
        ttl = rules.ttl_of(outcome, response, world.way.options)
        response = rules.bounded(response, ttl)
        kind = rules.kept_as(outcome, question, response)
    check_kept(world, out.key, response, kind, ttl)
    if not (query.flags & AD or question.do):
        response = response._replace(flags=response.flags & ~AD)
    if world.way.shuffles and response.rcode == rr.NOERROR:
        response = response.with_sections(in_order_of(response, reading.read_reply(octets)))
    assert render_reply(query, response, query.limit) == octets
    text = dns.message.from_wire(octets, continue_on_error=True)  # RDATA may be nonsense
    assert (text.id, text.rcode()) == (query.ident, reply.rcode)
    count(world, out, response)


def in_order_of(response: Response, found: Reply) -> Sections:
    """Return sections with their records in the order of a reply, which may be cut.

    Hold that `loadbalance` gives such orders: aliases, others, addresses, exchanges.
    """
    sections = []
    most = max(sum(_part(r) > 1 for r in section) for section in response.sections)
    for section, said in zip(
        response.sections, (found.answer, found.authority, found.additional), strict=True
    ):
        if most < 2:
            sections.append(section)
            continue
        parts = sorted(section, key=_part)
        for i, record in enumerate(said):
            place = parts.index(record, i)
            assert _part(record) == _part(parts[i])
            assert place == i or _part(record) > 1
            parts[i], parts[place] = parts[place], parts[i]
        sections.append(tuple(parts))
    answer, authority, additional = sections
    return answer, authority, additional


def _part(record: RR) -> int:
    return {rr.CNAME: 0, rr.A: 2, rr.AAAA: 2, rr.MX: 3}.get(record.rtype, 1)


def check_kept(world: World, key: bytes, response: Response, kind: str | None, ttl: int) -> None:
    """Hold that a reply is kept where the chain keeps it, and for as long."""
    now, keeps = NOW + WAITED_S, dict(zip((SUCCESS, DENIAL), world.way.keeps, strict=True))
    for place, kept in world.kept.items():
        found = kept.get(key)
        if place != kind or not keeps[place] or not ttl:
            assert found is None
            continue
        assert found is not None
        until, stored_at, found_ttl, octets = found
        stale_s = 0 if response.rcode == rr.SERVFAIL else STALE_S
        assert (now + ttl + stale_s, now, ttl) == (until, stored_at, found_ttl)
        reply = reading.read_reply(octets)
        again = response_of(reply)
        assert (response.rcode, response.flags, None) == (again.rcode, again.flags, reply.edns)
        assert response.sections == again.sections


def count(world: World, out: Out, response: Response) -> None:
    """Count a reply as C is expected to."""
    question, query = out.exchange.question, out.query
    size = message.HEADER_OCTETS + len(question.wire)
    reply_size = uncompressed_octets(question, response)
    bucket = bisect_left(TIME_S, WAITED_S)
    listener, has_opt = world.sockets.server.fileno(), query.edns is not None
    world.expected[
        COUNT.pack(
            listener, NUMBER, SERVER, question.qtype, size, reply_size,
            response.rcode, has_opt, bucket, has_opt and question.do,
        )
    ] += 1  # fmt: skip


# ---- what is fuzzed


def queries(rng: random.Random) -> list[bytes]:
    """Return plain queries and some that are nearly plain."""
    names = (b"\0", b"\1a\0", b"\3wWw\7EXAMPLE\3org\0", b"\3web\x09elsewhere\0")
    names += ((b"\x3f" + b"n" * 63) * 3 + b"\x3d" + b"m" * 61 + b"\0", b"\x02A@\2[`\2z{\0")
    found = []
    for i in range(rng.randint(1, BATCH)):
        qname = rng.choice(names if rng.random() < 0.7 else _REVERSE_NAMES)
        if rng.random() < (0.8 if qname in names else 0.1):
            label = f"n{i}".encode()
            qname = bytes((len(label),)) + label + qname
            qname = qname if len(qname) <= 255 else qname[-255:]
        qname = bytes(c ^ 0x20 if chr(c).isalpha() and rng.random() < 0.3 else c for c in qname)
        opt = b""
        if rng.random() < 0.5:
            size, do = rng.choice((0, 511, 600, 1232, 4096, 65535)), rng.choice((0, 0, EDNS_DO))
            opt = message.write_opt(Edns(size, 0, do))
        flags = rng.choice((0, RD, RD, RD | AD, RD | CD, RD | AD | CD))
        asked = Question(qname, name.fold(qname), rng.choice(_KINDS))
        head = message.HEADER.pack(rng.randrange(65536), flags, 1, 0, 0, 1 if opt else 0)
        packet = head + asked.wire + opt
        found.append(killers.mutate(rng, packet) if rng.random() < 0.2 else packet)
    return found


def replies(rng: random.Random, asked: Asked) -> list[bytes]:
    """Return what comes for a query: none to four datagrams, mutated or not."""
    found = []
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 4))):
        kinds = (replyshapes.plain, replyshapes.whole, replyshapes.saying, replyshapes.other)
        kind = replyshapes.no_reply if rng.random() < 0.1 else rng.choice(kinds)
        octets = rng.choice([*kind(asked).values()])
        chance = rng.random()
        if chance < 0.5:  # behind the question
            octets = octets[: asked.first] + killers.mutate(rng, octets[asked.first :])
        elif chance < 0.6:
            octets = killers.mutate(rng, octets)
        found.append(octets[:60_000])
    return found


def ways() -> list[Way]:
    """Return the kinds of server blocks."""
    return [
        Way(), Way(is_cached=False), Way(shuffles=False, least=(7, 20)), Way(keeps=(False, True)),
        Way(keeps=(True, False)), Way(is_cached=False, shuffles=False), Way(host="::1"), Way(least=(0, 0)),
        Way(is_minimal=True, servfail_s=0), Way(is_cached=False, is_minimal=True),
    ]  # fmt: skip


def main() -> int:
    """Fuzz for the seconds given."""
    module = fuzz_drain.built()
    if module is None:
        print("not compiled: nothing to fuzz")
        return 0
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, until, totals, count = random.Random(seed), time.monotonic() + seconds, Counter[int](), 0
    while time.monotonic() < until:
        with World(module, rng.choice(ways())) as world:
            for _ in range(10):
                try:
                    found = check(
                        world,
                        queries(rng),
                        lambda asked: replies(rng, asked),
                        lambda _: rng.random() < 0.05,
                    )
                except Exception as error:
                    print(f"seed {seed}, after {count}: {error!r:.2000}", file=sys.stderr)
                    raise
                totals.update(dict(enumerate(found)))
                count += sum(found)
    print(f"{count} queries, {[*totals.values()]} passed on, handed over, silent, seed {seed}")
    return 0 if totals[0] and totals[1] else 1


if __name__ == "__main__":
    sys.exit(main())
