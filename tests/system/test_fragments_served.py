"""Files of `custom/` with the real binary: mistaken ones are left out, at the start and later."""

from __future__ import annotations

import re
import socket
import sys
import time
import urllib.request
from pathlib import Path

import beside
import compare
import peers

SERVER = '{zone} {{\n template IN A {{\n  answer "{{{{ .Name }}}} 60 IN A {address}"\n }}\n}}\n'


def address(server: peers.Server, qname: str) -> str:
    reply = compare.parse(peers.ask_udp(server.address, beside.query(qname)))
    return reply.answer[0][0].to_text() if reply.answer else str(reply.rcode())


def until(condition, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refused(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    return float(re.search(r"^clusterdns_fragments_refused (\S+)$", text, re.MULTILINE)[1])


def put(custom: Path, name: str, text: str) -> None:
    """Write a file as a whole, as kubelet does."""
    (custom / ".new").write_text(text)
    (custom / ".new").rename(custom / name)


def test_a_mistaken_fragment_costs_itself_at_the_start_and_on_a_reload(tmp_path):
    custom, web = tmp_path / "custom", peers.free_port()
    custom.mkdir()
    put(custom, "a.server", SERVER.format(zone="a.example", address="192.0.2.1"))
    put(custom, "b.server", "b.example {\n nonsense\n}\n")
    put(custom, "c.override", "rewrite nonsense\n")
    text = (
        f". {{\n reload 2s 0s\n prometheus 127.0.0.1:{web}\n import {custom}/*.override\n"
        f" {SERVER.format(zone='', address='192.0.2.9').strip()[1:-1].strip()}\n}}\n"
        f"import {custom}/*.server\n"
    )
    with peers.clusterdns(text, tmp_path) as server:
        assert ["192.0.2.1", "192.0.2.9"] == [
            address(server, f"x.{zone}") for zone in ("a.example", "org")
        ]
        assert 2 == refused(web)
        assert f"[ERROR] this file is left out: {custom}/b.server:2: nonsense" in server.output
        assert f"[ERROR] this file is left out: {custom}/c.override:1: nonsense" in server.output

        put(custom, "b.server", SERVER.format(zone="b.example", address="192.0.2.2"))
        until(lambda: address(server, "x.b.example") == "192.0.2.2")
        until(lambda: refused(web) == 1)

        put(custom, "a.server", "a.example {\n quux\n")
        until(lambda: refused(web) == 2)
        until(lambda: address(server, "x.a.example") == "192.0.2.9")  # the root's now
        assert "192.0.2.2" == address(server, "x.b.example")
        assert f"{custom}/a.server:1: {{: is not closed" in server.output
        (custom / "a.server").unlink()
        (custom / "c.override").unlink()
        until(lambda: refused(web) == 0)
        assert "Reload failed" not in server.output


def test_a_fragment_whose_http_port_is_taken_costs_itself_until_it_is_free(tmp_path):
    """`health`, `ready` and `prometheus`, in the block of an `*.override` or in one of their own."""
    custom, web = tmp_path / "custom", peers.free_port()
    custom.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        put(custom, "a.override", f"health 127.0.0.1:{port}\n")
        put(custom, "b.server", f"b.example {{\n whoami\n ready 127.0.0.1:{port}\n}}\n")
        put(custom, "c.server", f"c.example {{\n whoami\n prometheus 127.0.0.1:{port}\n}}\n")
        put(custom, "d.server", SERVER.format(zone="d.example", address="192.0.2.4"))
        text = (
            f". {{\n reload 2s 0s\n prometheus 127.0.0.1:{web}\n import {custom}/*.override\n"
            f" {SERVER.format(zone='', address='192.0.2.9').strip()[1:-1].strip()}\n}}\n"
            f"import {custom}/*.server\n"
        )
        with peers.clusterdns(text, tmp_path) as server:
            assert ["192.0.2.4", "192.0.2.9", "192.0.2.9"] == [
                address(server, f"x.{zone}") for zone in ("d.example", "org", "b.example")
            ]
            assert 3 == refused(web)
            for place in ("a.override:1: health", "b.server:3: ready", "c.server:3: prometheus"):
                assert f"this file is left out: {custom}/{place}: cannot listen on" in server.output
            taken.close()
            until(lambda: refused(web) == 0)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                assert b"OK" == response.read()
            assert "0" == address(server, "x.b.example")  # of whoami


def test_the_http_port_of_the_corefile_itself_is_not_left_out(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = f". {{\n whoami\n health 127.0.0.1:{taken.getsockname()[1]}\n}}\n"
        command = [sys.executable, "-m", "clusterdns"]
        with peers.running(command, text, tmp_path) as server:
            assert 1 == server.process.wait(10)
            assert "cannot listen on" in server.output
