"""behind: evidence is that of the plugin that took the note, lines are found within bounds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import explanations
import pytest

from clusterdns.authority import zonefile
from clusterdns.commands import offline
from clusterdns.config.configmap import Subject
from clusterdns.corefile.files import DiskFiles
from clusterdns.serving import behind, explained
from clusterdns.serving.explaining import explain

ZONE = "$TTL 60\n@ SOA ns h 7 2 3 4 5\n@ NS ns\nns A 192.0.2.53\nwww A 192.0.2.1\nwww A 192.0.2.2\n"
COREFILE = ".:53 {\n root DIR\n file db.example.org example.org\n hosts hosts test\n}\n"


def evidence(corefile: str, qname: str, change: Any = lambda: None) -> list[str]:
    """The evidence for a name; ``change`` is called before it is looked for."""

    async def main() -> tuple[dict[str, Any], bytes | None, Any]:
        subject = Subject(corefile, "Corefile", DiskFiles(), "Corefile", is_mounted=False)
        configuration = offline.compiled(subject, port=53, directory=None)
        async with offline.Offline(configuration) as server:
            (listener,) = server.listeners.values()
            packet = explained.query(qname, "A", "127.0.0.1")
            return *await explain(listener, packet, ("127.0.0.1", 4000)), configuration

    found, reply, configuration = asyncio.run(main())
    change()
    done = explained.complete(found, reply, configuration.sources_by_plugin)
    notes = explanations.notes(done)
    assert not any("entries" in note for note in notes)
    return [line for note in notes for line in note.get("evidence", ())]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "db.example.org").write_text(ZONE)
    (tmp_path / "hosts").write_text("192.0.2.9 a.test\n192.0.2.8 a.test\n")
    return tmp_path


def test_a_file_that_has_changed_or_gone_is_told(directory):
    corefile, path = COREFILE.replace("DIR", str(directory)), directory / "db.example.org"
    known = f"www.example.org. A: {path}:5, {path}:6"
    assert [known] == evidence(corefile, "www.example.org")
    changed = ZONE.replace("h 7", "h 8").replace("www A", "w A")
    (told,) = evidence(corefile, "www.example.org", lambda: path.write_text(changed))
    assert f"{path} has the serial 8 by now, and may have changed" == told
    path.write_text(ZONE)
    lost = ZONE.replace("www A", "w A")
    told = evidence(corefile, "www.example.org", lambda: path.write_text(lost))
    assert [f"{path} does not have it any more"] == told
    path.write_text(ZONE)
    told = evidence(corefile, "www.example.org", path.unlink)
    assert [f"no line of {path} can be named: No such file or directory"] == told
    hosts = directory / "hosts"
    path.write_text(ZONE)
    assert [f"a.test. A: {hosts}:1, {hosts}:2"] == evidence(corefile, "a.test")
    told = evidence(corefile, "a.test", hosts.unlink)
    assert [f"no line of {hosts} can be named: No such file or directory"] == told


def test_a_file_that_is_too_large_is_told(directory, monkeypatch):
    corefile, path = COREFILE.replace("DIR", str(directory)), directory / "db.example.org"
    monkeypatch.setattr(zonefile, "MAX_SEARCHED_OCTETS", len(ZONE) - 1)
    said = f"larger than {len(ZONE) - 1} octets, with all it includes"
    told = evidence(corefile, "www.example.org")
    assert [f"no line of {path} can be named: {said}"] == told
    monkeypatch.setattr(zonefile, "MAX_SEARCHED_OCTETS", len(ZONE))
    assert 1 == len(evidence(corefile, "www.example.org"))


def test_the_search_ends_in_time(directory, monkeypatch):
    monkeypatch.setattr(behind, "LINES_S", 0.2)
    path, hosts = directory / "db.example.org", directory / "hosts"
    path.write_text(ZONE + "$GENERATE 1-65000 g$ A 192.0.2.1\n" * 3)
    corefile = COREFILE.replace("DIR", str(directory))
    began = 0.0

    def start() -> None:
        nonlocal began
        began = time.monotonic()

    told = evidence(corefile, "www.example.org", start)
    assert [f"no line of {path} can be named: it takes longer than 0.2 s"] == told
    assert time.monotonic() - began < 5
    hosts.write_text("192.0.2.9 a.test\n" * 100_000)
    told = evidence(corefile, "a.test", start)
    assert [f"no line of {hosts} can be named: it takes longer than 0.2 s"] == told
    assert time.monotonic() - began < 5


def test_a_file_is_read_once(directory, monkeypatch):
    read, reads = zonefile.places, []

    def counted(path: Path, *rest: Any) -> zonefile.Places:
        reads.append(path)
        return read(path, *rest)

    monkeypatch.setattr(zonefile, "places", counted)
    path = directory / "db.example.org"
    path.write_text(ZONE + "a CNAME b\nb CNAME *.c\n*.c CNAME www\n")
    told = evidence(COREFILE.replace("DIR", str(directory)), "a.example.org")
    lines = [each.rpartition(":")[2] for each in told]
    assert ["7", "8", "9", "6"] == lines
    assert [path] == reads


SHOP = """kind: Namespace
metadata: {name: shop}
---
kind: Service
metadata: {name: web, namespace: shop, uid: web-of-NAME}
spec: {clusterIP: None, selector: {app: NAME}, type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
kind: EndpointSlice
metadata:
  {name: web-1, namespace: shop, uid: slice-of-NAME, labels: {kubernetes.io/service-name: web}}
endpoints: [{addresses: ["10.0.0.1"], conditions: {ready: false}}]
"""
# The line of both `kubernetes` is that of one snippet.
CLUSTERS = """(cluster) {
    kubernetes one.local two.local {
        manifests .
    }
}
one.local one.example {
    root DIR/one
    import cluster
    k8s_external one.example
}
two.local two.example {
    root DIR/two
    import cluster
    k8s_external two.example
}
"""


@pytest.mark.parametrize("cluster", ["one", "two"])
def test_objects_are_of_the_cluster_that_answers(tmp_path, cluster):
    for each in ("one", "two"):
        (tmp_path / each).mkdir()
        (tmp_path / each / "shop.yaml").write_text(SHOP.replace("NAME", each))
    corefile = CLUSTERS.replace("DIR", str(tmp_path))
    told = evidence(corefile, f"web.shop.svc.{cluster}.local")
    assert [
        f"Service shop/web: UID web-of-{cluster}, resourceVersion (none)",
        f"EndpointSlice shop/web-1: UID slice-of-{cluster}, resourceVersion (none)",
        "10.0.0.1 gets no record: it is not ready",
    ] == told
    (told,) = evidence(corefile, f"web.shop.{cluster}.example")
    assert f"Service shop/web: UID web-of-{cluster}, resourceVersion (none)" == told
