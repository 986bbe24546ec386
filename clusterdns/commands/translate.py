"""``translate``: the Corefile that stands for kube-dns's ConfigMap."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clusterdns.commands.declaration import OK, Command, Example, Parser, add_json, add_port, zone

DEFAULT_PORT = 53
DEFAULT_ZONE = "cluster.local"


def _declare(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path,
        help="its manifest, YAML or JSON, or the directory that it is mounted to")  # fmt: skip
    parser.add_argument("-zone", "--zone", type=zone, default=DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster ({DEFAULT_ZONE})")  # fmt: skip
    add_port(parser, DEFAULT_PORT, f"port to serve on ({DEFAULT_PORT})")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output
    from clusterdns.config import configmap, kubedns

    warnings = list[str]()

    def warn(reason: str) -> None:
        warnings.append(reason)
        if not flags.json:
            print(f"clusterdns: warning: {flags.path}: {reason}", file=sys.stderr)

    path: Path = flags.path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    if path.is_dir():
        entries = configmap.from_directory(path)
    else:
        entries = configmap.from_manifest(path)
    settings = kubedns.read(entries, zone=flags.zone, warn=warn)
    text = kubedns.translate(settings, zone=flags.zone, port=flags.port, warn=warn)
    if flags.json:
        output.write_json({"corefile": text, "warnings": warnings})
        return OK
    print(text, end="")
    return OK


COMMAND = Command(
    "translate",
    "print the Corefile that stands for kube-dns's ConfigMap",
    "Prints the Corefile that gives the answers of a kube-dns with this ConfigMap.",
    _declare,
    _run,
    (Example("clusterdns translate cm.yaml > Corefile", "translate a manifest"),),
    {0: "translated", 1: "the ConfigMap cannot be read or has a mistake", 2: "wrong arguments"},
)
