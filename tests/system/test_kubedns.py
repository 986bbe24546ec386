"""kube-dns's ConfigMap: what it becomes, what is wrong with it, and how it is taken up when it changes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import peers
import pytest
from casefile import Scripted
from fakeapi import FakeApi
from hypothesis import given
from hypothesis import strategies as st
from scriptedupstream import ScriptedUpstream

from clusterdns.config import kubedns
from clusterdns.config.configdir import ConfigDir
from clusterdns.config.configmap import from_directory
from clusterdns.config.kubedns import ConfigEntry, KubeDnsSettings
from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.parser import parse
from clusterdns.errors import ConfigError

ZONE = "cluster.local"
STUBS = {"acme.local": ["192.0.2.1"], "corp.example": ["192.0.2.2:5353", "2001:db8::1"]}
MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-dns, namespace: kube-system}
data:
  stubDomains: |
    {"acme.local": ["192.0.2.1"],
     "corp.example": ["192.0.2.2:5353", "2001:db8::1"]}
  upstreamNameservers: |
    ["192.0.2.8", "192.0.2.9:5300"]
"""


def entries(**texts: str) -> dict[str, ConfigEntry]:
    return {key: ConfigEntry(key, text, f"dir/{key}", text) for key, text in texts.items()}


def read(**texts: str) -> KubeDnsSettings:
    return kubedns.read(entries(**texts), zone=ZONE, warn=pytest.fail)


def translate(settings: KubeDnsSettings, **options) -> str:
    return kubedns.translate(settings, zone=ZONE, port=53, **({"warn": pytest.fail} | options))


def outline(corefile: str) -> dict[str, dict[str, list[str]]]:
    """Return the arguments of each directive, by the keys of its block."""
    blocks = parse(corefile, "Corefile", environ={}, files=DiskFiles(), warn=pytest.fail)
    return {
        " ".join(key.text for key in block.keys): {d.name: list(d.args) for d in block.directives}
        for block in blocks
    }


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


# ---- what it becomes


def test_stub_domains_become_server_blocks_as_kubeadm_wrote_them():
    text = translate(read(stubDomains=json.dumps(STUBS)))
    assert (
        "\nacme.local:53 {\n    errors\n    cache 30\n    loop\n    forward . 192.0.2.1\n}" in text
    )
    blocks = outline(text)
    assert list(blocks) == [".:53", "acme.local:53", "corp.example:53"]
    assert blocks["corp.example:53"]["forward"] == [".", "192.0.2.2:5353", "2001:db8::1"]


def test_the_main_block_is_kubeadms():
    main = outline(translate(read()))[".:53"]
    assert main == {
        "errors": [], "health": [], "ready": [], "loop": [], "reload": [], "loadbalance": [],
        "kubernetes": [ZONE, "in-addr.arpa", "ip6.arpa"], "prometheus": [":9153"],
        "forward": [".", "/etc/resolv.conf"], "cache": ["30"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ('["192.0.2.8", "192.0.2.9:5300"]', ["192.0.2.8", "192.0.2.9:5300"]),
        ('["[2001:db8::8]:53"]', ["[2001:db8::8]:53"]),
        ("[]", ["/etc/resolv.conf"]),
        ("null", ["/etc/resolv.conf"]),
    ],
)
def test_upstream_servers_take_the_place_of_resolv_conf(text, servers):
    main = outline(translate(read(upstreamNameservers=text)))[".:53"]
    assert main["forward"] == [".", *servers]


def test_the_cluster_wins_over_a_stub_domain_that_contains_it():
    text = translate(read(stubDomains='{"local": ["192.0.2.1"], "arpa": ["192.0.2.2"]}'))
    keys = ".:53 cluster.local:53 in-addr.arpa:53 ip6.arpa:53"
    assert list(outline(text)) == [keys, "local:53", "arpa:53"]


def test_host_names_of_servers():
    text = '{"a.test": ["ns.b.svc.cluster.local"], "b.test": ["ns.example.com:5353", "192.0.2.1"]}'
    warnings: list[str] = []
    blocks = outline(translate(read(stubDomains=text), warn=warnings.append))
    assert list(blocks) == [".:53", "b.test:53"]
    assert blocks["b.test:53"]["forward"] == [".", "ns.example.com:5353", "192.0.2.1"]
    assert len(warnings) == 3
    assert "a.test: server ns.b.svc.cluster.local is left out: forward" in warnings[0]
    assert "a.test has no other server" in warnings[1]
    assert "b.test: server ns.example.com:5353 is looked up at the start only" in warnings[2]


def test_host_names_whose_addresses_are_known():
    text = '{"a.test": ["ns.b.svc.cluster.local:53"], "b.test": ["ns.example.com"]}'
    known = {"ns.b.svc.cluster.local": ["192.0.2.1", "2001:db8::1"]}
    warnings: list[str] = []
    settings = read(stubDomains=text)
    assert settings.names() == ["ns.b.svc.cluster.local", "ns.example.com"]
    blocks = outline(translate(settings, warn=warnings.append, addresses=known))
    assert blocks["a.test:53"]["forward"] == [".", "192.0.2.1:53", "[2001:db8::1]:53"]
    assert blocks["b.test:53"] == {}  # which refuses, and asks nobody else
    assert [True] == ["ns.example.com has no known address" in warning for warning in warnings]


def test_an_operators_corefile():
    own = f". {{\n bind 127.0.0.1 ::1 # x\n forward . {kubedns.UPSTREAMS}\n}}\n{kubedns.ZONE} {{\n}}\n"
    settings = read(stubDomains=json.dumps(STUBS), upstreamNameservers='["192.0.2.8"]')
    blocks = outline(translate(settings, own=own))
    assert list(blocks) == [".", ZONE, "acme.local:53", "corp.example:53"]
    assert blocks["."] == {"bind": ["127.0.0.1", "::1"], "forward": [".", "192.0.2.8"]}
    assert blocks["acme.local:53"]["bind"] == ["127.0.0.1", "::1"]
    warnings: list[str] = []
    translate(settings, own=". {\n whoami\n}\n", warn=warnings.append)
    assert warnings == [f"upstreamNameservers: not used, the Corefile has no {kubedns.UPSTREAMS}"]


# ---- what is wrong with it


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "1: stubDomains: is no JSON text: Expecting value (line 1, column 1)"),
        ('{"a.test":\n ["192.0.2.1"}', "2: stubDomains: is no JSON text: "),
        ("[" * 100000, "1: stubDomains: is no JSON text: "),
        ('["a.test"]', "wants domains and their servers"),
        ('\n{"a.test": "192.0.2.1"}', '2: stubDomains: stub domain "a.test" wants a list'),
        ('{"a.test": [1]}', 'stub domain "a.test": server 1 is no text'),
        ('{"a.test": [],\n "a.test": []}', '"a.test" is there twice'),
        ('{"": ["192.0.2.1"]}', 'stub domain "" is no domain name'),
        ('{"$$$$": ["192.0.2.1"]}', 'stub domain "$$$$" is no domain name'),
        ('{"a.test.": ["192.0.2.1"]}', 'stub domain "a.test." is no domain name'),
        ('{"a b": ["192.0.2.1"]}', 'stub domain "a b" is no domain name'),
        ('{"a.test {\\n": ["192.0.2.1"]}', "is no domain name"),
        (json.dumps({"a" * 64: ["192.0.2.1"]}), "is no domain name"),
        ('{"cluster.local": ["192.0.2.1"]}', "is a zone of the cluster itself"),
        ('{"ip6.arpa": ["192.0.2.1"]}', "is a zone of the cluster itself"),
        ('{"a.test": ["$$$$"]}', 'server "$$$$" is no address or host name'),
        ('{"a.test": ["192.0.2.300"]}', 'server "192.0.2.300" is no address or host name'),
        ('{"a.test": ["fe80::1%eth0"]}', "is no address or host name"),
        ('{"a.test": ["[192.0.2.1]:53"]}', "is no address or host name"),
        ('{"a.test": ["192.0.2.1 {"]}', "is no address or host name"),
        ('{"a.test": ["192.0.2.1:0"]}', 'server "192.0.2.1:0" has no valid port'),
        ('{"a.test": ["192.0.2.1:65536"]}', "has no valid port"),
        ('{"a.test": ["tls://192.0.2.1"]}', "is no address or host name"),
        (json.dumps({"a.test": [f"192.0.2.{i}" for i in range(16)]}), "more than 15 servers"),
    ],
)
def test_mistakes_in_stub_domains(text, reason):
    with pytest.raises(ConfigError) as caught:
        read(stubDomains=text)
    assert str(caught.value).startswith("dir/stubDomains:")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": "192.0.2.1"}', "wants a list of servers"),
        ('["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]', "has more than 3 servers: 4"),
        ('["192.0.2.1",\n "ns.example.com"]', '2: upstreamNameservers: server "ns.example.com" is'),
        ("192.0.2.1", "is no JSON text"),
    ],
)
def test_mistakes_in_upstream_servers(text, reason):
    with pytest.raises(ConfigError) as caught:
        read(upstreamNameservers=text)
    assert reason in str(caught.value)


_WORDS = st.sampled_from(
    ["a.test", "b", "ns.c.svc.cluster.local", "local", "192.0.2.1", "192.0.2.1:53", "::1", "[::1]:5",
     "{$X}", "}", "a {\n", '"', "# a", "/etc/passwd", "tls://192.0.2.1", "import", "\u2028", "\ud800"],
) | st.text(max_size=8)  # fmt: skip
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _WORDS
_VALUES = st.recursive(
    _LEAVES,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(_WORDS, v, max_size=4),
    max_leaves=8,
)


@given(
    stubs=st.dictionaries(_WORDS, st.lists(_WORDS, max_size=3), max_size=3) | _VALUES,
    servers=st.lists(_WORDS, max_size=2) | _VALUES,
    cut=st.integers(0, 400),
)
def test_whatever_it_says_makes_a_mistake_or_a_corefile_of_one_block_a_domain(stubs, servers, cut):
    texts = {"stubDomains": json.dumps(stubs)[:cut], "upstreamNameservers": json.dumps(servers)}
    try:
        settings = kubedns.read(entries(**texts), zone=ZONE, warn=lambda _: None)
    except ConfigError as error:
        assert error.line == 1
        return
    blocks = outline(translate(settings, warn=lambda _: None, addresses={}))
    assert [f"{domain}:53" for domain in settings.stub_domains] == list(blocks)[1:]
    assert next(iter(blocks)).startswith(".:53")
    assert all(
        set(found) <= {"errors", "cache", "loop", "forward"} for found in [*blocks.values()][1:]
    )


def test_what_is_left_out_is_told():
    warnings: list[str] = []
    texts = {"federations": "a=b.test", "stubdomains": "{}", "stubDomains": '{"a.test": []}'}
    kubedns.read(entries(**texts), zone=ZONE, warn=warnings.append)
    assert "federations: no such thing any more" in warnings[0]
    assert 'did you mean "stubDomains"?' in warnings[1]
    assert 'stub domain "a.test" has no servers' in warnings[2]


# ---- the command


def test_translate_a_manifest(tmp_path):
    (tmp_path / "kube-dns.yaml").write_text(MANIFEST)
    done = run("translate", "kube-dns.yaml", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    blocks = outline(done.stdout)
    assert blocks[".:53"]["forward"] == [".", "192.0.2.8", "192.0.2.9:5300"]
    assert list(blocks) == [".:53", "acme.local:53", "corp.example:53"]


def test_translate_says_the_same_of_yaml_json_a_list_and_a_directory(tmp_path):
    data = {"stubDomains": json.dumps(STUBS), "upstreamNameservers": '["192.0.2.8"]'}
    item = {"kind": "ConfigMap", "metadata": {"name": "kube-dns"}, "data": data}
    other = {"kind": "ConfigMap", "metadata": {"name": "coredns"}, "data": {"Corefile": ""}}
    (tmp_path / "one.json").write_text(json.dumps(item))
    (tmp_path / "list.yaml").write_text(json.dumps({"kind": "List", "items": [other, item]}))
    Mount(tmp_path / "dir").put(**data)
    options = ("-zone", "lab.example.", "-p", "1053")
    found = [run("translate", name, *options, cwd=tmp_path) for name in ("one.json", "list.yaml")]
    found.append(run("translate", "dir", *options, cwd=tmp_path))
    assert [(0, "", found[0].stdout)] * 3 == [(d.returncode, d.stderr, d.stdout) for d in found]
    blocks = outline(found[0].stdout)
    assert list(blocks) == [".:1053", "acme.local:1053", "corp.example:1053"]
    assert blocks[".:1053"]["kubernetes"] == ["lab.example", "in-addr.arpa", "ip6.arpa"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "name: kube-dns",
            "name: coredns",
            "no ConfigMaps with the name kube-dns; there is coredns",
        ),
        (
            '"192.0.2.2:5353"',
            '"192.0.2.2:x"',
            'k.yaml:7: stubDomains: stub domain "corp.example": ',
        ),
        ('["192.0.2.1"],', '["192.0.2.1"]', "k.yaml:7: stubDomains: is no JSON text: "),
        ('["192.0.2.8", ', "{", "k.yaml:9: upstreamNameservers: is no JSON text: "),
        (' |\n    ["192', '\n   - ["192', "k.yaml:8: upstreamNameservers: wants text, not list"),
        ("kind:", "{kind:", "k.yaml:"),
    ],
)
def test_translate_names_file_line_and_value(tmp_path, old, new, reason):
    assert old in MANIFEST
    (tmp_path / "k.yaml").write_text(MANIFEST.replace(old, new))
    done = run("translate", "k.yaml", cwd=tmp_path)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("clusterdns: k.yaml")
    assert reason in done.stderr


def test_translate_nothing_is_an_error(tmp_path):
    done = run("translate", "nowhere", cwd=tmp_path)
    assert (1, True) == (done.returncode, "nowhere" in done.stderr)
    assert run("translate", ".", "-zone", "a b", cwd=tmp_path).returncode == 2


# ---- the directory


class Mount:
    """A ConfigMap as kubelet mounts it: `..data` leads to the version in force."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = 0
        path.mkdir()

    def put(self, **data: str) -> None:
        """Exchange all files for new ones at once; the old ones vanish."""
        link = self.path / "..data"
        old = link.resolve() if link.exists() else None
        self._version += 1
        new = self.path / f"..2026_{self._version}"
        new.mkdir()
        for key, text in data.items():
            (new / key).write_text(text)
            if not (self.path / key).is_symlink():
                (self.path / key).symlink_to(f"..data/{key}")
        (self.path / "..next").symlink_to(new.name)
        (self.path / "..next").replace(link)
        for path in [*self.path.iterdir()]:
            if not path.name.startswith(".") and path.name not in data:
                path.unlink()
        for path in [*old.iterdir()] if old else []:
            path.unlink()
        if old:
            old.rmdir()


def test_the_files_of_one_version(tmp_path):
    mount = Mount(tmp_path / "m")
    assert from_directory(tmp_path / "nowhere") == from_directory(mount.path) == {}
    mount.put(stubDomains="{}", upstreamNameservers="[]")
    (mount.path / ".hidden").write_text("x")
    found = from_directory(mount.path)
    assert {"stubDomains": "{}", "upstreamNameservers": "[]"} == {
        k: e.value for k, e in found.items()
    }
    assert found["stubDomains"].file == f"{mount.path}/stubDomains"
    mount.put(stubDomains='{"a.test": []}')
    assert {"stubDomains": '{"a.test": []}'} == {
        k: e.value for k, e in from_directory(mount.path).items()
    }


def test_what_is_read_while_kubelet_writes_is_of_one_version(tmp_path):
    mount = Mount(tmp_path / "m")
    mount.put(stubDomains="0", upstreamNameservers="0")
    is_over = threading.Event()

    def write() -> None:
        for i in range(1, 400):
            mount.put(stubDomains=str(i), upstreamNameservers=str(i))
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not is_over.is_set():
        with contextlib.suppress(OSError):  # it was exchanged at every attempt
            found = [entry.value for entry in from_directory(mount.path).values()]
            assert len(found) == 2
            assert found[0] == found[1]
            seen.add(found[0])
    writer.join()
    assert len(seen) > 5


def test_a_directory_is_served_as_translate_prints_it(tmp_path):
    mount = Mount(tmp_path / "m")
    mount.put(stubDomains=json.dumps(STUBS), upstreamNameservers='["192.0.2.8"]')
    directory = ConfigDir(mount.path, zone=ZONE, port=1053, warn=pytest.fail)
    printed = run("translate", "m", "-p", "1053", cwd=tmp_path).stdout
    assert printed == directory.corefile(directory.read())
    absent = ConfigDir(tmp_path / "absent", zone=ZONE, port=1053, warn=pytest.fail)
    assert translate(read()).replace(":53", ":1053") == absent.corefile(absent.read())


# ---- through the real binary

OWN = """. {
    bind 127.0.0.1
    kubernetes cluster.local {
        manifests CLUSTER
    }
    forward . __PILLAR__UPSTREAM__SERVERS__
    reload 2s 0s
}
"""
CLUSTER = """apiVersion: v1
kind: Namespace
metadata: {name: corp}
---
apiVersion: v1
kind: Service
metadata: {name: ns, namespace: corp}
spec: {clusterIP: ADDRESS, clusterIPs: [ADDRESS], ports: [{port: 53}]}
"""


@contextlib.contextmanager
def upstream(address: str) -> Iterator[ScriptedUpstream]:
    """An upstream server that has one address for all names that tests ask."""
    names = ("www.acme.test.", "www.example.com.")
    server = ScriptedUpstream(
        [Scripted(n, "answer", 30, 1, dns.rdatatype.A, address) for n in names]
    )
    try:
        yield server
    finally:
        server.stop()


def ask(server: peers.Server, qname: str) -> list[str] | str:
    """Return the addresses of a name, or the RCODE's text if there are none."""
    reply = peers.ask_udp(server.address, dns.message.make_query(qname, "A").to_wire())
    assert reply is not None
    message = dns.message.from_wire(reply)
    found = [str(item) for rrset in message.answer for item in rrset]
    return found or dns.rcode.to_text(message.rcode())


def until(server: peers.Server, qname: str, expected: list[str] | str) -> None:
    deadline = time.monotonic() + 15
    while (found := ask(server, qname)) != expected:
        assert time.monotonic() < deadline, f"{qname} is {found}:\n{server.output}"
        time.sleep(0.05)


@contextlib.contextmanager
def serving(tmp_path: Path, *, cluster: str = "127.0.0.1") -> Iterator[peers.Server]:
    """Clusterdns with a Corefile of its own and the ConfigMap that is mounted to `kube-dns`."""
    (tmp_path / "cluster").mkdir(exist_ok=True)
    (tmp_path / "cluster/all.yaml").write_text(CLUSTER.replace("ADDRESS", cluster))
    own = OWN.replace("CLUSTER", str(tmp_path / "cluster"))
    with peers.clusterdns(own, tmp_path, "-config-dir", str(tmp_path / "kube-dns")) as server:
        yield server


def test_a_changed_configmap_is_taken_up(tmp_path):
    mount = Mount(tmp_path / "kube-dns")
    with upstream("192.0.2.1") as one, upstream("192.0.2.2") as other:
        stubs = json.dumps({"acme.test": [one.address]})
        mount.put(stubDomains=stubs, upstreamNameservers=json.dumps([other.address]))
        with serving(tmp_path) as server:
            assert ask(server, "www.acme.test.") == ["192.0.2.1"]
            assert ask(server, "www.example.com.") == ["192.0.2.2"]
            mount.put(upstreamNameservers=json.dumps([one.address]))  # within `reload 2s`
            until(server, "www.example.com.", ["192.0.2.1"])
            assert ask(server, "www.acme.test.") == ["192.0.2.1"]
            stubs = json.dumps({"acme.test": [other.address]})
            mount.put(stubDomains=stubs, upstreamNameservers=json.dumps([one.address]))
            until(server, "www.acme.test.", ["192.0.2.2"])
            assert ask(server, "ns.corp.svc.cluster.local.") == ["127.0.0.1"]


def test_a_mistake_keeps_what_is_served_and_is_told_once(tmp_path):
    mount = Mount(tmp_path / "kube-dns")
    with upstream("192.0.2.1") as one, upstream("192.0.2.2") as other:
        mount.put(upstreamNameservers=json.dumps([one.address]))
        with serving(tmp_path) as server:
            mount.put(upstreamNameservers=json.dumps([other.address])[:-1])
            for _ in range(3):  # read again, and found to be what is known to be wrong
                server.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
            assert ask(server, "www.example.com.") == ["192.0.2.1"]
            told = [line for line in server.output.splitlines() if "upstreamNameservers:1" in line]
            assert len(told) == 1, server.output
            assert "Reload failed, the last good configuration stays in force: " in told[0]
            mount.put(upstreamNameservers=json.dumps([other.address]))
            until(server, "www.example.com.", ["192.0.2.2"])


def test_a_mistake_at_the_start_does_not_cost_the_cluster_its_names(tmp_path):
    mount = Mount(tmp_path / "kube-dns")
    with upstream("192.0.2.1") as one:
        mount.put(stubDomains='{"acme.test": "192.0.2.1"}')
        with serving(tmp_path) as server:
            assert ask(server, "ns.corp.svc.cluster.local.") == ["127.0.0.1"]
            assert 'stub domain "acme.test" wants a list' in server.output
            mount.put(stubDomains=json.dumps({"acme.test": [one.address]}))
            until(server, "www.acme.test.", ["192.0.2.1"])


def test_a_server_that_is_a_service_of_the_cluster(tmp_path):
    mount = Mount(tmp_path / "kube-dns")
    with upstream("192.0.2.1") as one, upstream("192.0.2.2") as other:
        port = one.address.rpartition(":")[2]
        stubs = json.dumps({"acme.test": [f"ns.corp.svc.cluster.local:{port}"]})
        mount.put(stubDomains=stubs, upstreamNameservers=json.dumps([other.address]))
        with serving(tmp_path) as server:
            assert ask(server, "www.acme.test.") == "REFUSED"
            until(server, "www.acme.test.", ["192.0.2.1"])
            moved = CLUSTER.replace("ADDRESS", "127.0.0.2")  # nobody is there
            (tmp_path / "cluster/new").write_text(moved)
            (tmp_path / "cluster/new").replace(tmp_path / "cluster/all.yaml")
            until(server, "www.acme.test.", "SERVFAIL")
        assert other.asked("www.acme.test.", dns.rdatatype.A) == 0


def test_a_configmap_that_is_not_there_yet(tmp_path):
    with upstream("192.0.2.1") as one, serving(tmp_path) as server:
        assert ask(server, "ns.corp.svc.cluster.local.") == ["127.0.0.1"]
        mount = Mount(tmp_path / "kube-dns")
        mount.put(stubDomains=json.dumps({"acme.test": [one.address]}))
        until(server, "www.acme.test.", ["192.0.2.1"])


@pytest.mark.peer
def test_coredns_takes_the_corefile_and_answers_the_same(tmp_path):
    mount = Mount(tmp_path / "kube-dns")
    objects = [
        {"kind": "Namespace", "metadata": {"name": "corp", "uid": "1"}},
        {
            "kind": "Service",
            "metadata": {"name": "ns", "namespace": "corp", "uid": "2"},
            "spec": {
                "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7"],
                "ports": [{"port": 53}],
            },
        },
    ]
    questions = ["www.acme.test.", "www.example.com.", "ns.corp.svc.cluster.local.", "no.acme.test.",
                 "no.example.com.", "no.corp.svc.cluster.local.", "www.local."]  # fmt: skip
    with upstream("192.0.2.1") as one, upstream("192.0.2.2") as other, FakeApi(objects) as api:
        stubs = {"acme.test": [one.address], "local": [one.address]}
        mount.put(stubDomains=json.dumps(stubs), upstreamNameservers=json.dumps([other.address]))
        text = run("translate", "kube-dns", cwd=tmp_path).stdout
        with (
            peers.clusterdns(on_this_machine(text, api), tmp_path) as ours,
            peers.coredns(on_this_machine(text, api), tmp_path) as theirs,
        ):
            expected = [ask(theirs, qname) for qname in questions]
            assert expected[:4] == [["192.0.2.1"], ["192.0.2.2"], ["10.96.0.7"], "NXDOMAIN"]
            assert expected == [ask(ours, qname) for qname in questions]
        assert one.asked("www.local.", dns.rdatatype.A) == 2
        assert other.asked("www.local.", dns.rdatatype.A) == 0


def on_this_machine(text: str, api: FakeApi) -> str:
    """Return a Corefile with free ports, and with an API server to ask."""
    text = re.sub(r":53(?=[ {])", ":{PORT}", text)
    text = text.replace(":9153", f":{peers.free_port()}")
    text = text.replace("health {", f"health :{peers.free_port()} {{", 1)
    text = text.replace("lameduck 5s", "lameduck 0s")
    text = text.replace("ready\n", f"ready :{peers.free_port()}\n", 1)
    return text.replace("ip6.arpa {", f"ip6.arpa {{\n        endpoint {api.url}", 1)
