"""The README's table of plugins, made of the code: ``make docs`` writes it, a test compares it."""

from __future__ import annotations

import sys
from pathlib import Path

from clusterdns.chain import registry
from clusterdns.chain.registry import COREDNS_ORDER

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- plugins -->\n", "<!-- /plugins -->\n"
HOOK = "on"  # `on startup COMMAND` of the Corefile's parser; CoreDNS lists it with the plugins


def main() -> int:
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
    return 0


def table() -> str:
    """Return the plugins of CoreDNS, served or not, and ours, as a table in Markdown."""
    theirs, served = sorted({*COREDNS_ORDER} - {HOOK}), {*registry.available()}
    rows = {
        f"served, of CoreDNS's {len(theirs)}": [word for word in theirs if word in served],
        "not served: refused at the start": [word for word in theirs if word not in served],
        "our own": sorted(served - {*theirs}),
    }
    lines = [f"| {state} | {' '.join(words)} |" for state, words in rows.items()]
    return "\n".join(["| | plugins |", "|---|---|", *lines]) + "\n"


def shown() -> str:
    """Return what the README has."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    sys.exit(main())
