"""Clients that mean harm, at bounded rates: ``python attackers.py KIND PORT HTTP SECONDS SEED``.

Each is one client of the kind that once starved others or had the server killed for memory. It
lives no longer than it is told to, and takes what the server does to it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import killers
import malformed

A, TXT, AAAA, SRV = 1, 16, 28, 33
ADDRESS = "127.0.0.66"  # clients take turns by their address, and this is not the load's
LARGE = 8  # headless Services big0, big1, ... with many endpoints


def query(
    name: str, qtype: int, ident: int, *, size: int | None = 1232, options: bytes = b""
) -> bytes:
    """Return a query, with an OPT record unless ``size`` is None."""
    wire = b"".join(bytes((len(x),)) + x.encode() for x in name.rstrip(".").split(".")) + b"\0"
    head = struct.pack("!HHHHHH", ident & 0xFFFF, 0x0100, 1, 0, 0, size is not None)
    opt = b""
    if size is not None:
        opt = struct.pack("!BHHIH", 0, 41, size, 0, len(options)) + options
    return head + wire + struct.pack("!HH", qtype, 1) + opt


class Attack:
    """What all of them use."""

    def __init__(self, port: int, http: int, seconds: float, seed: int) -> None:
        self.port, self.http, self.rng = port, http, random.Random(seed)
        self.until = time.monotonic() + seconds

    def paced(self, rate: float) -> Iterator[int]:
        """Yield numbers at a rate until the time is over."""
        start, count = time.monotonic(), 0
        while (now := time.monotonic()) < self.until:
            if count > (now - start) * rate:
                time.sleep(0.002)
                continue
            yield count
            count += 1

    def udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((ADDRESS, 0))
        sock.connect(("127.0.0.1", self.port))
        return sock

    def tcp(self, port: int = 0, receive: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.settimeout(2)
        sock.bind((ADDRESS, 0))
        sock.connect(("127.0.0.1", port or self.port))
        return sock

    def flood(self, rate: float, make: Callable[[int], bytes]) -> None:
        """Send datagrams at a rate, and let the replies come or not."""
        with self.udp() as sock:
            for i in self.paced(rate):
                with contextlib.suppress(OSError):
                    sock.send(make(i))
                with contextlib.suppress(OSError):
                    sock.recv(65535)


def fat_replies(attack: Attack) -> None:
    """Ask over TCP for the largest answers there are, in every spelling."""
    while time.monotonic() < attack.until:
        with contextlib.suppress(OSError), attack.tcp() as sock:
            for i in attack.paced(60):
                name = spelled(attack.rng, f"big{i % LARGE}.a.svc.cluster.local.")
                packet = query(name, attack.rng.choice((A, SRV)), i)
                sock.sendall(struct.pack("!H", len(packet)) + packet)
                left = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0]
                sock.recv(left, socket.MSG_WAITALL)
        time.sleep(0.05)


def spellings(attack: Attack) -> None:
    """Ask for one large answer in random letter cases over UDP."""
    attack.flood(
        100, lambda i: query(spelled(attack.rng, "big0.a.svc.cluster.local."), SRV, i, size=65535)
    )


def slow_readers(attack: Attack) -> None:
    """Ask for much and read nothing."""
    socks = []
    for i in attack.paced(20):
        with contextlib.suppress(OSError):
            sock = attack.tcp(receive=2048)
            sock.setblocking(False)
            packet = query(f"big{i % LARGE}.a.svc.cluster.local.", A, i)
            sock.send((struct.pack("!H", len(packet)) + packet) * 200)
            socks.append(sock)
        if len(socks) > 100:
            socks.pop(0).close()
    for sock in socks:
        sock.close()


def idle_http(attack: Attack) -> None:
    """Hold connections to the health port and say nothing."""
    socks = []
    for _ in attack.paced(100):
        if len(socks) < 128:
            with contextlib.suppress(OSError):
                socks.append(attack.tcp(attack.http))
        elif socks:
            socks.pop(0).close()
    for sock in socks:
        sock.close()


def costly_misses(attack: Attack) -> None:
    """Ask for what takes long to make, never twice the same."""
    attack.flood(
        100,
        lambda i: query(spelled(attack.rng, f"big{i % LARGE}.a.svc.cluster.local."), SRV, i,
                        size=attack.rng.randrange(512, 4097)),
    )  # fmt: skip


def unequal_equals(attack: Attack) -> None:
    """Ask one external question with ever other options."""

    def make(i: int) -> bytes:
        cookie = struct.pack("!HH", 10, 8) + attack.rng.randbytes(8)
        name = f"flood{i // 500}.ext.test."
        return query(name, A, i, size=attack.rng.randrange(512, 65536), options=cookie)

    attack.flood(500, make)


def unique_names(attack: Attack) -> None:
    """Ask for external names and names of the cluster that do not exist, each only once."""
    zones = ("ext.test.", "a.svc.cluster.local.", "svc.cluster.local.")
    attack.flood(
        300,
        lambda i: query(f"u{attack.rng.getrandbits(40):x}.{zones[i % 3]}",
                        attack.rng.choice((A, AAAA, TXT)), i),
    )  # fmt: skip


def malformed_packets(attack: Attack) -> None:
    """Send mutations of everything that was ever a trouble, over UDP and TCP."""
    seeds = [*malformed.packets().values(), *killers.seeds(), *killers.queries().values()]
    with attack.udp() as sock:
        for i in attack.paced(500):
            packet = killers.mutate(attack.rng, attack.rng.choice(seeds))
            with contextlib.suppress(OSError):
                sock.send(packet)
            with contextlib.suppress(OSError):
                sock.recv(65535)
            if i % 50 == 0:
                with contextlib.suppress(OSError), attack.tcp() as stream:
                    stream.sendall(struct.pack("!H", len(packet)) + packet)


def many_connections(attack: Attack) -> None:
    """Open connections and say half of a message."""
    socks = []
    for _ in attack.paced(50):
        with contextlib.suppress(OSError):
            sock = attack.tcp()
            sock.sendall(b"\0")
            socks.append(sock)
        if len(socks) > 300:
            socks.pop(0).close()
    for sock in socks:
        sock.close()


def spelled(rng: random.Random, name: str) -> str:
    """Return a name in letters of random case."""
    return "".join(rng.choice((c.upper(), c)) for c in name)


KINDS = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        fat_replies, spellings, slow_readers, idle_http, costly_misses, unequal_equals,
        unique_names, malformed_packets, many_connections,
    )
}  # fmt: skip


def main() -> None:
    """Attack once."""
    kind, port, http, seconds, seed = sys.argv[1:]
    KINDS[kind](Attack(int(port), int(http), float(seconds), int(seed)))


if __name__ == "__main__":
    main()
