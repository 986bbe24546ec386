"""sign - sign zone files, and sign them again before the signatures expire.

Syntax:

    sign DBFILE [ZONES...] {
        key file KEY...
        key directory DIR...
        directory DIR
    }

DBFILE is a master file, relative to `root`. For each of ZONES, by default the keys of the server
block, it is signed with every KEY and written to `directory`, `/var/lib/coredns` by default, as
`db.ZONE.signed`, such as `db.example.org.signed`; `file` or `auto` serve that. The signed zone has
the keys (DNSKEY), records about them for the parent zone (CDS and CDNSKEY), NSEC records, and the
time as its SOA serial.

KEY is the name of a key pair made by `dnssec-keygen -a ECDSAP256SHA256 -f KSK ZONE`, with or
without `.key` or `.private`, relative to `root`; it must have the SEP flag. `key directory` takes
all keys of the zone in DIR, named `KZONE.+ALGORITHM+TAG`.

At the start and every 5 hours, a zone is signed if there is no signed file, or if the inception of
the SOA's signatures is more than 6 days ago, or their expiration less than 7 days away. Inception
is 3 to 21 hours before the time of signing, expiration 32 to 37 days after it. To sign a zone at
once, remove the signed file and send SIGUSR1; a change of DBFILE is not noticed.

Examples:

    example.org {
        file db.example.org.signed
        sign db.example.org {
            key file Kexample.org.+013+45330
            directory .
        }
    }

Differences from CoreDNS: `key directory` works. At and below zone cuts only DS and NSEC are signed
(RFC 4035 section 2.2). Signatures of the NS records at the apex have the TTL of these, not of the
SOA. NSEC records of DBFILE are replaced. A zone of more than 100 records is not signed at every
start; one without a signature of the SOA among its first 100 records is. The signed zone may have
24 MiB and 250,000 records, the bounds of `file`. One worker signs, in a thread.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clusterdns.authority import zonefile
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Plugin, Worker
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.host.logs import plugin_logger
from clusterdns.host.tasks import end
from clusterdns.signing import keys, zones
from clusterdns.signing.keys import Key
from clusterdns.signing.zones import Terms
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

# CoreDNS: plugin/sign/sign.go.
DIRECTORY = "/var/lib/coredns"
LOOKED_AT_S = 5 * 3600.0
BEGUN_S, BEGUN_JITTER_S = 3 * 3600, 18 * 3600
HOLDS_S, HOLDS_JITTER_S = 32 * 86400, 5 * 86400
OLD_S = 6 * 86400  # since they began
ENDING_S = 7 * 86400  # until they end
LOOKED_FOR = 100  # records at the start of a signed file
_BREAK_S = 0.0002  # between RRsets, for the thread that answers queries
_log = plugin_logger("sign")


class _Stopped(Exception):
    """The worker stops."""


class Signer:
    """One zone: its file, its keys, and its signed file."""

    def __init__(self, apex: WireName, path: Path) -> None:
        self.apex, self.path = apex, path
        self.keys: list[Key] = []
        self.directory = Path(DIRECTORY)
        # Jitter, so that not all zones are due at the same time.
        self.begun_s = BEGUN_S + random.uniform(0, BEGUN_JITTER_S)
        self.holds_s = HOLDS_S + random.uniform(0, HOLDS_JITTER_S)

    @property
    def signed_path(self) -> Path:
        """The signed file."""
        return self.directory / f"db.{name.text(self.apex)}signed"

    def why(self, now: float) -> str:
        """Return why the zone has to be signed, "" if its signatures are valid."""
        try:
            records = zonefile.head(self.signed_path, self.apex, LOOKED_FOR)
        except MasterFileError as error:
            return str(error)
        found = [each.rdata for each in records if each.rtype == rr.RRSIG]
        validities = [_validity(rdata) for rdata in found if rdata[:2] == b"\0\6"]
        if not validities:
            return f"no SOA RRSIG found in first {LOOKED_FOR} records"
        for inception, expiration in validities:
            if now < inception:
                return f'inception "{_date(inception)}" date is in the future'
            if now - inception > OLD_S:
                return f'inception "{_date(inception)}" was more than {OLD_S // 3600}h ago'
            if expiration - now < ENDING_S:
                return f'expiration "{_date(expiration)}" is less than {ENDING_S // 3600}h away'
        return ""

    def sign(self, now: float, pause: Callable[[], None]) -> int:
        """Write the signed file; return its SOA serial.

        Raises:
            MasterFileError: the zone cannot be read, or is too large once it is signed.
            OSError: the file cannot be written.
        """
        zone = zonefile.read(self.path, self.apex, is_beside=True)
        serial = int(now) & 0xFFFFFFFF
        terms = Terms(int(now - self.begun_s), int(now + self.holds_s), serial)
        records = zones.signed(self.apex, zone.records(), self.keys, terms, pause)
        self._write(masterfile.text(record) for record in records)
        return serial

    def _write(self, lines: Iterable[str]) -> None:
        """Replace the signed file atomically. Raises MasterFileError, OSError."""
        number, path = tempfile.mkstemp(prefix="signed-", dir=self.directory)
        try:
            with open(number, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
                octets = 0
                for i, line in enumerate(lines):
                    octets += len(line) + 1
                    if i >= zonefile.MAX_RECORDS or octets > zonefile.MAX_OCTETS:
                        raise MasterFileError(str(self.path), 0, "is too large once it is signed")
                    file.write(line + "\n")
                file.flush()
                os.fsync(number)
            Path(path).rename(self.signed_path)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    @property
    def tags(self) -> str:
        """The tags of the keys."""
        return ",".join(str(key.tag) for key in self.keys)


class Sign(Passive):
    """Signs the zones of one master file."""

    acts_alone = True
    _task: asyncio.Task[None] | None = None

    def __init__(self, directive: Directive, block: Block) -> None:
        path, *texts = arguments.some(directive)
        apexes = arguments.zone_names(texts, directive) or block.zones
        self.signers = [Signer(apex, block.path(path).absolute()) for apex in apexes]
        self._block = block
        self._is_stopping = False
        for line in directive.block:
            match line.name:
                case "key":
                    self._read_keys(line)
                case "directory":
                    directory = block.path(arguments.one(line)).absolute()
                    for signer in self.signers:
                        signer.directory = directory
                case _:
                    raise line.unknown("key", "directory")
        if not all(signer.keys for signer in self.signers):
            place = f"{directive.file}:{directive.line}"
            _log.warning("%s: no key: the signed zone has no signatures", place)

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence."""
        return [cls(directive, block) for directive in directives]

    def _read_keys(self, line: Directive) -> None:
        source, *texts = line.args or ("",)
        if source not in ("file", "directory") or not texts:
            raise line.error("wants file KEY... or directory DIR...")
        paths = [self._block.path(text) for text in texts]
        for signer in self.signers:
            some = paths
            if source == "directory":
                some = _keys_of(signer.apex, paths, line)
            signer.keys += [_read_key(path, line) for path in some]

    async def start(self, worker: Worker) -> None:
        """Start to check the zones, in one worker."""
        if worker.number == 0:
            self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop signing."""
        self._is_stopping = True
        await end(self._task)

    async def _watch(self) -> None:
        is_first = True
        while True:
            for signer in self.signers:
                why = await asyncio.to_thread(signer.why, time.time())
                if why:
                    await self._sign(signer, why)
                elif is_first:
                    _log.info(
                        'Skipping signing zone "%s" in "%s": signatures are valid',
                        name.text(signer.apex), signer.signed_path,
                    )  # fmt: skip
            is_first = False
            await asyncio.sleep(LOOKED_AT_S)

    async def _sign(self, signer: Signer, why: str) -> None:
        """Sign a zone, and log the result."""
        apex, began = name.text(signer.apex), time.time()
        following = _date(began + LOOKED_AT_S)
        _log.info('Signing "%s" because %s', apex, why)
        try:
            serial = await asyncio.to_thread(signer.sign, began, self._pause)
        except _Stopped:
            return
        except MasterFileError as error:
            _log.warning(
                'Error signing "%s" with key tags "%s" in %.3gs: %s, next: %s',
                apex, signer.tags, time.time() - began, error, following,
            )  # fmt: skip
        except OSError as error:
            text = 'Error signing "%s": failed to move zone file into place: %s'
            _log.warning(text, apex, error)
        else:
            _log.info(
                'Successfully signed zone "%s" in "%s" with key tags "%s" and %d SOA serial, '
                "elapsed %f, next: %s",
                apex, signer.signed_path, signer.tags, serial, time.time() - began, following,
            )  # fmt: skip

    def _pause(self) -> None:
        if self._is_stopping:
            raise _Stopped
        time.sleep(_BREAK_S)


def _read_key(path: Path, line: Directive) -> Key:
    try:
        key = keys.read(path)
    except keys.KeyFileError as error:
        raise line.error(str(error)) from error
    if not key.is_ksk:
        raise line.error(f"DNSKEY in {path} is not a CSK/KSK")
    return key


def _keys_of(apex: WireName, directories: Sequence[Path], line: Directive) -> list[Path]:
    """Return the key files of a zone in directories, at least one."""
    start = f"K{name.text(apex)}+"
    try:
        paths = [path for directory in directories for path in sorted(directory.iterdir())]
    except OSError as error:
        raise line.error(f"{error.filename}: {error.strerror}") from error
    found = [path for path in paths if path.suffix == ".key" and path.name.startswith(start)]
    if not found:
        raise line.error(f"there is no {start}*.key")
    return found


def _validity(rdata: bytes) -> tuple[int, int]:
    """Return inception and expiration of an RRSIG, in Unix seconds."""
    return int.from_bytes(rdata[12:16], "big"), int.from_bytes(rdata[8:12], "big")


def _date(seconds: float) -> str:
    """Return a time as CoreDNS logs it: RFC 3339 with milliseconds."""
    shown = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return shown.isoformat(timespec="milliseconds").replace("+00:00", "Z")
