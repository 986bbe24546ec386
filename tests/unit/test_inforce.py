"""The configuration in force as the page shows it: each line with its meaning, none with a secret."""

from __future__ import annotations

import pytest

from clusterdns.config import inforce
from clusterdns.corefile.parser import ServerBlock, parse

KEY = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="


class NoFiles:
    def read(self, path: str) -> str:
        raise AssertionError(path)


def blocks(text: str) -> list[ServerBlock]:
    return parse(
        text, "Corefile", environ={"PW": "from-the-environment"}, files=NoFiles(), warn=print
    )  # type: ignore[arg-type]


def texts(text: str) -> list[str]:
    return [f"{'  ' * each.depth}{each.text}" for each in inforce.lines(blocks(text))]


def test_lines_have_their_places_and_what_they_do():
    text = 'example.org:53 {\n  errors\n  header {\n   response set "a b"\n }\n  nothing x\n}\n'
    found = list(inforce.lines(blocks(text)))
    assert [
        ("Corefile", 1, 0, "example.org:53 {"),
        ("Corefile", 2, 1, "errors"),
        ("Corefile", 3, 1, "header {"),
        ("Corefile", 4, 2, 'response set "a b"'),
        ("Corefile", 0, 1, "}"),
        ("Corefile", 6, 1, "nothing x"),
        ("Corefile", 0, 0, "}"),
    ] == [each[:4] for each in found]
    assert "log the errors of the next plugins." == found[1].meaning
    assert "" == found[5].meaning


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"tsig {{\n secret a.example. {KEY}\n}}", "secret a.example. (hidden)"),
        ("tsig {\n secret a.example. abc=\n}", "secret a.example. (hidden)"),
        ("tsig {\n secrets /etc/tsig/keys\n}", "secrets /etc/tsig/keys"),
        ("etcd {\n credentials root pw\n}", "credentials root (hidden)"),
        ("etcd {\n credentials root {$PW}\n}", "credentials root (hidden)"),
        (
            "kubernetes cluster.local {\n endpoint https://me:pw@10.0.0.1:6443\n}",
            "endpoint https://(hidden)@10.0.0.1:6443",
        ),
        ("foreign {\n password pw\n}", "password (hidden)"),
        ("foreign {\n api_key one two\n}", "api_key (hidden) (hidden)"),
        ("foreign {\n my-Token pw\n}", "my-Token (hidden)"),
        ("foreign token=1 https://a/?x=1&access_token=pw&y=2",
         "foreign token=1 https://a/?x=1&access_token=(hidden)&y=2"),
        (f"foreign {KEY}", "foreign (hidden)"),
        ("foreign 0123456789abcdef0123456789abcdef", "foreign (hidden)"),
        ("dnssec {\n key file /etc/Keys/Kexample.org.+013+45330\n}", "key file /etc/Keys/Kexample.org.+013+45330"),
        ("forward . 10.0.0.1 tls://[2001:db8::1]:853", "forward . 10.0.0.1 tls://[2001:db8::1]:853"),
        ("file db.a-very-long-name-of-a-zone.example.org", "file db.a-very-long-name-of-a-zone.example.org"),
        ("cookie /etc/cookie/secrets", "cookie /etc/cookie/secrets"),
    ],
)  # fmt: skip
def test_secrets_are_hidden_by_their_kind(line, shown):
    found = texts(f". {{\n{line}\n}}\n")
    assert shown in [each.strip().removesuffix(" {") for each in found]
    for secret in (KEY, "pw", "from-the-environment", "abc="):
        assert not any(word == secret for each in found for word in each.split())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"the key {KEY} is wrong", "the key (hidden) is wrong"),
        ("GET https://me:pw@10.0.0.1/: refused", "GET https://(hidden)@10.0.0.1/: refused"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer (hidden)"),
        ("cannot log in as root with hunter2", "cannot log in as root with (hidden)"),
        ("2 www.example.com. A: 10.0.0.1:53: no reply", "2 www.example.com. A: 10.0.0.1:53: no reply"),
    ],
)  # fmt: skip
def test_log_lines_are_scrubbed(text, shown):
    hidden = inforce.secret_words(blocks(". {\n etcd {\n  credentials root hunter2\n }\n}\n"))
    assert {"hunter2"} == hidden
    assert shown == inforce.scrubbed(text, hidden)
