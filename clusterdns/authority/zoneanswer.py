"""The answer of a zone to a question: its sections, and how it was found.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

RRsets = dict[int, tuple[RR, ...]]


class Result(Enum):
    """The result of a lookup in a zone."""

    SUCCESS = "success"
    NODATA = "no data"
    NAME_ERROR = "name error"
    DELEGATION = "delegation"
    EMPTY = "empty non-terminal"
    FAILURE = "failure"


class ZoneAnswer(NamedTuple):
    """The sections of an answer; ``target`` is the name outside the zone to ask about.

    ``wildcard`` is the wildcard that the records were synthesized from, if any.
    """

    result: Result
    answer: tuple[RR, ...] = ()
    authority: tuple[RR, ...] = ()
    additional: tuple[RR, ...] = ()
    target: bytes = b""
    wildcard: bytes = b""


def owned(records: tuple[RR, ...], owner: WireName) -> tuple[RR, ...]:
    """Return a wildcard's records with ``owner``; other records unchanged."""
    if not records or not records[0].owner.startswith(b"\1*"):
        return records
    return tuple(record._replace(owner=owner) for record in records)
