"""From the words of a Corefile to server blocks: imports, snippets, keys, directives.

``parse`` reads words (lexer.py) from a stack of frames: the Corefile at the bottom, and imported
texts above it. It knows only the grammar: checks.py and the plugins know the directives and their
arguments. CoreDNS: caddy caddyfile/parse.go.

Any text results in server blocks or a ConfigError, in bounded time and memory.

Pure: no sockets, clock, threads or randomness; files come in through ``Files``.
"""

from __future__ import annotations

import difflib
import itertools
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from clusterdns.corefile.keys import Key, is_preferred, parse_key
from clusterdns.corefile.lexer import Files, Word, expand, lex, shorten
from clusterdns.errors import ConfigError

# CoreDNS has no limits for depth and amount.
MAX_SNIPPET_IMPORTS = 10_000
MAX_FILE_IMPORTS = 100_000
MAX_DEPTH = 100  # files and snippets may import each other
MAX_IMPORTED_WORDS = 500_000  # nested imports multiply
MAX_KEYS = 65_536  # a CIDR text has up to 128 keys
_MAX_GUESSED_CHARACTERS = 40  # longer than any known word; keeps guessing cheap


class Directive(NamedTuple):
    """A line of a server block, or of another directive's block, with the words on it."""

    name: str
    args: tuple[str, ...]
    block: tuple[Directive, ...]
    file: str
    line: int
    has_block: bool

    def error(self, reason: str, word: str | None = None) -> ConfigError:
        """Return an error on this line, at ``word`` or at its first word."""
        shown = shorten(self.name if word is None else word)
        return ConfigError(self.file, self.line, shown, reason)

    def unknown(self, *known: str) -> ConfigError:
        """Return the error for an unknown property; ``known`` are those of the plugin."""
        return self.error(f"unknown property{did_you_mean(self.name, known)}")


class ServerBlock(NamedTuple):
    """A server block: at least one key, and its directives in the order of the file."""

    keys: tuple[Key, ...]
    directives: tuple[Directive, ...]
    file: str
    line: int

    def find(self, name: str) -> list[Directive]:
        """Return all occurrences of a directive."""
        return [directive for directive in self.directives if directive.name == name]


def parse(
    text: str,
    file: str,
    *,
    environ: Mapping[str, str],
    files: Files,
    warn: Callable[[str], None],
    fragments: Fragments | None = None,
    broken: Callable[[ConfigError], None] | None = None,
) -> list[ServerBlock]:
    """Return the server blocks of a Corefile; the empty list if it has none.

    With ``fragments``, files found by a pattern must be complete, and may be left out. ``broken``,
    if given, is called with a mistake, and the blocks before it are returned.

    Raises:
        ConfigError: the text, or a file it imports, has a mistake.
    """
    parser = _Parser(lex(text, file), environ, files, warn, fragments)
    blocks: list[ServerBlock] = []
    keys = 0
    try:
        while parser.peek() is not None:
            block = parser.block()
            if block is None:
                continue
            keys += len(block.keys)
            if keys > MAX_KEYS:
                first = shorten(block.keys[0].text)
                raise ConfigError(block.file, block.line, first, "too many zones")
            blocks.append(block)
    except ConfigError as error:
        if broken is None:
            raise
        broken(error)
    return blocks


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the word of ``known`` that is most similar to ``word``, or ""."""
    if len(word) > _MAX_GUESSED_CHARACTERS:
        return ""
    found = difflib.get_close_matches(word.lower(), known, n=1)
    return f', did you mean "{found[0]}"?' if found else ""


class Fragments:
    """Files found by a pattern in an `import`.

    ``found`` are their paths in the order of their import; ``left_out`` those that are read, to
    notice changes, but not used.
    """

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.left_out: set[str] = set()


class _Frame:
    """The remaining words of one text: the Corefile, an imported file or a snippet."""

    __slots__ = ("at", "words")

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self.at = 0


class _Parser:
    """Reads words from a stack of frames; an import puts a frame on top."""

    def __init__(
        self,
        words: Sequence[Word],
        environ: Mapping[str, str],
        files: Files,
        warn: Callable[[str], None],
        fragments: Fragments | None,
    ) -> None:
        self._frames = [_Frame(words)]
        self._last = Word("", "", 0, True)
        self._environ = environ
        self._files = files
        self._warn = warn
        self._fragments = fragments
        self._snippets: dict[str, list[Word]] = {}
        self._imported: dict[str, list[Word]] = {}  # words by pattern: a text is read once
        self._snippet_imports = self._file_imports = self._imported_words = 0

    def peek(self) -> Word | None:
        """Return the next word without taking it, None at the end."""
        while True:
            frame = self._frames[-1]
            if frame.at < len(frame.words):
                return frame.words[frame.at]
            if len(self._frames) == 1:
                return None
            self._frames.pop()

    def _on_line(self) -> Word | None:
        """Return the next word if it is on the line of the last one and in its frame."""
        frame = self._frames[-1]
        if frame.at < len(frame.words) and not frame.words[frame.at].starts_line:
            return frame.words[frame.at]
        return None

    def _take(self, word: Word) -> str:
        """Consume ``word``, the next one; return its text with variables replaced."""
        self._frames[-1].at += 1
        self._last = word
        return expand(word, self._environ)

    def block(self) -> ServerBlock | None:
        """Read a server block or a snippet; None for a snippet."""
        keys = self._keys()
        start = self.peek()
        if start is not None and len(keys) == 1:
            text, word = keys[0]
            if text.startswith("(") and text.endswith(")"):
                self._define_snippet(text[1:-1], word)
                return None
        directives = self._directives()
        if not keys:
            if start is not None:
                self._warn(f"{start.file}:{start.line}: server block without a zone is ignored")
            return None
        first = keys[0][1]
        found: list[Key] = []
        for text, word in keys:
            found += self._expand_key(text, word)
            if len(found) > MAX_KEYS:
                raise word.error("too many zones")
        return ServerBlock(tuple(found), tuple(directives), first.file, first.line)

    def _keys(self) -> list[tuple[str, Word]]:
        """Read the keys of a block, up to the end of the line or the brace."""
        keys: list[tuple[str, Word]] = []
        wants_more, is_first = False, True
        while (word := self.peek()) is not None:
            if word.starts_line and not is_first and not wants_more:
                return keys
            text = expand(word, self._environ)
            if text == "import" and word.starts_line:
                self._import(word, is_outside=True)
                continue
            if text == "{":
                if wants_more:
                    raise word.error("a zone must follow the comma")
                return keys
            self._take(word)
            is_first = False
            if text:
                wants_more = text.endswith(",")
                keys.append((text.removesuffix(","), word))
        if wants_more:
            raise self._last.error("a zone must follow the comma")
        return keys

    def _expand_key(self, text: str, word: Word) -> list[Key]:
        try:
            keys = parse_key(text)
        except ValueError as error:
            raise ConfigError(word.file, word.line, shorten(text), str(error)) from error
        for key in keys:
            if not is_preferred(key.zone):
                self._warn(f'domain "{key.zone}" does not follow RFC1035 preferred syntax')
        return keys

    def _directives(self) -> list[Directive]:
        """Read the body of a server block: to its closing brace, or to the end without braces."""
        opening = self.peek()
        has_brace = opening is not None and opening.text == "{"
        if opening is not None and has_brace:
            self._take(opening)
        directives: list[Directive] = []
        while (word := self.peek()) is not None:
            if word.text == "}":
                self._take(word)
                return directives
            if word.text == "import":
                self._import(word)
            else:
                directives.append(self._directive(word))
        if opening is not None and has_brace:
            if self._last.text != "}":
                raise opening.error("is not closed before the end of the file")
            # As in CoreDNS, the brace of the last directive also ends the server block.
            self._warn(f"{opening.file}:{opening.line}: server block lacks its closing brace")
        return directives

    def _directive(self, head: Word) -> Directive:
        """Read a directive of a server block, with its block."""
        if head.text == "{":
            raise head.error("unexpected brace")
        name, args = self._take(head), list[str]()
        while (word := self.peek()) is not None and (not word.starts_line or word.text == "{"):
            if word.text == "}":
                raise word.error(f"unexpected behind {shorten(name)!r}: must start a line")
            if word.text == "{":
                if word.starts_line:
                    raise word.error(f"must stand at the end of the line of {shorten(name)!r}")
                block = self._body(word)
                return Directive(name, tuple(args), block, head.file, head.line, True)
            args.append(self._take(word))
        return Directive(name, tuple(args), (), head.file, head.line, False)

    def _body(self, opening: Word) -> tuple[Directive, ...]:
        """Read the block of a directive, from its opening to its closing brace."""
        self._take(opening)
        lines: list[Directive] = []
        while (word := self.peek()) is not None:
            if word.text == "}":
                self._take(word)
                if lines and not word.starts_line:  # CoreDNS: Dispenser.RemainingArgs
                    self._warn(
                        f"{word.file}:{word.line}: CoreDNS takes this }} for an argument of "
                        f"{shorten(lines[-1].name)!r}; let it start a line"
                    )
                after = self.peek()
                if after is not None and not after.starts_line:
                    raise after.error("unexpected behind a closing brace")
                return tuple(lines)
            if word.text == "import" and word.starts_line:
                self._import(word)
            else:
                lines.append(self._line(word))
        raise opening.error("is not closed before the end of the file")

    def _line(self, head: Word) -> Directive:
        """Read a line of a directive's block. A closing brace ends it, even on the same line."""
        if head.text == "{":
            raise head.error("unexpected brace")
        name, args = self._take(head), list[str]()
        while (word := self.peek()) is not None and word.text != "}":
            if word.text == "{":
                raise word.error(
                    f"{shorten(name)!r} takes no block"
                )  # CoreDNS: Dispenser.NextBlock
            if word.starts_line:
                break
            args.append(self._take(word))
        return Directive(name, tuple(args), (), head.file, head.line, False)

    def _define_snippet(self, name: str, key: Word) -> None:
        """Read the body of a snippet and keep its words."""
        if name in self._snippets:
            raise key.error("snippet is defined already")
        word = self.peek()
        if word is None or word.text != "{":
            raise key.error("a snippet needs a block in braces")
        self._take(word)
        words: list[Word] = []
        depth = 1
        while (word := self.peek()) is not None:
            self._frames[-1].at += 1
            self._last = word
            depth += (word.text == "{") - (word.text == "}")
            if not depth:
                break
            words.append(word)
        if depth:
            raise key.error("the snippet's block is not closed before the end of the file")
        if words:
            words[0] = words[0]._replace(starts_line=True)
        for word, after in itertools.pairwise(words):
            is_import = word.text == "import" and word.starts_line
            if is_import and expand(after, self._environ) == name:
                raise after.error("a snippet cannot import itself")
        self._snippets[name] = words

    def _import(self, head: Word, *, is_outside: bool = False) -> None:
        """Insert the words of a snippet, a file or a pattern of files before the next word.

        ``is_outside`` tells that the import is outside of server blocks.
        """
        self._take(head)
        argument = self._on_line()
        if argument is None:
            raise head.error("wants a snippet, a file or a pattern of files")
        target = self._take(argument)
        if not target:
            raise head.error("wants a snippet, a file or a pattern of files, got nothing")
        if self._on_line() is not None:
            raise head.error("takes one argument")
        words = self._snippets.get(target)
        if words is not None:
            self._snippet_imports += 1
        else:
            words = self._read(target, argument, is_outside)
            self._file_imports += 1
        self._imported_words += len(words)
        if self._snippet_imports > MAX_SNIPPET_IMPORTS or self._file_imports > MAX_FILE_IMPORTS:
            raise head.error(f"too many imports, the last one of {shorten(target)!r}")
        if self._imported_words > MAX_IMPORTED_WORDS:
            raise head.error(
                f"more than {MAX_IMPORTED_WORDS} words, the last ones from {shorten(target)!r}"
            )
        if len(self._frames) > MAX_DEPTH:
            raise head.error(f"{shorten(target)!r} is imported more than {MAX_DEPTH} levels deep")
        self._frames.append(_Frame(words))

    def _read(self, target: str, word: Word, is_outside: bool) -> list[Word]:
        """Return the words of the files of ``target``, a path relative to the file of ``word``."""
        pattern = posixpath.join(posixpath.dirname(word.file), target)
        if pattern in self._imported:
            return self._imported[pattern]
        if pattern.count("*") > 1 or pattern.count("?") > 1 or "[" in pattern:
            raise ConfigError(
                word.file,
                word.line,
                "import",
                f"a pattern has at most one * and one ? and no [: {shorten(pattern)}",
            )
        is_pattern = any(character in pattern for character in "*?]")
        words = list[Word]()
        try:
            paths = self._files.glob(pattern)
            for path in paths:
                if is_pattern and self._fragments is not None:
                    words += self._fragment(path, self._fragments, is_outside)
                else:
                    words += self._whole_file(path)
                if len(words) > MAX_IMPORTED_WORDS:
                    break  # the caller raises the error
        except (OSError, ValueError) as error:
            reason = f"cannot read {shorten(target)!r}: {error}"
            raise ConfigError(word.file, word.line, "import", reason) from error
        if not paths:
            if not is_pattern:
                raise ConfigError(word.file, word.line, "import", f"no file {shorten(target)!r}")
            self._warn(f"No files matching import glob pattern: {shorten(target)}")
        self._imported[pattern] = words
        return words

    def _whole_file(self, path: str) -> list[Word]:
        if not path.isprintable():  # it appears in messages
            raise ValueError("the name of the file is not printable")
        return lex(self._files.read(path), path)

    def _fragment(self, path: str, fragments: Fragments, is_outside: bool) -> list[Word]:
        """Return the words of a file found by a pattern, none if it is left out.

        Its braces must be paired, and outside of server blocks it must end with a brace; otherwise
        it would change the blocks around it.
        """
        fragments.found[path] = None
        try:
            words = self._whole_file(path)
        except (OSError, ValueError) as error:
            if path in fragments.left_out:
                return []
            raise ConfigError(path, 0, "", f"cannot read it: {error}") from error
        if path in fragments.left_out:
            return []
        opened = list[Word]()
        for word in words:
            if word.text == "{":
                opened.append(word)
            elif word.text == "}":
                if not opened:
                    raise word.error("closes what this file has not opened")
                opened.pop()
        if opened:
            raise opened[-1].error("is not closed before the end of the file")
        line = next((word for word in reversed(words) if word.starts_line), None)
        if is_outside and line and words[-1].text != "}" and line.text != "import":
            raise line.error("wants the directives of a server block, in braces")
        return words
