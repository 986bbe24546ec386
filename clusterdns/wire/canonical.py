"""The canonical form of names and records, which DNSSEC sorts, signs and proves by (RFC 4034).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from clusterdns.wire import name
from clusterdns.wire.name import WireName


def order_key(wire: bytes) -> bytes:
    """Return octets that sort as names do in canonical order (RFC 4034 section 6.1).

    Labels count from the right, and a shorter one comes first: a zero octet ends each, and those
    within labels are escaped.
    """
    labels = name.labels(wire.lower())
    labels.reverse()
    return b"\0".join(each.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1") for each in labels)


class Chain:
    """Names in canonical order, in a circle: the owners of the NSEC records of a zone."""

    __slots__ = ("_keys", "_names")

    def __init__(self, names: Iterable[WireName]) -> None:
        ordered = sorted((order_key(each), each) for each in names)
        self._keys = [key for key, _ in ordered]
        self._names = [each for _, each in ordered]

    def __bool__(self) -> bool:
        """Tell whether there is any name."""
        return bool(self._names)

    def at_or_before(self, wire: WireName) -> WireName:
        """Return the last name that is not behind ``wire``; behind the last comes the first.

        Raises:
            IndexError: there is none.
        """
        return self._names[bisect.bisect_right(self._keys, order_key(wire)) - 1]
