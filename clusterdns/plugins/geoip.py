"""geoip - say where the client of a query is, for plugins that use labels.

Syntax:

    geoip DBFILE {
        edns-subnet
    }

DBFILE, relative to `root`, is a database of MaxMind's format (`.mmdb`) with cities, countries or
autonomous systems. With `metadata` in the server block, queries have labels of the client's
address, or, with `edns-subnet`, of the address in its EDNS client subnet option (RFC 7871):

    geoip/city/name, geoip/country/name, geoip/continent/name     names in English
    geoip/country/code, geoip/continent/code                      such as GB, EU
    geoip/subdivisions/code                                       such as ENG,TWH
    geoip/country/is_in_european_union                            true or false
    geoip/latitude, geoip/longitude, geoip/timezone, geoip/postalcode
    geoip/asn/number, geoip/asn/org                               of autonomous systems

A label is empty if the database has no value for it. DBFILE is read into memory, which the workers
share, when the configuration is; a later one is in force after a reload. The package maxminddb
reads databases; `pip install 'clusterdns[geoip]'` installs it, and the image lacks it.

Examples:

    . {
        metadata
        geoip GeoLite2-City.mmdb
        log . "{remote} {name} {/geoip/country/code}"
        forward . 192.0.2.53
    }

Differences from CoreDNS: a label is looked up when a plugin reads it.
"""

from __future__ import annotations

import functools
import io
import ipaddress
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from clusterdns.chain.bases import Passing
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Repeats
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import read_regular
from clusterdns.wire import message
from clusterdns.wire.message import Query

if TYPE_CHECKING:
    import maxminddb

CLIENT_SUBNET: Final = 8
_FAMILIES: Final = {1: 4, 2: 16}  # octets of an address (RFC 7871 section 6)
# What a database has, by its name. MaxMind's own and DB-IP's, as in CoreDNS (geoip2-golang).
_CITIES: Final = ("City", "Country", "Enterprise", "Location", "Redacted-US")
_SYSTEMS: Final = ("ASN", "ISP")
MAX_OCTETS: Final = 2**29  # several times the largest databases
# What the package raises for a database that was written half: it does not check what it reads.
_UNREADABLE: Final = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error,
)  # fmt: skip
_log = plugin_logger("geoip")


class Geoip(Passing):
    """Provides labels of a client's place and network."""

    repeats = Repeats.NEVER

    def __init__(self, directive: Directive, block: Block) -> None:
        path = block.path(arguments.one(directive))
        self._reads_subnet = False
        for line in directive.block:
            if line.name != "edns-subnet":
                raise line.unknown("edns-subnet")
            self._reads_subnet = True
        try:
            import maxminddb
        except ImportError as error:
            raise directive.error(
                "needs the package maxminddb: pip install 'clusterdns[geoip]'"
            ) from error
        try:
            # Not mapped: a mapped file that becomes shorter, as with `cp` for a moment, ends every
            # process that looks something up (SIGBUS), and each that replaces it.
            found = read_regular(path, MAX_OCTETS)
            assert found is not None
            file = io.BytesIO(found[1])
            self._reader: maxminddb.Reader = maxminddb.open_database(file, maxminddb.MODE_FD)
        except (*_UNREADABLE, maxminddb.InvalidDatabaseError) as error:
            reason = getattr(error, "strerror", None) or error
            raise directive.error(f"{path}: {reason}") from error
        kind = self._reader.metadata().database_type
        is_enterprise_isp = "Enterprise" in kind  # ISP data of another schema
        self._has_cities = any(word in kind for word in _CITIES)
        self._has_systems = any(word in kind for word in _SYSTEMS) and not is_enterprise_isp
        if not (self._has_cities or self._has_systems):
            raise directive.error(f"{path}: {kind} has neither cities nor autonomous systems")
        self._failed = (*_UNREADABLE, maxminddb.InvalidDatabaseError)

    def relay(self, route: Route) -> bool:
        """Return True: plugins that use labels disable the relay."""
        return True

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return the labels of the client's address."""
        address = self._address(query)
        if address is None:
            return {}
        try:
            found = self._reader.get(address)
        except self._failed as error:
            _log.debug("%s: %s", address, error)
            return {}
        said: dict[str, str] = {}
        record = _Record(found)
        if self._has_cities:
            said |= _place(record)
        if self._has_systems:
            said["asn/number"] = str(record.at("autonomous_system_number") or 0)
            said["asn/org"] = record.text("autonomous_system_organization")
        return {f"geoip/{label}": functools.partial(str, value) for label, value in said.items()}

    def _address(self, query: Query) -> str | None:
        """Return the address that is looked up, None if there is none."""
        edns = query.edns if self._reads_subnet else None
        subnet = dict(message.options(edns.options)).get(CLIENT_SUBNET) if edns else None
        octets = _FAMILIES.get(int.from_bytes(subnet[:2], "big")) if subnet else None
        if subnet and octets:
            return str(ipaddress.ip_address(subnet[4 : 4 + octets].ljust(octets, b"\0")))
        host = query.client[0].partition("%")[0]
        return host or None


class _Record:
    """The record of an address in a database; any part may be missing."""

    def __init__(self, found: object) -> None:
        self._found = found

    def at(self, *path: str) -> Any:  # noqa: ANN401 - of the database's choice
        """Return a value, None if there is none."""
        found = self._found
        for word in path:
            if not isinstance(found, dict):
                return None
            found = found.get(word)
        return found

    def text(self, *path: str) -> str:
        """Return a text, "" if there is none."""
        found = self.at(*path)
        return found if isinstance(found, str) else ""

    def number(self, *path: str) -> str:
        """Return a number as Go prints it, with all its digits and no exponent."""
        found = self.at(*path)
        if not isinstance(found, int | float):
            return ""
        text = format(Decimal(repr(found)), "f")
        return text.removesuffix(".0")


def _place(record: _Record) -> dict[str, str]:
    parts = record.at("subdivisions")
    codes = [_Record(each).text("iso_code") for each in parts] if isinstance(parts, list) else []
    is_in_union = record.at("country", "is_in_european_union") is True
    return {
        "city/name": record.text("city", "names", "en"),
        "country/name": record.text("country", "names", "en"),
        "continent/name": record.text("continent", "names", "en"),
        "country/code": record.text("country", "iso_code"),
        "subdivisions/code": ",".join(codes),
        "country/is_in_european_union": "true" if is_in_union else "false",
        "continent/code": record.text("continent", "code"),
        "latitude": record.number("location", "latitude"),
        "longitude": record.number("location", "longitude"),
        "timezone": record.text("location", "time_zone"),
        "postalcode": record.text("postal", "code"),
    }
