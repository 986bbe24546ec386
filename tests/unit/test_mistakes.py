"""Mistakes in the blocks of directives: each is told with its line, the word, and the reason."""

from __future__ import annotations

import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

# By directive: the lines of its block, which begin at line 3, and how the message goes on.
MISTAKES = {
    "auto": [
        ("directory", ":3: directory: wants DIR"),
        ("directory zones x", ":3: directory: wants DIR"),
        ("directory zones (.*) {1} x", ":3: directory: wants DIR"),
        ("directory zones db {1}", ":3: directory: 'db' needs a part in parentheses"),
        ("directory zones (db {1}", ":3: directory: '(db' is no regular expression"),
        ("reload", ":3: reload: needs an argument"),
        ("reload soon", ":3: reload: 'soon' is no duration"),
        ("reload -1s", ":3: reload: wants a positive duration"),
        ("nonsense", ":3: nonsense: unknown property"),
    ],
    "k8s_external ext.test": [
        ("", ":2: k8s_external: needs the kubernetes plugin"),
        ("ttl 3601", ":2: k8s_external: needs the kubernetes plugin"),
    ],
    "kubernetes {\n endpoint http://127.0.0.1:9\n }\n k8s_external ext.test": [
        ("ttl 3601", ":6: ttl: wants a whole number from 0 to 3600"),
        ("ttl", ":6: ttl: takes one argument"),
        ("apex", ":6: apex: needs an argument"),
        ("headless yes", ":6: headless: takes no argument"),
        ("nonsense", ":6: nonsense: unknown property"),
    ],
    "secondary": [
        ("", ":2: secondary: wants transfer from ADDRESS"),
        ("transfer", ":3: transfer: wants from ADDRESS..."),
        ("transfer from", ":3: transfer: wants from ADDRESS..."),
        ("transfer to 192.0.2.1", ":3: transfer: wants from ADDRESS..."),
        ("transfer from *", ":3: transfer: '*' is no IP address"),
        ("transfer from 192.0.2.1:0", ":3: transfer: wants a whole number"),
        ("nonsense", ":3: nonsense: unknown property"),
    ],
    "transfer": [
        ("", ":2: transfer: to is required"),
        ("to", ":3: to: needs an argument"),
        ("to somewhere", ":3: to: 'somewhere' is no IP address"),
        ("to 192.0.2.1:x", ":3: to: wants a whole number"),
        ("source 192.0.2.1", ":2: transfer: to is required"),
        ("source here", ":3: source: 'here' is no IP address"),
        ("nonsense", ":3: nonsense: unknown property"),
    ],
    "tsig": [
        ("secret a", ":3: secret: wants NAME KEY"),
        ("secret a ?", ":3: secret: the secret of 'a' is no base64"),
        ("secret a eA==\n secret A. eA==", ":4: secret: key 'A.' redefined"),
        ("secret a..b eA==", ":3: secret: 'a..b' is no name"),
        ("secrets nowhere", ":3: secrets: "),
        ("require", ":3: require: needs an argument"),
        ("require X", ":3: require: unknown query type 'X'"),
        ("require_opcode X", ":3: require_opcode: unknown opcode 'X'"),
    ],
}


@pytest.mark.parametrize(
    ("directive", "lines", "expected"),
    [(key, *mistake) for key, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_mistakes_name_their_line(directive, lines, expected):
    text = f"example.test {{\n {directive} {{\n {lines}\n }}\n}}\n"
    with pytest.raises(ConfigError) as caught:
        compile_text(text, "Corefile", port=53, environ={}, warn=print)
    assert str(caught.value).startswith(f"Corefile{expected}")
