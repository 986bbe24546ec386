"""``resolv-conf``: the resolver settings that a Pod is given."""

from __future__ import annotations

import argparse
from pathlib import Path

from clusterdns.commands import podsettings
from clusterdns.commands.declaration import OK, Command, Example, Parser, add_json, zone
from clusterdns.host import resolvconf


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("pod", metavar="NAMESPACE[/POD]", help="namespace of the Pod, and its name")
    add("--manifests", type=Path, metavar="DIR", help="manifests with the Pod, if it is named")
    add("--zone", type=zone, default=podsettings.DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster ({podsettings.DEFAULT_ZONE})")  # fmt: skip
    add("--server", default=podsettings.DEFAULT_SERVER, metavar="ADDRESS",
        help=f"address of the cluster's DNS Service ({podsettings.DEFAULT_SERVER})")  # fmt: skip
    add("--ndots", type=int, choices=range(resolvconf.MAX_NDOTS + 1), metavar="N",
        help="dots from which on a name is asked as it is first (5)")  # fmt: skip
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output

    conf = podsettings.of_pod(
        flags.pod, manifests=flags.manifests, zone=flags.zone, server=flags.server
    )
    if flags.ndots is not None:
        conf = conf._replace(ndots=flags.ndots)
    if flags.json:
        output.write_json(conf._asdict())
    else:
        print(resolvconf.text(conf), end="")
    return OK


COMMAND = Command(
    "resolv-conf",
    "print the resolv.conf that a Pod is given",
    "Prints the resolv.conf that kubelet gives to a Pod with `dnsPolicy: ClusterFirst`, or as\n"
    "the manifest of the Pod says.",
    _declare,
    _run,
    (
        Example("clusterdns resolv-conf uit", "that of a Pod in the namespace uit"),
        Example("clusterdns resolv-conf uit --ndots 1", "with `dnsConfig` that sets ndots:1"),
        Example("clusterdns resolv-conf uit/web --manifests pods", "as the Pod's manifest says"),
    ),
    {0: "printed", 1: "there is no such Pod", 2: "wrong arguments"},
)
