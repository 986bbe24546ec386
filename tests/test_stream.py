"""stream: framing, and what one client may cost the others."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

import dns.message
import peers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterdns import stream

COREFILE = ". {\n whoami\n}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with peers.clusterdns(COREFILE, Path(tmp_path_factory.mktemp("stream"))) as running:
        yield running


def query(ident: int = 1) -> bytes:
    message = dns.message.make_query("example.org.", "A")
    message.id = ident
    return message.to_wire()


def alive(server: peers.Server) -> bool:
    return peers.ask_udp(server.address, query()) is not None


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_out_whole_however_they_are_cut(messages, size):
    octets = b"".join(stream.frame(message) for message in messages)
    buffer, found = bytearray(), []
    for i in range(0, len(octets), size):
        buffer += octets[i : i + size]
        while (message := stream.take(buffer)) is not None:
            found.append(message)
    assert messages == found
    assert not buffer


def test_pipelined_queries_are_all_answered(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"".join(stream.frame(query(i)) for i in range(500)))
        replies = [peers.read_frame(sock) for _ in range(500)]
    assert set(range(500)) == {struct.unpack("!H", reply[:2])[0] for reply in replies}


def test_octet_by_octet(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in stream.frame(query(9)):
            sock.send(bytes((octet,)))
        assert peers.read_frame(sock)[:2] == b"\0\x09"


def test_a_half_closed_client_gets_its_replies(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(stream.frame(query(1)) + stream.frame(query(2)) + b"\0")
        sock.shutdown(socket.SHUT_WR)
        assert {b"\0\x01", b"\0\x02"} == {peers.read_frame(sock)[:2] for _ in range(2)}
        assert sock.recv(1) == b""


def test_a_client_that_says_nothing_is_closed(server):
    with socket.create_connection(server.address, stream.FIRST_TIMEOUT_S + 3) as sock:
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        assert stream.FIRST_TIMEOUT_S - 0.5 <= time.monotonic() - began


def test_half_a_query_does_not_hold_a_connection(server):
    with socket.create_connection(server.address, stream.FIRST_TIMEOUT_S + 3) as sock:
        sock.sendall(b"\0\x40abc")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_short_messages_are_ignored(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.sendall(stream.frame(b"abc") + stream.frame(b"") + stream.frame(query(5)))
        assert peers.read_frame(sock)[:2] == b"\0\x05"


def test_a_client_that_does_not_read_stops_being_read(server):
    with socket.create_connection(server.address, 5) as sock:
        sock.setblocking(False)
        octets = b"".join(stream.frame(query(i)) for i in range(100))
        sent, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                sent += sock.send(octets)
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < 64 * 2**20  # the sockets' buffers and one of ours, not what it likes
        assert alive(server)


def test_too_many_connections_cost_the_quietest(server):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(server.address, 5))
        for _ in range(stream.MAX_CONNECTIONS + 10):
            stack.enter_context(socket.create_connection(server.address, 5))
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(1) == b""
        assert alive(server)
        assert peers.ask_tcp(server.address, query(3))[:2] == b"\0\x03"
