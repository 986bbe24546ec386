"""A real etcd, with one member, on loopback ports of its own; and what it holds."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peers
import pytest

INSTALL_ETCD = "apt-get install etcd-server"


class EtcdServer:
    """A running etcd; ``post`` speaks to its JSON gateway."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        self.token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, said: Mapping[str, Any]) -> Any:
        headers = {"Authorization": self.token} if self.token else {}
        request = urllib.request.Request(self.url + path, json.dumps(said).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    def put(self, key: str, value: bytes | Mapping[str, Any], lease: int = 0) -> None:
        octets = value if isinstance(value, bytes) else json.dumps(value).encode()
        said = {"key": _base64(key.encode()), "value": _base64(octets), "lease": lease}
        self.post("/v3/kv/put", said)

    def lease(self, seconds: int) -> int:
        return int(self.post("/v3/lease/grant", {"TTL": seconds})["ID"])


@contextlib.contextmanager
def running(directory: Path, *flags: str, port: int | None = None) -> Iterator[EtcdServer]:
    """Run etcd with its data in a directory, or skip the test if there is none."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip(f"needs etcd: {INSTALL_ETCD}")
    port, peer = port or peers.free_port(), peers.free_port()
    scheme = "https" if "--cert-file" in flags else "http"
    here, there = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    log_file = directory / "etcd.log"
    log_file.touch()
    before = log_file.stat().st_size
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [program, "--data-dir", str(directory / "etcd"), "--listen-client-urls", here,
             "--advertise-client-urls", here, "--listen-peer-urls", there,
             "--initial-advertise-peer-urls", there, "--initial-cluster", f"default={there}",
             *flags],
            stdout=log, stderr=log,
        )  # fmt: skip
    server = EtcdServer(port, process)
    try:
        deadline = time.monotonic() + 20
        while b"ready to serve client requests" not in log_file.read_bytes()[before:]:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
