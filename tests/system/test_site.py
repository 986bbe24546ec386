"""The documentation's site: it is built without a warning, and its pages need no other server."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Page(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in LOADED and (target := found.get(LOADED[tag])) and found.get("rel") != "canonical":
            self.loaded.append(target)
        if tag == "a" and (target := found.get("href")):
            self.links.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "docs" / "site" / "build.py", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert not done.returncode, done.stdout + done.stderr
    return out


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for path in pages:
        for target in Page(path).loaded:
            assert not urlsplit(target).netloc, (path, target)
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?https?:", path.read_text()), path


def test_every_link_leads_to_a_page(site):
    for path in site.rglob("*.html"):
        if path.name == "404.html":  # its links are below the root, wherever it is shown
            continue
        for link in Page(path).links:
            target = urldefrag(link).url
            if not target or urlsplit(target).scheme or target.startswith("/"):
                continue
            found = path.parent / target
            assert (found / "index.html").is_file() or found.is_file(), (path, link)


def test_each_plugin_has_a_page_with_its_manual(site):
    names = [path.stem for path in (ROOT / "clusterdns" / "plugins").glob("[a-z]*.py")]
    assert len(names) > 40
    for name in names:
        text = (site / "plugins" / name / "index.html").read_text()
        assert "Syntax</h2>" in text, name
