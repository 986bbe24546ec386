"""The command line: CoreDNS's flags, and what clusterdns adds to them.

    clusterdns [-conf FILE] [-dns.port|-p PORT] [-pidfile FILE] [-quiet] [-log-format text|json]
               [-plugins] [-version]
    clusterdns -config-dir DIR [-domain ZONE] [-conf FILE] ...   serve kube-dns's ConfigMap
    clusterdns translate PATH [-zone ZONE] [-p PORT]   print the Corefile of kube-dns's ConfigMap
    clusterdns check FILE|- [-p PORT]   say what a Corefile, or a ConfigMap with one, would serve
    clusterdns lab [-p PORT]     serve the lab cluster of zones/ on this machine
    clusterdns help [PLUGIN]     print a plugin's manual

(CoreDNS: coremain/run.go)
"""

from __future__ import annotations

import sys

# Before the import of code that an older Python cannot parse.
if sys.version_info < (3, 11):  # noqa: UP036 - who runs it has not installed it by pip
    sys.exit("clusterdns: wants Python 3.11 or later, this is " + sys.version.split()[0])
if sys.platform != "linux":
    sys.exit("clusterdns: wants Linux (epoll, SO_REUSEPORT, /proc), this is " + sys.platform)

import argparse
import asyncio
import contextlib
import inspect
import logging
import os
import platform
import resource
import tempfile
from pathlib import Path

from clusterdns import COREDNS_VERSION, __version__
from clusterdns.chain import registry
from clusterdns.config import configmap, kubedns, lab, loader
from clusterdns.config.compile import Configuration
from clusterdns.errors import ClusterDNSError, ConfigError
from clusterdns.host import logs
from clusterdns.processes.supervisor import Supervisor

DEFAULT_PORT = 53
DEFAULT_ZONE = "cluster.local"
_log = logging.getLogger(__name__)


def main() -> int:
    """Run clusterdns; return the exit status."""
    word, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    try:
        if word in _COMMANDS:
            return _COMMANDS[word](arguments)
        return _serve(_flags().parse_args(sys.argv[1:]))
    except (ClusterDNSError, OSError) as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return 1


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clusterdns",
        usage="clusterdns [-conf FILE] [-dns.port PORT] ... | COMMAND ...",
        description="A DNS server for Kubernetes that reads CoreDNS's Corefile.",
        epilog=_COMMANDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-conf", "--conf", default="", metavar="FILE", help="Corefile to load, or `stdin`")
    add("-config-dir", "--config-dir", metavar="DIR", type=Path,
        help="serve the ConfigMap of kube-dns that is mounted there; changes are taken up; with "
        f"-conf, in place of {kubedns.UPSTREAMS} in FILE, and behind it")  # fmt: skip
    add("-domain", "--domain", type=_zone, default=DEFAULT_ZONE, metavar="ZONE",
        help=f"zone of the cluster, for -config-dir ({DEFAULT_ZONE})")  # fmt: skip
    add("-dns.port", "--dns.port", "-p", "--p", dest="port", type=_port, default=DEFAULT_PORT,
        metavar="PORT", help="port of server blocks that name none (53)")  # fmt: skip
    add("-pidfile", "--pidfile", default="", metavar="FILE", help="file to write the process ID to")
    add("-quiet", "--quiet", action="store_true", help="print nothing at the start")
    add("-log-format", "--log-format", default=logs.TEXT, metavar="FORMAT",
        help="log `text` (the default) or `json`, an object a line")  # fmt: skip
    add("-plugins", "--plugins", action="store_true", help="list the plugins")
    add("-version", "--version", action="store_true", help="print the version")
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port number")
    return int(text)


def _zone(text: str) -> str:
    zone = text.removesuffix(".").lower()
    if not kubedns.is_domain(zone):
        raise argparse.ArgumentTypeError(f"{text!r} is no domain name")
    return zone


def _serve(flags: argparse.Namespace) -> int:
    if flags.version:
        print("\n".join(_version()))
        return 0
    if flags.plugins:
        print("Server types:\n  dns\n\nOther plugins:")
        print("\n".join(f"  dns.{word}" for word in sorted(registry.available())))
        return 0
    if flags.log_format not in logs.FORMATS:
        raise ClusterDNSError(
            f'unknown log format "{flags.log_format}": expected {" or ".join(logs.FORMATS)}'
        )
    logs.start(format=flags.log_format)
    try:
        return _run(flags)
    except (ClusterDNSError, OSError) as error:
        logs.fatal(str(error), flags.log_format)
        return 1


def _run(flags: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status. Raises ClusterDNSError, OSError."""
    _raise_descriptor_limit()
    if flags.config_dir:
        source = loader.from_config_dir(
            flags.config_dir, flags.conf, zone=flags.domain, port=flags.port
        )
    else:
        source = loader.from_corefile(flags.conf, flags.port)
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


def _raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to the system's, as Go's runtime does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> list[str]:
    system = f"{platform.system().lower()}/{platform.machine()}"
    python = f"python{platform.python_version()}"
    return [f"clusterdns-{__version__}", f"{system}, {python}, like CoreDNS-{COREDNS_VERSION}"]


def _translate(arguments: list[str]) -> int:
    """Print the Corefile for a ConfigMap of kube-dns."""
    parser = argparse.ArgumentParser(prog="clusterdns translate", allow_abbrev=False)
    parser.add_argument("path", metavar="PATH", type=Path,
        help="its manifest, YAML or JSON, or the directory that it is mounted to")  # fmt: skip
    parser.add_argument("-zone", "--zone", type=_zone, default=DEFAULT_ZONE,
        help=f"zone of the cluster ({DEFAULT_ZONE})")  # fmt: skip
    parser.add_argument("-p", "-dns.port", "--port", dest="port", type=_port, default=DEFAULT_PORT,
        help=f"port to serve on ({DEFAULT_PORT})")  # fmt: skip
    flags = parser.parse_args(arguments)

    def warn(reason: str) -> None:
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
    print(text, end="")
    return 0


def _check(arguments: list[str]) -> int:
    """Print the check of a Corefile; return 1 if it has mistakes, 2 if it cannot be read."""
    from clusterdns.config import check  # imports PyYAML, which serving does not need

    parser = argparse.ArgumentParser(prog="clusterdns check", allow_abbrev=False)
    parser.add_argument("path", metavar="FILE",
        help="Corefile, or manifest of the ConfigMap that has one; `-` for standard input"
    )  # fmt: skip
    parser.add_argument("-p", "-dns.port", "--port", dest="port", type=_port, default=DEFAULT_PORT,
        help=f"port of server blocks that name none ({DEFAULT_PORT})")  # fmt: skip
    flags = parser.parse_args(arguments)
    try:
        if flags.path == "-":
            with tempfile.NamedTemporaryFile() as given:
                given.write(sys.stdin.buffer.read())
                given.flush()
                subject = configmap.read(Path(given.name), "stdin")
        else:
            subject = configmap.read(Path(flags.path))
    except (ClusterDNSError, OSError) as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return 2
    found = check.check(subject, port=flags.port)
    print("\n".join(check.report(subject, found)))
    return 1 if found.refused or found.left_out else 0


def _lab(arguments: list[str]) -> int:
    """Serve the lab, and print example queries."""
    parser = argparse.ArgumentParser(prog="clusterdns lab", allow_abbrev=False)
    parser.add_argument("-p", "-dns.port", "--port", dest="port", type=_port, default=0)
    port = parser.parse_args(arguments).port or lab.free_port()
    os.chdir(lab.directory())
    print(f"the lab cluster is served on port {port}; ask it, for example:")
    for question in lab.QUESTIONS:
        print(f"  dig @localhost -p {port} {question}", flush=True)
    return _serve(_flags().parse_args(["-conf", "Corefile", "-p", str(port)]))


def _help(arguments: list[str]) -> int:
    """Print the manual of a plugin, or the first line of each."""
    known = registry.available()
    for word in arguments or known:
        if word not in known:
            print(f"clusterdns: no plugin {word!r}; there are {', '.join(known)}", file=sys.stderr)
            return 1
        try:
            manual = inspect.getdoc(inspect.getmodule(registry.load(word))) or ""
        except registry.PluginError as error:
            if arguments:
                raise
            manual = f"{word} - {error}"
        print(manual if arguments else manual.split("\n", 1)[0])
    return 0


_COMMANDS = {"lab": _lab, "help": _help, "translate": _translate, "check": _check}
_COMMANDS_HELP = """commands (each with -h):
  check FILE|-      say what a Corefile, or a ConfigMap with one, would serve
  translate PATH    print the Corefile that stands for kube-dns's ConfigMap
  lab               serve the lab cluster on this machine
  help [PLUGIN]     print a plugin's manual, or a line on each"""

if __name__ == "__main__":
    sys.exit(main())
