"""Try tests that failed once more, alone: ``python tests/again.py STATUS``, by ``make test``.

Many tests hold how long something takes, and two of them run side by side: on a busy machine one of
thousands comes too late. What is broken fails alone, too. The few that fail at first are named
before they are tried again, and more than a few are not tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 4  # failures that can be chance
CACHE = Path(".pytest_cache/v/cache/lastfailed")


def main(status: int) -> int:
    """Return the exit status of the tests that failed, tried again after a run with ``status``."""
    failed = sorted(json.loads(CACHE.read_text())) if CACHE.exists() else []
    if status != 1 or not 0 < len(failed) <= MOST:  # 1: tests failed, and nothing else
        return status
    print("\nFailed beside others, tried again alone:", *failed, sep="\n  ", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *failed]).returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
