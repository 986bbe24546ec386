"""Abstract Unix sockets, on which a running server is asked by commands of its own user.

The address names the process, so that several servers do not meet, and no file is left behind; a
read-only root file system does not matter. It is visible in one network namespace, as in a Pod.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path

_SOCKETS = Path("/proc/net/unix")
_NAME = re.compile(r" @clusterdns/([0-9]+)$", re.MULTILINE)


def address(pid: int) -> str:
    """Return the address of the server whose first process has an ID."""
    return f"\0clusterdns/{pid}"


def servers() -> list[int]:
    """Return the process IDs of the servers that can be asked here. Raises OSError."""
    return sorted({int(found) for found in _NAME.findall(_SOCKETS.read_text("utf-8", "replace"))})


def peer_uid(sock: socket.socket) -> int:
    """Return the user ID of the process at the other end. Raises OSError."""
    octets = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid: int = struct.unpack("iII", octets)[1]
    return uid


def may_ask(uid: int) -> bool:
    """Tell whether a server answers a command of a user: its own, or root."""
    return uid in (os.getuid(), 0)


def may_be_asked(uid: int) -> bool:
    """Tell whether a command believes a server of a user: its own, or root; root asks everyone."""
    return uid in (os.getuid(), 0) or not os.getuid()
