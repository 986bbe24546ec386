"""Where the records of a dynamic zone are kept between processes: a file, or memory they share.

Any process may change the records, one at a time: ``Stored.locked`` is held while they are read,
changed and written. A file is replaced, so what was written last is whole after any failure.

A file begins with a line that names its format and the zone, then come a SHA-256 digest, and the
records in wire form, uncompressed, which the digest covers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import socket
import struct
import time
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from clusterdns.errors import ClusterDNSError
from clusterdns.host.stamp import Stamp, read_regular
from clusterdns.wire import name
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

MODE = 0o600
PATIENCE_S, _PAUSE_S = 5.0, 0.001  # with another process that changes records in memory
_FORMAT = b"clusterdns dynupdate 1 "
_HEAD = struct.Struct("!HHIH")  # of a record: type, class, TTL, octets of RDATA
_PLACE = struct.Struct("!QQQ")  # in shared memory: version, offset, octets
_START = 4096  # of the first of two slots in shared memory


class StoredError(ClusterDNSError):
    """Records that cannot be read or written."""


class Stored(Protocol):
    """The records of one zone outside of a process."""

    def version(self) -> Hashable:
        """Return what changes whenever the records do, None if there are none."""

    def read(self) -> list[RR]:
        """Return the records. Raises StoredError."""

    def write(self, records: Iterable[RR]) -> None:
        """Replace the records. Raises StoredError; then the old ones are kept."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep all other processes from changing the records; may wait. Raises StoredError."""


class InFile:
    """Records in a file."""

    def __init__(self, path: Path, apex: WireName, most_octets: int) -> None:
        self._path, self._most = path, most_octets
        self._head = _FORMAT + name.text(apex).encode() + b"\n"

    def version(self) -> Hashable:
        """Return the stamp of the file, None if there is none."""
        return Stamp.at(self._path)

    def read(self) -> list[RR]:
        """Return the records. Raises StoredError."""
        try:
            found = read_regular(self._path, 2 * self._most + len(self._head) + _START)
        except OSError as error:
            raise StoredError(f"{self._path}: {error.strerror or error}") from error
        assert found is not None
        octets = found[1]
        if not octets.startswith(_FORMAT):
            raise StoredError(f"{self._path} is no database of dynupdate's")
        if not octets.startswith(self._head):
            other = octets[len(_FORMAT) :].partition(b"\n")[0].decode(errors="replace")
            raise StoredError(f"{self._path} is the database of zone {other[:255]}")
        start = len(self._head) + hashlib.sha256().digest_size
        if hashlib.sha256(octets[start:]).digest() != octets[len(self._head) : start]:
            raise StoredError(f"{self._path} is damaged")
        return _records(octets[start:])

    def write(self, records: Iterable[RR]) -> None:
        """Replace the file, and return when the disk has it. Raises StoredError."""
        octets = _octets(records)
        new = self._path.with_name(self._path.name + ".new")
        try:
            number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
            with open(number, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(self._head + hashlib.sha256(octets).digest() + octets)
                file.flush()
                os.fsync(number)
            new.replace(self._path)
            self._sync_directory()
        except OSError as error:
            raise StoredError(f"{self._path}: {error.strerror or error}") from error

    def _sync_directory(self) -> None:
        number = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock on a file beside the database, which is never removed."""
        path = self._path.with_name(self._path.name + ".lock")
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise StoredError(f"{path}: {error.strerror or error}") from error
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)


class InMemory:
    """Records in memory that processes share which are forked later; lost when all have ended."""

    def __init__(self, most_octets: int) -> None:
        self._slot_octets = 2 * most_octets
        # The kernel gives memory to pages that are written, not before.
        self._memory = mmap.mmap(-1, _START + 2 * self._slot_octets)
        self._lock_name = "\0clusterdns-dynupdate-" + secrets.token_hex(16)

    def version(self) -> Hashable:
        """Return the number of times the records were written, None for 0."""
        return _PLACE.unpack_from(self._memory)[0] or None

    def read(self) -> list[RR]:
        """Return the records. Raises StoredError."""
        _, offset, octets = _PLACE.unpack_from(self._memory)
        return _records(self._memory[offset : offset + octets])

    def write(self, records: Iterable[RR]) -> None:
        """Write the records beside the old ones, and then that they are in force."""
        octets, version = _octets(records), _PLACE.unpack_from(self._memory)[0]
        if len(octets) > self._slot_octets:
            raise StoredError("no room for the records")
        offset = _START + version % 2 * self._slot_octets
        self._memory[offset : offset + len(octets)] = octets
        _PLACE.pack_into(self._memory, 0, version + 1, offset, len(octets))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an abstract address, which the kernel frees if the process ends."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            for _ in range(round(PATIENCE_S / _PAUSE_S)):
                try:
                    lock.bind(self._lock_name)
                    break
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise StoredError(f"lock: {error.strerror or error}") from error
                    time.sleep(_PAUSE_S)
            else:
                raise StoredError("another process holds the lock")
            yield


def _octets(records: Iterable[RR]) -> bytes:
    parts = list[bytes]()
    for owner, rtype, ttl, rdata, rclass in records:
        parts += (owner, _HEAD.pack(rtype, rclass, ttl, len(rdata)), rdata)
    return b"".join(parts)


def _records(octets: bytes) -> list[RR]:
    """Return records in wire form. Raises StoredError."""
    found, offset = list[RR](), 0
    try:
        while offset < len(octets):
            behind = name.end(octets, offset)
            rtype, rclass, ttl, length = _HEAD.unpack_from(octets, behind)
            start = behind + _HEAD.size
            if start + length > len(octets):
                raise StoredError("a record is cut short")
            rdata = octets[start : start + length]
            found.append(RR(octets[offset:behind], rtype, ttl, rdata, rclass))
            offset = start + length
    except (IndexError, struct.error) as error:
        raise StoredError("a record is cut short") from error
    return found
