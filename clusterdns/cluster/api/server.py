"""An API server as a client sees it: its URL, connections, and our credentials."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

import urllib3
from urllib3.connection import HTTPConnection

from clusterdns.cluster.api.identity import Identity

MAX_CONNECTIONS = 16
# A watch may be silent for minutes, so silence proves nothing: the kernel probes the peer and ends
# the connection 75 s after it last heard from it.
_IDLE_S, _PROBE_S, _DEAD_S = 30, 15, 75


class Access(NamedTuple):
    """A server's URL, connections to it, and the headers that authenticate us.

    ``credentials`` may raise ApiError. ``has_changed`` tells that all this has to be found again: a
    file was written anew, or a login has expired.
    """

    url: str
    pool: urllib3.PoolManager
    credentials: Callable[[], Mapping[str, str]]
    identity: Identity
    has_changed: Callable[[], bool]


def socket_options() -> list[tuple[int, int, int]]:
    """Return socket options with which the kernel ends connections to dead peers."""
    return [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (_DEAD_S - _IDLE_S) // _PROBE_S),
        # Also for requests that are not acknowledged (RFC 5482, tcp(7)).
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_S * 1000),
    ]
