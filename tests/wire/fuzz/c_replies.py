# Invariant: that of fuzz_relay.py: whatever an upstream server sends, C passes on, keeps, hands over and
# counts what the chain would.
"""Fuzz the reader of replies in C: ``guided.py c_replies``. The first octet chooses a server block.

Then come replies, each with its length in front. ID and question are put into them, unless bit 7 of
the first octet is set: behind these is most of what can be wrong.
"""

from __future__ import annotations

import random
import struct

import c_packets
import fuzz_drain
import fuzz_relay
import killers
import replyshapes
from replyshapes import Asked

from clusterdns.wire import message, name, rr
from clusterdns.wire.message import RD, Question

MAX_OCTETS = 2048
RAW = 0x80
_module = fuzz_drain.built()
_worlds = [] if _module is None else [fuzz_relay.World(_module, way) for way in fuzz_relay.ways()]
_HEAD = message.HEADER_OCTETS


def query(i: int) -> bytes:
    """Return one of a few plain queries."""
    qname = name.parse(("www.example.org.", "a.", "MiXed.Example.")[i % 3])
    asked = Question(qname, name.fold(qname), (rr.A, rr.AAAA)[i % 2])
    return message.HEADER.pack(7, RD, 1, 0, 0, 0) + asked.wire


def seeds() -> list[bytes]:
    """Return replies of every shape."""
    found = []
    for i in range(6):
        asked = Asked(query(i))
        for kind in (
            replyshapes.plain,
            replyshapes.saying,
            replyshapes.other,
            replyshapes.no_reply,
        ):
            for octets in kind(asked).values():
                if len(octets) < MAX_OCTETS:
                    body = octets[:_HEAD] + octets[asked.first :]
                    found.append(c_packets.joined(i, [body]))
                    found.append(c_packets.joined(i | RAW, [octets]))
    return random.Random(1).sample(found, 250)  # the others are a mutation away


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return an input with one reply changed."""
    way, packets = c_packets.parted(data)
    if not packets:
        return data + struct.pack("!H", 12) + bytes(12)
    i = rng.randrange(len(packets))
    head = rng.choice((0, _HEAD, _HEAD))
    packets[i] = packets[i][:head] + killers.mutate(rng, packets[i][head:])
    return c_packets.joined(rng.choice((way, way, rng.randrange(256))), packets)


def examine(data: bytes) -> None:
    """Hold the invariant for the replies to one query."""
    way, packets = c_packets.parted(data)
    if not _worlds or not packets:
        return
    world = _worlds[(way >> 1) % len(_worlds)]
    for known in (world.until, *world.kept.values()):
        known.clear()  # each input is the first
    world.counts.clear()
    world.expected.clear()

    def replies(asked: Asked) -> list[bytes]:
        ident, question = asked.ident.to_bytes(2), b"" if way & RAW else asked.question
        return [ident + p[2:_HEAD] + question + p[_HEAD:] for p in packets[:3]]

    fuzz_relay.check(world, [query(way)], replies)
