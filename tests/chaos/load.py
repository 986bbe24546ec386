"""The client whose queries must not be lost, a process of its own: ``python load.py RATE`` and the ports
of DNS, of the echo server, of DNS over TLS and of DNS over HTTPS, and the file of their authority.

Questions come as JSON on standard input, octets in hexadecimal. Each is asked over UDP from one of many
ports, and some over TCP, TLS and HTTPS. The rule of a client is glibc's: after 5 s, or at once after SERVFAIL, it asks
a second time, from another port; 10 s after the start the query is lost. Every result is written to
standard output as a ``RECORD`` and the reply, empty for one that is lost. Some datagrams go to an echo
server instead: what they take is what the machine takes.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import certificates
import webclient

RECORD = struct.Struct("<ddHBH")  # when sent, when received, number of the question, flags, octets
OVER_TCP, AGAIN = 1, 2
ECHO = 0xFFFF  # the number of what went to the echo server
TRY_S, LOST_S = 5.0, 10.0
SOCKETS = 32
TCP_SHARE = 16  # every so many queries one is asked over TCP as well
TLS_SHARE, HTTPS_SHARE = 64, 64
QUERIES_A_CONNECTION = 10
SERVFAIL = 2


class Records:
    """Standard output, shared by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def write(self, sent: float, number: int, flags: int, reply: bytes) -> None:
        with self._lock:
            head = RECORD.pack(sent, time.monotonic(), number, flags, len(reply))
            sys.stdout.buffer.write(head + reply)
            sys.stdout.buffer.flush()


class Udp:
    """Asks at a rate, from many ports."""

    def __init__(self, server: int, echo: int, packets: list[bytes], records: Records) -> None:
        self._packets, self._records = packets, records
        self._selector = selectors.DefaultSelector()
        self._sockets = [self._connected(server) for _ in range(SOCKETS)]
        self._echo = self._connected(echo)
        self._waiting: dict[int, tuple[float, int, int]] = {}  # by ID
        self._count = 0

    def _connected(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        sock.connect(("127.0.0.1", port))
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def run(self, rate: float, is_over: threading.Event) -> None:
        start = time.monotonic()
        while not is_over.is_set() or (self._waiting and time.monotonic() < self._end):
            if not is_over.is_set():
                while self._count < (time.monotonic() - start) * rate:
                    self._ask()
                self._end = time.monotonic() + LOST_S + 1
            self._receive()

    def _ask(self) -> None:
        ident = self._count & 0xFFFF
        number = ECHO if self._count % 8 == 7 else self._count * 7919 % len(self._packets)
        self._count += 1
        self._waiting[ident] = time.monotonic(), number, 0
        self._send(ident, number, self._count)

    def _send(self, ident: int, number: int, port: int) -> None:
        sock = self._echo if number == ECHO else self._sockets[port % SOCKETS]
        packet = self._packets[0 if number == ECHO else number]
        with contextlib.suppress(OSError):  # refused: as good as no reply
            sock.send(struct.pack("!H", ident) + packet[2:])

    def _receive(self) -> None:
        for key, _ in self._selector.select(0.002):
            with contextlib.suppress(OSError):
                while True:
                    self._take(key.fileobj.recv(65535))
        now = time.monotonic()
        for ident, (sent, number, flags) in list(self._waiting.items()):
            if now - sent < TRY_S:
                break  # they are in the order of their sending
            if now - sent > LOST_S:
                del self._waiting[ident]
                self._records.write(sent, number, flags, b"")
            elif not flags:
                self._waiting[ident] = sent, number, AGAIN
                self._send(ident, number, ident + SOCKETS // 2)

    def _take(self, reply: bytes) -> None:
        ident = int.from_bytes(reply[:2])
        found = self._waiting.get(ident)
        if found is None:
            return  # the reply to the first try, after that to the second
        sent, number, flags = found
        if number != ECHO and reply[3] & 15 == SERVFAIL and not flags:
            self._waiting[ident] = sent, number, AGAIN
            self._send(ident, number, ident + SOCKETS // 2)
            return
        del self._waiting[ident]
        self._records.write(sent, number, flags, reply)


class Tcp(threading.Thread):
    """Asks one query after the other, ten a connection."""

    def __init__(
        self, port: int, packets: list[bytes], rate: float, records: Records, over: threading.Event
    ) -> None:
        super().__init__()
        self._port, self._packets, self._rate = port, packets, rate
        self._records, self._is_over = records, over
        self._sock: socket.socket | None = None
        self._left = 0

    def run(self) -> None:
        count = 0
        while not self._is_over.wait(1 / self._rate):
            number = count * 6113 % len(self._packets)
            count += 1
            sent, flags, reply = time.monotonic(), OVER_TCP, b""
            while not reply and time.monotonic() < sent + LOST_S:
                try:
                    reply = self._exchange(self._packets[number])
                except OSError:
                    self._close()
                    flags |= AGAIN
                    time.sleep(0.01)
            self._records.write(sent, number, flags, reply)

    def _exchange(self, packet: bytes) -> bytes:
        if self._sock is None or not self._left:
            self._close()
            self._sock = self._connected()
            self._left = QUERIES_A_CONNECTION
        self._left -= 1
        self._sock.settimeout(TRY_S)
        self._sock.sendall(struct.pack("!H", len(packet)) + packet)
        (octets,) = struct.unpack("!H", self._read(2))
        return self._read(octets)

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), TRY_S)

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _read(self, octets: int) -> bytes:
        assert self._sock is not None
        found = b""
        while len(found) < octets:
            part = self._sock.recv(octets - len(found))
            if not part:
                raise ConnectionError
            found += part
        return found


class Tls(Tcp):
    """Likewise over TLS."""

    def __init__(self, port: int, *more: Any, authority: Path) -> None:
        super().__init__(port, *more)
        self._context = certificates.client_context(authority)

    def _connected(self) -> socket.socket:
        return self._context.wrap_socket(super()._connected(), server_hostname="dns.test")


class Https(Tcp):
    """Likewise over HTTP/2."""

    def __init__(self, port: int, *more: Any, authority: Path) -> None:
        super().__init__(port, *more)
        self._web = webclient.Web(port, authority)

    def _exchange(self, packet: bytes) -> bytes:
        if not self._left:
            self._close()
            self._left = QUERIES_A_CONNECTION
        self._left -= 1
        reply = self._web.ask(webclient.get(packet))
        if reply.status != 200:
            raise ConnectionError
        return reply.body

    def _close(self) -> None:
        self._web.close()


def main() -> None:
    """Ask until standard input ends."""
    rate = float(sys.argv[1])
    port, echo, tls, https = map(int, sys.argv[2:6])
    authority = Path(sys.argv[6])
    packets = [bytes.fromhex(text) for text in json.loads(sys.stdin.readline())]
    records, is_over = Records(), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    others = [
        Tcp(port, packets, rate / TCP_SHARE, records, is_over),
        Tls(tls, packets, rate / TLS_SHARE, records, is_over, authority=authority),
        Https(https, packets, rate / HTTPS_SHARE, records, is_over, authority=authority),
    ]
    for thread in others:
        thread.start()
    Udp(port, echo, packets, records).run(rate, is_over)
    for thread in others:
        thread.join()


if __name__ == "__main__":
    main()
