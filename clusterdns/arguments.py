"""Readers of the arguments that plugins' directives and options have in common.

Each takes a Directive, returns a value, and raises ConfigError with its file and line.
"""

from __future__ import annotations

import ipaddress

from clusterdns import name
from clusterdns.corefile import Directive, duration_s, zones
from clusterdns.name import WireName

MAX_NUMBER = 2**31 - 1


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


def some(line: Directive) -> tuple[str, ...]:
    """Return the arguments, of which there must be at least one."""
    if not line.args:
        raise line.error("needs an argument")
    return line.args


def word(line: Directive, *words: str) -> str:
    """Return the only argument, which is one of ``words``."""
    if one(line) not in words:
        raise line.error(f"wants one of {', '.join(words)}, got {line.args[0]!r}")
    return line.args[0]


def whole(text: str, line: Directive, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return ``text`` as a whole number within bounds."""
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:20]) <= most:
        bounds = f"from {least} to {most}" if most != MAX_NUMBER else f"of at least {least}"
        raise line.error(f"wants a whole number {bounds}, got {text!r}")
    return int(text)


def number(line: Directive, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return the only argument as a whole number."""
    return whole(one(line), line, least=least, most=most)


def seconds(line: Directive, *, is_positive: bool = False) -> float:
    """Return the only argument as a duration in seconds, which is not negative."""
    found = duration_s(one(line), line)
    if found < 0 or (is_positive and not found):
        raise line.error(f"wants a positive duration, got {line.args[0]!r}")
    return found


def address(line: Directive) -> str:
    """Return the only argument as the text of an IP address."""
    try:
        return str(ipaddress.ip_address(one(line)))
    except ValueError as error:
        raise line.error(f"{line.args[0]!r} is no IP address") from error


def zone_names(texts: tuple[str, ...] | list[str], line: Directive) -> tuple[WireName, ...]:
    """Return zones, CIDR text expanded, in wire form."""
    return tuple(name.fold(name.parse(text)) for text in zones(texts, line))
