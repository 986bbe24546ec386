"""UDP: datagrams in batches, through the answer table.

One call per readable event takes up to 64 datagrams; each is one system call to receive, one look
into the table, one system call to send. asyncio's DatagramProtocol costs five times as much, which
is why the socket is read by hand. Where ``_drain.c`` was compiled, it does the same for the whole
batch with two system calls, without being called for each (packetloop.py), and ``_relay.c`` sends
plain misses on, see relay.py.

What the table misses waits in a queue, and a few at a time are given to ``Server.resolve`` between
one look at the socket and the next: a miss costs ten times a hit and more, so a flood of names that
are not there would else fill the socket, and what is there would be lost with it. Under 20,000
unique names a second, four times what one worker can resolve, no query for a cluster name was lost
in 8 s and their p99 was tens of milliseconds at most; before, half of them were lost. What
overflows the queue is dropped, and what has waited for longer than clients do. They take turns by
address: who asks much waits for himself, and it is his oldest that is dropped.

A socket bound to one address replies from it. One bound to all addresses has to be told from which:
the kernel tells the address a query was sent to beside each datagram, and is told the same beside
the reply (RFC 1123 section 2.3; CoreDNS: miekg/dns udp.go). Its listener has no sockets of single
addresses beside it: they would take queries from whoever else has bound such an address, another
server block or another process, since the kernel spreads them over all that share an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.tally import Sample
from clusterdns.serving import native, packetloop
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import Listener, Send

if TYPE_CHECKING:
    from clusterdns.serving._drain import Lane, Left

BATCH = 64
MISSES = 4  # a batch of hits waits for so many: half a millisecond
MAX_MISSED = 1024  # 0.1 s of work, 100 kB; a second and more if each is large
MAX_WAIT_S = 2.0  # by then the client has asked again, or someone else
_LOOKED_AT = 16  # clients of whom the one with most queries loses one
# CoreDNS receives into 512 octets: a longer query is cut, and fails to parse (miekg/dns UDPSize).
RECEIVE_OCTETS = 512
IP_PKTINFO = 8  # linux/in.h
_CONTROL_HEAD = struct.Struct("@Nii")  # struct cmsghdr: octets, level, type
_PKTINFO_OCTETS = {socket.IPPROTO_IP: 12, socket.IPPROTO_IPV6: 20}

_Missed = tuple[bytes, tuple[str, int], Send, float]  # and when it came
Control = tuple[int, int, bytes]  # level, type and data of a control message, as Python has them


class Engine:
    """Reads one bound UDP socket of a server from ``start`` to ``stop``."""

    def __init__(self, server: Listener, sock: socket.socket) -> None:
        self.server = server
        self._sock = sock
        if sock.getsockname()[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif sock.getsockname()[0] == "0.0.0.0":
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        family = "2" if sock.family == socket.AF_INET6 else "1"
        self.hits = server.tally.transport("udp", family)
        self.observed = Observed(server, "udp")
        self.number = sock.fileno()
        self.zones: dict[bytes, Lane | None] = {}  # where misses may go by themselves, see relay.py
        self.shed = 0
        self._missed: OrderedDict[str, deque[_Missed]] = OrderedDict()  # whose turn is next first
        self._waiting = 0
        # Of what was answered while the loop waited: durations by bucket, and nanoseconds in all.
        self._times = [0] * (len(TIME_S) + 2)
        self._left: list[Left] = []
        self._is_behind = False  # a call that resolves the next ones is due

    def start(self) -> None:
        """Read datagrams from now on, in the running loop."""
        if native.compiled is None:
            packetloop.register(self._sock, self._read_batch)
        else:
            maps = self.server.table.maps(self.hits, self.observed.records)
            arguments = (maps, self.zones, self._times, self._left)
            packetloop.register_in_c(self._sock, self._drain, arguments, self._see_to_left)

    def stop(self) -> None:
        """Read no more; what has been read is still answered."""
        packetloop.unregister(self._sock)
        while self._missed:
            self._resolve(self._waiting)
        self.observed.tell()

    def add_up(self) -> None:
        """Count how long queries took that were answered while the loop waited."""
        *counts, nanoseconds = self._times
        self._times[:] = [0] * len(self._times)
        batches = self.server.tally.batches
        for bucket, times in enumerate(counts):
            batches.add(bucket, times, 0.0)
        batches.total += nanoseconds / 1e9

    def samples(self) -> list[Sample]:
        """Return how many queries overflowed."""
        if not self.shed:
            return []
        return [("clusterdns_shed_queries_total", (self.server.tally.server,), self.shed)]

    def _read_batch(self) -> None:
        receive, send = self._sock.recvfrom, self._sock.sendto
        server, hits, seen = self.server, self.hits, self.observed.seen
        reply_from_table = server.table.reply
        now = server.clock()
        answered = 0
        for _ in range(BATCH):
            try:
                packet, client = receive(RECEIVE_OCTETS)
            except OSError:  # BlockingIOError: the socket is empty
                break
            reply = reply_from_table(packet, now, hits, False, seen)
            if reply is None:
                self._miss(packet, client, functools.partial(self._send, client))
                continue
            answered += 1
            if seen:
                self.observed.take(client)
            try:
                send(reply, client)
            except OSError:  # port 0, no route, full buffer: as if the network had lost it
                continue
        self._settle(now, answered)

    def _drain(self) -> None:
        """Do as ``_read_batch`` does, in C."""
        assert native.compiled is not None
        drain, maps = (
            native.compiled.drain,
            self.server.table.maps(self.hits, self.observed.records),
        )
        now = self.server.clock()
        answered, _, self._left[:] = drain(self.number, maps, now, self.zones)
        self._miss_left()
        self._settle(now, answered)

    def _see_to_left(self) -> None:
        """Begin with what C has missed while the loop waited."""
        self._miss_left()
        self._settle(self.server.clock(), 0)

    def _miss_left(self) -> None:
        for packet, client, source in self._left:
            self._miss(packet, client, self._sender(client, source))
        self._left.clear()

    def _settle(self, began: float, answered: int) -> None:
        """Note how long a batch took, and begin with what it has left."""
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        if self._missed and not self._is_behind:
            self._resolve()

    def take(self, packet: bytes, client: tuple[str, int], source: bytes) -> None:
        """Resolve a query that has been received before; ``source`` as C has told."""
        self._miss(packet, client, self._sender(client, source))
        if not self._is_behind:
            self._resolve()

    def _miss(self, packet: bytes, client: tuple[str, int], send: Send) -> None:
        """Let a query wait for its turn to be resolved."""
        if self._waiting >= MAX_MISSED:
            self._shed_for(client[0])
        missed = packet, client, send, self.server.clock()
        self._missed.setdefault(client[0], deque()).append(missed)
        self._waiting += 1

    def _shed_for(self, host: str) -> None:
        """Drop the oldest query of a client that has many: whose is new, or one of the next."""
        some = [host, *itertools.islice(self._missed, _LOOKED_AT)]
        self._pop(max(some, key=lambda each: len(self._missed.get(each, ()))))
        self.shed += 1

    def _pop(self, host: str) -> _Missed:
        """Return a client's oldest query; its next is due when the others have had their turn."""
        same = self._missed[host]
        found = same.popleft()
        self._waiting -= 1
        if same:
            self._missed.move_to_end(host)
        else:
            del self._missed[host]
        return found

    def _resolve(self, most: int = MISSES) -> None:
        """Resolve the first of those that wait, and come back for the others.

        When the answers of hot names end, many wait for the same few: the first of each is
        resolved, and what it has remembered answers the others. So who has waited looks into the
        table once more.
        """
        missed, server, hits = self._missed, self.server, self.hits
        began, answered, resolved = server.clock(), 0, 0
        for _ in range(min(self._waiting, max(most, BATCH))):
            packet, client, send, since = self._pop(next(iter(missed)))
            if began - since > MAX_WAIT_S:
                self.shed += 1
                continue
            reply = None
            if self._is_behind:
                reply = server.table.reply(packet, began, hits, False, self.observed.seen)
                self.observed.take(client)
            if reply is None:
                resolved += 1
                reply = server.resolve(packet, client, "udp", hits, send)
            if reply:
                answered += 1
                send(reply)
            if resolved == most:
                break
        server.note_batch(began, answered)
        self.observed.settle(began, answered)
        self._is_behind = bool(missed)
        if missed:
            asyncio.get_running_loop().call_soon(self._resolve)

    def _send(self, client: tuple[str, int], reply: bytes | None) -> None:
        if reply is not None:
            with contextlib.suppress(OSError):
                self._sock.sendto(reply, client)

    def _sender(self, client: tuple[str, int], source: bytes) -> Send:
        """Return what sends a client its reply, with a control message if there is one."""
        if not source:
            return functools.partial(self._send, client)
        _, level, type_ = _CONTROL_HEAD.unpack_from(source)
        data = source[_CONTROL_HEAD.size : _CONTROL_HEAD.size + _PKTINFO_OCTETS[level]]
        return functools.partial(self._send_from, [(level, type_, data)], client)

    def _send_from(
        self, source: list[Control], client: tuple[str, int], reply: bytes | None
    ) -> None:
        if reply is not None:
            with contextlib.suppress(OSError):
                self._sock.sendmsg([reply], source, 0, client)


class WildcardEngine(Engine):
    """Reads a socket bound to all addresses in Python, and replies from the one that was asked."""

    def _read_batch(self) -> None:
        server, hits = self.server, self.hits
        now = server.clock()
        answered = 0
        for _ in range(BATCH):
            try:
                packet, notes, _, client = self._sock.recvmsg(RECEIVE_OCTETS, 128)
            except OSError:
                break
            send = functools.partial(self._send_from, _source_of(notes), client)
            reply = server.table.reply(packet, now, hits, False, self.observed.seen)
            if reply is None:
                self._miss(packet, client, send)
            else:
                answered += 1
                self.observed.take(client)
                send(reply)
        self._settle(now, answered)


def _source_of(notes: list[Control]) -> list[Control]:
    """Return the ancillary data that makes a reply leave by the address a datagram came to.

    The specification of ``turn_around`` in ``_packet.c``.
    """
    for level, type_, data in notes:
        if level == socket.IPPROTO_IP and type_ == IP_PKTINFO:
            # struct in_pktinfo: interface (0: as routed), address to send from, address sent to
            return [(level, type_, b"\0\0\0\0" + data[4:8] + b"\0\0\0\0")]
        if level == socket.IPPROTO_IPV6 and type_ == socket.IPV6_PKTINFO:
            # struct in6_pktinfo: address, interface, which only a link-local address needs
            is_link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return [(level, type_, data if is_link_local else data[:16] + bytes(4))]
    return []


def engine_of(server: Listener, sock: socket.socket) -> Engine:
    """Return the engine that fits what a socket is bound to."""
    make: Callable[[Listener, socket.socket], Engine] = Engine
    if native.compiled is None and sock.getsockname()[0] in ("0.0.0.0", "::"):
        make = WildcardEngine
    return make(server, sock)
