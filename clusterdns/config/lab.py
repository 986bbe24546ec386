"""The lab: a cluster of manifests, shipped with clusterdns, that can be served anywhere."""

from __future__ import annotations

import socket
import sysconfig
from pathlib import Path

PORT = 1053  # the first port tried
QUESTIONS = (
    "web.uit.svc.cluster.local A",
    "_http._tcp.web.uit.svc.cluster.local SRV",
    "www.example.com A",
)


def directory() -> Path:
    """Return the directory zones/: in a checkout, else where it was installed.

    Raises:
        OSError: neither exists.
    """
    checkout = Path(__file__).resolve().parents[2] / "zones"
    installed = Path(sysconfig.get_path("data")) / "share" / "clusterdns" / "zones"
    for found in (checkout, installed):
        if (found / "Corefile").is_file():
            return found
    raise OSError(f"no lab found in {checkout} or {installed}")


def free_port(first: int = PORT) -> int:
    """Return the first port from ``first`` on that is free for UDP and TCP. Raises OSError."""
    for port in range(first, 65536):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")
