"""Readers for common arguments of directives and options.

Each takes a Directive, returns a value, and raises ConfigError with its file and line.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable

from clusterdns.corefile.keys import parse_key
from clusterdns.corefile.lexer import shorten
from clusterdns.corefile.parser import Directive
from clusterdns.host import addresses
from clusterdns.host.addresses import MAX_PORT
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

_log = logging.getLogger(__name__)
MAX_NUMBER = 2**31 - 1
_LIKE_IPV4 = re.compile(r"[0-9.]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")

_DURATION = re.compile(r"[+-]?(?:0|(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"([0-9]*)\.?([0-9]*)([a-zµμ]+)")
_UNIT_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_MAX_NS = 2**63 - 1  # Go's time.Duration: 292 years
_MAX_DURATION_CHARACTERS = 200


def one(line: Directive) -> str:
    """Return the only argument."""
    if len(line.args) != 1:
        raise line.error("takes one argument")
    return line.args[0]


def flag(line: Directive) -> bool:
    """Return True for an option without arguments."""
    if line.args:
        raise line.error(f"takes no argument, got {line.args[0]!r}")
    return True


def ignore_block(directive: Directive) -> None:
    """Warn that the block of a directive is ignored, as in CoreDNS."""
    if directive.block:
        _log.warning(
            "%s:%d: %s: its block is ignored", directive.file, directive.line, directive.name
        )


def some(line: Directive) -> tuple[str, ...]:
    """Return the arguments, at least one."""
    if not line.args:
        raise line.error("needs an argument")
    return line.args


def word(line: Directive, *words: str) -> str:
    """Return the only argument, one of ``words``."""
    if one(line) not in words:
        raise line.error(f"wants one of {', '.join(words)}, got {line.args[0]!r}")
    return line.args[0]


def whole(text: str, line: Directive, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return ``text`` as a whole number within bounds."""
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:20]) <= most:
        bounds = f"from {least} to {most}" if most != MAX_NUMBER else f"of at least {least}"
        raise line.error(f"wants a whole number {bounds}, got {text!r}")
    return int(text)


def rcode(text: str, line: Directive) -> int:
    """Return the RCODE that ``text`` names, such as ``NXDOMAIN``."""
    if text not in rr.RCODES:
        raise line.error(f"unknown rcode {text}")
    return rr.RCODES[text]


def number(line: Directive, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return the only argument as a whole number."""
    return whole(one(line), line, least=least, most=most)


def seconds(line: Directive, *, is_positive: bool = False) -> float:
    """Return the only argument as a duration in seconds, not negative."""
    found = duration_s(one(line), line)
    if found < 0 or (is_positive and not found):
        raise line.error(f"wants a positive duration, got {line.args[0]!r}")
    return found


def first_seconds(line: Directive) -> float:
    """Return the first argument as a duration that is not negative; others are ignored.

    As in some plugins of CoreDNS (plugin/file/setup.go).
    """
    found = duration_s(some(line)[0], line)
    if found < 0:
        raise line.error(f"wants a positive duration, got {line.args[0]!r}")
    return found


def address(line: Directive) -> str:
    """Return the only argument as the text of an IP address."""
    try:
        return str(ipaddress.ip_address(one(line)))
    except ValueError as error:
        raise line.error(f"{line.args[0]!r} is no IP address") from error


def listen_address(directive: Directive, default: str) -> str:
    """Return the only argument, or the default: ``host:port`` to listen at, the host may be "".

    A host in brackets is an IPv6 address. Names are looked up when binding.
    """
    if not directive.args:
        return default
    text = one(directive)
    host, colon, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    address = host[1:-1].partition("%")[0] if in_brackets else host
    if not colon:
        raise directive.error(f"wants HOST:PORT or :PORT, got {shorten(text)!r}")
    try:
        addresses.read_port(port, least=0)
    except ValueError as error:
        reason = f"wants a port from 0 to {MAX_PORT}, got {shorten(port)!r}"
        raise directive.error(reason) from error
    if in_brackets or ":" in host or _LIKE_IPV4.fullmatch(host):
        try:
            found = ipaddress.ip_address(address)
        except ValueError as error:
            raise directive.error(f"{shorten(host)!r} is no IP address") from error
        if (found.version == 6) != in_brackets:
            raise directive.error(f"an IPv6 address stands in brackets: [{address}]:{port}")
    elif host and not _HOST.fullmatch(host):
        raise directive.error(f"{shorten(host)!r} is no address and no host name")
    return text


def server(text: str, line: Directive, port: str = "53") -> tuple[str, int]:
    """Return the address and port of ``IP``, ``IP:PORT`` or ``[IP]:PORT``."""
    try:
        host, given = addresses.split(text)
        ipaddress.ip_address(host)
    except ValueError as error:
        raise line.error(f"{text!r} is no IP address, with or without a port") from error
    return host, whole(port if given is None else given, line, least=1, most=MAX_PORT)


def network(text: str, line: Directive) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return an IP network in CIDR notation; a single address is a network of one."""
    length = text.partition("/")[2]
    try:
        if "%" in text or ("/" in text and not length.isdigit()):
            raise ValueError("no CIDR notation")
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise line.error(f"{shorten(text)!r} is no network such as 10.0.0.0/8") from error


def zone_names(texts: tuple[str, ...] | list[str], line: Directive) -> tuple[WireName, ...]:
    """Return zones, CIDR text expanded, in wire form."""
    return tuple(name.fold(name.parse(text)) for text in zones(texts, line))


def zones(texts: Iterable[str], directive: Directive) -> list[str]:
    """Return zone arguments in lower case, absolute, CIDR text as its reverse zones.

    A scheme and a port are allowed and ignored (CoreDNS: plugin.Host.NormalizeExact).

    Raises:
        ConfigError: one is not a zone; CoreDNS skips it silently.
    """
    found: list[str] = []
    for text in texts:
        try:
            found += [key.zone for key in parse_key(text)]
        except ValueError as error:
            raise directive.error(f"zone {shorten(text)!r}: {error}") from error
    return found


def duration_s(text: str, directive: Directive) -> float:
    """Return the seconds of a duration in Go's notation (time.ParseDuration): `1h2m`, `1.5s`, `0`.

    Raises:
        ConfigError: it is invalid, or longer than 292 years.
    """
    if len(text) > _MAX_DURATION_CHARACTERS or not _DURATION.fullmatch(text):
        raise directive.error(f"{shorten(text)!r} is no duration, such as 30s or 1m30s")
    total_ns = 0
    for whole, fraction, unit in _DURATION_PART.findall(text):
        unit_ns = _UNIT_NS[unit]
        total_ns += int(whole or "0") * unit_ns + int(fraction or "0") * unit_ns // 10 ** len(
            fraction
        )
    if total_ns > _MAX_NS:
        raise directive.error(f"{shorten(text)!r} is too long a duration")
    return (-total_ns if text.startswith("-") else total_ns) / 1e9
