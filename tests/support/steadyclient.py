"""A client of a cluster's DNS that asks all the time, and knows of each query what became of it.

``Client`` asks whichever backends of a ``Node`` are ready, as kube-proxy would route each new flow;
``outline`` is what of a reply must be the same from any of them.
"""

from __future__ import annotations

import collections
import select
import socket
import struct
import threading
import time

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import peers
from fakenode import Node

QUERIES_S = 2000
TIMEOUT_S = 5.0
MAX_WAITING = 100  # a socket of CoreDNS holds some 270: a machine that stalls must not lose any
ZONE = dns.name.from_text("cluster.local.")
QUESTIONS = (
    ("kubernetes.default.svc.cluster.local.", "A"),
    ("web.uit.svc.cluster.local.", "A"),
    ("web.uit.svc.cluster.local.", "AAAA"),
    ("db.uit.svc.cluster.local.", "A"),
    ("db-1.db.uit.svc.cluster.local.", "A"),
    ("_http._tcp.db.uit.svc.cluster.local.", "SRV"),
    ("1.0.96.10.in-addr.arpa.", "PTR"),
    ("10-244-9-9.uit.pod.cluster.local.", "A"),
    ("nothing.uit.svc.cluster.local.", "A"),
    ("www.example.com.uit.svc.cluster.local.", "A"),
    ("www.example.com.", "A"),
    ("nothing.example.com.", "A"),
)


class Client(threading.Thread):
    """Asks the ready Pods in turn, over UDP at a rate, and twenty times a second over TCP."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._by_descriptor: dict[int, socket.socket] = {}
        self._waiting: dict[int, tuple[float, int, int]] = {}  # by ID
        self._queries = [
            dns.message.make_query(name, rtype, use_edns=i % 2 - 1, payload=1232).to_wire()
            for i, (name, rtype) in enumerate(QUESTIONS)
        ]
        self._stopping = threading.Event()
        self.sent = 0
        self.sent_by_port: collections.Counter[int] = collections.Counter()
        self.lost: list[tuple[float, int, str]] = []  # when it was sent, where to, and what
        self.replies: list[set[bytes]] = [set() for _ in QUESTIONS]
        self.errors: list[str] = []

    def run(self) -> None:
        start = time.monotonic()
        tcp = threading.Thread(target=self._ask_over_tcp)
        tcp.start()
        while not self._stopping.is_set():
            due = int((time.monotonic() - start) * QUERIES_S)
            while self.sent < due and len(self._waiting) < MAX_WAITING:
                self._send()
            self._receive(2)
        deadline = time.monotonic() + TIMEOUT_S
        while self._waiting and time.monotonic() < deadline:
            self._receive(20)
        self._give_up(time.monotonic() + TIMEOUT_S)
        tcp.join()
        for sock in self._sockets.values():
            sock.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _send(self) -> None:
        ident, number = self.sent & 0xFFFF, self.sent % len(QUESTIONS)
        ports = self._node.backends
        port = ports[self.sent % len(ports)] if ports else 0
        self.sent += 1
        self.sent_by_port[port] += 1
        if ident in self._waiting:
            self.errors.append("an ID is still in use")
        self._waiting[ident] = time.monotonic(), number, port
        sock = self._sockets.get(port)
        if sock is None:
            sock = self._sockets[port] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            sock.connect(("127.0.0.1", port or 9))
            self._poll.register(sock, select.POLLIN)
            self._by_descriptor[sock.fileno()] = sock
        try:
            sock.send(struct.pack("!H", ident) + self._queries[number][2:])
        except OSError as error:  # nobody listens: the query is lost
            self.errors.append(f"{port}: {error}")

    def _receive(self, timeout_ms: int) -> None:
        for descriptor, _ in self._poll.poll(timeout_ms):
            while True:
                try:
                    reply = self._by_descriptor[descriptor].recv(4096)
                except BlockingIOError:
                    break
                except OSError as error:
                    self.errors.append(str(error))
                    break
                found = self._waiting.pop(int.from_bytes(reply[:2]), None)
                if found is None:
                    self.errors.append("a reply that nobody waits for")
                else:
                    self.replies[found[1]].add(reply[2:])
        self._give_up(time.monotonic())

    def _give_up(self, now: float) -> None:
        for ident, (at, number, port) in list(self._waiting.items()):
            if at > now - TIMEOUT_S:
                break  # in the order of their sending
            self.lost.append((at, port, QUESTIONS[number][0]))
            del self._waiting[ident]

    def _ask_over_tcp(self) -> None:
        for i in range(10**6):
            if self._stopping.wait(0.05):
                return
            number = i % len(QUESTIONS)
            port = self._node.backends[i % len(self._node.backends)]
            try:
                reply = peers.ask_tcp(("127.0.0.1", port), self._queries[number], TIMEOUT_S)
            except OSError as error:
                self.errors.append(f"TCP {port}: {error}")
                continue
            if reply is None:
                self.lost.append((time.monotonic(), port, f"TCP {QUESTIONS[number][0]}"))
            else:
                self.replies[number].add(reply[2:])


def outline(reply: bytes) -> str:
    """Return what of a reply is equal for both servers: all but spelling, order, ages and serials.

    Outside cluster.local `cache` answers in kubeadm's Corefile: TTLs count down, and AA is set from
    the second reply on.
    """
    message = dns.message.from_wire(b"\0\0" + reply)
    is_kept = message.question[0].name.is_subdomain(ZONE)
    flags = message.flags if is_kept else message.flags & ~dns.flags.AA
    lines = [f"{message.rcode()} {flags:04x}"]
    for section in message.sections[1:]:
        for rrset in section:
            for item in rrset:
                text = str(item)
                if rrset.rdtype == dns.rdatatype.SOA:
                    text = " ".join(text.split()[:2])
                ttl = rrset.ttl if is_kept else "*"
                lines.append(f"{rrset.name} {ttl} {rrset.rdtype} {text}".lower())
    return "\n".join(sorted(lines))
