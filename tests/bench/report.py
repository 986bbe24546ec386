"""Put what ``run.py --json`` has measured into the pages: ``report.py [FILE [FORMS]]``.

The tables go between two marks of docs/benchmarks.md, some rows of the first between those of the
README, the picture beside this file. All show, for each scenario and server, CPU per query in units of
the C echo server's in the same rounds. The README and the table of FORMS, what ``run.py --forms`` has
measured, begin with the rows where clusterdns is worst beside CoreDNS. Without files the documents that
are recorded here are taken; with them, they are recorded.

The picture needs matplotlib: ``pip install '.[bench]'``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("recorded.json")
FORMS = Path(__file__).with_name("recorded-forms.json")
PICTURE = Path(__file__).with_name("cpu.svg")
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmark -->\n", "<!-- /benchmark -->\n"
FORMS_MARK = "forms"  # in the marks of the second table
ECHO, PEER = "echo", "coredns"
OURS = ("clusterdns", "clusterdns (Python)")
# What the README shows besides the rows where we do worst: what clusters ask for most.
SUMMARY = ("uncached external", "mixed", "a", "cached external", "random nxdomain", "tcp")
# From light to dark: ours stand out.
COLORS = {
    "clusterdns": "#0b5cad",
    "clusterdns (Python)": "#7fb2e5",
    "clusterdns (compiled)": "#0b5cad",
    "clusterdns (compiled, no C)": "#7fb2e5",
    PEER: "#c0392b",
    "knot": "#b0b7bd",
    "unbound": "#8d959c",
    "dnsmasq": "#d5d9dc",
}

Document = dict[str, Any]


def main() -> int:
    for file, record in zip(sys.argv[1:], (RECORD, FORMS), strict=False):
        record.write_text(Path(file).read_text())
    document: Document = json.loads(RECORD.read_text())
    put(README, summary(document))
    put(PAGE, table(document))
    if FORMS.exists():
        put(PAGE, forms(json.loads(FORMS.read_text())), FORMS_MARK)
    draw(document)
    return 0


def put(page: Path, text: str, mark: str = "benchmark") -> None:
    """Write ``text`` between the two marks of a page."""
    begin, end = (each.replace("benchmark", mark) for each in (BEGIN, END))
    before, _, rest = page.read_text().partition(begin)
    page.write_text(before + begin + text + end + rest.partition(end)[2])


def shown(page: Path, mark: str = "benchmark") -> str:
    """Return what is between the two marks of a page."""
    begin, end = (each.replace("benchmark", mark) for each in (BEGIN, END))
    return page.read_text().partition(begin)[2].partition(end)[0]


def summary(document: Document) -> str:
    """Return the README's rows in Markdown, and what they were measured with."""
    scenarios = [each for each in worst_first(document) if "churn" not in each]
    worst = {max(scenarios, key=lambda each: _beside(document, each, (name,))) for name in OURS}
    rows = [each for each in scenarios if each in worst or each in SUMMARY]
    return "\n".join([*_table(document, 0, rows), _versions(document)]) + "\n"


def forms(document: Document) -> str:
    """Return the table of the forms of a query, the worst row first."""
    lines = _table(document, 0, worst_first(document))
    return "\n".join([*lines, _versions(document)]) + "\n"


def worst_first(document: Document) -> list[str]:
    """Return the scenarios, first those where one of ours is worst beside CoreDNS."""
    return sorted(ratios(document), key=lambda each: -_beside(document, each, OURS))


def _beside(document: Document, scenario: str, names: Sequence[str]) -> float:
    """Return the worst ratio of servers to CoreDNS, 0 where it was not measured."""
    found = ratios(document)[scenario]
    peer = found.get(PEER, math.inf)
    return max((found[name] / peer for name in names if name in found), default=0.0)


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
    rates = sorted(document["plan"]["rates"])
    tables = [line for rate in rates for line in _table(document, rate)]
    return "\n".join([*tables, _versions(document)]) + "\n"


def _versions(document: Document) -> str:
    versions = ", ".join(f"{name} {text}" for name, text in document["versions"].items())
    plan = document["plan"]
    return (
        f"{plan['services']:,} Services with {plan['endpoints']} endpoints each; medians of"
        f" {plan['rounds']} rounds of {plan['seconds']} s. {versions}."
    )


def _table(document: Document, rate: int, scenarios: Sequence[str] = ()) -> list[str]:
    """Return the lines of one table, of all scenarios if none is named."""
    servers = names(document)
    echo_us = {
        row["scenario"]: row["us_per_query"]
        for row in document["rows"]
        if row["server"] == ECHO and row["rate"] == rate
    }
    title = f"{rate:,} queries a second" if rate else "as fast as it goes"
    lines = [
        f"| {title} | echo, µs | " + " | ".join(servers) + " |",
        "|---|---|" + "---|" * len(servers),
    ]
    measured = ratios(document, rate)
    for scenario in scenarios or measured:
        found = measured[scenario]
        cells = [f"{found[name]:.2f}" if name in found else "" for name in servers]
        lines.append(f"| {scenario} | {echo_us[scenario]:.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def draw(document: Document) -> None:
    """Draw the bars, those of CoreDNS cut at nothing: the scale is the same for all."""
    import matplotlib

    matplotlib.use("svg")
    # The same document gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "clusterdns", "font.size": 9})
    from matplotlib import pyplot

    found, servers = ratios(document), names(document)
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(found) * 1.6 + 1.2))
    height = 0.86 / len(servers)
    for i, name in enumerate(servers):
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
