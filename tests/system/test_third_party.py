"""Plugins of other packages: README's, installed beside ours, serves; a broken one says so."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import dns.message
import peers
import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def in_readme(kind: str) -> str:
    """Return the code block of README's section in a language."""
    section = README.read_text().partition("## Write a plugin\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return textwrap.dedent(found[1])


def install(directory: Path, modules: dict[str, str], entries: str) -> None:
    """Lay out a package with its metadata, as an installer leaves it."""
    for module, text in modules.items():
        (directory / f"{module}.py").write_text(text)
    info = directory / "example_plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(found))
    return found


def ask(server: peers.Server, qname: str) -> dns.message.Message:
    reply = peers.ask_udp(server.address, dns.message.make_query(qname, "A").to_wire())
    assert reply is not None
    return dns.message.from_wire(reply)


def test_the_plugin_of_the_readme_serves_is_counted_and_has_a_manual(site, tmp_path):
    entries = "[clusterdns.plugins]\nblock = example_block\nbroken = example_nowhere\n"
    install(site, {"example_block": in_readme("python")}, entries)
    port = peers.free_port()
    corefile = f".:{{PORT}} {{\n prometheus 127.0.0.1:{port}\n whoami\n block example.org\n}}\n"
    with peers.clusterdns(corefile, tmp_path) as server:
        assert 3 == ask(server, "www.example.org.").rcode()
        assert 3 == ask(server, "www.example.org.").rcode()  # the table repeats it
        assert 0 == ask(server, "www.example.net.").rcode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    assert re.search(r"^coredns_block_refused_total 2\.0$", text, re.MULTILINE)
    assert "coredns_dns_requests_total" in text
    done = run("help", "block")
    assert done.stdout.startswith("block - ")


BROKEN = {
    "one that is not there": (None, "ModuleNotFoundError"),
    "one that raises": ("raise RuntimeError('no such luck')", "no such luck"),
    "one that is none": ("x = 1", "defines no plugin"),
    "one that has no place": (
        "from clusterdns.chain.plugin import Plugin\nclass Broken(Plugin): pass\n",
        "wants `after` or `before`",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_an_error_only_where_it_is_named(site, tmp_path, kind):
    text, said = BROKEN[kind]
    modules = {} if text is None else {"example_broken": text}
    install(site, modules, "[clusterdns.plugins]\nbroken = example_broken\n")
    (tmp_path / "named").write_text(". {\n whoami\n broken\n}\n")
    (tmp_path / "other").write_text(". {\n whoami\n}\n")
    done = run("check", str(tmp_path / "named"))
    assert 1 == done.returncode
    assert f"{tmp_path / 'named'}:3:2: broken: cannot load example_broken: " in done.stdout
    assert said in done.stdout
    assert 0 == run("check", str(tmp_path / "other")).returncode
    assert 0 == run("help").returncode
    assert "dns.broken\n" in run("-plugins").stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", *arguments],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
