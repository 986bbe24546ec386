"""What a directive costs: ``python tests/bench/named.py DIRECTIVE [--rounds N]``, such as ``status``.

kubeadm's Corefile is served as it is and with the directive. They take turns, round by round; the
printed JSON has the medians of what ``unnamed.py`` measures, and the median of the ratios of each
round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import measure
import unnamed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directive")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    plain = unnamed.COREFILE
    texts = {"without": plain, "with": plain.replace("reload\n", f"reload\n    {args.directive}\n")}
    rows: dict[str, list[dict[str, float]]] = {which: [] for which in texts}
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        (directory / "cluster").mkdir()
        (directory / "cluster" / "all.yaml").write_text(unnamed.SERVICES)
        asked = unnamed.questions(directory)
        for number in range(args.rounds):
            for which in list(texts)[:: -1 if number % 2 else 1]:
                root = unnamed.PACKAGE.parent
                rows[which].append(unnamed.measured(root, directory, asked, texts[which]))
    for which, some in rows.items():
        medians = {key: round(statistics.median(row[key] for row in some), 3) for key in some[0]}
        print(json.dumps({"directive": which, **medians}))
    pairs = list(zip(rows["with"], rows["without"], strict=True))
    ratios = {
        key: round(statistics.median(row[key] / base[key] for row, base in pairs), 3)
        for key in pairs[0][0]
    }
    print(json.dumps({"directive": "with : without", **ratios}))
    return 0


if __name__ == "__main__":
    raise SystemExit(measure.run(main))
