"""The distributions: what the source one holds, and that each serves where nothing else is.

The source distribution and the wheel are built of a copy of the checkout and installed in environments
of their own: the wheel with all that it depends on, the other one slim. All of it takes some 20 s and
needs a package index; without one the tests skip.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

import dns.message
import peers
import pytest
import yaml
from fakeapi import FakeApi
from packaging.requirements import Requirement

from clusterdns import __version__
from clusterdns.serving import native

ROOT = Path(__file__).resolve().parents[2]
SLIM = ROOT / "deploy" / "requirements-slim.txt"
# Beside what belongs to the project, where no .gitignore is asked: what tools have written.
SIDE = {
    ".venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    "__pycache__",
    "build",
}
NO_INDEX = re.compile(
    r"NewConnectionError|NameResolution|No matching distribution|connection broken"
)
QNAME = "web.uit.svc.cluster.local."

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a command prints; skip where it finds no package index."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode and NO_INDEX.search(done.stderr + done.stdout):
        pytest.skip("needs a package index for pip")
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def checkout() -> set[str]:
    """The files that belong to the project: those of git, or of an unpacked source distribution."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
        return {name for name in listed if (ROOT / name).is_file()}
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {str(path) for path in paths if not SIDE & {*path.parts}}


def copy_checkout(place: Path) -> Path:
    """Copy the checkout into a folder, since a build writes into its source; return the copy."""
    for name in checkout():
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / "source" / name)
    return place / "source"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built of a copy."""
    place = tmp_path_factory.mktemp("sdist")
    source = copy_checkout(place)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", place, source)
    (found,) = place.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that pip builds of the source distribution."""
    pip("wheel", "--no-deps", "--wheel-dir", sdist.parent, sdist)
    (found,) = sdist.parent.glob("*.whl")
    return found


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    into = ["--python", python] if python else []
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    run(sys.executable, "-m", "pip", *quiet, *into, *arguments)


def environment(place: Path) -> Path:
    """An empty environment; return its folder of programs."""
    run(sys.executable, "-m", "venv", "--without-pip", place)
    return place / "bin"


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs = environment(tmp_path_factory.mktemp("wheel"))
    pip("install", "--no-compile", wheel, python=programs / "python")
    return programs


@pytest.fixture(scope="module")
def from_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution without the kubernetes package: the slim install of the README."""
    programs = environment(tmp_path_factory.mktemp("from-sdist"))
    pip("install", "--no-compile", "--no-deps", sdist, python=programs / "python")
    pip("install", "--no-compile", "-r", SLIM, python=programs / "python")
    return programs


@pytest.mark.parametrize("which", ["from_wheel", "from_sdist"])
def test_an_install_serves_the_lab(which, request, tmp_path):
    programs: Path = request.getfixturevalue(which)
    program = programs / "clusterdns"
    assert f"clusterdns-{__version__}" == run(program, "-version", cwd=tmp_path).splitlines()[0]
    assert run(program, "help", "forward", cwd=tmp_path).startswith("forward - ")
    with lab(program, tmp_path) as server:
        assert ["10.96.1.1"] == addresses(server, QNAME)
        assert ["192.0.2.80"] == addresses(server, "www.example.com.")


@pytest.mark.skipif(
    native.compiled is None, reason="no compiled packet path here: apt-get install gcc"
)
def test_an_install_compiles_the_packet_path(from_sdist, tmp_path):
    program = "from clusterdns.serving import native; print(native.compiled is not None)"
    assert "True\n" == run(from_sdist / "python", "-I", "-c", program, cwd=tmp_path)


@contextmanager
def lab(program: Path, directory: Path) -> Iterator[peers.Server]:
    """`clusterdns lab`, whose Corefile has HTTP ports of its own: a lab may be running already."""
    port, log = peers.free_port(), directory / "lab.log"
    zones = program.parent.parent / "share" / "clusterdns" / "zones"
    text = (zones / "Corefile").read_text()
    for each in ("18080", "18181", "19153"):
        text = text.replace(each, str(peers.free_port()))
    (zones / "Corefile").write_text(text)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "lab", "-p", str(port)], cwd=directory, stdout=output, stderr=output
        )
    server = peers.Server("127.0.0.1", port, process, log)
    try:
        peers.wait_until_answering(server)
        assert f"dig @localhost -p {port} {QNAME[:-1]} A" in log.read_text()
        yield server
    finally:
        process.terminate()
        process.wait(15)


def addresses(server: peers.Server, qname: str) -> list[str]:
    reply = peers.ask_udp(server.address, dns.message.make_query(qname, "A").to_wire())
    assert reply is not None
    return [item.to_text() for rrset in dns.message.from_wire(reply).answer for item in rrset]


def test_a_slim_install_serves_from_an_api_server(from_sdist, tmp_path):
    """What a Pod does; whoever names a kubeconfig with `exec` is told what is missing."""
    assert not list(from_sdist.parent.rglob("site-packages/kubernetes"))
    manifests = [
        each
        for path in (ROOT / "zones" / "cluster").glob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
        if each["kind"] in ("Namespace", "Service", "EndpointSlice")
    ]
    http = peers.free_port()
    with FakeApi(manifests) as api:
        corefile = (
            f".:{{PORT}} {{\n errors\n prometheus 127.0.0.1:{http}\n cache 30\n"
            f" kubernetes cluster.local {{\n  endpoint {api.url}\n }}\n}}\n"
        )
        with peers.running([str(from_sdist / "clusterdns")], corefile, tmp_path) as server:
            peers.wait_until_answering(server)
            assert ["10.96.1.1"] == addresses(server, QNAME)
    (tmp_path / "config").write_text(
        "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://192.0.2.1'}}]\n"
        "users: [{name: u, user: {exec: {command: x}}}]\n"
    )
    corefile = ". {\n kubernetes cluster.local {\n  kubeconfig config\n }\n}\n"
    with peers.running([str(from_sdist / "clusterdns")], corefile, tmp_path) as server:
        assert 1 == server.process.wait(10)
        assert re.search(r":3: kubeconfig: .*pip install kubernetes", server.output)


def test_the_source_distribution_is_the_whole_checkout(sdist):
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    files = {name.partition("/")[2] for name in members}
    assert set() == checkout() - files
    assert [] == [name for name in members if name.endswith((".so", ".pyc"))]


def test_the_wheel_has_every_file_of_the_package_and_of_the_lab(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = f"clusterdns-{__version__}.data/data/share/clusterdns/"
    needed = {name for name in checkout() if name.startswith("clusterdns/")}
    needed |= {data + name for name in checkout() if name.startswith("zones/")}
    assert set() == needed - names


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        described = Parser().parsestr(archive.read(path).decode())
        assert [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        folders = {name.partition("/")[0] for name in archive.namelist()}
    dist = f"clusterdns-{__version__}"
    assert {"clusterdns", f"{dist}.dist-info", f"{dist}.data"} == folders
    assert "Apache-2.0" == described["License-Expression"]
    assert ">=3.11" == described["Requires-Python"]
    assert "Operating System :: POSIX :: Linux" in described.get_all("Classifier", [])
    needed = [Requirement(text) for text in described.get_all("Requires-Dist", [])]
    assert {"kubernetes", "dnslib"} <= {each.name for each in needed if each.marker is None}
    assert "# clusterdns" in str(described.get_payload())
