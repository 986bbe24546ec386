"""From the text of a Corefile to its words, and the reading of imported files.

``lex`` splits a text into words with their file and line; ``expand`` replaces environment variables
in a word; ``Files`` provides the texts of imported files. CoreDNS: caddy
caddyfile/lexer.go and caddyfile/parse.go.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from clusterdns.errors import ConfigError

# Space of Go's unicode.IsSpace without the carriage return, which is dropped. Python's \s has
# U+001C to U+001F as well.
_SPACE = "\t\n\v\f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WORD = re.compile(
    rf'(?P<skip>[\r{_SPACE}]+|\#[^\n]*)|"(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)(?P<end>"|\\?\Z)'
    rf"|(?P<bare>[^{_SPACE}\#]+)(?:\#[^{_SPACE}]*)?",
    re.DOTALL,
)
# A value may refer to further variables, even in a circle. CoreDNS hangs then.
_MAX_REPLACEMENTS = 1000
_MAX_EXPANDED_CHARACTERS = 65536
_MAX_SHOWN_CHARACTERS = 80


class Word(NamedTuple):
    """A word as written, without its quotes; variables are not yet replaced."""

    text: str
    file: str
    line: int
    starts_line: bool

    def error(self, reason: str) -> ConfigError:
        """Return an error at this word."""
        return ConfigError(self.file, self.line, shorten(self.text), reason)


def lex(text: str, file: str) -> list[Word]:
    r"""Return the words of ``text``. Never raises; linear in the length of the text.

    A word that begins with a quote ends at the next quote, also on another line, or at the end of
    the text; ``\"`` is its only escape. A ``#`` within a word hides only the rest of that word, as
    in CoreDNS.
    """
    words: list[Word] = []
    line, last_line = 1, 0  # last_line: the line of the end of the previous word
    for match in _WORD.finditer(text.removeprefix("\ufeff")):
        group = match.lastgroup
        if group == "skip":
            line += match[0].count("\n")
            continue
        if group == "bare":
            words.append(Word(match["bare"].replace("\r", ""), file, line, line > last_line))
            last_line = line
            continue
        quoted = match["quoted"]
        if quoted or match["end"] == '"':
            words.append(Word(quoted.replace('\\"', '"'), file, line, line > last_line))
        line += quoted.count("\n")
        last_line = line
    return words


def expand(word: Word, environ: Mapping[str, str]) -> str:
    """Return the text of ``word`` with ``{%NAME%}``, then ``{$NAME}``, replaced from ``environ``.

    An unset variable is empty; variables in values are replaced, too. An empty name leaves the rest
    of the word unchanged.

    Raises:
        ConfigError: the variables refer to each other in a circle.
    """
    if "{%" not in word.text and "{$" not in word.text:
        return word.text
    text, replaced = word.text, 0
    for start, end in (("{%", "%}"), ("{$", "}")):
        while (at := text.find(start)) >= 0:
            name_at = at + len(start)
            until = text.find(end, at)
            if until <= name_at:
                break
            value = environ.get(text[name_at:until], "")
            text = text.replace(text[at : until + len(end)], value)
            replaced += 1
            if replaced > _MAX_REPLACEMENTS or len(text) > _MAX_EXPANDED_CHARACTERS:
                raise word.error("environment variables make this word grow without end")
    return text


def shorten(text: str) -> str:
    """Return ``text`` fit for a message: on one line, printable and of bounded length."""
    if len(text) > _MAX_SHOWN_CHARACTERS:
        text = text[: _MAX_SHOWN_CHARACTERS - 3] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class Files(Protocol):
    """The source of imported files."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern`` (one ``*``, one ``?``), sorted.

        A pattern without either is a path; the result is empty if it does not exist.
        """

    def read(self, path: str) -> str:
        """Return the text of a file. Raises OSError or ValueError."""
