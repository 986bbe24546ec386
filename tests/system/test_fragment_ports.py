"""Imported files that listen where nobody can: left out by name, and the rest is served."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import beside
import dns.message
import peers
from test_watch import eventually


def answer(port: int, name: str = "www.test") -> str:
    """Return the address that a listener says, "" if it is not there."""
    with contextlib.suppress(OSError):
        wire = peers.ask_udp(("127.0.0.1", port), beside.query(name), 0.5)
        if wire and (found := dns.message.from_wire(wire).answer):
            return found[0][0].to_text()
    return ""


def block(port: int, address: str, bind: str = "127.0.0.1") -> str:
    return f".:{port} {{\n bind {bind}\n hosts {{\n  {address} www.test\n }}\n}}\n"


@contextlib.contextmanager
def taken():
    """Take a port for UDP and TCP; yield it."""
    udp, tcp = peers.bind_pair()
    tcp.listen()
    with udp, tcp:
        yield udp.getsockname()[1]


def custom(directory: Path, **files: str) -> Path:
    folder = directory / "custom"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.server").write_text(text)
    return folder


def test_a_port_that_is_taken_costs_its_file_alone(tmp_path):
    free = peers.free_port()
    with taken() as port:
        folder = custom(
            tmp_path,
            a=block(port, "192.0.2.1"),
            b=block(free, "192.0.2.2"),
            c=block(free, "192.0.2.3", "192.0.2.99").replace(". {", "c.test {"),
        )
        text = block(0, "192.0.2.9").replace(":0", ":{PORT}") + f"import {folder}/*.server\n"
        with peers.clusterdns(text, tmp_path) as server:
            assert "192.0.2.9" == answer(server.port)
            assert "192.0.2.2" == answer(free)
            for name, why in (("a", "Address already in use"), ("c", "Cannot assign")):
                (line,) = {
                    line for line in server.output.splitlines()
                    if f"{name}.server:1: " in line and why in line
                }  # fmt: skip
                assert "this file is left out" in line
            # A reload leaves it out again, takes up what else has changed, and loses nothing.
            custom(tmp_path, b=block(free, "192.0.2.4"))
            server.process.send_signal(signal.SIGUSR1)
            eventually(lambda: "192.0.2.4" == answer(free), 8)
            assert "192.0.2.9" == answer(server.port)
            eventually(lambda: "Reloading complete" in server.output, 8)
            server.process.send_signal(signal.SIGUSR1)  # nothing has changed
            time.sleep(0.5)
            assert "192.0.2.4" == answer(free)
        assert 1 == server.output.count("Reloading complete")
        assert "Reload failed" not in server.output


def test_a_port_that_comes_free_is_taken(tmp_path):
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(taken())
        folder = custom(tmp_path, a=block(port, "192.0.2.1"))
        text = block(0, "192.0.2.9").replace(":0", ":{PORT}") + f"import {folder}/*.server\n"
        with peers.clusterdns(text, tmp_path) as server:
            assert "" == answer(port)
            stack.close()
            server.process.send_signal(signal.SIGUSR1)
            eventually(lambda: "192.0.2.1" == answer(port), 8)
            assert "192.0.2.9" == answer(server.port)


def test_a_port_that_the_corefile_names_stops_the_start(tmp_path):
    with taken() as port:
        folder = custom(tmp_path, a=block(port, "192.0.2.1").replace(". {", "a.test {"))
        text = f"import {folder}/*.server\n" + block(port, "192.0.2.9")
        command = [peers.sys.executable, "-m", "clusterdns"]
        with peers.running(command, text, tmp_path) as server:
            assert 1 == server.process.wait(20)
            assert f"listen 127.0.0.1:{port}: Address already in use" in server.output
