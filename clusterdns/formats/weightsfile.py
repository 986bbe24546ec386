"""Weight files of `loadbalance weighted`: names, and the weights of their addresses.

A line with one word is a name; lines with an address and a number from 1 to 255 belong to the name
above them. Empty lines and lines that start with # are ignored (CoreDNS: plugin/loadbalance
weighted.go).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

MAX_WEIGHT = 255
Weights = dict[WireName, dict[bytes, int]]  # by name, by RDATA of the address


def parse(text: str) -> Weights:
    """Return the weights in a text.

    Raises:
        ValueError: a line is invalid; the message names it.
    """
    found: Weights = {}
    current: dict[bytes, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 1:
            current = found.setdefault(_name(words[0], number), {})
        elif len(words) == 2:
            if current is None:
                raise ValueError(f"line {number}: no name stands above this address")
            address, weight = _entry(words[0], words[1], number)
            current.setdefault(address, weight)
        else:
            raise ValueError(f"line {number}: wants a name, or an address and its weight")
    return found


def _name(word: str, number: int) -> WireName:
    if rr.address_rdata(word) is not None:
        raise ValueError(f"line {number}: address {word!r} has no weight")
    try:
        return name.fold(name.parse(word))
    except FormError as error:
        raise ValueError(f"line {number}: {word!r} is no name") from error


def _entry(address: str, weight: str, number: int) -> tuple[bytes, int]:
    found = rr.address_rdata(address)
    if found is None:
        raise ValueError(f"line {number}: {address!r} is no IP address")
    if not (weight.isascii() and weight.isdigit() and 1 <= int(weight[:9]) <= MAX_WEIGHT):
        raise ValueError(f"line {number}: weight {weight[:20]!r} is not from 1 to {MAX_WEIGHT}")
    return found[1], int(weight)
