"""The sockets of a listener: bound once by the supervisor, read by the workers that inherit them.

Each worker has UDP and TCP sockets of its own under ``SO_REUSEPORT``, so the kernel spreads the
clients. A new generation of workers takes over the same sockets from the old one, and answers the
queries that wait in them.

A listener on all addresses has one socket for each family, and none of single addresses. A socket
bound to one address, by another server block or another process, gets all queries sent there: the
kernel prefers the most specific socket, and spreads queries over equally specific ones.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Mapping

from clusterdns.config.compile import ListenAddress
from clusterdns.errors import ClusterDNSError
from clusterdns.host import addresses

BUFFER_OCTETS = 4 * 2**20  # the kernel limits it to net.core.rmem_max
BACKLOG = 1024
_ALL = ("0.0.0.0", "::")


class BindError(ClusterDNSError):
    """A listen address that cannot be bound."""

    def __init__(self, endpoint: ListenAddress, reason: str) -> None:
        where = addresses.host_and_port(endpoint.host, endpoint.port)
        super().__init__(f"listen {where}: {reason}")
        self.at = endpoint


Bound = Mapping[tuple[str, int], list[socket.socket]]  # sockets by host and port


def bind(
    endpoint: ListenAddress, taken: Collection[str] = (), old: Bound | None = None
) -> list[socket.socket]:
    """Return the sockets of one worker for a listener, reused from ``old`` if they are there.

    ``taken`` are the hosts of all listeners on the same port: a listener on all addresses leaves
    out a family whose wildcard address another one names.

    Raises:
        BindError: an address is taken, missing, or not allowed.
    """
    hosts = [endpoint.host] if endpoint.host else [host for host in _ALL if host not in taken]
    found, made = list[socket.socket](), list[socket.socket]()
    try:
        for host in hosts:
            some = (old or {}).get((host, endpoint.port))
            if some is not None and endpoint.scheme != "dns":
                some = [sock for sock in some if sock.type == socket.SOCK_STREAM]
            if some is None or (endpoint.scheme == "dns" and len(some) < 2):
                try:
                    some = _sockets(host, endpoint)
                except OSError as error:
                    is_missing = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                    if endpoint.host or host != "::" or not is_missing:
                        raise
                    continue  # a host without IPv6
                made += some
            found += some
    except OSError as error:
        for sock in made:
            sock.close()
        raise BindError(endpoint, error.strerror or str(error)) from error
    return found


def is_free(endpoint: ListenAddress) -> bool:
    """Tell whether an address that could not be bound can be had by now."""
    try:
        found = bind(endpoint)
    except BindError:
        return False
    for sock in found:
        sock.close()
    return True


def by_address(sockets: Iterable[socket.socket]) -> Bound:
    """Return sockets by the host and port they are bound to."""
    found: dict[tuple[str, int], list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault(sock.getsockname()[:2], []).append(sock)
    return found


def _sockets(host: str, endpoint: ListenAddress) -> list[socket.socket]:
    if endpoint.scheme != "dns":
        return [_bound(host, endpoint.port, socket.SOCK_STREAM)]
    udp = _bound(host, endpoint.port, socket.SOCK_DGRAM)
    try:
        return [udp, _bound(host, endpoint.port, socket.SOCK_STREAM)]
    except OSError:
        udp.close()
        raise


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bound(host: str, port: int, socket_type: socket.SocketKind) -> socket.socket:
    sock = socket.socket(_family(host), socket_type)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if socket_type == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_OCTETS)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        if socket_type == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
