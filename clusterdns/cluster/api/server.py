"""What an API server is to a client: a URL, files that prove who is who, and connections."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import urllib3
from urllib3.connection import HTTPConnection

MAX_CONNECTIONS = 16
# A watch may have nothing to say for minutes, so that its silence proves nothing: the kernel asks
# whether the peer still is there, and gives the connection up 75 s after it was last heard.
_IDLE_S, _PROBE_S, _DEAD_S = 30, 15, 75


class ApiServer(NamedTuple):
    """An API server: its URL, and files: our certificate and key, and who may have signed its."""

    url: str
    certificate: str | None = None
    key: str | None = None
    authority: str | None = None


class Access(NamedTuple):
    """A server's URL, connections to it, and the headers that say who we are.

    ``credentials`` may raise ApiError.
    """

    url: str
    pool: urllib3.PoolManager
    credentials: Callable[[], Mapping[str, str]]


def socket_options() -> list[tuple[int, int, int]]:
    """Return what to set on a connection: dead peers are noticed though nothing is sent."""
    return [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (_DEAD_S - _IDLE_S) // _PROBE_S),
        # Holds for requests that are not acknowledged, too (RFC 5482, tcp(7)).
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_S * 1000),
    ]


def is_here(url: str) -> bool:
    """Tell whether a URL is of this host; Go asks no proxy then, nor do we."""
    return urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
