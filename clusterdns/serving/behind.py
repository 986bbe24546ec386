"""The evidence behind the notes of an explanation: objects of clusters, and lines of files.

The code that answers keeps neither UIDs nor lines. ``add_evidence`` reads both as they are now, in
a process that answers no queries, and adds sentences to each note. Objects come from the cluster of
the very plugin that took the note, since two clusters may have a Service of one name. Every file is
read once, and all of them in ``LINES_S`` at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clusterdns.authority import zonefile
from clusterdns.cluster import evidence
from clusterdns.cluster.source import Source
from clusterdns.errors import ClusterDNSError
from clusterdns.formats import hostsfile
from clusterdns.host.stamp import read_regular
from clusterdns.wire import name, rr, trace
from clusterdns.wire.name import WireName
from clusterdns.wire.trace import Entries, Object

LINES_S = 2.0  # of looking for lines
Plain = dict[str, Any]
Sources = Mapping[str, Source]  # by ``trace.plugin_key``


def add_evidence(found: Plain, sources: Sources) -> None:
    """Add to each note of an explanation, as ``evidence``, sentences about what it is about."""
    steps = list(_steps(found))
    _add_lines([note for step in steps for note in step.notes])
    _add_objects(steps, sources)


class _Step(NamedTuple):
    """The notes of a step, and the key of its plugin."""

    plugin: str
    notes: list[Plain]


def _steps(run: Plain) -> Iterator[_Step]:
    """Yield the steps of a run and of the runs below it, in order."""
    for step in run.get("steps", ()):
        place = step["places"][0] if step["places"] else ""
        yield _Step(trace.plugin_key(run["server_block"]["place"], place), step["notes"])
        for inner in step["questions"]:
            yield from _steps(inner)


# ---- objects


def _add_objects(steps: list[_Step], sources: Sources) -> None:
    """Add what the source of each step says of the objects; once in a step."""
    by_source: dict[Source, list[_Step]] = {}
    for step in steps:
        source = sources.get(step.plugin)
        if source is not None and any(note.get("objects") for note in step.notes):
            by_source.setdefault(source, []).append(step)
    left = evidence.MAX_OBJECTS
    for source, mine in by_source.items():
        notes = [note for step in mine for note in step.notes]
        about = list(dict.fromkeys(each for note in notes for each in _objects(note)))[:left]
        left -= len(about)
        try:
            reader = evidence.reader(source)
        except (ClusterDNSError, OSError) as error:
            for note in notes:
                if note.get("objects"):
                    note["evidence"] = [f"the objects of {source.title} cannot be read: {error}"]
            continue
        told = evidence.of_objects(about, reader)
        for step in mine:
            _tell(step.notes, told)
        for note in notes:
            _add_cause(note, reader)


def _objects(note: Plain) -> list[Object]:
    parts = (each.split("/", 2) for each in note.get("objects", ()))
    return [(kind, namespace, object_name) for kind, namespace, object_name in parts]


def _tell(notes: list[Plain], told: Mapping[Object, list[str]]) -> None:
    """Add the sentences about objects to the notes of one step, each once."""
    said = set[Object]()
    for note in notes:
        new = [each for each in dict.fromkeys(_objects(note)) if each not in said]
        said.update(new)
        if sentences := [line for each in new for line in told.get(each, ())]:
            note["evidence"] = [*note.get("evidence", ()), *sentences]


def _add_cause(note: Plain, reader: evidence.Reader) -> None:
    """Add to a note why the Service that it blames has no endpoint."""
    objects = _objects(note)
    if not note.get("is_cause") or not objects or objects[0][0] != "services":
        return
    _, namespace, service = objects[0]
    try:
        reason = evidence.why_empty(namespace, service, reader)
    except (ClusterDNSError, OSError) as error:
        reason = f"the Pods cannot be read: {error}"
    if reason:
        note["text"] += f": {reason}"


# ---- lines


class _TooLongError(ClusterDNSError):
    """The time to look for lines is over."""


class _File(NamedTuple):
    """A file, and the zones it is read for."""

    kind: str
    path: str
    zones: tuple[WireName, ...]


def _add_lines(notes: list[Plain]) -> None:
    """Add the lines of the entries of files, and take the entries out of the notes."""
    by_file: dict[_File, list[tuple[Plain, Entries]]] = {}
    for note in notes:
        if plain := note.pop("entries", None):
            entries = Entries.of_plain(plain)
            file = _File(entries.kind, entries.file, entries.zones)
            by_file.setdefault(file, []).append((note, entries))
    until = time.monotonic() + LINES_S

    def pause() -> None:
        if time.monotonic() > until:
            raise _TooLongError(f"it takes longer than {LINES_S:g} s")

    for file, mine in by_file.items():
        wanted = {(name.fold(o), rtype) for _, entries in mine for o, rtype in entries.wanted}
        try:
            pause()
            places, serial = _places(file, wanted, pause)
        except (ClusterDNSError, OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            reason = reason.replace(f"{file.path}: ", "")
            for note, _ in mine:
                note["evidence"] = [f"no line of {file.path} can be named: {reason}"]
        else:
            for note, entries in mine:
                note["evidence"] = list(_lines(entries, places, serial))


_Wanted = set[tuple[WireName, int]]
_ByRRset = dict[tuple[WireName, int], list[str]]


def _places(file: _File, wanted: _Wanted, pause: Callable[[], None]) -> zonefile.Places:
    """Return the places of entries by owner and type, and the serial of a zone."""
    if file.kind == trace.MASTER_FILE:
        owners = {owner for owner, _ in wanted}
        return zonefile.places(Path(file.path), file.zones[0], owners, pause)
    read = read_regular(file.path, hostsfile.MAX_FILE_OCTETS)
    octets = read[1] if read is not None else b""
    found: _ByRRset = {}
    for owner, rtype in wanted:
        numbers = hostsfile.find(octets, file.zones, owner, rtype, pause=pause)
        found[owner, rtype] = [f"{file.path}:{number}" for number in numbers]
    return zonefile.Places(found, None)


def _lines(entries: Entries, places: _ByRRset, serial: int | None) -> Iterator[str]:
    """Yield where each of the entries is; what a zone makes of others is nowhere."""
    is_somewhere = False
    for owner, rtype in entries.wanted:
        folded = name.fold(owner)
        for (of, kind), lines in places.items():
            if of == folded and kind == (rtype or kind) and lines:
                is_somewhere = True
                there = trace.some_text(lines)
                yield f"{name.text(owner)} {rr.type_text(kind)}: {there}"
    if serial != entries.serial:
        yield f"{entries.file} has the serial {serial} by now, and may have changed"
    elif entries.wanted and not is_somewhere:
        yield f"{entries.file} does not have it any more"
