"""Columns of words in the text of a configuration, for messages that have file and line."""

from __future__ import annotations

import re
from pathlib import Path

from clusterdns.config.configmap import Subject
from clusterdns.errors import ConfigError

MAX_FILE_OCTETS = 4 * 2**20
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>[0-9]+): ")


class Places:
    """Finds words on lines: in files on disk, as a manifest is, or in the text of the Corefile."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lines: dict[str, list[str]] = {}

    def column(self, file: str, line: int, word: str) -> int:
        """Return the column of a word on a line, from 1 on; that of the first word if it is not."""
        lines = self._of(file)
        if not 0 < line <= len(lines):
            return 0
        text = lines[line - 1]
        at = text.find(word) if word else -1
        return (at if at >= 0 else len(text) - len(text.lstrip())) + 1

    def of(self, error: ConfigError) -> str:
        """Return a mistake as ``file:line:column: word: reason``."""
        column = self.column(error.file, error.line, error.word)
        start = f"{error.file}:{error.line}"
        return str(error).replace(start, f"{start}:{column}", 1) if column else str(error)

    def split(self, text: str) -> tuple[str, int, str]:
        """Return file, line and rest of a warning; that of the Corefile, 0 and all without them."""
        found = _PLACE.match(text)
        if found is None or not self._of(found["file"]):
            return self._subject.file, 0, text
        return found["file"], int(found["line"]), text[found.end() :]

    def _of(self, file: str) -> list[str]:
        if file not in self._lines:
            self._lines[file] = self._read(file).split("\n")
        found = self._lines[file]
        return found if found != [""] else []

    def _read(self, file: str) -> str:
        try:
            path = Path(file)
            if path.is_file() and path.stat().st_size <= MAX_FILE_OCTETS:
                return path.read_text("utf-8", "replace")
        except (OSError, ValueError):
            pass
        return self._subject.text if file == self._subject.file else ""
