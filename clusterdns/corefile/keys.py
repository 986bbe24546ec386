"""Zones in a Corefile: keys of server blocks, CIDR text, zone arguments.

``parse_key`` reads ``[scheme://]zone[:port]``; a zone in CIDR notation becomes the reverse zones
that cover it. CoreDNS: core/dnsserver/register.go, plugin/normalize.go, plugin/pkg/cidr.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from clusterdns.errors import FormError
from clusterdns.wire import name

# The port of a key without one (CoreDNS: plugin/pkg/transport); "dns" has the default port.
SCHEME_PORTS = {"tls": 853, "quic": 853, "grpc": 443, "https": 443, "https3": 443}
SCHEMES = ("dns", *SCHEME_PORTS)
MAX_ZONE_CHARACTERS = 255
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # Go's strconv.Atoi; longer ones are not ports
_CIDR = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
# CoreDNS: core/dnsserver/onstartup.go; RFC 1035 section 2.3.1.
_PREFERRED = re.compile(r"(?:[a-z](?:[a-z0-9-]*[a-z0-9])?\.)+")


class Key(NamedTuple):
    """One key of a server block: a zone, scheme and port. ``text`` is as written."""

    scheme: str
    zone: str
    port: int | None
    text: str

    def served(self, default_port: int, host: str = "") -> str:
        """Return the name of this key in CoreDNS's messages."""
        port = self.effective_port(default_port)
        return f"{self.scheme}://{self.zone}:{port}" + (f" on {host}" if host else "")

    def effective_port(self, default_port: int) -> int:
        """Return the port to listen on."""
        if self.port is not None:
            return self.port
        return SCHEME_PORTS.get(self.scheme, default_port)


def parse_key(text: str) -> list[Key]:
    """Return the keys of ``text``: one, or the reverse zones of a CIDR text.

    Raises:
        ValueError: it is not a key, with the reason.
    """
    scheme, rest = "dns", text
    for word in (*SCHEMES, "unix"):
        if text.startswith(f"{word}://"):
            scheme, rest = word, text[len(word) + 3 :]
    if scheme == "unix":
        raise ValueError("a server block cannot listen on a unix socket")
    zone, port = _split_port(rest)
    if not zone:
        raise ValueError('the zone is missing; the root zone is "."')
    if len(zone.removesuffix(".").encode("utf-8", "replace")) >= MAX_ZONE_CHARACTERS:
        raise ValueError(f"the zone is longer than {MAX_ZONE_CHARACTERS} characters")
    absolute = _absolute(zone)
    return [Key(scheme, found, port, text) for found in _reverse_zones(zone) or [absolute]]


def _split_port(text: str) -> tuple[str, int | None]:
    """Return the zone and the port, which is a number behind the last colon."""
    zone, colon, digits = text.rpartition(":")
    if not colon:
        return text, None
    if not digits:
        raise ValueError("a port is missing behind the last colon")
    if not _INTEGER.fullmatch(digits):
        return text, None
    port = int(digits)
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not within 0 to 65535")
    return zone, port


def _absolute(zone: str) -> str:
    """Return ``zone`` in lower case with its last dot."""
    try:
        return name.text(name.fold(name.parse(zone)))
    except (FormError, UnicodeError) as error:
        raise ValueError("is no domain name") from error


def _reverse_zones(text: str) -> list[str]:
    """Return the reverse zones of CIDR text, the empty list for any other text.

    A prefix that ends within an octet (IPv4) or nibble (IPv6) stands for all zones it covers.
    """
    if not _CIDR.fullmatch(text):
        return []
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return []  # `10.0.0.0/33` is a domain name like any other
    if text[0] == ":" or (text[0] == "0" and ":" in text):
        raise ValueError(f"invalid CIDR {text}")
    step = 8 if network.version == 4 else 4
    prefix = -(-network.prefixlen // step) * step
    unnamed = (network.max_prefixlen - prefix) // step  # labels of host digits
    # Of an address: reverse_pointer of a network is not the name of its zone.
    return [
        subnet.network_address.reverse_pointer.split(".", unnamed)[unnamed] + "."
        for subnet in network.subnets(new_prefix=prefix)
    ]


def is_preferred(zone: str) -> bool:
    """Tell whether a zone is the root, a reverse zone or of the preferred name syntax."""
    if zone == "." or zone.endswith((".in-addr.arpa.", ".ip6.arpa.")):
        return True
    return _PREFERRED.fullmatch(zone) is not None
