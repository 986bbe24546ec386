"""Output of commands: in color on a terminal only, as JSON if asked for.

Rich decides whether there is a terminal, and respects NO_COLOR and TERM. Everything else is written
as it is, unwrapped, so that it can be searched and compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.text import Text


def console() -> Console:
    """Return the console of standard output."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)


def write(lines: Iterable[Text | str]) -> None:
    """Write lines to standard output; the styles of a text show on a terminal only."""
    to = console()
    for line in lines:
        if to.is_terminal:
            to.print(line)
        else:
            sys.stdout.write(f"{line}\n")


def write_labeled(lines: Iterable[str], styles: Mapping[str, str]) -> None:
    """Write lines whose labels have styles, see ``labeled``."""
    write(labeled(line, styles) for line in lines)


def write_json(value: object) -> None:
    """Write a value as one JSON object, with indentation on a terminal."""
    is_terminal = sys.stdout.isatty()
    print(json.dumps(value, indent=2 if is_terminal else None, ensure_ascii=False))


def labeled(line: str, styles: Mapping[str, str]) -> Text:
    """Return a line whose label, with which it starts, has the style that is given for it."""
    text = Text(line)
    for label, style in styles.items():
        if line.startswith(label):
            text.stylize(style, 0, len(label))
    return text
