"""Domain names in wire form: read, print, fold, walk and reverse.

A name is ``bytes`` in uncompressed wire format (RFC 1035 section 3.1): labels with their length
octet, ended by the root label. Text is used only in configuration and output. Folding is
``bytes.lower``, which is safe on whole names: length octets are below 64 and so below ``A``. A
folded name is a ``WireName``; a name as a client or an object spelled it is plain ``bytes``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, NewType

from clusterdns.errors import FormError

WireName = NewType("WireName", bytes)

ROOT: Final = WireName(b"\0")
MAX_NAME_OCTETS: Final = 255  # RFC 1035 section 2.3.4
MAX_LABEL_OCTETS: Final = 63

_IN_ADDR_ARPA: Final = (b"in-addr", b"arpa")
_IP6_ARPA: Final = (b"ip6", b"arpa")
_IN_ADDR: Final = b"\x07in-addr\x04arpa\0"
_IP6: Final = b"\x03ip6\x04arpa\0"
REVERSE_ZONES: Final = (WireName(_IN_ADDR), WireName(_IP6))
_NIBBLES: Final = re.compile(rb"(?:\x01[0-9a-f])*")
_PLAIN: Final = re.compile(rb"[!#$%&*+,\-/0-9:<=>?A-Z\[\]^_`a-z{|}~]+")  # no octet is escaped
_SPECIAL: Final = frozenset(b" \"'().;@\\")  # the octets miekg/dns escapes with a backslash


def parse(text: str) -> bytes:
    r"""Return the wire form of ``text``, which is absolute with or without the last dot.

    ``\.`` and ``\DDD`` are escapes (RFC 1035 section 5.1); other characters are their UTF-8 octets.

    Raises:
        FormError: an empty or too long label or name, or a bad escape.
    """
    if text in (".", ""):
        return ROOT
    wire = bytearray()
    for label in _split(text):
        if not 1 <= len(label) <= MAX_LABEL_OCTETS:
            raise FormError(len(wire), f"label of {len(label)} octets in {text!r}")
        wire.append(len(label))
        wire += label
    wire.append(0)
    if len(wire) > MAX_NAME_OCTETS:
        raise FormError(MAX_NAME_OCTETS, f"name of {len(wire)} octets")
    return bytes(wire)


def _split(text: str) -> list[bytes]:
    """Return the labels of a presentation name, escapes undone."""
    if "\\" not in text:
        return text.removesuffix(".").encode().split(b".")
    raw = text.encode()
    labels, label, i = [], bytearray(), 0
    while i < len(raw):
        octet = raw[i]
        if octet == 0x2E:  # an unescaped dot
            labels.append(bytes(label))
            label.clear()
        elif octet == 0x5C:
            digits = raw[i + 1 : i + 4]
            if digits[:1].isdigit():
                if len(digits) != 3 or not digits.isdigit() or int(digits) > 255:
                    raise FormError(i, f"bad escape in {text!r}")
                label.append(int(digits))
                i += 3
            elif digits:
                label.append(digits[0])
                i += 1
            else:
                raise FormError(i, f"name ends in an escape: {text!r}")
        else:
            label.append(octet)
        i += 1
    if label:
        labels.append(bytes(label))
    return labels


def text(wire: bytes) -> str:
    """Return the presentation form of ``wire``, absolute, escaped as miekg/dns escapes it."""
    if wire == ROOT:
        return "."
    return "".join(label_text(label) + "." for label in labels(wire))


def label_text(label: bytes) -> str:
    r"""Return one label as text: ``\.`` for special octets, ``\DDD`` for unprintable ones."""
    if _PLAIN.fullmatch(label):
        return label.decode("ascii")
    printed = []
    for octet in label:
        if octet in _SPECIAL:
            printed.append("\\" + chr(octet))
        elif 0x20 < octet < 0x7F:
            printed.append(chr(octet))
        else:
            printed.append(f"\\{octet:03d}")
    return "".join(printed)


def labels(wire: bytes) -> list[bytes]:
    """Return the labels of ``wire`` from left to right, without the root label."""
    found, i = [], 0
    while length := wire[i]:
        found.append(wire[i + 1 : i + 1 + length])
        i += 1 + length
    return found


def count_labels(wire: bytes) -> int:
    """Return the number of labels of ``wire``, the root label not counted."""
    count = i = 0
    while length := wire[i]:
        i += 1 + length
        count += 1
    return count


def join(parts: list[bytes], suffix: bytes = ROOT) -> bytes:
    """Return the name of the labels ``parts`` above the name ``suffix``.

    Raises:
        FormError: a label or the name is too long, or a label is empty.
    """
    wire = b""
    for label in parts:
        if not 1 <= len(label) <= MAX_LABEL_OCTETS:
            raise FormError(len(wire), f"label of {len(label)} octets")
        wire += bytes((len(label),)) + label
    wire += suffix
    if len(wire) > MAX_NAME_OCTETS:
        raise FormError(MAX_NAME_OCTETS, f"name of {len(wire)} octets")
    return wire


def end(octets: bytes, start: int) -> int:
    """Return the offset behind the uncompressed name at ``start``."""
    while octets[start]:
        start += 1 + octets[start]
    return start + 1


def fold(wire: bytes) -> WireName:
    """Return ``wire`` with ASCII letters in lower case (RFC 4343)."""
    return WireName(wire.lower())


def parents(wire: WireName) -> list[WireName]:
    """Return ``wire`` and each of its parents, up to the root, the longest first."""
    found, i = [wire], 0
    while length := wire[i]:
        i += 1 + length
        found.append(WireName(wire[i:]))
    return found


def is_within(wire: WireName, zone: WireName) -> bool:
    """Tell whether ``wire`` is ``zone`` or below it; compares at label borders only."""
    cut = len(wire) - len(zone)
    if cut < 0 or wire[cut:] != zone:
        return False
    i = 0
    while i < cut:
        i += 1 + wire[i]
    return i == cut


def is_below(wire: WireName, zone: WireName) -> bool:
    """Tell whether ``wire`` is below ``zone``, and not the same name."""
    return len(wire) > len(zone) and is_within(wire, zone)


def is_akin(one: bytes, other: bytes) -> bool:
    """Tell whether two names end in the same label, in whatever letter case."""
    return labels(one.lower())[-1:] == labels(other.lower())[-1:]


def is_within_any(wire: WireName, zones: Iterable[WireName]) -> bool:
    """Tell whether ``wire`` is or lies below one of ``zones``."""
    return any(is_within(wire, zone) for zone in zones)


def reverse_address(wire: WireName) -> str | None:
    """Return the canonical text (RFC 5952) of the address of a reverse name, or None.

    ``ip6.arpa`` labels are read in groups of four and a remainder of one to three is discarded, as
    CoreDNS does (plugin/pkg/dnsutil/reverse.go); an IPv4-mapped address is returned as IPv4.
    """
    parts = labels(wire)
    suffix, digits = tuple(parts[-2:]), parts[:-2]
    digits.reverse()
    try:
        if suffix == _IN_ADDR_ARPA:
            return canonical_address(b".".join(digits).decode("ascii"), 4)
        if suffix == _IP6_ARPA:
            whole = len(digits) // 4 * 4
            groups = [b"".join(digits[i : i + 4]) for i in range(0, whole, 4)]
            return canonical_address(b":".join(groups).decode("ascii"), 6)
    except UnicodeDecodeError:
        pass  # addresses are ASCII
    return None


def plain_address(wire: bytes) -> str | None:
    """Return a text for a folded reverse name, the canonical one if it is that of an address.

    It is as ``reverse_address``, but cheaper: another text is that of no address. None for names
    that ``reverse_address`` has to read: odd ones in ``ip6.arpa``, those of addresses whose first
    ten octets are zero, and those with one to three nibbles too many.
    """
    if wire.endswith(_IN_ADDR):
        return b".".join(labels(wire)[-3::-1]).decode("latin-1")
    nibbles = (len(wire) - len(_IP6)) // 2
    if not wire.endswith(_IP6) or _NIBBLES.fullmatch(wire, 0, len(wire) - len(_IP6)) is None:
        return None
    if nibbles != 32:
        return None if nibbles // 4 == 8 else ""
    address = bytes.fromhex(wire[63::-2].decode("ascii"))
    return str(ipaddress.IPv6Address(address)) if any(address[:10]) else None


def canonical_address(address: str, family: int | None = None) -> str | None:
    """Return the canonical text of an IP address, IPv4-mapped ones as IPv4, or None for other text.

    ``family`` 4 or 6 accepts only addresses written in that family's notation.
    """
    ip = ip_address(address, family)
    return None if ip is None else str(ip)


def ip_address(
    address: str, family: int | None = None
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text is, by the rules of ``canonical_address``, or None."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if family not in (None, ip.version) or "%" in address:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def reverse_name(address: str) -> WireName:
    """Return the ``in-addr.arpa`` or ``ip6.arpa`` name of an IP address (RFC 1035 §3.5, RFC 3596).

    Raises:
        ValueError: ``address`` is not an IP address.
    """
    return fold(parse(ipaddress.ip_address(address).reverse_pointer))
