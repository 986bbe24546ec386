"""`manifests`: a directory with links and faults in it, and files that are being written."""

from __future__ import annotations

import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import dns.message
import dns.rcode
import peers
import pytest

from clusterdns.host import filetree
from clusterdns.host.filetree import FileTree

NAMESPACE = "kind: Namespace\nmetadata: {name: demo}\n"
SERVICE = """---
kind: Service
metadata: {{name: {0}, namespace: demo}}
spec: {{clusterIP: 10.96.0.{1}, clusterIPs: [10.96.0.{1}], ports: [{{port: 80, protocol: TCP}}]}}
"""
COREFILE = """.:{PORT} {
    bind 127.0.0.1
    ready 127.0.0.1:READY
    kubernetes cluster.local {
        manifests DIRECTORY
        startup_timeout 0s
    }
}
"""


def corefile(directory: Path, ready: int = 0) -> str:
    text = COREFILE.replace("DIRECTORY", str(directory))
    return text.replace("READY", str(ready or peers.free_port()))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rcode_of(server: peers.Server, name: str) -> str:
    query = dns.message.make_query(f"{name}.demo.svc.cluster.local.", "A").to_wire()
    reply = peers.ask_udp(server.address, query)
    assert reply is not None
    return dns.rcode.to_text(dns.message.from_wire(reply).rcode())


def status_of(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def until(condition, within_s: float = 5) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def test_bad_entries_cost_themselves_alone(tmp_path):
    """Links that loop or lead through a file, and a circle of directories."""
    cluster = tmp_path / "cluster"
    write(cluster / "a.yaml", NAMESPACE + SERVICE.format("web", 7))
    (cluster / "loop.yaml").symlink_to("loop.yaml")
    (cluster / "through.yaml").symlink_to("a.yaml/b.yaml")
    (cluster / "nowhere.yaml").symlink_to("nothing")
    (cluster / "deep").mkdir()
    (cluster / "deep" / "up").symlink_to("..")
    with peers.clusterdns(corefile(cluster), tmp_path) as server:
        until(lambda: rcode_of(server, "web") == "NOERROR")
        assert rcode_of(server, "other") == "NXDOMAIN"
        assert "loop.yaml: Too many levels of symbolic links" in server.output
        assert "through.yaml: Not a directory" in server.output
        write(cluster / "deep" / "b.yaml", SERVICE.format("late", 8))
        until(lambda: rcode_of(server, "late") == "NOERROR")
        # What cannot be looked at for now keeps what it said, and is told of once.
        (cluster / "b.yaml").symlink_to("deep/b.yaml")
        time.sleep(0.6)
        (cluster / "b.yaml").unlink()
        (cluster / "b.yaml").symlink_to("b.yaml")
        shutil.rmtree(cluster / "deep")
        until(lambda: "/b.yaml: Too many levels" in server.output)
        time.sleep(1.6)
        assert rcode_of(server, "late") == "NOERROR"
        assert 1 == server.output.count("loop.yaml: Too many levels")
        (cluster / "b.yaml").unlink()
        until(lambda: rcode_of(server, "late") == "NXDOMAIN")


def test_a_config_map_with_paths_in_directories(tmp_path):
    """Kubelet: ``sub`` leads to ``..data/sub``, and ``..data`` to a directory that is replaced."""
    mount = tmp_path / "mount"

    def publish(version: str, address: int) -> None:
        write(mount / version / "a.yaml", NAMESPACE + SERVICE.format("web", 7))
        write(mount / version / "sub" / "x.yaml", SERVICE.format("deep", address))
        (mount / "..new").symlink_to(version)
        (mount / "..new").replace(mount / "..data")

    publish("..1", 8)
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    (mount / "sub").symlink_to("..data/sub")
    with peers.clusterdns(corefile(mount), tmp_path) as server:
        until(lambda: rcode_of(server, "web") == "NOERROR")
        assert rcode_of(server, "deep") == "NOERROR"
        publish("..2", 9)
        shutil.rmtree(mount / "..1")
        until(lambda: b"\x0a\x60\x00\x09" in answer(server, "deep"))
        assert "ERROR" not in server.output


def answer(server: peers.Server, name: str) -> bytes:
    query = dns.message.make_query(f"{name}.demo.svc.cluster.local.", "A").to_wire()
    return peers.ask_udp(server.address, query) or b""


def test_files_being_written_keep_what_they_said(tmp_path):
    cluster, web = tmp_path / "cluster", SERVICE.format("web", 7)
    whole = NAMESPACE + web + SERVICE.format("last", 8)
    write(cluster / "all.yaml", whole)
    with peers.clusterdns(corefile(cluster), tmp_path) as server:
        until(lambda: rcode_of(server, "last") == "NOERROR")
        file = cluster / "all.yaml"

        def holds(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                assert ("NOERROR", "NOERROR") == (rcode_of(server, "web"), rcode_of(server, "last"))
                time.sleep(0.05)

        file.write_text("")  # as `kubectl get ... >` has it until the API server has answered
        holds(1.6)
        assert "all.yaml: is empty" in server.output
        for i in range(3):  # whole documents of it, again and again
            file.write_text(NAMESPACE + "# more\n" * i)
            holds(0.5)
        file.unlink()
        holds(0.05)
        file.write_text(whole + SERVICE.format("more", 9))
        until(lambda: rcode_of(server, "more") == "NOERROR")
        holds(0)
        file.write_text(NAMESPACE + web)  # what stays away is gone
        until(lambda: rcode_of(server, "last") == "NXDOMAIN")
        assert rcode_of(server, "web") == "NOERROR"


def test_a_directory_that_cannot_be_read_denies_nothing(tmp_path):
    cluster, ready = tmp_path / "cluster", peers.free_port()
    write(cluster / "a.yaml", NAMESPACE + SERVICE.format("web", 7))
    text = corefile(tmp_path / "link", ready)
    (tmp_path / "link").symlink_to(cluster)
    with peers.clusterdns(text, tmp_path) as server:
        until(lambda: rcode_of(server, "web") == "NOERROR")
        cluster.rename(tmp_path / "aside")
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        watcher = min(int(pid) for pid in children.read_text().split())  # is forked first
        os.kill(watcher, signal.SIGKILL)
        until(lambda: "is no directory" in server.output or "No such file" in server.output)
        time.sleep(0.6)
        assert rcode_of(server, "web") == "NOERROR"
        assert 200 == status_of(ready)


class Refusing:
    """Directories that may not be read, also by root, who may read all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: set[Path] = set()
        listed = Path.iterdir
        monkeypatch.setattr(
            Path, "iterdir", lambda path: self.refuse() if path in self.paths else listed(path)
        )

    def refuse(self):
        raise PermissionError(13, os.strerror(13))


def test_directories_that_may_not_be_read(tmp_path, monkeypatch):
    refusing = Refusing(monkeypatch)
    for name in ("a.yaml", "b/c.yaml", "b/d/e.json", ".hidden/x.yaml", "note.txt"):
        write(tmp_path / name, "x")
    whole = FileTree(tmp_path, {".yaml", ".json"})
    assert ["a.yaml", "c.yaml", "e.json"] == sorted(path.name for path in whole.files)
    assert {} == whole.unread
    refusing.paths.add(tmp_path / "b")
    part = FileTree(tmp_path, {".yaml", ".json"})
    assert [tmp_path / "a.yaml"] == list(part.files)
    assert {tmp_path / "b": "Permission denied"} == part.unread
    assert part.may_hold(tmp_path / "b" / "d" / "e.json")
    assert not part.may_hold(tmp_path / "gone.yaml")
    refusing.paths.add(tmp_path)
    with pytest.raises(PermissionError):
        FileTree(tmp_path, {".yaml"})


def test_a_directory_is_entered_once_and_within_bounds(tmp_path, monkeypatch):
    for i in range(6):
        (tmp_path / f"d{i}").mkdir()
        for j in range(6):
            (tmp_path / f"d{i}" / f"l{j}").symlink_to(tmp_path)
        write(tmp_path / f"d{i}" / "a.yaml", "x")
    assert len(FileTree(tmp_path, {".yaml"}).files) == 6
    monkeypatch.setattr(filetree, "MAX_ENTRIES", 20)
    bounded = FileTree(tmp_path, {".yaml"})
    assert 0 < len(bounded.files) < 6
    assert "more than 20 entries" in " ".join(bounded.unread.values())
    monkeypatch.setattr(filetree, "MAX_DEPTH", 0)
    assert {f"d{i}" for i in range(6)} == {
        path.name for path in FileTree(tmp_path, {".yaml"}).unread
    }
