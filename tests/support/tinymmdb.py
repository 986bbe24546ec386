"""A database of MaxMind's format that knows one thing of every address (MaxMind DB spec 2.0)."""

from __future__ import annotations

from pathlib import Path

_START = b"\xab\xcd\xefMaxMind.com"


def write(path: Path, kind: str, record: object) -> Path:
    """Write a database of a kind, such as GeoLite2-City, and return its path."""
    about = {
        "node_count": 1, "record_size": 24, "ip_version": 6, "database_type": kind, "languages": [],
        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1,
        "description": {},
    }  # fmt: skip
    leaf = (1 + 16).to_bytes(3, "big")  # the first record, behind nodes and separator
    said = [_encoded(key) + _number(key, each) for key, each in about.items()]
    about_octets = bytes((7 << 5 | len(about),)) + b"".join(said)
    path.write_bytes(leaf * 2 + bytes(16) + _encoded(record) + _START + about_octets)
    return path


def _number(key: str, value: object) -> bytes:
    """Return a value of the metadata; their numbers have different types."""
    if not isinstance(value, int):
        return _encoded(value)
    octets = value.to_bytes(8, "big").lstrip(b"\0")
    if key == "build_epoch":
        return bytes((len(octets), 2)) + octets
    return bytes(((6 if key == "node_count" else 5) << 5 | len(octets),)) + octets


def _encoded(value: object) -> bytes:
    if isinstance(value, bool):
        return bytes((int(value), 7))  # an extended type: the length is the value
    if isinstance(value, str):
        octets = value.encode()
        return bytes((2 << 5 | len(octets),)) + octets
    if isinstance(value, int):
        octets = value.to_bytes(4, "big").lstrip(b"\0")
        return bytes((6 << 5 | len(octets),)) + octets
    if isinstance(value, list):
        return bytes((len(value), 4)) + b"".join(map(_encoded, value))
    assert isinstance(value, dict)
    pairs = (_encoded(each) for pair in value.items() for each in pair)
    return bytes((7 << 5 | len(value),)) + b"".join(pairs)
