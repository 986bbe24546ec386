"""``top``: what is asked most of the running server, how long it takes, and the last queries."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from clusterdns.commands.declaration import FAILED, OK, Command, Example, Parser, add_json

if TYPE_CHECKING:
    from clusterdns.commands.screen import Screen

REFRESH_S = 2.0
ROWS = 10  # of each table
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
    from clusterdns.commands import running

    try:
        pid = running.choose(flags.pid).pid
        return _tail(pid, flags) if flags.tail else _top(pid, flags)
    except running.NoServerError as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return FAILED


def _top(pid: int, flags: argparse.Namespace) -> int:
    """Print what is asked most; on a terminal, draw it again until a key or a signal ends it."""
    from clusterdns.commands import output, running
    from clusterdns.commands.screen import Screen

    found = running.ask("top", {}, pid)
    if flags.json:
        output.write_json(found)
        return OK
    if flags.once or not sys.stdout.isatty():
        output.write_labeled(report(found), _STYLES)
        return OK
    with Screen() as screen:
        _draw(screen, found)
        while screen.wait(REFRESH_S, partial(_draw, screen, found)):
            found = running.ask("top", {}, pid)
            _draw(screen, found)
    return OK


def _draw(screen: Screen, found: Plain) -> None:
    """Draw what was seen, as much as there is room for, with what keys do in the last line."""
    from clusterdns.commands import output
    from clusterdns.commands.screen import CLEAR, cut

    if not screen.is_terminal:  # it cannot be cleared
        output.write(report(found))
        return
    columns, lines = screen.size()
    room = max(1, lines - 1)  # for the keys
    shown = next(
        (made for rows in range(ROWS, 0, -1) if len(made := [*report(found, rows)]) <= room),
        [*report(found, 1)][:room],
    )
    sys.stdout.write(CLEAR)
    output.write_labeled((cut(line, columns) for line in shown), _STYLES)
    screen.show_keys(columns)


def _tail(pid: int, flags: argparse.Namespace) -> int:
    """Print the last queries; go on with later ones until it is ended, unless it is for once."""
    import json

    from clusterdns.commands import running
    from clusterdns.commands.screen import Screen

    since = 0
    with Screen() as screen:
        while True:
            found = running.ask("tail", {"since": since}, pid)
            if found["lost"] and since:
                print(f"clusterdns: {found['lost']} queries were too fast to show", file=sys.stderr)
            for each in found["queries"]:
                print(json.dumps(each) if flags.json else query_line(each))
            sys.stdout.flush()
            since = found["next"]
            if flags.once or not screen.wait(REFRESH_S / 4):
                return OK


def query_line(each: Mapping[str, Any]) -> str:
    """Return the line of a query."""
    at = time.strftime("%H:%M:%S", time.localtime(each["at"]))
    return (
        f"{at} {each['client']} {each['name']} {each['type']} {each['rcode']} "
        f"{duration(each['seconds'])} {each['transport']} {each['path']}"
    )


def report(found: Plain, rows: int = ROWS) -> Iterator[str]:
    """Yield the lines of what was seen of all queries, with so many rows of each table."""
    latency = found["latency"]
    yield f"{found['queries']} queries in {found['seconds']:.0f} s"
    yield "latency " + ", ".join(f"{p} {duration(latency[p])}" for p in ("p50", "p90", "p99"))
    for word in ("rcodes", "types"):
        counts = sorted(found[word].items(), key=lambda pair: -pair[1])
        yield f"{word} " + ", ".join(f"{key} {count}" for key, count in counts)
    yield from _counted("names", found["names"][:rows], ("name", "type"))
    yield from _counted("clients", found["clients"][:rows], ("client",))
    yield from _counted("namespaces", found["namespaces"][:rows], ("namespace",))
    yield from _counted("names that do not exist", found["denied"][:rows], ("name",))
    if found["slow"]:
        yield "slow names"
        for each in found["slow"][:rows]:
            yield f"{duration(each['seconds']):>10}  {each['name']} {each['type']}"


def _counted(title: str, rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Iterator[str]:
    if rows:
        yield title
    for each in rows:
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
    "`status`, see `clusterdns help status`. On a terminal it goes on until it is ended: q quits,\n"
    "space pauses. With --tail it goes on everywhere.",
    _declare,
    _run,
    (
        Example("clusterdns top", "what is asked now, every two seconds"),
        Example("clusterdns top --once", "the same, printed once"),
        Example("clusterdns top --tail", "each query as it is answered"),
    ),
    {
        0: "it was shown, until q was pressed",
        1: "no server can be asked, or it does not observe queries",
        2: "wrong arguments",
        130: "interrupted, by Ctrl-C",
        141: "nobody reads its output any more, as of `clusterdns top --tail | head -1`",
    },
)
