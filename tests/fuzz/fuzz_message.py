"""Invariant: the gate, the table and the reply walker are total and linear on all octets.

``python tests/fuzz/fuzz_message.py [SECONDS [SEED]]`` mutates the packets of ``malformed.py``; a packet
that raises anything but FormError, takes long, or is answered with another ID or question is written
to standard error in hexadecimal, and the status is 1.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import malformed

from clusterdns import message
from clusterdns.answers import AnswerTable, Response, render_reply
from clusterdns.errors import FormError
from clusterdns.message import Query

SLOW_S = 0.25


def mutate(packet: bytes, rng: random.Random) -> bytes:
    octets = bytearray(packet)
    for _ in range(rng.randint(0, 10)):
        if not octets:
            break
        i = rng.randrange(len(octets))
        roll = rng.random()
        if roll < 0.5:
            octets[i] = rng.choice((0, 1, 63, 64, 0xC0, 0xFF, rng.randrange(256)))
        elif roll < 0.7:
            del octets[i : i + rng.randint(1, 20)]
        elif roll < 0.9:
            octets[i:i] = octets[rng.randrange(len(octets)) :][: rng.randint(1, 40)]
        else:
            octets[i:i] = bytes((0xC0 | rng.randrange(4), rng.randrange(256)))
    return bytes(octets[:65535])


def check(packet: bytes) -> None:
    AnswerTable().reply(packet, 0.0, [0, 0])
    found = message.read_query(packet)
    if isinstance(found, bytes):
        assert found[:2] == packet[:2]
    elif isinstance(found, Query) and found.question is not None:
        reply = render_reply(found, Response(rcode=3), found.limit)
        assert reply[:2] == packet[:2]
        end = 12 + len(found.question.qname)
        assert reply[12:end] == packet[12:end]
        assert len(reply) <= 65535
    with contextlib.suppress(FormError):
        message.read_reply(packet)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    rng, packets, count = random.Random(seed), list(malformed.packets().values()), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        packet = mutate(rng.choice(packets), rng)
        began = time.process_time()
        try:
            check(packet)
            assert time.process_time() - began < SLOW_S, "slow"
        except Exception as error:
            print(f"seed {seed}: {error!r}: {packet.hex()}", file=sys.stderr)
            return 1
        count += 1
    print(f"{count} packets, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
