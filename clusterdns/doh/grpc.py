"""DNS messages in gRPC, over HTTP/2: the service ``coredns.dns.DnsService`` with its ``Query``.

A message of gRPC is an octet that says whether it is compressed, its length, and a DnsPacket of
protobuf: ``message DnsPacket { bytes msg = 1; }``. The result of a call is in the trailers.
(CoreDNS: pb/dns.proto, core/dnsserver/server_grpc.go; gRPC over HTTP2, of grpc.io)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
import urllib.parse
from collections.abc import Iterator
from typing import Final

from clusterdns.doh.carrier import Answer, Asked, Delivery, Headers, Request
from clusterdns.errors import FormError
from clusterdns.wire.message import MAX_OCTETS

PATH: Final = b"/coredns.dns.DnsService/Query"
OK: Final = 0
UNKNOWN: Final = 2
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
MOST_OCTETS: Final = MAX_OCTETS + 9  # of a body: the longest message, wrapped
_HEAD: Final = struct.Struct("!BI")  # of a message: compressed or not, octets
_TYPE: Final = (b"content-type", b"application/grpc")
_MESSAGE_FIELD: Final = 1 << 3 | 2  # number 1, with a length (protobuf's encoding)


class CallError(Exception):
    """A call that fails, with its status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def packet_of(request: Request) -> bytes:
    """Return the DNS message of a call.

    Raises:
        CallError: it has none.
    """
    if request.target != PATH or request.method != b"POST":
        raise CallError(UNIMPLEMENTED, "unknown method")
    if request.body is None:
        raise CallError(RESOURCE_EXHAUSTED, "message too long")
    return _unwrapped(request.body)


def answer_with(packet: bytes) -> Answer:
    """Return the HTTP reply with a DNS message."""
    return Answer(200, [_TYPE], _wrapped(packet), _result(OK))


def failure(error: CallError) -> Answer:
    """Return the HTTP reply of a call that fails: its trailers are its only headers."""
    return Answer(200, [_TYPE, *_result(error.status, str(error))], b"")


def request_for(packet: bytes, authority: str, *, is_tls: bool) -> Asked:
    """Return the request that carries a query of ours."""
    headers = [_TYPE, (b"te", b"trailers")]
    scheme = b"https" if is_tls else b"http"
    return Asked(b"POST", authority.encode(), PATH, headers, _wrapped(packet), scheme)


def reply_of(found: Delivery) -> bytes:
    """Return the DNS message of a result.

    Raises:
        CallError: the call has failed.
    """
    if found.status != 200:
        raise CallError(UNKNOWN, f"HTTP status {found.status}")
    if found.code != b"0":
        status = int(found.code) if found.code.isdigit() and len(found.code) < 3 else UNKNOWN
        said = urllib.parse.unquote(found.text.decode("latin-1"))[:200]
        raise CallError(status or UNKNOWN, said or f"status {status}")
    if found.body is None:
        raise CallError(RESOURCE_EXHAUSTED, "message too long")
    return _unwrapped(found.body)


def _result(status: int, text: str = "") -> Headers:
    said = [(b"grpc-message", urllib.parse.quote(text, safe=" ,:;/()").encode())] if text else []
    return [(b"grpc-status", b"%d" % status), *said]


def _wrapped(packet: bytes) -> bytes:
    """Return a message of gRPC with a DNS message in it."""
    field = bytes((_MESSAGE_FIELD,)) + _varint(len(packet)) + packet if packet else b""
    return _HEAD.pack(0, len(field)) + field


def _unwrapped(body: bytes) -> bytes:
    """Return the DNS message in the only message of a body. Raises CallError."""
    if len(body) < _HEAD.size:
        raise CallError(INTERNAL, "no message")
    is_compressed, length = _HEAD.unpack_from(body)
    if is_compressed:
        raise CallError(UNIMPLEMENTED, "compressed messages are not supported")
    if length != len(body) - _HEAD.size:
        raise CallError(INTERNAL, "not one message")
    packet = b""
    try:
        for number, octets in _fields(body, _HEAD.size):
            packet = octets if number == 1 else packet
    except (FormError, IndexError) as error:
        raise CallError(INTERNAL, "no DnsPacket") from error
    if len(packet) > MAX_OCTETS:
        raise CallError(UNKNOWN, "dns message exceeds size limit")
    return packet


def _fields(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and octets of the fields with a length; others are skipped.

    Raises:
        FormError, IndexError: it is no message of protobuf.
    """
    while offset < len(body):
        key, offset = _read_varint(body, offset)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise FormError(offset, "field number 0")
        if wire_type == 2:
            length, offset = _read_varint(body, offset)
            end = offset + length
            yield number, body[offset:end]
        elif wire_type == 0:
            _, end = _read_varint(body, offset)
        elif wire_type in (1, 5):
            end = offset + (8 if wire_type == 1 else 4)
        else:
            raise FormError(offset, "wire type")
        if end > len(body):
            raise FormError(offset, "field cut short")
        offset = end


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(octets: bytes, offset: int) -> tuple[int, int]:
    """Return a number and the offset behind it. Raises FormError, IndexError."""
    number = 0
    for shift in range(0, 70, 7):
        octet = octets[offset]
        offset += 1
        number |= (octet & 0x7F) << shift
        if octet < 0x80:
            return number, offset
    raise FormError(offset, "number too long")
