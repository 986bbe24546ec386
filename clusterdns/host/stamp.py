"""Stamps of files: a file has changed if its stamp differs.

A file restored from a backup has an earlier time, and a replaced one may have the same time and
size, so all fields are compared for inequality. A file that is written twice within one tick of the
file system's clock may keep its stamp: where that matters, only a settled stamp is relied on.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

SETTLED_S = 2.0  # FAT has the coarsest clock
_NULL_DEVICE = os.makedev(1, 3)  # of Linux
_PART_OCTETS = 1 << 20


class Stamp(NamedTuple):
    """The status fields that identify a version of a file; all 0 for a file never read."""

    mtime_ns: int = 0
    inode: int = 0
    device: int = 0
    octets: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a file with this status, from `stat` or `fstat`."""
        return cls(status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)

    @classmethod
    def at(cls, path: Path) -> Stamp | None:
        """Return the stamp of the file at a path, None if there is none."""
        try:
            return cls.of(path.stat())
        except OSError:
            return None

    @property
    def is_settled(self) -> bool:
        """Whether the file was last written so long ago that a change now shows in the stamp."""
        return time.time() - self.mtime_ns / 1e9 > SETTLED_S


def open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody to write to it, if it is a FIFO. Raises OSError."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_regular(
    path: str | Path, most: int, known: Stamp | None = None
) -> tuple[Stamp, bytes] | None:
    """Return a regular file of at most ``most`` octets with its stamp, None if that is ``known``.

    The null device is one without octets.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
        ValueError: ``path`` is none.
    """
    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) and status.st_rdev != _NULL_DEVICE:
            raise OSError("it is no regular file")
        stamp = Stamp.of(status)
        if stamp == known:
            return None
        octets = bytearray()
        while part := file.read(_PART_OCTETS):
            octets += part
            if len(octets) > most:
                raise OSError(f"it is larger than {most} octets")
    return stamp, bytes(octets)
