"""The live API: scoreboard rows K1 to K10, each against a fake API server with the row's faults.

``K10``, no request loop above five a second, is held in every test that ends through ``calm``.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import dns.flags
import dns.message
import dns.rcode
import pytest
import scoreboard
from faultyapi import ALL, FaultyApi
from peers import Server, ask_udp, clusterdns, free_port

from clusterdns.cluster.source import Source
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

MAX_RATE = 5.0  # K10: requests a second
OUTAGE_S = scoreboard.size("OUTAGE_S", 15.0, 600.0)  # K2
SYNC_S = scoreboard.size("SYNC_S", 9.0, 3.0)  # K7: the row's on a machine of its own
CHAOS_S = scoreboard.size("CHAOS_S", 20.0, 300.0)  # K4; the row says 3600


def namespace(name: str = "a") -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": name}}


def service(name: str, address: str, namespace: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, **more},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }


def endpoints(
    service: str, *addresses: str, name: str = "", namespace: str = "a"
) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service}-x",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


def address(i: int) -> str:
    return f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"


def cluster(services: int) -> list[dict[str, Any]]:
    return [namespace(), *(service(f"s{i}", address(i)) for i in range(services))]


def ask(
    server: Server, name: str, rdtype: str = "A", zone: str = "cluster.local."
) -> tuple[str, set[str]]:
    """Return the rcode and the data of the answer to a question about the cluster."""
    query = dns.message.make_query(f"{name}.svc.{zone}", rdtype)
    octets = ask_udp(server.address, query.to_wire())
    assert octets is not None, f"no reply about {name}"
    reply = dns.message.from_wire(octets)
    return dns.rcode.to_text(reply.rcode()), {str(rd) for rrset in reply.answer for rd in rrset}


def eventually(check: Callable[[], bool], within_s: float) -> float:
    """Wait until something holds, and return how long it took."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < within_s, f"not within {within_s} s"
        time.sleep(0.005)
    return time.monotonic() - started


def watcher_of(server: Server) -> int:
    """Return the process that has a connection to the API server's package: the watcher."""
    children = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for pid in children:
        with contextlib.suppress(OSError):
            if "urllib3" in Path(f"/proc/{pid}/maps").read_text() or threads(int(pid)) > 2:
                return int(pid)
    raise AssertionError("no watcher")


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    found = 0.0
    for line in lines:
        if line.startswith((name + "{", name + " ")):
            text, _, value = line.rpartition(" ")
            if all(f'{label}="{wanted}"' in text for label, wanted in labels.items()):
                found += float(value)
    return found


@contextlib.contextmanager
def serving(
    directory: Path,
    api: FaultyApi | None = None,
    *options: str,
    zones: str = "cluster.local",
    outside: str = "",
) -> Iterator[tuple[Server, int]]:
    """Run clusterdns on an API server; yield it and the port of its metrics."""
    port = free_port()
    lines = "\n    ".join([f"endpoint {api.url}" if api else "", *options])
    corefile = (
        f".:{{PORT}} {{\n  kubernetes {zones} {{\n    {lines}\n  }}\n  cache 30\n"
        f"  prometheus 127.0.0.1:{port}\n  {outside}\n}}\n"
    )
    with clusterdns(corefile, directory) as server:
        yield server, port


def calm(api: FaultyApi) -> float:
    """K10: hold that the API server was never asked in a loop; return the highest rate."""
    assert api.busiest() <= MAX_RATE, api.requests[-20:]
    return api.busiest()


@pytest.mark.row("K1")
def test_k1_start_while_the_api_is_down(tmp_path, figure):
    """SERVFAIL, nothing forwarded, until the server comes; then everything within 2 s."""
    upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    upstream.bind(("127.0.0.1", 0))
    upstream.setblocking(False)
    outside = f"forward . 127.0.0.1:{upstream.getsockname()[1]} {{\n except invalid\n }}"
    with FaultyApi(cluster(1000)) as api:
        api.down()
        with serving(tmp_path, api, outside=outside) as (server, _):
            # startup_timeout is 5 s, as in CoreDNS; a busy machine starts interpreters slowly.
            assert age_s(server) < 6
            for name in ("s1.a", "nosuch.a", "a", "x.s1.a", "_http._tcp.s1.a"):
                for rdtype in ("A", "AAAA", "SRV", "TXT"):
                    assert ("SERVFAIL", set()) == ask(server, name, rdtype)
            with contextlib.suppress(BlockingIOError):
                while octets := upstream.recv(512):
                    assert b"cluster" not in octets
            api.up()
            # A name error needs every kind, the others are lists of their own.
            took_s = eventually(
                lambda: (
                    ask(server, "s999.a")[1] == {address(999)}
                    and ask(server, "nosuch.a")[0] == "NXDOMAIN"
                ),
                2,
            )
        calm(api)
        figure("K1", "1,000 Services synced {s:.2f} s after its return", s=took_s)
    upstream.close()


def age_s(server: Server) -> float:
    """Return since when the first child of a server has been running, in seconds."""
    pid = server.process.pid
    first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    fields = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks


@pytest.mark.row("K2", "K10")
def test_k2_outage(tmp_path, figure):
    """An outage changes no answer, costs next to nothing, and is over soon after its end."""
    with FaultyApi(cluster(20)) as api, serving(tmp_path, api) as (server, metrics):
        assert {address(3)} == ask(server, "s3.a")[1]
        pid = watcher_of(server)
        api.statuses[ALL] = (503, {})
        api.reset_connections()
        time.sleep(3)
        before, asked, started = cpu_s(pid), len(api.times), time.monotonic()
        while time.monotonic() - started < OUTAGE_S:
            for i in range(20):
                assert {address(i)} == ask(server, f"s{i}.a")[1]
            time.sleep(0.5)
        rate, share = (len(api.times) - asked) / OUTAGE_S, (cpu_s(pid) - before) / OUTAGE_S
        assert rate <= 0.4
        assert share <= 0.01
        assert 20 == metric(metrics, "clusterdns_kubernetes_stale_objects", kind="services")
        api.down()
        api.apply(service("s3", "10.9.9.9"))
        api.apply(service("new", "10.9.9.8"))
        api.delete("Service", "s4", "a")
        time.sleep(1)
        api.statuses.clear()
        api.up()
        took_s = eventually(lambda: ask(server, "new.a")[1] == {"10.9.9.8"}, 6)
        assert {"10.9.9.9"} == ask(server, "s3.a")[1]
        eventually(lambda: ask(server, "s4.a")[0] == "NXDOMAIN", 1)
        assert 0 == metric(metrics, "clusterdns_kubernetes_stale_objects", kind="services")
        assert pid == watcher_of(server)
        figure(
            "K2",
            "{outage_s:.0f} s: {rate:.2f} requests/s, {percent:.2f} % of a core; over {s:.1f} s after it",
            outage_s=OUTAGE_S, rate=rate, percent=100 * share, s=took_s,
        )  # fmt: skip
        figure("K10", "in an outage {rate} requests/s at most", rate=calm(api))


@pytest.mark.row("K4", "K10")
@pytest.mark.slow
def test_k4_chaos(tmp_path, figure):
    """Whatever fails in whatever order, at rest every name is what the API server has."""
    rng = random.Random(4)
    names = [f"s{i}" for i in range(40)]
    with FaultyApi(cluster(60), seed=4) as api, serving(tmp_path, api, "audit 4s") as (server, _):
        pid = watcher_of(server)
        backup = api.save()
        faults: list[Callable[[], object]] = [
            lambda: api.reset_connections(),
            lambda: api.compact(),
            lambda: api.inject("services", b'{"type":"MODIFIED","object":\n'),
            lambda: api.inject("services", b"\xff\xfe{}\n[1]\nnull\n"),
            lambda: setattr(api, "cuts", rng.choice((0, 0.05))),
            lambda: setattr(api, "repeats", rng.choice((0, 0.2))),
            lambda: setattr(api, "errors", rng.choice((0, 0.3))),
            lambda: setattr(api, "ends_at_once", rng.random() < 0.2),
            lambda: setattr(api, "streams_lists", rng.choice((True, False))),
            lambda: api.restore(backup),
        ]
        until, changes, failures = time.monotonic() + CHAOS_S, 0, 0
        while time.monotonic() < until:
            changes += 5
            for _ in range(5):
                name = rng.choice(names)
                if rng.random() < 0.3 and ("a", name) in api.objects["services"]:
                    api.delete("Service", name, "a")
                else:
                    api.apply(service(name, address(rng.randrange(2**24))))
            if rng.random() < 0.15:
                failures += 1
                rng.choice(faults)()
            stable = f"s{rng.randrange(40, 60)}"
            assert {address(int(stable[1:]))} == ask(server, f"{stable}.a")[1]
            time.sleep(0.1)
        api.cuts = api.repeats = api.errors = 0
        api.ends_at_once = False
        model = {
            name: found["spec"]["clusterIPs"][0]
            for (_, name), found in api.objects["services"].items()
        }

        def is_as_model() -> bool:
            return all(
                ask(server, f"{name}.a")[1] == ({model[name]} if name in model else set())
                for name in [*names, *model]
            )

        took_s = eventually(is_as_model, 5)
        assert pid == watcher_of(server)
        figure(
            "K4",
            "{chaos_s:.0f} s, {changes} changes, {failures} faults: every name right {s:.1f} s after "
            "no other answer to names that did not change, no restart",
            chaos_s=CHAOS_S, changes=changes, failures=failures, s=took_s,
        )  # fmt: skip
        figure("K10", "with faults at random {rate} requests/s at most", rate=calm(api))


@pytest.mark.row("K5")
def test_k5_lost_events_are_found_by_the_audit(tmp_path, figure):
    """A server that loses events silently: healed within one period, and counted."""
    with FaultyApi(cluster(200)) as api, serving(tmp_path, api, "audit 3s") as (server, metrics):
        assert {address(7)} == ask(server, "s7.a")[1]
        for i in (7, 8):
            api.lose(service(f"s{i}", f"10.200.0.{i}"))
        api.lose(service("unheard", "10.200.0.1"))
        with api.changed:
            del api.objects["services"]["a", "s9"]
        assert {address(7)} == ask(server, "s7.a")[1]
        # The period, and what the lists of a busy machine take.
        took_s = eventually(lambda: ask(server, "unheard.a")[1] == {"10.200.0.1"}, 3 + 1)
        eventually(lambda: ask(server, "s9.a")[0] == "NXDOMAIN", 1)
        assert {"10.200.0.7"} == ask(server, "s7.a")[1]
        divergences = "clusterdns_kubernetes_audit_divergences_total"
        assert 4 == metric(metrics, divergences, kind="services")
        audits = metric(metrics, "clusterdns_kubernetes_audits_total", kind="services")
        eventually(
            lambda: metric(metrics, "clusterdns_kubernetes_audits_total", kind="services") > audits,
            9,
        )
        assert 4 == metric(metrics, divergences, kind="services"), "healed, and found whole since"
        calm(api)
        figure("K5", "4 of 4 lost events healed {s:.1f} s later, with an audit every 3 s", s=took_s)


@pytest.mark.row("K6")
def test_k6_change_to_answer(tmp_path, figure):
    """100 changes a second, each asked for before it comes: at rest within milliseconds."""
    took: list[float] = []
    count = scoreboard.size("CHANGES", 300, 3000)
    with FaultyApi(cluster(500)) as api, serving(tmp_path, api) as (server, _):
        for i in range(count):
            assert "NXDOMAIN" == ask(server, f"n{i}.a")[0]
        due = time.monotonic()
        for i in range(count):
            due += 0.01
            time.sleep(max(0.0, due - time.monotonic()))
            changed = time.monotonic()
            api.apply(service(f"n{i}", address(70_000 + i)))
            while ask(server, f"n{i}.a")[1] != {address(70_000 + i)}:
                assert time.monotonic() - changed < 1
            took.append(time.monotonic() - changed)
        calm(api)
    took.sort()
    assert statistics.median(took) <= 0.010, took[::30]
    assert took[int(len(took) * 0.99)] <= 0.100, took[-5:]
    figure(
        "K6",
        "{count} changes, 100 a second: p50 {p50:.1f} ms, p99 {p99:.1f} ms, all within {most:.0f} ms",
        count=len(took), p50=1000 * statistics.median(took),
        p99=1000 * took[int(len(took) * 0.99)], most=1000 * took[-1],
    )  # fmt: skip


@pytest.mark.row("K7")
@pytest.mark.slow
def test_k7_a_large_cluster(tmp_path, figure):
    """10,000 Services and as many slices of five endpoints: synced soon, in bounded memory."""
    objects = cluster(10_000)
    for i in range(10_000):
        some = (address(2**20 + 5 * i + k) for k in range(5))
        objects.append(endpoints(f"s{i}", *some))
    started = time.monotonic()
    with FaultyApi(objects) as api, serving(tmp_path, api, "startup_timeout 60s") as (server, _):
        assert {address(9999)} == ask(server, "s9999.a")[1]
        took_s = time.monotonic() - started
        assert took_s <= SYNC_S
        peak = Path(f"/proc/{watcher_of(server)}/status").read_text()
        (line,) = [line for line in peak.splitlines() if line.startswith("VmHWM")]
        mib = int(line.split()[1]) / 1024
        assert mib <= 120, line
        calm(api)
        figure("K7", "answered {s:.1f} s after the start, watcher {mib:.0f} MiB", s=took_s, mib=mib)


def kubeconfig(directory: Path, api: FaultyApi, token: Path) -> Path:
    path = directory / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: wrong\n"
        f"clusters:\n- name: c\n  cluster: {{server: '{api.url}'}}\n"
        "- name: d\n  cluster: {server: 'http://127.0.0.1:1'}\n"
        f"users:\n- name: u\n  user: {{tokenFile: '{token}'}}\n"
        "contexts:\n- name: right\n  context: {cluster: c, user: u}\n"
        "- name: wrong\n  context: {cluster: d, user: u}\n"
    )
    return path


@pytest.mark.row("K8")
def test_k8_tokens_that_change(tmp_path, figure):
    """Each new token takes effect with one refused request at most, and nothing is stale for it."""
    token = tmp_path / "token"
    token.write_text("first\n")
    with FaultyApi(cluster(20)) as api:
        api.tokens = {"first"}
        config = kubeconfig(tmp_path, api, token)
        with serving(tmp_path, None, f"kubeconfig {config} right") as (server, _):
            assert {address(3)} == ask(server, "s3.a")[1]
            took, most, count = list[float](), 0, scoreboard.size("TOKENS", 3, 30)
            for i in range(count):
                token.write_text(f"token{i}")
                refused, api.tokens = api.refused_tokens, {f"token{i}"}
                api.reset_connections()
                api.apply(service("s3", f"10.7.7.{i}"))
                took.append(eventually(lambda i=i: ask(server, "s3.a")[1] == {f"10.7.7.{i}"}, 6))
                time.sleep(1.5)
                most = max(most, api.refused_tokens - refused)
                assert most <= 3, "one for each kind"
        calm(api)
        figure(
            "K8",
            "{count} tokens, with a reset of all 3 watches each time: {most} refused requests at most, "
            "the change behind in force after {s:.1f} s",
            count=count, most=most, s=max(took),
        )  # fmt: skip


@pytest.mark.row("K9")
@pytest.mark.parametrize(
    "poison",
    [
        b"this is no JSON at all\n",
        b'{"type":"ADDED","object":{"kind":"Service","metadata":{"name":"p","namespace":"a"},"spec":7}}\n',
        b'{"type":"ADDED","object":{"kind":"Service","metadata":null}}\n',
        b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"p","namespace":"a"}}}\n',
        b'{"type":"ADDED","object":{"kind":"Service","metadata":{"name":"p\xff","namespace":"a"}}}\n',
        b'{"type":"BOOKMARK","object":{}}\n{"type":7}\n[[[]]]\n',
        b"[" * 100_000 + b"\n",
        b'{"type":"ADDED","object":{"spec":"' + b"x" * (10 * 2**20) + b'"}}\n',
    ],
    ids=["garbage", "shape", "metadata", "kind", "utf8", "types", "deep", "huge"],
)
def test_k9_a_poisoned_event(tmp_path, poison, figure):
    """What cannot be read is skipped; what comes behind it is in force within a second."""
    with FaultyApi(cluster(5)) as api, serving(tmp_path, api) as (server, metrics):
        assert {address(3)} == ask(server, "s3.a")[1]
        api.inject("services", poison)
        api.apply(service("after", "10.1.2.3"))
        took_s = eventually(lambda: ask(server, "after.a")[1] == {"10.1.2.3"}, 1)
        assert {address(3)} == ask(server, "s3.a")[1]
        assert 1 <= metric(metrics, "clusterdns_kubernetes_skipped_objects_total", kind="services")
        assert 0 == metric(metrics, "clusterdns_kubernetes_reconnects_total")
        calm(api)
        figure("K9", "{runs} kinds of events: the next one in force after {s:.2f} s", s=took_s)


@pytest.mark.row("K9")
def test_k9_a_poisoned_object_in_the_list(tmp_path, figure):
    poisons = [service("bad", "10.0.0.1"), service("worse", "10.0.0.2")]
    poisons[0]["spec"]["ports"] = "none"
    poisons[1]["spec"]["padding"] = "x" * (9 * 2**20)
    for streams in (True, False):
        with FaultyApi([*cluster(5), *poisons, service("after", "10.1.2.3")]) as api:
            api.streams_lists = streams
            with serving(tmp_path, api) as (server, metrics):
                assert {"10.1.2.3"} == ask(server, "after.a")[1]
                skipped = "clusterdns_kubernetes_skipped_objects_total"
                assert 2 == metric(metrics, skipped, kind="services")
            calm(api)
    figure("K9", "2 kinds of objects in lists: the others answered at the start")


@pytest.mark.row("K10")
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"statuses": {"endpointslices": (403, {})}},
         'not allowed to watch endpointslices: the ClusterRole needs the verbs list and watch for '
         'resource "endpointslices" in API group "discovery.k8s.io"'),
        ({"statuses": {ALL: (401, {})}}, "services: HTTP 401"),
        ({"statuses": {ALL: (429, {"Retry-After": "30"})}}, "API server in trouble: HTTP 429"),
        ({"statuses": {ALL: (500, {})}}, "API server in trouble: HTTP 500"),
        ({"statuses": {ALL: (302, {"Location": "http://127.0.0.1:1/"})}}, "HTTP 302"),
        ({"pages": dict.fromkeys(("services", "namespaces", "endpointslices"), "<html>log in</html>")},
         "answers with text/html instead of application/json"),
        ({"ends_at_once": True}, ""),
        ({"loses": 1.0}, ""),
        ({"statuses": {ALL: (410, {})}}, "listing again"),
        ({"oldest": 10**9}, "listing again"),
    ],
    ids=["403", "401", "429", "500", "redirect", "html", "ends", "loses", "410", "too old"],
)  # fmt: skip
def test_k10_no_request_loop(tmp_path, fault, line, figure):
    """A server that goes on failing is asked ever more slowly, and the log says why, once."""
    with FaultyApi(cluster(5)) as api:
        for name, value in fault.items():
            setattr(api, name, value)
        with serving(tmp_path, api, "startup_timeout 100ms") as (server, _):
            time.sleep(8)
            assert line in server.output
            assert server.output.count(line) <= 4 or line in ("", "listing again")
        rate = calm(api)
        assert len(api.times) <= 25
        if "Retry-After" in str(fault):
            assert len(api.times) <= 3, "30 s were asked for"
        figure(
            "K10",
            "{runs} kinds of faults for 8 s: {rate} requests/s and {most} in all at most",
            rate=rate, most=len(api.times),
        )  # fmt: skip


@pytest.mark.parametrize("streams", [True, False, None], ids=["streamed", "pages", "ignored"])
def test_lists_of_every_kind(tmp_path, streams):
    """Streamed where that is known, else in pages, also where continue tokens expire."""
    with FaultyApi([*cluster(1200), endpoints("s1", "10.5.0.1")]) as api:
        api.streams_lists = streams
        api.sends_bookmarks_s = 0.3
        api.expires_pages = 1
        with serving(tmp_path, api) as (server, _):
            eventually(lambda: ask(server, "s1199.a")[1] == {address(1199)}, 5)
            assert {"10.5.0.1"} == ask(server, "10-5-0-1.s1.a")[1]
            requests = list(api.requests)
            assert (streams is not True) == any("continue=" in path for path in requests)
            api.apply(service("later", "10.1.2.3"))
            eventually(lambda: ask(server, "later.a")[1] == {"10.1.2.3"}, 1)


def test_selectors_are_the_servers_work(tmp_path):
    pod = {"kind": "Pod", "metadata": {"name": "p", "namespace": "a"},
           "status": {"phase": "Running", "podIP": "10.4.0.1"}}  # fmt: skip
    objects = [
        {"kind": "Namespace", "metadata": {"name": "a", "labels": {"dns": "yes"}}},
        service("in", "10.0.0.1", labels={"app": "x"}),
        service("out", "10.0.0.2"),
        pod,
    ]
    options = ("labels app in (x, y)", "namespace_labels dns=yes", "pods verified")
    with FaultyApi(objects) as api, serving(tmp_path, api, *options) as (server, _):
        assert {"10.0.0.1"} == ask(server, "in.a")[1]
        assert "NXDOMAIN" == ask(server, "out.a")[0]
        asked = {path.partition("?")[0].rpartition("/")[2]: path for path in api.requests}
        assert "labelSelector=app+in+%28x%2C+y%29" in asked["endpointslices"]
        assert "labelSelector=dns%3Dyes" in asked["namespaces"]
        assert "status.phase%21%3DSucceeded" in asked["pods"]


def test_service_imports_may_be_unknown_to_the_cluster(tmp_path):
    """Without their definition there are none; once it is there, they resolve."""
    zones = ("multicluster clusterset.local",)
    imported = {
        "kind": "ServiceImport",
        "metadata": {"name": "far", "namespace": "a"},
        "spec": {"type": "ClusterSetIP", "ips": ["10.9.0.1"], "ports": [{"port": 80}]},
    }

    def addresses(server: Server) -> set[str]:
        return ask(server, "far.a", zone="clusterset.local.")[1]

    with FaultyApi([*cluster(3), imported]) as api:
        api.statuses["serviceimports"] = (404, {})
        with serving(tmp_path, api, *zones, zones="cluster.local clusterset.local") as (server, _):
            assert ("NXDOMAIN", set()) == ask(server, "far.a", zone="clusterset.local.")
            assert {address(2)} == ask(server, "s2.a")[1]
            (line,) = [line for line in server.output.splitlines() if "serviceimports" in line]
            assert "404" in line
            del api.statuses["serviceimports"]
            eventually(lambda: addresses(server) == {"10.9.0.1"}, 35)
            asked = [path for path in api.requests if "multicluster.kubernetes.io" in path]
            assert all("/endpointslices?" in path for path in asked) and asked
            api.delete("ServiceImport", "far", "a")
            eventually(lambda: addresses(server) == set(), 1)


def test_how_long_changes_took(tmp_path):
    """From what the controller saw to us, by kind of Service, as CoreDNS has it."""
    headless = service("h", "None")
    with FaultyApi([*cluster(2), headless]) as api, serving(tmp_path, api) as (server, metrics):
        for name in ("s1", "h", "nosuch"):
            found = endpoints(name, "10.5.0.1")
            at = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(time.time() - 100))
            found["metadata"]["annotations"] = {
                "endpoints.kubernetes.io/last-change-trigger-time": at
            }
            api.apply(found)
        eventually(lambda: ask(server, "h.a")[1] == {"10.5.0.1"}, 1)
        took = "coredns_kubernetes_dns_programming_duration_seconds"
        for kind in ("cluster_ip", "headless_with_selector"):
            assert 1 == metric(metrics, f"{took}_count", service_kind=kind)
            assert 98 < metric(metrics, f"{took}_sum", service_kind=kind) < 103


def test_a_server_that_went_back_in_time(tmp_path):
    """What it has now is the truth, and the log says so."""
    with FaultyApi(cluster(5)) as api, serving(tmp_path, api) as (server, _):
        backup = api.save()
        api.apply(service("s1", "10.6.6.6"))
        api.apply(service("young", "10.6.6.7"))
        eventually(lambda: ask(server, "young.a")[1] == {"10.6.6.7"}, 1)
        api.restore(backup)
        eventually(lambda: ask(server, "young.a")[0] == "NXDOMAIN", 6)
        assert {address(1)} == ask(server, "s1.a")[1]
        assert "went back from version" in server.output
        calm(api)


@pytest.mark.parametrize("last", ["changed", "deleted"])
def test_a_server_that_went_back_and_on_again(tmp_path, last):
    """It has as many changes again by the time it is asked, so our version is one of its own."""
    with FaultyApi(cluster(5)) as api, serving(tmp_path, api) as (server, _):
        backup = api.save()
        api.apply(service("s1", "10.6.6.6"))
        api.apply(service("young", "10.6.6.7"))
        if last == "deleted":
            api.delete("Service", "s2", "a")
            eventually(lambda: ask(server, "s2.a")[0] == "NXDOMAIN", 1)
        eventually(lambda: ask(server, "young.a")[1] == {"10.6.6.7"}, 1)
        api.down()
        api.restore(backup)
        for i in range(20):
            api.apply(service("other", f"10.7.0.{i}"))
        api.up()
        eventually(lambda: ask(server, "young.a")[0] == "NXDOMAIN", 6)
        assert {address(1)} == ask(server, "s1.a")[1]
        assert {address(2)} == ask(server, "s2.a")[1]
        calm(api)


def test_a_snapshot_stands_in_for_the_api(tmp_path):
    """A start without an API server serves what was known, stale, and heals when it comes."""
    with FaultyApi([*cluster(50), endpoints("s1", "10.5.0.1")]) as api:
        with serving(tmp_path, api, "snapshot known") as (server, _):
            assert {address(3)} == ask(server, "s3.a")[1]
            eventually((tmp_path / "known").exists, 15)
        api.down()
        api.apply(service("s3", "10.9.9.9"))
        api.delete("Service", "s4", "a")
        with serving(tmp_path, api, "snapshot known") as (server, metrics):
            assert {address(3)} == ask(server, "s3.a")[1]
            assert {"10.5.0.1"} == ask(server, "10-5-0-1.s1.a")[1]
            assert "NXDOMAIN" == ask(server, "nosuch.a")[0]
            assert "from the snapshot of" in server.output
            assert 50 == metric(metrics, "clusterdns_kubernetes_stale_objects", kind="services")
            assert 0 < metric(metrics, "clusterdns_kubernetes_snapshot_age_seconds")
            api.up()
            eventually(lambda: ask(server, "s3.a")[1] == {"10.9.9.9"}, 6)
            eventually(lambda: ask(server, "s4.a")[0] == "NXDOMAIN", 1)
            assert 0 == metric(metrics, "clusterdns_kubernetes_snapshot_age_seconds")
        api.down()
        known = bytearray((tmp_path / "known").read_bytes())
        (tmp_path / "known").write_bytes(known[: len(known) // 2])
        with serving(tmp_path, api, "snapshot known", "startup_timeout 3s") as (server, _):
            assert "SERVFAIL" == ask(server, "s3.a")[0]
            assert "snapshot not used" in server.output
        api.up()


@pytest.mark.slow
def test_a_watcher_that_hangs_is_replaced(tmp_path):
    """Answers go on meanwhile, and the new one brings what was missed."""
    with FaultyApi(cluster(20)) as api, serving(tmp_path, api) as (server, _):
        assert {address(3)} == ask(server, "s3.a")[1]
        pid = watcher_of(server)
        os.kill(pid, signal.SIGSTOP)
        api.apply(service("new", "10.9.9.8"))
        started = time.monotonic()
        while ask(server, "new.a")[0] == "NXDOMAIN":
            assert {address(3)} == ask(server, "s3.a")[1]
            assert time.monotonic() - started < 25
            time.sleep(0.1)
        assert {"10.9.9.8"} == ask(server, "new.a")[1]
        assert "does not beat any more" in server.output


def test_a_watcher_that_is_killed_is_replaced(tmp_path):
    with FaultyApi(cluster(20)) as api, serving(tmp_path, api) as (server, _):
        os.kill(watcher_of(server), signal.SIGKILL)
        api.delete("Service", "s4", "a")
        api.apply(service("new", "10.9.9.8"))
        while ask(server, "new.a")[0] == "NXDOMAIN":
            assert {address(3)} == ask(server, "s3.a")[1]
        eventually(lambda: ask(server, "s4.a")[0] == "NXDOMAIN", 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("endpoint", "needs an argument"),
        ("endpoint ftp://a", "is no URL of an API server"),
        ("endpoint http://[::1", "is no URL of an API server"),
        ("endpoint http://a:99999", "is no URL of an API server"),
        ("tls a b", "takes the files of certificate, key and CA"),
        ("tls a b c", "No such file"),
        ("kubeconfig", "takes a file, and a context"),
        ("kubeconfig nosuch", "No such file"),
        ("apiserver_qps -1", "wants a number of at least 0"),
        ("apiserver_qps nan", "wants a number of at least 0"),
        ("apiserver_qps x", "wants a number of at least 0"),
        ("apiserver_burst 1.5", "wants a whole number"),
        ("apiserver_max_inflight -1", "wants a whole number"),
        ("audit soon", "soon"),
        ("snapshot", "takes one argument"),
        ("endpoints http://a", "unknown property"),
        ("", "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and "
             "KUBERNETES_SERVICE_PORT must be defined"),
    ],
)  # fmt: skip
def test_options_that_are_wrong(line, reason, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=reason):
        sources_of(line)


def test_the_scheme_of_an_endpoint_need_not_be_given(tmp_path):
    """It is https where there is anything to do TLS with, as in client-go."""
    made = certificates.make(tmp_path)
    files = " ".join(str(made / name) for name in ("client.pem", "client.key", "ca.pem"))
    assert ["http://api:8080"] == [found.endpoint for found in sources_of("endpoint api:8080")]
    for lines in (f"endpoint api:6443\ntls {files}", f"tls {files}\nendpoint api:6443"):
        assert ["https://api:6443"] == [found.endpoint for found in sources_of(lines)]


def test_options_that_are_right():
    (source,) = sources_of(
        "endpoint https://a:6443/ https://b\n apiserver_qps 2.5\n apiserver_burst 7\n"
        "apiserver_max_inflight 3\n audit 90s\n labels a=b\n snapshot /x/known"
    )
    assert ("https://a:6443", 2.5, 7) == (source.endpoint, source.qps, source.burst)
    assert (90.0, "a=b", "/x/known") == (source.audit_s, source.selector, source.snapshot)
    assert "http://a:8080" == sources_of("endpoint a:8080")[0].endpoint


def sources_of(lines: str) -> list[Source]:
    text = f"cluster.local {{\n kubernetes {{\n {lines}\n }}\n}}\n"
    found = compile_text(text, "Corefile", port=53, environ={}, warn=lambda _: None)
    return found.sources


def test_the_environment_of_a_pod_is_needed(tmp_path):
    with (
        pytest.raises(RuntimeError, match="unable to load in-cluster configuration"),
        serving(tmp_path),
    ):
        pass


def pod(name: str, address: str) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a"},
        "status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"},
    }


def ready(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def rcode(server: Server, name: str, rdtype: str = "A") -> str:
    reply = ask_udp(server.address, dns.message.make_query(name, rdtype).to_wire())
    assert reply is not None
    return dns.rcode.to_text(dns.message.from_wire(reply).rcode())


@pytest.mark.parametrize("status", [403, 404])
def test_pods_that_may_not_be_listed_cost_their_names_alone(tmp_path, status):
    """A ClusterRole without Pods, and `pods verified`: CoreDNS answers every name error SERVFAIL."""
    port, snapshot = free_port(), tmp_path / "known"
    with FaultyApi([*cluster(20), pod("p", "10.1.2.3")]) as api:
        api.statuses["pods"] = status, {}
        options = "pods verified", f"snapshot {snapshot}"
        outside = f"ready 127.0.0.1:{port}"
        with serving(tmp_path, api, *options, outside=outside) as (server, _):
            assert {address(3)} == ask(server, "s3.a")[1]
            eventually(lambda: ready(port) == 200, 3)
            assert "unsynced" not in server.output, "it was not waited for"
            assert "NXDOMAIN" == ask(server, "nosuch.a")[0]
            assert "NXDOMAIN" == ask(server, "x.nosuch")[0]
            assert "NXDOMAIN" == rcode(server, "10-1-2-3.nosuch.pod.cluster.local.")
            assert "SERVFAIL" == rcode(server, "10-1-2-3.a.pod.cluster.local.")
            assert "SERVFAIL" == rcode(server, "10-1-2-4.a.pod.cluster.local.")
            if status == 403:
                assert "not allowed to watch pods" in server.output
            api.statuses.clear()
            name = "10-1-2-3.a.pod.cluster.local."
            eventually(lambda: rcode(server, name) == "NOERROR", 8)
            assert "NXDOMAIN" == rcode(server, "10-1-2-4.a.pod.cluster.local.")
        calm(api)


def test_endpoints_that_may_not_be_listed_cost_headless_names(tmp_path):
    """And readiness: a Pod that has replaced a good one must not be taken for as good."""
    port = free_port()
    headless = {**service("h", "None"), "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}
    with FaultyApi([*cluster(20), headless, endpoints("h", "10.1.1.1")]) as api:
        api.statuses["endpointslices"] = 403, {}
        outside = f"ready 127.0.0.1:{port}"
        with serving(
            tmp_path,
            api,
            "startup_timeout 1s",
            zones="cluster.local 10.in-addr.arpa",
            outside=outside,
        ) as (server, _):
            assert {address(3)} == ask(server, "s3.a")[1]
            assert "NXDOMAIN" == ask(server, "nosuch.a")[0]
            assert "NOERROR" == ask(server, "s3.a", "AAAA")[0]
            assert "SERVFAIL" == ask(server, "h.a")[0]
            assert "SERVFAIL" == rcode(server, "1.1.1.10.in-addr.arpa.", "PTR")
            assert "NOERROR" == rcode(server, "3.0.0.10.in-addr.arpa.", "PTR")
            assert 503 == ready(port)
            api.statuses.clear()
            eventually(lambda: {"10.1.1.1"} == ask(server, "h.a")[1], 8)
            eventually(lambda: ready(port) == 200, 3)
