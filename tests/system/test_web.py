"""The HTTP endpoints under attack: who asks is answered, whatever else is open."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request

import peers

IDLE = 300
PROBES = 20


def probed(port: int) -> float:
    """Return the seconds in which the liveness probe is answered."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
        assert b"OK" == response.read()
    return time.monotonic() - began


def idle(held: contextlib.ExitStack, port: int, host: str, *, sends: bytes = b"") -> socket.socket:
    sock = held.enter_context(socket.socket())
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", port))
    sock.sendall(sends)
    return sock


def test_liveness_is_answered_beside_idle_connections(tmp_path):
    web = peers.free_port()
    corefile = f". {{\n health 127.0.0.1:{web}\n whoami\n}}\n"
    with peers.clusterdns(corefile, tmp_path), contextlib.ExitStack() as held:
        for i in range(IDLE):
            # Of one address, the probe's own among others, and of many.
            idle(held, web, ("127.0.0.1", "127.0.0.2", f"127.0.1.{i % 250 + 1}")[i % 3])
            if i % (IDLE // PROBES) == 0:
                probed(web)
        assert max(probed(web) for _ in range(PROBES)) < 2


def test_a_head_that_does_not_end_is_not_waited_for(tmp_path):
    web = peers.free_port()
    corefile = f". {{\n health 127.0.0.1:{web}\n whoami\n}}\n"
    with peers.clusterdns(corefile, tmp_path), contextlib.ExitStack() as held:
        began = time.monotonic()
        sock = idle(held, web, "127.0.0.1", sends=b"GET /health HTTP/1.1\r\nX: ")
        sock.settimeout(10)
        assert b"" == sock.recv(512)
        assert time.monotonic() - began < 4
