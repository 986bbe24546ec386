"""The running server, asked over its local socket (processes/inquiry.py).

``choose`` finds the one that is meant: the only one that this user may ask, or the one that was
named. Nothing is guessed where there are several.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from clusterdns.errors import ClusterDNSError
from clusterdns.host import localsocket

TIMEOUT_S = 20.0
ABOUT_S = 2.0  # for a server that is only asked who it is
MOST_LISTED = 16  # servers that are asked who they are
MAX_REPLY_OCTETS = 16 * 2**20


class NoServerError(ClusterDNSError):
    """There is no running server that can be asked, or it does not answer."""


class _OtherUserError(NoServerError):
    pass


class Server(NamedTuple):
    """A running server; ``about`` is what it says of itself (processes/explanation.py)."""

    pid: int
    about: dict[str, Any]

    @property
    def text(self) -> str:
        """Return what a person tells it from others by."""
        files = " ".join(map(str, self.about.get("files", ())))
        listeners = " ".join(map(str, self.about.get("listeners", ())))
        where = self.about.get("directory", "")
        return " ".join(filter(None, (files, where and f"in {where},", listeners)))


def choose(pid: int | None = None) -> Server:
    """Return the server with an ID, or the only one that this user may ask.

    Raises:
        NoServerError: there is none, or there are several.
    """
    there = localsocket.servers()
    if pid is not None and pid not in there:
        listed = "".join(f"\n  {each.pid:<8}{each.text}" for each in _known(there)[0])
        hint = f"; there are:{listed}" if listed else ""
        raise NoServerError(f"process {pid} is no clusterdns that can be asked from here{hint}")
    found, refused = _known(there if pid is None else [pid])
    if len(found) == 1:
        return found[0]
    if found:
        listed = "".join(f"\n  --pid {each.pid:<8}{each.text}" for each in found)
        raise NoServerError(f"several servers run here; choose one by --pid:{listed}")
    if refused:
        pids = ", ".join(map(str, refused))
        raise NoServerError(f"only servers of other users run here: process {pids}; ask as root")
    raise NoServerError("no clusterdns runs here; name a Corefile by --corefile")


def ask(word: str, request: dict[str, Any], pid: int | None = None) -> dict[str, Any]:
    """Return the reply of a running server, see ``choose``.

    Raises:
        NoServerError: it cannot be asked.
        ClusterDNSError: it refuses the request.
    """
    pid = choose().pid if pid is None else pid
    try:
        return _ask(pid, word, request, TIMEOUT_S)
    except ConnectionRefusedError as error:
        reason = f"process {pid} is no clusterdns that can be asked from here"
        raise NoServerError(reason) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise NoServerError(f"process {pid} does not answer: {reason}") from error


def _known(pids: Iterable[int]) -> tuple[list[Server], list[int]]:
    """Return the servers that may be asked, and the IDs of those that refuse."""
    found, refused = list[Server](), list[int]()
    for pid in list(pids)[:MOST_LISTED]:
        try:
            found.append(Server(pid, _ask(pid, "about", {}, ABOUT_S)))
        except _OtherUserError:
            refused.append(pid)
        except ConnectionRefusedError:
            pass  # it has ended
        except (OSError, ClusterDNSError):
            found.append(Server(pid, {}))  # it is busy, or of another version
    return found, refused


def _ask(pid: int, word: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return a reply. Raises OSError, ClusterDNSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(localsocket.address(pid))
        if not localsocket.may_be_asked(localsocket.peer_uid(sock)):
            raise _OtherUserError(f"process {pid} is of another user")
        try:
            sock.sendall(json.dumps({"ask": word, **request}).encode() + b"\n")
            octets = _all(sock)
        except (BrokenPipeError, ConnectionResetError):
            octets = b""
    if not octets:
        raise _OtherUserError(f"process {pid} refuses: it is of another user, or busy")
    try:
        reply = json.loads(octets)
    except ValueError as error:
        raise NoServerError(f"process {pid} sends what is no reply") from error
    if "error" in reply:
        raise ClusterDNSError(str(reply["error"]))
    found: dict[str, Any] = reply
    return found


def _all(sock: socket.socket) -> bytes:
    octets = bytearray()
    while chunk := sock.recv(65536):
        octets += chunk
        if len(octets) > MAX_REPLY_OCTETS:
            raise OSError("its reply is too long")
    return bytes(octets)
