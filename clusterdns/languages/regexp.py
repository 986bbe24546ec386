"""Regular expressions of Go, by RE2, with work linear in the text.

Go's `regexp` and RE2 have the same syntax and semantics: leftmost-first matches. Python's `re`
backtracks, and a crafted name could keep a worker busy for years. This is the only importer of
google-re2. RE2 keeps the states that it has met: clients choose the texts, so they are bounded.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from typing import Any

# Of memory for the program and its states; a flood of names fills all that is allowed. The first is
# enough for most; a large class of characters, often repeated, needs the second, RE2's default.
_FEW_OCTETS, _MOST_OCTETS = 2**20, 2**23
MAX_CHARACTERS = 10_000  # CoreDNS's limit (plugin/template/setup.go maxRegexpLen)
# Tokens that may precede a group: an escape, a quotation, a class; the last two are groups.
_PART = re.compile(
    r"""\\Q(?:.*?\\E|.*)|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]
    |\(\?P?<(?P<name>\w+)>|(?P<group>\((?!\?))""",
    re.VERBOSE | re.DOTALL,
)
# A token of a regular expression; `literal` is an ordinary octet.
_TOKEN = re.compile(
    r"""\\Q(?:.*?\\E|.*)|(?P<literal>(?:\\[.\-]|\[[.\-]\]|[A-Za-z0-9_\-])(?![*+?{]))
    |\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|\(\?[^()]*?[:)>]|.""",
    re.VERBOSE | re.DOTALL,
)
_NOT_IN_GO = re.compile(r"(?:^|[^\\])(?:\\\\)*\\C")  # \\C, a single octet, is in RE2 and not in Go


class RegexpError(ValueError):
    """An invalid regular expression."""


class Regexp:
    """One regular expression; ``names`` are those of its groups, by number from 1, "" for none."""

    def __init__(self, text: str) -> None:
        """Compile it.

        Raises:
            RegexpError: it is invalid or too long.
        """
        import re2  # type: ignore[import-untyped]  # loaded at the first use

        if len(text) > MAX_CHARACTERS:
            raise RegexpError(f"longer than {MAX_CHARACTERS} characters")
        if _NOT_IN_GO.search(text):
            raise RegexpError(r"invalid escape sequence: \C")
        try:
            self._compiled: Any = _compiled(text)
        except (re2.error, UnicodeError) as error:
            said = error.args[0] if error.args else error
            reason = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            raise RegexpError(reason) from error
        self.text = text
        self.names = _names(text)[: self._compiled.groups]

    @property
    def tail(self) -> str:
        """The literal end of all matching texts, "" if unknown."""
        return _tail(self.text)

    def is_in(self, text: str) -> bool:
        """Tell whether some part of ``text`` matches."""
        return self._compiled.search(text) is not None

    def search(self, text: str) -> tuple[str, ...] | None:
        """Return the first match and its groups, "" for an unused group; None for no match."""
        found = self._compiled.search(text)
        return None if found is None else (found[0], *found.groups(""))


def _compiled(text: str) -> Any:  # noqa: ANN401 - re2 has no annotations
    """Return the compiled expression, in as little memory as it can be. Raises re2.error."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _FEW_OCTETS
    try:
        return re2.compile(text, options)
    except re2.error:
        options.max_mem = _MOST_OCTETS
        return re2.compile(text, options)


def _tail(text: str) -> str:
    """Return the literal text before a ``$`` at the end of a regular expression, or ""."""
    run, depth, is_end = "", 0, False
    for token in _TOKEN.finditer(text):
        run = "" if is_end else run  # more follows
        word, is_end = token[0], token[0] in ("$", r"\z")
        if word == "|" and not depth:
            return ""
        depth += (word[0] == "(") - (word[0] in "()" and word[-1] == ")")
        if token["literal"] and not depth:
            run += word.removeprefix("\\").strip("[]")
        elif not is_end:
            run = ""
    return run if is_end and not depth else ""


def _names(text: str) -> tuple[str, ...]:
    """Return the names of the groups of a regular expression, "" for one without.

    Go allows two groups with one name; RE2 reports the first.
    """
    parts = (part for part in _PART.finditer(text) if part["name"] or part["group"])
    return tuple(part["name"] or "" for part in parts)
