"""``fmt``: a Corefile in one form, with its comments."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

from clusterdns.commands.declaration import FAILED, OK, Command, Example, Parser, add_json
from clusterdns.errors import ClusterDNSError

STDIN = "-"
MAX_OCTETS = 4 * 2**20  # as the server reads


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("paths", nargs="*", metavar="FILE", help="Corefiles; standard input without one, or as `-`")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-w", "--write", action="store_true", help="write the files in the new form")
    how.add_argument("--check", action="store_true",
        help="print the names of files in another form, and return 1 if there are any")  # fmt: skip
    how.add_argument("--diff", action="store_true", help="print what would change")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output
    from clusterdns.corefile import layout

    code, plain = OK, list[dict[str, Any]]()
    for path in flags.paths or [STDIN]:
        before = _read(path)
        after = layout.formatted(before, "stdin" if path == STDIN else path)
        if flags.check and before != after:
            code = FAILED
        if flags.write and path != STDIN and before != after:
            Path(path).write_text(after)
        if flags.json:
            plain.append({"file": path, "has_form": before == after, "text": after})
        else:
            _print(flags, path, before, after)
    if flags.json:
        output.write_json({"files": plain})
    return code


def _print(flags: argparse.Namespace, path: str, before: str, after: str) -> None:
    from clusterdns.commands import output

    if flags.check:
        if before != after:
            print(path)
    elif flags.diff:
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), path, path, lineterm=""
        )
        output.write_labeled(lines, {"-": "red", "+": "green", "@": "cyan"})
    elif not flags.write or path == STDIN:
        print(after, end="")


def _read(path: str) -> str:
    """Return a text. Raises ClusterDNSError, OSError."""
    if path == STDIN:
        octets = sys.stdin.buffer.read(MAX_OCTETS + 1)
    else:
        with Path(path).open("rb") as file:
            octets = file.read(MAX_OCTETS + 1)
    if len(octets) > MAX_OCTETS:
        raise ClusterDNSError(f"{path}: larger than {MAX_OCTETS} octets")
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise ClusterDNSError(f"{path}: octet {error.start} is no UTF-8") from error


COMMAND = Command(
    "fmt",
    "print a Corefile in one form",
    "Prints a Corefile with four spaces for each brace, one between words, one empty line between\n"
    "server blocks. Comments stay. It says the same, or it is not formatted.",
    _declare,
    _run,
    (
        Example("clusterdns fmt Corefile", "print it in the one form"),
        Example("clusterdns fmt -w Corefile", "write it in the one form"),
        Example("clusterdns fmt --check Corefile", "tell whether it has this form"),
    ),
    {
        0: "formatted, or in this form",
        1: "with --check, a file has another form; or it cannot be read or formatted",
        2: "wrong arguments",
    },
)
