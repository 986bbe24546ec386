"""The names that records tell of, and responses without some of their records.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clusterdns.wire import name, rdata, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

# An alias at the name asked for, or on the way from there: what it leads to is asked for, too.
ALIASES = frozenset((rr.CNAME, rr.DNAME))
_OF_THE_ZONE = frozenset((rr.SOA, rr.RRSIG))  # their RDATA names the zone, or who signs it


def tells_names(response: Response, asked: bytes) -> bool:
    """Tell whether a response may tell of a name other than the one asked for, and of its zone."""
    for section in response.sections:
        for record in section:
            rtype = record.rtype
            if rtype in rdata.WITH_NAMES:
                if rtype not in _OF_THE_ZONE:
                    return True
            elif record.owner != asked:
                return True
    return False


def aliases(response: Response) -> Iterator[WireName]:
    """Yield the targets of the aliases in the answer section, folded."""
    for record in response.answer:
        if record.rtype in ALIASES:
            yield from names_in(record)


def names_in(record: RR) -> Iterator[WireName]:
    """Yield the names in the RDATA of a record, folded, without those of its own zone."""
    if record.rtype in _OF_THE_ZONE or record.rtype not in rdata.WITH_NAMES:
        return
    octets, found = record.rdata, list[WireName]()
    try:
        start, count = rdata.names_in(record.rtype, octets, 0, len(octets))
        while count and start < len(octets):
            end = name.end(octets, start)
            found.append(name.fold(octets[start:end]))
            start, count = end, count - 1
    except IndexError:  # what no type of its own has checked
        pass
    yield from found


def without(response: Response, asked: WireName, is_hidden: Callable[[WireName], bool]) -> Response:
    """Return a response without the records of hidden names, and those that name one.

    The records at the name that was asked for stay, if what they name is not hidden.
    """

    def is_shown(record: RR) -> bool:
        if record.rtype in ALIASES:
            return True  # judged before
        owner = name.fold(record.owner)
        if owner != asked and record.rtype != rr.SOA and is_hidden(owner):
            return False
        return not any(is_hidden(each) for each in names_in(record))

    sections = answer, authority, additional = response.sections
    shown = tuple(tuple(filter(is_shown, section)) for section in sections)
    if shown == (answer, authority, additional):
        return response
    return response.with_sections((shown[0], shown[1], shown[2]))._replace(follows_case=False)
