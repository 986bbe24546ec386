"""Whether a file has changed: its stamp is another one, older ones included.

A file that is restored from a backup has an earlier time, and one that is replaced may have the
same time and size: so all of it is compared, for inequality.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """What tells one version of a file from another; all 0 for a file that was never read."""

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
