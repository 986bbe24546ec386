"""``check``: what a Corefile would serve, and everything that is wrong with it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterdns.commands.declaration import FAILED, MISUSED, OK, Command, Example, Parser, add_port
from clusterdns.errors import ClusterDNSError, reason

if TYPE_CHECKING:
    from clusterdns.config.check import Findings
    from clusterdns.config.configmap import Subject

DEFAULT_PORT = 53
STDIN = "-"
MAX_OCTETS = 8 << 20  # of standard input, as of a file
TEXT, JSON, GITHUB = "text", "json", "github"
_STYLES = {
    "  serves ": "green",
    "  refused ": "bold red",
    "  left out ": "bold red",
    "  loop ": "bold red",
    "  never ": "yellow",
    "  shadows ": "yellow",
    "  not here ": "yellow",
    "  warning ": "yellow",
    "  order ": "cyan",
    "  slow ": "cyan",
    "- ": "red",
    "+ ": "green",
}


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("paths", metavar="FILE", nargs="+",
        help="Corefile, or manifest of the ConfigMap that has one; `-` for standard input"
    )  # fmt: skip
    add_port(parser, DEFAULT_PORT, f"port of server blocks that name none ({DEFAULT_PORT})")
    add("--format", choices=(TEXT, JSON, GITHUB), default=TEXT,
        help="text, JSON, or annotations for GitHub's workflows")  # fmt: skip
    add("--json", dest="format", action="store_const", const=JSON, help="as --format json")
    add(
        "--manifests",
        type=Path,
        metavar="DIR",
        help="objects of the cluster, which know more: names they would publish, loops",
    )
    add("--diff", action="store_true",
        help="of two FILEs, old and new: print which names of the cluster and of zone files would "
        "be answered otherwise")  # fmt: skip


def _run(flags: argparse.Namespace) -> int:
    if flags.diff:
        return _diff(flags)
    from clusterdns.config import check

    ours = _ours(flags.manifests)
    worst, found = OK, list[tuple["Subject", "Findings"]]()
    for path in flags.paths:
        try:
            subject = read(path)
        except ClusterDNSError as error:
            print(f"clusterdns: {error}", file=sys.stderr)
            worst = MISUSED
            continue
        each = check.check(subject, port=flags.port, ours=ours)
        if flags.manifests is not None and not each.mistakes:
            with check.logged(each.warnings):
                try:
                    _publish(subject, flags.port, flags.manifests)
                except ClusterDNSError as error:
                    each.warnings.append(str(error))
        found.append((subject, each))
        if each.refused or each.left_out:
            worst = max(worst, FAILED)
    _print(flags.format, found)
    return worst


def _print(form: str, found: list[tuple[Subject, Findings]]) -> None:
    from clusterdns.commands import output
    from clusterdns.config import check

    if form == JSON:
        output.write_json({"files": [_as_json(*each) for each in found]})
        return
    for subject, findings in found:
        if form == GITHUB:
            print("".join(f"{line}\n" for line in _annotations(subject, findings)), end="")
        else:
            lines = check.report(subject, findings)
            output.write_labeled(lines, _STYLES)


def _as_json(subject: Subject, found: Findings) -> dict[str, Any]:
    from clusterdns.config import check

    return {
        "file": subject.file,
        "zones": found.zones,
        "can_be_served": not found.refused,
        "messages": [each._asdict() for each in check.messages(subject, found)],
    }


def _annotations(subject: Subject, found: Findings) -> Iterator[str]:
    """Yield the workflow commands of GitHub that mark the lines of a file."""
    from clusterdns.config import check

    for each in check.messages(subject, found):
        at = f"file={_escaped(each.file, of_property=True)}"
        at += f",line={each.line}" if each.line else ""
        at += f",col={each.column}" if each.column else ""
        yield f"::{each.severity} {at},title={each.kind}::{_escaped(each.text)}"


def _escaped(text: str, *, of_property: bool = False) -> str:
    """Return a text for a workflow command, in which some characters have a meaning."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if of_property else text


def _ours(manifests: Path | None) -> frozenset[str]:
    """Return the addresses of the cluster's DNS Services, as manifests have them."""
    if manifests is None:
        return frozenset()
    from clusterdns.cluster import dnsservice

    return dnsservice.addresses(manifests)


def _publish(subject: Subject, port: int, manifests: Path) -> None:
    """Make the names that objects publish, which logs those that are left out."""
    from clusterdns.authority.publishing import Publishing
    from clusterdns.commands import offline

    configuration = offline.compiled(subject, port=port, directory=manifests)
    worker = offline.Offline(configuration)

    async def publish() -> None:
        for plugin in configuration.plugins:
            if isinstance(plugin, Publishing):
                await plugin.start(worker)

    asyncio.run(publish())


def _diff(flags: argparse.Namespace) -> int:
    from clusterdns.commands import difference, output

    try:
        if len(flags.paths) != 2:
            raise ClusterDNSError("--diff wants two files, the old one and the new one")
        old, new = (read(path) for path in flags.paths)
        found = difference.between(old, new, port=flags.port, manifests=flags.manifests)
    except ClusterDNSError as error:
        print(f"clusterdns: {error}", file=sys.stderr)
        return MISUSED  # 1 is that an answer differs
    if flags.format == JSON:
        output.write_json(found.as_plain())
    elif flags.format == GITHUB:
        at = f"file={_escaped(new.file, of_property=True)},title=diff"
        for question, before, after in found.changed:
            print(f"::warning {at}::{_escaped(f'{question}: {before}, then {after}')}")
    else:
        output.write_labeled(found.lines(), _STYLES)
    return FAILED if found.changed else OK


def read(path: str) -> Subject:
    """Return the Corefile in a file, in a pipe, or on standard input. Raises ClusterDNSError."""
    from clusterdns.config import configmap  # and with it PyYAML, which serving does not need

    called = "stdin" if path == STDIN else path
    try:
        if path != STDIN and not Path(path).is_fifo():
            return configmap.read(Path(path))
        with contextlib.ExitStack() as stack:
            stream = sys.stdin.buffer
            if path != STDIN:
                stream = stack.enter_context(Path(path).open("rb"))
            given = stack.enter_context(tempfile.NamedTemporaryFile())
            given.write(stream.read(MAX_OCTETS + 1))  # one more is refused as too long
            given.flush()
            return configmap.read(Path(given.name), called)
    except OSError as error:
        raise ClusterDNSError(f"{called}: {reason(error)}") from error


COMMAND = Command(
    "check",
    "say what a Corefile, or a ConfigMap with one, would serve",
    "Prints the zones that a Corefile would serve, all its mistakes and warnings with file, line\n"
    "and column, the order in which plugins act where the text has another, blocks and plugins\n"
    "that are never asked, zones that take names from others, loops, and what leaves the fast\n"
    "path. With --diff it compares the answers of two files.",
    _declare,
    _run,
    (
        Example("clusterdns check Corefile", "check a Corefile"),
        Example(
            "kubectl -n kube-system get configmap coredns -o yaml | clusterdns check -",
            "check the Corefile of a cluster",
        ),
        Example("clusterdns check --format github Corefile", "mark its lines in a pull request"),
        Example(
            "clusterdns check --diff Corefile Corefile.new --manifests cluster",
            "names that would be answered otherwise",
        ),
    ),
    {
        0: "it can be served; with --diff, all answers are equal",
        1: "it has mistakes; with --diff, an answer differs",
        2: "it cannot be read, or wrong arguments",
    },
)
