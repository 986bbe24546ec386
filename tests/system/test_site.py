"""The documentation's site: it is built without a warning, and its pages need no other server."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import browser
import pytest

from clusterdns.chain import registry
from clusterdns.metrics import exposition

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


def test_each_metric_and_alert_is_on_a_page(site):
    text = (site / "metrics" / "index.html").read_text()
    declared = {*exposition.FAMILIES}
    for word in registry.available():
        declared |= {*registry.load(word).families}
    names = {exposition.full_name(name) for name in declared}
    assert names == set(re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", text))
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/monitoring/alerts.yaml").read_text())
    assert len(alerts) > 10
    for alert in alerts:
        assert f"<td>{alert}</td>" in text
    assert "{{" not in text


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """The site, served as it is published."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    if browser.PROGRAM is None:
        pytest.skip(browser.MISSING)
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


LOADED_AND_DONE = "document.readyState == 'complete'"
WIDER_THAN_THE_WINDOW = "document.documentElement.scrollWidth - window.innerWidth"


def pages(site: Path) -> list[str]:
    """One page of each plugin and command is like the others."""
    left_out = re.compile(r"(plugins|commands)/(?!forward|top|index)\w")
    names = sorted(str(path.parent.relative_to(site)) for path in site.rglob("index.html"))
    return [f"{name}/" for name in names if not left_out.match(f"{name}/")]


def test_no_page_fails_in_a_browser_or_is_wider_than_a_phone(site, url, chromium):
    """A script of the theme that fails takes search, menus and the form of tables with it."""
    assert len(pages(site)) > 20
    for name in pages(site):
        with chromium.page(url + name, width=400) as page:
            page.wait_for(LOADED_AND_DONE)
            assert [] == page.complaints, name
            assert page.run(WIDER_THAN_THE_WINDOW) <= 0, name
            unformed = page.run("document.querySelectorAll('table:not(.table-striped)').length")
            assert 0 == unformed, name


def test_light_and_dark_are_the_reader_s_or_the_system_s(url, chromium):
    shown = "document.documentElement.getAttribute('data-bs-theme')"
    for scheme in ("light", "dark"):
        with chromium.page(url, scheme=scheme) as page:
            page.wait_for(LOADED_AND_DONE)
            assert scheme == page.run(shown)
            for chosen in ("dark", "light", "auto"):
                page.run(f"document.querySelector('[data-bs-theme-value={chosen}]').click()")
                assert (scheme if chosen == "auto" else chosen) == page.run(shown)


def test_what_is_searched_for_is_found(url, chromium):
    """The index is loaded meanwhile; each key asks it again."""
    type_it = (
        "(field => { field.value = 'autopath'; field.dispatchEvent(new Event('keyup')) })"
        "(document.getElementById('mkdocs-search-query'))"
    )
    found = "[...document.querySelectorAll('#mkdocs-search-results a')].map(a => a.textContent)"
    with chromium.page(url) as page:
        page.wait_for(LOADED_AND_DONE)
        page.wait_for(f"({type_it}, {found}.includes('autopath'))")
        assert [] == page.complaints
