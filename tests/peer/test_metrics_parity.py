"""The exposition beside a real CoreDNS's: after the same traffic, the same families and numbers.

Both serve kubeadm's Corefile (and one of several blocks) from API servers and upstream servers that say
the same. Every `coredns_*` family is compared by name, type, help, labels and buckets, and what the
traffic added to each sample. What may differ is listed here, with the reason.
"""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dns.flags
import dns.message
import peers
import pytest
from casefile import Scripted
from fakeapi import FakeApi
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from scriptedupstream import ScriptedUpstream

pytestmark = pytest.mark.peer

KUBEADM = """.:{PORT} {
    errors
    health 127.0.0.1:HEALTH {
       lameduck 0s
    }
    ready 127.0.0.1:READY
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       endpoint API
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus 127.0.0.1:METRICS
    forward . UPSTREAM {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""
SEVERAL = """cluster.local:{PORT} in-addr.arpa:{PORT} {
    health 127.0.0.1:HEALTH
    ready 127.0.0.1:READY
    prometheus 127.0.0.1:METRICS
    kubernetes cluster.local in-addr.arpa {
       endpoint API
    }
    cache 30 cluster.local
}
example.com:{PORT} {
    prometheus 127.0.0.1:METRICS
    errors
    cache
    loop
    forward . UPSTREAM {
       force_tcp
       max_concurrent 100
    }
}
example.net:{PORT} {
    prometheus 127.0.0.1:METRICS
    errors
    forward . 127.0.0.1:NOWHERE {
       health_check 100ms
    }
}
example.org:{PORT} {
    whoami
}
"""

# Families of CoreDNS that we do not have, and ours that it does not have just then.
MISSING = {"coredns_proxy_conn_cache_hits": "see is_datagram"}
EXTRA = {
    "coredns_kubernetes_rest_client_request_duration_seconds": (
        "CoreDNS times lists that come in pages, not those that come as a watch; we time both"
    ),
}
# What the same traffic may add another number to.
UNEQUAL = {
    "coredns_build_info": "goversion is Python's here",
    "coredns_health_request_duration_seconds": "CoreDNS asks its own /health each second",
    "coredns_kubernetes_rest_client_request_duration_seconds": "see EXTRA",
    "coredns_proxy_healthcheck_failures": "depends on when the first check falls due",
    "coredns_forward_healthcheck_broken": "depends on when the first check falls due",
    "coredns_proxy_conn_cache_misses": "see is_datagram",
}
PROCESS_MISSING = {
    "process_network_receive_bytes": "it is that of the network namespace",
    "process_network_transmit_bytes": "it is that of the network namespace",
    "process_virtual_memory_max_bytes": "a limit that is never set",
}

WEB = "web.default.svc.cluster.local."
CLASS_CH, UPDATE = 3, 5
QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *2 * ((WEB, "A", {}),),
    (WEB, "AAAA", {}),
    (WEB, "MX", {}),
    (WEB, "HTTPS", {}),
    (WEB, "TYPE65280", {}),
    (f"_http._tcp.{WEB}", "SRV", {}),
    ("10-1-0-1.default.pod.cluster.local.", "A", {}),
    ("9.9.9.10.in-addr.arpa.", "PTR", {}),
    ("nope.default.svc.cluster.local.", "A", {}),
    (WEB, "A", {"use_edns": 0, "payload": 1232}),
    (WEB, "A", {"use_edns": 0, "want_dnssec": True}),
    (WEB, "A", {"use_edns": 1}),  # BADVERS
    *3 * (("www.example.com.", "A", {}),),
    ("www.example.com.", "A", {"use_edns": 0}),
    ("www.example.com.", "A", {"use_edns": 0, "want_dnssec": True}),
    ("www.example.com.", "AAAA", {}),
    *2 * (("nothing.example.com.", "A", {}),),
    ("empty.example.com.", "TXT", {}),
    ("broken.example.com.", "A", {}),
    ("many.example.com.", "A", {"use_edns": 0, "payload": 4096}),
    ("www.example.org.", "A", {}),
    ("www.example.net.", "A", {}),
    ("www.elsewhere.test.", "ANY", {}),
)
UPSTREAM = (
    Scripted("www.example.com.", "answer", 300, 1, 1, "192.0.2.1"),
    Scripted("empty.example.com.", "nodata"),
    Scripted("broken.example.com.", "servfail"),
    *(Scripted("many.example.com.", "answer", 60, 1, 1, f"192.0.2.{i}") for i in range(10, 60)),
)
FORM_ERROR = b"\1\2\1\0\0\1\0\0\0\0\0\0\xff"  # a label that leads out of the packet


class Scrapes(NamedTuple):
    """The expositions before and after the traffic, and the header that says what they are."""

    before: dict[str, Metric]
    after: dict[str, Metric]
    content_type: str


def service(name: str, address: str) -> dict[str, Any]:
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
    return {"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def slice_of(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-a",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
            "annotations": {f"endpoints.kubernetes.io/{k}": v for k, v in annotations.items()},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
    }


OBJECTS = (
    {"kind": "Namespace", "metadata": {"name": "default"}},
    service("web", "10.96.0.5"),
    slice_of("web"),
)


def scrapes(run: Callable[..., Any], corefile: str, directory: Path) -> Scrapes:
    """Return what a server exposes before and after the traffic, its ports replaced by words."""
    ports = {word: peers.free_port() for word in ("HEALTH", "READY", "METRICS", "NOWHERE")}
    upstream = ScriptedUpstream(UPSTREAM)
    with contextlib.closing(_Stop(upstream)), FakeApi(OBJECTS) as api:
        text = corefile.replace("API", api.url).replace("UPSTREAM", upstream.address)
        for word, port in ports.items():
            text = text.replace(word, str(port))
        with run(text, directory) as server:
            words = {f":{server.port}": ":53", upstream.address: "U", api.url[7:]: "API"}
            words[f"127.0.0.1:{ports['NOWHERE']}"] = "NOWHERE"

            def read() -> tuple[dict[str, Metric], str]:
                return _scrape(ports["METRICS"], words)

            _wait(lambda: _is_ready(ports["READY"]) and _has_looked_for_loops(upstream), server)
            before = _at_rest(read)
            _talk(server)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            api.apply(slice_of("web", **{"last-change-trigger-time": now}))
            programmed = "coredns_kubernetes_dns_programming_duration_seconds"
            _wait(lambda: programmed in read()[0], server)
            time.sleep(1.2)  # health checks
            return Scrapes(before, _at_rest(read), read()[1])


class _Stop(NamedTuple):
    upstream: ScriptedUpstream

    def close(self) -> None:
        self.upstream.stop()


def _scrape(port: int, words: dict[str, str]) -> tuple[dict[str, Metric], str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
        content_type = response.headers["Content-Type"]
    for address, word in words.items():
        text = text.replace(f'{address}"', f'{word}"')
    return {family.name: family for family in text_string_to_metric_families(text)}, content_type


def _at_rest(read: Callable[[], tuple[dict[str, Metric], str]]) -> dict[str, Metric]:
    """Return the families as soon as no query is being answered any more."""
    name = "coredns_dns_requests"
    last: object = None
    while True:
        found = read()[0]
        now = [sample.value for sample in found[name].samples] if name in found else []
        if now == last:
            return found
        last = now
        time.sleep(0.1)


def _wait(is_so: Callable[[], bool], server: peers.Server) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, server.output
        time.sleep(0.02)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as response:
            return response.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _has_looked_for_loops(upstream: ScriptedUpstream) -> bool:
    return any(qtype == 13 for _, qtype in upstream.queries)  # HINFO


def _talk(server: peers.Server) -> None:
    """Ask everything over UDP, some over TCP, and what is no question at all."""
    for qname, rtype, options in QUESTIONS:
        query = dns.message.make_query(qname, rtype, **options).to_wire()
        assert peers.ask_udp(server.address, query, timeout_s=8), (qname, rtype)
    for qname in (WEB, "www.example.com.", "many.example.com.", "nothing.elsewhere.test."):
        query = dns.message.make_query(qname, "A").to_wire()
        assert peers.ask_tcp(server.address, query), qname
    chaos = dns.message.make_query("version.bind.", "TXT", CLASS_CH).to_wire()
    assert peers.ask_udp(server.address, chaos)
    update = dns.message.make_query(WEB, "A")
    update.set_opcode(UPDATE)
    reply = dns.message.make_response(dns.message.make_query(WEB, "A")).to_wire()
    for packet in (update.to_wire(), FORM_ERROR, reply, b"\0"):
        peers.ask_udp(server.address, packet, timeout_s=0.2)


@pytest.fixture(scope="module", params=["kubeadm", "several"])
def pair(
    request: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Scrapes, Scrapes]]:
    """What CoreDNS and clusterdns expose."""
    corefile = {"kubeadm": KUBEADM, "several": SEVERAL}[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    return tuple(scrapes(run, corefile, directory) for run in (peers.coredns, peers.clusterdns))


def shape(family: Metric) -> tuple[object, ...]:
    """Return type, help, label names and, of a histogram, the upper bounds."""
    labels = {tuple(sorted(sample.labels)) for sample in family.samples}
    bounds = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
    return family.type, family.documentation, sorted(labels), sorted(map(float, bounds))


def own(families: dict[str, Metric]) -> dict[str, Metric]:
    return {name: family for name, family in families.items() if name.startswith("coredns_")}


def test_every_family_has_the_same_shape(pair):
    theirs, ours = (own(scraped.after) for scraped in pair)
    assert set(theirs) - set(ours) <= set(MISSING)
    assert set(ours) - set(theirs) <= set(EXTRA)
    both = sorted(set(theirs) & set(ours))
    assert len(both) > 20
    assert [(name, shape(theirs[name])) for name in both] == [
        (name, shape(ours[name])) for name in both
    ]


def is_datagram(labels: dict[str, str]) -> bool:
    """A query of ours has a socket of its own: an attacker has to guess the port (RFC 5452)."""
    return labels.get("proto") == "udp"


def is_cached_cluster(labels: dict[str, str]) -> bool:
    """A cache of ours never holds a cluster's names: a new Service is answered at once.

    It counts requests; a hit of CoreDNS's is a miss of ours, from memory all the same.
    """
    return labels.get("zones") == "cluster.local."


def added(scraped: Scrapes) -> dict[str, Counter[tuple[object, ...]]]:
    """Return by family what the traffic added to each sample, and the labels of all samples.

    Of what a histogram has of durations only the counts, all together, are no accident.
    """
    found: dict[str, Counter[tuple[object, ...]]] = defaultdict(Counter)
    for name, family in own(scraped.after).items():
        is_time = name.endswith("_seconds") and family.type == "histogram"
        for sign, state in ((1, family), (-1, scraped.before.get(name))):
            for sample in state.samples if state else ():
                if is_time and not sample.name.endswith("_count"):
                    continue
                found[name][sample.name, *sorted(sample.labels.items())] += sign * sample.value
    return found


def test_the_same_traffic_adds_the_same_to_every_sample(pair):
    theirs, ours = map(added, pair)
    for name in sorted(theirs.keys() - MISSING.keys() - UNEQUAL.keys()):
        keys = {key for key in {*theirs[name], *ours[name]} if not is_cached_cluster(dict(key[1:]))}
        assert {k: theirs[name][k] for k in keys} == {k: ours[name][k] for k in keys}, name
    assert sum(ours["coredns_dns_requests"].values()) >= 30


def test_connections_to_upstream_servers_count_the_same(pair):
    for name in ("coredns_proxy_conn_cache_hits", "coredns_proxy_conn_cache_misses"):
        theirs, ours = (
            {k: v for k, v in added(side)[name].items() if not is_datagram(dict(k[1:]))}
            for side in pair
        )
        assert theirs == ours, name


def test_states_are_the_same(pair):
    for name in ("coredns_plugin_enabled", "coredns_kubernetes_rest_client_requests"):
        theirs, ours = (
            sorted((*sample.labels.items(), sample.value) for sample in scraped.after[name].samples)
            for scraped in pair
        )
        assert theirs == ours


def test_the_standard_process_metrics(pair):
    theirs, ours = (
        {name: family.type for name, family in scraped.after.items() if name.startswith("process_")}
        for scraped in pair
    )
    assert theirs == ours | {name: theirs[name] for name in PROCESS_MISSING}
    assert pair[0].content_type.partition(";")[0] == pair[1].content_type.partition(";")[0]
    assert "version=0.0.4" in pair[0].content_type and "version=0.0.4" in pair[1].content_type


def _reloads(run: Callable[..., Any], directory: Path) -> list[dict[str, tuple[float, str]]]:
    """Return the metrics of reloads, with their help: at first, after one that fails, after one."""
    port = peers.free_port()
    text = f". {{\n prometheus 127.0.0.1:{port}\n reload 2s 1s\n whoami\n}}\n"
    texts = (text, text + ". {\n bogus\n}\n", text.replace(" whoami", " errors\n whoami"))
    found: list[dict[str, tuple[float, str]]] = []
    with run(text, directory) as server:
        path = next(directory.glob(f"Corefile-*-{server.port}"))
        for content, reason in zip(texts, ("", "failed", "errors"), strict=True):
            path.write_text(content)

            def is_told(reason: str = reason) -> bool:
                pairs = [(f, s) for f in _scrape(port, {})[0].values() for s in f.samples]
                told = {
                    s.name: (s.value, family.documentation)
                    for family, s in pairs
                    if s.name.startswith("coredns_reload_")
                }
                enabled = {s.labels["name"] for _, s in pairs if s.name == "coredns_plugin_enabled"}
                if reason == "failed" and not told["coredns_reload_failed_total"][0]:
                    return False
                if reason == "errors" and reason not in enabled:
                    return False
                assert all(s.labels["hash"] == "sha512" for _, s in pairs if "_version_" in s.name)
                found.append(told)
                return True

            _wait(is_told, server)
    return found


def test_reloads_count_the_same(tmp_path):
    """CoreDNS also says the version of a Corefile that it could not load; ours is one in force."""
    theirs, ours = (_reloads(run, tmp_path) for run in (peers.coredns, peers.clusterdns))
    assert theirs[1].pop("coredns_reload_version_info")
    assert theirs == ours
    assert [1, 2, 1] == [
        len(theirs[0]),
        len(theirs[2]),
        ours[2]["coredns_reload_failed_total"][0],
    ]
