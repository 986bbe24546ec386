"""Check a Corefile without serving it: what it would serve, and all that stands in the way.

``read`` takes a Corefile, or manifests with the ConfigMap that holds one, as `kubectl get -o yaml`
prints it. ``check`` compiles it as a start would (`configure`). A start ends at the first mistake;
here that is noted and taken out, and what is left is compiled again, until it can be served.

A Pod's surroundings are not here. So a `kubernetes` directive that means the cluster it runs in is
given an API server, which nobody asks; and of a Corefile from a ConfigMap, a file or an interface
that only the Pod may have is noted and is no mistake.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clusterdns.chain import plugin
from clusterdns.cluster import manifests
from clusterdns.config.compile import compile_blocks
from clusterdns.corefile.checks import COREDNS_ORDER
from clusterdns.corefile.lexer import DiskFiles, Files
from clusterdns.corefile.parser import Directive, ServerBlock, parse
from clusterdns.errors import ClusterDNSError, ConfigError

KEY = "Corefile"
MOUNT = "/etc/coredns"  # where kubeadm's Deployment mounts the ConfigMap
CUSTOM = "coredns-custom"  # a second ConfigMap of AKS and k3s, mounted to ``custom`` in there
MAX_MISTAKES = 100
_API_SERVER = "https://kubernetes.default.svc"
_SOURCES = ("endpoint", "kubeconfig", "manifests")
_MANIFEST_STARTS = ("apiVersion:", "kind:")


class Subject(NamedTuple):
    """A Corefile to check; ``file`` is its name in messages; ``is_mounted``: out of a ConfigMap."""

    text: str
    file: str
    files: Files
    title: str
    is_mounted: bool


class Findings(NamedTuple):
    """What a Corefile would serve, as ``zone:port``, and what was found wrong with it."""

    zones: list[str]
    refused: list[ConfigError]
    unsupported: list[str]  # directives of CoreDNS among them
    elsewhere: list[ConfigError]  # files and interfaces that are not on this machine
    warnings: list[str]


def check(subject: Subject, *, port: int) -> Findings:
    """Return what serving ``subject`` would come to; ``port`` is that of keys without one."""
    found = Findings([], [], [], [], [])
    try:
        blocks = parse(
            subject.text,
            subject.file,
            environ=os.environ,
            files=subject.files,
            warn=found.warnings.append,
        )
    except ConfigError as error:  # its grammar is broken: nothing behind it can be told
        found.refused.append(error)
        return found
    if not blocks:
        found.warnings.append(f"{subject.file}: no server block; `whoami` would be served")
    while blocks:
        try:
            configuration = compile_blocks([_with_source(block) for block in blocks], port=port)
        except ConfigError as error:
            is_elsewhere = subject.is_mounted and _is_about_surroundings(error)
            (found.elsewhere if is_elsewhere else found.refused).append(error)
            left = _without(blocks, error)
            if left == blocks or len(found.refused + found.elsewhere) >= MAX_MISTAKES:
                break
            blocks = left
        else:
            found.zones.extend(configuration.zones)
            break
    found.refused.sort(key=lambda error: (error.file, error.line))
    there = {error.word for error in found.refused} & set(COREDNS_ORDER)
    found.unsupported.extend(sorted(there - set(plugin.available())))
    return found


def report(subject: Subject, found: Findings) -> Iterator[str]:
    """Yield the lines that tell an operator what was found."""
    yield subject.title
    yield from (f"  serves    {zone}" for zone in found.zones)
    yield from (f"  refused   {error}" for error in found.refused)
    yield from (f"  not here  {error}; see that the Pod has it" for error in found.elsewhere)
    yield from (f"  warning   {reason}" for reason in found.warnings)
    if found.unsupported:
        yield f"plugins of CoreDNS that clusterdns does not have: {', '.join(found.unsupported)}"
    if found.refused:
        yield f"{len(found.refused)} refused: clusterdns would not start with it"
    else:
        yield "clusterdns can serve it as it is"


def read(path: Path, called: str = "") -> Subject:
    """Return the Corefile in a file, or in the one ConfigMap among its manifests that has it.

    ``called`` is what messages call the file, if not by its path.

    Raises:
        ClusterDNSError: it is neither.
        OSError: it cannot be read.
    """
    text = DiskFiles().read(str(path))
    file = called or str(path)
    if path.suffix in (".yaml", ".yml", ".json") or _is_manifest(text):
        try:
            return _from_manifests(path, text, file)
        except manifests.ManifestError as error:
            raise ClusterDNSError(str(error).replace(str(path), file)) from error
    return Subject(text, file, DiskFiles(), file, is_mounted=False)


def _is_manifest(text: str) -> bool:
    """Tell manifests from a Corefile, in which no line begins like that, and no text with ``{``."""
    lines = text.splitlines()
    return text.lstrip()[:1] == "{" or any(line.startswith(_MANIFEST_STARTS) for line in lines)


def _from_manifests(path: Path, whole: str, file: str) -> Subject:
    entries: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for manifest in manifests.documents(path):
        data, metadata = manifest.get("data"), manifest.get("metadata")
        if manifest.get("kind") != "ConfigMap" or not isinstance(data, Mapping):
            continue
        metadata = metadata if isinstance(metadata, Mapping) else {}
        place = posixpath.join(MOUNT, "custom" if metadata.get("name") == CUSTOM else "")
        entries |= {posixpath.join(place, str(key)): str(value) for key, value in data.items()}
        if KEY in data:
            words = (metadata.get("namespace"), metadata.get("name"))
            found.append(("/".join(str(word) for word in words if word), str(data[KEY])))
    if len(found) != 1:
        there = f": {', '.join(name for name, _ in found)}" if found else ""
        raise ClusterDNSError(
            f"{file}: {len(found) or 'no'} ConfigMaps with the key {KEY}, wants one{there}"
        )
    name, text = found[0]
    first = _line_in(whole, text)
    called = file if first is not None else f"{file}[{KEY}]"
    files = MountedFiles(entries, posixpath.dirname(called))
    title = f"{file}: ConfigMap {name}, key {KEY}"
    return Subject("\n" * (first or 0) + text, called, files, title, is_mounted=True)


def _line_in(whole: str, text: str) -> int | None:
    """Return how many lines of ``whole`` stand before ``text``, None if it is not there as lines.

    Text in quotes is not, and neither is JSON.
    """
    outer = [line.strip() for line in whole.split("\n")]
    inner = [line.strip() for line in text.rstrip("\n").split("\n")]
    if not any(inner):
        return None
    starts = (i for i, line in enumerate(outer) if line == inner[0])
    return next((i for i in starts if outer[i : i + len(inner)] == inner), None)


class MountedFiles:
    """The entries of ConfigMaps as files where they would be mounted; all others are the disk's."""

    def __init__(self, entries: Mapping[str, str], base: str) -> None:
        self._entries = entries
        self._base = base  # what relative paths begin with: the directory of the manifest
        self._disk = DiskFiles()

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern``, see ``Files``."""
        mounted = self._mounted(pattern)
        found = [
            path
            for path in sorted(self._entries)
            if fnmatch.fnmatchcase(path, mounted) and path.count("/") == mounted.count("/")
        ]
        return found or self._disk.glob(pattern)

    def read(self, path: str) -> str:
        """Return the text of an entry or a file. Raises OSError."""
        known = self._entries.get(self._mounted(path))
        return self._disk.read(path) if known is None else known

    def _mounted(self, path: str) -> str:
        if posixpath.isabs(path) and not self._is_below_base(path):
            return posixpath.normpath(path)
        return posixpath.normpath(posixpath.join(MOUNT, posixpath.relpath(path, self._base or ".")))

    def _is_below_base(self, path: str) -> bool:
        return posixpath.isabs(self._base) and path.startswith(f"{self._base.rstrip('/')}/")


def _with_source(block: ServerBlock) -> ServerBlock:
    """Return the block with an API server for what would take the cluster it runs in."""
    return block._replace(directives=tuple(_sourced(each) for each in block.directives))


def _sourced(directive: Directive) -> Directive:
    if directive.name != "kubernetes" or any(line.name in _SOURCES for line in directive.block):
        return directive
    line = directive._replace(name="endpoint", args=(_API_SERVER,), block=(), has_block=False)
    return directive._replace(block=(*directive.block, line), has_block=True)


def _is_about_surroundings(error: ConfigError) -> bool:
    """Tell whether a mistake is one on this machine only: a file or an interface it lacks."""
    if error.word == "bind" and isinstance(error.__cause__, ValueError):
        return True
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause is not None


def _without(blocks: list[ServerBlock], error: ConfigError) -> list[ServerBlock]:
    """Return the blocks without the line of the mistake, or what is left of them if there is none.

    That is the line of a directive's block, else a directive, else a whole server block.
    """
    at = (error.file, error.line)
    lines = [
        block._replace(
            directives=tuple(
                each._replace(block=tuple(line for line in each.block if _at(line) != at))
                for each in block.directives
            )
        )
        for block in blocks
    ]
    if lines != blocks:
        return lines
    directives = [
        block._replace(directives=tuple(each for each in block.directives if _at(each) != at))
        for block in blocks
    ]
    if directives != blocks:
        return directives
    # The last of them: where two blocks overlap, the first one stays.
    with contextlib.suppress(StopIteration):
        i = next(i for i in reversed(range(len(blocks))) if _at(blocks[i]) == at)
        return blocks[:i] + blocks[i + 1 :]
    return blocks


def _at(of: Directive | ServerBlock) -> tuple[str, int]:
    return of.file, of.line
