"""Datagrams of a socket, up to 64 with one system call each way, without the C extension.

Python has no recvmmsg(2) and sendmmsg(2), so they are called in the C library. For an answered
query only its octets become an object: the reply is sent with the header that the kernel filled in,
so to the same client and from the address of the query. A query and its reply take 3.8 µs on a
socket of all addresses. With recvmsg and sendmsg it was 5.9, and on a socket of one address, with
recvfrom and sendto, 4.6.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

from clusterdns.host import libc
from clusterdns.observing.sampling import KINDS_AT_ONCE, PLAIN
from clusterdns.wire import message

if TYPE_CHECKING:
    from clusterdns.observing.sampling import Sampler
    from clusterdns.serving._drain import Client, Left
    from clusterdns.serving.classes import ClassTables
    from clusterdns.serving.observed import Observed
    from clusterdns.serving.table import AnswerTable

BATCH: Final = 64
# CoreDNS receives 512 octets: a longer query is cut and fails to parse (miekg/dns UDPSize).
RECEIVE_OCTETS: Final = 512
UPDATE_OCTETS: Final = 16_384  # an UPDATE is received whole up to this length (RFC 2136)
IP_PKTINFO: Final = 8  # linux/in.h
_ANY_INTERFACES: Final = memoryview(bytes(4 * BATCH)).cast("I")
_PKTINFO: Final = socket.CMSG_LEN(0)  # offset of the data in a control message
_V4_ADDRESS: Final = 16  # octets of struct sockaddr_in, sockaddr_in6
_V6_ADDRESS: Final = 28
_V4_CONTROL, _V6_CONTROL = socket.CMSG_SPACE(12), socket.CMSG_SPACE(20)  # of in_, in6_pktinfo


class _Piece(ctypes.Structure):
    """An iovec."""

    _fields_ = (("start", ctypes.c_void_p), ("octets", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """A msghdr of the kernel."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("address_octets", ctypes.c_uint32),
        ("pieces", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_octets", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """A mmsghdr."""

    _fields_ = (("head", _Head), ("octets", ctypes.c_uint))


_MESSAGE, _PIECE = ctypes.sizeof(_Message), ctypes.sizeof(_Piece)


class Batch:
    """The datagrams of one socket that were received together, and the replies to them."""

    def __init__(self, sock: socket.socket) -> None:
        self._number = sock.fileno()
        self._is_v6 = sock.family == socket.AF_INET6
        self._address_octets = _V6_ADDRESS if self._is_v6 else _V4_ADDRESS
        self._control_octets = 0
        if has_all_addresses(sock):
            self._control_octets = _V6_CONTROL if self._is_v6 else _V4_CONTROL
        self._queries = _room(UPDATE_OCTETS)
        self._addresses = _room(self._address_octets)
        self._controls = _room(self._control_octets)
        self._replies = _room(message.MAX_UDP_OCTETS)
        self._replies_start = _address(self._replies)
        # Fields that the kernel overwrites; those of the first `_used` messages must be reset.
        self._messages, self._pieces = _room(_MESSAGE), _room(_PIECE)
        heads = (_Message * BATCH).from_buffer(self._messages)
        pieces = (_Piece * BATCH).from_buffer(self._pieces)
        for i in range(BATCH):
            self._prepare(i, heads[i].head, pieces[i])
        self._fresh = self._messages[:], self._pieces[:]
        self._used = 0
        self._present = 0  # the query that is looked up
        self._start = _address(self._messages)
        # Octets of each message and of its control messages; start and octets of each piece.
        self._lengths = _column(self._messages, "I", _Message.octets.offset, _MESSAGE)
        self._controlled = _column(self._messages, "L", _Head.control_octets.offset, _MESSAGE)
        if self._control_octets:
            at = _PKTINFO + (16 if self._is_v6 else 0)  # index of the interface
            self._interfaces = _column(self._controls, "I", at, self._control_octets)
        self._places = memoryview(self._pieces)[: BATCH * _PIECE].cast("L")
        self._recvmmsg, self._sendmmsg = libc.datagram_calls()

    def _prepare(self, i: int, head: _Head, piece: _Piece) -> None:
        piece.start, piece.octets = _address(self._queries) + i * UPDATE_OCTETS, UPDATE_OCTETS
        head.address = _address(self._addresses) + i * self._address_octets
        head.address_octets = self._address_octets
        head.pieces = ctypes.addressof(piece)
        head.count = 1
        if self._control_octets:
            head.control = _address(self._controls) + i * self._control_octets
            head.control_octets = self._control_octets

    def drain(
        self, table: AnswerTable | ClassTables, now: float, hits: list[int], observed: Observed
    ) -> tuple[int, list[Left]]:
        """Answer the hits; return their number, and the queries left.

        This is the specification of ``drain`` in ``_drain.c``. It is one loop, since a call for
        each reply would cost a tenth of a lookup.
        """
        lengths, reply_from_table, seen = self._receive(), table.reply, observed.seen
        queries, replies, places = self._queries, self._replies, self._places
        sampler = observed.sampler
        missed, silent, special, at, start = list[int](), list[int](), dict[int, int](), 0, 0
        for i, length in enumerate(lengths):
            packet = queries[at : at + length]
            at += UPDATE_OCTETS
            self._present = i
            reply = reply_from_table(packet, now, hits, False, seen, self._host)
            if not reply:
                (missed if reply is None else silent).append(i)
                continue
            octets = len(reply)
            end = start + octets
            replies[start:end] = reply
            places[2 * i], places[2 * i + 1] = self._replies_start + start, octets
            start = end
            if sampler is not None and reply[3] & 15:
                special[i] = KINDS_AT_ONCE[reply[3] & 15]
            if seen:
                observed.take(self._client(i))
        unsent = sorted(missed + silent) if silent else missed
        self._send(len(lengths), unsent)
        if sampler is not None:
            self._look_at(sampler, lengths, {*unsent, *special}, special, observed)
        return len(lengths) - len(missed), [self._left(i, lengths[i]) for i in missed]

    def _look_at(
        self,
        sampler: Sampler,
        lengths: list[int],
        others: set[int],
        special: dict[int, int],
        observed: Observed,
    ) -> None:
        """Note the hits that are looked at: of those without an error, and of the special ones.

        ``special`` has the kind of each.
        """
        chosen = list[tuple[int, int]]()
        plain = sampler.draw(PLAIN, len(lengths) - len(others))
        if plain:
            hits = [i for i in range(len(lengths)) if i not in others]
            chosen += [(hits[place], stands_for) for place, stands_for in plain]
        for i, kind in special.items():
            chosen += [(i, stands_for) for _, stands_for in sampler.draw(kind)]
        for i, stands_for in sorted(chosen):
            at, start = i * UPDATE_OCTETS, self._places[2 * i] - self._replies_start
            reply = self._replies[start : start + self._places[2 * i + 1]]
            observed.seen.append((stands_for, self._queries[at : at + lengths[i]], reply))
            observed.take(self._client(i))

    def _receive(self) -> list[int]:
        """Receive the waiting datagrams; return their lengths."""
        messages, pieces = self._used * _MESSAGE, self._used * _PIECE
        self._messages[:messages] = self._fresh[0][:messages]
        self._pieces[:pieces] = self._fresh[1][:pieces]
        count = self._recvmmsg(self._number, self._start, BATCH, socket.MSG_DONTWAIT, None)
        self._used = max(0, count)
        if self._control_octets:
            self._turn_around()
        return [self._cut(i, octets) for i, octets in enumerate(self._lengths[: self._used])]

    def _cut(self, i: int, octets: int) -> int:
        """Return the length of a datagram, cut unless it is an UPDATE."""
        is_update = self._queries[i * UPDATE_OCTETS + 2] & 0x78 == message.OPCODE_UPDATE << 3
        return octets if is_update else min(octets, RECEIVE_OCTETS)

    def _turn_around(self) -> None:
        """Turn the destinations of the queries into the sources of the replies.

        This is the specification of ``turn_around`` in ``_packet.c``. Routing chooses the
        interface, except for a link-local address, which needs one.
        """
        if not self._is_v6:
            self._interfaces[:] = _ANY_INTERFACES
            return
        for i in range(self._used):
            at = i * self._control_octets + _PKTINFO
            if self._controls[at] != 0xFE or self._controls[at + 1] & 0xC0 != 0x80:
                self._interfaces[i] = 0

    def _send(self, count: int, missed: Iterable[int]) -> None:
        """Send the replies to the first ``count`` datagrams, except those missed.

        A reply that cannot be sent - port 0, no route, full buffer - is lost.
        """
        start = 0
        for end in (*missed, count):
            while start < end:
                at = self._start + start * _MESSAGE
                start += max(1, self._sendmmsg(self._number, at, end - start, socket.MSG_DONTWAIT))
            start = end + 1

    def _left(self, i: int, length: int) -> Left:
        at, start = i * UPDATE_OCTETS, i * self._control_octets
        control = self._controls[start : start + self._controlled[i]]
        return self._queries[at : at + length], self._client(i), control

    def _host(self) -> str:
        return self._client(self._present)[0]

    def _client(self, i: int) -> Client:
        """Return the sender of the ``i``-th datagram, in the form of Python's sockets."""
        start = i * self._address_octets
        octets = self._addresses[start : start + self._address_octets]
        port = int.from_bytes(octets[2:4], "big")
        if not self._is_v6:
            return socket.inet_ntoa(octets[4:8]), port
        flow, scope = int.from_bytes(octets[4:8], "big"), int.from_bytes(octets[24:], sys.byteorder)
        # Only sockets read the last two.
        host = socket.inet_ntop(socket.AF_INET6, octets[8:24])
        return host, port, flow, scope  # type: ignore[return-value]


def has_all_addresses(sock: socket.socket) -> bool:
    """Tell whether a socket is bound to all addresses of its family."""
    return sock.getsockname()[0] in ("0.0.0.0", "::")


def _room(octets: int) -> mmap.mmap:
    """Return a buffer with so many octets for each datagram; untouched pages take no memory."""
    return mmap.mmap(-1, BATCH * max(1, octets), mmap.MAP_PRIVATE)


def _column(room: mmap.mmap, format: Literal["I", "L"], offset: int, stride: int) -> memoryview:
    """Return a view of the numbers at an offset in the structures of all datagrams."""
    numbers = memoryview(room)[: BATCH * stride].cast(format)
    return numbers[offset // numbers.itemsize :: stride // numbers.itemsize]


def _address(room: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))
