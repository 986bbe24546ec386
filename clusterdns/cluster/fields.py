"""Readers of the fields of manifests.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Any

from clusterdns.errors import ClusterDNSError


class ObjectError(ClusterDNSError):
    """A manifest with a field of a wrong type; it is skipped and counted."""


def text(value: object) -> str:
    """Return a text, "" for None. Raises TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def texts(values: object) -> tuple[str, ...]:
    """Return a list of texts. Raises TypeError."""
    return tuple(text(value) for value in items(values))


def items(values: object) -> list[Any]:
    """Return a list, [] for None. Raises TypeError."""
    if values is None:
        return []
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.40} is no list")
    return values
