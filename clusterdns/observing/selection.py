"""Which of the last queries a reader wants: by return code, namespace, time, name and client.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from clusterdns.errors import FormError
from clusterdns.observing.ring import Seen
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

_RCODES = {**rr.RCODES, "BADVERS": 16}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Selection(NamedTuple):
    """The conditions that a query must meet, all of them."""

    rcodes: frozenset[int] = frozenset()  # any, if empty
    namespace: bytes = b""
    slow_s: float = 0.0
    suffix: WireName = name.ROOT
    client: str = ""  # the start of its address
    network: Network | None = None

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Selection:
        """Return the selection that a request names.

        ``rcode`` has mnemonics with commas between, ``namespace`` a name, ``slow`` seconds,
        ``name`` a domain whose names are wanted, ``client`` a network or how an address begins.

        Raises:
            ValueError: a value is none of these.
        """
        client = str(request.get("client", ""))
        words = [word for word in str(request.get("rcode", "")).upper().split(",") if word]
        try:
            suffix = name.fold(name.parse(str(request.get("name", ""))))
        except FormError as error:
            raise ValueError(f"name: {error}") from error
        return cls(
            frozenset(rcode_of(word) for word in words),
            str(request.get("namespace", "")).lower().encode(),
            _seconds(request.get("slow", 0)),
            suffix,
            client,
            ipaddress.ip_network(client, strict=False) if "/" in client else None,
        )

    def matches(self, seen: Seen, namespace_of: Callable[[bytes], bytes]) -> bool:
        """Tell whether a query is selected."""
        return (
            (not self.rcodes or seen.rcode in self.rcodes)
            and seen.seconds >= self.slow_s
            and name.is_within(WireName(seen.qname), self.suffix)
            and self._is_from(seen.host)
            and (not self.namespace or namespace_of(seen.qname) == self.namespace)
        )

    def _is_from(self, host: str) -> bool:
        if self.network is None:
            return host.startswith(self.client)
        return ipaddress.ip_address(host.partition("%")[0]) in self.network


def rcode_of(word: str) -> int:
    """Return the number of a return code. Raises ValueError."""
    found = _RCODES.get(word)
    if found is None:
        raise ValueError(f"unknown rcode {word!r}")
    return found


def _seconds(value: object) -> float:
    seconds = float(str(value))
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"slow: {value!r} is no number of seconds")
    return seconds
