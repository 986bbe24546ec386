"""Whether memory stays where it is: under a cluster that changes, and under names without end.

``python tests/bench/growth.py`` measures clusterdns and, if there is one, CoreDNS, one after the
other on one cluster, the memory of all processes (PSS) once a second:

* ``time``: 20,000 queries a second and 100 changes a second. Of twenty queries fifteen are for what
  the cluster has and for names outside by search path, in every fifth of them in mixed case; four
  are for names below the cluster's zone that were never asked before, and one for such a name
  outside.
* ``table``: as many queries as are answered, for names that nobody asks again once a server has
  seen them twice: addresses backwards and the names of endpoints, all there are in turn, Pods' names
  by address, names that do not exist, and spellings of names that do, in many types. Every shelf of
  clusterdns's table overflows in that, the largest (131,072 answers) within a minute.

The slope is that of the last half, by least squares.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import apicluster
import findings
import inputs
import measure

QPS, CHANGES_PER_S, MOVING = 20_000, 100, 100
TYPES = ("A", "AAAA", "SRV", "TXT", "MX", "HTTPS", "NS")
ZONE = "default.svc.cluster.local"
ASKED = 2_000  # Services that are asked for
AT_ONCE = 500  # names between the first question for one and the second
STEADY_MIB = 2.0  # or 2 %: what the last quarter's peak may lie above that of the quarter before
STEADY_SHARE = 0.02
SETTLE_S = 2.0
ENDPOINTS = 10  # of each Service

Question = tuple[str, str]
Random = random.Random


def main() -> int:
    options = _arguments()
    found = findings.Findings(
        f"memory over {options.seconds:.0f} s, {options.services:,} Services of {ENDPOINTS} endpoints"
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        measure.pinned(measure.LOAD_CORE),
        apicluster.api_process(options.services, ENDPOINTS) as (url, api),
        apicluster.echo(Path(directory), measure.LOAD_CORE, "answer") as upstream,
    ):
        more = f"cache 30\n    forward . 127.0.0.1:{upstream.port}"
        for what, name in itertools.product(options.what, apicluster.server_names()):
            with apicluster.started(
                name, url, Path(directory), options.services, more=more
            ) as server:
                time.sleep(SETTLE_S)
                with contextlib.ExitStack() as stack:
                    if what == "time":
                        stack.enter_context(apicluster.churning(api, CHANGES_PER_S, MOVING))
                    found.add(measure_growth(what, server, Path(directory), options))
    for row in found.rows:
        judge(row, found)
    found.finish(options.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", default=("time", "table"), metavar="time|table")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    findings.add_json_option(parser)
    options = parser.parse_args()
    if not set(options.what) <= set(LOADS):
        parser.error(f"there are {' and '.join(LOADS)}, not {' '.join(options.what)}")
    return options


def measure_growth(
    what: str, server: apicluster.Started, place: Path, options: argparse.Namespace
) -> findings.Row:
    """Return the memory of a server under a load, second by second."""
    rate, questions = LOADS[what]
    samples = [measure.pss_mib(server.pid)]
    path = place / f"{what}-{server.name}"
    loads: list[measure.Load] = []

    def ask() -> None:
        loads.append(measure.put_load(server.port, path, seconds=options.seconds, rate=rate))

    with feeding(path, questions(options.services, Random(1))):
        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            asking.join(1.0)
            samples.append(measure.pss_mib(server.pid))
    load = loads[0]
    half, quarter = len(samples) // 2, len(samples) // 4
    slope, _, _ = findings.line_through([float(i) for i in range(half)], samples[-half:])
    return {
        "load": what, "server": server.name, "start_mib": round(samples[0], 1),
        "peak_mib": round(max(samples), 1), "end_mib": round(samples[-1], 1),
        "peak_third_quarter_mib": round(max(samples[-2 * quarter : -quarter]), 1),
        "peak_last_quarter_mib": round(max(samples[-quarter:]), 1),
        "mib_per_min": round(slope * 60, 2),
        "sent": load.sent, "answered": load.answered, "qps": round(load.answered / load.seconds),
        "rcodes": load.rcodes, "pss_mib": [round(mib, 1) for mib in samples],
    }  # fmt: skip


def judge(row: findings.Row, found: findings.Findings) -> None:
    """State whether memory has come to rest."""
    third, last = (float(str(row[f"peak_{q}_quarter_mib"])) for q in ("third", "last"))
    found.state(
        f"{row['server']}: memory comes to rest under '{row['load']}': {row['start_mib']} MiB "
        f"after the start, peaks of the last quarters {third} and {last} MiB, "
        f"{row['mib_per_min']} MiB/min in the last half",
        holds=last - third <= max(STEADY_MIB, STEADY_SHARE * third),
    )


@contextlib.contextmanager
def feeding(path: Path, questions: Iterator[Question]) -> Iterator[None]:
    """Write questions into a pipe at ``path``, for dnsperf, as long as somebody reads them."""
    os.mkfifo(path)
    thread = threading.Thread(target=_feed, args=(path, questions))
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # who never found a reader finds this one, and its end
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        thread.join()
        path.unlink()


def _feed(path: Path, questions: Iterator[Question]) -> None:
    with contextlib.suppress(BrokenPipeError), path.open("w") as pipe:
        while True:
            pipe.writelines(f"{n} {t}\n" for n, t in itertools.islice(questions, 1000))


# ---- what is asked


def everyday(services: int, rng: Random) -> Iterator[Question]:
    """Yield what the head of this file says of ``time``."""
    known = [f"{apicluster.qname(i)}" for i in range(min(services, ASKED))]
    hosts = inputs.external_names()
    while True:
        for i in range(15):
            outside = f"{rng.choice(hosts)}{rng.choice(('', f'.{ZONE}', '.cluster.local'))}"
            qname = outside if i % 3 == 2 else rng.choice(known)
            yield (respelled(qname, rng) if i % 5 == 4 else qname), rng.choice(("A", "AAAA"))
        for _ in range(2):
            yield f"www.{rng.getrandbits(48):012x}.com.{ZONE}", "A"
            yield f"{rng.getrandbits(48):012x}.{ZONE}", "A"
        yield f"{rng.getrandbits(48):012x}.example.com", "A"


def endless(services: int, rng: Random) -> Iterator[Question]:
    """Yield what the head of this file says of ``table``: each name twice, some time apart."""
    numbers = itertools.cycle(range(services * ENDPOINTS))
    makers: tuple[tuple[int, Callable[[], Question]], ...] = (
        (3, lambda: _backwards(next(numbers))),
        (3, lambda: _endpoint(next(numbers))),
        (1, lambda: ("{}-{}-{}-{}.default.pod.cluster.local".format(*rng.randbytes(4)), "A")),
        (1, lambda: (f"www.{rng.getrandbits(48):012x}.{ZONE}", rng.choice(TYPES))),
        (1, lambda: (f"{rng.getrandbits(48):012x}.com.{ZONE}", "A")),
        (1, lambda: (respelled(apicluster.qname(rng.randrange(services)), rng), rng.choice(TYPES))),
    )
    turns = [make for weight, make in makers for _ in range(weight)]
    while True:
        some = [turns[i % len(turns)]() for i in range(AT_ONCE)]
        yield from some
        yield from some


def _backwards(number: int) -> Question:
    """Return the reverse name of an endpoint, which has a PTR record."""
    labels = apicluster.endpoint_address(number, 0).split(".")
    return ".".join(reversed(labels)) + ".in-addr.arpa", "PTR"


def _endpoint(number: int) -> Question:
    return apicluster.endpoint_qname(number // ENDPOINTS, number, 0), "A"


def respelled(qname: str, rng: Random) -> str:
    """Return a name with its letters in upper or lower case at random."""
    bits = rng.getrandbits(len(qname))
    return "".join(c.upper() if bits >> i & 1 else c for i, c in enumerate(qname))


LOADS: dict[str, tuple[int, Callable[[int, Random], Iterator[Question]]]] = {
    "time": (QPS, everyday),
    "table": (0, endless),
}


if __name__ == "__main__":
    sys.exit(measure.run(main))
