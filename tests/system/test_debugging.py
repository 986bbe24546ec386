"""docs/debugging.md and zones/faults: every command through the real program, its output compared.

``UPDATE_DOCS=1`` writes the output into the page; `make docs` sets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import consoles
import peers
import pytest
from consoles import Place

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "debugging.md"
FAULTS = ROOT / "zones" / "faults"
ROW = re.compile(r"^\| ([^|]+) \| `(clusterdns [^`]+)` \| (`{1,2})(.+?)\3 \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The cluster of the faults, served."""
    text = (FAULTS / "Corefile").read_text()
    text = text.replace(". {\n", f".:{{PORT}} {{\n    root {FAULTS}\n", 1)
    with peers.clusterdns(text, tmp_path_factory.mktemp("faults")) as server:
        yield Place(FAULTS, server)


def test_the_page_shows_what_the_commands_print(place):
    consoles.check(PAGE, lambda command: consoles.run(command, place))
    assert 11 <= len(consoles.commands(PAGE.read_text()))


@pytest.mark.parametrize("row", ROW.findall((FAULTS / "README.md").read_text()), ids=lambda r: r[0])
def test_each_fault_is_named_by_one_command_in_one_line(row, place):
    _, command, _, line = row
    found = consoles.run(command, place)
    assert consoles.plain(line) in [each.strip() for each in found.splitlines()]


def test_there_are_eight_faults():
    assert 8 == len(ROW.findall((FAULTS / "README.md").read_text()))


def test_the_page_shows_every_fault():
    shown = {command for command, _ in consoles.commands(PAGE.read_text())}
    assert {row[1] for row in ROW.findall((FAULTS / "README.md").read_text())} <= shown
