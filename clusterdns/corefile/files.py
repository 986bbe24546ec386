"""Imported files on disk, and whether they have changed."""

from __future__ import annotations

import glob
from pathlib import Path

from clusterdns.host.stamp import Stamp, read_regular

_MAX_FILE_OCTETS = 8 << 20  # far above the 1 MiB of a ConfigMap


class DiskFiles:
    """Files on disk; relative paths are relative to the working directory."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern``, hidden ones too, as Go's filepath.Glob does."""
        # glob and not pathlib: Path.glob takes no absolute pattern
        return sorted(glob.glob(pattern, include_hidden=True))  # noqa: PTH207

    def read(self, path: str) -> str:
        """Return the text of a regular file, with invalid UTF-8 replaced.

        Raises:
            OSError: it cannot be read, is not a regular file or is too long.
            ValueError: ``path`` is none.
        """
        return self.stamped(path)[1]

    def stamped(self, path: str) -> tuple[Stamp, str]:
        """Return a file's stamp and text, see ``read``."""
        found = read_regular(path, _MAX_FILE_OCTETS)
        assert found is not None  # no stamp is known
        stamp, octets = found
        return stamp, octets.decode("utf-8", "replace")


class TrackedFiles(DiskFiles):
    """Files on disk that remember their matches and texts, to tell when they change."""

    def __init__(self) -> None:
        self._matches: dict[str, list[str]] = {}
        self._texts: dict[str, str | None] = {}  # None: it could not be read
        self._stamps: dict[str, Stamp] = {}  # of texts that need not be read again to compare

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern``, see ``DiskFiles``."""
        found = self._matches[pattern] = super().glob(pattern)
        return found

    def read(self, path: str) -> str:
        """Return the text of a file, see ``DiskFiles``."""
        self._texts[path] = None
        self._stamps.pop(path, None)
        stamp, text = self.stamped(path)
        self._texts[path] = text
        if stamp.is_settled:
            self._stamps[path] = stamp
        return text

    def forget(self) -> None:
        """Forget all matches and texts."""
        self._matches.clear()
        self._texts.clear()
        self._stamps.clear()

    @property
    def have_changed(self) -> bool:
        """Whether a file that was read or looked for has appeared, vanished or changed."""
        if any(super(TrackedFiles, self).glob(p) != paths for p, paths in self._matches.items()):
            return True
        return any(self._has_changed(path, text) for path, text in self._texts.items())

    def _has_changed(self, path: str, text: str | None) -> bool:
        known = self._stamps.get(path)
        if known is not None and Stamp.at(Path(path)) == known:
            return False
        try:
            stamp, now = self.stamped(path)
        except (OSError, ValueError):
            return text is not None
        if now == text and stamp.is_settled:
            self._stamps[path] = stamp
        return now != text
