"""Connections of one listening socket: each a stream of queries, all within common bounds.

``Crowd.answer_to`` answers received queries, in C if ``_drain.c`` was compiled. Queries of one
connection are answered in the order of completion: a slow one does not delay the others (RFC 7766
section 6.2.1.1). A connection that sends no whole query for ten seconds, or does not read its
replies, is closed.

The octets that all connections of a process hold together are bounded, see ``Held``, and those that
hold most are closed. When
a connection has to make room, it is the one quiet for longest, of a client with more than its share
if there is one, and never one with a query under way.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import select
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from clusterdns.host import interfaces
from clusterdns.serving import native
from clusterdns.serving.framing import end_of, frame, skip
from clusterdns.serving.observed import Observed
from clusterdns.serving.server import LATER, Listener
from clusterdns.serving.table import AnswerTable

SHARE = 64  # connections of a client beyond which they make room first
MAX_HELD_OCTETS = 8 * 2**20  # of all connections of a process: partial queries, unsent replies
LAST_HELD_OCTETS = 2**20  # likewise when it stops: the next process holds octets of its own
# Connections served in one turn, and hits of one.
BATCH = 64
MISSES = 4  # of one connection in one turn: a miss costs more than ten hits
MAX_IN_FLIGHT = 64  # queries of one connection under way
FIRST_TIMEOUT_S = 3.0
IDLE_TIMEOUT_S = 10.0
LAST_TIMEOUT_S = 1.0  # for a query that is on its way when we stop
_READ_OCTETS = 16 * 1024
REPLY_OCTETS = 256 * 1024  # replies collected before the last one; ROOM in _drain.c


# Octets, where to begin, how many messages at most, monotonic seconds; see ``Crowd.answer_hits``.
Answering = Callable[[bytes, int, int, float], tuple[bytes, int, int]]


class Held:
    """The octets that the connections of some listening sockets hold; they share one bound."""

    def __init__(self, most: int = MAX_HELD_OCTETS) -> None:
        self.octets = 0
        self.most = most
        self._crowds: list[Crowd] = []

    def enter(self, crowd: Crowd) -> None:
        """Bound the connections of a listening socket, too, which has none yet."""
        self._crowds.append(crowd)
        crowd.held = self

    def lighten(self) -> None:
        """Close the connections that hold most; frees an eighth of the bound, so it is rare."""
        if self.octets <= self.most:
            return
        of_all = (each for crowd in self._crowds for each in crowd.connections.values())
        heaviest = sorted(of_all, key=lambda each: each.weight)
        while heaviest and self.octets > self.most * 7 // 8:
            heaviest.pop().close()


class Crowd:
    """The connections of one listening socket, and what they share."""

    def __init__(self, server: Listener, family: int) -> None:
        self.server = server
        self.hits = server.tally.transport("tcp", "2" if family == socket.AF_INET6 else "1")
        self.connections: OrderedDict[int, Connection] = OrderedDict()  # the quietest one first
        self.by_host: dict[str, OrderedDict[int, Connection]] = {}  # likewise
        self.crowded: dict[str, None] = {}  # hosts with more than their share
        self.held = Held()  # of its own, or shared with others
        self.held.enter(self)
        self.replied = 0  # octets sent or kept so far
        self.due: deque[tuple[Connection, int]] = deque()  # with its epoll events
        self.observed = Observed(server, "tcp")
        self.poll = select.epoll()
        limits = server.router.streams
        self.first_s = limits.first_s or FIRST_TIMEOUT_S
        self.idle_s = limits.idle_s or IDLE_TIMEOUT_S
        self.most_queries = limits.most_queries or 0  # of one connection; 0 is any number
        self.is_stopping = False  # a connection is closed when it has got the replies it wants
        self._answer = self._answers_from(server.table)

    def go_on_with(self, connection: Connection) -> None:
        """Serve the queries a connection has sent already, in its turn."""
        raise NotImplementedError

    def _answers_from(self, table: AnswerTable) -> Answering:
        """Return what answers messages from a table."""
        in_c = getattr(native.compiled, "answer", None)
        if in_c is None:
            return functools.partial(self.answer_hits, table)
        maps = table.maps(self.hits, self.observed.seen, self.observed.sampling)
        return functools.partial(in_c, maps)

    def answer_to(self, host: str) -> Answering:
        """Return what answers the messages of a client, from the table of its class."""
        if self.server.classes is None:
            return self._answer
        table = self.server.table_of(host)
        return _answer_none if table is None else self._answers_from(table)

    def answer_hits(
        self, table: AnswerTable, octets: bytes, at: int, most: int, now: float
    ) -> tuple[bytes, int, int]:
        """Answer messages from ``at`` on, up to the first that is partial or a miss.

        Return the framed replies, the offset of the rest, and the number of replies. This is the
        specification of the function in ``_drain.c``.
        """
        replies, answered, size = list[bytes](), 0, 0
        reply_from_table, hits, seen = table.reply, self.hits, self.observed.seen
        sampler = self.observed.sampler
        while answered < most and size < REPLY_OCTETS:
            end = end_of(octets, at)
            reply = reply_from_table(octets[at + 2 : end], now, hits, True, seen) if end else None
            if reply is None:
                break
            if sampler is not None:
                self.observed.look_at(octets[at + 2 : end], reply)
            replies.append(frame(reply))
            size += 2 + len(reply)
            answered += 1
            at = end
        return b"".join(replies), at, answered

    def enter(self, connection: Connection) -> None:
        """Add a connection."""
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
        """Note that a connection was active."""
        self.connections.move_to_end(connection.number)
        self.by_host[connection.host].move_to_end(connection.number)

    def make_room(self) -> bool:
        """Close the quietest connection without queries under way; tell whether there was one."""
        crowd = self.by_host[next(iter(self.crowded))] if self.crowded else self.connections
        for connection in itertools.islice(crowd.values(), BATCH):
            if not connection.is_busy:
                connection.close()
                return True
        return False


def _answer_none(_octets: bytes, at: int, _most: int, _now: float) -> tuple[bytes, int, int]:
    """Answer no message: each is a miss."""
    return b"", at, 0


class Stream(Protocol):
    """The part of socket.socket that a connection uses."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def getsockname(self) -> tuple[str, int]:
        """Return our address; there may be more behind the port."""

    def recv(self, most: int, /) -> bytes:
        """Return received octets, b"" at the end. Raises OSError."""

    def send(self, octets: bytes | bytearray, /) -> int:
        """Send octets; return how many were sent. Raises OSError."""

    def close(self) -> None:
        """Close."""


class Connection:
    """One client's stream of queries."""

    def __init__(self, streams: Crowd, sock: Stream, client: tuple[str, int]) -> None:
        self.deadline = streams.server.clock() + streams.first_s
        self._streams = streams
        self._server = streams.server
        self._sock = sock
        self.number = sock.fileno()
        self.host = client[0]
        self.weight = 0  # octets it held at the last `_weigh`
        self._client = client
        self._address = sock.getsockname()[:2]
        self._rest = bytearray()  # received octets not answered yet
        self._waiting = -1  # octets in the socket that the client had not read
        self._unsent = bytearray()  # not empty: no more queries are read
        self._in_flight = 0
        self._most_in_flight = MAX_IN_FLIGHT
        self._emptied: list[asyncio.Future[None]] = []  # waiters for all being sent
        self._queries = 0  # read so far, if their number is bounded
        self._has_asked = False
        self._events = select.EPOLLIN  # registered with epoll
        self._is_finishing = False  # no more is read
        self._is_due = False  # whether a call to continue is scheduled
        self._is_closed = False

    def proceed(self, events: int, now: float) -> int:
        """Read and write as far as possible; return the number of queries answered."""
        if self._is_closed:  # since it was scheduled
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
        if not octets:  # half-closed: the client still gets its replies
            self.finish()
            return 0
        return self._receive(octets, now)

    def _receive(self, octets: bytes, now: float) -> int:
        """Answer the whole queries received; return their number."""
        if self._rest:
            self._rest += octets
            if end_of(self._rest, 0):
                return self._answer_rest(now)
            self._weigh()
            return 0
        return self._answer(octets, now)

    def wind_down(self, now: float) -> int:
        """Read what has come, and close once that is answered; return how many were at once.

        A connection whose first query, or the rest of one, is on its way waits for that: a client
        that has just connected would see a reset.
        """
        answered = 0 if self._is_due else self.proceed(select.EPOLLIN, now)
        if self._has_asked and not self._rest:
            self.finish()
        elif not self.is_busy:
            self.deadline = min(self.deadline, now + LAST_TIMEOUT_S)
        return answered

    def finish(self) -> None:
        """Close once the received queries are answered."""
        self._is_finishing = True
        self._settle()

    @property
    def is_busy(self) -> bool:
        """Whether a whole query is received and not answered."""
        return bool(self._in_flight) or self._is_due

    def is_over(self, now: float) -> bool:
        """Tell whether it has been quiet for too long, without a query under way.

        A slow reader is not quiet: the kernel reports room only when a third of its buffer is free,
        so the octets in the buffer are compared. It may still have to make room for others.
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
        """Update the octets it holds; this may close it."""
        if self._is_closed:
            return
        weight = self._octets_held()
        held = self._streams.held
        held.octets += weight - self.weight
        self.weight = weight
        held.lighten()

    def _octets_held(self) -> int:
        return len(self._rest) + len(self._unsent)

    def _has_more(self) -> bool:
        """Tell whether a whole query is waiting in the received octets."""
        return end_of(self._rest, 0) > 0

    def close(self) -> None:
        """Close at once."""
        if not self._is_closed:
            self._is_closed = True
            self._rest.clear()
            self._unsent.clear()
            self._streams.held.octets -= self.weight
            self.weight = 0
            self._wake()
            self._streams.leave(self)
            self._sock.close()  # epoll removes it, too

    def _answer_rest(self, now: float) -> int:
        octets = bytes(self._rest)
        self._rest.clear()
        return self._answer(octets, now)

    def _answer(self, octets: bytes, now: float) -> int:
        """Answer as many queries as allowed, and keep the rest; return their number."""
        most = self._streams.most_queries
        if most:
            octets = octets[: skip(octets, most - self._queries)[0]]
        server, hits, parts = self._server, self._streams.hits, list[bytes]()
        at = answered = missed = size = 0
        answer = self._streams.answer_to(self.host)
        while True:
            replies, at, more = answer(octets, at, BATCH - answered, now)
            parts.append(replies)
            if self._streams.observed.seen:
                self._streams.observed.take(self._client)
            answered += more
            size += len(replies)
            end = end_of(octets, at)  # of the miss
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
            self._has_asked = True
            self._is_finishing |= self._streams.is_stopping
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
        """Send a message that is not the last; return when all is sent, False if closed.

        The sweep closes a connection whose client reads nothing for the idle timeout.
        """
        self._send(frame(message))
        self._weigh()
        self._settle()
        await asyncio.sleep(0)  # others have their turn first
        while self._unsent and not self._is_closed:
            emptied = asyncio.get_running_loop().create_future()
            self._emptied.append(emptied)
            await emptied
        self.deadline = self._server.clock() + self._streams.idle_s
        return not self._is_closed

    def _wake(self) -> None:
        """Wake the waiters for all being sent."""
        waiting, self._emptied = self._emptied, []
        for emptied in waiting:
            if not emptied.done():
                emptied.set_result(None)

    def _done(self, reply: bytes | None) -> None:
        """Send the reply of a query that waited."""
        if self._is_wanted() and reply is not None:
            self._send(frame(reply))
            self._weigh()
        self._settle()

    def _is_wanted(self) -> bool:
        """Note that a query is done; tell whether the connection is still open."""
        self._in_flight -= 1
        if self._is_closed:
            return False
        if not self._in_flight:  # it was we who were quiet (RFC 7766 section 6.2.3)
            self.deadline = self._server.clock() + self._streams.idle_s
            self._streams.is_active(self)
        return True

    def _send(self, octets: bytes) -> None:
        """Send octets, and keep those that the socket does not take."""
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
        """Send unsent octets as far as the socket takes them."""
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
        """Decide whether to read on, wait for queries under way, continue soon, or close."""
        if self._is_closed:
            return
        is_held = bool(self._unsent) or self._in_flight >= self._most_in_flight
        if not is_held and self._has_more():
            if not self._is_due:
                self._is_due = True
                self._streams.go_on_with(self)  # others have their turn first
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
        """Answer more of the received queries; return their number."""
        self._is_due = False
        if self._is_closed or self._unsent:
            return 0
        answered = self._answer_rest(now)
        self._settle()
        return answered
