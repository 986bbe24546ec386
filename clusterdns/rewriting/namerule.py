"""`name` rules: the name of a question, and the names in its reply.

(CoreDNS: plugin/rewrite/name.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import re

from clusterdns.languages.regexp import Regexp
from clusterdns.rewriting.matching import (
    EXACT,
    MATCH_TYPES,
    REGEX,
    SUFFIX,
    Matcher,
    RuleError,
    compile_regexp,
    expand,
    matcher,
    normal,
)
from clusterdns.rewriting.replies import Owner, Revert, TextChange, Value
from clusterdns.rewriting.rule import NeedsQueryError, RewriteRule, State
from clusterdns.wire.message import is_label


class NameRule(RewriteRule):
    """`name`."""

    def __init__(self, args: list[str]) -> None:
        if len(args) < 2:
            raise RuleError("too few arguments for a name rule")
        match_type = args.pop(0).lower() if len(args) > 2 else EXACT
        if match_type not in MATCH_TYPES:
            raise RuleError(f"a name rule is one of {', '.join(MATCH_TYPES)}", match_type)
        source, to, *rest = args
        has_labels = rest[:1] == ["metadata"]
        if has_labels and match_type != REGEX:
            raise RuleError("metadata is only supported for regex name rules")
        self._is_auto, self._answers = _answer_rules(match_type, rest[has_labels:])
        if match_type == EXACT:
            compile_regexp(
                normal(to), normal(source)
            )  # CoreDNS compiles TO as a pattern, and refuses an invalid one
        self._match = matcher(match_type, source, "" if has_labels else to)
        self._to = normal(to)
        self._labels = _replacement(to, self._match) if has_labels else None
        self._is_auto |= match_type == EXACT
        self.scope = self._match.scope

    def apply(self, state: State) -> bool:
        """Rename the question, and add the revert to the old name."""
        old = state.text
        if self._labels is not None:
            new = self._with_labels(old, state)
        else:
            new = self._match.replace(old, self._to)
        if new is None:
            return False
        state.rename(new)
        if self._is_auto:
            rewrite: TextChange
            if self._match.match_type == SUFFIX:
                rewrite = functools.partial(_end_in, self._to, self._match.operand)
            else:
                rewrite = functools.partial(_be_or_be_below, state.text, old)
            state.reverts += (Owner(rewrite), Value(rewrite))
        state.reverts += self._answers
        return True

    def _with_labels(self, text: str, state: State) -> str | None:
        """Return the name with the values of labels, None if one is missing."""
        groups = self._match.groups(text)
        if groups is None:
            return None
        if state.query is None:
            raise NeedsQueryError
        found = ""
        for part, is_literal in self._labels or ():
            if isinstance(part, int):
                found += groups[part]
            elif is_literal:
                found += part
            else:
                said = state.query.label(part)
                if not said:
                    return None
                found += said.lower()
        return found


def _end_in(old: str, new: str, text: str) -> str:
    return text[: len(text) - len(old)] + new if text.endswith(old) else text


def _be_or_be_below(old: str, new: str, text: str) -> str:
    if text == old:
        return new
    return text[: len(text) - len(old)] + new if text.endswith("." + old) else text


def _find_and_replace(pattern: Regexp, replacement: str, text: str) -> str:
    groups = pattern.search(text)
    return text if groups is None else expand(replacement, groups)


def _answer_rules(match_type: str, args: list[str]) -> tuple[bool, list[Revert]]:
    """Return whether names are reverted, and the answer rules. Raises RuleError."""
    is_auto, found, i, has_names = False, list[Revert](), 0, False
    if len(args) == 1:
        raise RuleError(f"invalid arguments for {match_type} rule", args[0])
    while i < len(args):
        if i == 0 and args[i] != "answer":
            raise RuleError(f"wants answer, and no more arguments for {match_type} rule", args[i])
        i += args[i] == "answer"
        if i == len(args):
            raise RuleError("type missing for answer rule")
        what = args[i]
        i += 1
        if what == "auto":
            is_auto = True
            continue
        if what not in ("name", "value"):
            raise RuleError("invalid type for answer rule", what)
        if len(args) - i < 2:
            raise RuleError(f"{what} answer rule takes two arguments")
        pattern, to = compile_regexp(args[i], args[i + 1]), normal(args[i + 1])
        rewrite = functools.partial(_find_and_replace, pattern, to)
        found.append(Owner(rewrite) if what == "name" else Value(rewrite))
        has_names |= what == "name"
        i += 2
    if is_auto and has_names:
        raise RuleError("answer auto cannot be combined with answer name")
    return is_auto, found


def _replacement(to: str, match: Matcher) -> list[tuple[str | int, bool]]:
    """Return the parts of a TO with labels: literals, groups and labels. Raises RuleError."""
    found: list[tuple[str | int, bool]] = []
    groups = len(match.regexp.names) if match.regexp else 0
    rest = to if to.endswith(".") else to + "."
    while rest:
        before, brace, rest = rest.partition("{")
        if "}" in before:
            raise RuleError("unmatched closing brace in metadata name replacement", to)
        if before:
            found.append((before.lower(), True))
        if not brace:
            break
        label, brace, rest = rest.partition("}")
        if not brace:
            raise RuleError("unclosed placeholder in metadata name replacement", to)
        if re.fullmatch(r"[+-]?[0-9]+", label):
            if not 0 <= int(label[:9]) <= groups:
                reason = f"capture group {label} does not exist in name matching pattern"
                raise RuleError(reason, to)
            found.append((int(label), False))
        elif not is_label(label) or "{" in label:
            raise RuleError("invalid metadata label in name replacement", label)
        else:
            found.append((label, False))
    return found
