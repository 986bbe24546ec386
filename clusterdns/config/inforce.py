"""The configuration in force, line by line, with what each line does and without secrets.

A secret is hidden by its kind: an argument that its plugin declares as one (``Plugin.secrets``), an
argument of an option whose name says so, the user of a URL, and any word that looks like a key. So
secrets of plugins that declare nothing are hidden, too, and a word that is hidden without need does
no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from clusterdns.chain import registry
from clusterdns.corefile.parser import Directive, ServerBlock

HIDDEN = "(hidden)"
_SECRETIVE = re.compile(
    r"secret|passw|passphrase|token|credential|private_?key|api_?key|access_?key", re.I
)
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_FIELD = re.compile(
    rf"(?<=[?&;])([^=&;\s]*(?:{_SECRETIVE.pattern}|signature)[^=&;\s]*=)[^&;\s]+", re.I
)
_AUTHORIZATION = re.compile(r"\b((?:bearer|basic)\s+)\S+", re.I)
# 24 characters of base64 are 18 octets, those of hexadecimal digits 12: shorter ones guard nothing.
_RUN = re.compile(r"(?<![\w.+/=-])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w.+/=-])")
_HEX = re.compile(r"(?:[0-9a-f]{32,}|[0-9A-F]{32,})")
_PLAIN = re.compile(r"[^\s\"{}#]+|\{[^\s{}]*\}")


class Line(NamedTuple):
    """A line in force: where it stands, how deep, and what its directive does."""

    file: str
    line: int
    depth: int
    text: str
    meaning: str = ""


def lines(blocks: Iterable[ServerBlock]) -> Iterator[Line]:
    """Yield the lines of server blocks, in the one form that `clusterdns fmt` prints."""
    for block in blocks:
        keys = " ".join(key.text for key in block.keys)
        yield Line(block.file, block.line, 0, f"{keys} {{", "answers for these zones")
        for directive in block.directives:
            yield from _of_directive(directive)
        yield Line(block.file, 0, 0, "}")


def _of_directive(directive: Directive) -> Iterator[Line]:
    inner = secrets_of(directive.name)
    opens = " {" if directive.block else ""
    text = _text(directive, {}) + opens
    yield Line(directive.file, directive.line, 1, text, meaning(directive.name))
    for line in directive.block:
        yield Line(line.file, line.line, 2, _text(line, inner))
    if directive.block:
        yield Line(directive.file, 0, 1, "}")


def _text(directive: Directive, shown: Mapping[str, int]) -> str:
    return " ".join(map(_quoted, (directive.name, *without_secrets(directive, shown))))


def meaning(word: str) -> str:
    """Return the first sentence of a plugin's manual, "" if there is none."""
    try:
        return registry.purpose(registry.manual(word))
    except (registry.PluginError, KeyError):
        return ""


def secrets_of(word: str) -> Mapping[str, int]:
    """Return, by option, how many arguments of a plugin may be shown where the next is a secret."""
    try:
        return registry.load(word).secrets
    except (registry.PluginError, KeyError):
        return {}


def without_secrets(directive: Directive, shown: Mapping[str, int]) -> list[str]:
    """Return the arguments of a line, the secret ones hidden."""
    most = shown.get(directive.name)
    if most is None and _SECRETIVE.search(directive.name):
        most = 0
    words = list(directive.args)
    if most is not None:
        words[most:] = [HIDDEN] * len(words[most:])
    return [each if each == HIDDEN else scrubbed(each) for each in words]


def secret_words(blocks: Iterable[ServerBlock]) -> set[str]:
    """Return the words of a configuration that are hidden as a whole."""
    found = set[str]()
    for block in blocks:
        for directive in block.directives:
            inner = secrets_of(directive.name)
            found |= _hidden_in(directive, {}).union(
                *(_hidden_in(line, inner) for line in directive.block)
            )
    return found


def _hidden_in(line: Directive, shown: Mapping[str, int]) -> set[str]:
    pairs = zip(line.args, without_secrets(line, shown), strict=True)
    return {word for word, seen in pairs if word and seen == HIDDEN}


def scrubbed(text: str, words: Iterable[str] = ()) -> str:
    """Return a text without what looks like a secret, and without ``words``."""
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    text = _USER.sub(HIDDEN, text)
    text = _FIELD.sub(rf"\1{HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    return _RUN.sub(lambda found: HIDDEN if _is_key(found[0]) else found[0], text)


def _is_key(run: str) -> bool:
    """Tell whether a long run of characters is random, as keys are, and not words."""
    if run.startswith("/"):
        return False  # a path
    kinds: Sequence[bool] = (
        any(map(str.islower, run)),
        any(map(str.isupper, run)),
        any(map(str.isdigit, run)),
    )
    return all(kinds) or run.endswith("=") or bool(_HEX.fullmatch(run))


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
