"""Datagrams that the kernel has dropped at a UDP socket, since its buffer was full."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_TABLES = {socket.AF_INET: Path("/proc/net/udp"), socket.AF_INET6: Path("/proc/net/udp6")}
_INODE, _DROPS = 9, 12  # columns (Linux: Documentation/networking/proc_net_tcp.rst, net/ipv4/udp.c)


def udp_drops(sock: socket.socket) -> int:
    """Return how many datagrams were dropped at a socket so far; 0 if that is not known."""
    try:
        inode = str(os.fstat(sock.fileno()).st_ino)
        lines = _TABLES[sock.family].read_text("ascii").splitlines()[1:]
    except (OSError, KeyError, ValueError):
        return 0
    for line in lines:
        words = line.split()
        if len(words) > _DROPS and words[_INODE] == inode and words[_DROPS].isdigit():
            return int(words[_DROPS])
    return 0
