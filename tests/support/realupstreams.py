"""Real upstream servers on loopback, with a small zone: NSD, Knot, Unbound and dnsmasq.

``running`` yields the address of one. NSD serves the zone as it is written, Knot signs it, Unbound
resolves it from the file as a resolver does, and dnsmasq asks an NSD of its own. Each test that needs
one that is not installed skips and names the line that installs it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import peers
import pytest

ZONE = "example.test."
KINDS = ("nsd", "knot", "unbound", "dnsmasq")
PACKAGES = {"nsd": "nsd", "knot": "knot", "unbound": "unbound", "dnsmasq": "dnsmasq-base"}
PROGRAMS = {"nsd": "nsd", "knot": "knotd", "unbound": "unbound", "dnsmasq": "dnsmasq"}
BIG = 40  # TXT records of 100 octets: more than any UDP reply carries

Address = tuple[str, int]


def zone_text() -> str:
    """Return the zone as a master file."""
    lines = [
        "$ORIGIN example.test.",
        "$TTL 300",
        "@ SOA ns hostmaster 7 3600 600 86400 60",
        "@ NS ns",
        "@ MX 10 mail",
        '@ TXT "v=spf1 -all" "second part"',
        "ns A 192.0.2.53",
        "mail A 192.0.2.25",
        "mail AAAA 2001:db8::25",
        "www 20 A 192.0.2.80",
        "www 20 AAAA 2001:db8::80",
        "one A 192.0.2.1",
        "zero 0 A 192.0.2.2",
        "c1 CNAME c2",
        "c2 60 CNAME c3",
        "c3 CNAME www",
        "dangling CNAME nowhere",
        "old CNAME one",  # no AAAA
        "outside CNAME www.elsewhere.test.",
        "*.wild A 192.0.2.99",
        "a.ent A 192.0.2.98",
        "_http._tcp SRV 1 2 80 www",
        "web HTTPS 1 . alpn=h2",
        "policy CAA 0 issue ca.test",
        "odd TYPE65280 \\# 4 0a0b0c0d",
        "MixedCase A 192.0.2.7",
    ]
    lines += [f'big TXT "{i:03} {"x" * 96}"' for i in range(BIG)]
    lines += [f"many A 198.51.100.{i}" for i in range(100)]  # 1600 octets: fits 4096, not 1232
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def running(kind: str, directory: Path, *, port: int = 0) -> Iterator[Address]:
    """Run one server until the block ends; skip the test if it is not installed.

    ``port`` is a free one unless it is given.
    """
    for needed in {kind, "nsd"} if kind == "dnsmasq" else {kind}:
        if program(needed) is None:
            pytest.skip(f"needs {needed}: apt-get install {PACKAGES[needed]}")
    directory.mkdir(exist_ok=True)
    (directory / "zone").write_text(zone_text())
    with contextlib.ExitStack() as stack:
        port = port or peers.free_port()
        behind = (
            stack.enter_context(running("nsd", directory / "nsd")) if kind == "dnsmasq" else None
        )
        command = _COMMANDS[kind](directory, port, behind)
        probe = dns.message.make_query(f"www.{ZONE}", "A").to_wire()
        yield stack.enter_context(serving(command, directory, kind, ("127.0.0.1", port), probe))


@contextlib.contextmanager
def serving(
    command: list[str], directory: Path, kind: str, address: Address, probe: bytes
) -> Iterator[Address]:
    """Run a server until the block ends; begin when it has an answer to ``probe``."""
    with (directory / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, address, directory / f"{kind}.log", probe)
            yield address
        finally:
            _end(process)


def program(kind: str) -> str | None:
    return shutil.which(PROGRAMS[kind]) or shutil.which(PROGRAMS[kind], path="/usr/sbin:/usr/bin")


def _wait(process: subprocess.Popen[bytes], address: Address, log: Path, probe: bytes) -> None:
    """Return when the zone is served."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            reply = peers.ask_udp(address, probe, 0.3)
            if reply is not None and reply[3] & 15 == 0 and reply[7]:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not serve:\n{log.read_text('utf-8', 'replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _nsd(directory: Path, port: int, _: Address | None) -> list[str]:
    conf = directory / "nsd.conf"
    conf.write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    zonesdir: "{directory}"
    database: ""
    pidfile: "{directory}/nsd.pid"
    xfrdfile: "{directory}/xfrd.state"
    zonelistfile: "{directory}/zone.list"
    xfrdir: "{directory}"
    nsid: "ascii_nsd"
    server-count: 1
    hide-version: yes
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: zone
""")
    return [str(program("nsd")), "-d", "-c", str(conf)]


def _knot(directory: Path, port: int, _: Address | None) -> list[str]:
    conf = directory / "knot.conf"
    conf.write_text(f"""
server:
    rundir: "{directory}"
    listen: 127.0.0.1@{port}
    nsid: knot
database:
    storage: "{directory}"
control:
    listen: "{directory}/knot.sock"
log:
  - target: stdout
    any: info
zone:
  - domain: {ZONE}
    storage: "{directory}"
    file: zone
    zonefile-sync: -1
    journal-content: none
    dnssec-signing: on
""")
    return [str(program("knot")), "-c", str(conf)]


def _unbound(directory: Path, port: int, _: Address | None) -> list[str]:
    conf = directory / "unbound.conf"
    conf.write_text(f"""
server:
    interface: 127.0.0.1@{port}
    do-daemonize: no
    use-syslog: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    module-config: "iterator"
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    nsid: ascii_unbound
    local-zone: "test." nodefault
    local-zone: "elsewhere.test." always_nxdomain
remote-control:
    control-enable: no
auth-zone:
    name: {ZONE}
    zonefile: zone
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
""")
    return [str(program("unbound")), "-d", "-c", str(conf)]


def _dnsmasq(directory: Path, port: int, behind: Address | None) -> list[str]:
    assert behind is not None
    # Without its cache, which loses links of CNAME chains and with them the same answer twice.
    return [
        str(program("dnsmasq")), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
        "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={port}",
        "--user=", "--group=", "--cache-size=0", f"--pid-file={directory}/dnsmasq.pid",
        f"--server=/{ZONE.rstrip('.')}/{behind[0]}#{behind[1]}",
    ]  # fmt: skip


_COMMANDS: dict[str, Callable[[Path, int, Address | None], list[str]]] = {
    "nsd": _nsd,
    "knot": _knot,
    "unbound": _unbound,
    "dnsmasq": _dnsmasq,
}
