"""dnstap messages: octets of ``dnstap.Dnstap`` (https://dnstap.info, dnstap.proto).

They are written here and not by the package `protobuf`, which would add a compiled package to the
image for fourteen fields that are only written. Both are equally fast; the tests read the octets
with that package and with the reference reader. A message is a sequence of fields: a key, number <<
3 | wire type, and the value (protobuf: encoding, section "Message Structure").

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from typing import NamedTuple

CLIENT_QUERY, CLIENT_RESPONSE, FORWARDER_QUERY, FORWARDER_RESPONSE = 5, 6, 7, 8
_UDP, _TCP = 1, 2
_INET, _INET6 = 1, 2
_VARINT, _OCTETS, _FIXED32 = 0, 2, 5  # wire types
_MESSAGE = 1  # Dnstap.Type
# Fields of Dnstap and of its Message.
_IDENTITY, _VERSION, _EXTRA, _BODY, _KIND = 1, 2, 3, 14, 15
_TYPE, _FAMILY, _PROTOCOL, _QUERY_ADDRESS, _RESPONSE_ADDRESS = 1, 2, 3, 4, 5
_QUERY_PORT, _RESPONSE_PORT, _QUERY_SEC, _QUERY_NSEC, _QUERY_MESSAGE = 6, 7, 8, 9, 10
_RESPONSE_SEC, _RESPONSE_NSEC, _RESPONSE_MESSAGE = 12, 13, 14
_NANOSECONDS = 10**9
_NSEC, _LENGTH = struct.Struct("<I"), struct.Struct("!I")
_RESPONSES = frozenset((CLIENT_RESPONSE, FORWARDER_RESPONSE))

Address = tuple[str, int]


class Socket(NamedTuple):
    """The two ends of an exchange, as far as known."""

    transport: str  # "udp", or any stream
    asking: Address | None
    asked: Address | None = None


class Moments(NamedTuple):
    """When a query and its response were seen, in nanoseconds since 1970."""

    query_ns: int
    response_ns: int = 0  # of messages about a response


def frame(
    origin: bytes, kind: int, socket: Socket, moments: Moments, octets: bytes, extra: bytes
) -> bytes:
    """Return the data frame of a message of one of the four types, with its length.

    ``octets`` are those of the query or response in wire form; "" leaves them out. ``origin`` is
    what the function of that name returns.
    """
    transport, asking, asked = socket
    is_response = kind in _RESPONSES
    whole, part = divmod(moments.query_ns, _NANOSECONDS)
    parts = [
        _ends(kind, transport != "udp", asking and asking[0], asked and asked[0]),
        _second(_QUERY_SEC, _QUERY_NSEC, whole), _NSEC.pack(part),
    ]  # fmt: skip
    if asking is not None:
        parts.append(_number(_QUERY_PORT, asking[1]))
    if asked is not None:
        parts.append(_number(_RESPONSE_PORT, asked[1]))
    if is_response:
        whole, part = divmod(moments.response_ns, _NANOSECONDS)
        parts += (_second(_RESPONSE_SEC, _RESPONSE_NSEC, whole), _NSEC.pack(part))
    if octets:
        key = _RESPONSE_KEY if is_response else _QUERY_KEY
        parts += (key, _varint(len(octets)), octets)
    body = b"".join(parts)
    size = _varint(len(body))
    more = _octets(_EXTRA, extra) if extra else b""
    total = len(origin) + len(more) + 1 + len(size) + len(body)
    return b"".join((_LENGTH.pack(total), origin, more, _BODY_KEY, size, body))


def origin(identity: bytes, version: bytes) -> bytes:
    """Return the fields that are equal in all messages of a server."""
    return _octets(_IDENTITY, identity) + _octets(_VERSION, version) + _number(_KIND, _MESSAGE)


@functools.lru_cache(4096)
def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _octets(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _OCTETS) + _varint(len(value)) + value


@functools.lru_cache(4096)
def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


@functools.lru_cache(64)
def _second(seconds: int, nanoseconds: int, whole: int) -> bytes:
    """Return a time up to the key of its nanoseconds."""
    return _number(seconds, whole) + _varint(nanoseconds << 3 | _FIXED32)


@functools.lru_cache(4096)
def _ends(kind: int, is_stream: bool, asking: str | None, asked: str | None) -> bytes:
    """Return the type of a message, and the two ends of its socket without ports."""
    parts = [_number(_TYPE, kind), _number(_PROTOCOL, _TCP if is_stream else _UDP)]
    if asking is not None:
        parts.append(_address(_QUERY_ADDRESS, asking))
    if asked is not None:
        parts.append(_address(_RESPONSE_ADDRESS, asked))
    return b"".join(parts)


def _address(number: int, text: str) -> bytes:
    """Return an address with its family; IPv4 within IPv6 is IPv4 (CoreDNS: dnstap/msg)."""
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    packed = (mapped or found).packed
    return _number(_FAMILY, _INET if len(packed) == 4 else _INET6) + _octets(number, packed)


_BODY_KEY = _varint(_BODY << 3 | _OCTETS)
_QUERY_KEY = _varint(_QUERY_MESSAGE << 3 | _OCTETS)
_RESPONSE_KEY = _varint(_RESPONSE_MESSAGE << 3 | _OCTETS)
