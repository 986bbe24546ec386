"""The architecture, held by the folders: floors, circles, purity, one importer per package.

DESIGN.md draws the tree; the digit in front of a folder is its floor. A module imports only from
floors below its own, or from its own folder; nothing imports in a circle.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = "clusterdns"
IMPURE = {
    "asyncio", "concurrent", "fcntl", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "signal", "socket", "subprocess", "threading", "time",
}  # fmt: skip
ONE_IMPORTER = {
    "dnslib": {"clusterdns.wire.printing"},
    "h11": {"clusterdns.doh.http1", "clusterdns.skydns.gateway"},
    "h2": {"clusterdns.doh.http2"},
    "kubernetes": {"clusterdns.cluster.api.login"},
    "prometheus_client": {"clusterdns.metrics.exposition"},
    "rich": {"clusterdns.commands.output"},
    "re2": {"clusterdns.languages.regexp"},
    "yaml": {"clusterdns.cluster.yamltext"},
}


class Tree:
    """The modules below a folder, and what each imports; ``floors`` are those of DESIGN.md."""

    def __init__(self, root: Path, floors: Mapping[str, int]) -> None:
        self.floors = floors
        self.paths = {_module(path.relative_to(root)): path for path in root.glob(f"{TOP}/**/*.py")}
        self.imports = {module: set(_imports(path)) for module, path in self.paths.items()}

    def within(self, module: str) -> set[str]:
        """What a module imports of the tree: modules, the package where it names no module."""
        return {each for each in self.imports[module] if each in self.paths} - {module, TOP}

    def floor(self, module: str) -> int | None:
        """The floor of a module: that of its file or of the nearest folder that has one."""
        parts = module.split(".")[1:]
        for end in range(len(parts), 0, -1):
            found = self.floors.get("/".join(parts[:end]))
            if found is not None:
                return found
        return None

    def faults(self) -> list[str]:
        """Every import that breaks a rule, in a sentence."""
        return [*self._upward(), *self._circles(), *self._folder_circles(), *self._impure()]

    def _upward(self) -> Iterator[str]:
        for module in sorted(self.paths.keys() - {TOP}):
            mine = self.floor(module)
            if mine is None:
                yield f"{module} has no floor"
                continue
            for other in sorted(self.within(module)):
                if other.startswith("clusterdns.plugins.") and module.split(".")[1] != "plugins":
                    yield f"{module} imports the plugin {other} by name"
                theirs = self.floor(other)
                if theirs is None or theirs < mine or _room(other) == _room(module):
                    continue
                yield f"{module} (floor {mine}) imports {other} (floor {theirs})"

    def _circles(self) -> Iterator[str]:
        """Modules that reach themselves; also through imports in functions and for types."""
        for module in sorted(self.paths):
            if module in self.reached(module):
                yield f"{module} imports itself in a circle"

    def _folder_circles(self) -> Iterator[str]:
        """Folders of which each needs the other, if by different modules."""
        needs = {
            (_folder(module), _folder(other))
            for module in self.paths
            for other in self.within(module)
            if _folder(module) and _folder(other)
        }
        for one, other in sorted(needs):
            if one < other and (other, one) in needs:
                yield f"{one}/ and {other}/ import one another"

    def _impure(self) -> Iterator[str]:
        """What says that it is pure, and reaches sockets, a clock, threads or randomness."""
        for module, path in sorted(self.paths.items()):
            if "\nPure: " in path.read_text():
                for each in sorted({module} | self.reached(module)):
                    found = {name.partition(".")[0] for name in self.imports[each]} & IMPURE
                    if found:
                        yield f"{module} says it is pure; {each} imports {', '.join(sorted(found))}"

    def reached(self, module: str) -> set[str]:
        """All modules that importing one imports in the end."""
        found: set[str] = set()
        ahead = set(self.within(module))
        while ahead:
            each = ahead.pop()
            found.add(each)
            ahead |= self.within(each) - found
        return found


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """The folder whose modules may import one another; a plugin has a room to itself."""
    parts = module.split(".")
    return module if parts[1] == "plugins" or len(parts) < 3 else parts[1]


def _folder(module: str) -> str:
    """The folder of a module, "" for one at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names
            if not all(_is_module(name) for name in names):
                yield node.module


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def drawn(design: str) -> tuple[dict[str, int], dict[str, bool]]:
    """The tree in DESIGN.md: the floor of each folder and file at the top, paths, and which are pure."""
    block = design[design.index("## The tree") :].split("```")[2 - 1]
    floors, paths = dict[str, int](), dict[str, bool]()
    folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        found = re.match(r"(\d+| ) ( *)(\S+)", line)
        if not found or line.startswith(TOP):
            continue
        depth, entry = len(found[2]), found[3]
        folders = [each for each in folders if each[0] < depth]
        path = "".join(folder for _, folder in folders) + entry
        if found[1] != " ":
            floors[entry.rstrip("/").removesuffix(".py")] = int(found[1])
        if entry.endswith("/"):
            folders.append((depth, entry))
        paths[path] = line.endswith(" Pure")
    return floors, paths


def misdrawn(root: Path, design: str) -> list[str]:
    """What is there and not in the tree, and the other way round; what is said to be pure, and not.

    Plugins are not drawn one by one: a file there is a directive.
    """
    files = [*(root / TOP).rglob("*.py"), *(root / TOP).rglob("*.c")]
    there = {
        str(path.relative_to(root / TOP)): "\nPure: " in path.read_text()
        for path in files
        if path.name != "__init__.py" and path.parent.name != "plugins"
    }
    paths = {path: pure for path, pure in drawn(design)[1].items() if not path.endswith("/")}
    return [
        *(f"{path} is not drawn" for path in sorted(there.keys() - paths)),
        *(f"{path} is drawn and not there" for path in sorted(paths - there.keys())),
        *(
            f"{path} is pure, or drawn so, and not both"
            for path, is_pure in sorted(there.items())
            if path in paths and is_pure != paths[path]
        ),
    ]


DESIGN = (ROOT / "DESIGN.md").read_text()
REAL = Tree(ROOT, drawn(DESIGN)[0])


def test_floors_circles_and_purity():
    assert [] == REAL.faults()


def test_the_design_draws_every_module_and_no_other():
    assert [] == misdrawn(ROOT, DESIGN)


@pytest.mark.parametrize("package", sorted(ONE_IMPORTER))
def test_a_package_has_one_importer(package):
    found = {
        module
        for module, imported in REAL.imports.items()
        if any(each.partition(".")[0] == package for each in imported)
    }
    assert ONE_IMPORTER[package] == found


VIOLATIONS = {
    "an arrow up": (
        {"wire/name.py": "from clusterdns.chain import view", "chain/view.py": ""},
        "clusterdns.wire.name (floor 2) imports clusterdns.chain.view (floor 5)",
    ),
    "an arrow up for types only": (
        {
            "wire/name.py": """
                from typing import TYPE_CHECKING
                if TYPE_CHECKING:
                    from clusterdns.chain.view import View
                """,
            "chain/view.py": "class View: pass",
        },
        "clusterdns.wire.name (floor 2) imports clusterdns.chain.view (floor 5)",
    ),
    "an arrow to the neighbor": (
        {"caching/kept.py": "import clusterdns.forwarding.flight", "forwarding/flight.py": ""},
        "clusterdns.caching.kept (floor 4) imports clusterdns.forwarding.flight (floor 4)",
    ),
    "a circle between folders": (
        {
            "wire/name.py": "",
            "wire/rr.py": "from clusterdns.corefile.keys import Key",
            "corefile/keys.py": "class Key: pass",
            "corefile/lexer.py": "def late():\n    from clusterdns.wire import name",
        },
        "corefile/ and wire/ import one another",
    ),
    "a circle inside a folder": (
        {
            "wire/name.py": "def late():\n    from clusterdns.wire import rr",
            "wire/rr.py": "from clusterdns.wire.name import late",
        },
        "clusterdns.wire.name imports itself in a circle",
    ),
    "an impure friend": (
        {
            "wire/name.py": '"""Names.\n\nPure: no clock.\n"""\nfrom clusterdns.wire import rr',
            "wire/rr.py": "import time",
        },
        "clusterdns.wire.name says it is pure; clusterdns.wire.rr imports time",
    ),
    "a plugin by name": (
        {"config/compile.py": "from clusterdns.plugins import cache", "plugins/cache.py": ""},
        "clusterdns.config.compile imports the plugin clusterdns.plugins.cache by name",
    ),
    "a plugin of another": (
        {"plugins/loop.py": "from clusterdns.plugins import cache", "plugins/cache.py": ""},
        "clusterdns.plugins.loop (floor 7) imports clusterdns.plugins.cache (floor 7)",
    ),
    "a module in no room": ({"attic.py": ""}, "clusterdns.attic has no floor"),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_a_violation_of_each_kind_is_found(kind, tmp_path):
    files, fault = VIOLATIONS[kind]
    for path, text in files.items():
        file = tmp_path / TOP / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    assert fault in Tree(tmp_path, REAL.floors).faults()


def test_a_tree_that_is_not_the_folders_is_found(tmp_path):
    design = "## The tree\n```\nclusterdns/\n1 errors.py  x\n1 host/  x\n    gone.py  x\n"
    design += f"    logs.py  {'x':<40} Pure\n```\n"
    for path in ("__init__.py", "errors.py", "host/new.c", "host/logs.py", "plugins/any.py"):
        file = tmp_path / TOP / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    assert [
        "host/new.c is not drawn",
        "host/gone.py is drawn and not there",
        "host/logs.py is pure, or drawn so, and not both",
    ] == misdrawn(tmp_path, design)
