"""The architecture, held by the folders: floors, circles, purity, one importer per package.

DESIGN.md draws the folders; the digit in front of one is its floor. The docstring of a folder lists
its files. A module imports only from
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


def floors_of(design: str) -> dict[str, int]:
    """The tree in DESIGN.md: the floor of each folder, and of each file at the top."""
    block = design[design.index("## The tree") :].split("```")[1]
    drawn = re.findall(r"^(\d+) (\S+)", block, re.MULTILINE)
    return {entry.rstrip("/").removesuffix(".py"): int(floor) for floor, entry in drawn}


def listed(folder: Path) -> dict[str, bool]:
    """The files that the docstring of a folder lists, and which of them are pure."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False) or ""
    rows = re.findall(r"^(\S+\.(?:py|c)) (.*)$", text, re.MULTILINE)
    return {name: what.endswith(" Pure") for name, what in rows}


def misdrawn(root: Path) -> list[str]:
    """What is in a folder and not in its docstring's list, and the other way round; and purity.

    Plugins are not listed one by one: a file there is a directive.
    """
    return [
        f"{path.parent.relative_to(root / TOP)}/{fault}"
        for path in sorted((root / TOP).rglob("*/__init__.py"))
        if path.parent.name not in (TOP, "plugins")
        for fault in _misdrawn(path.parent)
    ]


def _misdrawn(folder: Path) -> list[str]:
    there = {
        path.name: "\nPure: " in path.read_text()
        for path in (*folder.glob("*.py"), *folder.glob("*.c"))
        if path.name != "__init__.py"
    }
    names = listed(folder)
    return [
        *(f"{name} is not listed" for name in sorted(there.keys() - names)),
        *(f"{name} is listed and not there" for name in sorted(names.keys() - there)),
        *(
            f"{name} is pure, or listed so, and not both"
            for name in sorted(there.keys() & names)
            if there[name] != names[name]
        ),
    ]


DESIGN = (ROOT / "DESIGN.md").read_text()
REAL = Tree(ROOT, floors_of(DESIGN))


def test_floors_circles_and_purity():
    assert [] == REAL.faults()


def test_the_design_draws_every_folder_and_no_other():
    top = ROOT / TOP
    folders = {path.parent.name for path in top.glob("*/__init__.py")}
    files = {path.stem for path in top.glob("*.py")} - {"__init__"}
    assert folders | files == REAL.floors.keys()


def test_each_folder_lists_its_modules_and_no_other():
    assert [] == misdrawn(ROOT)


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


def test_a_list_that_is_not_the_folder_is_found(tmp_path):
    listing = f"gone.py  x\nlogs.py  {'x':<40} Pure\n"
    files = {"host/__init__.py": f'"""The machine.\n\n{listing}"""', "plugins/__init__.py": ""}
    for path in ("__init__.py", "host/new.c", "host/logs.py", "plugins/any.py"):
        files[path] = ""
    for path, text in files.items():
        file = tmp_path / TOP / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert [
        "host/new.c is not listed",
        "host/gone.py is listed and not there",
        "host/logs.py is pure, or listed so, and not both",
    ] == misdrawn(tmp_path)
