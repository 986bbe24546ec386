"""``top``: what is asked most of the running server, how long it takes, and the last queries."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clusterdns.commands.declaration import FAILED, OK, Command, Example, Parser, add_json

REFRESH_S = 2.0
ROWS = 10  # of each table
_CLEAR = "\x1b[H\x1b[2J"
_STYLES = dict.fromkeys(
    ("names", "clients", "namespaces", "names that do not exist", "slow names"), "bold"
)
Plain = dict[str, Any]


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("--once", action="store_true", help="print it once, also on a terminal")
    add("--tail", action="store_true", help="print the queries as they are answered")
    add("--pid", type=int, metavar="PID", help="first process of the running server, if several")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output, running

    try:
        pid = running.choose(flags.pid).pid
        if flags.tail:
            return _tail(pid, flags)
        while True:
            found = running.ask("top", {}, pid)
            if flags.json:
                output.write_json(found)
                return OK
            is_last = flags.once or not sys.stdout.isatty()
            if not is_last:
                sys.stdout.write(_CLEAR)
            output.write(output.labeled(line, _STYLES) for line in report(found))
            sys.stdout.flush()
            if is_last:
                return OK
            time.sleep(REFRESH_S)
    except running.NoServerError as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return FAILED


def _tail(pid: int, flags: argparse.Namespace) -> int:
    """Print the last queries; go on with later ones until interrupted, unless it is for once."""
    import json

    from clusterdns.commands import running

    since = 0
    while True:
        found = running.ask("tail", {"since": since}, pid)
        if found["lost"] and since:
            print(f"clusterdns: {found['lost']} queries were too fast to show", file=sys.stderr)
        for each in found["queries"]:
            print(json.dumps(each) if flags.json else query_line(each))
        sys.stdout.flush()
        since = found["next"]
        if flags.once:
            return OK
        time.sleep(REFRESH_S / 4)


def query_line(each: Mapping[str, Any]) -> str:
    """Return the line of a query."""
    at = time.strftime("%H:%M:%S", time.localtime(each["at"]))
    return (
        f"{at} {each['client']} {each['name']} {each['type']} {each['rcode']} "
        f"{duration(each['seconds'])} {each['transport']} {each['path']}"
    )


def report(found: Plain) -> Iterator[str]:
    """Yield the lines of what was seen of all queries."""
    latency = found["latency"]
    yield f"{found['queries']} queries in {found['seconds']:.0f} s"
    yield "latency " + ", ".join(f"{p} {duration(latency[p])}" for p in ("p50", "p90", "p99"))
    for word in ("rcodes", "types"):
        counts = sorted(found[word].items(), key=lambda pair: -pair[1])
        yield f"{word} " + ", ".join(f"{key} {count}" for key, count in counts)
    yield from _counted("names", found["names"], ("name", "type"))
    yield from _counted("clients", found["clients"], ("client",))
    yield from _counted("namespaces", found["namespaces"], ("namespace",))
    yield from _counted("names that do not exist", found["denied"], ("name",))
    if found["slow"]:
        yield "slow names"
        for each in found["slow"][:ROWS]:
            yield f"{duration(each['seconds']):>10}  {each['name']} {each['type']}"


def _counted(title: str, rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Iterator[str]:
    if rows:
        yield title
    for each in rows[:ROWS]:
        yield f"{each['count']:>10}  " + " ".join(str(each[word]) for word in words)


def duration(seconds: float) -> str:
    """Return a duration in words, with three digits."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


COMMAND = Command(
    "top",
    "show what is asked most of the running server",
    "Shows the names, clients and namespaces that are asked for most, names that do not exist,\n"
    "slow names, return codes, types and latencies of the last minutes. A server block has\n"
    "`status`, see `clusterdns help status`. On a terminal it goes on until it is interrupted.",
    _declare,
    _run,
    (
        Example("clusterdns top", "what is asked now, every two seconds"),
        Example("clusterdns top --once", "the same, printed once"),
        Example("clusterdns top --tail", "each query as it is answered"),
    ),
    {
        0: "it was shown",
        1: "no server can be asked, or it does not observe queries",
        2: "wrong arguments",
    },
)
