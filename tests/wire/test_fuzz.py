"""Every fuzz target runs for a moment; `make fuzz` runs them for as long as you like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = sorted((Path(__file__).parent / "fuzz").glob("fuzz_*.py"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_fuzz_target(target):
    done = subprocess.run(
        [sys.executable, str(target), "2", "1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_there_are_targets():
    assert len(TARGETS) >= 2
