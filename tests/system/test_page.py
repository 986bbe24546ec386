"""The page of `status` in a real browser, headless Chromium, served by the real program.

``UPDATE_DOCS=1`` writes the pictures of docs/status.md; `make docs` sets it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import browser
import dns.message
import dns.name
import palettepng
import peers
import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURED = Path("/tmp/clusterdns")  # what a picture in docs/ says of where it was taken
HOSTILE = "<img src=x onerror=alert(1)>"
COREFILE = """
.:{PORT} {
    bind 127.0.0.1
    errors
    status 127.0.0.1:WEB
    kubernetes cluster.local {
        manifests CLUSTER
    }
}
"""
# Of every element with text of its own, the contrast to the ground it stands on (WCAG 2.1, 1.4.3).
CONTRASTS = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const owns = (each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.body.querySelectorAll("*")].filter((each) => owns(each) && each.getClientRects().length)
    .map((each) => {
      const style = getComputedStyle(each);
      const one = light(rgb(each instanceof SVGElement ? style.fill : style.color));
      const other = light(ground(each));
      return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), each.textContent.slice(0, 40)];
    }).filter(([contrast]) => contrast < 4.5);
})()
"""

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason=browser.MISSING)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a server that has been asked something; its URL."""
    web = peers.free_port()
    for_docs = bool(os.environ.get("UPDATE_DOCS"))
    directory = PICTURED if for_docs else tmp_path_factory.mktemp("page")
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "zones" / "cluster", directory / "cluster")
    text = COREFILE.replace("WEB", str(web)).replace("CLUSTER", str(directory / "cluster"))
    with peers.clusterdns(text, directory) as server:
        for _ in range(200 if for_docs else 5):
            peers.ask_udp(
                server.address, dns.message.make_query("web.uit.svc.cluster.local", "A").to_wire()
            )
            time.sleep(0.05 if for_docs else 0)  # the page draws seconds
        hostile = dns.name.Name((HOSTILE.encode(), b"uit", b"svc", b"cluster", b"local", b""))
        peers.ask_udp(server.address, dns.message.make_query(hostile, "AAAA").to_wire())
        yield f"http://127.0.0.1:{web}/"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def shown(page: browser.Page) -> None:
    page.wait_for("document.documentElement?.dataset.state === 'shown'")
    page.wait_for("document.querySelector('#table-types').innerText.includes('AAAA')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_shown_in_both_schemes(chromium, url, scheme):
    with chromium.page(url, scheme=scheme) as page:
        shown(page)
        assert "Ready" == page.text("#health")
        assert "NXDOMAIN" in page.text("#table-rcodes")
        assert "endpointslices" in page.text("#table-watch")
        assert "log the errors of the next plugins." in page.text("#table-configuration")
        ground = page.run("getComputedStyle(document.body).backgroundColor")
        assert {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme] == ground
        page.run(
            "document.querySelector('#ask-name').value = 'wbe.uit.svc.cluster.local'; explain()"
        )
        page.wait_for("document.querySelector('#explained').innerText.includes('did you mean')")
        assert [] == page.run(CONTRASTS)
        assert [] == page.complaints
        assert {url} == {each[: len(url)] for each in page.requests}
        if os.environ.get("UPDATE_DOCS"):
            picture = palettepng.reduced(page.picture(most_high=1100))
            (ROOT / "docs" / f"status-{scheme}.png").write_bytes(picture)


def test_a_name_with_markup_is_text(chromium, url):
    with chromium.page(url) as page:
        shown(page)
        page.wait_for("document.querySelector('#table-denied').innerText.includes('onerror')")
        assert 0 == page.run("document.images.length")
        page.run(
            "document.querySelector('#ask-name').value = '<img src=x onerror=alert(1)>.'; explain()"
        )
        page.wait_for("!document.querySelector('#explained').innerText.includes('Asking')")
        assert 0 == page.run("document.images.length")
        assert [] == page.complaints


def test_the_keyboard_reaches_all_and_the_focus_is_seen(chromium, url):
    with chromium.page(url) as page:
        shown(page)
        page.press("Tab")
        assert "Skip to the content" == page.run("document.activeElement.textContent")
        assert 0 <= page.run("document.activeElement.getBoundingClientRect().left")
        for _ in range(30):
            if page.run("document.activeElement.id") == "ask-name":
                break
            assert "none" != page.run("getComputedStyle(document.activeElement).outlineStyle")
            page.press("Tab")
        page.type("web.uit.svc.cluster.local")
        page.press("Enter")
        page.wait_for("document.querySelector('#explained').innerText.includes('10.96.1.1')")


def test_a_screen_reader_finds_names(chromium, url):
    with chromium.page(url) as page:
        shown(page)
        found = page.roles()
        roles = {role for role, _ in found}
        assert {"main", "navigation", "heading", "status", "table", "columnheader"} <= roles
        needs = {"button", "textbox", "combobox", "table", "region", "image", "link", "heading"}
        assert [] == [role for role, name in found if role in needs and not name]
        pictures = [name for role, name in found if role == "image"]
        assert any(name.startswith("Latency: p50 ") for name in pictures)


def test_another_site_is_refused_by_the_browser_too(chromium, url):
    with chromium.page(url) as page:
        shown(page)
        blocked = "fetch('http://192.0.2.1/').then(() => 'sent', () => 'blocked')"
        assert "blocked" == page.run(blocked)
        assert any("Content Security Policy" in each for each in page.complaints)
