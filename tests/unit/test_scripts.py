"""Every shell script of the project, as ShellCheck reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> list[Path]:
    """The files under version control that a shell runs, by their first line or name."""
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:  # an unpacked sdist
        found = [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    else:
        found = [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]
    return [
        path
        for path in found
        if path.suffix == ".sh" or _first_line(path).endswith(("/sh", "/bash"))
    ]


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        line = file.readline(64).decode("latin-1").rstrip()
    return line if line.startswith("#!") else ""


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("needs ShellCheck: apt-get install shellcheck")
    found = scripts()
    assert {"switch.sh", "netns.sh", "run"} <= {path.name for path in found}
    command = ["shellcheck", "-x", *map(str, found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout
