"""dnstap messages: octets of ``dnstap.Dnstap`` (https://dnstap.info, dnstap.proto).

They are written here rather than by the package `protobuf`: fourteen fields, written and never
read, twice for each query. This takes a third of its time and adds no compiled package to the
image; the tests read the octets with that package and with the reference reader. A message is a
sequence of fields: a key, number << 3 | wire type, and the value (protobuf: encoding, section
"Message Structure").

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
_NSEC = struct.Struct("<I")

Address = tuple[str, int]


class Socket(NamedTuple):
    """The two ends of an exchange, as far as they are known: who asks, and who is asked."""

    transport: str  # "udp", or any stream
    asking: Address | None
    asked: Address | None = None


class Moments(NamedTuple):
    """When a query and its response were seen, in nanoseconds since 1970."""

    query_ns: int
    response_ns: int = 0  # of messages about a response


def message(kind: int, socket: Socket, moments: Moments, octets: bytes = b"") -> bytes:
    """Return the field of Dnstap that holds a message of one of the four kinds.

    ``octets`` are those of the query or response in wire form; "" leaves them out.
    """
    transport, asking, asked = socket
    parts = [_head(kind, transport != "udp")]
    if asking is not None:
        parts += (_address(_QUERY_ADDRESS, asking[0]), _number(_QUERY_PORT, asking[1]))
    if asked is not None:
        parts += (_address(_RESPONSE_ADDRESS, asked[0]), _number(_RESPONSE_PORT, asked[1]))
    parts += _moment(_QUERY_SEC, _QUERY_NSEC, moments.query_ns)
    if kind in (CLIENT_RESPONSE, FORWARDER_RESPONSE):
        parts += _moment(_RESPONSE_SEC, _RESPONSE_NSEC, moments.response_ns)
        number = _RESPONSE_MESSAGE
    else:
        number = _QUERY_MESSAGE
    if octets:
        parts.append(_octets(number, octets))
    return _octets(_BODY, b"".join(parts))


def frame(origin: bytes, message: bytes, extra: bytes = b"") -> bytes:
    """Return the data frame of a Dnstap message, its length in front; ``origin`` as of below."""
    if extra:
        message += _octets(_EXTRA, extra)
    return struct.pack("!I", len(origin) + len(message)) + origin + message


def origin(identity: bytes, version: bytes) -> bytes:
    """Return the fields that are the same in all messages of a server."""
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
def _head(kind: int, is_stream: bool) -> bytes:
    return _number(_TYPE, kind) + _number(_PROTOCOL, _TCP if is_stream else _UDP)


def _moment(seconds: int, nanoseconds: int, at_ns: int) -> tuple[bytes, bytes]:
    whole, part = divmod(at_ns, _NANOSECONDS)
    key = _varint(nanoseconds << 3 | _FIXED32)
    return _number(seconds, whole), key + _NSEC.pack(part)


@functools.lru_cache(4096)
def _address(number: int, text: str) -> bytes:
    """Return an address with its family; IPv4 within IPv6 is IPv4 (CoreDNS: dnstap/msg)."""
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    packed = (mapped or found).packed
    return _number(_FAMILY, _INET if len(packed) == 4 else _INET6) + _octets(number, packed)
