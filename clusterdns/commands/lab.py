"""``lab``: the lab cluster of zones/, served on this machine."""

from __future__ import annotations

import argparse
import os
import sys

from clusterdns.commands import serve
from clusterdns.commands.declaration import Command, Example, Parser, add_port
from clusterdns.config import lab
from clusterdns.processes import estate


def _declare(parser: Parser) -> None:
    add_port(parser, 0, f"port to serve on (the first that is free from {lab.PORT} on)")


def _run(flags: argparse.Namespace) -> int:
    port = flags.port or lab.free_port()
    os.chdir(lab.directory())
    if not flags.port:
        # The version that takes over at SIGUSR2 has the same arguments. It would find this port
        # taken, and serve on the next one.
        sys.orig_argv += ["-p", str(port)]
    if estate.VARIABLE not in os.environ:
        print(f"the lab cluster is served on port {port}; ask it, for example:")
        for question in lab.QUESTIONS:
            print(f"  dig @localhost -p {port} {question}", flush=True)
    return serve.serve(["-conf", "Corefile", "-p", str(port)])


COMMAND = Command(
    "lab",
    "serve the lab cluster on this machine",
    "Serves a cluster of manifests that comes with clusterdns, without a network or a cluster.",
    _declare,
    _run,
    (Example("clusterdns lab", "serve it, and print questions to ask"),),
    {0: "ended by a signal", 1: "could not start", 2: "wrong arguments"},
)
