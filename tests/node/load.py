"""Ask a DNS server all the time and count the lost queries: load.py SERVER SECONDS QUERIES_S.

There are three kinds of clients. ``fresh`` has a new socket for each query, as a stub resolver has: kube-proxy
sees a flow of its own. ``kept`` asks from ten sockets that stay open: flows that kube-proxy must move when their
Pod goes. ``tcp`` makes a connection for each query. A query without a reply after 5 s is lost. One with another
response code than it should have, or with no answer where there is one, is wrong. Nothing is asked twice.

Only the standard library, for it runs inside of a Pod. One line of JSON is printed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import select
import socket
import struct
import sys
import time

QUESTIONS = (  # name, type, response code
    ("kubernetes.default.svc.cluster.local", 1, 0),
    ("web.uit.svc.cluster.local", 1, 0),
    ("db-0.db.uit.svc.cluster.local", 1, 0),
    ("_sql._tcp.db.uit.svc.cluster.local", 33, 0),
    ("1.0.96.10.in-addr.arpa", 12, 0),
    ("nothing.uit.svc.cluster.local", 1, 3),
    ("www.example.com.uit.svc.cluster.local", 28, 3),
    ("www.example.com", 1, 0),
)
TIMEOUT_S, KEPT, MOST_WAITING = 5.0, 10, 5000


def query(question: int, ident: int) -> bytes:
    """Return a query in wire form."""
    name, rtype, _ = QUESTIONS[question]
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return (
        struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!2H", rtype, 1)
    )


class Load:
    """Clients of one server, and what became of their queries."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.start = time.monotonic()
        self.sent = 0
        self.counts = {kind: collections.Counter() for kind in ("fresh", "kept", "tcp")}
        self.lost: list[tuple[float, str, str, str]] = []
        self.wrong: list[tuple[float, str, str, int]] = []
        self.waits_s: list[float] = []
        # (descriptor, ID) -> when it was sent, the kind of client, the question
        self.waiting: dict[tuple[int, int], tuple[float, str, int]] = {}
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._kept = [self._open(socket.SOCK_DGRAM) for _ in range(KEPT)]

    def run(self, seconds: float, rate: int) -> None:
        """Send ``rate`` queries a second, and wait for the last replies."""
        checked = self.start
        while (now := time.monotonic()) - self.start < seconds or self.waiting:
            if now - self.start < seconds:
                while self.sent < (now - self.start) * rate and len(self.waiting) < MOST_WAITING:
                    self._send(now)
            for descriptor, events in self._epoll.poll(0.002):
                if descriptor in self._sockets:
                    self._receive(self._sockets[descriptor], events)
            if now - checked > 0.25:
                checked = now
                self._give_up(now)

    def _open(self, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.connect_ex((self.server, 53))
        self._epoll.register(
            sock, select.EPOLLIN | (select.EPOLLOUT if kind == socket.SOCK_STREAM else 0)
        )
        self._sockets[sock.fileno()] = sock
        return sock

    def _send(self, now: float) -> None:
        question, ident, turn = self.sent % len(QUESTIONS), random.randrange(65536), self.sent % 50
        if turn == 0:
            sock, kind = self._open(socket.SOCK_STREAM), "tcp"
        elif turn % 5 == 1:
            sock, kind = self._kept[self.sent // 5 % KEPT], "kept"
        else:
            sock, kind = self._open(socket.SOCK_DGRAM), "fresh"
        self.waiting[sock.fileno(), ident] = now, kind, question
        self.counts[kind]["sent"] += 1
        self.sent += 1
        if kind != "tcp":  # a connection sends when it stands
            with contextlib.suppress(
                OSError
            ):  # an ICMP that came for an earlier query of this socket
                sock.send(query(question, ident))
                return
            try:
                sock.send(query(question, ident))
            except OSError as error:
                self._fail(sock, str(error))

    def _receive(self, sock: socket.socket, events: int) -> None:
        is_stream = sock.type == socket.SOCK_STREAM
        try:
            if is_stream and events & select.EPOLLOUT:
                (ident, question) = next(
                    (key[1], found[2])
                    for key, found in self.waiting.items()
                    if key[0] == sock.fileno()
                )
                message = query(question, ident)
                sock.send(struct.pack("!H", len(message)) + message)
                self._epoll.modify(sock, select.EPOLLIN)
                return
            octets = sock.recv(65535)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(sock, str(error))
            return
        if is_stream and not octets:
            self._fail(sock, "closed")
        else:
            self._take(sock, octets[2:] if is_stream else octets)

    def _take(self, sock: socket.socket, reply: bytes) -> None:
        if len(reply) < 12:
            return
        ident, flags, _, answers = struct.unpack("!4H", reply[:8])
        found = self.waiting.pop((sock.fileno(), ident), None)
        if found is None:
            return
        when, kind, question = found
        self.counts[kind]["answered"] += 1
        self.waits_s.append(time.monotonic() - when)
        name, _, rcode = QUESTIONS[question]
        if flags & 15 != rcode or (not rcode and not answers):
            self.wrong.append((round(when - self.start, 2), kind, name, flags & 15))
        self._close(sock)

    def _fail(self, sock: socket.socket, why: str) -> None:
        for key in [key for key in self.waiting if key[0] == sock.fileno()]:
            self._lose(key, why)
        self._close(sock)

    def _lose(self, key: tuple[int, int], why: str) -> None:
        when, kind, question = self.waiting.pop(key)
        self.counts[kind]["lost"] += 1
        self.lost.append((round(when - self.start, 2), kind, QUESTIONS[question][0], why))

    def _give_up(self, now: float) -> None:
        for key in [key for key, found in self.waiting.items() if now - found[0] > TIMEOUT_S]:
            self._lose(key, "no reply")
            self._close(self._sockets[key[0]])

    def _close(self, sock: socket.socket) -> None:
        if sock not in self._kept:
            del self._sockets[sock.fileno()]
            sock.close()  # and the epoll object forgets it

    def report(self) -> dict[str, object]:
        """Return the counts, the waits in milliseconds, and the first of what went wrong."""
        waits = sorted(self.waits_s)
        return {
            "sent": self.sent,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            **{kind: dict(counts) for kind, counts in self.counts.items()},
            "ms": {
                str(part): round(waits[min(len(waits) - 1, int(len(waits) * part / 100))] * 1000, 2)
                for part in (50, 99, 99.9, 100)
                if waits
            },
            "lost_first": self.lost[:8],
            "wrong_first": self.wrong[:8],
            "lost_from": self.lost[0][0] if self.lost else None,
            "lost_to": self.lost[-1][0] if self.lost else None,
        }


if __name__ == "__main__":
    load = Load(sys.argv[1])
    load.run(float(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(load.report()))
