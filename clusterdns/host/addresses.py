"""Parsing and printing of ``host:port``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

MAX_PORT = 65535


def host_and_port(host: str, port: int | str) -> str:
    """Return ``host:port``, an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> tuple[str, str | None]:
    """Return the host of ``host[:port]`` and the text of its port, None if there is no colon.

    An IPv6 address with a port is in brackets; without a port it may be. The parts are not checked.

    Raises:
        ValueError: the text behind the bracket is not a port.
    """
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError(f"{text!r} has no valid port")
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def read_port(text: str, *, least: int = 1) -> int:
    """Return a port that is written in decimal. Raises ValueError."""
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:6]) <= MAX_PORT:
        raise ValueError(f"{text!r} is no valid port")
    return int(text)
