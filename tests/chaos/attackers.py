"""Clients that mean harm, at bounded rates: ``python attackers.py KIND SECONDS SEED`` and the ports of
DNS, of health, of DNS over TLS and of DNS over HTTPS.

Each is one client of the kind that once starved others or had the server killed for memory. It
lives no longer than it is told to, and takes what the server does to it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import killers
import malformed
import webclient

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

    def __init__(self, seconds: float, seed: int, ports: list[int]) -> None:
        self.port, self.http, self.tls, self.https = ports
        self.rng = random.Random(seed)
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

    def secure(self, port: int, alpn: str = "") -> socket.socket:
        """Return a connection whose handshake is done."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols([alpn])
        return context.wrap_socket(self.tcp(port))

    def hold(self, rate: float, count: int, make: Callable[[int], socket.socket]) -> None:
        """Open connections at a rate, and keep the newest open."""
        socks = list[socket.socket]()
        for i in self.paced(rate):
            with contextlib.suppress(OSError):
                socks.append(make(i))
            if len(socks) > count:
                socks.pop(0).close()
        for sock in socks:
            sock.close()

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
                head = sock.recv(2, socket.MSG_WAITALL)
                if len(head) < 2:
                    break  # the server has closed it
                sock.recv(int.from_bytes(head), socket.MSG_WAITALL)
        time.sleep(0.05)


def spellings(attack: Attack) -> None:
    """Ask for one large answer in random letter cases over UDP."""
    attack.flood(
        100, lambda i: query(spelled(attack.rng, "big0.a.svc.cluster.local."), SRV, i, size=65535)
    )


def slow_readers(attack: Attack) -> None:
    """Ask for much and read nothing."""

    def make(i: int) -> socket.socket:
        sock = attack.tcp(receive=2048)
        sock.setblocking(False)
        packet = query(f"big{i % LARGE}.a.svc.cluster.local.", A, i)
        sock.send((struct.pack("!H", len(packet)) + packet) * 200)
        return sock

    attack.hold(20, 100, make)


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
            packet = killers.mutate(attack.rng, attack.rng.choice(seeds))[:65535]
            with contextlib.suppress(OSError):
                sock.send(packet)
            with contextlib.suppress(OSError):
                sock.recv(65535)
            if i % 50 == 0:
                with contextlib.suppress(OSError), attack.tcp() as stream:
                    stream.sendall(struct.pack("!H", len(packet)) + packet)


def many_connections(attack: Attack) -> None:
    """Open connections and say half of a message."""

    def make(_: int) -> socket.socket:
        sock = attack.tcp()
        sock.sendall(b"\0")
        return sock

    attack.hold(50, 300, make)


def over_its_limit(attack: Attack) -> None:
    """Ask for names outside far above what `ratelimit` lets one client have, over TCP as well."""
    with attack.udp() as sock:
        for i in attack.paced(1500):
            packet = query(f"x{i % 40}.ext.test.", A, i)
            with contextlib.suppress(OSError):
                sock.send(packet)
            with contextlib.suppress(OSError):
                reply = sock.recv(65535)
                if reply[2] & 2 and i % 20 == 0:
                    with attack.tcp() as stream:
                        stream.sendall(struct.pack("!H", len(packet)) + packet)
                        stream.recv(65535)


def odd_cookies(attack: Attack) -> None:
    """Ask with cookies that are new, forged, from long ago, or no cookies at all."""

    def make(i: int) -> bytes:
        octets = attack.rng.choice((8, 8, 16, 24, 40, 0, 7, 9, 41, 1000))
        option = struct.pack("!HH", 10, octets) + attack.rng.randbytes(octets)
        name = attack.rng.choice(("s1.a.svc.cluster.local.", "x1.ext.test.", f"u{i}.a.test."))
        return query(name, A, i, options=option * attack.rng.choice((1, 1, 1, 2, 20)))

    attack.flood(500, make)


def half_handshakes(attack: Attack) -> None:
    """Begin TLS and stop, or say something else, at both ports of it."""
    begun = (b"", b"\x16\x03\x01", b"\x16\x03\x01\x40\0\x01" + bytes(300), b"GET / HTTP/1.1\r\n")

    def make(i: int) -> socket.socket:
        sock = attack.tcp((attack.tls, attack.https)[i % 2])
        sock.sendall(attack.rng.choice((*begun, attack.rng.randbytes(300))))
        return sock

    attack.hold(50, 300, make)


def many_handshakes(attack: Attack) -> None:
    """Shake hands over and over, ask for much, and go without a word."""
    for i in attack.paced(30):
        with contextlib.suppress(OSError):
            sock = attack.secure(attack.tls)
            packet = query(f"big{i % LARGE}.a.svc.cluster.local.", A, i)
            sock.sendall((struct.pack("!H", len(packet)) + packet) * 5)
            sock.close()


def slow_tls_readers(attack: Attack) -> None:
    """Ask for much over TLS and read nothing."""

    def make(i: int) -> socket.socket:
        sock = attack.secure(attack.tls)
        sock.setblocking(False)
        packet = query(f"big{i % LARGE}.a.svc.cluster.local.", A, i)
        with contextlib.suppress(ssl.SSLWantWriteError):
            sock.send((struct.pack("!H", len(packet)) + packet) * 200)
        return sock

    attack.hold(10, 40, make)


def rapid_resets(attack: Attack) -> None:
    """Open streams of HTTP/2 and reset each at once (CVE-2023-44487)."""
    while time.monotonic() < attack.until:
        with contextlib.suppress(OSError), attack.secure(attack.https, "h2") as sock:
            sock.sendall(webclient.PREFACE + webclient.frame(webclient.SETTINGS))
            for i in attack.paced(500):
                request = webclient.get(query(f"u{i}.ext.test.", A, 0))
                end = webclient.END_STREAM | webclient.END_HEADERS
                head = webclient.frame(webclient.HEADERS, end, 2 * i + 1, webclient.block(request))
                reset = webclient.frame(webclient.RST_STREAM, 0, 2 * i + 1, struct.pack("!I", 8))
                sock.sendall(head + reset)
        time.sleep(0.05)


def http2_floods(attack: Attack) -> None:
    """Send frames that ask for nothing but work, and octets that are no frames."""
    while time.monotonic() < attack.until:
        with contextlib.suppress(OSError), attack.secure(attack.https, "h2") as sock:
            sock.sendall(webclient.PREFACE + webclient.frame(webclient.SETTINGS))
            for _ in attack.paced(1000):
                flood = attack.rng.choice(
                    (
                        webclient.frame(webclient.PING, body=bytes(8)),
                        webclient.frame(webclient.SETTINGS),
                        webclient.frame(webclient.PRIORITY, 0, 3, bytes(5)),
                        webclient.frame(webclient.DATA, 0, 1),
                        webclient.frame(webclient.CONTINUATION, 0, 1, bytes(1000)),
                        webclient.frame(webclient.WINDOW_UPDATE, body=b"\x7f\xff\xff\xff"),
                        attack.rng.randbytes(50),
                    )
                )
                sock.sendall(flood)
        time.sleep(0.05)


def spelled(rng: random.Random, name: str) -> str:
    """Return a name in letters of random case."""
    return "".join(rng.choice((c.upper(), c)) for c in name)


KINDS = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        fat_replies, spellings, slow_readers, idle_http, costly_misses, unequal_equals,
        unique_names, malformed_packets, many_connections, over_its_limit, odd_cookies,
        half_handshakes, many_handshakes, slow_tls_readers, rapid_resets, http2_floods,
    )
}  # fmt: skip


def main() -> None:
    """Attack once."""
    os.nice(5)  # it is not about who has the processor
    kind, seconds, seed, *ports = sys.argv[1:]
    KINDS[kind](Attack(float(seconds), int(seed), [int(port) for port in ports]))


if __name__ == "__main__":
    main()
