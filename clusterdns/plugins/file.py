"""file - serve zones from a master file.

Syntax:

    file DBFILE [ZONES...] {
        reload DURATION
        reload_by_mtime
        fallthrough [ZONES...]
    }

DBFILE is an RFC 1035 master file, relative to `root`; ZONES default to the server block's keys. The
file is checked every `reload` (1m by default, 0 for never). It is loaded again when the SOA serial
has changed, or with `reload_by_mtime` when the time, size or inode of the file has changed. While
the file is missing, its zones get SERVFAIL; with `reload 0` that is a mistake. After a mistake in
the file its last good version stays in force. `$INCLUDE` is relative to the directory of DBFILE.
`transfer` transfers the zones to secondary servers.

Replies from a signed zone (`dnssec-signzone`, `sign`) to queries with DO have its signatures, and
its NSEC records as proofs of denials (RFC 4035). A zone with NSEC3 is a mistake.

Examples:

    example.org {
        file db.example.org {
            reload 30s
        }
    }

Differences from CoreDNS: a zone whose serial is 0 is served. All records of an RRset have its
lowest TTL (RFC 2181 section 5.2), and repeated records are one. An alias beside other records is a
mistake. A loop of aliases is answered with each of them once. Records of `$GENERATE` have the TTL
of `$TTL`. Answers from a signed zone have all the proofs that a validator needs; CoreDNS leaves
some out: at delegations without DS, for wildcards, at the end of aliases, for wildcards below empty
non-terminals. The signature of an alias made by a wildcard has the owner of the alias, and a
wildcard does not match an empty non-terminal (RFC 4592). A zone with its includes may have 24 MiB
and 250,000 records.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from clusterdns.authority import zonefile
from clusterdns.authority.answering import Authority, longest
from clusterdns.authority.zone import Zone
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Plugin, Worker
from clusterdns.chain.polling import Polling
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp
from clusterdns.wire import name
from clusterdns.wire.name import WireName

RELOAD_S = 60.0
_log = plugin_logger("file")


class File(Authority, Polling):
    """The zones of one master file."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if not directive.args:
            raise directive.error("wants DBFILE [ZONES...]")
        super().__init__(block)
        self._path = block.path(directive.args[0]).absolute()
        self._written = directive.args[0]
        apexes = arguments.zone_names(directive.args[1:], directive) or block.zones
        self.reload_s = RELOAD_S
        self._by_mtime = False
        for line in directive.block:
            match line.name:
                case "reload":
                    self.reload_s = arguments.first_seconds(line)
                case "reload_by_mtime":
                    self._by_mtime = arguments.flag(line)
                case "fallthrough":
                    self.through = arguments.zone_names(line.args or (".",), line)
                case "upstream":
                    pass  # accepted and ignored, as in CoreDNS
                case _:
                    raise line.unknown("reload", "reload_by_mtime", "fallthrough", "upstream")
        self.zones = dict.fromkeys(apexes)  # None: no file yet
        self._stamp = Stamp.at(self._path)
        try:
            self.zones = {apex: zonefile.read(self._path, apex) for apex in apexes}
        except MasterFileError as error:
            if self._stamp is not None or not self.reload_s:
                raise directive.error(str(error)) from error
            _log.warning("%s: trying again every %g s", error, self.reload_s)
        self._apexes = list(self.zones)  # of all directives of the block

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence; each knows the zones of the others."""
        plugins = [cls(directive, block) for directive in directives]
        through = [plugin.through for plugin in plugins if plugin.through]
        for plugin in plugins:
            plugin._apexes = [apex for each in plugins for apex in each.zones]
            plugin.through = through[-1] if through else ()  # one for all, as in CoreDNS
        return [*plugins]

    def zone_of(self, qname: WireName) -> WireName | None:
        """Return the zone a name lies in, if it is not in a longer one of another directive."""
        found = longest(qname, self._apexes)
        return found if found in self.zones else None

    def origin(self, apex: WireName) -> str:
        """Return the zone and its file, for explanations."""
        return f"the zone {name.text(apex)} of the file {self._written}"

    def file_of(self, apex: WireName) -> Path | None:
        """Return the file."""
        return self._path

    async def start(self, worker: Worker) -> None:
        """Start to poll the file."""
        for apex, zone in self.zones.items():
            if zone is not None:
                self.transfers.changed(apex)
        self.look_again(worker)

    async def look(self) -> bool:
        """Load the file if it has changed; tell whether it was loaded."""
        stamp = await asyncio.to_thread(Stamp.at, self._path)
        if self._by_mtime and stamp == self._stamp:
            return False
        try:
            found = await asyncio.to_thread(self._read)
        except MasterFileError as error:
            _log.error("the last good zone stays in force: %s", error)
            return False
        known = self.zones
        changed = [
            apex
            for apex, zone in found.items()
            if self._by_mtime or (old := known[apex]) is None or old.serial != zone.serial
        ]
        self._stamp = stamp
        if not changed:
            return False
        self.zones = {**known, **{apex: found[apex] for apex in changed}}
        for apex in changed:
            serial = found[apex].serial
            _log.info(
                'Successfully reloaded zone "%s" in "%s" with %d SOA serial',
                name.text(apex), self._path, serial,
            )  # fmt: skip
            self.transfers.changed(apex)
        return True

    def _read(self) -> dict[WireName, Zone]:
        return {apex: zonefile.read(self._path, apex, is_beside=True) for apex in self.zones}
