"""What a benchmark prints: rows as JSON lines as they come, then a table, and what they amount to.

A time without end, that of a query that was lost, is null in JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

Cell = str | int | float | list[float] | dict[str, int]
Row = dict[str, Cell]


class Finding(NamedTuple):
    """One statement with its numbers, and whether the goal it speaks of is met."""

    text: str
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.text}"


class Findings:
    """Rows and statements of one run."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []
        self.statements: list[Finding] = []

    def add(self, row: Row) -> None:
        """Take in a row and print it on standard output."""
        self.rows.append(row)
        print(json.dumps(_finite(row)), flush=True)

    def state(self, text: str, *, holds: bool) -> None:
        """Take in a statement."""
        self.statements.append(Finding(text, holds))

    def finish(self, path: Path | None) -> None:
        """Print the table and the statements on standard error, and write all to a file."""
        print(f"\n{self.title}\n{_table(self.rows)}", file=sys.stderr)
        for statement in self.statements:
            print(statement, file=sys.stderr)
        if path is not None:
            statements = [statement._asdict() for statement in self.statements]
            document = {
                "title": self.title,
                "rows": list(map(_finite, self.rows)),
                "findings": statements,
            }
            path.write_text(json.dumps(document, indent=1) + "\n")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json FILE``."""
    parser.add_argument("--json", type=Path, help="write rows and findings here", metavar="FILE")


def line_through(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Return slope and intercept by least squares, and how far off the farthest point is."""
    slope, intercept = statistics.linear_regression(xs, ys)
    farthest = max(abs(y - (intercept + slope * x)) for x, y in zip(xs, ys, strict=True))
    return slope, intercept, farthest


def _finite(row: Row) -> dict[str, Cell | None]:
    return {title: None if cell == math.inf else cell for title, cell in row.items()}


def _table(rows: list[Row]) -> str:
    """Return rows as aligned columns; lists and dicts are for the JSON only."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    titles = [t for t in titles if not any(isinstance(row.get(t), list | dict) for row in rows)]
    cells = [titles, *([_text(row.get(title, "")) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _text(cell: Cell) -> str:
    if cell == math.inf:
        return "lost"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
