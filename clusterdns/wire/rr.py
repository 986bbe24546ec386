"""Resource records as plain values, and the RDATA encoders for the types we author.

There is no RRset object: a section of a response is a tuple of ``RR``, whose owner and RDATA are
uncompressed wire octets. ``response.render`` compresses names.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import struct
from typing import Final, NamedTuple

from clusterdns.wire import name

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
DNAME: Final = 39
OPT: Final = 41
DS: Final = 43
RRSIG: Final = 46
NSEC: Final = 47
DNSKEY: Final = 48
NSEC3: Final = 50
NSEC3PARAM: Final = 51
CDS: Final = 59
CDNSKEY: Final = 60
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
CLASS_IN: Final = 1

# IANA "Resource Record (RR) TYPEs", as miekg/dns prints them; the rest is TYPE<n>.
TYPE_TEXT: Final[dict[int, str]] = {
    0: "None", 1: "A", 2: "NS", 3: "MD", 4: "MF", 5: "CNAME", 6: "SOA", 7: "MB", 8: "MG", 9: "MR",
    10: "NULL", 12: "PTR", 13: "HINFO", 14: "MINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB",
    19: "X25", 20: "ISDN", 21: "RT", 23: "NSAP-PTR", 24: "SIG", 25: "KEY", 26: "PX", 27: "GPOS",
    28: "AAAA", 29: "LOC", 30: "NXT", 31: "EID", 32: "NIMLOC", 33: "SRV", 34: "ATMA", 35: "NAPTR",
    36: "KX", 37: "CERT", 39: "DNAME", 41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY",
    46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA",
    53: "SMIMEA", 55: "HIP", 56: "NINFO", 57: "RKEY", 58: "TALINK", 59: "CDS", 60: "CDNSKEY",
    61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 100: "UINFO",
    101: "UID", 102: "GID", 103: "UNSPEC", 104: "NID", 105: "L32", 106: "L64", 107: "LP",
    108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 253: "MAILB",
    254: "MAILA", 255: "ANY", 256: "URI", 257: "CAA", 258: "AVC", 260: "AMTRELAY",
    32768: "TA", 32769: "DLV",
}  # fmt: skip
TYPES: Final[dict[str, int]] = {text: number for number, text in TYPE_TEXT.items()}
CLASS_TEXT: Final[dict[int, str]] = {1: "IN", 2: "CS", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
# As CoreDNS logs, counts and reads them: 16 has the name of TSIG, not BADVERS.
RCODE_TEXT: Final[dict[int, str]] = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
    6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 11: "DSOTYPENI",
    16: "BADSIG", 17: "BADKEY", 18: "BADTIME", 19: "BADMODE", 20: "BADNAME", 21: "BADALG",
    22: "BADTRUNC", 23: "BADCOOKIE",
}  # fmt: skip
RCODES: Final[dict[str, int]] = {text: number for number, text in RCODE_TEXT.items()}
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS: Final = 16
BADCOOKIE: Final = 23


class RR(NamedTuple):
    """One resource record: owner and RDATA in uncompressed wire form, TTL in seconds."""

    owner: bytes
    rtype: int
    ttl: int
    rdata: bytes
    rclass: int = CLASS_IN


def type_text(rtype: int) -> str:
    """Return the mnemonic of an RR type, ``TYPE<n>`` if it has none (RFC 3597 section 5)."""
    return TYPE_TEXT.get(rtype) or f"TYPE{rtype}"


def class_text(rclass: int) -> str:
    """Return the mnemonic of a class, ``CLASS<n>`` if it has none (RFC 3597 section 5)."""
    return CLASS_TEXT.get(rclass) or f"CLASS{rclass}"


def rcode_text(rcode: int) -> str:
    """Return the mnemonic of an RCODE, ``RCODE<n>`` if it has none."""
    return RCODE_TEXT.get(rcode) or f"RCODE{rcode}"


@functools.lru_cache(16_384)  # ipaddress costs 5 µs, a fifth of a table miss
def address_rdata(address: str) -> tuple[int, bytes] | None:
    """Return (A or AAAA, RDATA) for the text of an IP address, or None for any other text.

    IPv4-mapped IPv6 text counts as IPv4; text with a zone index is not an address (CoreDNS:
    plugin/etcd/msg/type.go, by Go's net.ParseIP).
    """
    octets = _v4_octets(address)
    if octets is not None:
        return A, octets
    ip = name.ip_address(address)
    if ip is None:
        return None
    return (A if ip.version == 4 else AAAA), ip.packed


def _v4_octets(address: str) -> bytes | None:
    """Return the octets of an IPv4 address; None for most other texts.

    ``ipaddress`` takes four times as long, and judges where this is not sure.
    """
    parts = address.split(".")
    if len(parts) != 4 or not address.isascii():
        return None
    for part in parts:
        if not part.isdigit() or len(part) > 3 or (part[0] == "0" and len(part) > 1):
            return None
    numbers = [int(part) for part in parts]
    return bytes(numbers) if max(numbers) < 256 else None


def srv_rdata(priority: int, weight: int, port: int, target: bytes) -> bytes:
    """Return the RDATA of an SRV record (RFC 2782)."""
    return struct.pack("!HHH", priority, weight, port) + target


def soa_serial(serial: int) -> bytes:
    """Return the RDATA of our SOA from its serial up to the minimum."""
    return struct.pack("!IIII", serial, 7200, 1800, 86400)


def soa_rdata(mname: bytes, rname: bytes, serial: int, minimum: int) -> bytes:
    """Return the RDATA of an SOA record with the timers CoreDNS gives its zones, in seconds.

    Refresh 7200, retry 1800, expire 86400 (CoreDNS: plugin/backend_lookup.go SOA).
    """
    return mname + rname + soa_serial(serial) + struct.pack("!I", minimum)


def txt_rdata(text: str) -> bytes:
    """Return the RDATA of a TXT record with one character-string of at most 255 octets."""
    octets = text.encode()[:255]
    return bytes((len(octets),)) + octets
