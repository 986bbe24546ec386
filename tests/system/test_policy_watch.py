"""policy with an API server: Pods that come, move and end, and the right to watch them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import peers
import pytest
from fakeapi import Manifest
from faultyapi import FaultyApi
from manifests import made, pod, service

DEV, SHOP = "127.0.1.2", "127.0.1.3"
COREFILE = """cluster.local:{{PORT}} {{
    errors
    ready 127.0.0.1:{ready}
    policy {{
        {early}
        allow to own
        nxdomain from namespace * to namespace *
    }}
    kubernetes cluster.local {{
        endpoint {api}
    }}
}}
"""


def cluster() -> list[Manifest]:
    """Return two namespaces with a Service and a Pod each."""
    found: list[Manifest] = []
    for i, namespace in enumerate(("dev", "shop")):
        found.append(made("Namespace", "", namespace))
        found.append(service(namespace, "web", f"10.0.0.{i}"))
        found.append(pod(namespace, "p", (DEV, SHOP)[i]))
    return found


def rcodes(server: peers.Server, client: str, namespaces: str = "dev shop") -> str:
    """Return what a client is told of a Service in each namespace."""
    found = []
    for namespace in namespaces.split():
        query = dns.message.make_query(f"web.{namespace}.svc.cluster.local", "A")
        reply = dns.query.udp(query, "127.0.0.1", 10, server.port, source=client)
        found.append(dns.rcode.to_text(reply.rcode()))
    return " ".join(found)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
            return reply.status == 200
    except urllib.error.HTTPError:
        return False


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("early", "told"), [("", "SERVFAIL SERVFAIL"), ("unsynced unknown", "NOERROR NOERROR")]
)
def test_without_the_right_to_watch_pods_and_with_it(tmp_path: Path, early: str, told: str) -> None:
    port = peers.free_port()
    with FaultyApi(cluster()) as api:
        api.statuses["pods"] = (403, {})
        text = COREFILE.format(ready=port, early=early, api=api.url)
        with peers.clusterdns(text, tmp_path) as server:
            assert told == rcodes(server, DEV)
            query = dns.message.make_query("dns-version.cluster.local", "TXT")  # in no namespace
            assert dns.query.udp(query, "127.0.0.1", 10, server.port, source=DEV).answer
            assert not is_ready(port)
            lines = [line for line in server.output.splitlines() if "ClusterRole" in line]
            assert len(lines) == 1 and 'verbs list and watch for resource "pods"' in lines[0]
            del api.statuses["pods"]
            eventually(lambda: is_ready(port))
            assert "NOERROR NXDOMAIN" == rcodes(server, DEV)
            assert "NXDOMAIN NOERROR" == rcodes(server, SHOP)


def test_an_address_moves_from_pod_to_pod(tmp_path: Path) -> None:
    with FaultyApi(cluster()) as api:
        text = COREFILE.format(ready=peers.free_port(), early="", api=api.url)
        with peers.clusterdns(text, tmp_path) as server:
            assert "NOERROR NXDOMAIN" == rcodes(server, DEV)
            api.apply(pod("dev", "p", DEV, "Succeeded"))  # its address is free
            eventually(lambda: rcodes(server, DEV) == "NOERROR NOERROR")  # unknown
            api.apply(pod("shop", "new", DEV))
            eventually(lambda: rcodes(server, DEV) == "NXDOMAIN NOERROR")
            api.apply(pod("dev", "newer", DEV))  # two at one address: unknown
            eventually(lambda: rcodes(server, DEV) == "NOERROR NOERROR")
            api.delete("Pod", "new", "shop")
            eventually(lambda: rcodes(server, DEV) == "NOERROR NXDOMAIN")
            assert "NXDOMAIN NOERROR" == rcodes(server, SHOP)
