"""The sockets of a listener: bound once by the supervisor, read by the workers that inherit them.

Each worker has UDP and TCP sockets of its own under ``SO_REUSEPORT``, so the kernel spreads the
clients. A new generation of workers takes over the very sockets of the old one: what waits in them
is answered by whoever reads it.

A listener on all addresses gets, beside the wildcard, a UDP socket for every address of the host,
see engine.py.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

from clusterdns.config.compile import Endpoint
from clusterdns.errors import ClusterDNSError
from clusterdns.host import interfaces

BUFFER_OCTETS = 4 * 2**20  # the kernel gives what net.core.rmem_max allows
BACKLOG = 1024
MAX_OWN_ADDRESSES = 16


class BindError(ClusterDNSError):
    """A listen address that cannot be had."""


def bind(endpoint: Endpoint) -> list[socket.socket]:
    """Return the sockets one worker reads for a listener.

    Raises:
        BindError: an address is taken, missing, or not allowed.
    """
    found: list[socket.socket] = []
    try:
        if endpoint.host:
            found += _pair(endpoint.host, endpoint)
        else:
            found += _pair("0.0.0.0", endpoint)
            try:
                found += _pair("::", endpoint)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
            for address in _own_addresses(found):
                with contextlib.suppress(OSError):  # the wildcard sees to it
                    found.append(_bound(address, endpoint.port, socket.SOCK_DGRAM))
    except OSError as error:
        for sock in found:
            sock.close()
        where = interfaces.host_and_port(*endpoint)
        raise BindError(f"listen {where}: {error.strerror or error}") from error
    return found


def _own_addresses(found: list[socket.socket]) -> list[str]:
    """Return the host's addresses of the families that are listened on, link-local ones left out.

    Those have no meaning without an interface.
    """
    families = {sock.family for sock in found}
    addresses = [address for some in interfaces.addresses().values() for address in some]
    return [
        address
        for address in dict.fromkeys(addresses)
        if _family(address) in families and not ipaddress.ip_address(address).is_link_local
    ][:MAX_OWN_ADDRESSES]


def _pair(host: str, endpoint: Endpoint) -> list[socket.socket]:
    udp = _bound(host, endpoint.port, socket.SOCK_DGRAM)
    try:
        return [udp, _bound(host, endpoint.port, socket.SOCK_STREAM)]
    except OSError:
        udp.close()
        raise


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(_family(host), kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_OCTETS)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
