"""YAML that PyYAML cannot construct is refused like any other that is no YAML."""

from __future__ import annotations

import pytest

from clusterdns.cluster import yamltext


@pytest.mark.parametrize(
    "text",
    [
        "a: !!timestamp x", "a: !!bool x", "a: !!int ''", "a: !!int x", "a: !!float ''", "a: !!float x",
        "a: !!set [1]", "a: !!omap {b: c}", "a: !!pairs x", "a: !!binary \u00e9", "? [b]\n: c",
        "a: !!timestamp 2026-99-99", "a: !!int 0x", "a: !!python/object:os.system x", "a: *b", "[",
    ],
)  # fmt: skip
def test_words_that_do_not_fit_their_tag(text):
    with pytest.raises(yamltext.YamlError):
        list(yamltext.documents(text.encode()))
