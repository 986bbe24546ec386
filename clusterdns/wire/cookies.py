"""DNS cookies of a server (RFC 7873, RFC 9018).

A client with a cookie of ours has received a reply at its address before, so the address is not
forged. A server cookie is version, time, and the SipHash of the client's cookie, these, and the
client's address, so servers that share a secret accept each other's cookies and keep no state.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from clusterdns.wire import message
from clusterdns.wire.message import Edns
from clusterdns.wire.siphash import siphash

COOKIE = 10
CLIENT_OCTETS = 8
SERVER_OCTETS = 16
_LENGTHS = (CLIENT_OCTETS, *range(16, 41))  # of the option (RFC 7873 section 4)
_VERSION = bytes((1, 0, 0, 0))  # and reserved octets
_OLD_S, _AHEAD_S = 3600, 300  # the times that are accepted (RFC 9018 section 4.3)
_HALF = 1 << 31

NONE, CLIENT_ONLY = "none", "client_only"
INVALID, VALID, MALFORMED = "invalid", "valid", "malformed"


class HasHost(Protocol):
    """A set of addresses."""

    def __contains__(self, host: object, /) -> bool:
        """Tell whether the address, as text, is in the set."""


class Cookies:
    """The cookies of a listener.

    ``secrets`` returns the secrets in force, of 16 octets, the one for new cookies first; ``clock``
    returns seconds since 1970. With ``is_required``, a client that sends a cookie of its own gets
    no answer over UDP before it has one of ours; clients in ``over_tcp`` that send none get TC.
    """

    def __init__(
        self,
        secrets: Callable[[], Sequence[bytes]],
        clock: Callable[[], float],
        *,
        is_required: bool = False,
        over_tcp: HasHost | None = None,
    ) -> None:
        self._secrets = secrets
        self._clock = clock
        self.is_required = is_required
        self.over_tcp = over_tcp
        self.hash: Callable[[bytes, bytes], bytes] = siphash  # or that in C
        self.counts: Counter[str] = Counter()  # queries by what they sent

    @property
    def sees_all(self) -> bool:
        """Whether it has to see all queries over UDP, also those without cookies."""
        return self.over_tcp is not None

    def judge(self, edns: Edns | None, host: str) -> tuple[str, bytes]:
        """Return what a query sends, and the option for the OPT of the reply, if any."""
        data = _cookie_in(edns)
        if data is None:
            return NONE, b""
        if len(data) not in _LENGTHS:
            said, option = MALFORMED, b""
        else:
            client, server = data[:CLIENT_OCTETS], data[CLIENT_OCTETS:]
            said = CLIENT_ONLY
            if server:
                said = VALID if self._is_valid(client, server, host) else INVALID
            option = message.write_option(COOKIE, client + self._make(client, host))
        self.counts[said] += 1
        return said, option

    def _make(self, client: bytes, host: str) -> bytes:
        stamp = struct.pack("!I", int(self._clock()) & 0xFFFFFFFF)
        return self._server_cookie(self._secrets()[0], client, _VERSION + stamp, host)

    def _is_valid(self, client: bytes, server: bytes, host: str) -> bool:
        if len(server) != SERVER_OCTETS or server[0] != _VERSION[0]:
            return False
        (stamp,) = struct.unpack("!I", server[4:8])
        age = (int(self._clock()) - stamp + _HALF) % (2 * _HALF) - _HALF  # RFC 1982
        if not -_AHEAD_S <= age <= _OLD_S:
            return False
        return any(
            server == self._server_cookie(secret, client, server[:8], host)
            for secret in self._secrets()
        )

    def _server_cookie(self, secret: bytes, client: bytes, head: bytes, host: str) -> bytes:
        """Return a server cookie that begins with version and time (RFC 9018 section 4)."""
        address = ipaddress.ip_address(host.partition("%")[0]).packed
        return head + self.hash(secret, client + head + address)


def _cookie_in(edns: Edns | None) -> bytes | None:
    """Return the first COOKIE option; others are ignored (RFC 7873 section 5.2)."""
    if edns is None or not edns.options:
        return None
    return next((data for code, data in message.options(edns.options) if code == COOKIE), None)
