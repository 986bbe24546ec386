"""Connections of one listening socket: each a stream of queries, all within common bounds.

``Crowd.answer`` looks up what has come, in C where ``_drain.c`` was compiled. Queries of one
connection are answered as they are done, not in turn: a slow one does not hold up the others (RFC
7766 section 6.2.1.1). One that sends no whole query for ten seconds, or does not read its replies,
is over.

What clients do not read costs the others little: what all connections hold together is bounded,
and those that hold most are closed. Where one has to make room, it is the one that has been quiet
for longest, of a client that has more than its share if there is one; never one whose query is
under way.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import select
import socket
from collections import OrderedDict, deque
from collections.abc import Callable

from clusterdns.host import interfaces
from clusterdns.serving import native
from clusterdns.serving.framing import end_of, frame, skip
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import LATER, Listener

SHARE = 64  # connections of a client that do not give way to those of others
MAX_HELD_OCTETS = 16 * 2**20  # of all connections: queries that are not whole, unsent replies
# Connections looked after at a stretch, and hits of one: then the others get their turn.
BATCH = 64
MISSES = 4  # of one connection at a stretch: a miss costs ten hits and more
MAX_IN_FLIGHT = 64  # queries of one connection that wait at one time
FIRST_TIMEOUT_S = 3.0
IDLE_TIMEOUT_S = 10.0
_READ_OCTETS = 16 * 1024
REPLY_OCTETS = 256 * 1024  # replies put together, but for the last; ROOM in _drain.c


class Crowd:
    """The connections of one listening socket, and what they share."""

    def __init__(self, server: Listener, family: int) -> None:
        self.server = server
        self.hits = server.tally.transport("tcp", "2" if family == socket.AF_INET6 else "1")
        self.connections: OrderedDict[int, Connection] = OrderedDict()  # the quietest one first
        self.by_host: dict[str, OrderedDict[int, Connection]] = {}  # likewise
        self.crowded: dict[str, None] = {}  # hosts with more than their share
        self.held = 0  # octets, see Connection.weigh
        self.replied = 0  # octets that were sent or kept, ever
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

    def go_on_with(self, connection: Connection) -> None:
        """Look after what a connection has sent already, when it is its turn."""
        raise NotImplementedError

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

    def make_room(self) -> bool:
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


class Connection:
    """One client's stream of queries."""

    def __init__(self, streams: Crowd, sock: socket.socket, client: tuple[str, int]) -> None:
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
            octets = octets[: skip(octets, most - self._queries)[0]]
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
            self._queries += skip(octets[:at], most)[1]
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
