"""One version: the package, the chart, the changelog, and what the pages say of it agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from clusterdns import COREDNS_VERSION, __version__

ROOT = Path(__file__).resolve().parents[2]
CHANGES = (ROOT / "CHANGELOG.md").read_text()


def sections() -> list[tuple[str, str]]:
    """The heading and the text of each section of the changelog, newest first."""
    parts = re.split(r"^## (.+)\n", CHANGES, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def released() -> list[tuple[str, str]]:
    return [(head, text) for head, text in sections() if head != "Unreleased"]


def test_the_newest_section_of_the_changelog_is_of_this_version():
    head, _ = released()[0]
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d{{2}}-\d{{2}}", head)


def test_what_is_unreleased_stands_on_top_or_nowhere():
    assert "Unreleased" not in [head for head, _ in sections()[1:]]


def test_a_section_says_how_to_upgrade_and_has_no_empty_part():
    _, text = released()[0]
    assert "### Upgrade from " in text
    for part in re.split(r"^###+ ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        assert body.strip() or title == "Added", f"{title} is empty"


@pytest.mark.parametrize("head", [head for head, _ in sections()])
def test_no_change_is_told_twice(head):
    entries = re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", dict(sections())[head], re.MULTILINE)
    assert sorted({*entries}) == sorted(entries)


def test_the_chart_has_the_version():
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "clusterdns" / "Chart.yaml").read_text())
    assert (__version__, __version__) == (chart["version"], chart["appVersion"])


def test_the_security_page_supports_it():
    supported = re.findall(r"^\| (\d+)\.x \| yes", (ROOT / "SECURITY.md").read_text(), re.M)
    assert __version__.partition(".")[0] in supported


def test_the_package_is_called_stable_from_1_0_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stage = "5 - Production/Stable" if int(__version__.partition(".")[0]) else "4 - Beta"
    assert f"Development Status :: {stage}" in project["classifiers"]


def test_the_release_names_the_coredns_that_it_replaces():
    assert f"CoreDNS {COREDNS_VERSION}" in released()[0][1].partition("###")[0]
