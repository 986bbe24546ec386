"""A zone whose names change one at a time, and which is never read as a whole.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from clusterdns.authority.zone import Zone, rrsets_of
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

_SERVER, _HOSTMASTER = (b"ns", b"dns"), (b"hostmaster",)


class LiveZone(Zone):
    """A zone with an SOA of ours; NS records are those that are put at its apex.

    Raises FormError for an apex that is too long for an SOA.
    """

    is_strict = True

    def __init__(self, apex: WireName, ttl: int) -> None:
        self.ttl = ttl
        self._names_below: Counter[WireName] = Counter()  # owners below each name that has some
        super().__init__(apex, [_soa(apex, 0, ttl)])

    def move(self, serial: int) -> None:
        """Give the zone a serial."""
        self._soa = (_soa(self.apex, serial & 0xFFFFFFFF, self.ttl),)

    def put(self, owner: WireName, records: Iterable[RR]) -> None:
        """Replace all records of a name by these; SOA records are left out.

        The work depends on the number of labels and records, not on the size of the zone.
        """
        found = {rtype: some for (_, rtype), some in rrsets_of(self.apex, records).items()}
        found.pop(rr.SOA, None)
        if owner == self.apex:
            self._servers = found.pop(rr.NS, ())
        had, has = owner in self._names, bool(found)
        if has:
            self._names[owner] = found
        elif had:
            del self._names[owner]
        if had != has:
            for above in name.parents(owner)[1:]:
                self._count(above, 1 if has else -1)

    def _count(self, above: WireName, change: int) -> None:
        self._names_below[above] += change
        if self._names_below[above]:
            self._ancestors.add(above)
        else:
            del self._names_below[above]
            self._ancestors.discard(above)

    def records(self) -> Iterator[RR]:
        """Return the records of a transfer, as they are now: the zone may change meanwhile."""
        return iter(list(super().records()))


def _soa(apex: WireName, serial: int, ttl: int) -> RR:
    server, hostmaster = name.join([*_SERVER], apex), name.join([*_HOSTMASTER], apex)
    return RR(apex, rr.SOA, ttl, rr.soa_rdata(server, hostmaster, serial, ttl))
