"""The parts of the live API's watcher, each with its own faults; test_watch has the whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import scoreboard
from faultyapi import FaultyApi
from hypothesis import given, settings
from hypothesis import strategies as st
from test_watch import cluster, eventually, service

from clusterdns.cluster.api import backoff, snapshot
from clusterdns.cluster.api.access import TokenFile
from clusterdns.cluster.api.audit import Auditor
from clusterdns.cluster.api.backoff import Backoff, Gate, Timing
from clusterdns.cluster.api.client import ApiClient, Throttle, status_error
from clusterdns.cluster.api.jsonstream import Items, Lines, StreamError, load_line
from clusterdns.cluster.api.reflector import ObjectChange, Reflector
from clusterdns.cluster.objects import NAMESPACES, SERVICES, ObjectKey
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class World:
    """What a reflector has told."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, object] = {}
        self.lists = 0
        self.was_missing: set[ObjectKey] = set()
        self.refusals: set[str] = set()
        self.is_over = False

    def changed(self, _kind: str, changes: list[ObjectChange]) -> None:
        if self.is_over:
            raise SystemExit
        for key, fields in changes:
            if fields is None:
                self.objects.pop(key, None)
                self.was_missing.add(key)
            else:
                self.objects[key] = fields

    def listed(self, _kind: str, keys: set[ObjectKey]) -> None:
        self.lists += 1
        for key in self.objects.keys() - keys:
            del self.objects[key]

    def refused(self, kind: str) -> None:
        self.refusals.add(kind)


@contextlib.contextmanager
def reflecting(api: FaultyApi, **timing: float) -> Iterator[tuple[Reflector, World]]:
    """Run a reflector of Services, as fast as ``timing`` says."""
    world = World()
    source = Source("", (SERVICES,), endpoint=api.url)
    reflector = Reflector(
        SERVICES,
        source,
        client=ApiClient(source),
        gate=Gate(),
        sink=world,
        timing=Timing()._replace(**timing),
    )

    def run() -> None:
        with contextlib.suppress(SystemExit):
            reflector.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield reflector, world
    finally:
        world.is_over = True
        api.is_silent = False
        api.apply(service("over", "10.0.0.1"))
        thread.join(8)
        assert not thread.is_alive()


@pytest.mark.row("K3")
@pytest.mark.parametrize("sends_bookmarks_s", [0, 0.5])
def test_k3_half_open(sends_bookmarks_s, figure):
    """Silence is noticed, the watch taken up where it was, and nothing is lost or listed anew."""
    with FaultyApi(cluster(20)) as api:
        api.sends_bookmarks_s = sends_bookmarks_s
        # At full size the limit is that in force.
        limit_s = scoreboard.size("SILENCE_S", 1.5, Timing().watch_silence)
        with reflecting(api, watch_silence=limit_s, settled=1) as (reflector, world):
            eventually(lambda: len(world.objects) == 20, 3)
            api.is_silent = True
            time.sleep(0.3)
            api.apply(service("new", "10.9.9.8"))
            api.delete("Service", "s4", "a")
            silent = time.monotonic()
            noticed_s = eventually(lambda: not reflector.is_watching, limit_s + 1)
            assert time.monotonic() - silent > 0.5
            api.is_silent = False
            resumed_s = eventually(lambda: ("a", "new") in world.objects, 6)
            eventually(lambda: ("a", "s4") not in world.objects, 1)
            assert (1, 1) == (world.lists, reflector.relists)
            assert {("a", "s4")} == world.was_missing
            figure(
                "K3",
                "with a limit of {limit_s:g} s: noticed after {noticed_s:.1f} s, resumed {s:.1f} s after "
                "the end, 2 of 2 events known, no new list",
                limit_s=limit_s, noticed_s=noticed_s, s=resumed_s,
            )  # fmt: skip


def test_a_quiet_watch_without_bookmarks_is_taken_up_again_in_silence(caplog):
    """An API server whose etcd reports no progress sends none while nothing changes."""
    with FaultyApi(cluster(3)) as api:
        with reflecting(api, watch_silence=0.3, settled=0.2) as (reflector, world):
            eventually(lambda: reflector.reconnects >= 3, 5)
            api.apply(service("new", "10.9.9.8"))
            eventually(lambda: ("a", "new") in world.objects, 1)
        assert (1, 1) == (world.lists, reflector.relists)
        assert [] == [record.getMessage() for record in caplog.records]


def test_silence_in_the_middle_of_an_event_is_an_error(caplog):
    with FaultyApi(cluster(3)) as api:
        with reflecting(api, watch_silence=0.3, settled=0.2) as (reflector, _):
            eventually(lambda: reflector.is_watching, 3)
            api.inject("services", b'{"type":"ADD')
            eventually(lambda: reflector.reconnects >= 1, 3)
        assert "services: connection lost: TimeoutError" in caplog.text


@pytest.mark.parametrize("way", ["endpoint", "kubeconfig"])
def test_the_kernel_looks_after_the_connection(tmp_path, way):
    """A dead peer is noticed in 75 s though nothing is sent, and though nothing is acknowledged."""
    with FaultyApi(cluster(1)) as api:
        (tmp_path / "config").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\nusers: []\n"
            f"clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n"
            "contexts: [{name: x, context: {cluster: c}}]\n"
        )
        found = {"endpoint": api.url} if way == "endpoint" else {"kubeconfig": f"{tmp_path}/config"}
        client = ApiClient(Source("", (SERVICES,), **found))
        reply = client.get("/api/v1/services", {"watch": "true"}, read_timeout_s=5)
        sock = reply._response.connection.sock
        ours = {
            option: sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        }
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert [30, 15, 75_000] == list(ours.values())
        reply.close()


_DEAD_PEER = """
import socket, subprocess, threading, time
from clusterdns.cluster.api import server
from clusterdns.cluster.api.client import ApiClient
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

for command in ("link set lo up", "address add 192.0.2.1/32 dev lo"):
    subprocess.run(["ip", *command.split()], check=True)
server._IDLE_S, server._PROBE_S, server._DEAD_S = 1, 1, 3
listener = socket.create_server(("192.0.2.1", 0))

def answer():
    sock, _ = listener.accept()
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\n\\r\\n{}\\n")
    time.sleep(60)

threading.Thread(target=answer, daemon=True).start()
client = ApiClient(Source("", ("services",), endpoint="http://192.0.2.1:%d" % listener.getsockname()[1]))
reply = client.get("/", {}, read_timeout_s=30)
chunks = reply.chunks()
assert next(chunks)
subprocess.run(["ip", "link", "set", "lo", "down"], check=True)  # packets are lost from here on
started = time.monotonic()
try:
    next(chunks)
except ApiError as error:
    assert not error.is_silence, error
    assert time.monotonic() - started < 8
    print("noticed", time.monotonic() - started)
"""


@pytest.mark.row("K3")
def test_a_dead_peer_is_noticed_and_is_no_silence(figure):
    if subprocess.run(["unshare", "-n", "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare and ip, and root")
    command = ["unshare", "-n", sys.executable, "-c", _DEAD_PEER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "noticed" == done.stdout.split()[0], done.stderr
    limit = "with a limit of the kernel's of {limit_s} s a dead peer is noticed after {s:.1f} s"
    figure("K3", limit, limit_s=3, s=float(done.stdout.split()[1]))


def test_a_quiet_watch_with_bookmarks_is_kept():
    with FaultyApi(cluster(3)) as api:
        api.sends_bookmarks_s = 0.3
        with reflecting(api, watch_silence=1.0) as (reflector, _):
            time.sleep(3)
            assert 0 == reflector.reconnects
            assert time.monotonic() - reflector.bookmark_at < 1


def test_an_event_that_drips_is_not_waited_for():
    with FaultyApi(cluster(3)) as api, reflecting(api, line=1.0, settled=1) as (reflector, _):
        eventually(lambda: reflector.is_watching, 3)
        for _ in range(8):
            api.inject("services", b" ")
            time.sleep(0.25)
        eventually(lambda: reflector.reconnects >= 1, 1)


def test_a_streamed_list_that_does_not_come_is_asked_for_in_pages():
    with FaultyApi(cluster(3)) as api:
        api.never_list.add("services")
        with reflecting(api, first_silence=0.5, settled=0) as (_, world):
            eventually(lambda: "limit=" in str(api.requests[-1:]), 4)
            api.never_list.clear()
            eventually(lambda: len(world.objects) == 3, 6)


def test_late_and_repeated_events_change_nothing():
    with FaultyApi(cluster(3)) as api, reflecting(api) as (reflector, world):
        eventually(lambda: len(world.objects) == 3, 3)
        old = api.objects["services"]["a", "s1"]
        api.apply(service("s1", "10.9.9.9"))
        eventually(lambda: "10.9.9.9" in str(world.objects["a", "s1"]), 1)
        events = [("MODIFIED", old), ("ADDED", old)]
        gone = {**old, "metadata": {**old["metadata"], "uid": "of the one before"}}
        events.append(("DELETED", gone))
        for type_, manifest in events:
            api.inject("services", json.dumps({"type": type_, "object": manifest}).encode() + b"\n")
        api.apply(service("s2", "10.9.9.8"))
        eventually(lambda: "10.9.9.8" in str(world.objects["a", "s2"]), 1)
        assert "10.9.9.9" in str(world.objects["a", "s1"])
        stale = {"type": "DELETED", "object": old}
        api.inject("services", json.dumps(stale).encode() + b"\n")
        eventually(lambda: ("a", "s1") not in world.objects, 1)
        assert 0 == reflector.skipped


def test_a_relist_removes_last():
    """Where everything is listed anew, what stays is never missing in between."""
    with FaultyApi(cluster(20)) as api, reflecting(api, settled=0) as (_, world):
        eventually(lambda: len(world.objects) == 20, 3)
        for _ in range(3):
            lists = world.lists
            api.down()
            api.apply(service("s1", "10.8.8.8"))
            api.compact()
            api.up()
            eventually(lambda lists=lists: world.lists > lists, 8)
            assert 20 == len(world.objects)
        assert set() == world.was_missing


def test_the_audit_of_a_busy_watch_finds_nothing():
    """What is on its way is no divergence."""
    with FaultyApi(cluster(300)) as api, reflecting(api) as (reflector, world):
        eventually(lambda: len(world.objects) == 300, 3)
        source = Source("", (SERVICES,), endpoint=api.url)
        auditor = Auditor(source, [reflector], ApiClient(source), Gate())
        rng, is_over = random.Random(1), threading.Event()

        def change() -> None:
            while not is_over.wait(0.002):
                name = f"s{rng.randrange(300)}"
                if ("a", name) in api.objects["services"] and rng.random() < 0.5:
                    api.delete("Service", name, "a")
                else:
                    api.apply(service(name, f"10.3.3.{rng.randrange(250)}"))

        changing = threading.Thread(target=change)
        changing.start()
        try:
            assert 0 == auditor.audit([reflector])
        finally:
            is_over.set()
            changing.join()
        api.lose(service("s1", "10.4.4.4"))
        assert 1 == auditor.audit([reflector])
        eventually(lambda: "10.4.4.4" in str(world.objects.get(("a", "s1"))), 4)


# Tokens and configuration


def test_a_token_file_keeps_what_was_good_last(tmp_path):
    path = tmp_path / "token"
    token = TokenFile(path)
    with pytest.raises(ApiError, match="no readable token"):
        token.get(0)
    path.write_text("one\n")
    assert "one" == token.get(1)
    path.write_text("two")
    assert "one" == token.get(50), "not yet old"
    assert "two" == token.get(52)
    for bad in (b"", b"\n", b"\xff\xfe", b"a\nb"):
        path.write_bytes(bad)
        assert "two" == token.get(200)
    path.write_text("three")
    assert "three" == token.get(201), "what was kept is not new"
    path.unlink()
    assert "three" == token.get(400)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.crt"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    both = directory / "both.pem"
    both.write_bytes((directory / "key.pem").read_bytes() + (directory / "ca.crt").read_bytes())
    return both


@pytest.mark.row("K8")
def test_k8_in_a_pod(tmp_path, monkeypatch, certificate, figure):
    """The token of a Pod over TLS, revoked as it rotates: one refused request each time."""
    with FaultyApi(cluster(3), certificate=certificate) as api:
        shutil.copy(certificate.with_name("ca.crt"), tmp_path / "ca.crt")
        (tmp_path / "token").write_text("t0")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        client = ApiClient(Source("", (SERVICES,)), service_account=tmp_path)
        for i in range(4):
            (tmp_path / "token").write_text(f"t{i}\n")
            api.tokens = {f"t{i}"}
            for _ in range(3):
                reply = client.get("/api/v1/services", {"limit": "1"}, read_timeout_s=5)
                assert b'"ServiceList"' in b"".join(reply.chunks())
        assert 3 == api.refused_tokens
        api.tokens = {"other"}
        with pytest.raises(ApiError) as caught:
            client.get("/api/v1/services", {}, read_timeout_s=5)
        assert 401 == caught.value.code
        figure("K8", "over TLS in a Pod 1 refused request a token, of 3")


def test_an_unknown_authority_is_refused(tmp_path, certificate):
    with FaultyApi(cluster(1), certificate=certificate) as api:
        client = ApiClient(Source("", (SERVICES,), endpoint=api.url))
        with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
            client.get("/api/v1/services", {}, read_timeout_s=5)


@pytest.mark.parametrize(
    ("no_proxy", "asked"),
    [("", True), ("192.0.2.0/24", False), ("192.0.2.7", False), ("other", True)],
)
def test_a_proxy_in_the_environment(monkeypatch, no_proxy, asked):
    """The server itself cannot be reached: whether the proxy was asked for it is what counts."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(5)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        monkeypatch.setattr("clusterdns.cluster.api.client.CONNECT_TIMEOUT_S", 0.2)
        first: list[bytes] = []

        def refuse() -> None:
            with contextlib.suppress(OSError):
                sock, _ = proxy.accept()
                with sock:
                    first.append(sock.recv(4096).partition(b"\r\n")[0])
                    sock.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(ApiError):
            ApiClient(Source("", (SERVICES,), endpoint="https://192.0.2.7:6443")).get(
                "/", {}, read_timeout_s=1
            )
        if not asked:
            socket.create_connection(proxy.getsockname()).close()
        refusing.join()
    assert [b"CONNECT 192.0.2.7:6443" if asked else b""] == [line[:22] for line in first]


def test_a_pod_without_its_files_or_its_environment(tmp_path, monkeypatch, certificate):
    def client() -> ApiClient:
        return ApiClient(Source("", (SERVICES,)), service_account=tmp_path)

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ApiError, match="KUBERNETES_SERVICE_HOST"):
        client().get("/", {}, read_timeout_s=1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(ApiError, match=r"ca\.crt"):
        client().get("/", {}, read_timeout_s=1)
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(ApiError, match=r"ca\.crt: holds no certificate"):
        client().get("/", {}, read_timeout_s=1)
    shutil.copy(certificate.with_name("ca.crt"), tmp_path / "ca.crt")
    with pytest.raises(ApiError, match="token"):
        client().get("/", {}, read_timeout_s=1)
    (tmp_path / "token").write_text("t")
    with pytest.raises(ApiError, match=r"https://\[::1\]:1: "):
        client().get("/", {}, read_timeout_s=1)


def test_who_needs_no_kubeconfig_does_without_the_kubernetes_package():
    """It takes 14 MiB and a tenth of a second of CPU."""
    with FaultyApi(cluster(1)) as api:
        program = (
            "import sys\n"
            "from clusterdns.cluster.api import watch\n"
            "from clusterdns.cluster.api.client import ApiClient\n"
            "from clusterdns.cluster.source import Source\n"
            f"client = ApiClient(Source('', ('services',), endpoint='{api.url}'))\n"
            "client.get('/api/v1/services', {}, read_timeout_s=5).close()\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
    assert "urllib3" in found
    assert not {"kubernetes", "requests", "pydantic", "yaml"} & {*found}


def test_an_exec_plugin(tmp_path):
    """A kubeconfig's program is asked for the token, and again when it is refused."""
    counter = tmp_path / "counter"
    program = tmp_path / "token.sh"
    program.write_text(
        f"#!/bin/sh\necho >> {counter}\nn=$(wc -l < {counter})\n"
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",'
        '\\"kind\\":\\"ExecCredential\\",\\"status\\":{\\"token\\":\\"t$n\\"}}"\n'
    )
    program.chmod(0o755)
    with FaultyApi(cluster(1)) as api:
        config = tmp_path / "config"
        config.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            f"clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\n"
            "users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, "
            f"command: '{program}', interactiveMode: Never}}}}}}]\n"
        )
        client = ApiClient(Source("", (SERVICES,), kubeconfig=str(config)))
        for token in ("t1", "t2", "t2"):
            api.tokens = {token}
            client.get("/api/v1/services", {}, read_timeout_s=5).close()
        assert 1 == api.refused_tokens


def test_a_kubeconfig_that_is_none(tmp_path):
    config = tmp_path / "config"
    for text in ("", "[", "kind: Config\n", "{}"):
        config.write_text(text)
        with pytest.raises(ApiError):
            ApiClient(Source("", (SERVICES,), kubeconfig=str(config))).get(
                "/", {}, read_timeout_s=1
            )


@pytest.mark.parametrize(
    ("header", "expected"), [("1", 1), ("86400", 60), ("", 0), ("-1", 0), ("soon", 0), ("٣", 0)]
)
def test_retry_after_is_bounded(header, expected):
    with FaultyApi() as api:
        api.statuses["services"] = (429, {"Retry-After": header.encode().decode("latin-1")})
        with pytest.raises(ApiError) as caught:
            ApiClient(Source("", (SERVICES,), endpoint=api.url)).get(
                "/api/v1/services", {}, read_timeout_s=5
            )
        assert (429, True, expected) == (
            caught.value.code, caught.value.is_server, caught.value.retry_after_s,
        )  # fmt: skip


@given(JSON)
def test_whatever_an_error_event_says(status):
    assert isinstance(status_error(status), ApiError)


def test_the_throttle():
    throttle = Throttle(50, 5)
    started = time.monotonic()
    for _ in range(15):
        throttle.wait()
    assert 0.15 <= time.monotonic() - started <= 0.6
    Throttle(0, 0).wait()


# Waiting


def test_backoff_doubles_to_its_bound():
    delays = Backoff(0.8, 30, lambda _low, high: high)
    assert [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30] == [delays.next() for _ in range(8)]
    delays.reset()
    assert 0.8 == delays.next()
    assert 0.4 <= Backoff(0.8, 30, random.uniform).next() <= 0.8


def test_one_asks_for_all_while_the_server_is_in_trouble(monkeypatch):
    monkeypatch.setattr(backoff.Gate, "FIRST_S", 0.05)
    gate = Gate()
    assert gate.failed()
    assert not gate.failed()
    asked: list[float] = []
    passed = threading.Barrier(6)

    def ask() -> None:
        gate.enter()
        asked.append(time.monotonic())
        if len(asked) < 4:
            gate.failed()
            gate.enter()
        gate.succeeded()
        passed.wait(5)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    passed.wait(5)
    for thread in threads:
        thread.join(5)
    assert gate.is_open
    assert asked[1] - asked[0] > 0.02, "not two at once"


# JSON as it comes


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=6), JSON, st.data())
@settings(deadline=None, max_examples=150)
def test_items_equal_the_whole(items, extra, data):
    body = {"kind": "List", "metadata": {"x": extra}, "items": items, "end": extra}
    keys = data.draw(st.permutations(list(body)))
    indent = data.draw(st.sampled_from([None, 1]))
    ascii_only = data.draw(st.booleans())
    text = json.dumps({key: body[key] for key in keys}, indent=indent, ensure_ascii=ascii_only)
    octets = text.encode("utf-8", "surrogatepass")
    size = data.draw(st.sampled_from([1, 2, 3, 7, 64, 10_000]))
    reader = Items()
    found = [i for at in range(0, len(octets), size) for i in reader.feed(octets[at : at + size])]
    found += reader.end()
    assert items == found
    assert {"kind": "List", "metadata": {"x": extra}, "end": extra} == reader.fields
    assert 0 == reader.skipped


@given(st.binary(max_size=80) | st.from_regex(rb'[\[\]{}",:\\a1 \n]{0,60}', fullmatch=True))
@settings(deadline=None, max_examples=400)
def test_items_of_any_octets(octets):
    reader = Items(limit=30)
    with contextlib.suppress(StreamError):
        list(reader.feed(octets))
        list(reader.end())
        value, _ = json.JSONDecoder().raw_decode(octets.decode("utf-8", "replace").strip())
        assert isinstance(value, dict)


@pytest.mark.parametrize("size", [1, 100, 900])
def test_an_item_that_is_too_long_is_passed_over(size):
    long = {"a": 'x"\\{[' * 2000, "b": [{"c": "}"}]}
    octets = json.dumps({"items": [{"a": 1}, long, {"a": 2}, long]}).encode()
    reader = Items(limit=1000)
    found = [i for at in range(0, len(octets), size) for i in reader.feed(octets[at : at + size])]
    found += reader.end()
    assert [{"a": 1}, {"a": 2}] == found
    assert 2 == reader.skipped


def test_what_is_held_of_a_long_item_is_bounded():
    reader = Items(limit=10_000)
    list(reader.feed(b'{"items":[{"a":"'))
    for _ in range(1000):
        list(reader.feed(b"x" * 1000))
        assert len(reader._text) < 40_000
    assert [{"b": 1}] == [*reader.feed(b'"},{"b":1}]}'), *reader.end()]


@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=6),
    st.integers(1, 9),
)
def test_lines(lines, size):
    octets = b"".join(line + b"\n" for line in lines)
    reader = Lines(limit=20)
    found = [x for at in range(0, len(octets), size) for x in reader.feed(octets[at : at + size])]
    assert [line for line in lines if len(line) <= 20 and line.strip()] == found
    assert sum(len(line) > 20 for line in lines) == reader.skipped
    assert not reader.is_inside


@given(st.binary(max_size=60))
def test_a_line_of_any_octets(octets):
    found = load_line(octets)
    assert found is None or isinstance(found, dict)


# Snapshots

SOURCE = Source("", (NAMESPACES, SERVICES), endpoint="http://api")
ENTRIES: list[snapshot.Saved] = [
    ((NAMESPACES, ("", "a")), ()),
    ((SERVICES, ("a", "ü")), ("ClusterIP", ("10.0.0.1",), (("http", "TCP", 80),), "", ())),
]


def test_a_snapshot_comes_back_as_it_was(tmp_path):
    path = tmp_path / "known"
    for entries in ([], ENTRIES):
        snapshot.write(path, SOURCE, SOURCE.kinds, entries, 12.5)
        assert snapshot.Snapshot(12.5, SOURCE.kinds, entries) == snapshot.read(path, SOURCE)
    assert [path] == list(tmp_path.iterdir())


def test_a_snapshot_of_another_source_is_not_used(tmp_path):
    path = tmp_path / "known"
    snapshot.write(path, SOURCE, SOURCE.kinds, ENTRIES, 12.5)
    for other in ({"endpoint": "http://b"}, {"selector": "a=b"}, {"kinds": (SERVICES,)}):
        with pytest.raises(snapshot.SnapshotError, match="another source"):
            snapshot.read(path, SOURCE._replace(**other))
    snapshot.read(path, SOURCE._replace(audit_s=1, qps=3))


def test_a_torn_or_changed_snapshot_is_not_used(tmp_path):
    path = tmp_path / "known"
    snapshot.write(path, SOURCE, SOURCE.kinds, ENTRIES, 12.5)
    whole = path.read_bytes()
    for i in range(len(whole)):
        for octets in (whole[:i], whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :]):
            path.write_bytes(octets)
            try:
                found = snapshot.read(path, SOURCE)
            except snapshot.SnapshotError:
                continue
            assert ENTRIES == found.entries


@pytest.mark.parametrize("unit", [b"\n", b"x"])
def test_a_snapshot_that_unpacks_to_much_is_refused_within_bounds(tmp_path, unit):
    """A quarter of a megabyte may be 270 MB, and more as Python's objects."""
    path = tmp_path / "known"
    packer = zlib.compressobj(9)
    piece = unit * (2**20 // len(unit))
    path.write_bytes(b"".join(packer.compress(piece) for _ in range(270)) + packer.flush())
    tracemalloc.start()
    try:
        with pytest.raises(snapshot.SnapshotError, match=r"too long|more than"):
            snapshot.read(path, SOURCE)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "known"
    snapshot.write(path, SOURCE, SOURCE.kinds, ENTRIES, 1)

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        snapshot.write(path, SOURCE, SOURCE.kinds, [], 2)
    assert ENTRIES == snapshot.read(path, SOURCE).entries
    assert [path] == list(tmp_path.iterdir())


def test_a_refused_connection_is_the_servers_trouble():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(ApiError) as caught:
        ApiClient(Source("", (SERVICES,), endpoint=url)).get("/", {}, read_timeout_s=1)
    assert (0, True) == (caught.value.code, caught.value.is_server)
