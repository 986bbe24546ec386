"""Put what ``run.py --json FILE`` has measured into the README: ``python tests/bench/report.py [FILE]``.

The table goes between the README's two marks, the picture beside this file. Both show, for each
scenario and server, CPU per query in units of the C echo server's in the same rounds. Without FILE the
document that is recorded here is taken; with it, FILE is recorded.

The picture needs matplotlib: ``pip install '.[bench]'``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("recorded.json")
PICTURE = Path(__file__).with_name("cpu.svg")
README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- benchmark -->\n", "<!-- /benchmark -->\n"
ECHO = "echo"
# From light to dark: ours stand out.
COLORS = {
    "clusterdns": "#0b5cad",
    "clusterdns (Python)": "#7fb2e5",
    "coredns": "#c0392b",
    "knot": "#b0b7bd",
    "unbound": "#8d959c",
    "dnsmasq": "#d5d9dc",
}

Document = dict[str, Any]


def main() -> int:
    if len(sys.argv) > 1:
        RECORD.write_text(Path(sys.argv[1]).read_text())
    document: Document = json.loads(RECORD.read_text())
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table(document) + END + rest.partition(END)[2])
    draw(document)
    return 0


def ratios(document: Document, rate: int = 0) -> dict[str, dict[str, float]]:
    """Return the ratio to the echo server by scenario and server, as fast as it goes by default."""
    found: dict[str, dict[str, float]] = {}
    for row in document["rows"]:
        if row["rate"] == rate:
            found.setdefault(row["scenario"], {})[row["server"]] = row["ratio_to_echo"]
    return found


def names(document: Document) -> list[str]:
    """Return the servers in the order in which they are shown."""
    there = {row["server"] for row in document["rows"]}
    return [name for name in COLORS if name in there]


def table(document: Document) -> str:
    """Return a table in Markdown for each rate, with the versions below."""
    versions = ", ".join(f"{name} {text}" for name, text in document["versions"].items())
    plan = document["plan"]
    below = (
        f"{plan['services']:,} Services with {plan['endpoints']} endpoints each; medians of"
        f" {plan['rounds']} rounds of {plan['seconds']} s. {versions}."
    )
    tables = [line for rate in sorted(plan["rates"]) for line in _table(document, rate)]
    return "\n".join([*tables, below]) + "\n"


def _table(document: Document, rate: int) -> list[str]:
    shown = names(document)
    echo_us = {
        row["scenario"]: row["us_per_query"]
        for row in document["rows"]
        if row["server"] == ECHO and row["rate"] == rate
    }
    title = f"{rate:,} queries a second" if rate else "as fast as it goes"
    lines = [
        f"| {title} | echo, µs | " + " | ".join(shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for scenario, found in ratios(document, rate).items():
        cells = [f"{found[name]:.2f}" if name in found else "" for name in shown]
        lines.append(f"| {scenario} | {echo_us[scenario]:.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def draw(document: Document) -> None:
    """Draw the bars, those of CoreDNS cut at nothing: the scale is the same for all."""
    import matplotlib

    matplotlib.use("svg")
    # The same document gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "clusterdns", "font.size": 9})
    from matplotlib import pyplot

    found, shown = ratios(document), names(document)
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(found) * 1.6 + 1.2))
    height = 0.86 / len(shown)
    for i, name in enumerate(shown):
        places = [n + i * height for n, each in enumerate(found.values()) if name in each]
        values = [each[name] for each in found.values() if name in each]
        bars = axes.barh(places, values, height, color=COLORS[name], label=name)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([n + 0.43 - height / 2 for n in range(len(found))], list(found))
    axes.invert_yaxis()
    axes.set_xlabel("CPU time per query, C echo server = 1 (line)")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
