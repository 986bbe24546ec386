"""What a directive costs: ``python tests/bench/named.py DIRECTIVE [--rounds N]``, such as ``status``.

kubeadm's Corefile is served as it is and with the directive. They take turns, round by round; the
printed JSON has the medians of what ``unnamed.py`` measures, and the median of the ratios of each
round.
"""

from __future__ import annotations

import argparse
import json
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
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        asked = unnamed.prepared(directory)
        root = unnamed.PACKAGE.parent
        rows = unnamed.in_turns(
            list(texts),
            args.rounds,
            lambda which: unnamed.measured(root, directory, asked, texts[which]),
        )
    for which, some in rows.items():
        print(json.dumps({"directive": which, **unnamed.medians(some)}))
    pairs = zip(rows["with"], rows["without"], strict=True)
    ratios = [{key: row[key] / base[key] for key in row} for row, base in pairs]
    print(json.dumps({"directive": "with : without", **unnamed.medians(ratios)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(measure.run(main))
