"""What is imported is declared, what is declared is imported, and the lists of packages agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
# Of plugins that few name: their manuals say which extra brings them.
OPTIONAL = [
    Requirement(text)
    for extra, some in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "bench", "release")
    for text in some
]
SLIM = ROOT / "deploy" / "requirements-slim.txt"
IMAGE = ROOT / "deploy" / "image"
# Packages whose module has another name.
MODULES = {
    "dnspython": "dns",
    "pyyaml": "yaml",
    "google-re2": "re2",
    "grpcio": "grpc",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "websocket-client": "websocket",
}
# Of the development extra: programs that are started, and types that mypy alone reads.
PROGRAMS = {"build", "mkdocs", "mypy", "pytest-timeout", "pytest-xdist", "ruff"}


def imported(paths: Iterable[Path]) -> set[str]:
    """The top of every absolute import that is not the standard library's."""
    return (
        {
            name.partition(".")[0]
            for path in paths
            for node in ast.walk(ast.parse(path.read_text()))
            for name in _names(node)
        }
        - sys.stdlib_module_names
        - {"_typeshed"}
    )  # that is mypy's own


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module


def modules(requirements: Iterable[Requirement]) -> set[str]:
    names = {canonicalize_name(each.name) for each in requirements}
    return {MODULES.get(name, name) for name in names}


def requirements_of(path: Path) -> list[Requirement]:
    lines = re.sub(r"\\\n\s*--hash=\S+", "", path.read_text()).splitlines()
    return [Requirement(line.strip()) for line in lines if line and not line.startswith("#")]


def test_the_package_imports_what_is_declared_and_nothing_else():
    assert modules([*DECLARED, *OPTIONAL]) == imported((ROOT / "clusterdns").rglob("*.py")) - {
        "clusterdns"
    }


def test_the_tests_import_what_is_declared_and_nothing_else():
    tests = list((ROOT / "tests").rglob("*.py"))
    release = (ROOT / "deploy" / "release").glob("*.py")
    own = (
        {path.stem for path in [*tests, *release]}
        | {path.parent.name for path in tests}
        | {"clusterdns"}
    )
    extras = PROJECT["optional-dependencies"]
    tools = {
        canonicalize_name(Requirement(text).name)
        for name in ("dev", "bench")
        for text in extras[name]
    } - {"clusterdns"}  # the development extra includes the other
    libraries = {
        MODULES.get(name, name) for name in tools - PROGRAMS if not name.startswith("types-")
    }
    used = imported(tests) - own
    assert used <= libraries | modules(DECLARED)
    assert libraries <= used
    assert tools >= PROGRAMS


def test_types_are_those_of_packages_that_are_used():
    dev = [Requirement(text).name for text in PROJECT["optional-dependencies"]["dev"]]
    types = {canonicalize_name(name.removeprefix("types-")) for name in dev if "types-" in name}
    assert types <= {canonicalize_name(each.name) for each in DECLARED}


def test_a_slim_install_lacks_kubernetes_alone():
    slim = {str(each) for each in requirements_of(SLIM)}
    assert slim == {str(each) for each in DECLARED if each.name != "kubernetes"}


@pytest.mark.row("P10")
def test_the_image_is_made_of_the_declared_packages(figure):
    wanted = {canonicalize_name(each.name): each for each in DECLARED}
    named = {canonicalize_name(each.name) for each in requirements_of(IMAGE / "requirements.in")}
    assert wanted.keys() == named
    pinned = {
        canonicalize_name(each.name): each for each in requirements_of(IMAGE / "requirements.txt")
    }
    for name, requirement in wanted.items():
        (version,) = pinned[name].specifier
        assert requirement.specifier.contains(version.version), name
    text = (IMAGE / "requirements.txt").read_text()
    assert text.count("==") <= text.count("--hash=sha256:")
    figure("P10", "{count} packages of the image, each with its hash", count=text.count("=="))


@pytest.mark.row("P10")
@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("urllib3", "2.6.3"),  # CVE-2026-44431, CVE-2026-44432
        ("urllib3", "3.0.0"),  # kubernetes calls what it removes
        ("kubernetes", "33.1.0"),  # ignores HTTPS_PROXY
        ("kubernetes", "34.1.0"),  # ignores NO_PROXY
        ("kubernetes", "35.0.0"),  # likewise
        ("kubernetes", "36.0.0"),  # asks an exec plugin for no new token
        ("dnspython", "2.6.0"),  # CVE-2023-29483 mended by halves
        ("h2", "4.2.0"),  # CVE-2025-57804
        ("h11", "0.14.0"),  # CVE-2025-43859
        ("PyYAML", "6.0"),  # builds with no Cython of today
    ],
)
def test_releases_with_known_faults_are_excluded(package, version, figure):
    (found,) = [each for each in DECLARED if each.name == package]
    assert not found.specifier.contains(version)
    figure("P10", "{runs} releases with known faults excluded")
