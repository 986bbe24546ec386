"""The way to an API server: kubeconfigs, keys in memory, and what a bad one may not bring about."""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certificates
import peers
import pytest
import yaml
from faultyapi import FaultyApi
from test_watch import address, ask, cluster, eventually, metric, service, serving

from clusterdns.cluster.api import kubeconfig
from clusterdns.cluster.api import snapshot as snapshots
from clusterdns.cluster.api.client import ApiClient
from clusterdns.cluster.objects import SERVICES
from clusterdns.cluster.source import Source
from clusterdns.config.compile import compile_text
from clusterdns.errors import ApiError, ConfigError

PLACES = "/tmp", "/var/tmp", "/dev/shm"
SECRET = "c2VjcmV0LXRva2Vu"


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def api(certs) -> Iterator[FaultyApi]:
    """Run an API server over TLS that lets in who has a certificate of its authority."""
    both = certs / "both.pem"
    both.write_bytes((certs / "server.pem").read_bytes() + (certs / "server.key").read_bytes())
    made = FaultyApi(cluster(20), certificate=both)
    assert made._tls is not None
    made._tls.load_verify_locations(certs / "ca.pem")
    made._tls.verify_mode = ssl.CERT_REQUIRED
    with made:
        yield made


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def config_of(url: str, certs: Path, **user: Any) -> dict[str, Any]:
    """Return a kubeconfig that has everything in it."""
    pair = {
        "client-certificate-data": data(certs / "client.pem"),
        "client-key-data": data(certs / "client.key"),
    }
    authority = data(certs / "ca.pem")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": authority}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {**pair, **user}}],
    }  # fmt: skip


def changed(config: dict[str, Any], section: str = "", **fields: Any) -> dict[str, Any]:
    """Return a kubeconfig with fields of a section set, or removed with None."""
    found = yaml.safe_load(yaml.safe_dump(config))
    into = found[f"{section}s"][0][section] if section else found
    for key, value in fields.items():
        into[key.replace("_", "-")] = value
    for key in [key for key, value in into.items() if value is None]:
        del into[key]
    return found


def write(path: Path, content: object) -> Path:
    """Put a kubeconfig in its place in one step."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    path.with_suffix(".new").write_text(text)
    return path.with_suffix(".new").replace(path)


def reload(server: peers.Server, corefile: str) -> None:
    conf = Path(server.process.args[server.process.args.index("-conf") + 1])  # type: ignore[index,union-attr]
    conf.write_text(corefile.replace("{PORT}", str(server.port)))
    server.process.send_signal(signal.SIGUSR1)


def temporary_files() -> set[str]:
    return {str(name) for place in PLACES for name in Path(place).iterdir()}


def test_what_stands_in_a_kubeconfig_stays_in_memory(api, certs, tmp_path, monkeypatch):
    """On a read-only root: no file is written, and none that is removed is missed."""
    file = write(tmp_path / "config", config_of(api.url, certs))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    program = (
        "import os, tempfile, sys\n"
        "from clusterdns.cluster.api.client import ApiClient\n"
        "from clusterdns.cluster.source import Source\n"
        "def audit(event, args):\n"
        "    is_path = event == 'open' and isinstance(args[0], str) and isinstance(args[2], int)\n"
        "    if is_path and args[2] & (os.O_WRONLY | os.O_RDWR):\n"
        "        print('written:', args[0])\n"
        "sys.addaudithook(audit)\n"
        f"client = ApiClient(Source('', ('services',), kubeconfig={str(file)!r}))\n"
        "for _ in range(3):\n"
        "    client.get('/api/v1/services', {}, read_timeout_s=5).close()\n"
        "print('kubernetes' in sys.modules, len(os.listdir('/proc/self/fd')) < 12)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert ["False True"] == [line for line in done.stdout.splitlines() if "memfd" not in line], (
        done
    )


def test_a_bad_kubeconfig_takes_no_place_of_a_good_one(api, certs, tmp_path):
    good = config_of(api.url, certs, token=SECRET)
    file = write(tmp_path / "config", good)
    broken = "".join(reversed(base64.b64encode(b"-----BEGIN X-----").decode()))
    bad = {
        "is empty": "",
        "is no YAML": f"users: [{{token: {SECRET}",
        "no kubeconfig": f"- {SECRET}",
        "has no current-context": changed(good, current_context=None),
        "has no context with the name 'y'": changed(good, current_context="y"),
        "has no user with the name 'v'": changed(good, "context", user="v"),
        "the cluster has no server": changed(good, "cluster", server=None),
        "no URL of an API server": changed(good, "cluster", server="ftp://x"),
        "nothing.pem: No such file": changed(
            good, "cluster", certificate_authority_data=None, certificate_authority="nothing.pem"
        ),
        "certificate-authority-data: holds no certificate": changed(
            good, "cluster", certificate_authority_data=SECRET
        ),
        "certificate-authority-data is no base64": changed(
            good, "cluster", certificate_authority_data="!" + broken
        ),
        "client-certificate and no client-key": changed(good, "user", client_key_data=None),
        "key values mismatch": changed(good, "user", client_key_data=data(certs / "other.key")),
        "token is no text": changed(good, "user", token=[SECRET]),
        "nosuch: No such file": changed(good, "user", token=None, tokenFile="nosuch"),
    }
    with serving(tmp_path, None, f"kubeconfig {file}") as (server, _):
        assert {address(3)} == ask(server, "s3.a")[1]
        conf = next(tmp_path.glob("Corefile-*"))
        text = conf.read_text()
        for i, (reason, content) in enumerate(bad.items()):
            other = write(tmp_path / f"bad-{i}.yaml", content)
            reload(server, text.replace(f"kubeconfig {file}", f"kubeconfig {other}"))
            place = f"{conf.name}:4: kubeconfig: {other}"
            eventually(lambda place=place: place in server.output, 5)
            (line,) = [line for line in server.output.splitlines() if place in line]
            assert reason in line
            assert "last good configuration stays in force" in line
        for files in ("client.pem client.key client.key", "ca.key client.key ca.pem"):
            named = " ".join(f"{certs}/{name}" for name in files.split())
            lines = f"endpoint {api.url}\n tls {named}"
            count = server.output.count("Reload failed")
            reload(server, text.replace(f"kubeconfig {file}", lines))
            eventually(lambda count=count: server.output.count("Reload failed") > count, 5)
            assert f"{conf.name}:5: tls: {certs}/c" in server.output
        assert {address(3)} == ask(server, "s3.a")[1]
        api.apply(service("s3", "10.9.9.9"))
        eventually(lambda: {"10.9.9.9"} == ask(server, "s3.a")[1], 3)
        for secret in (SECRET, broken, good["users"][0]["user"]["client-key-data"][:40]):
            assert secret not in server.output
    with peers.running(
        [sys.executable, "-m", "clusterdns"], text.replace(str(file), str(other)), tmp_path
    ) as refused:
        assert 1 == refused.process.wait(20)
        assert ":4: kubeconfig: " in refused.output


def test_a_kubeconfig_that_is_written_anew(api, certs, tmp_path):
    """As a mounted Secret is: a link leads elsewhere, and what it led to is removed."""
    mount = tmp_path / "mount"

    def publish(version: str, content: object) -> None:
        (mount / version).mkdir(parents=True)
        write(mount / version / "config", content)
        (mount / "..new").symlink_to(version)
        old = (mount / "..data").readlink() if (mount / "..data").exists() else ""
        (mount / "..new").replace(mount / "..data")
        if old:
            (mount / old / "config").unlink()

    good = config_of(api.url, certs, token="first")
    api.tokens = {"first"}
    publish("..1", good)
    (mount / "config").symlink_to("..data/config")
    with serving(tmp_path, None, f"kubeconfig {mount}/config") as (server, _):
        assert {address(3)} == ask(server, "s3.a")[1]
        publish("..2", f"token: {SECRET}")  # of no use: the last good one stays
        api.reset_connections()
        api.apply(service("s3", "10.9.9.1"))
        eventually(lambda: {"10.9.9.1"} == ask(server, "s3.a")[1], 6)
        eventually(lambda: "the last good credentials are kept" in server.output, 6)
        api.tokens = {"first", "second"}
        publish("..3", changed(good, "user", token="second"))
        for i, tokens in enumerate(({"first", "second"}, {"second"})):
            api.tokens = tokens
            api.reset_connections()
            api.apply(service("s3", f"10.9.8.{i}"))
            eventually(lambda i=i: {f"10.9.8.{i}"} == ask(server, "s3.a")[1], 8)
        assert 0 == api.refused_tokens, "it was seen before it was refused"
        assert 1 == server.output.count("the last good credentials are kept")
        assert SECRET not in server.output


@pytest.mark.parametrize("way", ["endpoint", "kubeconfig"])
def test_a_password_in_a_url_is_sent_and_not_told(tmp_path, certs, way):
    with FaultyApi(cluster(5)) as plain:
        plain.tokens = {base64.b64encode(b"me:s3cret!").decode()}
        snapshot = tmp_path / "known"
        url = plain.url.replace("//", "//me:s3cret%21@")
        named = url
        if way == "kubeconfig":
            config = changed(config_of(url, certs), "context", user=None)
            named = str(write(tmp_path / "config", config))
        options = f"{way} {named}", f"snapshot {snapshot}"
        with serving(tmp_path, None, *options) as (server, port):
            assert {address(3)} == ask(server, "s3.a")[1]
            title = plain.url if way == "endpoint" else named
            assert metric(port, "clusterdns_kubernetes_objects", source=title) > 0
            host = plain.url.partition("//")[2]
            assert metric(port, "coredns_kubernetes_rest_client_requests_total", host=host) > 0
            plain.statuses["*"] = 503, {}
            plain.reset_connections()
            eventually(lambda: "fault 503" in server.output, 6)
            assert "s3cret" not in server.output
        text = f". {{\n kubernetes cluster.local {{\n  {options[0]}\n }}\n}}\n"
        compiled = compile_text(text, "Corefile", port=53, environ={}, warn=print)
        assert "s3cret" not in repr(snapshots.identity(compiled.sources[0]))


def test_a_program_that_has_a_certificate(api, certs, tmp_path):
    """`exec` may answer with a certificate and its key, which stay in memory, too."""
    status = {
        "clientCertificateData": (certs / "client.pem").read_text(),
        "clientKeyData": (certs / "client.key").read_text(),
    }
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status,
    }  # fmt: skip
    (tmp_path / "said").write_text(json.dumps(credential))
    program = {
        "apiVersion": credential["apiVersion"], "command": "cat", "args": ["said"],
        "interactiveMode": "Never",
    }  # fmt: skip
    config = config_of(api.url, certs)
    config["users"][0]["user"] = {"exec": program}
    before = temporary_files()
    client = ApiClient(Source("", (SERVICES,), kubeconfig=str(write(tmp_path / "config", config))))
    client.get("/api/v1/services", {}, read_timeout_s=5).close()
    fresh = [path for path in temporary_files() - before if Path(path).is_file()]
    assert not [path for path in fresh if "PRIVATE" in Path(path).read_text("latin-1")]


def test_a_slim_install_is_told_what_it_lacks(certs, tmp_path):
    config = config_of("https://192.0.2.7", certs)
    file = write(tmp_path / "config", config)
    kubeconfig.check(file, "", lambda: False)
    config["users"][0]["user"] = {"exec": {"command": "x"}}
    write(file, config)
    kubeconfig.check(file, "", lambda: True)
    with pytest.raises(ApiError, match="pip install kubernetes"):
        kubeconfig.check(file, "", lambda: False)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_that_is_of_no_use_is_a_mistake(variable, monkeypatch):
    monkeypatch.setenv(variable, "socks5://p")
    with pytest.raises(ConfigError, match="HTTPS_PROXY: proxies of socks5://"):
        compile_text(
            ". {\n kubernetes cluster.local {\n  endpoint https://192.0.2.7\n }\n}\n",
            "Corefile", port=53, environ={}, warn=print,
        )  # fmt: skip
