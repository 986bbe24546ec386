"""What an API server is to a client: a URL, files that prove who is who, and connections."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import urllib3

MAX_CONNECTIONS = 16


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


def is_here(url: str) -> bool:
    """Tell whether a URL is of this host; Go asks no proxy then, nor do we."""
    return urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
