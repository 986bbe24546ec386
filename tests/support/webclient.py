"""A client of DNS over HTTPS: whole requests over HTTP/1.1 and HTTP/2, and frames as one likes them.

``Web`` keeps one connection, and opens another when the server has closed it. Its HTTP/1.1 is
written and read here, so that a request may be as wrong as a test wants it; HTTP/2 is h2's.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import certificates
import h2.config
import h2.connection
import h2.events
import h2.exceptions

HTTP1, HTTP2 = "http/1.1", "h2"
PATH = b"/dns-query"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 2, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Reply(NamedTuple):
    """An HTTP reply; ``status`` 0: the connection was closed, or the stream reset."""

    status: int
    headers: dict[str, str]
    body: bytes


class Request(NamedTuple):
    """An HTTP request."""

    method: bytes = b"GET"
    target: bytes = PATH
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


GONE = Reply(0, {}, b"")


def get(packet: bytes) -> Request:
    """Return the GET of a DNS message."""
    text = base64.urlsafe_b64encode(packet).rstrip(b"=")
    return Request(b"GET", PATH + b"?dns=" + text)


def post(packet: bytes) -> Request:
    """Return the POST of a DNS message."""
    return Request(b"POST", PATH, packet, ((b"content-type", b"application/dns-message"),))


@contextlib.contextmanager
def connect(port: int, authority: Path | None, version: str = HTTP2) -> Iterator[socket.socket]:
    """Yield a connection that has agreed on a version of HTTP; without ``authority`` no TLS."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        if authority is None:
            yield sock
            return
        context = certificates.client_context(authority)
        context.set_alpn_protocols([version])
        with context.wrap_socket(sock, server_hostname="dns.test") as secure:
            assert secure.selected_alpn_protocol() == version
            yield secure


def frame(sort: int, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return len(body).to_bytes(3, "big") + struct.pack("!BBI", sort, flags, stream) + body


def field(name: bytes, value: bytes) -> bytes:
    """Return a header field that no table remembers, as it is (RFC 7541 section 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    left, octets = len(text) - 127, bytearray([127])
    while left >= 128:
        octets.append(left % 128 | 128)
        left //= 128
    return bytes([*octets, left]) + text


def block(request: Request) -> bytes:
    """Return the header block of a request."""
    fields = [
        (b":method", request.method),
        (b":scheme", b"https"),
        (b":authority", b"dns.test"),
        (b":path", request.target),
        *request.headers,
    ]
    return b"".join(field(*each) for each in fields)


class Web:
    """One client; ``version`` is "h2" or "http/1.1"."""

    def __init__(self, port: int, authority: Path | None, version: str = HTTP2) -> None:
        self._port, self._authority, self._version = port, authority, version
        self._stack = contextlib.ExitStack()
        self._sock: socket.socket | None = None
        self._h2 = h2.connection.H2Connection()
        self._rest = b""

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._stack.close()
        self._sock = None

    def ask(self, request: Request) -> Reply:
        """Return the reply to a request."""
        return self.ask_all([request])[0]

    def ask_all(self, requests: list[Request]) -> list[Reply]:
        """Return the replies to requests, which are all sent before the first reply is read."""
        if self._sock is None:
            self._open()
        assert self._sock is not None
        talk = self._talk2 if self._version == HTTP2 else self._talk1
        try:
            found = talk(self._sock, requests)
        except (OSError, h2.exceptions.ProtocolError):
            found = [GONE] * len(requests)
        if any(each.status == 0 or each.headers.get("connection") == "close" for each in found):
            self.close()
        return found

    def _open(self) -> None:
        self._rest = b""
        self._sock = self._stack.enter_context(connect(self._port, self._authority, self._version))
        self._sock.settimeout(8)
        if self._version == HTTP2:
            config = h2.config.H2Configuration(
                header_encoding="latin-1", validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )  # fmt: skip
            self._h2 = h2.connection.H2Connection(config)
            self._h2.initiate_connection()
            self._sock.sendall(self._h2.data_to_send())

    # ---- HTTP/1.1

    def _talk1(self, sock: socket.socket, requests: list[Request]) -> list[Reply]:
        for each in requests:
            headers = [(b"host", b"dns.test"), *each.headers]
            if each.body:
                headers.append((b"content-length", b"%d" % len(each.body)))
            lines = [b"%s %s HTTP/1.1" % (each.method, each.target)]
            lines += [b"%s: %s" % pair for pair in headers]
            sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + each.body)
        return [self.read1(sock, is_head=each.method == b"HEAD") for each in requests]

    def read1(self, sock: socket.socket, is_head: bool = False) -> Reply:
        """Return the next reply on a connection of HTTP/1.1."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more(sock):
                return GONE
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = 0 if is_head else int(headers.get("content-length", 0))
        while len(self._rest) < size:
            if not self._more(sock):
                return GONE
        body, self._rest = self._rest[:size], self._rest[size:]
        status = int(first.split()[1])
        return self.read1(sock) if status == 100 else Reply(status, headers, body)

    def _more(self, sock: socket.socket) -> bool:
        octets = sock.recv(65536)
        self._rest += octets
        return bool(octets)

    # ---- HTTP/2

    def _talk2(self, sock: socket.socket, requests: list[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        streams = []
        for each in requests:
            stream = self._h2.get_next_available_stream_id()
            streams.append(stream)
            fields = [
                (":method", each.method), (":scheme", "https"), (":authority", "dns.test"),
                (":path", each.target), *each.headers,
            ]  # fmt: skip
            if each.body:
                fields.append(("content-length", str(len(each.body))))
            self._h2.send_headers(stream, fields, end_stream=not each.body)
            self._send_body(sock, stream, each.body)
        sock.sendall(self._h2.data_to_send())
        parts: dict[int, tuple[dict[str, str], bytearray]] = {}
        while len(replies) < len(streams):
            for event in self._events(sock):
                self._take(event, parts, replies)
            sock.sendall(self._h2.data_to_send())
        return [replies[stream] for stream in streams]

    def _send_body(self, sock: socket.socket, stream: int, body: bytes) -> None:
        while body:
            size = min(len(body), self._h2.local_flow_control_window(stream), 16384)
            if not size:
                sock.sendall(self._h2.data_to_send())
                self._events(sock)
                continue
            self._h2.send_data(stream, body[:size], end_stream=size == len(body))
            body = body[size:]

    def _events(self, sock: socket.socket) -> list[h2.events.Event]:
        """Return what has come. h2 takes nothing more behind a GOAWAY, whose requests go on."""
        octets = sock.recv(65536)
        if not octets:
            raise ConnectionResetError
        self._rest += octets
        frames = []
        while len(self._rest) >= 9:
            size = 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < size:
                break
            each, self._rest = self._rest[:size], self._rest[size:]
            if each[3] != GOAWAY or each[13:17] != bytes(4):  # an error
                frames.append(each)
        return self._h2.receive_data(b"".join(frames))

    def _take(
        self,
        event: h2.events.Event,
        parts: dict[int, tuple[dict[str, str], bytearray]],
        replies: dict[int, Reply],
    ) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=stream, headers=fields):
                parts[stream] = ({str(name): str(value) for name, value in fields}, bytearray())
            case h2.events.DataReceived(stream_id=stream, data=octets):
                parts[stream][1].extend(octets)
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
            case h2.events.StreamEnded(stream_id=stream):
                headers, body = parts[stream]
                replies[stream] = Reply(int(headers.pop(":status")), headers, bytes(body))
            case h2.events.StreamReset(stream_id=stream):
                replies.setdefault(stream, GONE)
            case h2.events.ConnectionTerminated():
                raise ConnectionResetError
