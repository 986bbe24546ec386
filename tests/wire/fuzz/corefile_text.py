# Invariant: whatever the Corefile, what it imports and the environment, it compiles or raises ConfigError.
"""Fuzz Corefiles up to their plugins: ``guided.py corefile_text``.

A line of dashes parts the Corefile from the text of every file that it imports.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import fuzz_corefile

from clusterdns.chain.registry import COREDNS_ORDER

CASES = Path(__file__).resolve().parents[1] / "cases"
PARTING = b"\n----\n"
WORDS = (
    *(word.encode() + b" " for word in COREDNS_ORDER),
    *(piece.encode("utf-8", "surrogatepass") for piece in fuzz_corefile.PIECES),
    PARTING,
)
logging.disable(logging.CRITICAL)


def seeds() -> list[bytes]:
    """Return Corefiles of the case files, and those with imports."""
    found = [text.encode() + PARTING + b"log\n" for text in fuzz_corefile.SEEDS]
    for path in sorted(CASES.rglob("*.case")):
        for text in re.findall(r"^corefile\n((?:  .*\n)+)", path.read_text(), re.MULTILINE):
            found.append(text.replace("{port}", "53").encode())
    return found


def examine(data: bytes) -> None:
    """Hold the invariant for one Corefile."""
    text, _, imported = data.partition(PARTING)
    words = text.decode("utf-8", "surrogateescape"), imported.decode("utf-8", "surrogateescape")
    fuzz_corefile.examine(*words, "{$X}a b")
