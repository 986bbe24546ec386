"""The Corefiles that distributions install: both servers take them and say the same.

``corefiles/NAME.corefile`` is one of them, as it is mounted in a Pod at /etc/coredns, and a folder
of the same name has the files mounted beside it. A comment ``# ask NAME...`` in it lists what is
asked besides the names that every cluster has. Ports, the API server and the upstream server are
those of the test, all addresses are loopback's, and `lameduck` is 0s, since every stop would wait.
``CLUSTER_DNS`` is a CoreDNS with kubeadm's Corefile. They are written from what is
known of the manifests, whose versions differ in details.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import beside
import compare
import peers
import pytest
from fakeapi import FakeApi
from faultyupstream import FaultyUpstream, good

pytestmark = pytest.mark.peer

FOLDER = Path(__file__).parent / "corefiles"
NAMES = sorted(path.stem for path in FOLDER.glob("*.corefile"))
ASKED = (
    "kubernetes.default.svc.cluster.local", "web.demo.svc.cluster.local", "cluster.local",
    "none.demo.svc.cluster.local", "www.example.com.demo.svc.cluster.local", "www.example.com",
    "10-42-0-7.demo.pod.cluster.local", "1.0.96.10.in-addr.arpa", "9.9.96.10.in-addr.arpa",
    "a.hl.demo.svc.cluster.local", "_dns._udp.hl.demo.svc.cluster.local", "Alias.demo.svc.cluster.local",
)  # fmt: skip
QTYPES = ("A", "AAAA", "PTR", "SRV")
CACHED = beside.UNORDERED._replace(age_s=20, is_outside=True)


def service(name: str, namespace: str = "demo", **spec: object) -> dict:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports, **spec},
    }


CLUSTER = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}},
    service("kubernetes", "default", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"]),
    service("web", clusterIP="10.96.0.2", clusterIPs=["10.96.0.2", "fd00:96::2"]),
    service("hl", clusterIP="None", clusterIPs=["None"]),
    service("alias", type="ExternalName", externalName="www.example.com"),
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "hl-1",
            "namespace": "demo",
            "labels": {"kubernetes.io/service-name": "hl"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["10.42.0.7"], "hostname": "a", "conditions": {}}],
    },
)


def adapted(text: str, mounted: Path, api: str, upstream: str) -> str:
    """Return a Corefile with the ports and servers of this test."""
    text = re.sub(r"^(\S+):(?:53|5353|8053)(?= )", r"\1:{PORT}", text, flags=re.MULTILINE)
    for word in ("health", "ready", "prometheus"):
        at = f"127.0.0.1:{peers.free_port()}"
        text = re.sub(rf"^(\s+{word})\b( \S*:\d+)?", rf"\1 {at}", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(\s+)(kubernetes .*\{)$", rf"\1\2\n\1   endpoint {api}", text, flags=re.MULTILINE
    )
    text = re.sub(r"lameduck \S+", "lameduck 0s", text)
    text = re.sub(r"^(\s+bind) .*$", r"\1 127.0.0.1", text, flags=re.MULTILINE)
    return text.replace("/etc/resolv.conf", upstream).replace("/etc/coredns", str(mounted))


def rules(packet: bytes) -> compare.Rules:
    qname = compare.parse(packet).question[0].name.to_text().lower().rstrip(".")
    is_inside = qname.endswith("cluster.local") and not qname.startswith("alias.")
    is_inside &= ".internal." not in qname  # which Gardener rewrites to a name outside
    return beside.UNORDERED._replace(age_s=20, is_outside=not is_inside)


@contextlib.contextmanager
def cluster_dns(api: str, directory: Path) -> Iterator[str]:
    """Run the cluster's DNS, as NodeLocal DNSCache asks it; yield its address."""
    text = (FOLDER / "kubeadm.corefile").read_text()
    with FaultyUpstream(good) as upstream:
        corefile = adapted(text, directory, api, upstream.address)
        with peers.coredns(corefile, directory) as server:
            yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("name", NAMES)
def test_both_say_the_same(name, tmp_path):
    text = (FOLDER / f"{name}.corefile").read_text()
    mounted = tmp_path / "mounted"
    if (FOLDER / name).is_dir():
        shutil.copytree(FOLDER / name, mounted)
    else:
        mounted.mkdir()
    asked = [
        word for line in re.findall(r"^# ask (.*)$", text, re.MULTILINE) for word in line.split()
    ]
    packets = [
        beside.query(qname, qtype, edns=edns)
        for qname in (*ASKED, *asked)
        for qtype in QTYPES
        for edns in (None, 1232)
    ]
    is_cache = "CLUSTER_DNS" in text
    with (
        FakeApi(CLUSTER) as api,
        FaultyUpstream(good) as one,
        FaultyUpstream(good) as other,
        cluster_dns(api.url, tmp_path) if is_cache else contextlib.nullcontext("") as dns,
    ):
        text = text.replace("CLUSTER_DNS", dns)
        ours = adapted(text, mounted, api.url, one.address)
        theirs = adapted(text, mounted, api.url, other.address)
        chosen = (lambda _: CACHED) if is_cache else rules
        found = beside.differences(ours, packets, tmp_path, chosen, theirs)
    assert not found, f"{ours}\n{len(found)} differences\n" + "\n".join(found[:5])
