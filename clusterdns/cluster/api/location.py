"""Where an API server is, and which proxy leads to it: by the environment, as Go reads it.

``HTTPS_PROXY`` or ``HTTP_PROXY`` by the scheme of the URL, in lower case first; never
``ALL_PROXY``. Hosts of ``NO_PROXY`` and this host are asked directly. (golang.org/x/net:
http/httpproxy)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import contextlib
import ipaddress
import urllib.parse
from collections.abc import Mapping

from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError
from clusterdns.host.addresses import host_and_port

_PORTS = {"http": 80, "https": 443}
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def url_of(source: Source, environ: Mapping[str, str]) -> str:
    """Return the URL of an endpoint, or of the API server of the cluster we run in.

    Raises:
        ApiError: the environment does not say where that is.
    """
    if source.endpoint:
        return source.endpoint
    host, port = (environ.get(f"KUBERNETES_SERVICE_{word}") for word in ("HOST", "PORT"))
    if not host or not port:
        raise ApiError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined")
    return f"https://{host_and_port(host, port)}"


def parse_server(text: str, scheme: str, name: str) -> tuple[str, str]:
    """Return the URL of an API server, and the user:password that stood in it.

    ``scheme`` is the one of a text that gives none (client-go: DefaultServerURL); ``name`` is what
    it was called.

    Raises:
        ApiError: it is no URL of one. The URL is not told: it may hold a password.
    """
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"{scheme}://{text}")
        is_good = parts.scheme in _PORTS and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ApiError(f"{name} is no URL of an API server")
    user, _, host = parts.netloc.rpartition("@")  # the URL is logged and saved, a password not
    return parts._replace(netloc=host).geturl().rstrip("/"), urllib.parse.unquote(user)


def proxy_of(url: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the proxy that a URL is asked by, "" for none.

    Raises:
        ApiError: it is one that cannot be used.
    """
    parts = urllib.parse.urlsplit(url)
    name = f"{parts.scheme}_proxy"
    text = environ.get(name) or environ.get(name.upper()) or ""
    if not text:
        return ""
    if parts.scheme == "http" and environ.get("REQUEST_METHOD"):
        return ""  # a CGI program: the client would name the proxy (golang.org/s/cgihttpproxy)
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    port = parts.port or _PORTS.get(parts.scheme, 0)
    if _is_direct((parts.hostname or "").lower(), port, no_proxy):
        return ""
    return parse_proxy(text if _is_whole(text) else f"http://{text}", name.upper())


def parse_proxy(text: str, name: str) -> str:
    """Return the URL of a proxy; ``name`` is what it was called.

    Raises:
        ApiError: it is none, or not of HTTP. The URL is not told: it may hold a password.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ApiError(f"{name} is no URL of a proxy")
    if parts.scheme not in _PORTS:
        raise ApiError(f"{name}: proxies of {parts.scheme}:// are not supported")
    return text


def _is_whole(text: str) -> bool:
    """Tell whether a proxy is a URL; a host and port alone are one of http."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(text)
        return bool(parts.scheme and parts.netloc)
    return False


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Tell whether a host is asked without a proxy."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in (text.strip().lower() for text in no_proxy.split(",")):
        if entry == "*" or (entry and _matches(entry, host, port, address)):
            return True
    return False


def _matches(entry: str, host: str, port: int, address: Ip | None) -> bool:
    """Tell whether an entry of ``NO_PROXY`` is for a host; names match no address."""
    if "/" in entry:
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(entry, strict=False)
            return address is not None and address in network
    name, of_port = _split(entry)
    if of_port not in ("", str(port)):
        return False
    wanted = _address(name)
    if wanted is not None or address is not None:
        return wanted == address
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name)
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split(entry: str) -> tuple[str, str]:
    """Return the host and port of ``HOST``, ``HOST:PORT``, ``[IPv6]:PORT`` or ``IPv6``."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = entry.rpartition(":")
    return (host, port) if host and ":" not in host else (entry.removesuffix(":"), "")


def _address(text: str) -> Ip | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
