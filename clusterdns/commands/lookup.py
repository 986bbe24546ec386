"""``lookup``: what a Pod's resolver asks for a name, what it gets, and what that costs."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterdns.commands import podsettings
from clusterdns.commands.declaration import (
    FAILED,
    OK,
    Command,
    Example,
    Parser,
    add_json,
    rtype,
    zone,
)
from clusterdns.errors import ClusterDNSError
from clusterdns.host import resolvconf
from clusterdns.host.resolvconf import ResolvConf
from clusterdns.wire.name import canonical_address

if TYPE_CHECKING:
    from clusterdns.commands.stub import Stub, Walk

BOTH = ("A", "AAAA")  # what getaddrinfo asks for
UNANSWERED = 3
KUBELET_NDOTS = 5  # of Pods without a `dnsConfig` of their own
_STYLES = {"the program gets nothing": "bold red", "the program gets ": "bold green"}


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="the name that the program looks up")
    add("type", metavar="TYPE", nargs="?", type=rtype,
        help="type of record; by default A and AAAA, as getaddrinfo asks")  # fmt: skip
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--as", dest="pod", metavar="NAMESPACE[/POD]",
        help="ask as a Pod of this namespace")  # fmt: skip
    whose.add_argument("--resolv-conf", dest="file", type=Path, metavar="FILE",
        help="ask as this resolv.conf says (that of this host)")  # fmt: skip
    add("--libc", choices=("glibc", "musl", "go"), default="glibc",
        help="whose resolver the program has (glibc)")  # fmt: skip
    add("--server", metavar="ADDRESS[:PORT]", help="server to ask in place of the settings'")
    add("--manifests", type=Path, metavar="DIR", help="manifests with the Pod, if it is named")
    add("--zone", type=zone, default=podsettings.DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster ({podsettings.DEFAULT_ZONE})")  # fmt: skip
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output, stub

    conf = _settings(flags)
    if (address := canonical_address(flags.name)) is not None:
        if flags.type != "PTR":
            raise ClusterDNSError(
                f"{address} is an address: no name is looked up, or with type PTR"
            )
        flags.name = f"{ipaddress.ip_address(address).reverse_pointer}."
    types = (flags.type,) if flags.type else BOTH
    asker = stub.Stub(conf, flags.libc)
    walk = stub.walk(conf, flags.name, flags.libc, types, asker.ask)
    if not walk.exchanges:
        raise ClusterDNSError(f"{flags.name!r} is no name that a resolver asks for")
    others = {} if walk.is_unanswered else _alternatives(flags, conf, types, asker)
    if flags.json:
        output.write_json(_as_json(flags, conf, walk, others))
    else:
        lines = [*_report(flags, conf, walk), *_savings(walk, others)]
        output.write_labeled(lines, _STYLES)
    if walk.found:
        return OK
    return UNANSWERED if walk.is_unanswered else FAILED


def _settings(flags: argparse.Namespace) -> ResolvConf:
    if flags.pod:
        conf = podsettings.of_pod(flags.pod, manifests=flags.manifests, zone=flags.zone)
    else:
        path = flags.file or podsettings.NODE
        conf = resolvconf.parse(path.read_text("utf-8", "replace"))
    if flags.server:
        conf = conf._replace(nameservers=(flags.server,))
    if not conf.nameservers:
        raise ClusterDNSError("the settings name no server; give one by --server")
    return conf


def _alternatives(
    flags: argparse.Namespace, conf: ResolvConf, types: tuple[str, ...], asker: Stub
) -> dict[str, Walk]:
    """Return the lookups with other ndots and with a trailing dot, where these ask otherwise."""
    from clusterdns.commands import stub

    found = dict[str, "Walk"]()
    asked = resolvconf.names(conf, flags.name, flags.libc)
    for title, settings, name in (
        ("ndots:1", conf._replace(ndots=1), flags.name),
        (f"ndots:{KUBELET_NDOTS}", conf._replace(ndots=KUBELET_NDOTS), flags.name),
        ("a trailing dot", conf, flags.name.rstrip(".") + "."),
    ):
        if resolvconf.names(settings, name, flags.libc) != asked:
            found[title] = stub.walk(settings, name, flags.libc, types, asker.ask)
    return found


def _report(flags: argparse.Namespace, conf: ResolvConf, walk: Walk) -> Iterator[str]:
    """Yield the questions and what came of them, and what the program gets."""
    who = f"a Pod of {flags.pod}" if flags.pod else str(flags.file or podsettings.NODE)
    yield f"{flags.name} as {who}, by {flags.libc}, asked of {' '.join(conf.nameservers)}"
    yield f"search {' '.join(conf.search) or '(nothing)'}, ndots:{conf.ndots}"
    names = list(dict.fromkeys(each.name for each in walk.exchanges))
    width = max(map(len, names))
    kinds = max(len(each.rtype) for each in walk.exchanges)
    before = ""
    for each in walk.exchanges:
        place = f"{names.index(each.name) + 1:>3}" if each.name != before else "   "
        shown = each.name if each.name != before else ""
        before = each.name
        said = ", ".join(each.records) or ("no data" if each.text == "NOERROR" else each.text)
        cost = f"{each.seconds * 1000:.1f} ms, {each.messages} packets"
        yield f"{place}  {shown.ljust(width)}  {each.rtype.ljust(kinds)}  {said}  ({cost})"
    spent = f"{walk.messages} packets, {walk.seconds * 1000:.1f} ms"
    if walk.found:
        number = names.index(walk.by) + 1
        which = f"name {number} of {len(names)} asked" if len(names) > 1 else "the only name asked"
        yield f"the program gets {', '.join(walk.found)} from {walk.by} ({which}; {spent})"
    else:
        yield f"the program gets nothing ({spent})"


def _savings(walk: Walk, others: dict[str, Walk]) -> Iterator[str]:
    """Yield what another spelling or setting would save or cost."""
    for title, other in others.items():
        if other.found != walk.found:
            gets = f"the program would get {', '.join(other.found)}" if other.found else (
                "the program would get nothing")  # fmt: skip
            yield f"with {title}: {gets}, after {other.messages} packets"
        elif other.messages < walk.messages:
            yield f"with {title}: the same after {other.messages} packets, not {walk.messages}"
        else:
            yield f"with {title}: the same after {other.messages} packets: nothing saved"


def _as_json(
    flags: argparse.Namespace, conf: ResolvConf, walk: Walk, others: dict[str, Walk]
) -> dict[str, Any]:
    return {
        "name": flags.name,
        "libc": flags.libc,
        "servers": conf.nameservers,
        "search": conf.search,
        "ndots": conf.ndots,
        "exchanges": [{**each._asdict(), "outcome": each.outcome.value} for each in walk.exchanges],
        "found": walk.found,
        "by": walk.by,
        "packets": walk.messages,
        "with": {
            title: {"found": other.found, "by": other.by, "packets": other.messages}
            for title, other in others.items()
        },
    }


COMMAND = Command(
    "lookup",
    "look a name up as a Pod does, and show every question",
    "Asks for NAME as the resolver of a Pod does, with its search path and ndots, and shows each\n"
    "question with answer, time and packets, which answer the program gets, and what ndots:1 or a\n"
    "trailing dot would save. It does not read /etc/hosts. A packet is a query or a reply; one\n"
    "over TCP costs more than is counted.",
    _declare,
    _run,
    (
        Example("clusterdns lookup www.example.com --as uit --server 127.0.0.1:1053",
            "as a Pod of the namespace uit, asked of the lab"),
        Example("clusterdns lookup web --resolv-conf zones/resolv.conf --libc musl",
            "as this resolv.conf says, by Alpine's resolver"),
        Example("clusterdns lookup _http._tcp.web.uit.svc.cluster.local. SRV",
            "one type, asked of this host's servers"),
    ),
    {0: "the program gets an answer", 1: "it gets none, or wrong settings", 2: "wrong arguments",
     3: "no server replied"},
)  # fmt: skip
