"""Targets of DNSEndpoints: text -> RDATA.

The text is what external-dns writes: names are absolute with or without the last dot, and the text
of a TXT record may be quoted (external-dns: docs/sources/crd.md).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from clusterdns.errors import FormError
from clusterdns.wire import name, rr

TYPES: Final = {
    "A": rr.A,
    "AAAA": rr.AAAA,
    "CNAME": rr.CNAME,
    "TXT": rr.TXT,
    "SRV": rr.SRV,
    "MX": rr.MX,
    "PTR": rr.PTR,
    "NS": rr.NS,
}
MAX_TXT_OCTETS: Final = 4096
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-9]{3})|(.))", re.DOTALL)
_STRING_OCTETS = 255  # of one character-string (RFC 1035 section 3.3)


def rdata_of(rtype: int, target: str) -> bytes:
    """Return the RDATA of a target. Raises FormError or ValueError."""
    match rtype:
        case rr.A | rr.AAAA:
            address = rr.address_rdata(target)
            if address is None or address[0] != rtype:
                raise ValueError(f"{target!r:.60} is no address of type {rr.type_text(rtype)}")
            return address[1]
        case rr.CNAME | rr.NS | rr.PTR:
            return _host(target)
        case rr.MX:
            preference, host = _words(target, 2)
            return struct.pack("!H", _number(preference)) + _host(host)
        case rr.SRV:
            *numbers, host = _words(target, 4)
            return struct.pack("!HHH", *map(_number, numbers)) + _host(host)
    return _strings(target)


def _words(target: str, count: int) -> list[str]:
    found = target.split()
    if len(found) != count:
        raise ValueError(f"{target!r:.60} has {len(found)} words, not {count}")
    return found


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 0xFFFF):
        raise ValueError(f"{word!r:.60} is no number from 0 to 65535")
    return int(word)


def _host(word: str) -> bytes:
    if not word or word.split() != [word]:
        raise ValueError(f"{word!r:.60} is no name")
    return name.parse(word)


def _strings(target: str) -> bytes:
    """Return character-strings: of each quoted text, else of the whole target."""
    texts = [target.encode()]
    if target.startswith('"'):
        texts = [_unescaped(found) for found in _QUOTED.findall(target)]
        if _QUOTED.sub("", target):
            raise ValueError(f"{target!r:.60} is not quoted well")
    if sum(map(len, texts)) > MAX_TXT_OCTETS:
        raise FormError(MAX_TXT_OCTETS, f"text of more than {MAX_TXT_OCTETS} octets")
    pieces = [
        text[i : i + _STRING_OCTETS]
        for text in texts
        for i in range(0, len(text) or 1, _STRING_OCTETS)
    ]
    return b"".join(bytes((len(piece),)) + piece for piece in pieces)


def _unescaped(text: str) -> bytes:
    def octets(found: re.Match[str]) -> str:
        return chr(int(found[1])) if found[1] and int(found[1]) < 128 else found[2] or found[1]

    return _ESCAPE.sub(octets, text).encode()
