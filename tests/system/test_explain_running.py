"""`explain` through the real program: asked of the running server, and by a Corefile."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import beside
import dns.message
import peers
import pytest
from fakeapi import FakeApi

from clusterdns.commands import running
from clusterdns.errors import ClusterDNSError
from clusterdns.host import localsocket
from clusterdns.processes import inquiry

ZONES = Path(__file__).resolve().parents[2] / "zones"
META = {"namespace": "shop", "labels": {"app": "web"}}
OBJECTS: list[dict[str, Any]] = [
    {"kind": "Namespace", "metadata": {"name": "shop"}},
    {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": []},
    },
    {
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "endpoints": [{"addresses": ["10.244.0.7"], "conditions": {"ready": False}}],
    },
    {"kind": "Pod", "metadata": {"name": "web-0", **META}, "status": {"podIP": "10.244.0.7"}},
]
SERIAL = re.compile(r"(hostmaster\.cluster\.local\.) \d+")


def run(*arguments: str):
    return beside.run([*arguments], ZONES)


def explained(server: peers.Server, *arguments: str):
    return run("explain", *arguments, "--pid", str(server.process.pid))


def test_the_running_server_explains(lab):
    done = explained(lab, "web.uit.svc.cluster.local")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.search(r"kubernetes /\S+:\d+: answers NOERROR with 1 record", done.stdout)
    assert "10.244.1.11 gets no record: it is not ready" in done.stdout
    assert "10.244.1.12 gets no record: it is terminating, still serving" in done.stdout
    assert "\n  web.uit.svc.cluster.local. 30 IN A 10.96.1.1\n" in done.stdout
    assert f"watch: manifests {ZONES / 'cluster'}" in done.stdout


def test_why_is_the_last_line(lab):
    done = explained(lab, "wbe.uit.svc.cluster.local")
    assert 1 == done.returncode
    assert 'why: there is no Service uit/wbe, did you mean "web"?' == done.stdout.splitlines()[-1]


def test_a_corefile_says_the_same_as_the_server_that_has_it(lab):
    for name in ("web.uit.svc.cluster.local", "nope.example.com", "website.uit.svc.cluster.local"):
        live = explained(lab, name, "--json").stdout
        by_file = run("explain", name, "--corefile", "Corefile", "--json").stdout
        one, other = json.loads(live), json.loads(by_file)
        for found in (one, other):
            for word in ("listener", "watch", "not_ready", "server"):
                found.pop(word, None)
        texts = [SERIAL.sub(r"\1", json.dumps(each)) for each in (one, other)]
        texts = [re.sub(r'[^" ]*:\d+"', 'Corefile"', each) for each in texts]  # the lab's has more
        assert texts[0] == texts[1]


def test_the_reply_of_an_explanation_is_the_one_on_the_wire(lab):
    rng = random.Random(7)
    ends = [
        "uit.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "example.com",
        "example.org",
    ]
    words = ["web", "six", "db", "website", "www", "nope", "_http._tcp.web", "kube-dns.kube-system"]
    for _ in range(150):
        name = f"{rng.choice(words)}.{rng.choice(ends)}"
        kind = rng.choice(["A", "AAAA", "SRV", "TXT", "NS", "SOA"])
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        request = {"packet": query.to_wire().hex(), "client": "127.0.0.1", "listener": ""}
        found = running.ask("explain", {**request, "transport": "udp"}, lab.process.pid)
        said, heard = (
            dns.message.from_wire(reply, one_rr_per_rrset=True)
            for reply in (
                bytes.fromhex(found["packet"]),
                peers.ask_udp(lab.address, query.to_wire()),
            )
        )
        assert said.flags == heard.flags
        for ours, theirs in zip(said.sections, heard.sections, strict=True):
            assert sorted(map(str, ours)) == sorted(map(str, theirs))  # `loadbalance` shuffles


def test_an_upstream_server_is_named(tmp_path):
    dead = peers.free_port()
    corefile = f"{{PORT}} {{\n bind 127.0.0.1\n forward . 127.0.0.1:{dead}\n cache\n}}\n"
    corefile = corefile.replace("{PORT}", ".:{PORT}", 1)
    with peers.clusterdns(corefile, tmp_path) as server:
        done = explained(server, "www.example.com")
    assert 1 == done.returncode
    assert f"`policy random` asks in this order: 127.0.0.1:{dead}" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"why: 127.0.0.1:{dead}: ")
    assert "refused" in last.lower()


def test_objects_of_an_api_server_have_their_uid_and_version(tmp_path):
    with FakeApi(OBJECTS) as api:
        corefile = (
            ".:{PORT} {\n bind 127.0.0.1\n kubernetes cluster.local {\n  endpoint URL\n }\n}\n"
        )
        with peers.clusterdns(corefile.replace("URL", api.url), tmp_path) as server:
            done = explained(server, "web.shop.svc.cluster.local")
    assert 1 == done.returncode
    assert "Service shop/web: UID services-shop-web, resourceVersion 1002" in done.stdout
    assert "EndpointSlice shop/web-1: UID endpointslices-shop-web-1" in done.stdout
    assert "10.244.0.7 gets no record: it is not ready" in done.stdout
    assert re.search(r"watch: services of http\S+: .*heard from \d+\.\d s ago", done.stdout)
    last = done.stdout.splitlines()[-1]
    assert last.endswith("its selector app=web matches Pods, none of which is ready: web-0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a..b",), "no domain name"),
        (("",), "an empty name"),
        (("web", "--client", "me"), "client me: not an IP address"),
        (("web", "--listener", "192.0.2.1:53"), "no listener 192.0.2.1:53; there are dns://"),
        (("web", "--pid", "1"), "process 1 is no clusterdns"),
        (("web", "--corefile", "/nowhere"), "clusterdns: /nowhere: no such file or directory\n"),
        (("web", "--corefile", "."), "clusterdns: .: is a directory\n"),
    ],
)
def test_mistakes_are_said(lab, arguments, said):
    pid = (
        () if "--pid" in arguments or "--corefile" in arguments else ("--pid", str(lab.process.pid))
    )
    done = run("explain", *arguments, *pid)
    code = 3 if "--pid" in arguments else 1
    assert (code, "", True) == (done.returncode, done.stdout, said in done.stderr), done.stderr


def test_a_cluster_without_manifests_is_asked_for(tmp_path):
    (tmp_path / "Corefile").write_text(
        ".:53 {\n kubernetes cluster.local {\n  endpoint http://127.0.0.1:1\n }\n}\n"
    )
    path = str(tmp_path / "Corefile")
    done = run("explain", "web.uit.svc.cluster.local", "--corefile", path)
    assert (1, True) == (done.returncode, "give its objects by --manifests" in done.stderr)
    done = run("explain", "web.uit.svc.cluster.local", "--corefile", path, "--manifests", "cluster")
    assert (0, True) == (done.returncode, " 5 IN A 10.96.1.1" in done.stdout)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense\n", "knows no such question"),
        (b'{"ask": "nothing"}\n', "knows no such question"),
        (b'["ask"]\n', "knows no such question"),
        (b'{"ask": "explain"}\n', "lacks a value"),
        (b'{"ask": "explain", "packet": "zz"}\n', "lacks a value"),
        (b"[" * 10_000 + b"\n", "knows no such question"),
        (b"x" * (2 * inquiry.MAX_REQUEST_OCTETS), ""),
    ],
)  # fmt: skip
def test_bad_requests_do_no_harm(lab, line, said):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(localsocket.address(lab.process.pid))
        sock.sendall(line)
        octets = b""
        try:
            while chunk := sock.recv(4096):
                octets += chunk
        except ConnectionError:  # closed before all was read
            pass
    assert said in (json.loads(octets)["error"] if octets else "")
    assert running.ask("explain", request_for_web(), lab.process.pid)["verdict"]


def request_for_web() -> dict[str, str]:
    query = dns.message.make_query("web.uit.svc.cluster.local", "A").to_wire()
    return {"packet": query.hex(), "client": "127.0.0.1", "transport": "udp", "listener": ""}


def test_packets_that_are_no_query_are_explained_too(lab):
    for packet in (b"", b"\0" * 11, b"\x80" * 40, b"\0\0\x01\0\0\x01\0\0\0\0\0\0"):
        request = {**request_for_web(), "packet": packet.hex()}
        assert running.ask("explain", request, lab.process.pid)["verdict"]


def test_more_connections_than_are_served_are_closed(lab):
    socks = [socket.socket(socket.AF_UNIX) for _ in range(inquiry.MAX_CONNECTIONS + 3)]
    try:
        for sock in socks:
            sock.settimeout(5)
            sock.connect(localsocket.address(lab.process.pid))
        assert b"" == socks[-1].recv(1)
    finally:
        for sock in socks:
            sock.close()
    assert until(lambda: answer_about_web(lab))["verdict"]


def answer_about_web(lab) -> dict[str, Any] | None:
    try:
        return running.ask("explain", request_for_web(), lab.process.pid)
    except running.NoServerError:  # the server has not seen yet that the others have closed
        return None


def until(condition, timeout_s: float = 10):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_command_finds_the_servers_that_run(lab):
    assert lab.process.pid in localsocket.servers()
    with pytest.raises(ClusterDNSError, match="is no clusterdns"):
        running.ask("explain", {}, os.getpid())


@pytest.mark.parametrize(
    ("ours", "theirs", "may_ask", "may_be_asked"),
    [
        (1000, 1000, True, True),
        (1000, 0, True, True),
        (0, 1000, False, True),
        (1000, 1001, False, False),
    ],
)
def test_only_the_same_user_and_root_may_ask(monkeypatch, ours, theirs, may_ask, may_be_asked):
    monkeypatch.setattr(os, "getuid", lambda: ours)
    assert may_ask is localsocket.may_ask(theirs)
    assert may_be_asked is localsocket.may_be_asked(theirs)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_server_of_root_answers_no_other_user(lab):
    pid = os.fork()
    if not pid:
        os.setuid(65534)
        try:
            running.choose(lab.process.pid)
        except running.NoServerError as error:
            os._exit(7 if "of other users" in str(error) else 8)
        os._exit(9)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_server_that_was_asked_is_named(lab):
    done = explained(lab, "web.uit.svc.cluster.local")
    line = done.stdout.splitlines()[1]
    assert line.startswith(f"server process {lab.process.pid}: ")
    assert str(lab.process.pid) in json.dumps(
        json.loads(explained(lab, "web.uit.svc.cluster.local", "--json").stdout)["server"]
    )


def test_several_servers_are_listed(lab, tmp_path):
    with peers.clusterdns(".:{PORT} {\n bind 127.0.0.1\n whoami\n}\n", tmp_path) as other:
        done = run("explain", "web.uit.svc.cluster.local")
    assert (3, "") == (done.returncode, done.stdout)
    assert "several servers run here; choose one by --pid:\n" in done.stderr
    (line,) = [each for each in done.stderr.splitlines() if f"--pid {other.process.pid} " in each]
    assert f"dns://127.0.0.1:{other.address[1]}" in line
    assert f"--pid {lab.process.pid} " in done.stderr


def test_an_address_is_asked_for_its_name(lab):
    done = explained(lab, "10.96.1.1")
    assert done.stdout.startswith("1.1.96.10.in-addr.arpa. PTR, ")
    assert 0 == done.returncode


def test_a_short_name_is_pointed_to_lookup(lab):
    done = explained(lab, "web.uit")
    assert "clusterdns lookup web.uit --as NAMESPACE\nwhy: " in done.stdout
    assert "clusterdns lookup" not in explained(lab, "wbe.uit.svc.cluster.local").stdout


def cluster(name: str) -> list[dict[str, Any]]:
    """The objects, whose Service selects the one Pod, and is not of another cluster."""
    found: list[dict[str, Any]] = json.loads(json.dumps(OBJECTS).replace('"web-0"', f'"{name}-0"'))
    for each in found:
        each["metadata"]["uid"] = f"{each['kind']}-of-{name}"
    return found


def test_objects_are_those_of_the_cluster_that_answers(tmp_path):
    block = """CLUSTER.local:{PORT} {
    bind 127.0.0.1
    status 127.0.0.1:WEB
    kubernetes CLUSTER.local {
        endpoint URL
    }
}
"""
    web = peers.free_port()
    with FakeApi(cluster("one")) as one, FakeApi(cluster("two")) as two:
        corefile = "".join(
            block.replace("CLUSTER", name).replace("URL", api.url).replace("WEB", str(web))
            for name, api in (("one", one), ("two", two))
        )
        with peers.clusterdns(corefile, tmp_path) as server:
            for name in ("one", "two"):
                asked = f"web.shop.svc.{name}.local"
                lines = explained(server, asked).stdout.splitlines()
                assert [line.strip() for line in lines] == on_the_page(web, asked, lines)
                said = "\n".join(lines)
                assert f"Service shop/web: UID Service-of-{name}, resourceVersion 1002" in said
                assert f"EndpointSlice shop/web-1: UID EndpointSlice-of-{name}, " in said
                assert lines[-1].endswith(f"matches Pods, none of which is ready: {name}-0")


def on_the_page(web: int, asked: str, lines: list[str]) -> list[str]:
    """Return what the page says, with the times of the watch that `explain` told before."""
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/explain?name={asked}") as reply:
        told = json.loads(reply.read())["lines"]
    assert len(lines) == len(told)
    watch = [line.startswith("watch: ") for line in lines]
    return [
        line.strip() if is_watch else mine.strip()
        for line, mine, is_watch in zip(lines, told, watch, strict=True)
    ]


def test_objects_are_those_of_the_manifests_that_answer(tmp_path):
    corefile = ""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = json.dumps({"kind": "List", "items": cluster(name)})
        (tmp_path / name / "objects.json").write_text(text)
        corefile += f"{name}.local {{\n kubernetes {name}.local {{\n  manifests {name}\n }}\n}}\n"
    (tmp_path / "Corefile").write_text(corefile)
    for name in ("one", "two"):
        words = ["explain", f"web.shop.svc.{name}.local", "--corefile", "Corefile"]
        done = beside.run(words, tmp_path)
        assert f"Service shop/web: UID Service-of-{name}, " in done.stdout
        assert f"EndpointSlice shop/web-1: UID EndpointSlice-of-{name}, " in done.stdout
        assert done.stdout.endswith(f"none of which is ready: {name}-0\n")
        done = beside.run([*words, "--manifests", "two"], tmp_path)
        assert "Service shop/web: UID Service-of-two, " in done.stdout


FILES = """.:{PORT} {
    bind 127.0.0.1
    status 127.0.0.1:WEB
    hosts hosts test {
        192.0.2.70 a.test b.test
        192.0.2.71 b.test
    }
    file db.org org
    file db.big big
    auto net {
        directory zones
    }
}
"""
HEAD = "$TTL 60\n@ SOA ns h 7 2 3 4 5\n@ NS ns\n"
LINES = {
    "www.org": ["www.org. A: DIR/db.org:4"],
    "x.wild.org": ["*.wild.org. A: DIR/db.org:5"],
    "in.sub.org": ["in.sub.org. A: DIR/included:2"],
    "g7.org": ["g7.org. A: DIR/db.org:7"],
    "www.example.net": [
        "www.example.net. A: DIR/zones/db.example.net:4, DIR/zones/db.example.net:5"
    ],
    "a.test": ["a.test. A: DIR/hosts:1, DIR/hosts:3"],
    "b.test": [],
    "192.0.2.8": ["8.2.0.192.in-addr.arpa. PTR: DIR/hosts:3"],
    "www.big": [
        "no line of DIR/db.big can be named: larger than 8388608 octets, with all it includes"
    ],
}


def test_entries_of_files_have_their_lines(tmp_path):
    (tmp_path / "zones").mkdir()
    (tmp_path / "hosts").write_text("192.0.2.7 a.test\n# a comment\n192.0.2.8 a.test\n")
    (tmp_path / "included").write_text("\nin A 192.0.2.4\n")
    (tmp_path / "db.org").write_text(
        HEAD
        + "www A 192.0.2.1\n*.wild A 192.0.2.2\n$INCLUDE included sub\n$GENERATE 1-9 g$ A 192.0.2.$\n"
    )
    (tmp_path / "zones" / "db.example.net").write_text(HEAD + "www A 192.0.2.1\n A 192.0.2.2\n")
    (tmp_path / "db.big").write_text(HEAD + "www A 192.0.2.1\n" + f";{'x' * 1022}\n" * 8192)
    web = peers.free_port()
    corefile = FILES.replace("WEB", str(web))
    (tmp_path / "by-file").write_text(corefile.replace("{PORT}", "53"))
    with peers.clusterdns(corefile, tmp_path) as server:
        for asked, wanted in LINES.items():
            done = explained(server, asked)
            assert 0 == done.returncode
            lines = [line.strip() for line in done.stdout.splitlines()]
            assert lines == on_the_page(web, asked, lines)
            expected = [line.replace("DIR", str(tmp_path)) for line in wanted]
            named = [line for line in lines if re.search(r"^\S+ \S+: /| can be named: ", line)]
            assert expected == named
            offline = beside.run(["explain", asked, "--corefile", "by-file"], tmp_path).stdout
            assert all(f"      {line}\n" in offline for line in expected)
    said = beside.run(["explain", "b.test", "--corefile", "by-file"], tmp_path).stdout
    assert "the name: 2 of type A (by-file:5, by-file:6)\n" in said
