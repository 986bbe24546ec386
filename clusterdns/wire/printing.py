"""Messages printed as dig prints them, by dnslib: for tools and tests.

dnslib reads only what this process has rendered, never octets from outside: one message of 64 KiB
costs it 20 s, and 667 octets exhaust its stack. No serving process imports this module.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import dnslib  # type: ignore[import-untyped]


def to_text(packet: bytes) -> str:
    """Return a message in dig's notation.

    Raises:
        dnslib.DNSError: dnslib cannot read it.
    """
    return str(dnslib.DNSRecord.parse(packet))


def records(packet: bytes) -> list[tuple[int, bytes, int, int, int]]:
    """Return (section, owner in wire form, type, class, TTL) of every record but an OPT.

    Sections are 0 for answer, 1 for authority and 2 for additional.

    Raises:
        dnslib.DNSError: dnslib cannot read it.
    """
    parsed = dnslib.DNSRecord.parse(packet)
    return [
        (section, _wire(record.rname.label), record.rtype, record.rclass, record.ttl)
        for section, found in enumerate((parsed.rr, parsed.auth, parsed.ar))
        for record in found
        if record.rtype != dnslib.QTYPE.OPT
    ]


def _wire(labels: tuple[bytes, ...]) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
