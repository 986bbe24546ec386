"""TCP: frames on a stream (RFC 1035 section 4.2.2, RFC 7766) and connections with their limits.

The connections of a listening socket are watched by an epoll of their own, which asyncio's loop
watches in turn. One call reads every connection that has something and answers all its whole
queries at once: a system call to receive, the look-ups, one to send. ``Streams.answer`` is the
look-ups, in C where ``_drain.c`` was compiled. A query on each of 100 connections costs 7.8 µs, and
9.4 without C; with asyncio's transports it was 10.0 and 10.4 (lower quartile of 11 rounds).

Queries of one connection are answered as they are done, not in turn: a slow one does not hold up
the others (RFC 7766 section 6.2.1.1). A connection that sends no whole query for ten seconds, or
does not read its replies, is closed. (CoreDNS: core/dnsserver/server.go ReadTimeout, IdleTimeout)

What clients do not read costs the others little: a turn ends with so many octets or so much time,
and UDP is looked after between two; what all connections hold together is bounded, and those that
hold most are closed. If there are too many connections, the one that has been quiet for longest
goes, of a client that has more than its share if there is one; never one whose query is under way.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import resource
import select
import socket
from collections import OrderedDict, deque
from collections.abc import Callable

from clusterdns.host import interfaces
from clusterdns.metrics.tally import Sample
from clusterdns.serving import native, packetloop
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import LATER, Listener

MAX_CONNECTIONS = 4096  # two kilobytes each; half of all descriptors at most, see `_most_of`
FEWEST_CONNECTIONS = 128
SHARE = 64  # connections of a client that do not give way to those of others
MAX_HELD_OCTETS = 16 * 2**20  # of all connections: queries that are not whole, unsent replies
TURN_S = 0.002  # a turn ends with this, or with REPLY_OCTETS
# Connections looked after at a stretch, and hits of one: then the others get their turn.
BATCH = 64
MISSES = 4  # of one connection at a stretch: a miss costs ten hits and more
MAX_IN_FLIGHT = 64  # queries of one connection that wait at one time
FIRST_TIMEOUT_S = 3.0
IDLE_TIMEOUT_S = 10.0
_BACKLOG = 1024
_ACCEPTS = 16  # connections accepted at a stretch
_SWEEP_S = 1.0
_READ_OCTETS = 16 * 1024
REPLY_OCTETS = 256 * 1024  # replies put together, but for the last; ROOM in _drain.c
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def end_of(octets: bytes | bytearray, at: int) -> int:
    """Return where the message that begins ``at`` ends, 0 while it is not whole."""
    if len(octets) < at + 2:
        return 0
    end = at + 2 + (octets[at] << 8 | octets[at + 1])
    return end if end <= len(octets) else 0


def _skip(octets: bytes, most: int) -> tuple[int, int]:
    """Return where ``most`` messages end, or all octets, and how many whole messages that is."""
    at = found = 0
    while found < most:
        end = end_of(octets, at)
        if not end:
            return len(octets), found
        at = end
        found += 1
    return at, found


def frame(reply: bytes) -> bytes:
    """Return a message with its length in front."""
    return len(reply).to_bytes(2, "big") + reply


class Streams:
    """The TCP connections of one listening socket."""

    def __init__(self, server: Listener, sock: socket.socket, listeners: int = 1) -> None:
        self.server = server
        self.hits = server.tally.transport("tcp", "2" if sock.family == socket.AF_INET6 else "1")
        self.connections: OrderedDict[int, Connection] = OrderedDict()  # the quietest one first
        self.by_host: dict[str, OrderedDict[int, Connection]] = {}  # likewise
        self.crowded: dict[str, None] = {}  # hosts with more than their share
        self.held = 0  # octets, see Connection.weigh
        self.most = _most_of(listeners)
        self.due: deque[tuple[Connection, int]] = deque()  # with what epoll has said of it
        self.observed = Observed(server, "tcp")
        self.poll = select.epoll()
        limits = server.router.streams
        self.first_s = limits.first_s or FIRST_TIMEOUT_S
        self.idle_s = limits.idle_s or IDLE_TIMEOUT_S
        self.most_queries = limits.most_queries or 0  # of one connection; 0 is any number
        self.answer: Callable[[bytes, int, int, float], tuple[bytes, int, int]] = self.answer_hits
        in_c = getattr(native.compiled, "answer", None)
        if in_c is not None:
            self.answer = functools.partial(in_c, server.table.maps(self.hits, self.observed.seen))
        self._sock = sock
        self.replied = 0  # octets that were sent or kept, ever
        self._is_listening = False
        self._is_coming_back = False
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        self._sock.setblocking(False)
        self._sock.listen(_BACKLOG)
        self._listen()
        packetloop.register(self.poll, self._look_after)
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._close_quiet)

    def stop(self) -> None:
        """Accept no more, and close what has no query in flight."""
        self._pause()
        self._sock.close()
        for connection in list(self.connections.values()):
            connection.finish()
        self.observed.tell()

    def abort(self) -> None:
        """Close everything."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections.values()):
            connection.close()
        packetloop.unregister(self.poll)
        self.poll.close()
        self.observed.tell()

    def answer_hits(self, octets: bytes, at: int, most: int, now: float) -> tuple[bytes, int, int]:
        """Answer messages from ``at`` on, up to the first that is not whole or that is no hit.

        Return the framed replies, where the rest begins, and how many there are. The specification
        of what ``_drain.c`` does.
        """
        replies, answered, size = list[bytes](), 0, 0
        reply_from_table, hits, seen = self.server.table.reply, self.hits, self.observed.seen
        while answered < most and size < REPLY_OCTETS:
            end = end_of(octets, at)
            reply = reply_from_table(octets[at + 2 : end], now, hits, True, seen) if end else None
            if reply is None:
                break
            replies.append(frame(reply))
            size += 2 + len(reply)
            answered += 1
            at = end
        return b"".join(replies), at, answered

    def _look_after(self) -> None:
        """Look after the connections that have something to read, or room to write."""
        if not self.due:
            for number, events in self.poll.poll(0, BATCH):
                connection = self.connections.get(number)
                if connection is not None:
                    self.due.append((connection, events))
                elif number == self._sock.fileno():
                    self._accept()
        self._take_turn()

    def go_on_with(self, connection: Connection) -> None:
        """Look after what a connection has sent already, when it is its turn."""
        self.due.append((connection, 0))
        self._come_back()

    def _come_back(self) -> None:
        if not self._is_coming_back:
            self._is_coming_back = True
            asyncio.get_running_loop().call_soon(self._take_turn_again)

    def _take_turn_again(self) -> None:
        self._is_coming_back = False
        self._take_turn()

    def _take_turn(self) -> None:
        """Look after those that are due, until it is UDP's turn."""
        clock, due = self.server.clock, self.due
        began, answered, octets = clock(), 0, self.replied
        while due and self.replied - octets < REPLY_OCTETS:
            connection, events = due.popleft()
            answered += connection.proceed(events, began) if events else connection.go_on(began)
            if clock() - began >= TURN_S:
                break
        self.server.note_batch(began, answered)
        self.observed.settle(began, answered)
        if due:
            self._come_back()

    def enter(self, connection: Connection) -> None:
        """Take in a connection."""
        number, host = connection.number, connection.host
        self.connections[number] = connection
        same = self.by_host.setdefault(host, OrderedDict())
        same[number] = connection
        if len(same) > SHARE:
            self.crowded[host] = None

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        number, host = connection.number, connection.host
        del self.connections[number]
        same = self.by_host[host]
        del same[number]
        if len(same) <= SHARE:
            self.crowded.pop(host, None)
        if not same:
            del self.by_host[host]

    def is_active(self, connection: Connection) -> None:
        """Take in that a connection was not quiet."""
        self.connections.move_to_end(connection.number)
        self.by_host[connection.host].move_to_end(connection.number)

    def _make_room(self) -> bool:
        """Close the quietest connection whose queries are answered; tell whether there was one."""
        crowd = self.by_host[next(iter(self.crowded))] if self.crowded else self.connections
        for connection in itertools.islice(crowd.values(), BATCH):
            if not connection.is_busy:
                connection.close()
                return True
        return False

    def lighten(self) -> None:
        """Close the connections that hold most: an eighth goes at once, so that this is rare."""
        heaviest = sorted(self.connections.values(), key=lambda each: each.weight)
        while heaviest and self.held > MAX_HELD_OCTETS * 7 // 8:
            heaviest.pop().close()

    def _accept(self) -> None:
        """Enter new connections, at the price of the quietest ones if there are too many."""
        for _ in range(_ACCEPTS):
            try:
                sock, client = self._sock.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:  # there is no more, or it has gone already
                if error.errno in _EXHAUSTED:
                    self._pause()
                return
            if len(self.connections) >= self.most and not self._make_room():
                sock.close()
                continue
            try:
                connection = self._connection(sock, client[:2])
            except OSError:  # it has gone already
                sock.close()
                continue
            self.enter(connection)
            self.poll.register(connection.number, select.EPOLLIN)

    def samples(self) -> list[Sample]:
        """Return what only the connections of one protocol count."""
        return []

    def _connection(self, sock: socket.socket, client: tuple[str, int]) -> Connection:
        return Connection(self, sock, client)

    def _listen(self) -> None:
        if not self._is_listening:
            self.poll.register(self._sock, select.EPOLLIN)
            self._is_listening = True

    def _pause(self) -> None:
        """Let new connections wait in the kernel."""
        if self._is_listening:
            self.poll.unregister(self._sock)
            self._is_listening = False

    def _close_quiet(self) -> None:
        now = self.server.clock()
        for connection in [c for c in self.connections.values() if c.is_over(now)]:
            connection.close()
        if self._sock.fileno() >= 0:
            self._listen()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_S, self._close_quiet)


def _most_of(listeners: int) -> int:
    """Return how many connections a listening socket may have, one of so many in its process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(MAX_CONNECTIONS, soft // 2 // listeners))


class Connection:
    """One client's stream of queries."""

    def __init__(self, streams: Streams, sock: socket.socket, client: tuple[str, int]) -> None:
        self.deadline = streams.server.clock() + streams.first_s
        self._streams = streams
        self._server = streams.server
        self._sock = sock
        self.number = sock.fileno()
        self.host = client[0]
        self.weight = 0  # octets it held when it was last weighed
        self._client = client
        self._address = sock.getsockname()[:2]
        self._rest = bytearray()  # what has come and is not answered
        self._waiting = -1  # octets that the client had not taken when it was last looked at
        self._unsent = bytearray()  # while there is any, no more queries are taken
        self._in_flight = 0
        self._most_in_flight = MAX_IN_FLIGHT
        self._emptied: list[asyncio.Future[None]] = []  # who waits until all is sent
        self._queries = 0  # that have been taken, if their number is bounded
        self._events = select.EPOLLIN  # that are watched for
        self._is_finishing = False  # no more will be read
        self._is_due = False  # a call that goes on with the rest is
        self._is_closed = False

    def proceed(self, events: int, now: float) -> int:
        """Read and write what can be; return how many queries were answered."""
        if self._is_closed:  # while it was due
            return 0
        if events & (select.EPOLLERR | select.EPOLLHUP):  # reset: nobody reads replies
            self.close()
            return 0
        if events & select.EPOLLOUT:
            self._flush()
        if not events & self._events & select.EPOLLIN or self._is_due or self._is_closed:
            return 0
        try:
            octets = self._sock.recv(_READ_OCTETS)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0
        if not octets:  # half-closed is not gone: it gets the replies that are outstanding
            self.finish()
            return 0
        return self._receive(octets, now)

    def _receive(self, octets: bytes, now: float) -> int:
        """Answer what is whole of what has come; return how many queries that were."""
        if self._rest:
            self._rest += octets
            if end_of(self._rest, 0):
                return self._answer_rest(now)
            self._weigh()
            return 0
        return self._answer(octets, now)

    def finish(self) -> None:
        """Close once the queries that have come are answered."""
        self._is_finishing = True
        self._settle()

    @property
    def is_busy(self) -> bool:
        """Whether a query of its has come whole and is not answered."""
        return bool(self._in_flight) or self._is_due

    def is_over(self, now: float) -> bool:
        """Tell whether it has been quiet for too long; a query under way is not its fault.

        Who reads slowly reads: the kernel tells of room only when a third of its buffer is free,
        so the octets that wait there are looked at. It stays among those who make room for others.
        """
        if self.deadline > now or (self.is_busy and not self._unsent):
            return False
        if not self._unsent:
            return True
        waiting = len(self._unsent) + interfaces.octets_to_send(self.number)
        if waiting == self._waiting:
            return True
        self._waiting, self.deadline = waiting, now + self._streams.idle_s
        return False

    def _weigh(self) -> None:
        """Tell how much it holds, which may be the end of it."""
        if self._is_closed:
            return
        weight = self._octets_held()
        self._streams.held += weight - self.weight
        self.weight = weight
        if self._streams.held > MAX_HELD_OCTETS:
            self._streams.lighten()

    def _octets_held(self) -> int:
        return len(self._rest) + len(self._unsent)

    def _has_more(self) -> bool:
        """Tell whether a query has come whole that is not looked at."""
        return end_of(self._rest, 0) > 0

    def close(self) -> None:
        """Close at once."""
        if not self._is_closed:
            self._is_closed = True
            self._rest.clear()
            self._unsent.clear()
            self._streams.held -= self.weight
            self.weight = 0
            self._wake()
            self._streams.leave(self)
            self._sock.close()  # which takes it out of the epoll, too

    def _answer_rest(self, now: float) -> int:
        octets = bytes(self._rest)
        self._rest.clear()
        return self._answer(octets, now)

    def _answer(self, octets: bytes, now: float) -> int:
        """Answer what may be of ``octets`` now, and keep the rest; return how many were."""
        most = self._streams.most_queries
        if most:
            octets = octets[: _skip(octets, most - self._queries)[0]]
        server, hits, parts = self._server, self._streams.hits, list[bytes]()
        at = answered = missed = size = 0
        while True:
            replies, at, more = self._streams.answer(octets, at, BATCH - answered, now)
            parts.append(replies)
            if self._streams.observed.seen:
                self._streams.observed.take(self._client)
            answered += more
            size += len(replies)
            end = end_of(octets, at)  # of what is no hit
            has_room = self._in_flight < MAX_IN_FLIGHT and size < REPLY_OCTETS
            if not end or answered >= BATCH or missed >= MISSES or not has_room:
                break
            missed += 1
            packet = octets[at + 2 : end]
            reply = server.resolve(
                packet, self._client, "tcp", hits, self._done, self._address, self._more
            )
            at = end
            if reply == LATER:
                self._in_flight += 1
            elif reply:
                parts.append(frame(reply))
                size += len(reply)
                answered += 1
        if self._is_closed:
            return answered
        self._rest += octets[at:]
        if at:
            self.deadline = now + self._streams.idle_s
            self._streams.is_active(self)
        if replies := b"".join(parts):
            self._send(replies)
        self._weigh()
        if most:
            self._queries += _skip(octets[:at], most)[1]
            self._is_finishing |= self._queries >= most
        if self._unsent or self._rest or missed or self._is_finishing:
            self._settle()
        return answered

    async def _more(self, message: bytes) -> bool:
        """Send a message that others follow; return when all is sent, False if nobody reads it.

        Who takes nothing for as long as an idle connection may stay is closed by the sweep.
        """
        self._send(frame(message))
        self._weigh()
        self._settle()
        await asyncio.sleep(0)  # others get their turn first
        while self._unsent and not self._is_closed:
            emptied = asyncio.get_running_loop().create_future()
            self._emptied.append(emptied)
            await emptied
        self.deadline = self._server.clock() + self._streams.idle_s
        return not self._is_closed

    def _wake(self) -> None:
        """Let go on who waits until all is sent."""
        waiting, self._emptied = self._emptied, []
        for emptied in waiting:
            if not emptied.done():
                emptied.set_result(None)

    def _done(self, reply: bytes | None) -> None:
        """Send the reply to a query that had to wait."""
        if self._is_wanted() and reply is not None:
            self._send(frame(reply))
            self._weigh()
        self._settle()

    def _is_wanted(self) -> bool:
        """Take in that a query is done; tell whether there is still somebody to get the reply."""
        self._in_flight -= 1
        if self._is_closed:
            return False
        if not self._in_flight:  # it has not been quiet, we have (RFC 7766 section 6.2.3)
            self.deadline = self._server.clock() + self._streams.idle_s
            self._streams.is_active(self)
        return True

    def _send(self, octets: bytes) -> None:
        """Send, or keep what the socket does not take."""
        if self._is_closed:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.send(octets)
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        self._streams.replied += len(octets)
        if sent != len(octets):
            self._unsent += octets[sent:]

    def _flush(self) -> None:
        """Send what is unsent as far as the socket takes it."""
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._streams.replied += sent
        del self._unsent[:sent]
        self._weigh()
        if not self._unsent:
            self._wake()
        self._settle()

    def _settle(self) -> None:
        """Read on, wait until some queries are done, come back soon, or close."""
        if self._is_closed:
            return
        is_held = bool(self._unsent) or self._in_flight >= self._most_in_flight
        if not is_held and self._has_more():
            if not self._is_due:
                self._is_due = True
                self._streams.go_on_with(self)  # others get their turn first
        elif self._is_finishing and not self._in_flight and not self._unsent:
            self.close()
            return
        events = 0 if is_held or self._is_finishing else select.EPOLLIN
        if self._unsent:
            events |= select.EPOLLOUT
        self._set_events(events)

    def _set_events(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._streams.poll.modify(self.number, events)

    def go_on(self, now: float) -> int:
        """Answer more of what has come; return how many queries that were."""
        self._is_due = False
        if self._is_closed or self._unsent:
            return 0
        answered = self._answer_rest(now)
        self._settle()
        return answered
