"""HTTP/1.1 (RFC 9112), by the package h11: the server's half of a connection, and the client's.

Requests are answered one after the other; later ones wait. A step takes one event of h11: the head
of a request, a part of its body, its end. Parts of a body use credit, as the frames of HTTP/2 do. A
malformed request is answered with h11's status, and is the last one.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import deque
from http import HTTPStatus

import h11

from clusterdns.doh.carrier import MAX_HEADER_OCTETS, Answer, Asked, Credit, Delivery, Request
from clusterdns.wire.message import MAX_OCTETS

_CLOSE = (b"connection", b"close")


class Server:
    """The server's half of a connection: a ``carrier.Session``."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.is_over = False
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_OCTETS)
        self._credit = Credit()
        self._head: h11.Request | None = None
        self._body: bytearray | None = bytearray()  # None: longer than any message
        self._is_asked = False  # a request waits for its reply
        self._is_last = False
        self._output: list[bytes] = []

    @property
    def held(self) -> int:
        """Octets received of requests not answered yet."""
        return len(self._h11.trailing_data[0]) + len(self._body or b"")

    def receive(self, octets: bytes) -> None:
        """Take what has come."""
        if not self.is_over:
            self._h11.receive_data(octets)

    def step(self) -> bool:
        """Take one event; tell whether there was one."""
        if self.is_over or self._is_asked:
            return False
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)
            return False
        if event is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            return False
        if self._credit.spend():
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
            return False
        match event:
            case h11.Request():
                self._head = event
            case h11.Data(data=data):
                self._take(data)
            case h11.EndOfMessage() if self._head is not None:
                self._end(self._head)
            case _:  # the client has closed, or wants to switch protocols
                self.is_over = True
        return True

    def reply(self, number: int, answer: Answer) -> None:
        """Answer the present request."""
        if not self._is_asked or self.is_over:
            return
        self._is_asked = False
        self._answer(answer)
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self.is_over = True

    def output(self) -> bytes:
        """Return octets to send."""
        octets = b"".join(self._output)
        self._output.clear()
        return octets

    def finish(self) -> None:
        """Mark the next reply as the last one."""
        self._is_last = True

    def _take(self, data: bytes) -> None:
        if self._body is None or len(self._body) + len(data) > MAX_OCTETS:
            self._body = None
        else:
            self._body += data

    def _end(self, head: h11.Request) -> None:
        self._credit.earn()
        body = None if self._body is None else bytes(self._body)
        self._head, self._body, self._is_asked = None, bytearray(), True
        self.requests.append(Request(0, head.method, head.target, body))

    def _answer(self, answer: Answer) -> None:
        headers = [*answer.headers, _CLOSE] if self._is_last else answer.headers
        reason = HTTPStatus(answer.status).phrase.encode()
        self._send(h11.Response(status_code=answer.status, headers=headers, reason=reason))
        if answer.body:
            self._send(h11.Data(data=answer.body))
        self._send(h11.EndOfMessage())

    def _refuse(self, status: int) -> None:
        """Answer invalid or too long HTTP with ``status``, and read no more."""
        self.is_over = self._is_last = True
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"{status} {HTTPStatus(status).phrase}".encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(text)),
            ]
            self._answer(Answer(status, headers, text))

    def _send(self, event: h11.Event) -> None:
        self._output.append(self._h11.send(event) or b"")


class Client:
    """The client's half of a connection: a ``carrier.ClientSession``."""

    def __init__(self) -> None:
        self.deliveries: deque[Delivery] = deque()
        self.is_over = False
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_OCTETS)
        self._credit = Credit()
        self._number = 0
        self._is_asked = False
        self._status = 0
        self._body: bytearray | None = bytearray()
        self._output: list[bytes] = []

    @property
    def room(self) -> int:
        """How many more requests may be under way now."""
        return 0 if self._is_asked or self.is_over else 1

    def ask(self, query: Asked) -> int:
        """Send a request; return its number."""
        self._number += 1
        self._is_asked, self._status, self._body = True, 0, bytearray()
        headers = [(b"host", query.authority), *query.headers]
        for event in (
            h11.Request(method=query.method, target=query.target, headers=headers),
            *([h11.Data(data=query.body)] if query.body else []),
            h11.EndOfMessage(),
        ):
            self._output.append(self._h11.send(event) or b"")
        return self._number

    def cancel(self, number: int) -> None:
        """Take a request back, which is the end of the connection."""
        if self._is_asked and number == self._number:
            self._is_asked, self.is_over = False, True

    def receive(self, octets: bytes) -> None:
        """Take what has come."""
        if not self.is_over:
            self._h11.receive_data(octets)

    def step(self) -> bool:
        """Take one event; tell whether there was one."""
        if self.is_over:
            return False
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError:
            self._fail()
            return False
        if event in (h11.NEED_DATA, h11.PAUSED):
            return False
        if self._credit.spend():
            self._fail()
            return False
        match event:
            case h11.Response(status_code=status):
                self._status = status
            case h11.InformationalResponse():
                pass
            case h11.Data(data=data):
                self._take(data)
            case h11.EndOfMessage():
                self._end()
            case _:  # the server has closed
                self._fail()
        return True

    def output(self) -> bytes:
        """Return octets to send."""
        octets = b"".join(self._output)
        self._output.clear()
        return octets

    def _take(self, data: bytes) -> None:
        if self._body is None or len(self._body) + len(data) > MAX_OCTETS:
            self._body = None
        else:
            self._body += data

    def _end(self) -> None:
        self._credit.earn()
        self._is_asked = False
        body = None if self._body is None else bytes(self._body)
        self.deliveries.append(Delivery(self._number, self._status, body))
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self.is_over = True

    def _fail(self) -> None:
        self.is_over = True
        if self._is_asked:
            self._is_asked = False
            self.deliveries.append(Delivery(self._number, 0, None))
