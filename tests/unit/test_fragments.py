"""Files that a pattern in an import finds: mistaken ones are left out, the others are served."""

from __future__ import annotations

import pytest

from clusterdns.config.compile import Configuration, compile_text
from clusterdns.config.fragments import MAX_REFUSED
from clusterdns.errors import ConfigError

COREFILE = """\
.:53 {
    cache 30
    import custom/*.override
    whoami
}
import custom/*.server
"""
SERVER = "example.org:53 {\n whoami\n}\n"


class Texts(dict):
    """Files held in memory."""

    def glob(self, pattern: str) -> list[str]:
        head, _, tail = pattern.partition("*")
        return sorted(path for path in self if path.startswith(head) and path.endswith(tail))

    def read(self, path: str) -> str:
        if self[path] is None:
            raise OSError("no such thing")
        return self[path]


def compiled(files: dict[str, str | None], text: str = COREFILE) -> Configuration:
    said: list[str] = []
    found = compile_text(
        text, "Corefile", port=53, environ={}, warn=said.append, files=Texts(files)
    )
    assert len(said) == len(set(said))  # an attempt that was given up says nothing
    return found


def words(found: Configuration) -> list[list[str]]:
    return [[plugin.name for plugin in view.plugins] for view in found.views]


def test_fragments_are_taken_in_the_order_of_their_names():
    files = {
        "custom/b.override": "rewrite name b c\n", "custom/a.override": "rewrite name a b\n",
        "custom/z.server": SERVER, "custom/y.server": SERVER.replace("org", "net"),
    }  # fmt: skip
    found = compiled(files)
    assert () == found.refused
    assert [".:53", "example.net.:53", "example.org.:53"] == found.zones
    same = COREFILE.replace(
        "import custom/*.override", "rewrite name a b\n    rewrite name b c"
    ).replace("import custom/*.server", SERVER.replace("org", "net") + SERVER)
    assert words(compiled({}, same)) == words(found)


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("m.override", "\nforwad . 192.0.2.1\n",
         'custom/m.override:2: forwad: unknown directive, did you mean "forward"?'),
        ("m.override", "log {\n class none\n}\n", "custom/m.override:2: class: unknown class 'none'"),
        ("m.override", "nomad a\n", "custom/m.override:1: nomad: reads names from Nomad, which clusterdns does not"),
        ("m.override", "errors\n}\nother {\n", "custom/m.override:2: }: closes what this file has "
         "not opened"),
        ("m.override", "errors {\n", "custom/m.override:1: {: is not closed before the end of the file"),
        ("m.override", "cache 20\n", "custom/m.override:1: cache: may be given once in a server block"),
        ("m.server", "example.org:53 {\n log {\n }\n",
         "custom/m.server:1: {: is not closed before the end of the file"),
        ("m.server", "tls://example.org {\n quux\n}\n", None),
        ("m.server", ".:53 {\n whoami\n}\n", "custom/m.server:1: .:53: cannot serve dns://.:53 - "
         "it is already defined"),
        ("m.server", "nonsense,", "custom/m.server:1: nonsense,: wants the directives of a server block, in braces"),
        ("m.server", "import gone\n", "custom/m.server:1: import: no file 'gone'"),
        ("m.server", None, "custom/m.server: cannot read it: no such thing"),
        ("\n.server", SERVER, "'custom/\\n.server': cannot read it: the name of the file is not printable"),
    ],
)  # fmt: skip
def test_a_mistaken_fragment_is_named_and_left_out(path, text, reason):
    others = {
        "custom/a.override": "errors\n", "custom/z.override": "log\n",
        "custom/a.server": "a.example {\n whoami\n}\n", "custom/z.server": "z.example {\n whoami\n}\n",
    }  # fmt: skip
    found = compiled(others | {f"custom/{path}": text})
    (refused,) = found.refused
    assert f"custom/{path}" == refused.file
    if reason is not None:
        assert reason == str(refused)
    assert words(compiled(others)) == words(found)
    assert compiled(others).digest == found.digest


def test_a_fragment_that_does_not_fit_to_the_corefile_behind_it_is_to_blame():
    text = ". {\n import custom/*.override\n cache 30\n whoami\n}\n"
    files = {"custom/a.override": "log\n", "custom/b.override": "cache 20\n"}
    found = compiled(files, text)
    (refused,) = found.refused
    assert (
        "custom/b.override: with it: Corefile:3: cache: may be given once in a server block"
        == str(refused)
    )
    assert ["errors" in words(found)[0], "log" in words(found)[0]] == [False, True]


def test_of_two_fragments_that_exclude_each_other_the_first_one_stays():
    files = {
        "custom/a.server": SERVER,
        "custom/b.server": SERVER,
        "custom/c.server": "c {\n whoami\n}\n",
    }
    found = compiled(files)
    assert ["custom/b.server"] == [error.file for error in found.refused]
    assert [".:53", "example.org.:53", "c.:53"] == found.zones


def test_a_mistake_of_the_corefile_or_of_a_file_it_names_refuses_all():
    with pytest.raises(ConfigError, match=r"^Corefile:2: cache: "):
        compiled({"custom/a.override": "nonsense\n"}, COREFILE.replace("cache 30", "cache a..b"))
    with pytest.raises(ConfigError, match=r"^own:1: nonsense: unknown directive"):
        compiled({"own": "nonsense\n"}, ". {\n import own\n}\n")


def test_a_file_that_a_fragment_imports_costs_that_fragment():
    files = {
        "custom/a.server": "import own\n",
        "custom/own": "a {\n nonsense\n}\n",
        "custom/b.server": SERVER,
    }
    found = compiled(files)
    (refused,) = found.refused
    assert "custom/a.server: with it: custom/own:2: nonsense: unknown directive" == str(refused)
    assert [".:53", "example.org.:53"] == found.zones


def test_many_mistaken_fragments_are_bounded():
    files = {f"custom/{i:03}.override": "nonsense\n" for i in range(MAX_REFUSED + 1)}
    with pytest.raises(ConfigError, match="nonsense"):
        compiled(files)
