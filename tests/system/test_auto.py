"""auto: the zones of a directory, as files come, change and go, beside a real CoreDNS."""

from __future__ import annotations

import asyncio
import os
import time

import dns.message
import dns.rcode
import peers
import pytest

from clusterdns.authority import zonefile
from clusterdns.config.compile import compile_text
from clusterdns.plugins.auto import Auto

ZONE = "$TTL 60\n@ IN SOA ns h {serial} 2 3 4 5\n@ IN NS ns\nwww IN A 192.0.2.{last}\n"


def put(path, serial: int = 1, last: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ZONE.format(serial=serial, last=last))


def ask(server: peers.Server, qname: str) -> tuple[str, list[str]]:
    wire = peers.ask_udp(server.address, dns.message.make_query(qname, "A").to_wire(), 2)
    assert wire is not None
    reply = dns.message.from_wire(wire)
    return dns.rcode.to_text(reply.rcode()), [str(i) for found in reply.answer for i in found]


def until(server: peers.Server, qname: str, expected: tuple[str, list[str]]) -> None:
    deadline = time.monotonic() + 8
    while ask(server, qname) != expected:
        assert time.monotonic() < deadline, f"{ask(server, qname)}\n{server.output}"
        time.sleep(0.1)


def corefile(directory: str, reload: str = "1s") -> str:
    return f"org {{\n auto {{\n directory {directory}\n reload {reload}\n }}\n}}\n"


@pytest.mark.peer
@pytest.mark.parametrize("pattern", ["", r"(.*)\.zone$ {1}", r"(?P<n>[a-z]+)\.zone {n}.org"])
def test_serves_what_coredns_serves(tmp_path, pattern):
    put(tmp_path / "zones" / "db.a.org", last=1)
    put(tmp_path / "zones" / "sub" / "db.b.org", last=2)
    put(tmp_path / "zones" / "a" / "db.b.org", last=3)
    put(tmp_path / "zones" / "db.x.net", last=4)
    put(tmp_path / "zones" / "c.org.zone", last=5)
    put(tmp_path / "zones" / "d.zone", last=6)
    put(tmp_path / "zones" / "db.sub.a.org", last=7)
    (tmp_path / "zones" / "db.bad.org").write_text("@ IN A nonsense\n")
    (tmp_path / "zones" / "db.other.org").write_text(
        ZONE.format(serial=1, last=1) + "sub IN SOA ns h 1 2 3 4 5\n"
    )
    text = corefile(f"zones {pattern}", "0")
    with peers.clusterdns(text, tmp_path) as ours, peers.coredns(text, tmp_path) as theirs:
        for zone in (
            "a.org", "b.org", "x.net", "c.org", "d.org", "d", "sub.a.org", "bad.org", "other.org",
            "none.org",
        ):  # fmt: skip
            for qname in (f"www.{zone}", f"no.{zone}", zone):
                assert ask(theirs, qname) == ask(ours, qname), qname


def test_files_come_change_and_go(tmp_path):
    zones = tmp_path / "zones"
    with peers.clusterdns(corefile("zones", "200ms"), tmp_path) as server:
        until(server, "www.a.org", ("REFUSED", []))
        put(zones / "db.a.org")
        until(server, "www.a.org", ("NOERROR", ["192.0.2.1"]))
        put(zones / "db.a.org", serial=2, last=2)
        until(server, "www.a.org", ("NOERROR", ["192.0.2.2"]))
        (zones / "db.a.org").write_text("nonsense")
        os.mkfifo(zones / "db.fifo.org")
        put(zones / "db.b.org")
        until(server, "www.b.org", ("NOERROR", ["192.0.2.1"]))
        assert ask(server, "www.a.org") == ("NOERROR", ["192.0.2.2"])
        assert "db.a.org:1: " in server.output
        (zones / "db.a.org").unlink()
        until(server, "www.a.org", ("REFUSED", []))


def test_a_file_is_read_again_only_when_it_or_what_it_includes_has_changed(tmp_path, monkeypatch):
    zones, reads = tmp_path / "zones", []
    put(zones / "db.a.org")
    (zones / "rest").write_text("more A 192.0.2.9\n")
    with (zones / "db.a.org").open("a") as file:
        file.write("$INCLUDE rest\n")
    (made,) = compile_text(corefile(str(zones)), "C", port=53, environ={}, warn=pytest.fail).plugins
    assert isinstance(made, Auto)
    read = zonefile.read
    monkeypatch.setattr(
        zonefile,
        "read",
        lambda path, *args, **more: reads.append(path) or read(path, *args, **more),
    )

    def look() -> int:
        reads.clear()
        asyncio.run(made.look())
        assert [zone.serial for zone in made.zones.values() if zone] == [1]
        return len(reads)

    assert [1, 1] == [look(), look()]  # it has just been written
    for each in zones.iterdir():
        os.utime(each, (1000, 1000))
    assert [1, 0, 0] == [look(), look(), look()]
    os.utime(zones / "rest", (2000, 2000))
    assert [1, 0] == [look(), look()]
