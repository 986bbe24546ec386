"""Plugin manuals: every plugin has one, its Examples are Corefiles that compile, `help` prints it."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import certificates
import pytest
import signedzones
import tinymmdb

from clusterdns.chain import registry
from clusterdns.config.compile import compile_text

ZONES = Path(__file__).resolve().parents[2] / "zones"
PLUGINS = registry.available()


def manual(word: str) -> str:
    return inspect.getdoc(inspect.getmodule(registry.load(word))) or ""


def examples(word: str) -> str:
    found = re.search(r"^Examples:\n\n((?:    .*\n|\n)+)", manual(word) + "\n", re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


@pytest.mark.parametrize("word", PLUGINS)
def test_the_manual_says_what_it_is_and_how_it_is_written(word):
    text = manual(word)
    assert re.match(rf"{word} - [a-z].+\.\n", text)
    assert "\nSyntax:\n" in text
    assert re.search(rf"^    {word}\b", text, re.MULTILINE)


IGNORE_BLOCKS = ("bufsize", "cancel", "reload")  # as in CoreDNS; it is warned of


@pytest.mark.parametrize("word", PLUGINS)
def test_the_examples_compile(word, tmp_path, monkeypatch):
    (tmp_path / "cluster").symlink_to(ZONES / "cluster")
    (tmp_path / "db.example.org").symlink_to(ZONES / "db.example.org")
    tinymmdb.write(tmp_path / "GeoLite2-City.mmdb", "GeoLite2-City", {})
    if word in ("https", "tls"):
        made = certificates.make(tmp_path)
        (made / "server.pem").rename(made / "tls.crt")
        (made / "server.key").rename(made / "tls.key")
    monkeypatch.chdir(tmp_path)
    text = examples(word)
    for base, owner in re.findall(r"\b(K([\w.]+)\+013\+45330)", text):
        made = signedzones.key_files(tmp_path, owner)[0]
        for suffix in (".key", ".private"):
            (tmp_path / f"{made}{suffix}").rename(tmp_path / f"{base}{suffix}")
    assert re.search(rf"\b{word}\b", text)
    compiled = compile_text(text, "manual", port=53, environ={}, warn=print)
    assert word in {made.name for view in compiled.views for made in view.plugins}


@pytest.mark.parametrize("word", [word for word in PLUGINS if word not in IGNORE_BLOCKS])
def test_unknown_properties_are_refused(word, tmp_path, monkeypatch):
    (tmp_path / "cluster").symlink_to(ZONES / "cluster")
    (tmp_path / "db.example.org").symlink_to(ZONES / "db.example.org")
    tinymmdb.write(tmp_path / "GeoLite2-City.mmdb", "GeoLite2-City", {})
    monkeypatch.chdir(tmp_path)
    line = re.search(rf"^\s*({word}\b.*?)\s*(\{{)?$", examples(word), re.MULTILINE)
    assert line is not None
    text = f"example.org {{\n{line[1]} {{\n nonsense\n }}\n}}\n"
    with pytest.raises(Exception, match=r"^manual:\d+: .*") as caught:
        compile_text(text, "manual", port=53, environ={}, warn=print)
    assert type(caught.value).__name__ == "ConfigError"
