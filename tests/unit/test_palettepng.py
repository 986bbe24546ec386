"""Pictures of the docs: made small without another look."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import palettepng
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH, HEIGHT = 7, 10
FEW = [bytes(each) for each in ((0, 0, 0), (255, 255, 255), (200, 10, 3), (9, 250, 128))]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def filtered(rows: list[bytes], step: int) -> bytes:
    """Each row with the next of the five filters, as RFC 2083 §6 defines them."""
    found, above = b"", bytes(len(rows[0]))
    for number, row in enumerate(rows):
        kind = number % 5
        found += bytes((kind,))
        for i, value in enumerate(row):
            left, corner = (row[i - step], above[i - step]) if i >= step else (0, 0)
            up = above[i]
            guess = left + up - corner
            nearest = min(abs(guess - each) for each in (left, up, corner))
            paeth = next(each for each in (left, up, corner) if abs(guess - each) == nearest)
            found += bytes(((value - (0, left, up, (left + up) // 2, paeth)[kind]) % 256,))
        above = row
    return found


def picture(pixels: list[list[bytes]], *, has_alpha: bool) -> bytes:
    rows = [b"".join(p + b"\xff" * has_alpha for p in row) for row in pixels]
    header = struct.pack("!IIBBBBB", WIDTH, HEIGHT, 8, 6 if has_alpha else 2, 0, 0, 0)
    data = zlib.compress(filtered(rows, 3 + has_alpha))
    chunks = [(b"IHDR", header), (b"IDAT", data[:20]), (b"IDAT", data[20:]), (b"IEND", b"")]
    return palettepng.SIGNATURE + b"".join(chunk(*each) for each in chunks)


def pixels_of(png: bytes) -> list[list[bytes]]:
    """The pixels of a picture with a palette."""
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from("!I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert chunk(kind, data) == png[at : at + 12 + length]
        chunks[kind], at = data, at + 12 + length
    assert (WIDTH, HEIGHT, 8, 3) == struct.unpack_from("!IIBB", chunks[b"IHDR"])
    palette, data = chunks[b"PLTE"], zlib.decompress(chunks[b"IDAT"])
    rows = [data[y * (WIDTH + 1) + 1 : (y + 1) * (WIDTH + 1)] for y in range(HEIGHT)]
    return [[palette[3 * i : 3 * i + 3] for i in row] for row in rows]


@pytest.mark.parametrize("has_alpha", [False, True])
def test_a_picture_with_few_colors_stays_as_it_is(has_alpha):
    choose = random.Random(1).choice
    pixels = [[choose(FEW) for _ in range(WIDTH)] for _ in range(HEIGHT)]
    made = palettepng.reduced(picture(pixels, has_alpha=has_alpha))
    assert pixels == pixels_of(made)


def test_a_rare_color_becomes_the_nearest():
    pixels = [[FEW[(x + y) % 2] for x in range(WIDTH)] for y in range(HEIGHT)]
    pixels[3][4] = bytes((250, 240, 255))
    made = pixels_of(palettepng.reduced(picture(pixels, has_alpha=False), colors=2))
    pixels[3][4] = FEW[1]
    assert pixels == made


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_of_the_docs_are_small(scheme):
    assert (DOCS / f"status-{scheme}.png").stat().st_size < 80_000
