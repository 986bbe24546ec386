"""docs/debugging.md and zones/faults: every command through the real program, its output compared.

``UPDATE_DOCS=1`` writes the output into the page; `make docs` sets it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "debugging.md"
FAULTS = ROOT / "zones" / "faults"
CONSOLE = re.compile(r"(?<=^```console\n)\$ ([^\n]+)\n(.*?)(?=^```)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| ([^|]+) \| `(clusterdns [^`]+)` \| (`{1,2})(.+?)\3 \|$", re.MULTILINE)
LAB = "127.0.0.1:1053"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The cluster of the faults, served; its address."""
    text = (FAULTS / "Corefile").read_text()
    text = text.replace(". {\n", f".:{{PORT}} {{\n    root {FAULTS}\n", 1)
    with peers.clusterdns(text, tmp_path_factory.mktemp("faults")) as running:
        yield f"{running.address[0]}:{running.address[1]}"


def run(command: str, address: str) -> str:
    """Return the output of a command, without what is different each time."""
    program, *words = command.split()
    assert "clusterdns" == program
    done = subprocess.run(
        [sys.executable, "-m", "clusterdns", *(word.replace(LAB, address) for word in words)],
        cwd=FAULTS, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "" == done.stderr
    return plain(done.stdout.replace(address, LAB))


def plain(text: str) -> str:
    text = re.sub(r"\b(\d+\.\d|N) ms\b", "0.5 ms", text)
    return re.sub(r"(hostmaster\.[a-z.]+) \d{10} ", r"\1 1795965840 ", text)


def test_the_page_shows_what_the_commands_print(server):
    text = PAGE.read_text()
    made = CONSOLE.sub(lambda found: f"$ {found[1]}\n{run(found[1], server)}", text)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(made)
        return
    assert made == plain(text), "run `UPDATE_DOCS=1 pytest tests/system/test_debugging.py`"
    assert 11 <= len(CONSOLE.findall(text))


@pytest.mark.parametrize("row", ROW.findall((FAULTS / "README.md").read_text()), ids=lambda r: r[0])
def test_each_fault_is_named_by_one_command_in_one_line(row, server):
    _, command, _, line = row
    assert plain(line) in [each.strip() for each in run(command, server).splitlines()]


def test_there_are_eight_faults():
    assert 8 == len(ROW.findall((FAULTS / "README.md").read_text()))


def test_the_page_shows_every_fault():
    shown = {command for command, _ in CONSOLE.findall(PAGE.read_text())}
    assert {row[1] for row in ROW.findall((FAULTS / "README.md").read_text())} <= shown
