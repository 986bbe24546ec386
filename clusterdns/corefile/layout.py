"""One form of a Corefile: four spaces for each brace, one between words, comments kept.

A brace that opens stands at the end of its line, one that closes on a line of its own. At most one
empty line is kept, and there is one before a server block. Words stay as they were written, with
their quotes. ``formatted`` makes sure that the new text says the same.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from clusterdns.corefile.lexer import lex
from clusterdns.errors import ConfigError

INDENT = "    "
_SPACE = "\t\v\f \r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # but for lines
_PART = re.compile(
    rf'(?P<line>\n)|[{_SPACE}]+|(?P<comment>\#[^\n]*)|(?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z))'
    rf"|(?P<bare>[^{_SPACE}\n\#]+(?:\#[^{_SPACE}\n]*)?)",
    re.DOTALL,
)


class _Line(NamedTuple):
    """The words of a line as written, and its comment."""

    words: tuple[str, ...]
    comment: str


def formatted(text: str, file: str) -> str:
    """Return a Corefile in the one form.

    Raises:
        ConfigError: no such form would say the same.
    """
    result = "".join(f"{line}\n" for line in _laid_out(list(_lines(text))))
    if _said(text, file) != _said(result, file):
        raise ConfigError(file, 0, "", "cannot be formatted without a change of what it says")
    return result


def _said(text: str, file: str) -> list[tuple[str, bool]]:
    """Return the words, and which start a line; it does not matter for braces and behind `{`."""
    found, is_opened = list[tuple[str, bool]](), False
    for word in lex(text, file):
        is_brace = word.text in ("{", "}")
        found.append((word.text, word.starts_line or is_brace or is_opened))
        is_opened = word.text == "{"
    return found


def _lines(text: str) -> Iterator[_Line]:
    """Yield the lines of a text; a quoted word may be longer than one."""
    words, comment = list[str](), ""
    for part in _PART.finditer(text.removeprefix("\ufeff")):
        if part["line"]:
            yield _Line(tuple(words), comment)
            words, comment = [], ""
        elif part["comment"]:
            comment = part["comment"].rstrip()
        elif part["quoted"] or part["bare"]:
            words.append(part[0].replace("\r", ""))
    if words or comment:
        yield _Line(tuple(words), comment)


def _laid_out(lines: list[_Line]) -> Iterator[str]:
    """Yield the lines of the form."""
    depth, wants_gap, is_first = 0, False, True
    for line in _with_braces_at_ends(lines):
        if not line.words and not line.comment:
            wants_gap = not is_first
            continue
        closes = line.words == ("}",)
        depth -= closes and depth > 0
        if wants_gap and not closes:
            yield ""
        text = " ".join(line.words)
        comment = f"{' ' if text else ''}{line.comment}" if line.comment else ""
        yield INDENT * depth + text + comment
        opens = line.words[-1:] == ("{",)
        depth += opens
        # No empty line after a brace that opens; one after a server block.
        wants_gap, is_first = closes and not depth, opens


def _with_braces_at_ends(lines: list[_Line]) -> Iterator[_Line]:
    """Yield lines whose opening brace ends them, and whose closing brace is alone."""
    held: _Line | None = None  # words that may get a brace from the next line
    between: list[_Line] = []
    for line in lines:
        if held is not None and line.words[:1] == ("{",):
            line = _Line((*held.words, *line.words), line.comment)
            yield from (each for each in between if each.comment)
            if held.comment:
                yield _Line((), held.comment)
            held, between = None, []
        elif held is not None and line.words:
            yield held
            yield from between
            held, between = None, []
        if not line.words:
            if held is not None:
                between.append(line)
            else:
                yield line
            continue
        *parts, last = _split(line)
        yield from parts
        if last.words[-1] in ("{", "}"):
            yield last
        else:
            held = last
    if held is not None:
        yield held
        yield from between


def _split(line: _Line) -> list[_Line]:
    """Return a line cut behind opening braces and around closing ones; the comment is last."""
    found, words = list[_Line](), list[str]()
    for word in line.words:
        if word == "}":
            if words:
                found.append(_Line(tuple(words), ""))
            found.append(_Line(("}",), ""))
            words = []
        else:
            words.append(word)
            if word == "{":
                found.append(_Line(tuple(words), ""))
                words = []
    if words:
        found.append(_Line(tuple(words), ""))
    return [*found[:-1], found[-1]._replace(comment=line.comment)]
