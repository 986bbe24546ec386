"""docs/commands.md: every command through the real program, its output compared.

``UPDATE_DOCS=1`` writes the output into the page; `make docs` sets it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import consoles
import peers
import pytest
from consoles import Place

from clusterdns.commands import listing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"
FILES = {"corefile": "demo.Corefile", "yaml": "cm.yaml"}  # what the page has its reader write


def written(kind: str) -> str:
    """The one block of a kind in the page."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return found


def section(name: str) -> str:
    (found,) = re.findall(
        rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The directory of the page, and its server, which nobody has asked anything."""
    directory = tmp_path / "zones"
    shutil.copytree(ROOT / "zones", directory)
    for kind, name in FILES.items():
        (directory / name).write_text(written(kind))
    text = written("corefile").replace("status", f"status 127.0.0.1:{peers.free_port()}", 1)
    command = [*peers.COMMAND, "serve"]
    with peers.running(command, text, directory) as server:
        peers.wait_until_askable(server)  # and not until it answers: `top` counts queries
        yield Place(directory, server, FILES["corefile"])


def test_the_page_shows_what_the_commands_print(place):
    consoles.check(PAGE, lambda command: consoles.run(command, place))


@pytest.mark.parametrize("name", listing.NAMES)
def test_each_command_has_its_section(name):
    text = section(name)
    assert any(f"clusterdns {name}" in command for command, _ in consoles.commands(text))
    codes = "; ".join(f"{code}: {words}" for code, words in listing.load(name).exits.items())
    assert f"\nExit codes: {codes}.\n" in text


def test_no_section_is_of_a_command_that_is_gone():
    assert [*listing.NAMES] == re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
