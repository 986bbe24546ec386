"""The things that a version of this program leaves to the next one: sockets, processes, counts.

The next version is a program of its own, which inherits descriptors by exec. An ``Estate`` says
which is which. It is JSON in a file in memory, whose descriptor the environment names; it is on no
disk. Its format has a number: a version refuses an estate that it does not understand.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

from clusterdns import __version__
from clusterdns.cluster.source import Source
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.tally import Sample
from clusterdns.processes.takeover import KnownZones

FORMAT = 1
VARIABLE = "CLUSTERDNS_ESTATE"
MAX_OCTETS = 64 * 2**20
_SOURCE_DEFAULTS = Source._field_defaults


class EstateError(ClusterDNSError):
    """An estate that this version cannot take."""


class Heir(NamedTuple):
    """A process that lives on; ``held`` are octets read from its channel and not used yet."""

    name: str
    pid: int
    descriptor: int
    held: bytes
    is_worker: bool


class Estate(NamedTuple):
    """All that is left. Numbers are descriptors.

    ``feeds`` are addresses by `source_key`; ``given`` is what stood on standard input;
    ``rehearsal`` is a channel to the version that serves, -1 if none does.
    """

    sockets: tuple[tuple[int, ...], ...] = ()  # of each worker
    webs: Mapping[str, tuple[int, ...]] = {}  # by HTTP address
    feeds: Mapping[str, bytes] = {}
    zones: KnownZones = {}  # noqa: RUF012 - nobody changes it
    heirs: tuple[Heir, ...] = ()
    samples: tuple[Sample, ...] = ()
    reload_failures: int = 0
    lameduck_s: float = 0.0
    given: str | None = None
    rehearsal: int = -1
    version: str = __version__

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that the next version inherits."""
        found = [number for some in self.sockets for number in some]
        found += [number for some in self.webs.values() for number in some]
        found += [heir.descriptor for heir in self.heirs]
        return [*found, self.rehearsal] if self.rehearsal >= 0 else found


def source_key(source: Source) -> str:
    """Return what the same source has in another version of this program.

    It may have a password in it, so it is a digest; settings that a version adds count only if set.
    """
    fields = source._asdict().items()
    told = {name: value for name, value in fields if value != _SOURCE_DEFAULTS.get(name, ())}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def leave(estate: Estate) -> int:
    """Return the descriptor of a file in memory with an estate. Raises OSError."""
    number = os.memfd_create("clusterdns-estate")
    try:
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(_printed(estate))
        os.lseek(number, 0, os.SEEK_SET)
    except BaseException:
        os.close(number)
        raise
    return number


def take(environ: MutableMapping[str, str]) -> Estate | None:
    """Return the estate that the environment names, None if there is none; it is taken once.

    From then on no other program inherits its descriptors.

    Raises:
        EstateError: this version does not understand it.
    """
    text = environ.pop(VARIABLE, "")
    if not text:
        return None
    try:
        with os.fdopen(int(text), "rb") as file:
            estate = _parsed(json.loads(file.read(MAX_OCTETS)))
        for number in estate.descriptors:
            os.set_inheritable(number, False)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EstateError(f"cannot take over from the version before: {error}") from error
    return estate


def _printed(estate: Estate) -> bytes:
    made: dict[str, Any] = {**estate._asdict(), "format": FORMAT}
    made["feeds"] = {key: address.hex() for key, address in estate.feeds.items()}
    made["zones"] = [
        (port, scheme, apex.hex(), sorted(kinds))
        for (port, scheme, apex), kinds in estate.zones.items()
    ]
    made["heirs"] = [heir._replace(held=heir.held.hex()) for heir in estate.heirs]  # type: ignore[arg-type]
    return json.dumps(made).encode()


def _parsed(made: Mapping[str, Any]) -> Estate:
    """Return an estate. Raises ValueError, KeyError, TypeError."""
    if made["format"] != FORMAT:
        raise ValueError(f"format {made['format']!r:.20}, expected {FORMAT}")
    return Estate(
        sockets=tuple(map(_numbers, made["sockets"])),
        webs={str(address): _numbers(some) for address, some in made["webs"].items()},
        feeds={str(key): bytes.fromhex(address) for key, address in made["feeds"].items()},
        zones={
            (int(port), str(scheme), bytes.fromhex(apex)): frozenset(map(str, kinds))
            for port, scheme, apex, kinds in made["zones"]
        },
        heirs=tuple(
            Heir(str(name), int(pid), int(number), bytes.fromhex(held), bool(is_worker))
            for name, pid, number, held, is_worker in made["heirs"]
        ),
        samples=tuple(map(_sample, made["samples"])),
        reload_failures=int(made["reload_failures"]),
        lameduck_s=float(made["lameduck_s"]),
        given=None if made["given"] is None else str(made["given"]),
        rehearsal=int(made["rehearsal"]),
        version=str(made["version"]),
    )


def _numbers(some: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, some))


def _sample(made: tuple[Any, Any, Any]) -> Sample:
    metric, labels, value = made
    found = tuple(map(float, value)) if isinstance(value, list) else float(value)
    return str(metric), tuple(map(str, labels)), found
