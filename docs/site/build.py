"""Builds the documentation's site in a folder: `make site`.

The pages are the Markdown files of the checkout, where they stand, with the files that they link
to; a page for each plugin, from its manual; a page for each command, from its help; and one of all
metrics and alerts. A link that leads nowhere ends the build.

    build.py OUT
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from markdown.extensions.toc import slugify  # type: ignore[import-untyped]
from mkdocs.commands.build import build
from mkdocs.config import load_config

from clusterdns.chain import registry
from clusterdns.commands import listing
from clusterdns.metrics import exposition
from clusterdns.metrics.family import Family

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_METRICS = """# Metrics and alerts

With `prometheus` in a server block, `/metrics` has these and `process_*`. Names that begin with
`coredns_` are as CoreDNS has them, so its dashboards work. [Kubernetes](deploy/README.md) tells how
to apply the ServiceMonitor, the alerts and the dashboard.

## Metrics

"""
_ALERTS = """## Alerts

"""
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
            {"Metrics and alerts": "metrics.md"},
        ]
        (pages / "metrics.md").write_text(_metrics())
        for entry in settings["nav"]:
            if "REFERENCE" in entry.values():
                entry["Reference"] = reference
        (work / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
        shutil.copytree(HERE / "theme", work / "theme")
        config = load_config(str(work / "mkdocs.yml"), site_dir=str(out.resolve()), strict=True)
        config["mdx_configs"]["toc"] = {"slugify": _anchor}
        build(config)


def _anchor(heading: str, separator: str) -> str:
    """Return the anchor of a heading; the theme's scripts fail at one that begins with a digit."""
    found: str = slugify(heading, separator)
    return f"section{separator}{found}" if found[:1].isdigit() else found


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
    """Yield the page of each plugin: sections of its manual are headings, examples are indented."""
    for name in registry.available():
        title, _, text = registry.manual(name).partition("\n")
        body = re.sub(r"^([A-Z][a-z]+):$", r"## \1", text, flags=re.MULTILINE)
        purpose = registry.purpose(title)
        yield name, purpose, f"# {name}\n\n{purpose}\n{body}"


def _commands() -> Iterator[tuple[str, str, str]]:
    """Yield the page of each command, its help."""
    for name in listing.NAMES:
        command = listing.load(name)
        text = textwrap.indent(command.parser().format_help(), "    ")
        yield name, command.summary, f"# clusterdns {name}\n\n{command.summary}\n\n{text}"


def _metrics() -> str:
    """Return the page of the families that plugins and the server declare, and of the alerts."""
    out = io.StringIO()
    print(f"{_METRICS}| | |\n|---|---|", file=out)
    found = [(name, family, "") for name, family in exposition.FAMILIES.items()]
    for word in registry.available():
        found += [(name, family, word) for name, family in registry.load(word).families.items()]
    for name, family, word in sorted(found, key=lambda each: exposition.full_name(each[0])):
        labels = " by " + ", ".join(f"`{label}`" for label in family.labels)
        told = f"{_kind(family)}{labels if family.labels else ''}"
        source = f", of [{word}](plugins/{word}.md)" if word else ""
        row = f"`{exposition.full_name(name)}` | {family.help}<br>{told}{source}"
        print(f"| {row} |", file=out)
    print(f"\n{_ALERTS}| Alert | Severity | Says | What to do |\n|---|---|---|---|", file=out)
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text())
    for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"]):
        told = rule["annotations"]
        summary = re.sub(r"{{ *\$labels\.(\w+) *}}", r"*\1*", told["summary"])
        summary = re.sub(r"{{ *\$value[^}]*}}", "*N*", summary)
        severity = rule["labels"]["severity"]
        print(
            f"| {rule['alert']} | {severity} | {summary} | {told.get('description', '')} |",
            file=out,
        )
    return out.getvalue()


def _kind(family: Family) -> str:
    return "histogram" if family.bounds else "gauge" if family.is_gauge else "counter"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
