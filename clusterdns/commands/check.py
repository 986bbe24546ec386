"""``check``: what a Corefile would serve, and everything that is wrong with it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clusterdns.commands.declaration import FAILED, MISUSED, OK, Command, Example, Parser, add_port
from clusterdns.errors import ClusterDNSError

if TYPE_CHECKING:
    from clusterdns.config.configmap import Subject

DEFAULT_PORT = 53
STDIN = "-"
_STYLES = {
    "  serves ": "green",
    "  refused ": "bold red",
    "  left out ": "bold red",
    "  not here ": "yellow",
    "  warning ": "yellow",
    "  slow ": "cyan",
}


def _declare(parser: Parser) -> None:
    parser.add_argument("path", metavar="FILE",
        help="Corefile, or manifest of the ConfigMap that has one; `-` for standard input"
    )  # fmt: skip
    add_port(parser, DEFAULT_PORT, f"port of server blocks that name none ({DEFAULT_PORT})")


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output
    from clusterdns.config import check

    try:
        subject = read(flags.path)
    except (ClusterDNSError, OSError) as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return MISUSED
    found = check.check(subject, port=flags.port)
    output.write(output.labeled(each, _STYLES) for each in check.report(subject, found))
    return FAILED if found.refused or found.left_out else OK


def read(path: str) -> Subject:
    """Return the Corefile in a file, or on standard input. Raises ClusterDNSError, OSError."""
    from clusterdns.config import configmap  # and with it PyYAML, which serving does not need

    if path != STDIN:
        return configmap.read(Path(path))
    with tempfile.NamedTemporaryFile() as given:
        given.write(sys.stdin.buffer.read())
        given.flush()
        return configmap.read(Path(given.name), "stdin")


COMMAND = Command(
    "check",
    "say what a Corefile, or a ConfigMap with one, would serve",
    "Prints the zones that a Corefile would serve, and all its mistakes with file and line.",
    _declare,
    _run,
    (
        Example("clusterdns check Corefile", "check a Corefile"),
        Example(
            "kubectl -n kube-system get configmap coredns -o yaml | clusterdns check -",
            "check the Corefile of a cluster",
        ),
    ),
    {0: "it can be served", 1: "it has mistakes", 2: "it cannot be read, or wrong arguments"},
)
