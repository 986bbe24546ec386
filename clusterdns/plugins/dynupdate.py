"""dynupdate - serve a zone that clients change by DNS UPDATE (RFC 2136).

Syntax:

    dynupdate [ZONE] {
        file SEED
        database PATH
        allow KEY NAME TYPE...
        max_records COUNT
        max_bytes OCTETS
        max_update_records COUNT
    }

ZONE, by default the only zone of the server block, begins as the master file SEED, which is never
changed. A request to change it must have a signature that `tsig` has found valid, and each of its
changes must be allowed: the holder of KEY may change records of TYPE at NAME. `@` is the apex, `*`
every name; TYPE `*` is every type, and `ANY` allows to delete all records of a name. Use
`require_opcode UPDATE` in `tsig`, so that unsigned requests end there.

With `database` a change is on the disk before the client has its reply. The file is made at the
first change, beside it PATH`.lock` and, for a moment, PATH`.new`; from then on SEED is not read.
Without `database`, changes are lost at a restart or reload. Paths are relative to `root`.

The prerequisites and changes of a request are applied together or not at all. The serial of the SOA
is then one greater, unless the client has set it. The zone may have `max_records` records, by
default 10000, of `max_bytes` octets, by default 8388608; a request may have `max_update_records`,
by default 1024. Of requests that come faster than they can be applied, up to 64 wait, and the
others get SERVFAIL. DNSSEC records and ZONEMD cannot be in the zone, since they are wrong after a
change. `transfer` transfers the zone, and sends a NOTIFY after changes; `cache` leaves it alone.

Examples:

    example.org {
        tsig {
            secret externaldns.example.org. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=
            require_opcode UPDATE
            require AXFR IXFR
        }
        transfer {
            to *
        }
        dynupdate {
            file db.example.org
            allow externaldns.example.org. * *
        }
    }

The provider `rfc2136` of external-dns can change this zone: it transfers it, and sends updates.

Differences from CoreDNS: the database has a format of its own, and is not made before the first
change; a directory that is missing is a mistake. A record with another TTL changes the TTL of its
RRset (RFC 2181 section 5.2). A change outside the zone is NOTZONE also where nothing is allowed.
Types without a name are taken (RFC 3597). An UPDATE over UDP may have 16384 octets; CoreDNS
cuts it at 512. A NOTIFY for the
zone is REFUSED; CoreDNS does not reply. With `multisocket` all workers have a change within 100 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from pathlib import Path

import dns.exception
import dns.rdatatype

from clusterdns.authority import updating, zonefile
from clusterdns.authority.answering import Authority
from clusterdns.authority.stored import InFile, InMemory, Stored, StoredError
from clusterdns.authority.updating import Allowed, Records
from clusterdns.authority.zone import Zone
from clusterdns.caching.spared import Spared
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import HandleNext, Worker
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.wire import name, reading, rr
from clusterdns.wire.message import AA, OPCODE_UPDATE, Query, Unread
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

# CoreDNS: plugin/dynupdate/limits.go
MAX_RECORDS, MAX_OCTETS, MAX_UPDATE_RECORDS = 10_000, 8 * 2**20, 1024
LOOK_S = 0.1  # time in which a process notices the changes of another
# Updates in line: a second of work. Without a bound the holder of one key would take the places of
# all queries that wait in the chain, for as long as its updates take; SERVFAIL makes it try again.
MAX_WAITING = 64
NOTAUTH = 9
_LIMITS = ("max_records", "max_bytes", "max_update_records")
_log = plugin_logger("dynupdate")


class Dynupdate(Authority):
    """One zone, and who may change it."""

    takes_updates = True

    def __init__(self, directive: Directive, block: Block) -> None:
        super().__init__(block)
        self._apex = _zone(directive, block)
        self._rules = list[Allowed]()
        self._limits = dict(
            zip(_LIMITS, (MAX_RECORDS, MAX_OCTETS, MAX_UPDATE_RECORDS), strict=True)
        )
        self._seed, database = self._read(directive, block)
        self._stored: Stored = InMemory(self._limits["max_bytes"])
        if database is not None:
            self._stored = InFile(database, self._apex, self._limits["max_bytes"])
        self._version: Hashable = None  # of the records that are served
        self._unusable: Hashable = None  # the version that could not be read
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        block.shared(Spared).zones.append(self._apex)
        try:
            self._install(*self._load())
        except (MasterFileError, StoredError, ValueError) as error:
            raise directive.error(str(error)) from error

    def _read(self, directive: Directive, block: Block) -> tuple[Path, Path | None]:
        """Read the block; return the paths of seed and database."""
        paths = dict[str, Path]()
        seen = set[str]()
        for line in directive.block:
            if line.name != "allow" and line.name in seen:
                raise line.error(f"{line.name} is given twice")
            seen.add(line.name)
            match line.name:
                case "file" | "database":
                    paths[line.name] = block.path(arguments.one(line)).absolute()
                case "allow":
                    self._rules.append(self._rule(line))
                case limit if limit in _LIMITS:
                    self._limits[limit] = arguments.number(line, least=1)
                case _:
                    raise line.unknown("file", "database", "allow", *_LIMITS)
        if "file" not in paths:
            raise directive.error("file is required")
        if not self._rules:
            raise directive.error("at least one allow rule is required")
        database = paths.get("database")
        if database is not None and not database.parent.is_dir():
            raise directive.error(f"{database.parent} is no directory")
        return paths["file"], database

    def _rule(self, line: Directive) -> Allowed:
        if len(line.args) < 3:
            raise line.error("wants KEY NAME TYPE...")
        key, owner, *types = line.args
        if key in ("*", "@"):
            raise line.error(f"{key!r} is no name of a key")
        (its_name,) = _names((key,), line)
        if "*" in types:
            if len(types) > 1:
                raise line.error("the type * stands alone")
            return Allowed(its_name, self._owner(owner, line), None)
        found = frozenset(_type(text, line) for text in types)
        return Allowed(its_name, self._owner(owner, line), found)

    def _owner(self, text: str, line: Directive) -> WireName | None:
        if text == "*":
            return None
        if text == "@":
            return self._apex
        (found,) = _names((text,), line)
        if not name.is_within(found, self._apex):
            raise line.error(f"{text!r} is outside zone {name.text(self._apex)}")
        return found

    # ---- the zone

    def _load(self) -> tuple[Hashable, Records, Zone]:
        """Return version, records and zone: those of the database, or of the seed without one.

        Raises:
            MasterFileError, StoredError, ValueError: they cannot be had.
        """
        version = self._stored.version()
        if version is None:
            records: Iterable[RR] = [*zonefile.read(self._seed, self._apex).records()][:-1]
        else:
            records = self._stored.read()
        found = Records(self._apex, records)
        self._check(found)
        return version, found, Zone(self._apex, found)

    def _check(self, records: Records) -> None:
        """Raise ValueError for records that cannot be served as a zone that changes."""
        for record in records:
            if record.rtype in updating.UNSUPPORTED:
                raise ValueError(f"zone contains unsupported RR type {rr.type_text(record.rtype)}")
        if records.soa is not None and not updating.serial_of(records.soa):
            raise ValueError("zone contains an SOA with serial zero")
        if excess := self._excess(records):
            raise ValueError(excess)

    def _excess(self, records: Records) -> str:
        """Return which limit the records exceed, "" for none."""
        if records.count > self._limits["max_records"]:
            return f"zone exceeds max_records ({self._limits['max_records']})"
        if records.octets > self._limits["max_bytes"]:
            return f"zone exceeds max_bytes ({self._limits['max_bytes']})"
        return ""

    def _install(self, version: Hashable, records: Records, zone: Zone) -> None:
        self._version, self._records = version, records
        self.zones = {self._apex: zone}

    async def start(self, worker: Worker) -> None:
        """Take over what has changed since the configuration was read, and follow changes."""
        self._worker = worker
        await self._look()
        self.transfers.changed(self._apex)
        self._looking = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Follow changes no more."""
        await end(self._looking)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """Take over the changes of other processes."""
        version = self._stored.version()
        if version in (self._version, self._unusable, None):
            return
        async with self._turn:
            try:
                self._install(*await asyncio.to_thread(self._load_locked))
            except (MasterFileError, StoredError, OSError, ValueError) as error:
                self._unusable = version  # told once; an update tries again, and fails
                _log.error("the last good records stay in force: %s", error)
        self._forget()

    def _load_locked(self) -> tuple[Hashable, Records, Zone]:
        with self._stored.locked():
            return self._load()

    def _forget(self) -> None:
        self._worker.forget([("zone", name.text(self._apex))])

    # ---- updates

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the zone, or the result of an update."""
        if query.opcode != OPCODE_UPDATE:
            return await super().handle(query, next)
        rcode = await self._update(query)
        return Response(rcode, AA, lifetime_s=0)

    async def notified(self, query: Query, apex: WireName) -> Response:
        """Refuse a NOTIFY: this is the primary server of the zone."""
        return Response(rr.REFUSED, flags=0, lifetime_s=0)

    async def _update(self, query: Query) -> int:
        """Apply an update; return the RCODE."""
        question, changes = query.question, query.changes
        if question is None or changes is None or question.qtype != rr.SOA:
            return rr.FORMERR
        if question.folded != self._apex:
            return NOTAUTH
        key = query.key
        if key is None or not any(rule.key == key for rule in self._rules):
            return rr.REFUSED
        if changes.prerequisites + changes.updates > self._limits["max_update_records"]:
            return rr.REFUSED
        if self._waiting >= MAX_WAITING:
            return rr.SERVFAIL
        self._waiting += 1
        try:
            return await self._in_turn(key, changes)
        finally:
            self._waiting -= 1

    async def _in_turn(self, key: WireName, changes: Unread) -> int:
        """Apply an update when those before it are; return the RCODE."""
        async with self._turn:
            try:
                rcode = await asyncio.to_thread(self._apply, key, changes)
            except FormError:
                return rr.FORMERR
            except (MasterFileError, StoredError, OSError, ValueError) as error:
                _log.error("UPDATE for %s failed: %s", name.text(self._apex), error)
                return rr.SERVFAIL
        if self._is_news:
            self._forget()
            self.transfers.changed(self._apex)
        return rcode

    _is_news = False  # whether the last update has changed the zone

    def _apply(self, key: WireName, changes: Unread) -> int:
        """Apply an update, in a thread; return the RCODE.

        Raises:
            FormError: its records are malformed.
            MasterFileError, StoredError, ValueError: the records cannot be read or written.
        """
        self._is_news = False
        prerequisites, updates = reading.read_update(changes)
        with self._stored.locked():
            if self._stored.version() not in (self._version, None):
                self._install(*self._load())
                self._is_news = True
            rcode = (
                updating.unmet(self._records, prerequisites)
                or updating.refused(self._apex, key, self._rules, updates)
                or updating.invalid(self._apex, updates)
            )
            found = None if rcode else updating.applied(self._records, updates)
            if found is None:
                return rcode
            if excess := self._excess(found):
                _log.error("UPDATE for %s failed: %s", name.text(self._apex), excess)
                return rr.REFUSED
            zone = Zone(self._apex, found)
            self._stored.write(found)
            self._install(self._stored.version(), found, zone)
        self._is_news = True
        return rr.NOERROR


def _zone(directive: Directive, block: Block) -> WireName:
    if len(directive.args) > 1:
        raise directive.error("takes one zone")
    if directive.args:
        found = arguments.zone_names(directive.args, directive)
    else:
        found = tuple(dict.fromkeys(block.zones))
    if len(found) != 1:
        raise directive.error("wants ZONE, where the server block has not exactly one")
    return found[0]


def _names(texts: tuple[str, ...], line: Directive) -> list[WireName]:
    found = list[WireName]()
    for text in texts:
        try:
            found.append(name.fold(name.parse(text)))
        except FormError as error:
            raise line.error(f"{text!r} is no name: {error.reason}") from error
    return found


def _type(text: str, line: Directive) -> int:
    try:
        found = int(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError) as error:
        raise line.error(f"invalid RR type {text!r} in allow rule") from error
    is_good = found == rr.ANY or not updating.is_meta(found)
    if not is_good or found in updating.UNSUPPORTED:
        raise line.error(f"invalid RR type {text!r} in allow rule")
    return found
