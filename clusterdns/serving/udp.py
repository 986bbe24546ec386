"""UDP: datagrams in batches, through the answer table.

One call for each readable event takes up to 64 datagrams, with two system calls, and looks each up
in the table. asyncio's DatagramProtocol costs five times as much, so batch.py reads the socket
itself. If ``_drain.c`` was compiled, it does the same from the packet loop (packetloop.py), and
``_relay.c`` forwards plain misses, see relay.py.

Misses wait in a queue, and between two reads of the socket a few of them are resolved
(``Listener.resolve``). A miss costs more than ten hits; otherwise a flood of misses would fill the
socket buffer, and hits would be dropped. Under 20,000 unique names a second, four times what one
worker can resolve, no query for a cluster name was lost in 8 s, with a p99 of tens of milliseconds
at most; before, half of them were lost. Queries are dropped if the queue is full, or if they have
waited for longer than clients do. Clients take turns, by address, and the oldest query of the one
with most is dropped. A miss may take much longer than that, or the loop may be busy otherwise: then
more batches are read at once, as many as would have been read in time.

A socket bound to one address replies from it. For one bound to all addresses, the kernel reports
the destination of each query beside its datagram, and takes it as the source of the reply (RFC 1123
section 2.3; CoreDNS: miekg/dns udp.go). Its listener has no further sockets of single addresses:
the kernel spreads queries over all sockets of an address, so they would take queries from another
server block or process that has bound that address.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import operator
import select
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from clusterdns.host.socketdrops import udp_drops
from clusterdns.metrics.histogram import TIME_S
from clusterdns.metrics.tally import Sample
from clusterdns.serving import native, packetloop
from clusterdns.serving.batch import BATCH, IP_PKTINFO, Batch, has_all_addresses
from clusterdns.serving.classes import ClassTables
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import Listener
from clusterdns.serving.table import AnswerTable, Maps

if TYPE_CHECKING:
    from clusterdns.serving._drain import Client, Left, Reply, Zone

DROPS: Final = "clusterdns_udp_receive_drops_total"
MISSES: Final = 4  # resolved between two batches of hits: half a millisecond,
TURN_S: Final = 0.001  # or up to this time
AT_ONCE: Final = 16  # batches read when the loop is late: two milliseconds of hits
MAX_MISSED = 1024  # 0.1 s of work, 100 kB; more than a second if each is large
MAX_WAIT_S: Final = 2.0  # by then the client has asked again, or another server
_MOST_BATCHES: Final = 256  # read at the end: 4 MiB of a receive buffer
_LOOKED_AT: Final = 16  # clients compared to find the one with most queries
_CONTROL_HEAD: Final = struct.Struct("@Nii")  # struct cmsghdr: octets, level, type

# Time of arrival, the table's count of answers then, and the seconds that the relay had it before.
_Missed = tuple["Left", float, int, float]


class Engine:
    """Reads one bound UDP socket of a server from ``start`` to ``stop``."""

    def __init__(self, server: Listener, sock: socket.socket) -> None:
        self.server = server
        cookies = server.router.cookies
        sees_all = cookies is not None and cookies.sees_all
        # An empty one: all are misses.
        self._table: AnswerTable | ClassTables = AnswerTable() if sees_all else server.front
        self._sock = sock
        tell_destinations(sock)
        self._batch = Batch(sock) if native.compiled is None else None
        family = "2" if sock.family == socket.AF_INET6 else "1"
        self.hits = server.tally.transport("udp", family)
        self.observed = Observed(server, "udp")
        self.number = sock.fileno()
        self.zones: dict[bytes, Zone] = {}  # lanes of the relay, see relay.py
        self.shed = 0
        self._drops_before = 0
        self._missed: OrderedDict[str, deque[_Missed]] = OrderedDict()  # in the order of turns
        self._waiting = 0
        # Of hits while the loop waited: durations by bucket, and their sum in nanoseconds.
        self._times = [0] * (len(TIME_S) + 2)
        self._left: list[Left] = []
        self._read_at = server.clock()  # by asyncio's loop; the wait in C reads as soon as it can
        self._waits = select.poll()
        self._waits.register(sock, select.POLLIN)
        self._is_behind = False  # whether a call to resolve more is scheduled

    def start(self) -> None:
        """Start to read datagrams, in the running loop."""
        self._drops_before = udp_drops(self._sock)  # another process read it before
        if native.compiled is None:
            packetloop.register(self._sock, self._read_batch)
        else:
            maps = self._maps()
            arguments = (maps, self.zones, self._times, self._left)
            packetloop.register_in_c(self._sock, self._drain, arguments, self._see_to_left)

    def stop(self, *, is_last: bool = False) -> None:
        """Stop reading; queries read before are still answered.

        ``is_last`` says that no other process reads the socket from now on: later queries are
        refused by the kernel (ICMP port unreachable), so that clients ask elsewhere at once, and
        those that are in the socket are answered.
        """
        packetloop.unregister(self._sock)
        if is_last:
            self._deafen()
            self._read_rest()
        while self._missed:
            self._resolve(self._waiting)
        self.observed.tell()

    def _deafen(self) -> None:
        """Connect the socket to itself, so that the kernel gives it no other's datagrams."""
        address = self._sock.getsockname()
        if has_all_addresses(self._sock):
            host = "::1" if self._sock.family == socket.AF_INET6 else "127.0.0.1"
            address = (host, *address[1:])
        with contextlib.suppress(OSError):
            self._sock.connect(address)

    def _read_rest(self) -> None:
        """Read what is left in the socket: bounded, should it go on to fill."""
        for _ in range(_MOST_BATCHES):
            if not self._waits.poll(0):
                return
            if native.compiled is None:
                self._read_batch()
            else:
                self._drain()

    def add_up(self) -> None:
        """Move the durations that C measured, while the loop waited, to the histogram."""
        *counts, nanoseconds = self._times
        self._times[:] = [0] * len(self._times)
        batches = self.server.tally.batches
        for bucket, times in enumerate(counts):
            batches.add(bucket, times, 0.0)
        batches.total += nanoseconds / 1e9

    def samples(self) -> list[Sample]:
        """Return the number of queries dropped, by us and by the kernel."""
        labels = (self.server.tally.server,)
        drops = max(0, udp_drops(self._sock) - self._drops_before)
        found: list[Sample] = [(DROPS, labels, drops)]
        if self.shed:
            found.append(("clusterdns_shed_queries_total", labels, self.shed))
        return found

    def _turns(self) -> Iterator[float]:
        """Yield the time of each batch to read: one, and as many as the loop is late, in turns."""
        now = self.server.clock()
        late = min(int((now - self._read_at) / TURN_S), AT_ONCE - 1)
        yield now
        while late > 0 and self._waits.poll(0):
            late -= 1
            yield self.server.clock()
        self._read_at = self.server.clock()

    def _read_batch(self) -> None:
        assert self._batch is not None
        began, answered = self.server.clock(), 0
        for now in self._turns():
            hits, left = self._batch.drain(self._table, now, self.hits, self.observed)
            answered += hits
            self._left[:] = left
            self._miss_left(now)
        self._settle(began, answered)

    def _drain(self) -> None:
        """As ``_read_batch``, in C."""
        assert native.compiled is not None
        drain, maps = native.compiled.drain, self._maps()
        began, answered = self.server.clock(), 0
        for now in self._turns():
            hits, _, self._left[:] = drain(self.number, maps, now, self.zones)
            answered += hits
            self._miss_left(now)
        self._settle(began, answered)

    def _maps(self) -> Maps:
        """Return the table and the lists of observed hits, for C."""
        return self._table.maps(self.hits, self.observed.records, self.observed.sampling)

    def _see_to_left(self) -> None:
        """Take the misses of C while the loop waited."""
        now = self.server.clock()
        self._miss_left(now)
        self._settle(now, 0)

    def _miss_left(self, now: float) -> None:
        for left in self._left:
            self._miss(left, now)
        self._left.clear()

    def _settle(self, began: float, answered: int) -> None:
        """Note the time of a batch, and start to resolve its misses."""
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        if self._missed and not self._is_behind:
            self._resolve()

    def take(self, left: Left, waited_s: float = 0.0) -> None:
        """Resolve a query that was handed over after so many seconds."""
        self._miss(left, self.server.clock(), waited_s)
        if not self._is_behind:
            self._resolve()

    def _miss(self, left: Left, now: float, waited_s: float = 0.0) -> None:
        """Queue a query for its turn to be resolved."""
        host = left[1][0]
        if self._waiting >= MAX_MISSED:
            self._shed_for(host)
        missed = left, now, self._table.remembered, waited_s
        same = self._missed.get(host)
        if same is None:
            same = self._missed[host] = deque()
        same.append(missed)
        self._waiting += 1

    def _shed_for(self, host: str) -> None:
        """Drop the oldest query of the client with most: ``host``, or one of the next."""
        some = [host, *itertools.islice(self._missed, _LOOKED_AT)]
        self._pop(max(some, key=lambda each: len(self._missed.get(each, ()))))
        self.shed += 1

    def _pop(self, host: str) -> _Missed:
        """Return a client's oldest query, and move the client behind the others."""
        same = self._missed[host]
        found = same.popleft()
        self._waiting -= 1
        if same:
            self._missed.move_to_end(host)
        else:
            del self._missed[host]
        return found

    def _resolve(self, most: int = MISSES) -> None:
        """Resolve some of the waiting queries, and schedule the others.

        When answers of hot names expire, many queries wait for the same names: the first of each
        is resolved, and its answer serves the others. So each query is looked up in the table
        again if that has kept any answer since.
        """
        missed, server, hits = self._missed, self.server, self.hits
        began, resolved = server.clock(), 0
        replies: list[Reply] = []
        for _ in range(min(self._waiting, max(most, BATCH))):
            left, since, remembered, waited_s = self._pop(next(iter(missed)))
            if began - since > MAX_WAIT_S:
                self.shed += 1
                continue
            packet, client, source = left
            reply = None
            if remembered != self._table.remembered:
                host = functools.partial(operator.itemgetter(0), client)
                reply = self._table.reply(packet, began, hits, False, self.observed.seen, host)
                if reply:
                    self.observed.look_at(packet, reply)
                self.observed.take(client)
            if reply is None:
                resolved += 1
                send = functools.partial(self._send, client, source)
                waited_s += began - since
                reply = server.resolve(packet, client, "udp", hits, send, waited_s=waited_s)
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
        """Send replies together: a client that waits for several is woken once."""
        if native.compiled is not None:
            native.compiled.send(self.number, replies)
            return
        for reply, client, source in replies:
            self._send(client, source, reply)

    def _send(self, client: Client, source: bytes, reply: bytes | None) -> None:
        """Send a client its reply, or nothing for None."""
        if reply is None:
            return
        with contextlib.suppress(OSError):
            if source:
                self._sock.sendmsg([reply], _ancillary(source), 0, client)
            else:
                self._sock.sendto(reply, client)


def tell_destinations(sock: socket.socket) -> None:
    """Let the kernel report the destination of queries, if that may be several addresses."""
    if not has_all_addresses(sock):
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


@functools.lru_cache(maxsize=64)
def _ancillary(source: bytes) -> tuple[tuple[int, int, bytes], ...]:
    """Return the control messages, for Python's sockets, with our source address."""
    octets, level, type_ = _CONTROL_HEAD.unpack_from(source)
    return ((level, type_, source[_CONTROL_HEAD.size : octets]),)
