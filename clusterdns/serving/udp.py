"""UDP: datagrams in batches, through the answer table.

One call per readable event takes up to 64 datagrams, with two system calls and one look into the
table for each. asyncio's DatagramProtocol costs five times as much, which is why the socket is read
by hand, see batch.py. Where ``_drain.c`` was compiled, it does the same without being called
(packetloop.py), and ``_relay.c`` sends plain misses on, see relay.py.

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
from typing import TYPE_CHECKING

from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.tally import Sample
from clusterdns.serving import native, packetloop
from clusterdns.serving.batch import BATCH, IP_PKTINFO, Batch, has_all_addresses
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import Listener

if TYPE_CHECKING:
    from clusterdns.serving._drain import Client, Lane, Left, Reply

MISSES = 4  # a batch of hits waits for so many: half a millisecond,
TURN_S = 0.001  # or for the one that takes longer
MAX_MISSED = 1024  # 0.1 s of work, 100 kB; a second and more if each is large
MAX_WAIT_S = 2.0  # by then the client has asked again, or someone else
_LOOKED_AT = 16  # clients of whom the one with most queries loses one
_CONTROL_HEAD = struct.Struct("@Nii")  # struct cmsghdr: octets, level, type

_Missed = tuple["Left", float, int]  # when it came, and what the table had remembered by then


class Engine:
    """Reads one bound UDP socket of a server from ``start`` to ``stop``."""

    def __init__(self, server: Listener, sock: socket.socket) -> None:
        self.server = server
        self._sock = sock
        tell_destinations(sock)
        self._batch = Batch(sock) if native.compiled is None else None
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
        assert self._batch is not None
        now = self.server.clock()
        answered, self._left[:] = self._batch.drain(
            self.server.table, now, self.hits, self.observed
        )
        self._miss_left(now)
        self._settle(now, answered)

    def _drain(self) -> None:
        """Do as ``_read_batch`` does, in C."""
        assert native.compiled is not None
        drain = native.compiled.drain
        maps = self.server.table.maps(self.hits, self.observed.records)
        now = self.server.clock()
        answered, _, self._left[:] = drain(self.number, maps, now, self.zones)
        self._miss_left(now)
        self._settle(now, answered)

    def _see_to_left(self) -> None:
        """Begin with what C has missed while the loop waited."""
        now = self.server.clock()
        self._miss_left(now)
        self._settle(now, 0)

    def _miss_left(self, now: float) -> None:
        for left in self._left:
            self._miss(left, now)
        self._left.clear()

    def _settle(self, began: float, answered: int) -> None:
        """Note how long a batch took, and begin with what it has left."""
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        if self._missed and not self._is_behind:
            self._resolve()

    def take(self, left: Left) -> None:
        """Resolve a query that has been received before."""
        self._miss(left, self.server.clock())
        if not self._is_behind:
            self._resolve()

    def _miss(self, left: Left, now: float) -> None:
        """Let a query wait for its turn to be resolved."""
        host = left[1][0]
        if self._waiting >= MAX_MISSED:
            self._shed_for(host)
        missed = left, now, self.server.table.remembered
        same = self._missed.get(host)
        if same is None:
            same = self._missed[host] = deque()
        same.append(missed)
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
        table once more, if that has remembered anything since.
        """
        missed, server, hits = self._missed, self.server, self.hits
        began, resolved = server.clock(), 0
        replies: list[Reply] = []
        for _ in range(min(self._waiting, max(most, BATCH))):
            left, since, remembered = self._pop(next(iter(missed)))
            if began - since > MAX_WAIT_S:
                self.shed += 1
                continue
            packet, client, source = left
            reply = None
            if remembered != server.table.remembered:
                reply = server.table.reply(packet, began, hits, False, self.observed.seen)
                self.observed.take(client)
            if reply is None:
                resolved += 1
                send = functools.partial(self._send, client, source)
                reply = server.resolve(packet, client, "udp", hits, send)
            if reply:
                replies.append((reply, client, source))
            if resolved == most or (resolved and server.clock() - began > TURN_S):
                break
        self._send_all(replies)
        server.note_batch(began, len(replies))
        self.observed.settle(began, len(replies))
        self._is_behind = bool(missed)
        if missed:
            asyncio.get_running_loop().call_soon(self._resolve)

    def _send_all(self, replies: list[Reply]) -> None:
        """Send replies together: each would wake a client that waits for others, too."""
        if native.compiled is not None:
            native.compiled.send(self.number, replies)
            return
        for reply, client, source in replies:
            self._send(client, source, reply)

    def _send(self, client: Client, source: bytes, reply: bytes | None) -> None:
        """Send a client its reply, None for silence."""
        if reply is None:
            return
        with contextlib.suppress(OSError):
            if source:
                self._sock.sendmsg([reply], _ancillary(source), 0, client)
            else:
                self._sock.sendto(reply, client)


def tell_destinations(sock: socket.socket) -> None:
    """Have the kernel tell where each query was sent to, if that may be several addresses."""
    if not has_all_addresses(sock):
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


@functools.lru_cache(maxsize=64)
def _ancillary(source: bytes) -> tuple[tuple[int, int, bytes], ...]:
    """Return a control message as Python's sockets take it: one for each address of ours."""
    octets, level, type_ = _CONTROL_HEAD.unpack_from(source)
    return ((level, type_, source[_CONTROL_HEAD.size : octets]),)
