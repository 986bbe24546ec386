"""JSON of any length decoded item by item as its octets arrive, with bounded memory.

``Lines`` splits a watch stream, one JSON value in each line, and counts lines longer than the limit
as skipped. ``Items`` reads a list - ``{"metadata": {...}, "items": [...]}`` - and yields each item
as soon as it is complete, so that a list of 10,000 objects is never held whole.

Each list item is given to the C decoder, which is ten times as fast as a search for its end in
Python. An item cut off by the end of a chunk fails to decode; it is tried again when twice as much
of it has arrived.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusterdns.errors import ClusterDNSError

MAX_ITEM_OCTETS = 8 * 2**20  # etcd refuses objects larger than 1.5 MiB
_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'["\\{}\[\]]')
_NUMBER_END = re.compile(r"[,}\]\s]")
_decoder = json.JSONDecoder()


class StreamError(ClusterDNSError):
    """The octets are not a list of objects."""


class Lines:
    """Lines of a stream; ``skipped`` counts those longer than the limit."""

    def __init__(self, limit: int = MAX_ITEM_OCTETS) -> None:
        self.skipped = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._is_skipping = False

    @property
    def is_inside(self) -> bool:
        """Whether a line has started and not ended."""
        return bool(self._parts) or self._is_skipping

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """Yield the lines that ``octets`` complete, without newline; empty ones are left out."""
        *ended, rest = octets.split(b"\n")
        for part in ended:
            self._hold(part)
            if self._is_skipping:
                self.skipped += 1
                self._is_skipping = False
            else:
                line = b"".join(self._parts)
                self._clear()
                if line.strip():
                    yield line
        self._hold(rest)

    def _hold(self, part: bytes) -> None:
        if not part or self._is_skipping:
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._limit:
            self._is_skipping = True
            self._clear()

    def _clear(self) -> None:
        self._parts.clear()
        self._held = 0


def load_line(line: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object of a line, None if it is none."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Items:
    """A list being read; its fields other than the items are in ``fields`` once read."""

    def __init__(self, limit: int = MAX_ITEM_OCTETS) -> None:
        self.fields: dict[str, Any] = {}
        self.skipped = 0  # items longer than the limit, or not UTF-8
        self.is_complete = False
        self._limit = limit
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0  # index in the text where reading continues
        self._try_at = 0  # length of the rest at which to decode again
        self._skip: _Skip | None = None
        self._state = _BEFORE

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the list; empty if it has none, or none that is an object."""
        found = self.fields.get("metadata")
        return found if isinstance(found, dict) else {}

    def feed(self, octets: bytes) -> Iterator[Mapping[str, Any]]:
        """Yield the items that ``octets`` complete. Raises StreamError."""
        self._text = self._text[self._at :] + self._utf8.decode(octets)
        self._at = 0
        while not self.is_complete:
            before = self._state
            if not self._advance():
                return
            if not before == self._state == _ITEM:
                continue  # the next round skips the space before it
            start = self._at
            found, value = self._value()
            if not found:
                return
            self._state = _ITEM_END
            if isinstance(value, dict) and self._is_text(start):
                yield value
            else:
                self.skipped += 1

    def end(self) -> Iterator[Mapping[str, Any]]:
        """Yield the items still held at the end of the octets. Raises StreamError."""
        self._try_at = 0
        yield from self.feed(b"")
        if not self.is_complete:
            raise StreamError("the list is truncated")

    def _advance(self) -> bool:
        """Read up to the next item; tell whether more of the text can be read."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        if self._at >= len(self._text):
            return False
        if self._state == _ITEM:
            if self._text[self._at] == "]" and self._skip is None:
                self._at, self._state = self._at + 1, _FIELD_END
            return True
        if self._state == _ITEM_END:
            self._expect({",": _ITEM, "]": _FIELD_END})
        elif self._state == _BEFORE:
            self._expect({"{": _FIELD})
        elif self._state == _FIELD_END:
            self._expect({",": _FIELD, "}": _BEFORE})
            self.is_complete = self._state == _BEFORE
        else:
            return self._field()
        return True

    def _expect(self, states: Mapping[str, str]) -> None:
        character = self._text[self._at]
        if character not in states:
            raise StreamError(f"not a list of objects: {character!r} instead of {min(states)!r}")
        self._at, self._state = self._at + 1, states[character]

    def _field(self) -> bool:
        """Read one field of the list, or up to the first item; tell whether it is complete."""
        if self._text[self._at] == "}":
            self._state = _FIELD_END
            return True
        begin = self._at
        found, key = self._value()
        if not found:
            return False
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        if self._at < len(self._text) and self._text[self._at] != ":":
            raise StreamError("not a list of objects: a field without a value")
        self._at = _SPACE.match(self._text, self._at + 1).end()  # type: ignore[union-attr]
        if self._at >= len(self._text):
            self._at = begin
            return False
        if key == "items" and self._text[self._at] == "[":
            self._at, self._state = self._at + 1, _ITEM
            return True
        found, value = self._value()
        if not found:
            self._at = begin
            return False
        self.fields[str(key)] = value
        self._state = _FIELD_END
        return True

    def _value(self) -> tuple[bool, Any]:
        """Return whether a value is complete, and the value; None for an item over the limit."""
        if self._skip is not None:
            return self._pass_over()
        rest = len(self._text) - self._at
        if rest < self._try_at:
            return False, None
        try:
            value, end = _decoder.raw_decode(self._text, self._at)
        except (json.JSONDecodeError, RecursionError):
            if rest > self._limit:
                if self._state != _ITEM:
                    raise StreamError(f"a field of more than {self._limit} octets") from None
                self._skip = _Skip()
                return self._pass_over()
            self._try_at = min(2 * rest, self._limit + 1)
            return False, None
        if isinstance(value, (int, float)) and not _NUMBER_END.match(self._text, end):
            return False, None  # more digits may come
        self._at, self._try_at = end, 0
        return True, value

    def _pass_over(self) -> tuple[bool, Any]:
        assert self._skip is not None
        end = self._skip.feed(self._text, self._at)
        self._at = len(self._text) if end < 0 else end
        if end < 0:
            return False, None
        self._skip, self._try_at = None, 0
        return True, None

    def _is_text(self, start: int) -> bool:
        if self._text.isascii():
            return True
        try:
            self._text[start : self._at].encode()
        except UnicodeEncodeError:
            return False
        return True


_BEFORE, _FIELD, _FIELD_END, _ITEM, _ITEM_END = "before", "field", "field end", "item", "item end"


class _Skip:
    """Finds the end of a value longer than the limit without holding it."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False

    def feed(self, text: str, at: int) -> int:
        """Return the index behind the value, -1 if it is not in the text."""
        if self._is_escaped:
            self._is_escaped = False
            at += 1
        while match := _STRUCTURE.search(text, at):
            at = match.end()
            character = match[0]
            if character == "\\":
                if at >= len(text):
                    self._is_escaped = True
                at += 1
                continue
            if character == '"':
                self._is_string = not self._is_string
            elif not self._is_string:
                self._depth += 1 if character in "{[" else -1
            if not self._is_string and self._depth <= 0:
                return at
        return -1
