"""``resolv-conf``: the resolver settings that a Pod is given."""

from __future__ import annotations

import argparse

from clusterdns.commands.declaration import OK, Command, Example, Parser, add_json, zone
from clusterdns.host import resolvconf

DEFAULT_SERVER = "10.96.0.10"  # kubeadm's Service kube-dns
DEFAULT_ZONE = "cluster.local"


def _declare(parser: Parser) -> None:
    parser.add_argument("namespace", metavar="NAMESPACE", help="namespace of the Pod")
    parser.add_argument("--zone", type=zone, default=DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster ({DEFAULT_ZONE})")  # fmt: skip
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="ADDRESS",
        help=f"address of the cluster's DNS Service ({DEFAULT_SERVER})")  # fmt: skip
    parser.add_argument("--ndots", type=int, choices=range(resolvconf.MAX_NDOTS + 1), default=5,
        metavar="N", help="dots from which on a name is asked as it is first (5)")  # fmt: skip
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output

    conf = resolvconf.pod_search(flags.namespace, flags.zone, server=flags.server)
    conf = conf._replace(ndots=flags.ndots)
    if flags.json:
        output.write_json(conf._asdict())
    else:
        print(resolvconf.text(conf), end="")
    return OK


COMMAND = Command(
    "resolv-conf",
    "print the resolv.conf that a Pod of a namespace is given",
    "Prints the resolv.conf that kubelet gives to a Pod with `dnsPolicy: ClusterFirst`.",
    _declare,
    _run,
    (
        Example("clusterdns resolv-conf uit", "that of a Pod in the namespace uit"),
        Example("clusterdns resolv-conf uit --ndots 1", "with `dnsConfig` that sets ndots:1"),
    ),
    {0: "printed", 2: "wrong arguments"},
)
