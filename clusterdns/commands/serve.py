"""``serve``: CoreDNS's flags, and what clusterdns adds to them (CoreDNS: coremain/run.go).

It also runs without a command, so that clusterdns can take the place of CoreDNS. All that this
module imports stays in the memory of every process that serves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import resource
from collections.abc import Sequence
from pathlib import Path

from clusterdns import COREDNS_VERSION, __version__
from clusterdns.chain import registry
from clusterdns.commands.declaration import OK, Command, Example, Parser, port, zone
from clusterdns.config import kubedns, loader
from clusterdns.config.compile import Configuration
from clusterdns.errors import ClusterDNSError, ConfigError, told
from clusterdns.host import logs
from clusterdns.processes import estate as estates
from clusterdns.processes import handover
from clusterdns.processes.estate import Estate
from clusterdns.processes.supervisor import Supervisor
from clusterdns.serving import native

DEFAULT_PORT = 53
DEFAULT_ZONE = "cluster.local"
_log = logging.getLogger(__name__)


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("-conf", "--conf", default="", metavar="FILE", help="Corefile to load, or `stdin`")
    add("-config-dir", "--config-dir", metavar="DIR", type=Path,
        help="serve the ConfigMap of kube-dns that is mounted there; changes are taken up; with "
        f"-conf, in place of {kubedns.UPSTREAMS} in FILE, and behind it")  # fmt: skip
    add("-domain", "--domain", type=zone, default=DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster, for -config-dir ({DEFAULT_ZONE})")  # fmt: skip
    add("-dns.port", "--dns.port", "-p", "--p", dest="port", type=port, default=DEFAULT_PORT,
        metavar="PORT", help=f"port of server blocks that name none ({DEFAULT_PORT})")  # fmt: skip
    add("-pidfile", "--pidfile", default="", metavar="FILE", help="file to write the process ID to")
    add("-quiet", "--quiet", action="store_true", help="print nothing at the start")
    add("-log-format", "--log-format", default=logs.TEXT, metavar="FORMAT",
        help="log `text` (the default) or `json`, an object a line")  # fmt: skip
    add("-plugins", "--plugins", action="store_true", help="list the plugins")
    add("-version", "--version", action="store_true", help="print the version")


def serve(arguments: Sequence[str]) -> int:
    """Serve as the command would with these arguments."""
    return _serve(COMMAND.parser().parse_args(arguments))


def _serve(flags: argparse.Namespace) -> int:
    if flags.log_format not in logs.FORMATS:
        raise ClusterDNSError(
            f'unknown log format "{flags.log_format}": expected {" or ".join(logs.FORMATS)}'
        )
    if flags.version:
        print("\n".join(_version()))
        return OK
    if flags.plugins:
        print("Server types:\n  dns\n\nOther plugins:")
        print("\n".join(f"  dns.{word}" for word in sorted(registry.available())))
        return OK
    logs.start(format=flags.log_format)
    try:
        return _run(flags)
    except (ClusterDNSError, OSError) as error:
        logs.fatal(told(error), flags.log_format)
        return 1


def _run(flags: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status. Raises ClusterDNSError, OSError."""
    _raise_descriptor_limit()
    estate = estates.take(os.environ)
    given = estate.given if estate else None
    if flags.config_dir:
        source = loader.from_config_dir(
            flags.config_dir, flags.conf, zone=flags.domain, port=flags.port, given=given
        )
    else:
        source = loader.from_corefile(flags.conf, flags.port, given)
    if estate is not None:
        return asyncio.run(_take_over(source, estate))
    text = source.read()
    try:
        configuration = source.first(text)
    except ConfigError as error:
        logs.fatal(str(error), flags.log_format)
        if not flags.config_dir and flags.conf != loader.STDIN:
            checked = flags.conf or loader.DEFAULT_FILE
            logs.fatal(f"`clusterdns check {checked}` lists all mistakes", flags.log_format)
        return 1
    if configuration.is_debug:
        logging.getLogger().setLevel(logging.DEBUG)
    if flags.pidfile:
        Path(flags.pidfile).write_text(f"{os.getpid()}\n")

    def announce(configuration: Configuration) -> None:
        lines = [] if flags.quiet else [*configuration.zones, *_version()]
        if flags.log_format == logs.JSON:
            for line in lines:
                _log.info("%s", line)
        elif lines and (sink := logs.bulk()) is not None:
            sink.write(lines)  # a full disk or pipe must not end or block the start

    async def run() -> int:
        return await Supervisor(source, configuration, text).run(announce)

    return asyncio.run(run())


async def _take_over(source: loader.Loader, estate: Estate) -> int:
    """Take the place of the version before, or show it that this one could."""
    supervisor = Supervisor(source, None, None, estate)
    if estate.rehearsal < 0:
        return await supervisor.run(lambda _: None)
    failure = ""
    try:
        await supervisor.rehearse()
    except (ClusterDNSError, OSError) as error:
        failure = str(error)
    await handover.answer_rehearsal(estate, failure)
    return OK


def _raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to the system's, as Go's runtime does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> list[str]:
    system = f"{platform.system().lower()}/{platform.machine()}"
    python = f"python{platform.python_version()}"
    build = native.build()
    return [
        f"clusterdns-{__version__}",
        f"{system}, {python}, like CoreDNS-{COREDNS_VERSION}",
        f"packet path: {build.packet_path}, modules: {build.modules}",
    ]


COMMAND = Command(
    "serve",
    "serve a Corefile; without a command, its flags do the same",
    "Serves a Corefile, as CoreDNS does, with CoreDNS's flags.",
    _declare,
    _serve,
    (
        Example("clusterdns serve -conf Corefile -dns.port 1053", "serve a Corefile on port 1053"),
        Example("clusterdns -conf Corefile -dns.port 1053", "the same, as CoreDNS is started"),
        Example("clusterdns serve -config-dir /etc/kube-dns", "serve kube-dns's ConfigMap"),
    ),
    {0: "ended by a signal", 1: "could not start", 2: "wrong flags"},
)
