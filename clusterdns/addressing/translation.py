"""Shared by `dns64` and `siit`: IPv6 prefixes with IPv4 addresses, and synthesized records.

Sources: RFC 6052 section 2.2 (addresses), RFC 6147 section 5.1.7 (TTLs).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from clusterdns.chain.plugin import DROP
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.wire import rr
from clusterdns.wire.message import Question
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

LENGTHS = (32, 40, 48, 56, 64, 96)  # RFC 6052 section 2.2
_RESERVED = 8  # index of the octet that must be zero
_DEFAULT_TTL_S = 600  # of a denial without SOA


class Prefix(NamedTuple):
    """An IPv6 network that IPv4 addresses are embedded in."""

    network: ipaddress.IPv6Network

    @property
    def _places(self) -> list[int]:
        """The indexes of the four octets of an IPv4 address."""
        first = self.network.prefixlen // 8
        return [i for i in range(first, 16) if i != _RESERVED or first > _RESERVED][:4]

    @property
    def has_reserved_octet(self) -> bool:
        """Whether the prefix sets the octet that must be zero."""
        return self.network.network_address.packed[_RESERVED] != 0

    def embed(self, ipv4: bytes) -> bytes:
        """Return the IPv6 address that embeds an IPv4 address."""
        octets = bytearray(self.network.network_address.packed)
        for place, octet in zip(self._places, ipv4, strict=True):
            octets[place] = octet
        return bytes(octets)

    def extract(self, ipv6: bytes) -> bytes | None:
        """Return the IPv4 address in an IPv6 address, None if there is none."""
        if ipaddress.IPv6Address(ipv6) not in self.network or ipv6[_RESERVED]:
            return None
        return bytes(ipv6[place] for place in self._places)


WELL_KNOWN = Prefix(ipaddress.IPv6Network("64:ff9b::/96"))


def prefix(text: str, line: Directive) -> Prefix:
    """Return the prefix of a word.

    Raises:
        ConfigError: it is not an IPv6 network, or of a length not in ``LENGTHS``.
    """
    network = arguments.network(text, line)
    if not isinstance(network, ipaddress.IPv6Network) or "/" not in text:
        raise line.error(f"{text!r} is no IPv6 prefix")
    if network.prefixlen not in LENGTHS:
        raise line.error(
            f"invalid prefix length {str(network)!r}: wants one of {', '.join(map(str, LENGTHS))}"
        )
    return Prefix(network)


def asking(question: Question, qtype: int) -> Question:
    """Return the question for another type; the name is folded, as in CoreDNS."""
    return question._replace(qname=question.folded, qtype=qtype, qclass=rr.CLASS_IN, depth=0)


def has(response: Response, rtype: int) -> bool:
    """Tell whether a record of this type is in the answer section."""
    return any(record.rtype == rtype for record in response.answer)


def most_ttl(response: Response) -> int:
    """Return the largest TTL of a synthesized record: the TTL of the denial's SOA."""
    ttls = [record.ttl for record in response.authority if record.rtype == rr.SOA]
    return ttls[-1] if ttls else _DEFAULT_TTL_S


def in_place_of(
    denial: Response, found: Response, flags: int, answer: tuple[RR, ...] | None = None
) -> Response:
    """Return ``found`` as the response to the question that ``denial`` answered."""
    return Response(
        found.rcode,
        flags,
        found.answer if answer is None else answer,
        found.authority,
        found.additional,
        edns=found.edns,
        lifetime_s=min(denial.lifetime_s, 0 if found.bare else found.lifetime_s),
        facts=tuple(dict.fromkeys((*denial.facts, *found.facts))),
        counters=(*denial.counters, *found.counters),
    )


def is_message(response: Response) -> bool:
    """Tell whether the next plugin has written a message."""
    return response is not DROP and not response.bare
