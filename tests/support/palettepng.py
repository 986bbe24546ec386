"""A picture with a palette: a PNG of a browser, made a quarter of its size (PNG, W3C 2003).

The colors that are used most are the palette; each other becomes the one that is nearest to it.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLORS = 64
_CHANNELS = {2: 3, 6: 4}  # of the color types RGB and RGBA
_PALETTE_TYPE = 3
Color = bytes  # red, green, blue


def reduced(png: bytes, colors: int = COLORS) -> bytes:
    """Return a picture of 8-bit RGB or RGBA, not interlaced, with a palette; RGBA loses its A."""
    width, height, rows = _decoded(png)
    pixels = [[row[i : i + 3] for i in range(0, len(row), 3)] for row in rows]
    palette = [color for color, _ in Counter(p for row in pixels for p in row).most_common(colors)]
    places = {color: bytes((i,)) for i, color in enumerate(palette)}

    @functools.cache
    def place(color: Color) -> bytes:
        return places.get(color) or places[min(palette, key=lambda each: _distance(each, color))]

    # The filter "none" in front of each row: others rarely help indices (section 12.8).
    data = b"".join(b"\0" + b"".join(map(place, row)) for row in pixels)
    header = struct.pack("!IIBBBBB", width, height, 8, _PALETTE_TYPE, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", b"".join(palette)),
        (b"IDAT", zlib.compress(data, 9)),
        (b"IEND", b""),
    )
    return SIGNATURE + b"".join(_chunk(*each) for each in chunks)


def _distance(one: Color, other: Color) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def _decoded(png: bytes) -> tuple[int, int, Iterable[bytes]]:
    """Return width, height and the rows of a picture, as octets of RGB."""
    chunks = [*_chunks(png)]
    width, height, depth, kind, _, _, interlace = struct.unpack("!IIBBBBB", chunks[0][1])
    assert (8, 0) == (depth, interlace)
    channels = _CHANNELS[kind]
    data = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    rows = _unfiltered(data, width * channels, channels)
    if channels == 4:
        rows = (bytes(row[i] for i in range(len(row)) if i % 4 != 3) for row in rows)
    return width, height, rows


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert png.startswith(SIGNATURE)
    at = len(SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from("!I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _unfiltered(data: bytes, width: int, step: int) -> Iterator[bytes]:
    """Yield the rows of ``width`` octets without their filters (section 9.2)."""
    above: Sequence[int] = bytes(width)
    for start in range(0, len(data), width + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + width])
        for i in range(width) if kind else ():
            left = row[i - step] if i >= step else 0
            corner = above[i - step] if i >= step else 0
            row[i] = (row[i] + _predicted(kind, left, above[i], corner)) & 255
        above = row
        yield bytes(row)


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind < 4:
        return (0, left, up, (left + up) // 2)[kind]
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))  # Paeth, ties in this order
