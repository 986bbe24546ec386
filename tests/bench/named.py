"""What a directive costs: ``python tests/bench/named.py DIRECTIVE [--rounds N]``, such as ``status``.

Two servers have kubeadm's Corefile, one as it is and one with the directive. In each round both are
asked the same, in turns: Services asked before (hit), names that the chain answers from memory
(miss), names that do not exist in the cluster (denied), and names outside, over UDP (relayed) and
TCP, where the chain waits for the upstream server (waited). The printed JSON has the medians of the
CPU time of a query, and the medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import apicluster
import measure
import peers
import unnamed


class Kind(NamedTuple):
    """A kind of query: how the ``i``-th name of it is spelled, and how many are asked in a round."""

    name: str
    queries: int
    transport: str = "udp"


KINDS = {
    "hit": Kind("s{hot}.default.svc.cluster.local", 60_000),
    "miss": Kind("10-{high}-{middle}-{low}.default.pod.cluster.local", 8_000),
    "denied": Kind("n{i}.default.svc.cluster.local", 60_000),
    "relayed": Kind("n{i}.relayed.example", 15_000),
    "waited": Kind("n{i}.waited.example", 2_000, "tcp"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directive")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as text,
        served(Path(text), args.directive) as servers,
    ):
        for kind in KINDS:
            one_round(servers, kind, -1, Path(text))  # the first of everything
        rows = {
            kind: [one_round(servers, kind, i, Path(text)) for i in range(args.rounds)]
            for kind in KINDS
        }
        memory = {which: measure.pss_mib(each.process.pid) for which, each in servers.items()}
    for which in servers:
        times = {f"{k}_us": middle(row[which] for row in some) for k, some in rows.items()}
        print(json.dumps({"directive": which, **times, "pss_mib": round(memory[which], 1)}))
    ratios = {k: middle(r["with"] / r["without"] for r in some) for k, some in rows.items()}
    print(json.dumps({"directive": "with : without", **ratios}))
    return 0


@contextlib.contextmanager
def served(directory: Path, directive: str) -> Iterator[dict[str, peers.Server]]:
    """Run both servers on one core, and their upstream server on the other."""
    unnamed.write_cluster(directory)
    with (
        apicluster.echo(directory, measure.LOAD_CORE, "answer") as upstream,
        contextlib.ExitStack() as stack,
    ):
        plain = unnamed.COREFILE.replace("127.0.0.1:1 ", f"127.0.0.1:{upstream.port} ")
        texts = {"without": plain, "with": plain.replace("reload\n", f"reload\n    {directive}\n")}
        servers = {}
        for which, text in texts.items():
            with measure.pinned(measure.SERVER_CORE):
                running = peers.running(peers.COMMAND, unnamed.corefile(text), directory)
                servers[which] = stack.enter_context(running)
            peers.wait_until_answering(servers[which])
        yield servers


def one_round(
    servers: dict[str, peers.Server], kind: str, number: int, directory: Path
) -> dict[str, float]:
    """Return the CPU time of a query of each server, in microseconds."""
    _, queries, transport = KINDS[kind]
    file = directory / "questions.txt"
    first = (number + 1) * queries
    file.write_text("".join(f"{spelled(kind, i)} A\n" for i in range(first, first + queries)))
    found = {}
    for which in sorted(servers, reverse=bool(number % 2)):
        pid, port = servers[which].process.pid, servers[which].port
        before = measure.cpu_ns(pid)
        load = measure.put_load(port, file, seconds=30, passes=1, transport=transport)
        found[which] = measure.Sample(load, measure.cpu_ns(pid) - before).us_per_query
    return found


def spelled(kind: str, i: int) -> str:
    """Return the ``i``-th name of a kind: another one each time, but of hits."""
    low, middle, high = i & 255, i >> 8 & 255, i >> 16
    return KINDS[kind].name.format(i=i, hot=i % 100 + 1, low=low, middle=middle, high=high)


def middle(figures: Iterator[float]) -> float:
    return round(statistics.median(figures), 3)


if __name__ == "__main__":
    raise SystemExit(measure.run(main))
