"""The IP addresses of this host's network interfaces, and socket addresses of Linux."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import sys
import termios
from pathlib import Path

_SIOCGIFCONF = 0x8912  # linux/sockios.h
_IFREQ_OCTETS = 40  # struct ifreq on 64-bit Linux: a name of 16 octets, then a sockaddr
_MOST_INTERFACES = 512


def sockaddr(host: str, port: int) -> bytes:
    """Return a socket address in the form of the kernel, 28 octets (netinet/in.h).

    Raises:
        OSError: it is not an address, or its zone is not an interface.
    """
    address, _, scope = host.partition("%")
    if ":" not in host:
        packed = socket.inet_pton(socket.AF_INET, host)
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s20x", port, packed)
    packed = socket.inet_pton(socket.AF_INET6, address)
    number = int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", port, 0, packed)
    return head + struct.pack("=I", number)


def octets_to_send(descriptor: int) -> int:
    """Return the number of octets a TCP peer has not acknowledged (SIOCOUTQ). Raises OSError."""
    room = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(room, sys.byteorder)


def addresses() -> dict[str, list[str]]:
    """Return the addresses of every interface that is up, by its name, IPv4 first."""
    found: dict[str, list[str]] = {}
    for interface, address in [*_ipv4(), *_ipv6()]:
        found.setdefault(interface, []).append(address)
    return found


def non_loopback() -> tuple[str, ...]:
    """Return all addresses but loopback ones, in interface order (CoreDNS: kubernetes/local.go)."""
    return tuple(
        address
        for some in addresses().values()
        for address in some
        if not ipaddress.ip_address(address).is_loopback
    )


def _ipv4() -> list[tuple[str, str]]:
    room = bytearray(_IFREQ_OCTETS * _MOST_INTERFACES)
    view = (len(room), _address_of(room))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iL", *view))
        except OSError:
            return []
    used = struct.unpack("iL", answer)[0]
    found = []
    for i in range(0, used, _IFREQ_OCTETS):
        interface = bytes(room[i : i + 16]).split(b"\0", 1)[0].decode("ascii", "replace")
        found.append((interface.split(":")[0], socket.inet_ntoa(bytes(room[i + 20 : i + 24]))))
    return found


def _address_of(room: bytearray) -> int:
    import ctypes  # the kernel writes the list to a given address

    return ctypes.addressof((ctypes.c_char * len(room)).from_buffer(room))


def _ipv6() -> list[tuple[str, str]]:
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split()
        found.append((fields[5], str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))))
    return found
