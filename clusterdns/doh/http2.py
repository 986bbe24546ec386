"""HTTP/2 (RFC 9113), by the package h2: the server's half of a connection, and the client's.

h2 gets one frame at a time, so a step is a bounded piece of work, and each frame is checked before:
header blocks are bounded as they arrive, not when complete, and frames outside requests use credit
(carrier.Credit). Replies that wait for flow control, and partial requests, count in ``held``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import DenialOfServiceError, ProtocolError
from h2.settings import SettingCodes, Settings

from clusterdns.doh.carrier import (
    AGAIN,
    MAX_HEADER_OCTETS,
    Answer,
    Asked,
    Credit,
    Delivery,
    Headers,
    Request,
)
from clusterdns.doh.fields import Encoder, is_calm
from clusterdns.wire.message import MAX_OCTETS

MOST_ASKED = 100  # requests of ours under way on one connection (RFC 9113 section 6.5.2)
STREAM_OCTETS = 2048  # approximate memory of a stream
_MAX_LIST_OCTETS = 2 * MAX_HEADER_OCTETS  # of headers, with 32 for each (RFC 9113 section 6.5.2)
_PREFACE_OCTETS = 24  # at the start of a client's octets (section 3.4)
_FRAME_HEAD = 9
_MAX_FRAME_OCTETS = 16_384
_HEADERS, _SETTINGS, _GOAWAY, _CONTINUATION = 1, 4, 7, 9
_END_HEADERS = 4
_SETTING = struct.Struct("!HI")
_KNOWN = frozenset(SettingCodes)
_TABLE_OCTETS = 4096  # of the header table of both sides (RFC 7541)
_LAST_STREAM = 2**31 - 1


class _Connection(H2Connection):
    """h2's connection with bounds; all header fields it sends are ours."""

    MAX_CLOSED_STREAMS = 1024  # kept for late frames; 65,536 take 10 MB

    def __init__(self, *, is_client: bool, most_streams: int) -> None:
        config = H2Configuration(
            client_side=is_client,
            header_encoding=None,
            # Of what is received two fields are read, and nothing is passed on, so `_Incoming`
            # validates those alone: h2's checks of all of them cost 18 of 108 µs a query.
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(config)
        settings = {SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_LIST_OCTETS}
        if is_client:
            settings[SettingCodes.ENABLE_PUSH] = 0
        else:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = most_streams
        self.local_settings = Settings(client=is_client, initial_values=settings)
        self.decoder.max_header_list_size = _MAX_LIST_OCTETS
        decode = self.decoder.decode
        self.decoder.decode = functools.partial(_decode, decode)  # type: ignore[method-assign]
        self.encoder = Encoder()  # type: ignore[assignment]
        self.initiate_connection()

    def room(self, stream: int) -> int:
        """Return the number of octets of a body that may be sent in one frame now."""
        return min(self.local_flow_control_window(stream), self.max_outbound_frame_size)


def _decode(decode: Callable[..., Iterable[Any]], block: bytes, raw: bool) -> Iterable[Any]:
    """Decode a header block unless that takes too long."""
    if not is_calm(block):
        raise DenialOfServiceError("more than two updates of the header table's size")
    return decode(block, raw)


class _Frames:
    """Octets of the other side, split into frames and bounded before h2 gets them.

    GOAWAY is not passed to h2, which would answer nothing after it.
    """

    def __init__(
        self,
        connection: _Connection,
        has_preface: bool,
        leave: Callable[[int], None] = lambda last_stream: None,
    ) -> None:
        self._h2 = connection
        self._preface = _PREFACE_OCTETS if has_preface else 0
        self._leave = leave
        self._rest = bytearray()
        self._block = 0  # octets of a partial header block
        self.credit = Credit()
        self.is_over = False

    @property
    def held(self) -> int:
        return len(self._rest) + self._block

    def add(self, octets: bytes) -> None:
        if not self.is_over:
            self._rest += octets

    def next_events(self) -> list[Event] | None:
        """Return the events of the next complete frame, None if there is none."""
        frame = b"" if self.is_over else self._take()
        if not frame:
            return None
        if frame[3] == _GOAWAY and len(frame) >= _FRAME_HEAD + 8:
            self._leave(int.from_bytes(frame[_FRAME_HEAD : _FRAME_HEAD + 4], "big") & _LAST_STREAM)
            return []
        if frame[3] == _SETTINGS:
            frame = _known_settings(frame)
        try:
            return self._h2.receive_data(frame)
        except ProtocolError:  # h2 has sent the reason
            self._end()
            return None

    def refuse(self, code: ErrorCodes) -> None:
        """Read no more, and send the reason."""
        self._h2.close_connection(code)
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self._rest.clear()
        self._block = 0

    def _take(self) -> bytes:
        """Return the next frame, or the preface of the connection; b"" if incomplete."""
        rest = self._rest
        if self._preface:
            if len(rest) < self._preface:
                return b""
            size, self._preface = self._preface, 0
        else:
            if len(rest) < _FRAME_HEAD:
                return b""
            length, sort = rest[0] << 16 | rest[1] << 8 | rest[2], rest[3]
            is_header = sort in (_HEADERS, _CONTINUATION)
            block = self._block + length if is_header else self._block
            if length > _MAX_FRAME_OCTETS:
                self.refuse(ErrorCodes.FRAME_SIZE_ERROR)
                return b""
            size = _FRAME_HEAD + length
            if block > MAX_HEADER_OCTETS or (len(rest) >= size and self.credit.spend()):
                self.refuse(ErrorCodes.ENHANCE_YOUR_CALM)
                return b""
            if len(rest) < size:
                return b""
            self._block = 0 if is_header and rest[4] & _END_HEADERS else block
        frame = bytes(rest[:size])
        del rest[:size]
        return frame


def _known_settings(frame: bytes) -> bytes:
    """Return a SETTINGS frame with the settings that h2 needs.

    h2 would also keep unknown settings, half a kilobyte each; and a larger header table than the
    default, which is optional, makes each reply slower.
    """
    body = frame[_FRAME_HEAD:]
    if len(body) % _SETTING.size:
        return frame  # h2 reports the error
    kept = [
        _SETTING.pack(name, value)
        for name, value in _SETTING.iter_unpack(body)
        if name in _KNOWN and (name != SettingCodes.HEADER_TABLE_SIZE or value <= _TABLE_OCTETS)
    ]
    length = len(kept) * _SETTING.size
    return length.to_bytes(3, "big") + frame[3:_FRAME_HEAD] + b"".join(kept)


class _Bodies:
    """Bodies sent as flow control allows."""

    def __init__(self, connection: _Connection) -> None:
        self._h2 = connection
        self._unsent: dict[int, memoryview] = {}
        self._trailers: dict[int, Headers] = {}  # sent behind a body
        self._ready: deque[int] = deque()  # streams that may have room
        self.octets = 0

    def __contains__(self, stream: int) -> bool:
        return stream in self._unsent

    def send(self, stream: int, body: bytes, trailers: Headers | None = None) -> bool:
        """Send a body as far as allowed, and keep the rest; tell whether all is sent."""
        if trailers:
            self._trailers[stream] = trailers
        return self._send(stream, memoryview(body))

    def room_for(self, stream: int) -> None:
        """Note that there is more room, on all streams if ``stream`` is 0."""
        if stream:
            self._ready += [stream] if stream in self._unsent else []
        else:
            self._ready = deque(self._unsent)

    def go_on(self) -> int | None:
        """Send more of one body; return its stream, None if nothing can be sent."""
        while self._ready:
            stream = self._ready.popleft()
            body = self._take(stream)
            if body is not None:
                self._send(stream, body)
                return stream
        return None

    def drop(self, stream: int) -> memoryview | None:
        """Forget a body, if there is one; return its unsent part."""
        self._trailers.pop(stream, None)
        return self._take(stream)

    def _take(self, stream: int) -> memoryview | None:
        body = self._unsent.pop(stream, None)
        self.octets -= len(body or b"")
        return body

    def _send(self, stream: int, body: memoryview) -> bool:
        while body:
            size = min(len(body), self._h2.room(stream))
            if size <= 0:
                self._unsent[stream] = body
                self.octets += len(body)
                return False
            is_last = size == len(body) and stream not in self._trailers
            self._h2.send_data(stream, bytes(body[:size]), end_stream=is_last)
            body = body[size:]
        trailers = self._trailers.pop(stream, None)
        if trailers:
            self._h2.send_headers(stream, trailers, end_stream=True)
        return True


class _Incoming:
    """A partial request or reply."""

    __slots__ = ("_most", "body", "code", "subject", "target", "text")

    def __init__(self, headers: Headers, most: int) -> None:
        self._most = most  # octets of the body
        self.subject = self.target = b""  # the method, or the status; empty if given twice
        self.code = self.text = b""
        self.end(headers)
        for name, value in headers:
            if name in (b":method", b":status"):
                self.subject = b"" if self.subject else value
            elif name == b":path":
                self.target = b"" if self.target else value
        self.body: bytearray | None = bytearray()  # None: longer than any message

    def end(self, trailers: Headers) -> None:
        """Take the result of a call of gRPC, which may be in the headers."""
        for name, value in trailers:
            if name == b"grpc-status":
                self.code = value
            elif name == b"grpc-message":
                self.text = value

    def add(self, octets: bytes) -> int:
        """Take a part of the body; return by how many octets it is longer now."""
        if self.body is None:
            return 0
        if len(self.body) + len(octets) > self._most:
            size, self.body = len(self.body), None
            return -size
        self.body += octets
        return len(octets)


class Server:
    """The server's half of a connection: a ``carrier.Session``."""

    def __init__(self, most_streams: int, most_octets: int = MAX_OCTETS) -> None:
        self._most_octets = most_octets  # of a body
        self.requests: deque[Request] = deque()
        self._h2 = _Connection(is_client=False, most_streams=most_streams)
        self._frames = _Frames(self._h2, has_preface=True)
        self._bodies = _Bodies(self._h2)
        self._incoming: dict[int, _Incoming] = {}  # partial requests
        self._asked: set[int] = set()  # requests waiting for a reply
        self._incoming_octets = 0
        self._last = 0  # the highest stream seen
        self._goodbye = b""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read."""
        return self._frames.is_over

    @property
    def held(self) -> int:
        """Octets held for the client, and the memory of its streams."""
        streams = len(self._h2.streams) * STREAM_OCTETS
        return self._frames.held + self._incoming_octets + self._bodies.octets + streams

    def receive(self, octets: bytes) -> None:
        """Take what has come."""
        self._frames.add(octets)

    def step(self) -> bool:
        """Send more of one reply, or take one frame; tell whether there was one."""
        if not self.is_over and self._bodies.go_on() is not None:
            return True
        events = self._frames.next_events()
        for event in events or ():
            self._take(event)
        return events is not None

    def reply(self, number: int, answer: Answer) -> None:
        """Answer a request, unless its client has canceled it."""
        if number not in self._asked or self.is_over:
            return
        self._asked.discard(number)
        headers = [(b":status", b"%d" % answer.status), *answer.headers]
        self._h2.send_headers(number, headers, end_stream=not answer.body)
        self._bodies.send(number, answer.body, answer.trailers)

    def output(self) -> bytes:
        """Return octets to send."""
        goodbye, self._goodbye = self._goodbye, b""
        return self._h2.data_to_send() + goodbye

    def finish(self) -> None:
        """Tell the client to send further requests elsewhere (section 6.8)."""
        self._goodbye = struct.pack("!IBIII", 8 << 8 | _GOAWAY, 0, 0, self._last, 0)

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream), headers=headers):
                self._last = max(self._last, stream)
                self._incoming[stream] = _Incoming(headers, self._most_octets)
            case DataReceived(stream_id=int(stream)):
                self._take_body(stream, event)
            case StreamEnded(stream_id=int(stream)):
                self._end(stream)
            case StreamReset(stream_id=int(stream)):
                self._forget(stream)
                self._asked.discard(stream)
                self._bodies.drop(stream)
            case WindowUpdated(stream_id=stream):
                self._bodies.room_for(stream or 0)
            case RemoteSettingsChanged():
                self._bodies.room_for(0)

    def _take_body(self, stream: int, event: DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        incoming = self._incoming.get(stream)
        if incoming is not None:
            self._incoming_octets += incoming.add(event.data or b"")

    def _end(self, stream: int) -> None:
        incoming = self._forget(stream)
        if incoming is None:
            return
        self._frames.credit.earn()
        self._asked.add(stream)
        body = None if incoming.body is None else bytes(incoming.body)
        self.requests.append(Request(stream, incoming.subject, incoming.target, body))

    def _forget(self, stream: int) -> _Incoming | None:
        incoming = self._incoming.pop(stream, None)
        if incoming is not None:
            self._incoming_octets -= len(incoming.body or b"")
        return incoming


class Client:
    """The client's half of a connection: a ``carrier.ClientSession``."""

    def __init__(self, most_octets: int = MAX_OCTETS) -> None:
        self._most_octets = most_octets  # of a body
        self.deliveries: deque[Delivery] = deque()
        self._h2 = _Connection(is_client=True, most_streams=0)
        self._frames = _Frames(self._h2, has_preface=False, leave=self._leave)
        self._bodies = _Bodies(self._h2)
        self._incoming: dict[int, _Incoming | None] = {}  # None: nothing of the reply has come
        self._is_left = False

    @property
    def room(self) -> int:
        """How many more requests may be under way now."""
        if self._is_left or self.is_over or self._h2.highest_outbound_stream_id > _LAST_STREAM - 9:
            return 0
        most = min(self._h2.remote_settings.max_concurrent_streams, MOST_ASKED)
        return max(0, most - len(self._incoming))

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read."""
        return self._frames.is_over

    def ask(self, query: Asked) -> int:
        """Send a request; return the number of its stream."""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (b":method", query.method),
            (b":scheme", query.scheme),
            (b":authority", query.authority),
            (b":path", query.target),
            *query.headers,
        ]
        self._h2.send_headers(stream, headers, end_stream=not query.body)
        self._bodies.send(stream, query.body)
        self._incoming[stream] = None
        return stream

    def cancel(self, number: int) -> None:
        """Take a request back."""
        if number in self._incoming and not self.is_over:
            self._drop(number)
            self._h2.reset_stream(number, ErrorCodes.CANCEL)

    def receive(self, octets: bytes) -> None:
        """Take what has come."""
        self._frames.add(octets)
        if not octets:
            self._frames.refuse(ErrorCodes.NO_ERROR)

    def step(self) -> bool:
        """Send more of one request, or take one frame; tell whether there was one."""
        if not self.is_over and self._bodies.go_on() is not None:
            return True
        events = self._frames.next_events()
        for event in events or ():
            self._take(event)
        if self.is_over:
            self._give_up(0)
        return events is not None

    def output(self) -> bytes:
        """Return octets to send."""
        return self._h2.data_to_send()

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=int(stream), headers=headers):
                if stream in self._incoming:
                    self._incoming[stream] = _Incoming(headers, self._most_octets)
            case DataReceived(stream_id=int(stream)):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                incoming = self._incoming.get(stream)
                if incoming is not None:
                    incoming.add(event.data or b"")
            case TrailersReceived(stream_id=int(stream), headers=headers):
                incoming = self._incoming.get(stream)
                if incoming is not None:
                    incoming.end(headers)
            case StreamEnded(stream_id=int(stream)):
                self._end(stream)
            case StreamReset(stream_id=int(stream)):
                if stream in self._incoming:
                    is_unseen = event.error_code == ErrorCodes.REFUSED_STREAM
                    self._fail(stream, AGAIN if is_unseen else 0)
            case WindowUpdated(stream_id=stream):
                self._bodies.room_for(stream or 0)
            case RemoteSettingsChanged():
                self._bodies.room_for(0)

    def _end(self, stream: int) -> None:
        incoming = self._incoming.get(stream)
        if incoming is None:
            return
        self._frames.credit.earn()
        self._drop(stream)
        status = int(incoming.subject) if incoming.subject.isdigit() else 0
        body = None if incoming.body is None else bytes(incoming.body)
        self.deliveries.append(Delivery(stream, status, body, incoming.code, incoming.text))

    def _leave(self, last_stream: int) -> None:
        """Take in that the server takes no further requests, and has not seen the last ones."""
        self._is_left = True
        for stream in [each for each in self._incoming if each > last_stream]:
            self._fail(stream, AGAIN)

    def _give_up(self, status: int) -> None:
        for stream in [*self._incoming]:
            self._fail(stream, status)

    def _fail(self, stream: int, status: int) -> None:
        self._drop(stream)
        self.deliveries.append(Delivery(stream, status, None))

    def _drop(self, stream: int) -> None:
        self._incoming.pop(stream, None)
        self._bodies.drop(stream)
