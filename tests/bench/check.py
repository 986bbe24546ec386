"""Is the packet path as fast as it was? ``make bench-check`` fails if it costs 15 % more.

The quick set of ``run.py`` is measured and each ratio to the C echo server compared with the recorded
one: ratios, never times, since the echo server has the same machine and the same noise. What comes out
slower is measured once more, longer, and the better of the two counts. ``--record`` writes what is
measured as the new record, which belongs into the commit that made the difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import inputs
import measure
import run
import servers

RECORD = Path(__file__).with_name("recorded-quick.json")
TOLERANCE = 0.15
SERVERS = (servers.ECHO, servers.CLUSTERDNS, servers.PURE)
PLAN = run.QUICK._replace(servers=SERVERS)

Ratios = dict[str, float]  # "scenario, server" -> times the echo server


def main() -> int:
    options = _arguments()
    if options.record:
        found = ratios(PLAN._replace(rounds=2 * PLAN.rounds), run.QUICK_TITLES)
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    recorded: Ratios = json.loads(RECORD.read_text())
    found = ratios(PLAN, run.QUICK_TITLES)
    again = sorted({key.rpartition(", ")[0] for key in slower(found, recorded)})
    if again:
        longer = PLAN._replace(rounds=2 * PLAN.rounds)
        found |= {key: min(found[key], ratio) for key, ratio in ratios(longer, again).items()}
    for line in report(found, recorded):
        print(line)
    return 1 if slower(found, recorded) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    return parser.parse_args()


def ratios(plan: run.Plan, titles: Iterable[str]) -> Ratios:
    """Return what each server but the echo server costs in each scenario."""
    found: Ratios = {}
    for row in run.rows(plan, [inputs.scenario(title) for title in titles]):
        if row.server != servers.ECHO:
            found[f"{row.scenario}, {row.server}"] = row.as_json()["ratio_to_echo"]
    return found


def slower(found: Ratios, recorded: Ratios) -> list[str]:
    """Return what costs more than it may, and what is recorded and was not measured."""
    return [
        key
        for key, before in recorded.items()
        if key not in found or found[key] > before * (1 + TOLERANCE)
    ]


def report(found: Ratios, recorded: Ratios) -> Iterator[str]:
    """Yield a line for each ratio."""
    worse = slower(found, recorded)
    for key, before in recorded.items():
        if key not in found:
            yield f"{key:40} was {before:.2f} x echo, not measured: FAILED"
            continue
        verdict = "ok"
        if key in worse:
            verdict = f"FAILED: {found[key] / before - 1:.0%} more, {TOLERANCE:.0%} at most"
        elif found[key] < before * (1 - TOLERANCE):
            verdict = "much better: record it (--record)"
        yield f"{key:40} {before:.2f} -> {found[key]:.2f} x echo  {verdict}"
    for key in found.keys() - recorded.keys():
        yield f"{key:40} {found[key]:.2f} x echo, not recorded"


if __name__ == "__main__":
    sys.exit(measure.run(main))
