"""The last known objects in a file, served if the API server is unreachable at start.

The file is a zlib stream of JSON lines: a head (format, time, source), one line for each object,
and a last line with their number and the SHA-256 of all lines before. It is written to a temporary
file, synced to disk and renamed, so a complete file exists at every moment. A file that is
incomplete, changed or of another source is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from clusterdns.cluster.objects import OBJECT_TYPES, ObjectId
from clusterdns.cluster.source import Source
from clusterdns.errors import ClusterDNSError

FORMAT = 2
MAX_OCTETS = 256 * 2**20  # unpacked
MAX_LINE_OCTETS = 8 * 2**20  # as of an event of a watch
MAX_ENTRIES = 1_000_000
_PIECE_OCTETS = 256 * 1024
Saved = tuple[ObjectId, tuple[Any, ...]]


class SnapshotError(ClusterDNSError):
    """The file is not a snapshot of this source."""


class Snapshot(NamedTuple):
    """The content of a file; ``written`` is Unix time, ``kinds`` are the complete kinds."""

    written: float
    kinds: tuple[str, ...]
    entries: list[Saved]


def write(
    path: Path, source: Source, kinds: Iterable[str], entries: Iterable[Saved], now: float
) -> int:
    """Write a snapshot and return its size in octets. Raises OSError."""
    head = {"format": FORMAT, "written": now, "source": identity(source), "kinds": list(kinds)}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            for octets in _pack(head, entries):
                file.write(octets)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    # The rename itself is on disk once its directory is.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return size


def read(path: Path, source: Source) -> Snapshot:
    """Return the content of a file. Raises OSError or SnapshotError."""
    try:
        lines = _lines(path)
        head = json.loads(next(lines))
        if head["format"] != FORMAT:
            raise SnapshotError(f"{path}: format {head['format']!r}, expected {FORMAT}")
        if head["source"] != identity(source):
            raise SnapshotError(f"{path}: another source: {head['source']!r:.200}")
        entries = [_entry(json.loads(line)) for line in lines]
        return Snapshot(float(head["written"]), tuple(map(str, head["kinds"])), entries)
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError, zlib.error) as error:
        raise SnapshotError(f"{path}: not a snapshot: {type(error).__name__}: {error}") from error


def identity(source: Source) -> list[str]:
    """Return the settings of a source that decide which objects it has."""
    return [
        source.kubeconfig or source.endpoint, source.context, *source.kinds, source.selector,
        source.namespace_selector, *(["zonal"] if source.is_zonal else []),
        *(["external"] if source.is_external else []),
    ]  # fmt: skip


def _pack(head: dict[str, Any], entries: Iterable[Saved]) -> Iterator[bytes]:
    packer = zlib.compressobj(1)  # a tenth of the size, five times as fast as level 6
    digest = hashlib.sha256()
    count = 0

    def pack(value: object) -> bytes:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        digest.update(line)
        return packer.compress(line)

    yield pack(head)
    for (kind, key), parts in entries:
        yield pack((kind, *key, parts))
        count += 1
    yield pack({"count": count, "sha256": digest.hexdigest()})
    yield packer.flush()


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file but the last, once its count and digest match.

    It is read twice, so that no more than a line is held of what does not match.
    """
    digest, last, count = hashlib.sha256(), b"", -1
    for line in _unpacked(path):
        if count >= 0:
            digest.update(last + b"\n")
        last, count = line, count + 1
        if count > MAX_ENTRIES:
            raise SnapshotError(f"{path}: more than {MAX_ENTRIES} objects")
    if json.loads(last) != {"count": count - 1, "sha256": digest.hexdigest()}:
        raise SnapshotError(f"{path}: count or SHA-256 does not match")
    yield from itertools.islice(_unpacked(path), count)


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file. Raises SnapshotError if it is truncated or too long."""
    unpacker, rest, octets = zlib.decompressobj(), b"", 0
    with path.open("rb") as file:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or file.read(_PIECE_OCTETS)
            if not packed:
                raise SnapshotError(f"{path}: truncated")
            piece = unpacker.decompress(packed, _PIECE_OCTETS)
            octets += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            if octets > MAX_OCTETS or len(rest) > MAX_LINE_OCTETS:
                raise SnapshotError(f"{path}: too long")
            yield from lines
    if rest:
        raise SnapshotError(f"{path}: truncated")


def _entry(value: list[Any]) -> Saved:
    kind, namespace, name, parts = value
    value = _tuples(parts)
    if kind not in OBJECT_TYPES or not isinstance(value, tuple):
        raise ValueError(f"{kind!r:.40} is not a kind")
    OBJECT_TYPES[kind](*value)  # raises TypeError for a wrong number of fields
    return (kind, (str(namespace), str(name))), value


def _tuples(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
