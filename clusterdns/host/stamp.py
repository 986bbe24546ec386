"""Stamps of files: a file has changed if its stamp differs.

A file restored from a backup has an earlier time, and a replaced one may have the same time and
size, so all fields are compared for inequality.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


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
