"""Names that objects publish, `endpoint`: the real process and an API server."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest
from faultyapi import FaultyApi
from peers import Server, ask_udp, clusterdns, free_port
from test_watch import cluster, eventually, metric

GROUP = "externaldns.k8s.io"


def endpoint(name: str, *records: tuple[str, str, str], created: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "a"}
    return {
        "kind": "DNSEndpoint",
        "metadata": metadata | ({"creationTimestamp": created} if created else {}),
        "spec": {
            "endpoints": [
                {"dnsName": owner, "recordType": rtype, "targets": [target]}
                for owner, rtype, target in records
            ]
        },
    }


@contextlib.contextmanager
def serving(directory: Path, api: FaultyApi, *plugins: str, **more: str) -> Iterator[Any]:
    port = free_port()
    lines = "\n  ".join(plugins)
    option = more.get("option", "")
    corefile = (
        f".:{{PORT}} {{\n  kubernetes cluster.local {{\n    endpoint {api.url}\n    {option}\n  }}\n"
        f"  {lines}\n  cache 30\n  ready 127.0.0.1:{free_port()}\n  prometheus 127.0.0.1:{port}\n}}\n"
    )
    with clusterdns(corefile, directory) as server:
        yield server, port


def ask(server: Server, name: str, rdtype: str = "A", *, by: str = "") -> tuple[str, set[str]]:
    octets = ask_udp(server.address, dns.message.make_query(name, rdtype).to_wire(), by=by)
    assert octets is not None, f"no reply about {name}"
    reply = dns.message.from_wire(octets)
    return dns.rcode.to_text(reply.rcode()), {str(rd) for rrset in reply.answer for rd in rrset}


def test_endpoints_come_and_go_within_a_second(tmp_path):
    with (
        FaultyApi(cluster(3)) as api,
        serving(tmp_path, api, "endpoint apps.test") as (server, port),
    ):
        assert ("NXDOMAIN", set()) == ask(server, "web.apps.test.")
        api.apply(
            endpoint("x", ("web.apps.test", "A", "192.0.2.1"), ("evil.test", "A", "192.0.2.6"))
        )
        eventually(lambda: ask(server, "web.apps.test.")[1] == {"192.0.2.1"}, 1)
        assert ("NOERROR", set()) == ask(server, "web.apps.test.", "AAAA")
        assert "NOERROR" != ask(server, "evil.test.")[0]
        api.apply(
            endpoint("x", ("web.apps.test", "A", "192.0.2.2"), ("evil.test", "A", "192.0.2.6"))
        )
        eventually(lambda: ask(server, "web.apps.test.")[1] == {"192.0.2.2"}, 1)
        (line,) = [line for line in server.output.splitlines() if "evil.test" in line]
        assert "DNSEndpoint a/x: evil.test A is in none of the zones: left out" in line
        assert 1 == metric(port, "clusterdns_endpoint_names", zone="apps.test.")
        assert 1 == metric(port, "clusterdns_endpoint_left_out_records", reason="outside")
        assert 1 == metric(port, "clusterdns_kubernetes_objects", kind="dnsendpoints")
        api.delete("DNSEndpoint", "x", "a")
        eventually(lambda: ask(server, "web.apps.test.")[0] == "NXDOMAIN", 1)
        assert 0 == metric(port, "clusterdns_endpoint_left_out_records")


def test_without_the_definition_there_are_none_until_it_is_there(tmp_path):
    """One line says so, and nothing else is affected."""
    with FaultyApi([*cluster(3), endpoint("x", ("web.apps.test", "A", "192.0.2.1"))]) as api:
        api.statuses["dnsendpoints"] = (404, {})
        with serving(tmp_path, api, "endpoint apps.test") as (server, _):
            assert {"10.0.0.2"} == ask(server, "s2.a.svc.cluster.local.")[1]
            assert ("NXDOMAIN", set()) == ask(server, "web.apps.test.")
            (line,) = [line for line in server.output.splitlines() if "dnsendpoints" in line]
            assert "WARNING" in line and "CustomResourceDefinition" in line and GROUP in line
            del api.statuses["dnsendpoints"]
            eventually(lambda: ask(server, "web.apps.test.")[1] == {"192.0.2.1"}, 35)


def test_without_the_right_only_these_zones_fail(tmp_path):
    with FaultyApi([*cluster(3), endpoint("x", ("web.apps.test", "A", "192.0.2.1"))]) as api:
        api.statuses["dnsendpoints"] = (403, {})
        started = time.monotonic()
        with serving(tmp_path, api, "endpoint apps.test") as (server, _):
            assert time.monotonic() - started < 5
            assert ("NXDOMAIN", set()) == ask(server, "nosuch.a.svc.cluster.local.")
            assert ("SERVFAIL", set()) == ask(server, "web.apps.test.")
            lines = [line for line in server.output.splitlines() if "dnsendpoints" in line]
            assert len(lines) == 1 and "the ClusterRole needs the verbs list and watch" in lines[0]
            assert "plugins not ready" not in server.output
            del api.statuses["dnsendpoints"]
            eventually(lambda: ask(server, "web.apps.test.")[1] == {"192.0.2.1"}, 35)


def test_endpoints_are_kept_over_a_reload_and_in_the_snapshot(tmp_path):
    option = f"snapshot {tmp_path / 'snapshot'}"
    with FaultyApi([*cluster(3), endpoint("x", ("web.apps.test", "A", "192.0.2.1"))]) as api:
        with serving(tmp_path, api, "endpoint apps.test", option=option) as (server, _):
            assert {"192.0.2.1"} == ask(server, "web.apps.test.")[1]
            eventually(lambda: (tmp_path / "snapshot").exists(), 15)
            api.down()
            (corefile,) = tmp_path.glob("Corefile-*")
            corefile.write_text(corefile.read_text().replace("cache 30", "cache 20"))
            server.process.send_signal(signal.SIGUSR1)
            deadline = time.monotonic() + 12
            while "Reloading complete" not in server.output and time.monotonic() < deadline:
                assert {"192.0.2.1"} == ask(server, "web.apps.test.")[1]
                time.sleep(0.02)
            assert {"192.0.2.1"} == ask(server, "web.apps.test.")[1]
            assert "Reloading complete" in server.output
        with serving(tmp_path, api, "endpoint apps.test", option=option) as (server, _):
            eventually(lambda: ask(server, "web.apps.test.")[1] == {"192.0.2.1"}, 8)


INGRESS = {
    "kind": "Ingress",
    "metadata": {"name": "x", "namespace": "a"},
    "spec": {"rules": [{"host": "web.apps.test"}]},
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
}


@pytest.mark.parametrize("plugin", ["endpoint", "ingress"])
def test_published_names_are_handed_over_while_the_api_server_is_down(tmp_path, plugin):
    made = {"endpoint": endpoint("x", ("web.apps.test", "A", "192.0.2.1")), "ingress": INGRESS}
    with (
        FaultyApi([*cluster(3), made[plugin]]) as api,
        serving(tmp_path, api, f"{plugin} apps.test") as (server, _),
    ):
        expected = ("NOERROR", {"192.0.2.1"})
        assert expected == ask(server, "web.apps.test.")
        eventually(lambda: "packet path: " in server.output, 10)
        api.down()
        wrong: list[object] = []
        server.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 30
        while "Hand-over complete" not in server.output and time.monotonic() < deadline:
            found = ask(server, "web.apps.test."), ask(server, "nosuch.apps.test.")
            wrong += [found] if found != (expected, ("NXDOMAIN", set())) else []
            time.sleep(0.01)
        assert "Hand-over complete" in server.output, server.output[-2000:]
        assert expected == ask(server, "web.apps.test.")
        assert [] == wrong
        api.up()
        api.delete(made[plugin]["kind"], "x", "a")
        eventually(lambda: ask(server, "web.apps.test.")[0] == "NXDOMAIN", 10)
