"""The collector of one worker: all that `status` shows of queries, and `clusterdns top`.

A plugin with ``observes_all`` makes each worker have one. The chain and the listener report each
query they answer (``see``). Of hits of the table, and of relayed queries, samples are looked at
(sampling.py); ``tick`` takes them up four times a second, and so does a question. Counts are kept
in two windows: the older one ends when the newer one is ``WINDOW_S`` old, so that answers cover
between one and two windows.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from clusterdns.observing.ring import MAX_OCTETS, Ring, Seen
from clusterdns.observing.sampling import Record, Sampler
from clusterdns.observing.selection import Selection
from clusterdns.observing.window import History, Window, bucket_of, rcode_text
from clusterdns.wire import name, rr
from clusterdns.wire.message import HEADER_OCTETS
from clusterdns.wire.name import WireName

TICK_S: Final = 0.25
WINDOW_S: Final = 300.0
TABLE, RELAY, CHAIN = "table", "relay", "chain"  # where the answer is from
_MAX_WORDS: Final = 256  # their numbers have eight bits
_TYPE_CLASS: Final = struct.Struct("!HH")
_OPT_OCTETS: Final = 11
_OPT_START: Final = b"\0\0\x29"
Source = tuple[str, str, str]  # listener, transport, path
Plain = dict[str, Any]


class Collector:
    """Observations of one worker; ``clock`` returns monotonic seconds, ``wall`` unix seconds.

    ``zones`` are those of the cluster, which have namespaces.
    """

    def __init__(
        self,
        zones: Iterable[WireName],
        clock: Callable[[], float],
        wall: Callable[[], float],
        ring_octets: int = MAX_OCTETS,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._present = Window(clock())
        self._before: Window | None = None
        self._history = History()
        self._ring = Ring(clock, ring_octets)
        self._samplers: list[Sampler] = []
        self._words = ["other"]  # listeners, transports and paths, by number
        self._numbers: dict[Source, tuple[int, int, int]] = {}
        self._parents = tuple(
            label + zone for zone in dict.fromkeys(zones) for label in (b"\3svc", b"\3pod")
        )

    def sampler(self, listener: str, transport: str, path: str) -> Sampler:
        """Return a new sampler, whose queries are taken up at each tick."""
        made = Sampler(listener, transport, path, len(self._samplers) + 1)
        self._samplers.append(made)
        return made

    def see(
        self,
        qname: bytes,
        qtype: int,
        qclass: int,
        reply: bytes,
        seconds: float,
        client: tuple[str, int],
        source: Source,
        *,
        at: float = 0.0,
        stands_for: int = 1,
    ) -> None:
        """Take up a query with a folded name, and its reply.

        ``at`` is the unix second it came, by default now less ``seconds``.
        """
        at = at or self._wall() - seconds
        rcode, times, window = _rcode(reply), stands_for, self._present
        window.count(times, qtype, rcode, source[2])
        bucket = bucket_of(seconds)
        window.latency[bucket] += times
        self._history.note(at, bucket, times)
        window.names.add((qname, qtype), times)
        window.clients.add(client[0], times)
        namespace = self.namespace_of(qname)
        if namespace:
            window.namespaces.add(namespace, times)
        if rcode == rr.NXDOMAIN:
            window.denied.add(qname, times)
        window.slow.note((qname, qtype), seconds, at)
        numbers = self._numbers.get(source) or self._numbers_of(source)
        self._ring.put(
            (0, at, seconds, len(reply), qtype, qclass, rcode, client[1], times, *numbers),
            client[0],
            qname,
        )

    def namespace_of(self, qname: bytes) -> bytes:
        """Return the namespace that a folded name lies in, b"" for none.

        It is also that of a name with a search path behind it, which does not exist.
        """
        for parent in self._parents:
            if not qname.endswith(parent):
                continue
            i, end, label = 0, len(qname) - len(parent), b""
            while i < end:
                label = qname[i + 1 : i + 1 + qname[i]]
                i += 1 + qname[i]
            if i == end:
                return label
        return b""

    def tick(self) -> None:
        """Take up what was sampled, and begin a new window when it is time."""
        self._take_up(adapts=True)
        self._ring.mark()
        now = self._clock()
        if now - self._present.began >= WINDOW_S:
            self._before, self._present = self._present, Window(now)

    def top(self) -> Plain:
        """Return the windows and the history, for ``window.summary``."""
        self._take_up()
        windows = [each.as_plain() for each in (self._before, self._present) if each is not None]
        return {"windows": windows, "history": self._history.as_plain(self._wall())}

    def tail(self, since: int, limit: int, selection: Selection) -> Plain:
        """Return the queries newer than a number that are selected, see ``Ring.since``."""
        self._take_up()
        path = self._words

        def matches(seen: Seen) -> bool:
            return selection.matches(seen, self.namespace_of)

        found = self._ring.since(since, limit, matches)
        queries = [
            {
                "number": seen.number,
                "at": round(seen.at, 6),
                "client": seen.host,
                "port": seen.port,
                "name": name.text(seen.qname),
                "type": rr.type_text(seen.qtype),
                "class": rr.class_text(seen.qclass),
                "rcode": rcode_text(seen.rcode),
                "size": seen.size,
                "seconds": round(seen.seconds, 9),
                "listener": path[seen.listener],
                "transport": path[seen.transport],
                "path": path[seen.path],
                "stands_for": seen.stands_for,
            }
            for seen in found.seen
        ]
        return {"next": found.next, "lost": found.lost, "queries": queries}

    def _take_up(self, *, adapts: bool = False) -> None:
        """Take up the records of all samplers."""
        shift = self._wall() - self._clock()
        for sampler in self._samplers:
            records = sampler.take()
            source = (sampler.listener, sampler.transport, sampler.path)
            for record in records:
                self._see_record(record, source, shift)
            if adapts:
                sampler.adapt()

    def _see_record(self, record: Record, source: Source, shift: float) -> None:
        stands_for, packet, client, seconds, began, reply = record
        end = name.end(packet, HEADER_OCTETS)
        qtype, qclass = _TYPE_CLASS.unpack_from(packet, end)
        qname = packet[HEADER_OCTETS:end].lower()
        self.see(
            qname, qtype, qclass, reply, seconds, client, source,
            at=began + shift, stands_for=stands_for,
        )  # fmt: skip

    def _numbers_of(self, source: Source) -> tuple[int, int, int]:
        listener, transport, path = map(self._number_of, source)
        self._numbers[source] = listener, transport, path
        return listener, transport, path

    def _number_of(self, word: str) -> int:
        if word not in self._words:
            if len(self._words) >= _MAX_WORDS:
                return 0
            self._words.append(word)
        return self._words.index(word)


def _rcode(reply: bytes) -> int:
    """Return the return code of a reply, with the bits of an OPT without options at its end."""
    rcode = reply[3] & 15
    if reply[11] and reply[-_OPT_OCTETS : -_OPT_OCTETS + 3] == _OPT_START:
        rcode |= reply[-6] << 4
    return rcode
