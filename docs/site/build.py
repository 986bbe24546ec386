"""Builds the documentation's site in a folder: `make site`.

The pages are the Markdown files of the checkout, where they stand, with the files that they link
to; a page for each plugin, from its manual; and a page for each command, from its help. A link that
leads nowhere ends the build.

    build.py OUT
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(sys.executable).with_name("clusterdns")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def main(out: Path) -> None:
    """Write the site."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        pages = work / "pages"
        settings = yaml.safe_load((HERE / "mkdocs.yml").read_text())
        for name in _named(settings["nav"]):
            if name.endswith(".md"):
                _copy(name, pages)
        reference = [
            {"Commands": _write(pages / "commands", "Commands", _commands())},
            {"Plugins": _write(pages / "plugins", "Plugins", _plugins())},
        ]
        for entry in settings["nav"]:
            if "REFERENCE" in entry.values():
                entry["Reference"] = reference
        (work / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
        config = load_config(str(work / "mkdocs.yml"), site_dir=str(out.resolve()), strict=True)
        build(config)


def _named(entry: object) -> Iterator[str]:
    """Yield the files that a navigation names."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from _named(list(entry.values()))
    elif isinstance(entry, list):
        for each in entry:
            yield from _named(each)


def _copy(name: str, pages: Path) -> None:
    """Copy a page and the files, no pages, that it links to."""
    text = (ROOT / name).read_text()
    (pages / name).parent.mkdir(parents=True, exist_ok=True)
    (pages / name).write_text(text)
    for target in _LINK.findall(text):
        found = (ROOT / name).parent / target
        if found.suffix != ".md" and found.is_file():
            copy = pages / found.resolve().relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, copy)


def _write(folder: Path, title: str, pages: Iterator[tuple[str, str, str]]) -> list[Any]:
    """Write pages (name, purpose, Markdown) and one that lists them; return their navigation."""
    folder.mkdir(parents=True)
    listed, entries = io.StringIO(), []
    print(f"# {title}\n\n| | |\n|---|---|", file=listed)
    for name, purpose, text in pages:
        (folder / f"{name}.md").write_text(text)
        print(f"| [{name}]({name}.md) | {purpose} |", file=listed)
        entries.append({name: f"{folder.name}/{name}.md"})
    (folder / "index.md").write_text(listed.getvalue())
    return [{"All": f"{folder.name}/index.md"}, *entries]


def _plugins() -> Iterator[tuple[str, str, str]]:
    for line in _said("-plugins").splitlines():
        if line.startswith("  dns."):
            name = line.removeprefix("  dns.").split()[0]
            yield _manual(name)


def _manual(name: str) -> tuple[str, str, str]:
    """Return the page of a plugin: sections of its manual are headings, examples are indented."""
    title, _, text = _said("help", name).partition("\n")
    purpose = title.partition(" - ")[2]
    body = re.sub(r"^([A-Z][a-z]+):$", r"## \1", text, flags=re.MULTILINE)
    return name, purpose, f"# {name}\n\n{purpose}\n{body}"


def _commands() -> Iterator[tuple[str, str, str]]:
    listing = _said("-h").partition("commands")[2]
    for name, purpose in re.findall(r"^  ([a-z-]+) {2,}(\S.*)$", listing, re.MULTILINE):
        text = "".join(f"    {line}\n" for line in _said(name, "-h").splitlines())
        yield name, purpose, f"# clusterdns {name}\n\n{purpose}\n\n{text}"


def _said(*arguments: str) -> str:
    command = [str(PROGRAM), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
