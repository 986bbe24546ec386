"""Sets of networks, and whether an address is in one.

A lookup takes one step for each prefix length in the set, however many networks it has.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress

from clusterdns.wire import rr

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks:
    """A set of IPv4 and IPv6 networks."""

    def __init__(self) -> None:
        # By length of an address in octets, by number of bits behind the prefix: prefixes.
        self._prefixes: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}

    def add(self, network: Network) -> None:
        """Add a network to the set."""
        behind = network.max_prefixlen - network.prefixlen
        by_length = self._prefixes[network.max_prefixlen // 8]
        by_length.setdefault(behind, set()).add(int(network.network_address) >> behind)

    def __contains__(self, address: object) -> bool:
        """Tell whether the text of an IP address, with or without a zone, is in a network."""
        found = rr.address_rdata(str(address).partition("%")[0])
        if found is None:
            return False
        octets = found[1]
        number = int.from_bytes(octets, "big")
        return any(number >> bits in some for bits, some in self._prefixes[len(octets)].items())
