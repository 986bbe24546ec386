"""What mypyc compiles can be compiled, and says so: the rules that neither mypy nor Python checks."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterdns.metrics import exposition
from clusterdns.serving import native, table

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]["clusterdns"]
COMPILED = frozenset(SETTINGS["compiled"])


def classes() -> Iterator[tuple[str, str, list[str]]]:
    """Yield path, name and bases of each class of a module."""
    for path in (ROOT / "clusterdns").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
                yield str(path.relative_to(ROOT)), node.name, [b.rpartition(".")[2] for b in bases]


def test_the_list_is_of_modules_that_there_are_in_order():
    assert SETTINGS["compiled"] == sorted(COMPILED)
    assert not [path for path in COMPILED if not (ROOT / path).is_file()]


def test_the_compiler_is_the_type_checker():
    assert SETTINGS["compiler"] in PROJECT["project"]["optional-dependencies"]["dev"]


def test_no_interpreted_class_has_a_compiled_base():
    """It would raise TypeError when the first object of it is made."""
    found = list(classes())
    # Tuples and enumerations are classes of Python there, too.
    native_bases = {
        name
        for path, name, bases in found
        if path in COMPILED and not {"NamedTuple", "Enum", "Protocol"} & {*bases}
    }
    assert "Lookup" in native_bases
    others = [each for each in found if each[0] not in COMPILED]
    assert [] == [each for each in others if native_bases & {*each[2]}]


def test_the_build_is_told():
    build = native.build()
    assert ("python" if native.compiled is None else "c") == build.packet_path
    assert ("python" if str(table.__file__).endswith(".py") else "compiled") == build.modules
    sample = ("clusterdns_build_info", tuple(build), 1)
    page = exposition.exposition([sample], [], {}).decode()
    labels = f'modules="{build.modules}",packet_path="{build.packet_path}"'
    assert f"clusterdns_build_info{{{labels}}} 1.0" in page


@pytest.mark.parametrize(
    "word", ["serving/table", "wire/response", "chain/view", "cluster/respond"]
)
def test_what_a_miss_passes_is_compiled(word):
    assert f"clusterdns/{word}.py" in COMPILED
