"""Hosts files (hosts(5)): lines with an address and its names.

Lines end with LF, ASCII white space separates fields, and ``#`` starts a comment. Other lines are
skipped, so one bad line does not affect the rest. (CoreDNS: plugin/hosts/hostsfile.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.name import ROOT, WireName

MAX_FILE_OCTETS = 16 * 2**20
MAX_FIELD_OCTETS = 1024  # CoreDNS's limit
_LINES_AT_A_STRETCH = 128  # less than a millisecond
_NONE: tuple[bytes, ...] = ()

# Takes the number of a line, from 1, and its error.
Complain = Callable[[int, str], None]


class Addresses(NamedTuple):
    """The addresses of one name as RDATA, in the order of the file."""

    v4: tuple[bytes, ...] = _NONE
    v6: tuple[bytes, ...] = _NONE

    def of(self, qtype: int) -> tuple[bytes, ...]:
        """Return the addresses of type A or AAAA."""
        return self.v4 if qtype == rr.A else self.v6


_NOBODY = Addresses()


class Hosts:
    """The content of one hosts file. ``below`` are the wildcards, by the name behind the asterisk.

    The mappings stay the same objects, so that C can hold them; ``become`` replaces their items.
    """

    def __init__(self) -> None:
        self.names: dict[WireName, Addresses] = {}
        self.below: dict[WireName, Addresses] = {}
        self.reverse: dict[str, tuple[bytes, ...]] = {}  # names by canonical address

    def become(self, other: Hosts) -> None:
        """Replace the content by that of ``other``."""
        for mine, theirs in (
            (self.names, other.names),
            (self.below, other.below),
            (self.reverse, other.reverse),
        ):
            mine.clear()
            mine.update(theirs)  # type: ignore[arg-type]

    @property
    def entries(self) -> int:
        """The number of addresses and reverse names (CoreDNS: Map.Len)."""
        found = (*self.names.values(), *self.below.values())
        addresses = sum(len(each.v4) + len(each.v6) for each in found)
        return addresses + sum(map(len, self.reverse.values()))

    def addresses(self, qname: WireName, qtype: int) -> tuple[bytes, ...]:
        """Return the addresses of a name as RDATA, those of a wildcard if it has none itself.

        A wildcard stands for exactly one label, and ``*`` alone is not a name.
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
    pause: Callable[[], None] = lambda: None,
) -> Hosts:
    """Return the entries of a hosts file for names in ``zones``; linear in its length.

    ``reverses`` adds reverse names for names other than wildcards. ``pause`` is called regularly,
    so that another thread of the process can run.
    """
    reader = _Reader(tuple(zones), complain, reverses=reverses)
    for number, line in enumerate(octets.split(b"\n"), 1):
        if not number % _LINES_AT_A_STRETCH:
            pause()
        fields = line.partition(b"#")[0].split()
        if len(fields) > 1:
            reader.read(number, fields)
    return reader.hosts()


def find(
    octets: bytes,
    zones: Collection[WireName],
    qname: WireName,
    qtype: int,
    *,
    pause: Callable[[], None] = lambda: None,
) -> list[int]:
    """Return the numbers of the lines with an entry that answers for a name by a type.

    Wildcards count where no line has the name itself, as in ``Hosts.addresses``. ``pause`` is
    called regularly, and may raise what stops the search.
    """
    address = name.reverse_address(qname) if qtype == rr.PTR else None
    parent = b".".join(name.labels(qname)[1:])
    exact, below = list[int](), list[int]()
    for number, line in enumerate(octets.split(b"\n"), 1):
        if not number % _LINES_AT_A_STRETCH:
            pause()
        # Most lines cannot be meant: an address has many notations, a name only with backslashes.
        if qtype != rr.PTR and parent not in line.lower() and b"\\" not in line:
            continue
        one = parse(line, zones, lambda _number, _reason: None)
        if qtype == rr.PTR:
            if address in one.reverse:
                exact.append(number)
        elif one.names.get(qname, _NOBODY).of(qtype):
            exact.append(number)
        elif one.addresses(qname, qtype):
            below.append(number)
    return exact or below


class _Address(NamedTuple):
    """An address: whether it is IPv6, its RDATA, and its canonical text."""

    is_six: bool
    rdata: bytes
    text: str


class _Reader:
    """Collects the lines of a file."""

    def __init__(self, zones: tuple[WireName, ...], complain: Complain, *, reverses: bool) -> None:
        self._zones = zones
        self._is_everywhere = ROOT in zones
        self._complain = complain
        self._reverses = reverses
        self._names: dict[WireName, tuple[list[bytes], list[bytes]]] = {}
        self._below: dict[WireName, tuple[list[bytes], list[bytes]]] = {}
        self._reverse: dict[str, list[bytes]] = {}
        self._last: tuple[bytes, _Address | None] = (b"", None)  # lines often repeat an address

    def read(self, number: int, fields: list[bytes]) -> None:
        """Add a line."""
        if len(fields[0]) > MAX_FIELD_OCTETS:
            reason = f"address longer than {MAX_FIELD_OCTETS} bytes, dropping the line"
            self._complain(number, reason)
            return
        if fields[0] != self._last[0]:
            self._last = (fields[0], _address(fields[0]))
        address = self._last[1]
        if address is None:
            return
        for field in fields[1:]:
            if len(field) > MAX_FIELD_OCTETS:
                reason = f"name longer than {MAX_FIELD_OCTETS} bytes, dropping the name"
                self._complain(number, reason)
                continue
            folded = _folded(field)
            if folded is not None and (
                self._is_everywhere or name.is_within_any(folded, self._zones)
            ):
                self._put(field, folded, address)

    def _put(self, field: bytes, folded: WireName, address: _Address) -> None:
        is_wildcard = field == b"*" or field.startswith(b"*.")
        names = self._names
        if is_wildcard:
            names, folded = self._below, WireName(folded[2:])
        both = names.get(folded)
        if both is None:
            both = names[folded] = ([], [])
        both[address.is_six].append(address.rdata)
        if self._reverses and not is_wildcard:
            self._reverse.setdefault(address.text, []).append(folded)

    def hosts(self) -> Hosts:
        """Return the content read so far."""
        hosts = Hosts()
        for kept, read in ((hosts.names, self._names), (hosts.below, self._below)):
            kept.update((key, Addresses(tuple(v4), tuple(v6))) for key, (v4, v6) in read.items())
        hosts.reverse.update((key, tuple(names)) for key, names in self._reverse.items())
        return hosts


def _address(field: bytes) -> _Address | None:
    """Return the address of a field without its IPv6 zone, which is local to this host."""
    text = field.decode("utf-8", "replace").partition("%")[0]
    found = rr.address_rdata(text)
    if found is None:
        return None
    return _Address(found[0] != rr.A, found[1], name.canonical_address(text) or text)


def is_address(text: str) -> bool:
    """Tell whether a line with this first word is an entry."""
    return rr.address_rdata(text.partition("%")[0]) is not None


def _folded(field: bytes) -> WireName | None:
    """Return a field as a folded name, None if it is not a name."""
    if b"\\" in field:
        try:
            return name.fold(name.parse(field.decode("utf-8")))
        except (FormError, UnicodeDecodeError):
            return None
    labels = field.removesuffix(b".").lower().split(b".")
    if labels == [b""]:
        return ROOT if field == b"." else None
    wire = b"".join([b"%c%b" % (len(label) & 0xFF, label) for label in labels]) + ROOT
    is_name = all(0 < len(label) <= name.MAX_LABEL_OCTETS for label in labels)
    return WireName(wire) if is_name and len(wire) <= name.MAX_NAME_OCTETS else None
