"""`k8s_external` beside CoreDNS 1.15.0: random Services, options and questions, over one fake API.

``EXTERNAL_SEED`` picks others.
"""

from __future__ import annotations

import os
import random
from typing import Any

import beside
import pytest
from fakeapi import FakeApi

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("EXTERNAL_SEED", "1"))
QUESTIONS = 120
OPTIONS = (
    "",
    "headless",
    "apex top\n ttl 77\n fallthrough",
    "ttl 0\n headless\n fallthrough demo.ext.test",
)
COREFILE = """ext.test 10.in-addr.arpa cluster.local {
    kubernetes cluster.local {
        endpoint API
        ttl 9
    }
    k8s_external ext.test 10.in-addr.arpa {
        OPTIONS
    }
    erratic {
        drop 0
        delay 0
    }
}
lb.test {
    hosts {
        10.8.8.8 www.lb.test
    }
}
"""
QTYPES = ("A", "A", "AAAA", "SRV", "SRV", "TXT", "PTR", "SOA", "MX", "CNAME")
UNORDERED = beside.UNORDERED


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service(rng: random.Random, name: str) -> list[dict[str, Any]]:
    """Return a Service with what it has outside; of host names one, and then with one port."""
    ports = [
        {"name": word, "port": number, "protocol": protocol}
        for word, number, protocol in rng.sample(
            [("http", 80, "TCP"), ("dns", 53, "UDP"), ("web", 443, "TCP"), ("s", 9, "SCTP")],
            rng.randint(1, 3),
        )
    ]
    addresses = rng.sample([f"10.7.{rng.randint(0, 3)}.{i}" for i in range(9)] + ["fd00:7::1"], 2)
    spec: dict[str, Any] = {"ports": ports, "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}
    status: dict[str, Any] = {}
    slices = []
    match rng.randrange(5):
        case 0:
            spec["externalIPs"] = addresses
        case 1:
            status = {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}}
        case 2:
            status = {"loadBalancer": {"ingress": [{"hostname": "www.lb.test"}]}}
            del ports[1:]
        case 3:
            spec |= {"clusterIP": "None", "clusterIPs": ["None"]}
            slices.append(headless(name, ports))
    metadata = {"name": name, "namespace": "demo"}
    made = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    return [{**made, "status": status}, *slices]


def headless(name: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    endpoints = [
        {"addresses": ["10.42.0.7"], "hostname": "a", "conditions": {}},
        {"addresses": ["10.42.0.8"], "conditions": {"ready": True}},
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1", "namespace": "demo",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }  # fmt: skip


def qname(rng: random.Random, names: list[str]) -> str:
    base = (
        f"{rng.choice([*names, 'none'])}.{rng.choice(('demo', 'demo', 'demo', 'other'))}.ext.test"
    )
    return rng.choice((
        base, base, base.upper(), f"_{rng.choice(('http', 'dns', 'web', 'x'))}._{rng.choice(('tcp', 'udp'))}.{base}",
        f"http.tcp.{base}", f"a.{base}", f"10-42-0-8.{base}", f"x.y.z.{base}", "demo.ext.test",
        "ext.test", f"{rng.randint(0, 8)}.{rng.randint(0, 3)}.7.10.in-addr.arpa", "none.ext.test",
        "ns1.dns.ext.test", "ns1.top.ext.test",
    ))  # fmt: skip


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_answers_are_those_of_coredns(tmp_path, number):
    rng = random.Random(SEED * 100 + number)
    names = [f"s{i}" for i in range(14)]
    objects = [namespace("demo"), *(each for name in names for each in service(rng, name))]
    packets = [
        beside.query(qname(rng, names), rng.choice(QTYPES), edns=rng.choice((None, 1232)))
        for _ in range(QUESTIONS)
    ]
    with FakeApi(objects) as api:
        corefile = COREFILE.replace("API", api.url).replace("OPTIONS", OPTIONS[number])
        found = beside.differences(corefile, packets, tmp_path, UNORDERED)
    assert not found, "\n".join(found[:5]) + f"\n{len(found)} of {2 * len(packets)}"
