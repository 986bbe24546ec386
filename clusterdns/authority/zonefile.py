"""Zones from files: reads master files within bounds, and tells whether they have changed.

A path may be a FIFO or an endless file, so only regular files are read, and at most ``MAX_OCTETS``
and ``MAX_RECORDS`` of all files of a zone. Records that ``$GENERATE`` makes are counted first.
Reading takes seconds at worst; in a thread beside one that answers queries it pauses often.

``places`` looks for the lines of some records, for an explanation: a zone in memory has no lines.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from clusterdns.authority.zone import NO_NSEC3, Zone
from clusterdns.errors import FormError
from clusterdns.formats.masterfile import MasterFileError, Placed, Reader, generated
from clusterdns.host.stamp import Stamp, open_at_once
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

# 250,000 records take 5 to 9 s to read, and 150 MiB to keep.
MAX_OCTETS = 24 * 2**20
MAX_RECORDS = 250_000
MAX_SEARCHED_OCTETS = 8 * 2**20  # in which lines are looked for: 1.4 s of CPU
MAX_FILES = 1000  # included by a zone file
_AT_A_STRETCH = 64  # records between pauses: 2 ms
_BREAK_S = 0.0002


def read(
    path: Path, apex: WireName, *, is_beside: bool = False, stamps: dict[Path, Stamp] | None = None
) -> Zone:
    """Return the zone that a master file describes.

    ``is_beside`` tells that another thread, which must not wait, answers queries. ``stamps`` is
    given those of the file and of all it includes.

    Raises:
        MasterFileError: it cannot be read, or is not a master file of this zone.
    """
    with _told_of(path):
        files = _Files(stamps)
        text = files.read(path)
        reader = Reader(text, str(path), apex, files.include)
        return Zone(apex, _checked(reader, path, apex, is_beside))


def head(path: Path, apex: WireName, count: int) -> list[RR]:
    """Return the first records of a master file, ``count`` at most.

    Raises:
        MasterFileError: it cannot be read, or is no master file.
    """
    with _told_of(path):
        files = _Files()
        reader = Reader(files.read(path), str(path), apex, files.include)
        return [placed.record for placed in itertools.islice(reader.records(), count)]


class Places(NamedTuple):
    """The places of records in the files of a zone, by owner and type, and the serial there."""

    by_rrset: dict[tuple[WireName, int], list[str]]
    serial: int | None


def places(
    path: Path, apex: WireName, owners: Collection[WireName], pause: Callable[[], None]
) -> Places:
    """Return where the records of some owners are in a master file, and in what it includes.

    A record of a ``$GENERATE`` is at the line of that. ``pause`` is called for every record, and
    may raise what stops the search.

    Raises:
        MasterFileError: it cannot be read, or is no master file.
    """

    def is_wanted(owner: bytes, rtype: int) -> bool:
        pause()
        return rtype == rr.SOA or name.fold(owner) in owners

    found, serial = dict[tuple[WireName, int], list[str]](), None
    with _told_of(path):
        files = _Files(most_octets=MAX_SEARCHED_OCTETS)
        reader = Reader(files.read(path), str(path), apex, files.include, is_wanted=is_wanted)
        for record, file, line in reader.records():
            found.setdefault((name.fold(record.owner), record.rtype), []).append(f"{file}:{line}")
            if record.rtype == rr.SOA:
                serial = int.from_bytes(record.rdata[-20:-16], "big")
    return Places(found, serial)


@contextlib.contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a master file into a MasterFileError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MasterFileError(str(error.filename or path), 0, reason) from error
    except (FormError, ValueError) as error:
        raise MasterFileError(str(path), 0, str(error)) from error


class _Files:
    """The files of one zone, and the octets still allowed."""

    def __init__(
        self, stamps: dict[Path, Stamp] | None = None, *, most_octets: int | None = None
    ) -> None:
        self._stamps = {} if stamps is None else stamps
        self._most_octets = self._left_octets = most_octets or MAX_OCTETS
        self._left_files = MAX_FILES + 1
        self._left_records = MAX_RECORDS  # for $GENERATE

    def include(self, file: str, path: str) -> tuple[str, str]:
        """Return the name and the text of a file, whose path is relative to that of ``file``."""
        found = Path(file).parent / path
        return str(found), self.read(found)

    def read(self, path: Path) -> str:
        """Return the text of a regular file. Raises OSError, ValueError, MasterFileError."""
        self._left_files -= 1
        if self._left_files < 0:
            raise ValueError(f"$INCLUDE of more than {MAX_FILES} files")
        with open(path, "rb", opener=open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path} is no regular file")
            if found.st_size > self._left_octets:
                raise ValueError(
                    f"{path}: larger than {self._most_octets} octets, with all it includes"
                )
            octets = file.read(found.st_size + 1)
        self._stamps[path] = Stamp.of(found)
        if len(octets) > found.st_size:
            raise ValueError(f"{path}: written while it is read")
        self._left_octets -= len(octets)
        text = octets.decode("utf-8", "surrogateescape")
        # Here, since it would take 10 s to make as many as are allowed, and then to refuse them.
        for line, count in generated(text):
            self._left_records -= count
            if self._left_records < 0:
                reason = f"$GENERATE makes more than {MAX_RECORDS} records, with those before"
                raise MasterFileError(str(path), line, reason)
        return text


def _checked(reader: Reader, path: Path, apex: WireName, is_beside: bool) -> Iterator[RR]:
    """Yield the records of a zone's file, each checked against the earlier ones.

    Raises:
        MasterFileError: too many records, an SOA of another zone (CoreDNS: plugin/file/file.go
            Parse), or an alias beside other records.
    """
    aliases = dict[WireName, Placed]()
    others = set[WireName]()
    soa: RR | None = None
    for i, placed in enumerate(reader.records()):
        record, file, line = placed
        owner = name.fold(record.owner)
        if i >= MAX_RECORDS:
            raise MasterFileError(file, line, f"more than {MAX_RECORDS} records")
        if record.rtype in (rr.NSEC3, rr.NSEC3PARAM):
            raise MasterFileError(file, line, NO_NSEC3)
        if record.rtype == rr.SOA:
            if owner != apex:
                reason = f"SOA of {name.text(owner)} in a file of {name.text(apex)}"
                raise MasterFileError(file, line, reason)
            if soa is not None and soa.rdata != record.rdata:
                raise MasterFileError(file, line, "a second SOA")
            soa = record
        if record.rtype == rr.CNAME:
            known = aliases.setdefault(owner, placed)
            if owner in others or known.record.rdata != record.rdata:
                raise MasterFileError(file, line, f"alias {name.text(owner)} beside other records")
        elif record.rtype not in _BESIDE_ALIASES:
            if owner in aliases:
                reason = f"{rr.type_text(record.rtype)} beside the alias {name.text(owner)}"
                raise MasterFileError(file, line, reason)
            others.add(owner)
        if is_beside and i % _AT_A_STRETCH == 0:
            time.sleep(_BREAK_S)
        yield record
    if soa is None:
        raise MasterFileError(str(path), 0, f"no SOA record of {name.text(apex)}")


_BESIDE_ALIASES = frozenset((25, 30, 46, 47))  # KEY, NXT, RRSIG, NSEC (RFC 4034 section 3)
