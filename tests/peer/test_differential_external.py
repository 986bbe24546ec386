"""The same questions about names outside to clusterdns and to a real CoreDNS, whatever the options.

One Corefile of many blocks, each with `forward` and `cache` options at random, for both servers; each
has upstream servers of its own that say the same. All questions are asked in rounds at fixed moments, so
that what a cache keeps is equally old in both: replies have to be equal with their TTLs, and so does how
often each upstream server was asked. Other seeds: ``DIFFERENTIAL_SEEDS=100-140``.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import compare
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import peers
import pytest
from faultyupstream import Asked, Fault, FaultyUpstream

BLOCKS = 10
PERIOD_S = 2.35  # between two rounds: no age, 2.35 or 4.7 s, is near to a full second
SLOTS_S = 1.2  # of these, questions are sent; after those, the silent server is given up
ROUNDS = 3
ATTEMPTS = 3
SILENT_MS = 300  # read_timeout
FIRST, LAST = map(int, os.environ.get("DIFFERENTIAL_SEEDS", "0-3").split("-"))

# MINIMUM is not below the TTL: only we let it bound a denial (RFC 2308 section 3)
_SOA = "authority soa.test. 60 SOA ns.soa.test. h.soa.test. 1 2 3 4 60"
# By label what is said of type A; @ is the name, # the last octet of the address: the server's number.
_SAID = {
    "ttl0": "NOERROR; answer @ 0 A 192.0.2.#",
    "ttl1": "NOERROR; answer @ 1 A 192.0.2.#",
    "ttl2": "NOERROR; answer @ 2 A 192.0.2.#",
    "ttl3": "NOERROR; answer @ 3 A 192.0.2.#",
    "ttl7": "NOERROR; answer @ 7 A 192.0.2.#",
    "ttl9999": "NOERROR; answer @ 9999 A 192.0.2.#",
    "three": "NOERROR; answer @ 9 A 192.0.2.#; answer @ 9 A 192.0.2.77; answer @ 9 A 192.0.2.78",
    "chain": "NOERROR; answer @ 20 CNAME b.test.; answer b.test. 2 A 192.0.2.#",
    "lone": "NOERROR; answer @ 20 CNAME b.test.",
    "lonesoa": f"NOERROR; answer @ 20 CNAME b.test.; {_SOA}",
    "glue": "NOERROR; answer @ 30 A 192.0.2.#; authority test. 2 NS a.test.; additional a.test. 9 A 1.1.1.1",
    "many": "NOERROR; " + "; ".join(f"answer @ 8 A 198.51.100.{i}" for i in range(60)),
    "aa": "NOERROR AA; answer @ 9 A 192.0.2.#",
    "ad": "NOERROR AD; answer @ 9 A 192.0.2.#",
    "cut": "NOERROR TC; answer @ 9 A 192.0.2.#",
    "nodata": f"NOERROR; {_SOA}",
    "nodatashort": "NOERROR; authority soa.test. 2 SOA ns.soa.test. h.soa.test. 1 2 3 4 30",
    # A reply without any record is left out: a denial for us, a success for CoreDNS (test_cache.py).
    "referral": "NOERROR; authority ref.test. 9 NS ns.test.; additional ns.test. 9 A 1.1.1.1",
    "gone": f"NXDOMAIN; {_SOA}",
    "goneshort": "NXDOMAIN; authority soa.test. 1 SOA ns.soa.test. h.soa.test. 1 2 3 4 1",
    "gonelong": "NXDOMAIN; authority soa.test. 9999 SOA ns.soa.test. h.soa.test. 1 2 3 4 9999",
    "gonebare": "NXDOMAIN",
    "gonealias": f"NXDOMAIN; answer @ 9 CNAME b.test.; {_SOA}",
    "servfail": "SERVFAIL",
    "servfailsoa": f"SERVFAIL; {_SOA}",
    "refused": "REFUSED",
    "notimp": "NOTIMP",
    "formerr": "FORMERR",
    "yxdomain": "YXDOMAIN",
    "notauth": "NOTAUTH",
    "silent": "",
}  # fmt: skip
_FAILING = ("servfail", "refused", "gone", "nodata", "notimp", "gonebare", "silent", "servfailsoa")

# Extended DNS Errors 3 and 19 at the end of the OPT record (RFC 8914); the length before it is 6.
_STALE = (b"\0\x0f\0\2\0\3", b"\0\x0f\0\2\0\x13")


class Outside(NamedTuple):
    """The upstream servers of one of the two: they say the same as the other's."""

    servers: list[FaultyUpstream]

    @classmethod
    def begin(cls, stack: contextlib.ExitStack) -> Outside:
        made = [stack.enter_context(FaultyUpstream(says(i), tcp="as udp")) for i in (1, 2, 3)]
        return cls(made)

    def text(self, corefile: str) -> str:
        for i, server in enumerate(self.servers, 1):
            corefile = corefile.replace(f"UPSTREAM{i}", server.address)
        return corefile


def says(number: int) -> Fault:
    """Return what server ``number`` says: 1 and 3 as above, 2 has an answer where these fail.

    Below ``same.``, all of them say the same.
    """

    def reply(asked: Asked) -> None:
        labels = asked.qname.split(".")
        label, is_same = labels[0].partition("-")[0], labels[1:2] == ["same"]
        text = _SAID.get(label, "NXDOMAIN")
        if number == 2 and label in _FAILING and not is_same:
            text = _SAID["ttl7"]
        if text:
            rest = said(asked.wire[2:], text, 9 if is_same else number, asked.proto)
            asked.reply(asked.wire[:2] + rest)

    return reply


@functools.lru_cache(maxsize=20_000)
def said(query: bytes, text: str, number: int, proto: str) -> bytes:
    """Return the octets behind the ID, for those of a query: made once, since both servers ask."""
    return message(dns.message.from_wire(b"\0\0" + query), text, number, proto)[2:]


def message(query: dns.message.Message, text: str, number: int, proto: str) -> bytes:
    """Return the octets of a reply written as in ``_SAID``; other types than A have no data."""
    head, *records = text.split("; ")
    rcode, *flags = head.split()
    qname, qtype = query.question[0].name, query.question[0].rdtype
    made = dns.message.make_response(query, recursion_available=True, our_payload=1232)
    if rcode == "NOERROR" and qtype != dns.rdatatype.A:
        records, flags = [_SOA], []
    for flag in flags:
        if flag != "TC" or proto == "udp":
            made.flags |= dns.flags.from_text(flag)
    for record in records:
        section, owner, ttl, rtype, rdata = record.split(" ", 4)
        owner, rdata = owner.replace("@", str(qname)), rdata.replace("#", str(number))
        rrset = dns.rrset.from_text(owner, int(ttl), "IN", rtype, rdata)
        getattr(made, section).append(rrset)
    made.set_rcode(dns.rcode.from_text(rcode))
    wire = made.to_wire(max_size=65535)
    if proto == "udp" and len(wire) > max(512, query.payload):
        made.flags |= dns.flags.TC
        made.answer.clear()
        wire = made.to_wire(max_size=65535)
    return wire


# ---- a Corefile at random


class Block(NamedTuple):
    """A server block's zone and text; ``is_counted``: how often who is asked follows from it."""

    zone: str
    text: str
    is_counted: bool


def block(rng: random.Random, i: int) -> Block:
    """Return a server block with options of both plugins at random."""
    policy = rng.choice(["", "random", "round_robin", "sequential", "sequential"])
    is_random = policy != "sequential"  # a round goes on with whoever comes first
    zone = f"same.b{i}.test" if is_random else f"b{i}.test"
    servers = ["UPSTREAM1", "UPSTREAM2", "UPSTREAM3"][: rng.choice([1, 2, 2, 3])]
    cache, is_steady = cache_text(rng, zone)
    options = forward_options(rng, zone)
    if policy:
        options.append(f"policy {policy}")
    lines = [f"{zone} {{", *cache]
    scope = rng.choice([".", zone, "test"])
    lines += forward_lines(scope, servers, options)
    if rng.random() < 0.5:
        lines += forward_lines(".", ["UPSTREAM2"], forward_options(rng, zone, is_last=True))
    return Block(zone, "\n".join([*lines, "}", ""]), is_steady)


def forward_lines(scope: str, servers: list[str], options: list[str]) -> list[str]:
    return [f" forward {scope} {' '.join(servers)} {{", *(f"  {o}" for o in options), " }"]


def forward_options(rng: random.Random, zone: str, *, is_last: bool = False) -> list[str]:
    rcodes = ["SERVFAIL", "REFUSED", "NXDOMAIN", "NOTIMP", "FORMERR", "YXDOMAIN", "NOTAUTH"]
    some = [
        f"max_fails {rng.choice([0, 1, 2, 5])}",
        f"max_concurrent {rng.choice([500, 1000])}",
        "force_tcp",
        "prefer_udp",
        f"except {rng.choice(['ttl2', 'gone', 'three'])}.{zone} nobody.test",
        f"max_idle_conns {rng.choice([0, 1, 3])}",
        f"expire {rng.choice(['1s', '5s'])}",
        f"health_check {rng.choice(['200ms', '1s no_rec', '1s domain health.test'])}",
        "failfast_all_unhealthy_upstreams",
        "source_address 127.0.0.1",
        f"failover {' '.join(rng.sample(rcodes, rng.choice([1, 2, 3])))}",
        f"next {' '.join(rng.sample(rcodes, rng.choice([1, 2, 3])))}",
        "next_on_nodata",
    ]
    chosen = [option for option in some if rng.random() < 0.3]
    if is_last:
        chosen = [option for option in chosen if not option.startswith("next")]
    attempts = f"max_connect_attempts {rng.choice([1, 2, 3])}"
    return [*chosen, attempts, f"read_timeout {SILENT_MS}ms"]


def cache_text(rng: random.Random, zone: str) -> tuple[list[str], bool]:
    """Return the lines of `cache`, and whether the queries that go out follow from them."""
    if rng.random() < 0.2:
        return [], True

    def bounds() -> str:
        ttl = rng.choice(["", " 1", " 2", " 3", " 30", " 3600"])
        return ttl + (rng.choice(["", " 0", " 1", " 5"]) if ttl else "")

    head = " ".join(
        [
            "cache",
            *rng.choice([[], [], ["2"], ["30"]]),
            *rng.choice([[], [], [zone], ["other.test"]]),
        ]
    )
    some = [
        f"success {rng.choice([1024, 5000])}{bounds()}",
        f"denial {rng.choice([1024, 5000])}{bounds()}",
        f"servfail {rng.choice(['0', '1s', '2s', '5s'])}",
        rng.choice(["disable success", "disable denial", f"disable success ttl7.{zone}"]),
        "keepttl",
        rng.choice(STALE),
        rng.choice(["prefetch 2", "prefetch 1 1m 50%", "prefetch 0"]),
    ]
    chosen = [option for option in some if rng.random() < 0.3]
    is_steady = not any(option.startswith(("prefetch", "serve_stale")) for option in chosen)
    return [f" {head} {{", *(f"  {option}" for option in chosen), " }"], is_steady


STALE = [
    "serve_stale",
    "serve_stale 5s",
    "serve_stale 1h immediate 7s",
    "serve_stale 1h verify",
    "serve_stale 1h verify 500ms 3s 1s",
]


# ---- questions, asked of both at the same moments


class Question(NamedTuple):
    block: Block
    packet: bytes
    transport: str
    text: str


def questions(rng: random.Random, blocks: list[Block]) -> list[Question]:
    """Return what is asked: each label in each block in one manner, so that no two share a key."""
    found = []
    for one in blocks:
        for label in _SAID:
            for i, rtype in enumerate(("A", rng.choice(["AAAA", "TXT", "A"]))):
                manner = rng.choice(["plain", "plain", "edns", "do", "cd", "ad", "large"])
                transport = rng.choice(["udp", "udp", "tcp"])
                qname = f"{label}-{i}.{one.zone}."
                packet = query(qname, rtype, manner, len(found))
                text = f"{qname} {rtype} {manner} over {transport}"
                found.append(Question(one, packet, transport, text))
    rng.shuffle(found)
    return [q._replace(packet=struct.pack("!H", i) + q.packet[2:]) for i, q in enumerate(found)]


def query(qname: str, rtype: str, manner: str, ident: int) -> bytes:
    made = dns.message.make_query(qname, rtype, id=ident)
    if manner in ("edns", "do", "large"):
        made.use_edns(0, 0, {"large": 4096}.get(manner, 1232))
    if manner == "do":
        made.want_dnssec()
    made.flags |= {"cd": dns.flags.CD, "ad": dns.flags.AD}.get(manner, 0)
    return made.to_wire()


class Asker:
    """Sends queries to one server and collects the replies by ID, whenever they come."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.replies: dict[int, bytes] = {}
        self._sock = socket.socket(type=socket.SOCK_DGRAM)
        self._sock.settimeout(0.1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._sock.connect(address)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        self._pool = concurrent.futures.ThreadPoolExecutor(16)

    def send(self, question: Question) -> None:
        if question.transport == "udp":
            self._sock.send(question.packet)
        else:
            self._pool.submit(self._over_tcp, question.packet)

    def _over_tcp(self, packet: bytes) -> None:
        reply = peers.ask_tcp(self._address, packet, 5)
        if reply is not None:
            self._note(reply)

    def _receive(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                self._note(self._sock.recv(65535))

    def _note(self, reply: bytes) -> None:
        self.replies[int.from_bytes(reply[:2])] = reply

    def taken(self, count: int, timeout_s: float) -> dict[int, bytes]:
        """Return the replies of a round as soon as there are so many."""
        deadline = time.monotonic() + timeout_s
        while len(self.replies) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        found, self.replies = self.replies, {}
        return found

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._pool.shutdown()
        self._sock.close()


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_names_outside_are_answered_as_coredns_does(seed, tmp_path: Path):
    """A difference counts if it is there again the second time: a busy machine makes some alone."""
    found: dict[str, str] = {}
    for attempt in range(ATTEMPTS):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        again = run(random.Random(seed), directory)
        found = (
            again if attempt == 0 else {key: text for key, text in again.items() if key in found}
        )
        if not found:
            return
    texts = list(found.values())
    pytest.fail(f"seed {seed}: {len(texts)} differences\n" + "\n\n".join(texts[:5]))


def run(rng: random.Random, directory: Path) -> dict[str, str]:
    """Return all differences between two servers with one Corefile, by what they are about."""
    blocks = [block(rng, i) for i in range(BLOCKS)]
    corefile = "".join(one.text for one in blocks) + "invalid {\n whoami\n}\n"
    asked = questions(rng, blocks)
    with contextlib.ExitStack() as stack:
        outside = [Outside.begin(stack) for _ in range(2)]
        them = stack.enter_context(peers.coredns(outside[0].text(corefile), directory))
        us = stack.enter_context(peers.clusterdns(outside[1].text(corefile), directory))
        askers = [Asker(server.address) for server in (them, us)]
        for asker in askers:
            stack.callback(asker.close)
        found = dict(rounds(asked, askers))
        counts = [[dict(server.queries) for server in side.servers] for side in outside]
    return found | dict(in_counts(blocks, *counts))


def rounds(asked: list[Question], askers: list[Asker]) -> Iterator[tuple[str, str]]:
    """Ask everything of everybody again and again; yield what differs."""
    began = time.monotonic()
    for i in range(ROUNDS):
        while began < time.monotonic() - 0.02:  # the one before took longer
            began += PERIOD_S
        for k, question in enumerate(asked):
            time.sleep(max(0, began + SLOTS_S * k / len(asked) - time.monotonic()))
            for asker in askers:
                asker.send(question)
        theirs, ours = (asker.taken(len(asked), 4) for asker in askers)
        for k, question in enumerate(asked):
            text = difference(question, theirs.get(k), ours.get(k))
            if text:
                where = f"{question.text} in round {i}"
                yield where, f"{where}\n{question.block.text}{text}"


def difference(question: Question, theirs: bytes | None, ours: bytes | None) -> str:
    """Return how the replies differ, but for their compression and what is on purpose.

    A client that sends OPT is told of a stale answer, and a failure that has ended is asked for
    again where CoreDNS repeats it: the differences in `cache`'s manual that show here. Those in
    `forward`'s: a reply that the upstream cuts for CoreDNS's client is one that we have whole, and
    AD is for who understands it.
    """
    if ours is not None and theirs is not None:
        theirs, ours = alike(question, theirs, ours)
    is_stale = "serve_stale" in question.block.text
    if is_stale and ours and theirs and ours[3] & 15 == theirs[3] & 15 == dns.rcode.SERVFAIL:
        return ""
    if ours is not None and is_stale and ours[-6:] in _STALE:
        ours = ours[:-8] + b"\0\0"
    return compare.difference(question.packet, theirs, ours, compare.Rules())


def alike(question: Question, theirs: bytes, ours: bytes) -> tuple[bytes, bytes]:
    """Return both replies without what differs by `forward`'s manual."""
    asked = dns.message.from_wire(question.packet)
    if not asked.flags & dns.flags.AD and not asked.ednsflags & dns.flags.DO:
        theirs = theirs[:3] + bytes((theirs[3] & ~dns.flags.AD,)) + theirs[4:]
    is_cut, is_ours = (bool(reply[2] & dns.flags.TC >> 8) for reply in (theirs, ours))
    if is_cut and (is_ours or asked.payload > 1232) and (theirs[3] ^ ours[3]) & 15 == 0:
        return ours, ours
    return theirs, ours


def in_counts(
    blocks: list[Block],
    theirs: list[dict[tuple[str, int], int]],
    ours: list[dict[tuple[str, int], int]],
) -> Iterator[tuple[str, str]]:
    """Yield the names that upstream servers were asked more often, or less, by one of the two."""
    for one in blocks:
        if not one.is_counted:
            continue
        is_any = one.zone.startswith("same.")  # who is asked is random, how often is not
        sides = [summed(side, one.zone, is_any=is_any) for side in (theirs, ours)]
        for key in sorted(sides[0].keys() | sides[1].keys()):
            # CoreDNS keeps a failure for longer than ours, so it asks again less often.
            most = ROUNDS if key[1].startswith("silent") and " cache" in one.text else 1
            if key[1].startswith(("many", "cut")) and 0 < sides[1][key] <= 2 * sides[0][key]:
                continue  # CoreDNS gets it cut, and keeps nothing of that; we, at once over TCP
            if not sides[0][key] <= sides[1][key] <= most * sides[0][key]:
                text = f"{key}: {sides[0][key]} queries of CoreDNS, {sides[1][key]} of ours"
                yield str(key), f"{text}\n{one.text}"


def summed(
    side: list[dict[tuple[str, int], int]], zone: str, *, is_any: bool
) -> collections.Counter[tuple[int, str, int]]:
    found: collections.Counter[tuple[int, str, int]] = collections.Counter()
    for i, server in enumerate(side):
        for (qname, qtype), count in server.items():
            if qname.endswith(f".{zone}."):
                found[0 if is_any else i + 1, qname, qtype] += count
    return found
