"""``explain``: why a name is answered as it is, told by the code that answers."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterdns.commands.declaration import (
    FAILED,
    OK,
    Command,
    Example,
    Parser,
    add_json,
    add_port,
    rtype,
)
from clusterdns.errors import ClusterDNSError

if TYPE_CHECKING:
    from clusterdns.cluster.source import Source
    from clusterdns.serving.behind import Sources

DEFAULT_PORT = 53
UNREACHED = 3  # exit code
CLIENT = "127.0.0.1"
SOURCE_PORT = 40000  # of the client that is played
_STYLES = {"why: ": "bold yellow", "answer ": "bold green", "server block ": "bold"}
Heard = tuple[dict[str, Any], bytes | None]  # an explanation, and the reply


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME",
        help="name to ask for, as it is, without search path; or an address, for its PTR record"
    )  # fmt: skip
    add("type", metavar="TYPE", nargs="?", type=rtype, help="type of record (A)")
    add("--client", default=CLIENT, metavar="IP", help=f"address of the client ({CLIENT})")
    add("--corefile", metavar="FILE", default="",
        help="explain a Corefile, or a ConfigMap with one, not the running server")  # fmt: skip
    add("--manifests", type=Path, metavar="DIR",
        help="with --corefile: the objects of the cluster, for `kubernetes`")  # fmt: skip
    add_port(parser, DEFAULT_PORT, f"with --corefile: port of keys without one ({DEFAULT_PORT})")
    add("--pid", type=int, metavar="PID", help="first process of the running server, if several")
    add("--listener", default="", metavar="HOST:PORT", help="listener to ask (the first)")
    add("--tcp", action="store_true", help="as over TCP: long replies are not cut")
    add("--dnssec", action="store_true", help="as from a client that wants signatures (DO)")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output, running
    from clusterdns.serving import explained

    packet = explained.query(flags.name, flags.type or "", flags.client, do=flags.dnssec)
    try:
        if flags.corefile:
            heard, sources = asyncio.run(_offline(flags, packet))
        else:
            heard, sources = _running(flags, packet)
    except running.NoServerError as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return UNREACHED
    found = explained.complete(*heard, sources)
    if flags.json:
        output.write_json(found)
    else:
        output.write_labeled(explained.report(found), _STYLES)
    return FAILED if found["why"] else OK


def _running(flags: argparse.Namespace, packet: bytes) -> tuple[Heard, Sources]:
    """Return the explanation by the running server, and the sources of its objects."""
    from clusterdns.commands import running

    request = {
        "packet": packet.hex(),
        "client": flags.client,
        "transport": "tcp" if flags.tcp else "udp",
        "listener": flags.listener,
    }
    server = running.choose(flags.pid)
    found = running.ask("explain", request, server.pid)
    found["server"] = {"pid": server.pid, **server.about}
    text = found.pop("packet", None)
    sources = {key: _source(each) for key, each in found.pop("sources", {}).items()}
    return (found, bytes.fromhex(text) if text else None), sources


def _source(fields: Mapping[str, Any]) -> Source:
    """Return a source that came as JSON, whose tuples are lists."""
    from clusterdns.cluster.source import Source

    known = ((word, fields[word]) for word in Source._fields)
    return Source._make(tuple(v) if isinstance(v, list) else v for _, v in known)


async def _offline(flags: argparse.Namespace, packet: bytes) -> tuple[Heard, Sources]:
    """Return the explanation by a Corefile, and the sources of its objects."""
    from clusterdns.commands import check, offline
    from clusterdns.serving.explaining import explain

    subject = check.read(flags.corefile)
    configuration = offline.compiled(subject, port=flags.port, directory=flags.manifests)
    async with offline.Offline(configuration) as server:
        listener = _chosen(server.listeners, flags.listener)
        transport = "tcp" if flags.tcp else "udp"
        client = (flags.client, SOURCE_PORT)
        heard = await explain(listener, packet, client, transport)
    return heard, configuration.sources_by_plugin


def _chosen(listeners: Mapping[str, Any], wanted: str) -> Any:  # noqa: ANN401 - a Listener
    """Return the listener with an address, the first one if none is wanted."""
    for label, each in listeners.items():
        if not wanted or label.partition("://")[2] == wanted or label == wanted:
            return each
    raise ClusterDNSError(f"no listener {wanted}; there are {', '.join(listeners)}")


COMMAND = Command(
    "explain",
    "say why a name is answered as it is",
    "Explains the answer to one question: the server block and why it was chosen, what each\n"
    "plugin decided, with file and line, the objects of the cluster behind each record and those\n"
    "that get none, the upstream server, the age of a kept reply. The code that answers tells\n"
    "it. NAME is asked as it is; `clusterdns lookup` walks a search path. The query is sent to\n"
    "upstream servers if a client's would be. Without --corefile, the one running server of this\n"
    "user is asked, and named; if there are several, they are listed.",
    _declare,
    _run,
    (
        Example(
            "clusterdns explain web.uit.svc.cluster.local",
            "by the running server of this machine or Pod",
        ),
        Example(
            "clusterdns explain web.uit.svc.cluster.local --corefile Corefile --manifests cluster",
            "by a Corefile and manifests",
        ),
    ),
    {
        0: "a client gets a record",
        1: "a client gets none, and the last line says why; or wrong settings",
        2: "wrong arguments",
        3: "no running server can be asked, or several run and none is named",
    },
)
