"""Every fuzz target runs for a moment; `make fuzz` runs them for as long as you like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scoreboard

FUZZ = Path(__file__).parent / "fuzz"
FUZZ_S = scoreboard.size("FUZZ_S", 2, 60)
TARGETS = sorted(FUZZ.glob("fuzz_*.py"))
GUIDED = sorted(path for path in FUZZ.glob("*.py") if "guided.py TARGET" not in path.read_text()
                and f"guided.py {path.stem}" in path.read_text())  # fmt: skip


@pytest.mark.row("W1")
@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_fuzz_target(target, figure):
    done = subprocess.run(
        [sys.executable, str(target), str(FUZZ_S), "1"],
        capture_output=True, text=True, timeout=FUZZ_S + 60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    count = int(done.stdout.split()[0])
    figure("W1", f"`{target.stem}` {{count:,}} in {{seconds}} s", count=count, seconds=FUZZ_S)


@pytest.mark.parametrize("target", GUIDED, ids=lambda path: path.stem)
def test_guided_target(target):
    """Seeds, inputs that once failed, and mutations for two seconds."""
    done = subprocess.run(
        [sys.executable, str(FUZZ / "guided.py"), target.stem, "2", "1"],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_there_are_targets():
    assert len(TARGETS) >= 2
    assert len(GUIDED) >= 8
