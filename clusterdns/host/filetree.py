"""The files below a directory, with links followed; a bad entry does not affect the others.

A mounted ConfigMap consists of links, also to directories. Each directory is entered once, so a
circle of links ends; hidden entries are left out.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path

from clusterdns.host.stamp import Stamp

MAX_ENTRIES = 100_000  # in all directories together
MAX_DEPTH = 32


class FileTree:
    """The files below a directory with their stamps, and the unreadable entries.

    ``unread`` has the reasons by path: there may be a file at or below it.
    """

    def __init__(self, root: Path, suffixes: Collection[str]) -> None:
        """Read the whole tree. Raises OSError if ``root`` cannot be listed."""
        self.files: dict[Path, Stamp] = {}
        self.unread: dict[Path, str] = {}
        self._suffixes = suffixes
        self._entered: set[tuple[int, int]] = set()
        self._entries = 0
        self._list(root, 0)

    def may_hold(self, path: Path) -> bool:
        """Tell whether a file may be at ``path``, though it was not found."""
        return path in self.unread or any(parent in self.unread for parent in path.parents)

    def _list(self, directory: Path, depth: int) -> None:
        status = directory.stat()
        if (status.st_dev, status.st_ino) in self._entered:
            return
        self._entered.add((status.st_dev, status.st_ino))
        # By name, so that of two paths to one directory the same one is always taken.
        for path in sorted(directory.iterdir()):
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                self.unread[directory] = f"more than {MAX_ENTRIES} entries: the rest is left out"
                return
            if not path.name.startswith("."):
                self._look(path, depth)

    def _look(self, path: Path, depth: int) -> None:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if depth == MAX_DEPTH:
                    self.unread[path] = f"more than {MAX_DEPTH} directories deep"
                else:
                    self._list(path, depth + 1)
            elif stat.S_ISREG(status.st_mode) and path.suffix in self._suffixes:
                self.files[path] = Stamp.of(status)
        except FileNotFoundError:
            pass  # removed in the meantime, or a dangling link
        except OSError as error:
            self.unread[path] = error.strerror or str(error)
