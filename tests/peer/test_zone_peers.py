"""Zones handed on: from Knot to clusterdns by `secondary`, on to another Knot by `transfer`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.query
import dns.zone
import peers
import pytest
import realupstreams
from realupstreams import ZONE, Address


@pytest.fixture(params=["", "multisocket 3"], ids=["one worker", "three workers"])
def workers(request) -> str:
    return str(request.param)


@contextlib.contextmanager
def knot(directory: Path, port: int, zone: str) -> Iterator[str]:
    """Run a Knot with a zone of these lines of configuration; yield the path of its control."""
    directory.mkdir()
    program = realupstreams.program("knot")
    if program is None:
        pytest.skip("needs knot: apt-get install knot")
    (directory / "knot.conf").write_text(f"""
server:
    rundir: "{directory}"
    listen: 127.0.0.1@{port}
database:
    storage: "{directory}"
control:
    listen: "{directory}/knot.sock"
log:
  - target: stdout
    any: info
{zone}
""")
    command = [program, "-c", str(directory / "knot.conf")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        try:
            yield str(directory / "knot.sock")
        finally:
            process.terminate()
            process.wait(20)


def primary(directory: Path, told: int) -> str:
    return f"""
remote:
  - id: ours
    address: 127.0.0.1@{told}
acl:
  - id: all
    address: 127.0.0.0/8
    action: transfer
zone:
  - domain: {ZONE}
    file: "{directory}/zone"
    acl: all
    notify: ours
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    serial-policy: increment
"""


def secondary(master: int) -> str:
    return f"""
remote:
  - id: ours
    address: 127.0.0.1@{master}
acl:
  - id: ours
    address: 127.0.0.1
    action: [notify, transfer]
zone:
  - domain: {ZONE}
    master: ours
    acl: ours
    zonefile-sync: -1
"""


def records(address: Address) -> set[str]:
    """Return the zone that a server has, a record a line."""
    try:
        messages = dns.query.xfr(address[0], ZONE, port=address[1], lifetime=5, relativize=False)
        found = dns.zone.from_xfr(messages, relativize=False)
    except (OSError, dns.exception.DNSException):
        return set()
    return {
        f"{owner} {rdataset.ttl} {rdataset.rdtype} {rdata}".lower()
        for owner, rdataset in found.iterate_rdatasets()
        for rdata in rdataset
    }


def until_equal(expected: Address, *others: Address, holding: str, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        zone = records(expected)
        others_have = [records(other) for other in others]
        if any(holding in line for line in zone) and all(zone == other for other in others_have):
            return
        assert time.monotonic() < deadline, [zone ^ other for other in others_have]
        time.sleep(0.1)


def test_a_zone_goes_from_knot_through_us_to_knot_and_each_change_follows(tmp_path, workers):
    first, ours, last = peers.free_port(), peers.free_port(), peers.free_port()
    corefile = f""".:{{PORT}} {{
    whoami
}}
{ZONE}:{ours} {{
    {workers}
    secondary {{
        transfer from 127.0.0.1:{first}
    }}
    transfer {{
        to 127.0.0.1:{last}
    }}
}}
"""
    (tmp_path / "zone").write_text(realupstreams.zone_text())
    with (
        knot(tmp_path / "first", first, primary(tmp_path, ours)) as control,
        peers.clusterdns(corefile, tmp_path),
        knot(tmp_path / "last", last, secondary(ours)),
    ):
        addresses = [("127.0.0.1", port) for port in (first, ours, last)]
        until_equal(*addresses, holding="192.0.2.80")
        (tmp_path / "zone").write_text(realupstreams.zone_text() + "fresh A 192.0.2.66\n")
        program = realupstreams.program("knot").replace("knotd", "knotc")
        subprocess.run([program, "-s", control, "zone-reload"], check=True, capture_output=True)
        until_equal(*addresses, holding="192.0.2.66")


KEY = "hmac-sha256:key.example.test:NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="


def test_signed_transfers_go_to_knot_and_dig_and_not_to_who_has_another_key(tmp_path, workers):
    ours, last = peers.free_port(), peers.free_port()
    algorithm, key, secret = KEY.split(":")
    (tmp_path / "zone").write_text(realupstreams.zone_text())
    corefile = f""".:{{PORT}} {{
    whoami
}}
{ZONE}:{ours} {{
    {workers}
    tsig {{
        secret {key} {secret}
        require AXFR IXFR SOA
    }}
    file zone {{
        reload 200ms
    }}
    transfer {{
        to 127.0.0.1:{last}
    }}
}}
"""
    zone = secondary(ours).replace(f"@{ours}", f"@{ours}\n    key: {key}")
    zone = f"key:\n  - id: {key}\n    algorithm: {algorithm}\n    secret: {secret}\n{zone}"
    with peers.clusterdns(corefile, tmp_path), knot(tmp_path / "last", last, zone):
        deadline = time.monotonic() + 15
        while not any("192.0.2.80" in line for line in records(("127.0.0.1", last))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (tmp_path / "zone").write_text(
            realupstreams.zone_text().replace(" 7 ", " 8 ") + "n A 192.0.2.66\n"
        )
        while not any("192.0.2.66" in line for line in records(("127.0.0.1", last))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        dig = shutil.which("dig")
        if dig is None:
            pytest.skip("needs dig: apt-get install bind9-dnsutils")
        for given, expected in (
            (KEY, "192.0.2.66"),
            (KEY.replace("NoTC", "XXXX"), "NOTAUTH"),
            (KEY.replace("key.", "other."), "NOTAUTH"),
        ):
            for kind in ("AXFR", "SOA"):
                command = [dig, "-p", str(ours), "@127.0.0.1", ZONE, kind, "-y", given, "+tries=1"]
                said = subprocess.run(
                    command, capture_output=True, text=True, timeout=20, check=False
                )
                if expected != "NOTAUTH":
                    assert "TSIG" in said.stdout
                    assert "Couldn't verify" not in said.stdout + said.stderr
                    assert kind == "SOA" or expected in said.stdout
                else:
                    assert "192.0.2" not in said.stdout
                    assert "BAD" in said.stdout + said.stderr or "failed" in said.stdout.lower()
