r"""auto - serve the zones of all master files in a directory.

Syntax:

    auto [ZONES...] {
        directory DIR [REGEXP TEMPLATE]
        reload DURATION
    }

A file below DIR, which is relative to `root`, is a master file if REGEXP matches its name; TEMPLATE
is the name of its zone, with `{1}` for the first group of the match and `{name}` for a named group.
The defaults are `db\.(.*)` and `{1}`: `db.example.org` is the zone `example.org`. Every `reload`,
1m by default and never with 0, new and removed files are noticed, and files whose SOA serial has
changed are loaded. A file with a mistake is reported, and its last good version stays in force.
Only names in ZONES, by default the keys of the server block, are answered.

Examples:

    org {
        auto {
            directory cluster
            reload 30s
        }
    }

Differences from CoreDNS: REGEXP is one of Python's. Zones in capitals are served. At most
10,000 files of a directory are read. An alias into a delegation has AA, as with `file`. The
differences of `file` apply, too.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clusterdns.authority import zonefile
from clusterdns.authority.answering import Authority, longest
from clusterdns.authority.zone import Zone
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats, Worker
from clusterdns.chain.polling import Polling
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp
from clusterdns.wire import name
from clusterdns.wire.name import WireName

RELOAD_S = 60.0
MAX_FILES = 10_000
MAX_EXPRESSION = 10_000  # characters (CoreDNS: plugin/auto/setup.go maxRegexpLen)
_GROUP = re.compile(r"\$?\{(\w+)\}|\$(\w+)")
_log = plugin_logger("auto")


class Auto(Authority, Polling):
    """The zones of the files in one directory."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        super().__init__(block)
        self._origins = arguments.zone_names(directive.args, directive) or block.zones
        self._directory: Path | None = None
        self._expression, self._template = re.compile(r"db\.(.*)"), "{1}"
        self.reload_s = RELOAD_S
        self._stamps = dict[tuple[WireName, Path], dict[Path, Stamp]]()  # with what they include
        self._paths = dict[WireName, Path]()  # of the zones
        self._faults = dict[Path, str]()  # files with a mistake, each reported once
        for line in directive.block:
            match line.name:
                case "directory":
                    self._read_directory(line)
                case "reload":
                    self.reload_s = arguments.first_seconds(line)
                case "upstream":
                    pass  # accepted and ignored, as in CoreDNS
                case _:
                    raise line.unknown("directory", "reload", "upstream")

    def _read_directory(self, line: Directive) -> None:
        if len(line.args) not in (1, 3):
            raise line.error("wants DIR [REGEXP TEMPLATE]")
        self._directory = self.block.path(line.args[0]).absolute()
        if not self._directory.is_dir():
            _log.warning("directory does not exist: %s", self._directory)
        if len(line.args) == 1:
            return
        text, self._template = line.args[1:]
        if len(text) > MAX_EXPRESSION:
            raise line.error(f"regular expression of more than {MAX_EXPRESSION} characters")
        try:
            self._expression = re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise line.error(f"{text!r} is no regular expression: {error}") from error
        if not self._expression.groups:
            raise line.error(f"{text!r} needs a part in parentheses")

    @property
    def claimed(self) -> Iterable[WireName]:
        """The zones that are served, now or once loaded."""
        return self._origins

    def zone_of(self, qname: WireName) -> WireName | None:
        """Return the longest zone that a name lies in, or None."""
        return longest(qname, self.zones) if name.is_within_any(qname, self._origins) else None

    def origin(self, apex: WireName) -> str:
        """Return the zone and its directory, for explanations."""
        return f"the zone {name.text(apex)} of the directory {self._directory}"

    def file_of(self, apex: WireName) -> Path | None:
        """Return the file of a zone."""
        return self._paths.get(apex)

    async def start(self, worker: Worker) -> None:
        """Read the directory, and start to poll it."""
        await self.look()
        self.look_again(worker)

    async def look(self) -> bool:
        """Take up what has changed in the directory; tell whether anything has."""
        known = self.zones
        found = await asyncio.to_thread(self._read, known)
        changed = [apex for apex, zone in found.items() if known.get(apex) is not zone]
        gone = [apex for apex in known if apex not in found]
        self.zones = found
        for apex in gone:
            _log.info('Deleting zone "%s"', name.text(apex))
        for apex in changed:
            verb = "Reloading" if apex in known else "Inserting"
            _log.info('%s zone "%s"', verb, name.text(apex))
            self.transfers.changed(apex)
        return bool(changed or gone)

    def _read(self, known: dict[WireName, Zone | None]) -> dict[WireName, Zone | None]:
        """Return the zones of the directory; one whose serial is the same is the known one."""
        zones = dict[WireName, Zone | None]()
        faults = dict[Path, str]()
        before, self._stamps = self._stamps, {}
        self._paths = self._files()
        for apex, path in self._paths.items():
            old, stamps = known.get(apex), before.get((apex, path))
            if old is not None and stamps and _are_same(stamps):
                zones[apex], self._stamps[apex, path] = old, stamps
                continue
            try:
                stamps = dict[Path, Stamp]()
                new = zonefile.read(path, apex, is_beside=True, stamps=stamps)
                if all(stamp.is_settled for stamp in stamps.values()):
                    self._stamps[apex, path] = stamps
                is_same = old is not None and old.serial == new.serial
                zones[apex] = old if is_same else new
            except MasterFileError as error:
                faults[path] = str(error)
                if self._faults.get(path) != str(error):
                    _log.warning("zone %s is left as it was: %s", name.text(apex), error)
                if old is not None:
                    zones[apex] = old
        self._faults = faults
        return zones

    def _files(self) -> dict[WireName, Path]:
        """Return the file of each zone, the first by name of those that claim it."""
        found = dict[WireName, Path]()
        for path in self._walk():
            apex = self._apex_of(path.name)
            if apex is None:
                continue
            first = found.setdefault(apex, path)
            if first != path:
                text = name.text(apex)
                _log.warning('zone "%s": using %s instead of %s', text, first, path)
        return found

    def _walk(self) -> Iterator[Path]:
        """Yield the files below the directory, at most ``MAX_FILES``, in the order of names.

        A mounted ConfigMap is a directory of links into another, which is entered only once, by its
        files' links: links to directories are not followed.
        """
        if self._directory is None:
            return
        left = MAX_FILES
        for folder, folders, files in os.walk(self._directory.resolve()):
            folders.sort()
            for file in sorted(files):
                left -= 1
                if left < 0:
                    _log.warning("%s: more than %d files", self._directory, MAX_FILES)
                    return
                yield Path(folder) / file

    def _apex_of(self, file: str) -> WireName | None:
        """Return the zone that a file's name stands for, or None."""
        found = self._expression.search(file)
        if found is None:
            return None

        def fill(place: re.Match[str]) -> str:
            group = place[1] or place[2]
            try:
                return found[int(group) if group.isdigit() else group] or ""
            except IndexError:
                return ""

        try:
            return name.fold(name.parse(_GROUP.sub(fill, self._template)))
        except (FormError, UnicodeError):
            return None


def _are_same(stamps: Mapping[Path, Stamp]) -> bool:
    """Tell whether files are those that were read."""
    return all(Stamp.at(path) == stamp for path, stamp in stamps.items())
