"""A zone received from a primary server: the messages of an AXFR, checked against RFC 5936.

``Incoming.take`` takes one message after the other, and ``zone`` returns the zone. Records and
octets, with uncompressed names, are bounded.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clusterdns.authority.zone import Zone
from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.message import OPCODE_MASK, QR, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.reading import Reply, read_reply
from clusterdns.wire.rr import RR

# As for zones from files, see authority/zonefile.py.
MAX_OCTETS = 24 * 2**20
MAX_RECORDS = 250_000
_HALF = 2**31
_SOA_NUMBERS = 20  # serial, refresh, retry, expire, minimum


class TransferError(ValueError):
    """A transfer is invalid, or the primary server refused it."""


def is_newer(serial: int, known: int) -> bool:
    """Tell whether a serial is greater than the known one (RFC 1982 section 3.2)."""
    return serial != known and (serial - known) % 2**32 < _HALF


def serial_of(packet: bytes, ident: int, apex: WireName) -> int:
    """Return the serial in the reply to a query for the SOA of ``apex``.

    Raises:
        TransferError: the reply has none.
    """
    for record in _read(packet, ident, apex, rr.SOA).answer:
        if _is_soa_of(record, apex):
            return _serial(record)
    raise TransferError("no SOA in the reply")


class Incoming:
    """The messages of one AXFR, in their order (RFC 5936 section 2.2)."""

    def __init__(self, apex: WireName, ident: int) -> None:
        self.is_whole = False
        self._apex, self._ident = apex, ident
        self._records: list[RR] = []
        self._octets = 0

    def take(self, packet: bytes) -> bool:
        """Add the records of a message; tell whether it was the last one.

        Raises:
            TransferError: it is not part of this transfer, or exceeds the bounds.
        """
        reply = _read(packet, self._ident, self._apex, rr.AXFR)
        if not reply.answer:
            raise TransferError("a message without records")
        for record in reply.answer:
            self._add(record)
        return self.is_whole

    def zone(self, pause: Callable[[int], None]) -> Zone:
        """Return the zone; ``pause`` is called with the number of records processed.

        Raises:
            TransferError: the records are not a zone.
        """
        try:
            return Zone(self._apex, self._paused(pause))
        except (ValueError, FormError) as error:
            raise TransferError(str(error)) from error

    def _paused(self, pause: Callable[[int], None]) -> Iterator[RR]:
        for i, record in enumerate(self._records[:-1]):
            pause(i)
            yield record

    def _add(self, record: RR) -> None:
        if self.is_whole:
            raise TransferError("records behind the last SOA")
        if record.rclass != rr.CLASS_IN:
            raise TransferError(f"a record of the class {rr.class_text(record.rclass)}")
        is_soa = _is_soa_of(record, self._apex)
        if not self._records and not is_soa:
            raise TransferError("it does not begin with the SOA of the zone")
        if record.rtype == rr.SOA and not is_soa:
            raise TransferError(f"an SOA of {name.text(record.owner)}")
        if self._records and is_soa:
            if _serial(record) != _serial(self._records[0]):
                raise TransferError("the zone has changed on the way")
            self.is_whole = True
        self._octets += len(record.owner) + 10 + len(record.rdata)
        if len(self._records) >= MAX_RECORDS or self._octets > MAX_OCTETS:
            raise TransferError(f"more than {MAX_RECORDS} records or {MAX_OCTETS} octets")
        self._records.append(record)


def _read(packet: bytes, ident: int, apex: WireName, qtype: int) -> Reply:
    """Return a message if it is a reply to our query. Raises TransferError."""
    try:
        reply = read_reply(packet)
    except FormError as error:
        raise TransferError(f"malformed message: {error}") from error
    if reply.ident != ident or not reply.flags & QR or reply.flags & OPCODE_MASK:
        raise TransferError("a message that is no reply to ours")
    if reply.rcode != rr.NOERROR:
        raise TransferError(rr.rcode_text(reply.rcode))
    asked = Question(apex, apex, qtype)
    # Only the first message of a transfer has to repeat the question (RFC 5936 section 2.2.1).
    if any((name.fold(n), t, c) != (apex, qtype, asked.qclass) for n, t, c in reply.questions):
        raise TransferError("a reply to another question")
    return reply


def _is_soa_of(record: RR, apex: WireName) -> bool:
    is_soa = record.rtype == rr.SOA and len(record.rdata) >= 2 + _SOA_NUMBERS
    return is_soa and name.fold(record.owner) == apex


def _serial(soa: RR) -> int:
    return int.from_bytes(soa.rdata[-_SOA_NUMBERS : 4 - _SOA_NUMBERS], "big")
