"""hosts - answer from a hosts file, and from entries in the Corefile.

Syntax:

    hosts [FILE [ZONES...]] {
        ADDRESS NAME [NAME...]
        ttl SECONDS
        no_reverse
        reload DURATION
        fallthrough [ZONES...]
        fallthrough_unsupported
    }

FILE is /etc/hosts by default, relative to `root`. ZONES default to the server block's keys; other
names are ignored. The block may hold further entries, before `fallthrough`. The answer
has all addresses of the name, those of the file first. `*.example.org` matches every name with one
more label that has no entry of its own. A PTR query for an address returns its names, unless
`no_reverse` is given. The TTL is 3600, or `ttl`, 1 to 65535.

A name without an entry gets SERVFAIL, because there is no SOA for a denial. With `fallthrough`,
names in ZONES (all names if none are given) go to the next plugin instead. Other types of a name
with an entry get NODATA; with `fallthrough_unsupported`, which requires `fallthrough`, all types
except A, AAAA and PTR go to the next plugin. A reverse name without an entry always does.

The file is checked every `reload` (5s by default, 0 for never) and read again if it has changed. It
may be missing at the start. A file that is not a regular file, or has more than 16 MiB, is not
read; its last good version stays in force.

Examples:

    . {
        hosts {
            10.0.0.1 node-1 node-1.example.org
            fd00::1 node-1
            192.0.2.7 *.apps.example.org
            ttl 60
            reload 1s
            fallthrough
        }
        whoami
    }

Metrics: `coredns_hosts_entries{hostsfile}`, entries and reverse names of file and Corefile;
`coredns_hosts_reload_timestamp_seconds`, the modification time of the file last read.

Differences from CoreDNS: a file counts as changed if its time, size or inode differs. A FIFO is not
read. Names are compared as octets, so names with letters outside ASCII are found. An invalid
domain name has no PTR record. A single word in the block that is not an option is a mistake, and so
is a word after `no_reverse`. A change takes effect at once, also for replies that `cache` holds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import stat
import time
from pathlib import Path
from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Worker
from clusterdns.chain.polling import Polling
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive, did_you_mean
from clusterdns.formats import hostsfile
from clusterdns.formats.hostsfile import Hosts as Entries
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp, read_regular
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

MAX_COMPLAINTS = 20  # log lines of one reading
MAX_RECORDS = 4700  # more than fit into any message
MAX_REVERSE = 1024  # addresses whose reverse names' parents are kept, to tell the same of these
MAX_SHARED = 65_536  # names whose parents are kept, to tell which denials hold for names below
START_TIMEOUT_S = 5.0  # for a file system that does not answer
_PROPERTIES = ("fallthrough", "fallthrough_unsupported", "no_reverse", "ttl", "reload")
_log = plugin_logger("hosts")


class Hosts(Polling):
    """The entries of one hosts file, and of the Corefile."""

    always_shown = True
    families: ClassVar = {
        "hosts_entries": Family(
            "The combined number of entries in hosts and Corefile.",
            ("hostsfile",),
            is_gauge=True,
            is_shared=True,
        ),
        "hosts_reload_timestamp_seconds": Family(
            "The timestamp of the last reload of hosts file.", is_gauge=True, is_shared=True
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._path = "/etc/hosts"
        if directive.args:
            self._path = str(block.path(directive.args[0]))
            self._check_file(directive)
        self._zones = arguments.zone_names(directive.args[1:], directive) or block.zones
        self._fallthrough: tuple[WireName, ...] = ()
        self._passes_unsupported = False
        self._reverses = True
        self._ttl = 3600
        self.reload_s = 5.0
        self._lines: list[str] = []
        self._places: list[str] = []  # file:line of each
        for line in directive.block:
            self._read(line)
        if self._passes_unsupported and not self._fallthrough:
            raise directive.error("fallthrough_unsupported requires fallthrough")
        self._inline = self._parse(self._inline_text(), "Inline hosts entries")
        self._file = Entries()
        self._stamp: Stamp | None = None  # of the last file read
        self._complaint = ""  # the last error logged about the whole file
        self._parents: frozenset[WireName] | None = frozenset()
        self._reverse_parents: frozenset[WireName] | None = frozenset()
        self._share()
        self._facts = (("hosts", self._path),)

    def _check_file(self, directive: Directive) -> None:
        """Warn of a file that is missing or not a regular file. Raises ConfigError."""
        try:
            mode = os.stat(self._path).st_mode  # noqa: PTH116 - the path is shown as it was given
        except FileNotFoundError:
            _log.warning("File does not exist: %s", self._path)
        except (OSError, ValueError) as error:
            reason = f"unable to access hosts file {self._path!r}: {error}"
            raise directive.error(reason) from error
        else:
            if stat.S_ISDIR(mode):
                _log.warning('Hosts file "%s" is a directory', self._path)

    def _read(self, line: Directive) -> None:
        """Apply one line of the block. Raises ConfigError."""
        match line.name:
            case "fallthrough":
                self._fallthrough = arguments.zone_names(line.args or (".",), line)
            case "fallthrough_unsupported":
                self._passes_unsupported = arguments.flag(line)
            case "no_reverse":
                self._reverses = not arguments.flag(line)
            case "ttl":
                self._ttl = arguments.whole(arguments.some(line)[0], line, least=1, most=65_535)
            case "reload":
                self.reload_s = arguments.seconds(line)
            case _:
                self._read_entry(line)

    def _read_entry(self, line: Directive) -> None:
        if self._fallthrough:
            raise line.error(
                f"unknown property{did_you_mean(line.name, _PROPERTIES)}; "
                "entries stand before `fallthrough`"
            )
        text = " ".join((line.name, *line.args))
        if len(text.split()) < 2:
            hint = did_you_mean(line.name, _PROPERTIES) or ": an entry is an address and its names"
            raise line.error(f"unknown property{hint}")
        if not hostsfile.is_address(text.split()[0]):
            _log.warning("%s:%d: no IP address: %.100s", line.file, line.line, text)
        self._lines.append(text)
        self._places.append(f"{line.file}:{line.line}")

    def _parse(self, octets: bytes, source: str) -> Entries:
        """Return the entries of a text, and log its errors."""
        complaints = 0

        def complain(number: int, reason: str) -> None:
            nonlocal complaints
            complaints += 1
            if complaints <= MAX_COMPLAINTS:
                _log.error("%s, line %d: %s", source, number, reason)

        return hostsfile.parse(
            octets,
            self._zones,
            complain,
            reverses=self._reverses,
            pause=functools.partial(time.sleep, 0),  # lets the thread that answers run
        )

    # ---- the file

    async def start(self, worker: Worker) -> None:
        """Read the file, and start to poll it."""
        try:
            await asyncio.wait_for(self.look(), START_TIMEOUT_S)
        except TimeoutError:
            _log.error("hosts file %s cannot be read in %g s", self._path, START_TIMEOUT_S)
        self.look_again(worker)

    async def look(self) -> bool:
        """Take up the file if it has changed, and tell so. The disk is read by another thread."""
        found = await asyncio.to_thread(self._changed)
        if found is None:
            return False
        self._stamp, entries = found
        self._file.become(entries)
        self._share()
        _log.debug("Parsed hosts file into %d entries", entries.entries)
        return True

    def _changed(self) -> tuple[Stamp, Entries] | None:
        """Return the stamp and entries of the file, None if unchanged or unreadable."""
        try:
            found = read_regular(self._path, hostsfile.MAX_FILE_OCTETS, self._stamp)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:  # once for each reason
                _log.error('Failed to read hosts file "%s": %s', self._path, error)
            self._complaint = str(error)
            return None
        self._complaint = ""
        if found is None:
            return None
        stamp, octets = found
        return stamp, self._parse(octets, f'Hosts file "{self._path}"')

    def _share(self) -> None:
        """Note the names that have entries below; None if there are too many."""
        ours = (*self._file.names, *self._inline.names, *self._file.below, *self._inline.below)
        self._parents = None
        if len(ours) <= MAX_SHARED:
            self._parents = frozenset(parent for each in ours for parent in name.parents(each))
        addresses = {*self._file.reverse, *self._inline.reverse}
        self._reverse_parents = None
        if len(addresses) <= MAX_REVERSE:
            reverse = map(name.reverse_name, addresses)
            self._reverse_parents = frozenset(p for each in reverse for p in name.parents(each))

    # ---- questions

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the entries, or of the next plugin."""
        response = self._respond(question)
        return next(question) if response is None else response

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the entries, or of the next plugin."""
        response = self._respond(query.question) if query.question else None
        return await next(query) if response is None else response

    def _respond(self, question: Question) -> Response | None:
        """Return the response, None to ask the next plugin."""
        qname, qtype = question.folded, question.qtype
        is_ours = name.is_within_any(qname, self._zones)
        if qtype == rr.PTR:
            names = self._names_of(qname)
            return self._found(qname, rr.PTR, names) if names else None
        if not is_ours:
            return None
        if qtype not in (rr.A, rr.AAAA) and self._passes_unsupported and self._falls_through(qname):
            return None
        found: tuple[bytes, ...] = ()
        if qtype in (rr.A, rr.AAAA):
            found = self._addresses(qname, qtype)
        if found or self._addresses(qname, rr.A) or self._addresses(qname, rr.AAAA):
            return self._found(qname, qtype, found)
        return None if self._falls_through(qname) else failure(rr.SERVFAIL)

    def _found(self, qname: WireName, rtype: int, rdatas: tuple[bytes, ...]) -> Response:
        if (taker := trace.scribe()) is not None:
            kind = f"{len(rdatas)}" if rdatas else "no"
            types = (rtype,) if rdatas else (rr.A, rr.AAAA)
            taker.note(
                f"{self._path} and the entries of the Corefile know the name: {kind} "
                f"of type {rr.type_text(rtype)}",
                place=self._inline_places(qname, types),
                entries=self._in_file(qname, types),
                is_cause=not rdatas,
            )
        records = tuple(RR(qname, rtype, self._ttl, rdata) for rdata in rdatas[:MAX_RECORDS])
        return Response(rr.NOERROR, AA, records, facts=self._facts)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no entry has the name, for `explain`."""
        if (
            not is_own
            and question.qtype != rr.PTR
            and not name.is_within_any(question.folded, self._zones)
        ):
            return f"in none of its zones {trace.names_text(self._zones)}"
        return f"no entry of {self._path} or the Corefile has the name" + (
            ", and `fallthrough` is not for it" if is_own else ""
        )

    def _inline_text(self) -> bytes:
        return "\n".join(self._lines).encode("utf-8", "surrogateescape")

    def _inline_places(self, qname: WireName, types: tuple[int, ...]) -> str:
        """Return the lines of the Corefile with an entry for a name, "" if there is none."""
        text = self._inline_text()
        numbers = {n for each in types for n in hostsfile.find(text, self._zones, qname, each)}
        return trace.some_text([self._places[number - 1] for number in sorted(numbers)])

    def _in_file(self, qname: WireName, types: tuple[int, ...]) -> trace.Entries | None:
        """Return the entries of the file for a name, None if it has none."""
        if types == (rr.PTR,):
            is_there = name.reverse_address(qname) in self._file.reverse
        else:
            is_there = any(self._file.addresses(qname, each) for each in types)
        if not is_there:
            return None
        path, wanted = str(Path(self._path).absolute()), tuple((qname, each) for each in types)
        return trace.Entries(trace.HOSTS_FILE, path, self._zones, wanted)

    def _addresses(self, qname: WireName, qtype: int) -> tuple[bytes, ...]:
        return self._file.addresses(qname, qtype) + self._inline.addresses(qname, qtype)

    def _names_of(self, qname: WireName) -> tuple[bytes, ...]:
        """Return the names of the address of a reverse name."""
        address = name.reverse_address(qname)
        if address is None:
            return ()
        file, inline = self._file.reverse, self._inline.reverse
        return file.get(address, ()) + inline.get(address, ())

    def _falls_through(self, qname: WireName) -> bool:
        return name.is_within_any(qname, self._fallthrough)

    # ---- fast paths

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no entry is at or below ``cut``, and all names there are treated alike."""
        if self._parents is None or cut in self._parents:
            return False
        if name.is_within_any(cut, name.REVERSE_ZONES) and (
            self._reverse_parents is None or cut in self._reverse_parents
        ):
            return False
        if any(cut[1 + cut[0] :] in some for some in (self._file.below, self._inline.below)):
            return False
        return not any(name.is_within(zone, cut) for zone in (*self._zones, *self._fallthrough))

    def relay(self, route: Route) -> bool:
        """Exclude our names, and zones without fallthrough, from the relay."""
        for entries in (self._file, self._inline):
            route.hold(entries.names, entries.below)
            route.addresses.append(entries.reverse)
        refused = []
        for zone in self._zones:
            inner = route.zone if name.is_within(route.zone, zone) else zone
            if not self._falls_through(inner):
                refused.append(zone)
        return route.claim(tuple(refused))

    def samples(self) -> list[Sample]:
        """Return the number of entries and the time of the file, once it has been read."""
        if self._stamp is None:
            return []
        entries = self._file.entries + self._inline.entries
        return [
            ("hosts_entries", (self._path,), entries),
            ("hosts_reload_timestamp_seconds", (), self._stamp.mtime_ns / 1e9),
        ]
