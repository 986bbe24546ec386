"""Batch: datagrams by the hundred, each answered from the address it came to, as C does it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from clusterdns.serving import native, udp
from clusterdns.serving.batch import BATCH, Batch
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message

NOBODY = SimpleNamespace(seen=[], sampler=None)  # looks at what the table answers
BOUND_AND_ASKED = [
    ("0.0.0.0", "127.0.0.9"),
    ("127.0.0.9", "127.0.0.9"),
    ("::", "::1"),
    ("::1", "::1"),
]


@contextlib.contextmanager
def sockets(bound: str, asked: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's socket, and a client's that hears only who answers from ``asked``."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        for sock in (server, client):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
            sock.setblocking(False)
        server.bind((bound, 0))
        udp.tell_destinations(server)
        client.connect((asked, server.getsockname()[1]))
        yield server, client


def received(client: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(client.recv(65535))
    return found


class Table:
    """What is said to which datagram; the others are misses."""

    def __init__(self, replies: dict[bytes, bytes]) -> None:
        self._replies = replies

    def reply(self, packet: bytes, *_: object) -> bytes | None:
        return self._replies.get(packet)


def drained(batch: Batch, replies: dict[bytes, bytes]) -> tuple[int, list[bytes]]:
    """Return how many were answered, and the packets that are left."""
    answered, left = batch.drain(Table(replies), 0.0, [], NOBODY)
    return answered, [packet for packet, *_ in left]


@pytest.mark.parametrize(("bound", "asked"), BOUND_AND_ASKED)
def test_each_is_answered_but_for_those_that_are_left(bound, asked):
    with sockets(bound, asked) as (server, client):
        batch = Batch(server)
        sent = [b"%d" % i * (1 + i % 7) for i in range(BATCH + 6)]
        for packet in sent:
            client.send(packet)
        known = {packet: b"to " + packet for i, packet in enumerate(sent) if i % 5}
        for part in (sent[:BATCH], sent[BATCH:], []):
            left = [packet for packet in part if packet not in known]
            assert (len(part) - len(left), left) == drained(batch, known)
            assert [known[packet] for packet in part if packet in known] == received(client)


def test_a_long_query_is_cut_and_a_long_reply_is_not():
    with sockets("0.0.0.0", "127.0.0.1") as (server, client):
        sent = [b"x" * octets for octets in (600, 512, 1, 0)]
        for packet in sent:
            client.send(packet)
        known = {packet: packet[:1] * message.MAX_UDP_OCTETS for packet in sent}
        assert (3, [b""]) == drained(Batch(server), {sent[1]: known[sent[1]], b"x": known[b"x"]})
        assert 3 * [b"x" * message.MAX_UDP_OCTETS] == received(client)


def test_what_cannot_be_sent_holds_up_nothing():
    with sockets("0.0.0.0", "127.0.0.1") as (server, client):
        sent = [b"%d" % i for i in range(5)]
        for packet in sent:
            client.send(packet)
        known = dict.fromkeys(sent[2:], b"x" * (message.MAX_UDP_OCTETS + 1))
        assert (4, [b"1"]) == drained(Batch(server), {b"0": b"0", **known, b"4": b"4"})
        assert [b"0", b"4"] == received(client)


@pytest.mark.skipif(native.compiled is None, reason="not compiled: apt-get install gcc python3-dev")
@pytest.mark.parametrize(("bound", "asked"), BOUND_AND_ASKED)
def test_a_query_is_left_as_c_leaves_it(bound, asked):
    assert native.compiled is not None
    with sockets(bound, asked) as (server, client):
        client.send(b"query")
        *_, in_c = native.compiled.drain(server.fileno(), AnswerTable().maps([]), 0.0)
        client.send(b"query")
        _, in_python = Batch(server).drain(Table({}), 0.0, [], NOBODY)
        assert in_c == in_python
        assert [(b"query", client.getsockname())] == [left[:2] for left in in_python]
