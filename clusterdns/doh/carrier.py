"""DNS messages in HTTP requests and replies (RFC 8484 section 4).

``query_of`` is the only reader of requests: method, path, parameter, length; the gate of all
transports (wire/reading.py) reads the query. ``fresh_s`` returns how long HTTP caches may keep a
reply. (CoreDNS: plugin/pkg/doh, core/dnsserver/server_https.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import re
import struct
import urllib.parse
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from clusterdns.errors import FormError
from clusterdns.wire import message, rr

PATH = "/dns-query"
MIME_TYPE = "application/dns-message"
OK, BAD_REQUEST, NOT_FOUND, INTERNAL_ERROR = 200, 400, 404, 500
AGAIN = -1
# An HTTP request line or header block may be as long as in Apache and nginx; a query of 6,000
# octets fits into a URL. Longer ones need POST.
MAX_HEADER_OCTETS = 8192
# The credit of a client for frames of HTTP/2, or parts of a body, without a whole request. Each
# request adds some. A client needs a few frames for each reply; floods of PING, SETTINGS,
# CONTINUATION, RST_STREAM or empty DATA exceed it (CVE-2019-9512 and others, CVE-2023-44487,
# CVE-2024-27316).
FIRST_FRAMES, FRAMES_A_REQUEST, MOST_FRAMES = 1024, 64, 4096
# The longest time a reply is kept, and the time of failures (CoreDNS: plugin/pkg/dnsutil/ttl.go).
MOST_FRESH_S, LEAST_FRESH_S = 3600, 5
_TEXTS = {BAD_REQUEST: b"invalid request\n", NOT_FOUND: b"\n", INTERNAL_ERROR: b"No response\n"}
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")  # a percent sign without an escape
_BASE64 = re.compile(r"[A-Za-z0-9_-]*")
_LINE_ENDS = str.maketrans("", "", "\r\n")
_SIGN = 1 << 31  # in serial number arithmetic (RFC 1982)
_RR_HEAD = struct.Struct("!HHIH")

Headers = list[tuple[bytes, bytes]]


class Request(NamedTuple):
    """A complete HTTP request; ``body`` is None if it is longer than any message."""

    number: int  # of its stream; a connection of HTTP/1.1 has one at a time
    method: bytes
    target: bytes
    body: bytes | None


class Answer(NamedTuple):
    """An HTTP reply; ``headers`` are those common to all versions of HTTP."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers | None = None  # with them a reply ends; HTTP/2 alone


class Session(Protocol):
    """The server's half of an HTTP connection: octets in, requests out; replies in, octets out."""

    requests: deque[Request]  # complete, in the order of their ends

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read."""

    def receive(self, octets: bytes) -> None:
        """Add received octets."""

    def step(self) -> bool:
        """Do a bounded piece of work; tell whether there was one."""

    def reply(self, number: int, answer: Answer) -> None:
        """Answer a request, unless its client has canceled it."""

    def output(self) -> bytes:
        """Return octets to send, each once."""

    def finish(self) -> None:
        """Tell the client that no further request is accepted."""

    @property
    def held(self) -> int:
        """Octets held for the client: parts of requests, and unsent replies."""


class Delivery(NamedTuple):
    """The reply to a request of ours; its ``body`` is None if it is too long.

    The status is 0 if there is none, and ``AGAIN`` if the server has not looked at the request.
    """

    number: int
    status: int
    body: bytes | None
    code: bytes = b""  # of gRPC: its status and text
    text: bytes = b""


class ClientSession(Protocol):
    """The client's half of an HTTP connection: requests in, octets out; octets in, replies out."""

    deliveries: deque[Delivery]

    @property
    def room(self) -> int:
        """The number of further requests allowed now; 0 for good if the server is leaving."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read."""

    def ask(self, query: Asked) -> int:
        """Send a request; return its number."""

    def cancel(self, number: int) -> None:
        """Take a request back."""

    def receive(self, octets: bytes) -> None:
        """Take what has come; nothing is the end."""

    def step(self) -> bool:
        """Do a bounded piece of work; tell whether there was one."""

    def output(self) -> bytes:
        """Return octets to send, each once."""


class Asked(NamedTuple):
    """A request of ours."""

    method: bytes
    authority: bytes
    target: bytes
    headers: Headers
    body: bytes
    scheme: bytes = b"https"


class NoQueryError(Exception):
    """A request without a DNS message; ``status`` is that of its reply."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Credit:
    """The number of frames a client may still send before a complete request."""

    def __init__(self) -> None:
        self._left = FIRST_FRAMES

    def spend(self) -> bool:
        """Count one frame or part of a body; tell whether it was one too many."""
        self._left -= 1
        return self._left < 0

    def earn(self) -> None:
        """Count a complete request."""
        self._left = min(self._left + FRAMES_A_REQUEST, MOST_FRAMES)


def query_of(request: Request) -> bytes:
    """Return the DNS message of a request; its content type is ignored, as in CoreDNS.

    Raises:
        NoQueryError: it has none.
    """
    path, query = _split(request.target)
    if path != PATH:
        raise NoQueryError(NOT_FOUND)
    if request.method == b"POST" and request.body is not None:
        return request.body
    if request.method != b"GET":
        raise NoQueryError(BAD_REQUEST)
    found = [value for name, value in _parameters(query) if name == "dns"]
    if len(found) != 1:
        raise NoQueryError(BAD_REQUEST)
    packet = decoded(found[0])
    if packet is None or len(packet) > message.MAX_OCTETS:
        raise NoQueryError(BAD_REQUEST)
    return packet


def decoded(text: str) -> bytes | None:
    """Return the octets of base64url text without padding (RFC 8484 section 6), None if invalid.

    Line ends and spare bits at the end are ignored, as in Go.
    """
    text = text.translate(_LINE_ENDS)
    if not _BASE64.fullmatch(text) or len(text) % 4 == 1:
        return None
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(packet: bytes) -> bytes:
    """Return octets as base64url text without padding."""
    return base64.urlsafe_b64encode(packet).rstrip(b"=")


def request_for(packet: bytes, method: str, authority: str) -> Asked:
    """Return the request that carries a query of ours (RFC 8484 section 4.1)."""
    headers = [(b"accept", MIME_TYPE.encode())]
    if method == "GET":
        target = PATH.encode() + b"?dns=" + encoded(packet)
        return Asked(b"GET", authority.encode(), target, headers, b"")
    headers.append((b"content-type", MIME_TYPE.encode()))
    headers.append((b"content-length", b"%d" % len(packet)))
    return Asked(b"POST", authority.encode(), PATH.encode(), headers, packet)


def answer_with(reply: bytes, now: float) -> Answer:
    """Return the HTTP reply with a DNS message; ``now`` is Unix time."""
    headers = [
        (b"content-type", MIME_TYPE.encode()),
        (b"cache-control", b"max-age=%d" % fresh_s(reply, now)),
        (b"content-length", b"%d" % len(reply)),
        (b"date", _date(int(now))),
    ]
    return Answer(OK, headers, reply)


def refusal(status: int, now: float, method: bytes = b"GET") -> Answer:
    """Return the HTTP reply to a request without a DNS message."""
    text = _TEXTS[status]
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"%d" % len(text)),
        (b"date", _date(int(now))),
    ]
    return Answer(status, headers, b"" if method == b"HEAD" else text)


@functools.lru_cache(maxsize=1)
def _date(now: int) -> bytes:
    return email.utils.formatdate(now, usegmt=True).encode()


def fresh_s(reply: bytes, now: float) -> int:
    """Return the seconds a reply of ours is fresh: the least TTL (RFC 8484 section 5.1).

    A reply that is neither an answer nor a denial, or with signatures not valid ``now`` for a
    client with DO, is fresh for a few seconds. (CoreDNS: plugin/pkg/response/typify.go)
    """
    try:
        return _fresh_s(reply, now)
    except (FormError, struct.error, IndexError):
        return LEAST_FRESH_S  # an unreadable reply is passed on unchanged


def _fresh_s(reply: bytes, now: float) -> int:
    _, flags, _, answers, authorities, additionals = message.HEADER.unpack_from(reply)
    offset, qtype = _skip_question(reply)
    if flags & message.OPCODE_MASK or qtype in (rr.AXFR, rr.IXFR):
        return LEAST_FRESH_S
    least, in_authority, is_old, knows_signatures = MOST_FRESH_S, set[int](), False, False
    counts = answers + authorities + additionals
    for i, (rtype, ttl, rdata) in enumerate(_records(reply, offset, counts)):
        if rtype == rr.OPT:
            knows_signatures = ttl & message.EDNS_DO != 0
            counts -= 1
            continue
        least = min(least, ttl)
        is_old |= rtype == rr.RRSIG and not _holds(rdata, now)
        if answers <= i < answers + authorities:
            in_authority.add(rtype)
    is_decided = _is_decided(flags & 15, answers, in_authority)
    if not is_decided or counts == 0 or (is_old and knows_signatures):
        return LEAST_FRESH_S
    return least


def _is_decided(rcode: int, answers: int, in_authority: set[int]) -> bool:
    """Tell whether a reply is an answer or a denial, not a failure or a referral."""
    if rcode == rr.NXDOMAIN:
        return not answers
    is_referral = not answers and rr.NS in in_authority and rr.SOA not in in_authority
    return rcode == rr.NOERROR and not is_referral


def _skip_question(reply: bytes) -> tuple[int, int]:
    """Return the offset of the records, and the type of the question."""
    if not int.from_bytes(reply[4:6], "big"):
        return message.HEADER_OCTETS, 0
    end = _skip_name(reply, message.HEADER_OCTETS)
    return end + 4, int.from_bytes(reply[end : end + 2], "big")


def _records(reply: bytes, offset: int, count: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, TTL and RDATA of each record."""
    for _ in range(count):
        offset = _skip_name(reply, offset)
        rtype, _, ttl, length = _RR_HEAD.unpack_from(reply, offset)
        start = offset + _RR_HEAD.size
        offset = start + length
        yield rtype, ttl, reply[start:offset]


def _skip_name(reply: bytes, offset: int) -> int:
    while True:
        length = reply[offset]
        if length == 0:
            return offset + 1
        if length >= 0xC0:
            return offset + 2
        offset += 1 + length


def _holds(rdata: bytes, now: float) -> bool:
    """Tell whether a signature is within its validity period (RFC 4034 section 3.1.5)."""
    expiration, inception = struct.unpack_from("!II", rdata, 8)
    since, left = int(now) - inception, expiration - int(now)
    return not (since & _SIGN or left & _SIGN)


def _split(target: bytes) -> tuple[str, str]:
    """Return the path of a request target, decoded, and its query; no path is "" (RFC 9112 3.2)."""
    text = target.decode("latin-1")
    if not text.startswith("/"):  # the absolute form, sent to proxies
        scheme, mark, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        text = slash + path if mark and scheme.lower() in ("http", "https") and authority else ""
    path, _, query = text.partition("?")
    return ("" if _ESCAPE.search(path) else urllib.parse.unquote(path)), query


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    """Yield names and values; pairs that Go's net/url rejects are skipped."""
    for pair in query.split("&"):
        if pair and ";" not in pair and not _ESCAPE.search(pair):
            name, _, value = pair.partition("=")
            yield urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value)
