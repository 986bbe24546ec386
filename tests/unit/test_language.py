"""The language of docstrings, comments and manuals: plain sentences, all that is public documented.

Pure text: the files are read, not imported.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clusterdns"
MODULES = sorted(PACKAGE.rglob("*.py"))
C_FILES = sorted((*PACKAGE.rglob("*.c"), *PACKAGE.rglob("*.h")))
MANUALS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(p for f in ("deploy", "docs", "tests", "zones") for p in (ROOT / f).rglob("*.md")),
    )
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
# Constructions that a reader has to take apart before they say anything. A subject, a verb and an
# object say the same.
RIDDLES = (
    r"\bwould else\b",
    r"\bof which\b",
    r"\bsuch as (?:are|is)\b",
    r"\b[Ww]hat (?:is|are) no\b",
    r"\bso that is no\b",
    r"(?:^|[.;] )What [a-z]",
    r"\b(?:is|are|was) to be had\b",
    r"\bis not to be\b",
    r"\bplugins? behind\b",
    r"\bfor ever\b",
    r"\bagain and again\b",
    r"\bas (?:it|they) (?:come|comes|came|stands?)\b",
    r"\bwho (?:asks|sends|reads|waits|needs|has|takes) ",
    r"\btakes? note\b",
    r"\blook(?:s|ed)? after\b",
)
RIDDLE = re.compile("|".join(RIDDLES))


def paragraphs(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield each paragraph as one line, with the number of its first line."""
    start, words = 0, list[str]()
    for number, line in [*lines, (0, "")]:
        if not line.strip():
            if words:
                yield start, " ".join(words)
            words = []
        else:
            start = start if words else number
            words.append(line.strip())


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module, paragraph by paragraph."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node, clean=False)
        if text is not None:
            first = node.body[0].lineno
            yield from paragraphs(list(enumerate(text.split("\n"), first)))


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a module; those on lines of their own by paragraph."""
    found: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            number, words = token.start[0], token.string.lstrip("# ")
            is_alone = token.line.strip().startswith("#")
            if found and not (is_alone and found[-1][0] == number - 1):
                found.append((0, ""))
            found.append((number, words))
    yield from paragraphs(found)


def c_comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a C file."""
    for match in re.finditer(r"/\*.*?\*/", text, re.DOTALL):
        words = re.sub(r"\n\s*\* ?", " ", match[0][2:-2])
        yield text.count("\n", 0, match.start()) + 1, words.strip()


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a Markdown file without its code."""
    lines: list[tuple[int, str]] = []
    is_code = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            is_code = not is_code
        kept = "" if is_code or line.startswith(("    ", "|", "```")) else line
        lines.append((number, kept))
        if line.startswith("|") and not is_code:
            lines += [(number, ""), *((number, c) for cell in line.split("|") for c in (cell, ""))]
    yield from paragraphs(lines)


def riddles_in(found: Iterator[tuple[int, str]], path: Path) -> list[str]:
    """Return where a forbidden construction stands, with it."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0].strip()!r} in {words[:120]!r}"
        for number, words in found
        for match in RIDDLE.finditer(re.sub(r"`[^`]*`", "``", words))
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_and_comments_are_plain(path):
    text = path.read_text()
    assert [] == riddles_in(docstrings(ast.parse(text)), path) + riddles_in(comments(text), path)


@pytest.mark.parametrize("path", C_FILES, ids=lambda p: p.name)
def test_comments_in_c_are_plain(path):
    assert [] == riddles_in(c_comments(path.read_text()), path)


@pytest.mark.parametrize("path", MANUALS, ids=lambda p: str(p.relative_to(ROOT)))
def test_manuals_are_plain(path):
    assert [] == riddles_in(prose(path.read_text()), path)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_all_that_is_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path}: the module has none"
    assert [] == list(undocumented(tree))


def undocumented(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yield the public classes and functions of a module or a public class without a docstring."""
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{node.lineno}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node)


def test_riddles_are_found():
    """Each construction is found, also over a line end."""
    text = (
        '"""Names that are not there would\nelse fill the socket."""\n\nX = 1  # what is no file\n'
    )
    path = ROOT / "made.py"
    found = riddles_in(docstrings(ast.parse(text)), path) + riddles_in(comments(text), path)
    assert ["made.py:1", "made.py:4"] == [line.split(": ")[0] for line in found]
