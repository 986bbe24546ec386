"""The running server, asked over its local socket (processes/inquiry.py)."""

from __future__ import annotations

import json
import socket
from typing import Any

from clusterdns.errors import ClusterDNSError
from clusterdns.host import localsocket

TIMEOUT_S = 20.0
MAX_REPLY_OCTETS = 16 * 2**20


class NoServerError(ClusterDNSError):
    """There is no running server that can be asked, or it does not answer."""


def ask(word: str, request: dict[str, Any], pid: int | None = None) -> dict[str, Any]:
    """Return the reply of a running server; ``pid`` is its first process, if there are several.

    Raises:
        NoServerError: none can be asked.
        ClusterDNSError: it refuses the request.
    """
    path = localsocket.address(_chosen(pid))
    line = json.dumps({"ask": word, **request}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
            if not localsocket.is_trusted(localsocket.peer_uid(sock)):
                raise NoServerError("the server is of another user")
            sock.sendall(line)
            octets = _all(sock)
        reply = json.loads(octets)
    except (OSError, ValueError) as error:
        raise NoServerError(f"the running server does not answer: {error}") from error
    if "error" in reply:
        raise ClusterDNSError(str(reply["error"]))
    found: dict[str, Any] = reply
    return found


def _chosen(pid: int | None) -> int:
    found = localsocket.servers()
    if pid is not None:
        if pid not in found:
            raise NoServerError(f"process {pid} is no clusterdns that can be asked from here")
        return pid
    if not found:
        raise NoServerError("no clusterdns runs here; name a Corefile by --corefile")
    if len(found) > 1:
        pids = ", ".join(map(str, found))
        raise NoServerError(f"several servers run here; choose one by --pid: {pids}")
    return found[0]


def _all(sock: socket.socket) -> bytes:
    octets = bytearray()
    while chunk := sock.recv(65536):
        octets += chunk
        if len(octets) > MAX_REPLY_OCTETS:
            raise ValueError("its reply is too long")
    return bytes(octets)
