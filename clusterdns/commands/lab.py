"""``lab``: the lab cluster of zones/, served on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys

from clusterdns.commands import serve
from clusterdns.commands.declaration import Command, Example, Parser, add_port
from clusterdns.config import lab
from clusterdns.host import logs
from clusterdns.processes import estate


def _declare(parser: Parser) -> None:
    add_port(parser, 0, f"port to serve on (the first that is free from {lab.PORT} on)")
    parser.add_argument("--json", action="store_true",
        help="print one JSON object with the questions, and the log as JSON")  # fmt: skip


def _run(flags: argparse.Namespace) -> int:
    port = flags.port or lab.free_port()
    os.chdir(lab.directory())
    if not flags.port:
        # The version that takes over at SIGUSR2 has the same arguments. It would find this port
        # taken, and serve on the next one.
        sys.orig_argv += ["-p", str(port)]
    if estate.VARIABLE not in os.environ:
        _tell(port, flags.json)
    form = ["-log-format", logs.JSON] if flags.json else []
    return serve.serve(["-conf", "Corefile", "-p", str(port), *form])


def _tell(port: int, is_json: bool) -> None:
    if is_json:
        print(json.dumps({"port": port, "questions": [*lab.QUESTIONS]}), flush=True)
        return
    print(f"the lab cluster is served on port {port}; ask it, for example:")
    for question in lab.QUESTIONS:
        print(f"  dig @localhost -p {port} {question}", flush=True)


COMMAND = Command(
    "lab",
    "serve the lab cluster on this machine",
    "Serves a cluster of manifests that comes with clusterdns, without a network or a cluster.",
    _declare,
    _run,
    (Example("clusterdns lab", "serve it, and print questions to ask"),),
    {0: "ended by a signal", 1: "could not start", 2: "wrong arguments"},
)
