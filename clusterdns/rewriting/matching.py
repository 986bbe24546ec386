"""The names a rule matches, and the names it makes of them.

Names are matched as text, in lower case with the last dot. (CoreDNS: plugin/rewrite/name.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clusterdns.errors import FormError
from clusterdns.languages.regexp import Regexp, RegexpError
from clusterdns.wire import name
from clusterdns.wire.name import ROOT, WireName

EXACT, PREFIX, SUFFIX, SUBSTRING, REGEX = "exact", "prefix", "suffix", "substring", "regex"
MATCH_TYPES = (EXACT, PREFIX, SUFFIX, SUBSTRING, REGEX)
_PART_OF_REGEXP = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\{[0-9]+(?:,[0-9]*)?\}|.", re.DOTALL
)


class RuleError(ValueError):
    """An invalid rule; ``word`` is the invalid word, None for the whole rule."""

    def __init__(self, reason: str, word: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.word = word


class BadNameError(Exception):
    """A rule made a text that is not a name."""


def normal(text: str) -> str:
    """Return a name in lower case with the last dot (CoreDNS: plugin.Name.Normalize)."""
    text = text.lower()
    escapes = re.search(r"(\\*)\.$", text)
    return text if escapes and len(escapes[1]) % 2 == 0 else text + "."


def to_wire(text: str) -> bytes:
    """Return a name in wire form. Raises BadNameError."""
    try:
        return name.parse(text)
    except FormError as error:
        raise BadNameError(f"invalid name after rewrite: {text}") from error


def expand(replacement: str, groups: tuple[str, ...]) -> str:
    """Return ``replacement`` with each ``{n}`` replaced, one group after the other."""
    for i, text in enumerate(groups):
        replacement = replacement.replace(f"{{{i}}}", text)
    return replacement


def compile_regexp(pattern: str, replacement: str = "") -> Regexp:
    """Return a compiled pattern; its replacement may use only its groups. Raises RuleError."""
    try:
        found = Regexp(pattern)
    except RegexpError as error:
        raise RuleError(f"invalid regex matching pattern: {error}", pattern) from error
    if sum(f"{{{i}}}" in replacement for i in range(101)) > len(found.names):
        reason = f"the rewrite regex pattern ({replacement}) uses more subexpressions"
        raise RuleError(f"{reason} than its corresponding matching regex pattern", pattern)
    return found


class Matcher(NamedTuple):
    """Matches the names of a rule; all of them are within ``scope``."""

    match_type: str
    operand: str
    regexp: Regexp | None
    scope: WireName

    def groups(self, text: str) -> tuple[str, ...] | None:
        """Return the groups of a regex match, () for other match types, None for no match."""
        operand = self.operand
        match self.match_type:
            case "exact":
                return () if text == operand else None
            case "prefix":
                return () if text.startswith(operand) else None
            case "suffix":
                return () if text.endswith(operand) else None
            case "substring":
                return () if operand in text else None
        assert self.regexp is not None
        return self.regexp.search(text)

    def replace(self, text: str, replacement: str) -> str | None:
        """Return the new name, None if the rule does not match."""
        groups = self.groups(text)
        if groups is None:
            return None
        match self.match_type:
            case "exact":
                return replacement
            case "prefix":
                return replacement + text[len(self.operand) :]
            case "suffix":
                return text[: len(text) - len(self.operand)] + replacement
            case "substring":
                return text.replace(self.operand, replacement)
        return expand(replacement, groups)


def matcher(match_type: str, operand: str, replacement: str = "") -> Matcher:
    """Return a matcher of names. Raises RuleError."""
    if match_type == REGEX:
        found = compile_regexp(operand, replacement)
        return Matcher(match_type, operand, found, _scope_of_suffix(_literal_end(operand)))
    operand = normal(operand)
    scope = ROOT
    if match_type == SUFFIX:
        scope = _scope_of_suffix(operand)
    elif match_type == EXACT:
        scope = _zone(operand)
    return Matcher(match_type, operand, None, scope)


def _scope_of_suffix(text: str) -> WireName:
    """Return the longest zone of all names whose text ends in ``text``."""
    return ROOT if "\\" in text else _zone(text.partition(".")[2])


def _zone(text: str) -> WireName:
    try:
        return name.fold(name.parse(text))
    except FormError:
        return ROOT


def _literal_end(pattern: str) -> str:
    """Return the literal end of all matches of a pattern, "" if unknown."""
    if not pattern.endswith("$") or "\\Q" in pattern or re.search(r"\(\?(?![:P<])", pattern):
        return ""
    found, depth = "", 0
    *parts, last = _PART_OF_REGEXP.findall(pattern)
    for part in parts:
        depth += (part == "(") - (part == ")")
        if part == "|" and depth == 0:
            return ""
        if part in (r"\.", "[.]"):
            found += "."
        elif re.fullmatch("[a-z0-9_-]", part):
            found += part
        else:
            found = ""
    return found if last == "$" and depth == 0 else ""
