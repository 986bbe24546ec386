"""file - serve zones from a master file.

Syntax:

    file DBFILE [ZONES...] {
        reload DURATION
        reload_by_mtime
        fallthrough [ZONES...]
    }

DBFILE is an RFC 1035 master file, relative to `root`; ZONES default to the server block's keys.
Every `reload`, 1m by default and never with 0, it is looked at again, and taken up when the SOA
serial has changed, or with `reload_by_mtime` when the file has. While there is no such file, its
zones are answered with SERVFAIL; with `reload 0` that is a mistake. `$INCLUDE` is relative to the
directory of DBFILE.

Examples:

    example.org {
        file db.example.org {
            reload 30s
        }
    }

Differences from CoreDNS: a zone whose serial is 0 is served. Records of one RRset share its lowest
TTL (RFC 2181 section 5.2). An alias beside other records is a mistake. Signed zones are served
without their signatures.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Generator, Hashable
from pathlib import Path

import dns.exception
import dns.zone

from clusterdns.chain.asking import answer_by, handle_by
from clusterdns.chain.plugin import DROP, AnswerNext, Block, HandleNext, Plugin, Worker, end
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import ClusterDNSError, FormError
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, OPCODE_NOTIFY, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR
from clusterdns.wire.zone import Result, Zone

_RCODES = {Result.NAME_ERROR: rr.NXDOMAIN, Result.FAILURE: rr.SERVFAIL}
_MAY_FALL_THROUGH = (Result.NAME_ERROR, Result.EMPTY)
MAX_FILE_OCTETS = 256 * 2**20
# What a wildcard or DNAME makes is repeated for so long only: its names are without number, and
# must not push out answers that last.
SYNTHESIZED_S = 60.0
_INCLUDE = re.compile(r'^(\$INCLUDE[ \t]+)("?)(?!["/])', re.IGNORECASE | re.MULTILINE)
_log = plugin_logger("file")


class MasterFileError(ClusterDNSError):
    """A master file that holds no zone."""


def read(path: Path, apex: WireName) -> Zone:
    """Return the zone that a master file describes.

    Raises:
        MasterFileError: it cannot be read, or is no master file of this zone.
    """
    try:
        if path.stat().st_size > MAX_FILE_OCTETS:
            raise MasterFileError(f"{path}: larger than {MAX_FILE_OCTETS} octets")
        text = path.read_text("utf-8", "surrogateescape")
        parsed = dns.zone.from_text(
            _INCLUDE.sub(lambda start: f"{start[1]}{start[2]}{path.parent}/", text),
            name.text(apex),
            relativize=False,
            filename=str(path),
            check_origin=False,
            allow_include=True,
        )
        records = [
            RR(owner.to_wire() or b"", rdataset.rdtype, rdataset.ttl, rdata.to_wire() or b"")
            for owner, rdataset in parsed.iterate_rdatasets()
            for rdata in rdataset
        ]
        return Zone(apex, records)
    except OSError as error:  # of this file, or of one it includes
        raise MasterFileError(f"{error.filename or path}: {error.strerror or error}") from error
    except dns.exception.SyntaxError as error:  # names file and line itself
        raise MasterFileError(str(error)) from error
    except (dns.exception.DNSException, FormError, ValueError, RecursionError) as error:
        raise MasterFileError(f"{path}: {error}") from error


class File(Plugin):
    """The zones of one master file."""

    def relay(self, route: Route) -> bool:
        """Leave the names of our zones to the chain."""
        return route.claim(tuple(self._zones))

    def __init__(self, directive: Directive, block: Block) -> None:
        if not directive.args:
            raise directive.error("wants DBFILE [ZONES...]")
        self._block = block
        self._path = block.path(directive.args[0]).absolute()
        apexes = arguments.zone_names(directive.args[1:], directive) or block.zones
        self._fallthrough: tuple[WireName, ...] = ()
        self._reload_s = 60.0
        self._by_mtime = False
        for line in directive.block:
            match line.name:
                case "reload":
                    self._reload_s = arguments.seconds(line)
                case "reload_by_mtime":
                    self._by_mtime = arguments.flag(line)
                case "fallthrough":
                    self._fallthrough = arguments.zone_names(line.args or (".",), line)
                case "upstream":
                    pass  # CoreDNS takes and ignores it
                case _:
                    raise line.error("unknown property")
        self._zones: dict[WireName, Zone | None] = dict.fromkeys(apexes)  # None: no file yet
        self._mtime = 0
        try:
            self._zones = {apex: read(self._path, apex) for apex in apexes}
            self._mtime = self._path.stat().st_mtime_ns
        except MasterFileError as error:
            if self._path.exists() or not self._reload_s:
                raise directive.error(str(error)) from error
            _log.warning("%s: trying again every %g s", error, self._reload_s)
        self._apexes = list(self._zones)  # of all directives of the block
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the zones of all occurrences, each with its own options."""
        plugins = [cls(directive, block) for directive in directives]
        for plugin in plugins:
            plugin._apexes = [apex for each in plugins for apex in each._zones]
        return [*plugins]

    async def start(self, worker: Worker) -> None:
        """Begin to look at the file again and again."""
        if self._reload_s:
            self._task = asyncio.create_task(self._watch(worker))

    async def stop(self) -> None:
        """Look no more."""
        await end(self._task)

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the zone says."""
        apex = self._apex_of(question.folded)
        if apex is None:
            return next(question)
        steps = self._respond(self._zones[apex], question)
        return answer_by(steps, question, self._block.resolver, next)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the zone says, asking the listener about names outside."""
        apex = self._apex_of(query.question.folded) if query.question else None
        if query.question is None or apex is None:
            return await next(query)
        if query.opcode == OPCODE_NOTIFY:
            return DROP  # only a secondary has use for it, and CoreDNS does not answer
        steps = self._respond(self._zones[apex], query.question)
        return await handle_by(steps, query, self._block.resolver, next)

    def _apex_of(self, qname: WireName) -> WireName | None:
        """Return the zone a name lies in, if it is not in a longer one of another directive."""
        found = max((a for a in self._apexes if name.is_within(qname, a)), key=len, default=None)
        return found if found in self._zones else None

    def _respond(
        self, zone: Zone | None, question: Question
    ) -> Generator[Question, Response, Response | None]:
        """Yield a question about an alias that leads outside; return the response."""
        if question.qtype in (rr.AXFR, rr.IXFR):
            return failure(rr.REFUSED)
        if zone is None:
            return failure(rr.SERVFAIL, f"plugin/file: {self._path} is not there")
        found = zone.find(question)
        lifetime_s = math.inf if zone.holds(question.folded) else SYNTHESIZED_S
        facts: tuple[Hashable, ...] = (("zone", name.text(zone.apex)),)
        if found.target:
            folded = name.fold(found.target)
            asked = question._replace(qname=found.target, folded=folded, qclass=rr.CLASS_IN)
            outside = yield asked
            found = zone.join(found, outside.rcode, outside.answer)
            lifetime_s = min(lifetime_s, outside.lifetime_s)
            facts += outside.facts
        if not found.answer and found.result in _MAY_FALL_THROUGH and self._falls_through(question):
            return None
        if not found.answer and found.result is Result.FAILURE:
            return failure(rr.SERVFAIL)
        is_referral = found.result is Result.DELEGATION and not found.answer
        return Response(
            _RCODES.get(found.result, rr.NOERROR),
            0 if is_referral else AA,
            found.answer,
            found.authority,
            found.additional,
            lifetime_s=lifetime_s,
            facts=facts,
        )

    def _falls_through(self, question: Question) -> bool:
        return name.is_within_any(question.folded, self._fallthrough)

    async def _watch(self, worker: Worker) -> None:
        """Take up the file whenever it has changed."""
        while True:
            await asyncio.sleep(self._reload_s)
            try:
                if self._by_mtime and self._path.stat().st_mtime_ns == self._mtime:
                    continue
                self._mtime = self._path.stat().st_mtime_ns
                zones = {a: await asyncio.to_thread(read, self._path, a) for a in self._zones}
            except (MasterFileError, OSError) as error:
                _log.error("the last good zone stays in force: %s", error)
                continue
            if self._by_mtime or any(
                known is None or known.serial != zones[apex].serial
                for apex, known in self._zones.items()
            ):
                self._zones = {**zones}
                worker.forget_all()
                _log.info("Successfully reloaded zone from %s", self._path)
