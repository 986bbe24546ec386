"""The counts of a listener, as plain integers.

A ``Profile`` holds all that the metrics tell of a query and its reply. Each profile that the table
repeats has four slots in lists of integers, one list per transport and address family: replies to
queries without OPT, with a bare OPT, with an OPT that has options, and the octets of those options.
The fast path adds to a slot; a reply that is sent once is counted by its profile.
``samples`` turns both into CoreDNS's request and response metrics.

Durations on the packet path are measured for each batch, so ``samples`` divides them among the
zones in proportion to their queries. (CoreDNS: plugin/metrics/vars/report.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from clusterdns.metrics.histogram import SIZE_OCTETS, TIME_S, Histogram

MAX_PROFILES: Final = 16_384  # with slots
SLOTS: Final = 4  # of each profile
MAX_SINGLES: Final = 4096  # profiles of replies sent once, until they are added up
OPT_OCTETS: Final = 11  # a bare OPT
DROPPED: Final = "dropped"  # the zone label of queries that no server block takes

# The types that have a label of their own (CoreDNS: plugin/metrics/vars/monitor.go).
_TYPES: Final = frozenset(
    (
        "A", "AAAA", "CNAME", "DNSKEY", "DS", "MX", "NSEC3", "NSEC", "NS", "PTR", "RRSIG", "SOA",
        "SRV", "TXT", "HTTPS", "SVCB", "IXFR", "AXFR", "ANY",
    )
)  # fmt: skip

# (metric, label values, value); a histogram's value is its `sample()`.
Sample = tuple[str, tuple[str, ...], float | tuple[float, ...]]


class Transport(NamedTuple):
    """The transport of a query: ``udp`` or ``tcp``, family ``1`` (IPv4) or ``2`` (IPv6)."""

    proto: str
    family: str


class Profile(NamedTuple):
    """A query and its reply as the metrics see them; ``size`` is the query's without OPT.

    Sizes are uncompressed octets. Without a zone the server block has no `prometheus`, and only
    ``counters`` are counted.
    """

    zone: str
    view: str
    type: str
    rcode: str
    plugin: str
    do: bool
    size: int
    reply_size: int
    counters: tuple[tuple[str, tuple[str, ...]], ...] = ()


def type_label(text: str) -> str:
    """Return the label of an RR type's mnemonic."""
    return text if text in _TYPES else "other"


class Tally:
    """The counts of one listener, whose metric label is ``server``."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.hits: dict[Transport, list[int]] = {}
        self.batches = Histogram(TIME_S)  # seconds a query of a batch took, packet path only
        self._slots: dict[Profile, int] = {}
        self._transports: dict[int, Transport] = {}  # by the identity of their slots
        self._singles: Counter[tuple[Profile, int, bool]] = (
            Counter()
        )  # the number is the transport's
        self._totals: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._sizes: dict[tuple[str, tuple[str, ...]], Histogram] = {}
        self._times: dict[tuple[str, str], Histogram] = {}
        self._in_batches: Counter[tuple[str, str]] = Counter()
        self._waited: Counter[tuple[str, str]] = Counter()

    def transport(self, proto: str, family: str) -> list[int]:
        """Return the slots that queries of this transport and family are counted in."""
        transport, empty = Transport(proto, family), [0] * (SLOTS * len(self._slots))
        found = self.hits.setdefault(transport, empty)
        self._transports[id(found)] = transport
        return found

    @property
    def is_full(self) -> bool:
        """Whether slots are used up; then `restart`, once no answer refers to a slot."""
        return len(self._slots) >= MAX_PROFILES

    def slot(self, profile: Profile) -> int:
        """Return the first of a profile's slots, see above."""
        slot = self._slots.get(profile)
        if slot is None:
            slot = self._slots[profile] = SLOTS * len(self._slots)
            for counts in self.hits.values():
                counts += (0,) * SLOTS
        return slot

    def once(self, profile: Profile, hits: list[int], has_opt: bool, times: int = 1) -> None:
        """Count a reply that the table does not repeat; ``hits`` are its transport's slots."""
        self._singles[profile, id(hits), has_opt] += times
        if len(self._singles) >= MAX_SINGLES:
            self._fold()

    def waited(self, zone: str, view: str, seconds: float) -> None:
        """Count the duration of a query that was not answered within its batch."""
        self._waited[zone, view] += 1
        self._time((zone, view)).observe(seconds)

    def took(self, zone: str, view: str, times: int) -> Histogram:
        """Return the histogram of durations to add ``times`` queries to."""
        self._waited[zone, view] += times
        return self._time((zone, view))

    def restart(self) -> None:
        """Free all slots."""
        self._fold()
        self._slots.clear()
        for counts in self.hits.values():
            counts.clear()

    def samples(self) -> list[Sample]:
        """Return all counts so far."""
        self._fold()
        self._share_out_batches()
        found: list[Sample] = [(*key, value) for key, value in self._totals.items()]
        found += [(*key, histogram.sample()) for key, histogram in self._sizes.items()]
        for (zone, view), histogram in self._times.items():
            labels = (self.server, zone, view)
            found.append(("dns_request_duration_seconds", labels, histogram.sample()))
        return found

    def _fold(self) -> None:
        """Move the counts from the slots to the totals."""
        for transport, counts in self.hits.items():
            for profile, slot in self._slots.items():
                bare, opt, more, octets = counts[slot : slot + SLOTS]
                if bare or opt or more:
                    counts[slot : slot + SLOTS] = (0,) * SLOTS
                if bare:
                    self._add(profile, transport, profile.size, bare)
                if opt:
                    self._add(profile, transport, profile.size + OPT_OCTETS, opt)
                if more:  # options of queries for one name mostly have one length
                    self._add(profile, transport, profile.size + OPT_OCTETS + octets / more, more)
        for (profile, number, has_opt), times in self._singles.items():
            size = profile.size + has_opt * OPT_OCTETS
            self._add(profile, self._transports[number], size, times)
        self._singles.clear()

    def _add(self, profile: Profile, transport: Transport, size: float, times: int) -> None:
        totals = self._totals
        for name, labels in profile.counters:
            totals[name, labels] += times
        if not profile.zone:
            return
        place = (self.server, profile.zone, profile.view)
        totals["dns_requests_total", (*place, *transport, profile.type)] += times
        totals["dns_responses_total", (*place, profile.rcode, profile.plugin)] += times
        if profile.do:
            totals["dns_do_requests_total", place] += times
        key = (*place, transport.proto)
        self._size("dns_request_size_bytes", key).observe(size, times)
        self._size("dns_response_size_bytes", key).observe(profile.reply_size, times)
        self._in_batches[profile.zone, profile.view] += times

    def _size(self, name: str, labels: tuple[str, ...]) -> Histogram:
        found = self._sizes.get((name, labels))
        if found is None:
            found = self._sizes[name, labels] = Histogram(SIZE_OCTETS)
        return found

    def _time(self, key: tuple[str, str]) -> Histogram:
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = Histogram(TIME_S)
        return found

    def _share_out_batches(self) -> None:
        """Give each zone its part of the durations of batches, so that its count is right.

        Queries that waited have durations of their own already.
        """
        shares = self._in_batches
        shares.subtract(self._waited)
        self._waited.clear()
        batches, self.batches = self.batches, Histogram(TIME_S)
        queries = sum(batches.counts)
        mean = batches.total / queries if queries else 0.0
        buckets = [count for count in enumerate(batches.counts) if count[1]]
        for key, share in shares.items():
            histogram = self._time(key)
            histogram.total += mean * max(share, 0)
            while share > 0:
                i, left = buckets.pop() if buckets else (0, share)
                taken = min(share, left)
                histogram.counts[i] += taken
                share -= taken
                if left > taken:
                    buckets.append((i, left - taken))
        shares.clear()
