"""Hosts files: lines of an address and its names (hosts(5)), and what they say of a name.

Lines end with LF, fields are parted by ASCII white space, and ``#`` begins a comment. What is no
line of this kind is left out: one bad line costs no other. (CoreDNS: plugin/hosts/hostsfile.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.name import ROOT, WireName

MAX_FIELD_OCTETS = 1024  # CoreDNS's; no name is half as long
_NONE: tuple[bytes, ...] = ()

# Takes the number of a line, from 1, and what is wrong with it.
Complain = Callable[[int, str], None]


class Addresses(NamedTuple):
    """The addresses of one name as RDATA, in the order of the file."""

    v4: tuple[bytes, ...] = _NONE
    v6: tuple[bytes, ...] = _NONE

    def of(self, qtype: int) -> tuple[bytes, ...]:
        """Return those of type A or AAAA."""
        return self.v4 if qtype == rr.A else self.v6


_NOBODY = Addresses()


class Hosts:
    """What one hosts file says. ``below`` are the wildcards, by the name behind the asterisk.

    The mappings stay the same objects for good, so that others may hold them, see ``become``.
    """

    def __init__(self) -> None:
        self.names: dict[WireName, Addresses] = {}
        self.below: dict[WireName, Addresses] = {}
        self.reverse: dict[str, tuple[bytes, ...]] = {}  # names by canonical address

    def become(self, other: Hosts) -> None:
        """Say what ``other`` says from now on."""
        for mine, theirs in (
            (self.names, other.names),
            (self.below, other.below),
            (self.reverse, other.reverse),
        ):
            mine.clear()
            mine.update(theirs)  # type: ignore[arg-type]

    @property
    def entries(self) -> int:
        """How many addresses and reverse names there are (CoreDNS: Map.Len)."""
        found = (*self.names.values(), *self.below.values())
        addresses = sum(len(each.v4) + len(each.v6) for each in found)
        return addresses + sum(map(len, self.reverse.values()))

    def addresses(self, qname: WireName, qtype: int) -> tuple[bytes, ...]:
        """Return the addresses of a name as RDATA, those of a wildcard if it has none itself.

        A wildcard stands for exactly one label, which is no name by itself (``*`` alone).
        """
        found = self.names.get(qname, _NOBODY).of(qtype)
        if found or not self.below or qname == ROOT:
            return found
        parent = WireName(qname[1 + qname[0] :])
        return _NONE if parent == ROOT else self.below.get(parent, _NOBODY).of(qtype)


def parse(
    octets: bytes,
    zones: Iterable[WireName],
    complain: Complain,
    *,
    reverses: bool = True,
) -> Hosts:
    """Return what a hosts file says of names in ``zones``; linear in its length.

    ``reverses``: addresses lead back to the names that are no wildcards.
    """
    zones, is_everywhere = tuple(zones), ROOT in zones
    names: dict[WireName, tuple[list[bytes], list[bytes]]] = {}
    below: dict[WireName, tuple[list[bytes], list[bytes]]] = {}
    reverse: dict[str, list[bytes]] = {}
    for number, line in enumerate(octets.split(b"\n"), 1):
        fields = line.partition(b"#")[0].split()
        if len(fields) < 2:
            continue
        if len(fields[0]) > MAX_FIELD_OCTETS:
            complain(number, f"address longer than {MAX_FIELD_OCTETS} bytes, dropping the line")
            continue
        address = _text(fields[0]).partition("%")[0]  # an IPv6 zone means nothing to others
        found = rr.address_rdata(address)
        if found is None:
            continue
        rtype, rdata = found
        for field in fields[1:]:
            if len(field) > MAX_FIELD_OCTETS:
                complain(number, f"name longer than {MAX_FIELD_OCTETS} bytes, dropping the name")
                continue
            folded = _folded(field)
            if folded is None or not (is_everywhere or name.is_within_any(folded, zones)):
                continue
            is_wildcard = field == b"*" or field.startswith(b"*.")
            if is_wildcard:
                folded = WireName(folded[2:])
            both = (below if is_wildcard else names).setdefault(folded, ([], []))
            both[rtype != rr.A].append(rdata)
            if reverses and not is_wildcard:
                canonical = name.canonical_address(address) or address
                reverse.setdefault(canonical, []).append(folded)
    hosts = Hosts()
    hosts.names = {key: Addresses(tuple(v4), tuple(v6)) for key, (v4, v6) in names.items()}
    hosts.below = {key: Addresses(tuple(v4), tuple(v6)) for key, (v4, v6) in below.items()}
    hosts.reverse = {key: tuple(found) for key, found in reverse.items()}
    return hosts


def is_address(text: str) -> bool:
    """Tell whether a line that begins with this word is an entry."""
    return rr.address_rdata(text.partition("%")[0]) is not None


def _text(field: bytes) -> str:
    return field.decode("utf-8", "replace")


def _folded(field: bytes) -> WireName | None:
    """Return a field as a name, None if it is none."""
    try:
        return name.fold(name.parse(field.decode("utf-8")))
    except (FormError, UnicodeDecodeError):
        return None
