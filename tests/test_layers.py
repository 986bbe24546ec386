"""The architecture, held by its imports: direction, purity, one importer per package, size."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clusterdns"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From the bottom up: a module imports only from lines above its own, or from its own line.
LAYERS = [
    "errors __init__ histogram logs interfaces channel extension",
    "packetloop",
    "name",
    "rr",
    "message",
    "zone answers resolvconf",
    "forwarding.exchange forwarding.choice forwarding.entropy",
    "table",
    "outcome tally corefile_lexer corefile_keys",
    "ledger corefile_parser",
    "corefile",
    "arguments kubedns caching.kept caching.fresh caching.counts cluster.objects cluster.selectors cluster.jsonstream cluster.backoff",
    "cluster.store caching.options",
    "caching.rules",
    "cluster.marks cluster.snapshot cluster.access cluster.kubeconfig",
    "cluster.apiclient",
    "forwarding.connections",
    "forwarding.upstream",
    "forwarding.flight",
    "route",
    "plugin",
    "forwarding.destinations",
    "steps searchpath",
    "cluster.records cluster.feed cluster.reflector",
    "cluster.respond cluster.manifests cluster.audit",
    "cluster.watch",
    "view configdir",
    "configure server",
    "engine stream binding check",
    "relay",
    "process web cluster.watcher",
    "worker",
    "metrics generation",
    "supervisor",
    "__main__",
]
IMPURE = {
    "asyncio", "concurrent", "fcntl", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "signal", "socket", "subprocess", "threading", "time",
}  # fmt: skip
ONE_IMPORTER = {
    "dnslib": {"clusterdns.message"},
    "kubernetes": {"clusterdns.cluster.kubeconfig"},
    "prometheus_client": {"clusterdns.metrics"},
    "yaml": {"clusterdns.cluster.manifests"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(module: str) -> int | None:
    short = module.removeprefix("clusterdns.")
    for i, line in enumerate(LAYERS):
        if short in line.split():
            return i
    return None


@pytest.mark.parametrize(
    "module", [m for m in MODULES if ".plugins" not in m and not m.endswith("__init__")]
)
def test_imports_point_downwards(module):
    mine = rank(module)
    assert mine is not None, f"{module} has no layer"
    for imported in imports(MODULES[module]):
        assert ".plugins." not in imported, "nothing imports a plugin by name"
        theirs = rank(imported) if imported in MODULES else None
        if theirs is not None:
            assert theirs <= mine, f"{module} imports {imported}"


@pytest.mark.parametrize(
    "module", [m for m, path in MODULES.items() if "\nPure: " in path.read_text()]
)
def test_what_says_it_is_pure_is(module):
    found = {imported.partition(".")[0] for imported in imports(MODULES[module])}
    assert set() == found & IMPURE


@pytest.mark.parametrize("package", sorted(ONE_IMPORTER))
def test_a_package_has_one_importer(package):
    found = {
        module
        for module, path in MODULES.items()
        if any(imported.partition(".")[0] == package for imported in imports(path))
    }
    assert ONE_IMPORTER[package] == found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_functions_stay_short(module):
    text = MODULES[module].read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, f"{node.name} is too long"


def test_the_design_names_every_module_and_no_other():
    """DESIGN.md's tree is the tree."""
    text = (ROOT / "DESIGN.md").read_text()
    tree = text[text.index("## The tree") :]
    named = set(re.findall(r"\b(\w+\.py)\b", tree.partition("```")[2]))
    there = {path.name for path in MODULES.values() if path.parent.name != "plugins"}
    assert there - {"__init__.py"} == named
