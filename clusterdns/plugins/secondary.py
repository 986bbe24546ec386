"""secondary - serve zones that are transferred from primary servers.

Syntax:

    secondary [ZONES...] {
        transfer from ADDRESS...
        fallthrough [ZONES...]
    }

ZONES, by default the keys of the server block, are transferred by AXFR over TCP from the first
ADDRESS (port 53 or `ADDRESS:PORT`) that has them; the property may be repeated. Until the first
transfer the zones get SERVFAIL, and it is repeated after 250 ms, then twice that, and so on up to
every 10 s. Later the refresh, retry and expire times of a zone's SOA apply: after each refresh time
(and up to 5 s more, to spread the load) the primary is asked for the serial, and the zone is
transferred if it is greater. An expired zone gets SERVFAIL. After a NOTIFY from an ADDRESS the
serial is checked at once. `transfer` transfers the zones to further servers.

Examples:

    example.org {
        secondary {
            transfer from 192.0.2.1 192.0.2.2:5353
        }
    }

Differences from CoreDNS: `catalog` is not implemented. A zone may have 250,000 records and 24 MiB;
a transfer may take 300 s, a step of it 5 s; a worker has at most four under way. Each worker of
`multisocket` transfers by itself, and a NOTIFY to one reaches all within a second; the serial of a
zone is checked at most once a second. After expiry the zone is accepted with any serial. A transfer
is rejected if its first and last serial differ, or are not the announced one.
"""

from __future__ import annotations

import asyncio
import math
import mmap
import random

from clusterdns.authority import primaries
from clusterdns.authority.answering import Authority
from clusterdns.authority.incoming import TransferError, is_newer
from clusterdns.authority.zone import Zone
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, Plugin, Worker
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.addresses import host_and_port
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, Query
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

MAX_TRANSFERS = 4  # under way in a worker
FIRST_S, MOST_FIRST_S = 0.25, 10.0  # between tries of the first transfer
# Spreads the requests of secondary servers of a zone (CoreDNS: plugin/file/secondary.go jitter).
REFRESH_JITTER_S, RETRY_JITTER_S = 5.0, 2.0
LEAST_S = 1.0  # least time between two checks of a zone
TICK_S = 1.0  # time in which a worker notices a NOTIFY to another
_log = plugin_logger("secondary")


class Copy:
    """A worker's copy of one zone, and the time of its next check."""

    def __init__(self, apex: WireName, servers: list[primaries.Address]) -> None:
        self.apex = apex
        self.servers = servers
        self.zone: Zone | None = None
        self.due_at = -math.inf
        self.checking: asyncio.Task[None] | None = None
        self.is_told = False  # by a NOTIFY or another worker, since the last check
        self.was_told = False  # before the check
        self._asked_at = -math.inf
        self._expires_at = math.inf
        self._is_failing = False
        self._delay_s = FIRST_S

    def notified(self, now: float) -> None:
        """Schedule a check soon."""
        self.is_told = True
        self.due_at = min(self.due_at, max(now, self._asked_at + LEAST_S))

    def asked(self, now: float) -> None:
        """Note that a check is under way."""
        self.was_told, self.is_told = self.is_told, False
        self._asked_at = now
        self.due_at = now + LEAST_S  # for any result

    def good(self, now: float, zone: Zone) -> None:
        """Set the zone of a primary."""
        refresh_s, _, expire_s = (max(LEAST_S, seconds) for seconds in zone.timers)
        self.zone, self._is_failing, self._delay_s = zone, False, FIRST_S
        self._expires_at = now + expire_s
        self._next(now, refresh_s, REFRESH_JITTER_S)

    def failed(self, now: float) -> float:
        """Note that the check failed; return the seconds until the next one."""
        self._is_failing = True
        if self.zone is None:
            delay_s, self._delay_s = self._delay_s, min(MOST_FIRST_S, self._delay_s * 2)
            self.due_at = now + delay_s
        else:
            self._next(now, max(LEAST_S, self.zone.timers[1]), RETRY_JITTER_S)
        return self.due_at - now

    def is_expired(self, now: float) -> bool:
        """Tell whether the zone has expired; if so, it is removed."""
        if self.zone is None or not self._is_failing or now < self._expires_at:
            return False
        self.zone = None
        self.due_at = min(self.due_at, now + FIRST_S)
        return True

    def _next(self, now: float, seconds: float, jitter_s: float) -> None:
        if self.is_told:
            seconds, jitter_s = LEAST_S, 0.0
        self.due_at = now + seconds + random.uniform(0, min(jitter_s, seconds))


class Secondary(Authority):
    """The copies of some zones, kept equal to those of their primaries."""

    def __init__(self, directives: list[Directive], block: Block) -> None:
        super().__init__(block)
        servers = dict[WireName, list[primaries.Address]]()
        for directive in directives:
            apexes = arguments.zone_names(directive.args, directive) or block.zones
            found = self._read(directive)
            for apex in apexes:
                servers[apex] = [*servers.get(apex, ()), *found]
        self.zones = dict.fromkeys(servers)  # None: not transferred yet
        self._copies = {apex: Copy(apex, some) for apex, some in servers.items()}
        # A NOTIFY arrives at one worker. All workers share these counters, made before the fork.
        self._notes = memoryview(mmap.mmap(-1, 8 * len(servers))).cast("Q")
        self._heard = self._notes.tolist()
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_TRANSFERS)
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the zones of all occurrences."""
        return [cls(directives, block)]

    def _read(self, directive: Directive) -> list[primaries.Address]:
        found = list[primaries.Address]()
        for line in directive.block:
            match line.name:
                case "transfer":
                    if line.args[:1] != ("from",) or len(line.args) < 2:
                        raise line.error("wants from ADDRESS...")
                    found += [arguments.server(text, line) for text in line.args[1:]]
                case "fallthrough":
                    self.through = arguments.zone_names(line.args or (".",), line)
                case "catalog":
                    raise line.error("catalog zones are not implemented")
                case _:
                    raise line.error("unknown property")
        if not found:
            raise directive.error("wants transfer from ADDRESS")
        return found

    def origin(self, apex: WireName) -> str:
        """Return the zone and its primary servers, for explanations."""
        return f"the zone {name.text(apex)}, transferred from its primary servers"

    async def start(self, worker: Worker) -> None:
        """Start the transfers; do not wait for them."""
        self._heard = self._notes.tolist()
        self._task = asyncio.create_task(self._keep_up(worker))

    async def stop(self) -> None:
        """Stop all checks."""
        await end(self._task)
        for copy in self._copies.values():
            await end(copy.checking)

    async def notified(self, query: Query, apex: WireName) -> Response:
        """Return the reply to a NOTIFY from a primary of the zone, DROP for others."""
        client = name.canonical_address(query.client[0]) or query.client[0]
        copy = self._copies[apex]
        server = next((s for s in copy.servers if name.canonical_address(s[0]) == client), None)
        if server is None:
            _log.info("Dropping notify from %s for %s", client, name.text(apex))
            return DROP
        _log.info("Notify from %s for %s: checking transfer", client, name.text(apex))
        self._tell_workers(copy)
        copy.servers = sorted(copy.servers, key=lambda other: other != server)
        self._wake.set()
        return Response(rr.NOERROR, AA, lifetime_s=0)

    async def _keep_up(self, worker: Worker) -> None:
        while True:
            now = worker.now()
            self._hear(now)
            for copy in self._copies.values():
                if copy.is_expired(now):
                    _log.error("Zone %s is expired", name.text(copy.apex))
                    self._serve(copy, worker)
                if copy.checking is None and copy.due_at <= now:
                    copy.asked(now)
                    copy.checking = asyncio.create_task(self._check(copy, worker))
            self._wake.clear()
            try:
                async with asyncio.timeout(self._pause_s(now)):
                    await self._wake.wait()
            except TimeoutError:
                pass  # from a primary

    def _pause_s(self, now: float) -> float:
        due_at = [copy.due_at for copy in self._copies.values() if copy.checking is None]
        return max(0.01, min(TICK_S, min(due_at, default=math.inf) - now))

    def _hear(self, now: float) -> None:
        """Note the zones of NOTIFY messages to any worker."""
        notes = self._notes.tolist()
        for copy, note, heard in zip(self._copies.values(), notes, self._heard, strict=True):
            if note != heard:
                copy.notified(now)
        self._heard = notes

    def _tell_workers(self, copy: Copy) -> None:
        """Let all workers, with this one, check a zone."""
        place = list(self._copies).index(copy.apex)
        self._notes[place] = (self._notes[place] + 1) & (2**64 - 1)

    def _serve(self, copy: Copy, worker: Worker) -> None:
        """Serve the present state of a copy."""
        self.zones = {**self.zones, copy.apex: copy.zone}
        worker.forget_all()

    async def _check(self, copy: Copy, worker: Worker) -> None:
        """Check a zone with its primaries, and take a newer version."""
        try:
            async with self._turns:
                zone = await _newest(copy)
            copy.good(worker.now(), zone)
            if zone is not self.zones[copy.apex]:
                is_news = self.zones[copy.apex] is not None and not copy.was_told
                if is_news and worker.workers > 1:
                    self._tell_workers(copy)
                self._serve(copy, worker)
                self.transfers.changed(copy.apex)
        except TransferError as error:
            after_s = copy.failed(worker.now())
            text = "All '%s' masters failed to transfer, retrying in %.3gs: %s"
            _log.warning(text, name.text(copy.apex), after_s, error)
        finally:
            copy.checking = None
            self._wake.set()


async def _newest(copy: Copy) -> Zone:
    """Return the zone of the first primary that answers: the known one or a newer one.

    Raises:
        TransferError: none has answered, or the answers are unusable.
    """
    said = list[str]()
    known = copy.zone
    for server in copy.servers:
        try:
            if known is not None:
                serial = await primaries.serial(server, copy.apex)
                if not is_newer(serial, known.serial):
                    return known
            zone = await primaries.zone(server, copy.apex)
            if known is not None and not is_newer(zone.serial, known.serial):
                raise TransferError("gives a zone that is older than it says")
        except TransferError as error:
            said.append(f"{host_and_port(*server)}: {error}")
            continue
        text = name.text(copy.apex)
        _log.info("Transferred: %s from %s", text, host_and_port(*server))
        return zone
    raise TransferError("; ".join(said))
