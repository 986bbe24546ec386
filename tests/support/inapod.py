"""A Pod's point of view: the C library's own resolver, in a network where the only server is ours.

``look_up`` runs this file with network and mounts of its own (``unshare``, which takes root): there
clusterdns has port 53 and ``/etc/resolv.conf`` is a Pod's, and each host is looked up as any program
does, by ``getaddrinfo``. A machine that does not let us skips the test.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import peers
import pytest
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

RESOLV_CONF = Path("/etc/resolv.conf")
OPTIONS = "options ndots:5\n"


class Lookup(NamedTuple):
    """What one `getaddrinfo` brought: sorted addresses; packets to us, and to the upstream server."""

    addresses: list[str]
    asked: float
    upstream: int


def look_up(
    directives: str,
    manifests: list[dict[str, Any]],
    outside: list[Scripted],
    search: list[str],
    hosts: list[str],
) -> dict[str, Lookup]:
    """Return what a Pod with this search path finds for each host, one after the other."""
    probe = "command -v ip mount && unshare -mn true"
    if subprocess.run(["sh", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare, ip and mount, and root")
    task = json.dumps([directives, manifests, outside, search, hosts])
    command = ["unshare", "-mn", sys.executable, __file__]
    done = subprocess.run(
        command, input=task, capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.returncode, done.stderr
    return {host: Lookup(*found) for host, found in json.loads(done.stdout).items()}


def main() -> None:
    """Do what standard input says, and write what was found to standard output."""
    directives, manifests, outside, search, hosts = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        place, metrics = Path(name), 9153
        (place / "cluster").mkdir()
        listing = {"kind": "List", "items": manifests}
        (place / "cluster" / "all.json").write_text(json.dumps(listing))
        (place / "resolv.conf").write_text(
            f"nameserver 127.0.0.1\nsearch {' '.join(search)}\n{OPTIONS}"
        )
        for command in ("ip link set lo up", f"mount --bind {place}/resolv.conf {RESOLV_CONF}"):
            subprocess.run(command.split(), check=True)
        upstream = ScriptedUpstream(Scripted(*entry) for entry in outside)
        rest = (
            f"{directives}\n prometheus 127.0.0.1:{metrics}\n cache 30\n"
            f" kubernetes cluster.local {{\n manifests cluster\n }}\n forward . {upstream.address}"
        )
        with peers.clusterdns(f".:53 .:{{PORT}} {{\n{rest}\n}}\n", place):
            found = {host: _found(host, metrics, upstream) for host in hosts}
        upstream.stop()
    json.dump(found, sys.stdout)


def _found(host: str, metrics: int, upstream: ScriptedUpstream) -> Lookup:
    asked, sent = _asked(metrics), upstream.queries.total()
    try:
        results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        results = []
    addresses = sorted({str(result[4][0]) for result in results})
    return Lookup(addresses, _asked(metrics) - asked, upstream.queries.total() - sent)


def _asked(metrics: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(v.rsplit(" ", 1)[1]) for v in lines if v.startswith("coredns_dns_requests_total")
    )


if __name__ == "__main__":
    main()
