"""Corefiles: what is read from them, what is refused and with which words.

``PEER_CASES`` are held against a real CoreDNS: it must start where we accept and must refuse where
we refuse. Where we differ on purpose stands in ``DIFFERENCES``, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time

import pytest
from deployed import COREFILE
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import coredns_path, free_port

from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.corefile import parser
from clusterdns.corefile.arguments import duration_s, zones
from clusterdns.corefile.checks import check_directives, check_overlaps
from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.lexer import lex
from clusterdns.corefile.parser import Directive, did_you_mean, parse
from clusterdns.errors import ConfigError

ENVIRON = {"ZONE": "a.org", "DIR": "whoami", "LINES": "a\nb", "BRACE": "{", "REF": "{$ZONE}"}
LINE = Directive("cache", (), (), "Corefile", 3, False)


class Texts(dict):
    """Files held in memory."""

    def glob(self, pattern):
        head, star, tail = pattern.partition("*")
        if not star:
            return [pattern] if pattern in self else []
        return sorted(path for path in self if path.startswith(head) and path.endswith(tail))

    def read(self, path):
        if self[path] is None:
            raise FileNotFoundError(2, "gone", path)
        return self[path]


def read(text, *, files=None, environ=ENVIRON, warnings=None):
    """Return the blocks of a Corefile, checked as far as it goes without plugins."""
    found = [] if warnings is None else warnings
    blocks = parse(text, "Corefile", environ=environ, files=Texts(files or {}), warn=found.append)
    check(blocks)
    return blocks


def check(blocks):
    check_directives(blocks, COREDNS_ORDER, ())
    binds = [[arg for line in block.find("bind") for arg in line.args] for block in blocks]
    check_overlaps(blocks, 53, binds)


def keys(text, **options):
    return [(k.scheme, k.zone, k.port) for block in read(text, **options) for k in block.keys]


def lines(text, **options):
    """Return (name, args, block) of all directives, blocks written likewise."""
    return [
        (d.name, d.args, [(b.name, b.args) for b in d.block])
        for block in read(text, **options)
        for d in block.directives
    ]


def words(text):
    return [word.text for word in lex(text, "Corefile")]


# ---- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (["a", "b"], "\ufeffa b"),
        (["a", "b"], "a\u00a0b"),
        (["a\x1cb"], "a\x1cb"),  # space to Python, not to Go
        (["ab", "c"], "a\rb\r\nc"),
        (["a b", "c"], '"a b"c'),
        (["a\nb"], '"a\nb"'),
        ([""], '""'),
        ([], '"'),
        (["a "], '"a '),
        (['a"b\\n'], r'"a\"b\n"'),
        (["\\\\"], r'"\\"'),
        (["a"], '"a\\'),
        (['a"b"'], 'a"b"'),
        (["a"], "a # b"),
        ([], '# "a'),
        (["foo", "baz"], "foo#bar baz"),
        (["a", "b"], '"a"#b\nb'),
        (["{}", "{", "}"], "{} { }"),
    ],
)
def test_words(expected, text):
    assert expected == words(text)


def test_words_know_their_line_and_whether_they_start_it():
    found = [(w.text, w.line, w.starts_line) for w in lex('a b\n\n"c\nd" e\nf', "x")]
    expected = [("a", 1, True), ("b", 1, False), ("c\nd", 3, True), ("e", 4, False), ("f", 5, True)]
    assert expected == found


@pytest.mark.parametrize(
    ("expected", "word"),
    [
        ("a.org", "{$ZONE}"),
        ("a.org", "{%ZONE%}"),
        ("xa.orgya.orgz", "x{$ZONE}y{%ZONE%}z"),
        ("a.org", "{$REF}"),
        ("xy", "x{$UNSET}y"),
        ("{$}{$ZONE}", "{$}{$ZONE}"),
        ("{$ZONE", "{$ZONE"),
        ("two words", "{$SPACED}"),
    ],
)
def test_environment(expected, word):
    environ = {**ENVIRON, "SPACED": "two words"}
    assert [("log", (expected,), [])] == lines(f". {{\n log {word}\n}}", environ=environ)


@pytest.mark.parametrize("value", ["{$X}", "{$X}{$X}", "{%X%}"])
def test_environment_that_refers_to_itself(value):
    with pytest.raises(ConfigError) as caught:
        read(". {\n log {$X}{%X%}\n}", environ={"X": value})
    reason = "environment variables make this word grow without end"
    assert str(caught.value) == f"Corefile:2: {{$X}}{{%X%}}: {reason}"


# ---- blocks ----------------------------------------------------------------------------------


def test_kubeadm_default():
    [block] = read(COREFILE)
    assert list(block.keys) == [("dns", ".", 53, ".:53")]
    assert (block.file, block.line) == ("Corefile", 1)
    expected = "errors health ready kubernetes prometheus forward cache loop reload loadbalance"
    assert expected.split() == [directive.name for directive in block.directives]
    [kubernetes] = block.find("kubernetes")
    pods = Directive("pods", ("insecure",), (), "Corefile", 8, False)
    arpa = ("in-addr.arpa", "ip6.arpa")
    fallthrough = Directive("fallthrough", arpa, (), "Corefile", 9, False)
    ttl = Directive("ttl", ("30",), (), "Corefile", 10, False)
    body = (pods, fallthrough, ttl)
    expected = Directive("kubernetes", ("cluster.local", *arpa), body, "Corefile", 7, True)
    assert expected == kubernetes


def test_kubeadm_default_is_read_fast():
    started = time.process_time()
    for _ in range(20):
        read(COREFILE)
    assert time.process_time() - started < 20 * 0.005  # 0.0001 s each when written


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n", '""', "(s) {\n whoami\n}\n"])
def test_no_blocks(text):
    assert read(text) == []


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ([("whoami", (), []), ("log", (), [])], ".\nwhoami\nlog\n"),
        ([("whoami", (), [])], ".\nwhoami\n}\n"),
        ([("whoami", (), [])], ".\n\n{\n whoami\n}"),
        ([("whoami", (), [])], ". { whoami\n}"),
        ([("log", (".",), [("class", ("all",))])], ". {\n log . { class all\n }\n}"),
        ([("log", (), [("class", ("all",))])], ". {\n log { class all }\n}"),
        ([("errors", (), [])], ". {\n errors { }\n}"),
        ([("errors", (), []), ("errors", (), [])], ". {\n errors\n errors\n}"),
        ([("log", ("a\nb", "c"), []), ("whoami", (), [])], '. {\n log "a\nb" c\n whoami\n}'),
        # CoreDNS takes the next line for arguments when a value holds a line end; we do not.
        ([("log", ("a\nb",), []), ("whoami", (), [])], ". {\n log {$LINES}\n whoami\n}"),
        ([("whoami", (), [])], '. "{"\n whoami\n "}"\n'),
        ([("whoami", (), [])], ". {\n {$DIR}\n}"),
    ],
)
def test_directives(expected, text):
    assert expected == lines(text)


def test_a_brace_too_few_is_forgiven_after_the_last_directives_block():
    warnings = []
    text = ". {\n log {\n  class all\n }\n"
    assert lines(text, warnings=warnings) == [("log", (), [("class", ("all",))])]
    assert warnings == ["Corefile:1: server block lacks its closing brace"]


def test_a_block_without_a_zone_is_ignored():
    warnings = []
    assert read("{\n whoami\n}\n", warnings=warnings) == []
    assert warnings == ["Corefile:1: server block without a zone is ignored"]


# ---- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ([("dns", ".", None)], "."),
        ([("dns", "a.org.", 1053)], "A.org:1053"),
        ([("dns", "a.org.", None), ("tls", "b.org.", 5), ("https3", ".", None)],
         "a.org tls://b.org.:5 https3://."),
        ([("dns", "a.", None), ("dns", "b.", None)], "a,\nb"),
        ([("dns", "a.", None), ("dns", "b.", None)], "a, b"),
        ([("dns", "a.", 53)], "a:+53"),
        ([("dns", "a.org.", None)], "{$ZONE}"),
        ([("dns", "0.0.10.in-addr.arpa.", None)], "10.0.0.0/24"),
        ([("dns", "0.0.10.in-addr.arpa.", None)], "10.0.0.77/024"),
        ([("dns", "10.in-addr.arpa.", 53)], "10.1.2.3/8:53"),
        ([("dns", "in-addr.arpa.", None)], "0.0.0.0/0"),
        ([("dns", "4.3.2.1.in-addr.arpa.", None)], "1.2.3.4/32"),
        ([("dns", "2.0.10.in-addr.arpa.", 1), ("dns", "3.0.10.in-addr.arpa.", 1)], "10.0.2.0/23:1"),
        ([("dns", "8.b.d.0.1.0.0.2.ip6.arpa.", None)], "2001:db8::/32"),
        ([("dns", "a.b.d.0.1.0.0.2.ip6.arpa.", 9), ("dns", "b.b.d.0.1.0.0.2.ip6.arpa.", 9)],
         "2001:dba::/31:9"),
        ([("dns", "10.0.0.0/33.", None)], "10.0.0.0/33"),
        ([("dns", "10.0.0.0/255.0.0.0.", None)], "10.0.0.0/255.0.0.0"),
        ([("dns", "fd00:.", 1)], "fd00::1"),
        ([("dns", "foo://a.org.", None)], "foo://a.org"),
        ([("dns", "(a).", None), ("dns", "b.", None)], "(a) b"),
    ],
)  # fmt: skip
def test_keys(expected, text):
    expected = [(scheme, zone.replace("(a)", "\\(a\\)"), port) for scheme, zone, port in expected]
    assert expected == keys(f"{text} {{\n whoami\n}}\n")


@pytest.mark.parametrize(("count", "cidr"), [(128, "10.0.0.0/17"), (16, "10.0.0.0/12"),
                                             (128, "10.0.0.0/25"), (8, "fd00::/33")])  # fmt: skip
def test_cidr_off_the_border_is_every_zone_of_the_next_one(count, cidr):
    zones_of_block = [zone for _, zone, _ in keys(cidr)]
    assert (count, count) == (len(zones_of_block), len(set(zones_of_block)))


@pytest.mark.parametrize("zone", ["foo_bar.org", "1.org", "-a.org", "*.org", "}"])
def test_zones_of_odd_syntax_are_warned_of(zone):
    warnings = []
    read(f"{zone}\nwhoami\n", warnings=warnings)
    assert [f'domain "{zone}." does not follow RFC1035 preferred syntax'] == warnings


@pytest.mark.parametrize("zone", [".", "a-1.org", "10.in-addr.arpa", "0/25.0.0.10.in-addr.arpa"])
def test_zones_of_usual_syntax_are_not(zone):
    warnings = []
    read(f"{zone}\nwhoami\n", warnings=warnings)
    assert warnings == []


# ---- imports and snippets --------------------------------------------------------------------

IMPORTS = [
    ([("whoami", (), [])], "(s) {\n whoami\n}\n. {\n import s\n}", {}),
    ([("whoami", (), [])], "(s) {\n . {\n  whoami\n }\n}\nimport s\n", {}),
    ([("whoami", (), [])], "(s) {\n}\n. {\n import s\n whoami\n}", {}),
    ([("log", (), [("class", ("all",))] * 2)],
     "(s) {\n class all\n}\n. {\n log {\n import s\n import s\n }\n}", {}),
    ([("log", (), [("class", ("all",)), ("class", ("error",))])],
     "(t) {\n class all\n}\n(s) {\n import t\n}\n. {\n log {\n import s\n class error\n }\n}", {}),
    ([("log", ("import", "s"), [])], ". {\n log import s\n}", {}),
    ([("whoami", (), []), ("log", (), [])], ". {\n import a\n log\n}", {"a": "whoami"}),
    ([("whoami", (), [])], "import a", {"a": ". {\n whoami\n}\n"}),
    ([("whoami", (), []), ("log", (), [])], ". {\n import d/*.x\n}",
     {"d/b.x": "log", "d/a.x": "whoami", "d/c": "nothing"}),
    ([("whoami", (), [])], ". {\n import d/a\n}", {"d/a": "import b", "d/b": "whoami", "b": "no"}),
    ([("whoami", (), [])], ". {\n import {$DIR}\n}", {"whoami": "whoami"}),
    ([("log", (), [])], ". {\n import /a\n}", {"/a": "\ufefflog\n"}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "text", "files"), IMPORTS)
def test_imports(expected, text, files):
    assert expected == lines(text, files=files)


def test_imported_directives_know_their_file():
    [block] = read(". {\n import d/a\n}", files={"d/a": "\nwhoami"})
    assert [(d.file, d.line) for d in block.directives] == [("d/a", 2)]


def test_a_pattern_without_files_is_warned_of():
    warnings = []
    assert lines(". {\n import a*\n whoami\n}", warnings=warnings) == [("whoami", (), [])]
    assert warnings == ["No files matching import glob pattern: a*"]


def test_files_on_the_disk(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.x").write_text("log\n")
    (tmp_path / "d" / ".a.x").write_bytes(b"whoami # \xff\n")
    text = ". {\n import d/*.x\n}"
    [block] = parse(
        text, str(tmp_path / "Corefile"), environ={}, files=DiskFiles(), warn=pytest.fail
    )
    assert [d.name for d in block.directives] == ["whoami", "log"]
    assert str(tmp_path / "d" / "b.x") == block.directives[1].file
    assert DiskFiles().glob(str(tmp_path / "none")) == []


def test_a_file_that_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    text, file = ". {\n import pipe\n}", str(tmp_path / "Corefile")
    with pytest.raises(ConfigError, match=r"^.*Corefile:2: import: cannot read 'pipe': .* regular"):
        parse(text, file, environ={}, files=DiskFiles(), warn=pytest.fail)


# ---- mistakes --------------------------------------------------------------------------------

MISTAKES = {
    ". { whoami }": "1: }: unexpected behind 'whoami': must start a line",
    ". {\n whoami }\n": "2: }: unexpected behind 'whoami': must start a line",
    ". {\n whoami\n": "1: {: is not closed before the end of the file",
    ". {\n log {\n class all\n": "2: {: is not closed before the end of the file",
    ". {\n log\n {\n }\n}": "3: {: must stand at the end of the line of 'log'",
    ". {\n errors {\n } whoami\n}": "3: whoami: unexpected behind a closing brace",
    ". {\n errors {\n stacktrace {\n }\n }\n}": "3: {: 'stacktrace' takes no block",
    ". {\n {\n }\n}": "2: {: unexpected brace",
    ". {\n log { {\n }\n}": "2: {: unexpected brace",
    ". {$BRACE}\n whoami\n}": "1: {: unknown directive",
    "a.org, {\n whoami\n}": "1: {: a zone must follow the comma",
    "a.org,": "1: a.org,: a zone must follow the comma",
    ". {\n forwad . 1.1.1.1\n}": '2: forwad: unknown directive, did you mean "forward"?',
    ". {\n Whoami\n}": '2: Whoami: unknown directive, did you mean "whoami"?',
    ". {\n xyzzy\n}": "2: xyzzy: unknown directive",
    ":53 {\n}": '1: :53: the zone is missing; the root zone is "."',
    "{$UNSET}: {\n}": "1: :: a port is missing behind the last colon",
    "foo: {\n}": "1: foo:: a port is missing behind the last colon",
    "a.org:70000 {\n}": "1: a.org:70000: port 70000 is not within 0 to 65535",
    "a.org:-5 {\n}": "1: a.org:-5: port -5 is not within 0 to 65535",
    "a..b {\n}": "1: a..b: is no domain name",
    ".a {\n}": "1: .a: is no domain name",
    "a" * 64 + " {\n}": f"1: {'a' * 64}: is no domain name",
    "ab." * 90: f"1: {('ab.' * 26)[:77]}...: the zone is longer than 255 characters",
    "::/0 {\n}": "1: ::/0: invalid CIDR ::/0",
    "0::/8 {\n}": "1: 0::/8: invalid CIDR 0::/8",
    "unix:///x {\n}": "1: unix:///x: a server block cannot listen on a unix socket",
    "10.0.0.0/9 " * 600: "1: 10.0.0.0/9: too many zones",
    "(s) {\n}\n(s) {\n}": "3: (s): snippet is defined already",
    "(s)\nwhoami": "1: (s): a snippet needs a block in braces",
    "(s) {\n log {\n }": "1: (s): the snippet's block is not closed before the end of the file",
    "(s) {\n import s\n}": "2: s: a snippet cannot import itself",
    ". {\n import s\n}\n(s) {\n}": "2: import: no file 's'",
    ". {\n import\n}": "2: import: wants a snippet, a file or a pattern of files",
    ". {\n import {$X}\n}": "2: import: wants a snippet, a file or a pattern of files, got nothing",
    ". {\n import a b\n}": "2: import: takes one argument",
    ". {\n import a*b*\n}": "2: import: a pattern has at most one * and one ? and no [: a*b*",
    ". {\n import a[b]\n}": "2: import: a pattern has at most one * and one ? and no [: a[b]",
    ". {\n import gone\n}": "2: import: cannot read 'gone': [Errno 2] gone: 'gone'",
    ". {\n whoami\n}\n. {\n whoami\n}": "4: .: cannot serve dns://.:53 - it is already defined",
    "A a. {\n}": "1: a.: cannot serve dns://a.:53 - it is already defined",
    "tls://a tls://a:853 {\n}": "1: tls://a:853: cannot serve tls://a.:853 - it is already defined",
    ".\nbind 1.1.1.1\n}\n.\nbind 1.1.1.1\n":
        "4: .: cannot serve dns://.:53 on 1.1.1.1 - it is already defined",
    ".\n}\n.\nbind 1.1.1.1\n": "3: .: cannot serve dns://.:53 on 1.1.1.1"
        " - zone overlap listener capacity with dns://.:53",
    ".\nbind 1.1.1.1 2.2.2.2\n}\n.\n": "4: .: cannot serve dns://.:53"
        " - zone overlap listener capacity with dns://.:53 on 2.2.2.2",
    "(a) {\n import b\n}\n(b) {\n import a\n}\n. {\n import a\n}":
        "5: import: 'a' is imported more than 100 levels deep",
    '. {\n "who\nami\x00"\n}': '2: who\\nami\\x00: unknown directive, did you mean "whoami"?',
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes(text):
    with pytest.raises(ConfigError) as caught:
        read(text, files={"gone": None})
    assert "Corefile:" + MISTAKES[text] == str(caught.value)


def test_a_file_that_imports_itself_is_refused():
    with pytest.raises(ConfigError) as caught:
        read("import a", files={"a": "import a"})
    assert str(caught.value) == "a:1: import: 'a' is imported more than 100 levels deep"


@pytest.mark.parametrize(
    ("reason", "text", "limits"),
    [
        ("more than 9 words, the last ones from 's'", "(s) {\n a b c\n}\n" + "import s\n" * 9,
         {"MAX_IMPORTED_WORDS": 9}),
        ("too many imports, the last one of 's'", "(s) {\n}\n" + "import s\n" * 9,
         {"MAX_SNIPPET_IMPORTS": 8}),
        ("too many imports, the last one of 'f'", "import f\n" * 9, {"MAX_FILE_IMPORTS": 8}),
    ],
)  # fmt: skip
def test_imports_are_bounded(reason, text, limits, monkeypatch):
    parse(text, "x", environ={}, files=Texts({"f": ""}), warn=lambda _: None)  # within the limits
    for limit, value in limits.items():
        monkeypatch.setattr(parser, limit, value)
    with pytest.raises(ConfigError) as caught:
        parse(text, "x", environ={}, files=Texts({"f": ""}), warn=lambda _: None)
    assert reason == caught.value.reason


def test_directives_that_we_lack_are_named():
    blocks = parse(".\nwhoami\nlaterdns\n", "f", environ={}, files=Texts(), warn=pytest.fail)
    with pytest.raises(ConfigError) as caught:
        check_directives(blocks, ["whoami"], ["laterdns"])
    assert str(caught.value) == "f:3: laterdns: not supported by clusterdns yet"


def test_overlaps_use_the_default_port_and_the_given_hosts():
    blocks = parse("a\n}\na:1053\n", "f", environ={}, files=Texts(), warn=pytest.fail)
    check_overlaps(blocks, 53)
    with pytest.raises(ConfigError, match=r"cannot serve dns://a\.:1053 - it is already defined"):
        check_overlaps(blocks, 1053)
    check_overlaps(blocks, 1053, [["127.0.0.1"], ["127.0.0.2"]])


def test_blocks_with_a_view_share_their_zone():
    view = ". {\n view a {\n expr true\n }\n}\n"
    assert len(read(view + view + ".\nwhoami\n")) == 3


# ---- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "text"),
    [(0, "0"), (0, "-0"), (0.3, "300ms"), (5400, "1.5h"), (9900, "2h45m"), (1e-9, "1ns"),
     (1e-6, "1us"), (1e-6, "1µs"), (1e-6, "1μs"), (0.5, ".5s"), (1, "1.s"), (-30, "-30s"),
     (61, "+1m1s"), (0.25, "0.250000000000s"), (2, "1s1s")],
)  # fmt: skip
def test_durations(expected, text):
    assert expected == duration_s(text, LINE)


@pytest.mark.parametrize("text", ["", "30", "s", ".s", "1 s", "1S", "1d", "--1s", "1s-1s", "1s\n",
                                  "٣s", "9" * 5000 + "s"])  # fmt: skip
def test_no_durations(text):
    with pytest.raises(ConfigError, match=r"^Corefile:3: cache: .* is no duration, such as 30s"):
        duration_s(text, LINE)


def test_too_long_a_duration():
    with pytest.raises(ConfigError, match=r"^Corefile:3: cache: '3000000h' is too long a duration"):
        duration_s("3000000h", LINE)


def test_zone_arguments():
    expected = ["a.org.", ".", "0.10.in-addr.arpa.", "1.10.in-addr.arpa.", "b."]
    assert expected == zones(["A.org", ".", "10.0.0.0/15", "tls://b:53"], LINE)
    with pytest.raises(ConfigError) as caught:
        zones(["a", "b..c"], LINE)
    assert str(caught.value) == "Corefile:3: cache: zone 'b..c': is no domain name"


@pytest.mark.parametrize(
    ("expected", "word"),
    [("forward", "forwad"), ("kubernetes", "kubernets"), ("cache", "Cache"), ("hosts", "host"),
     (None, "xyzzy"), (None, ""), (None, "forward" * 100)],
)  # fmt: skip
def test_what_was_meant(expected, word):
    hint = f', did you mean "{expected}"?' if expected else ""
    assert hint == did_you_mean(word, COREDNS_ORDER)


def test_coredns_order():
    assert (len(COREDNS_ORDER), len(set(COREDNS_ORDER))) == (62, 62)
    assert (COREDNS_ORDER[0], COREDNS_ORDER[-1]) == ("root", "nomad")


# ---- any text --------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [*'{} \n\r"#\\,.:()/*?[]%$\x00\ud800', "import ", "(s) {\n", "import s\n", "import f\n",
     " {\n", "\n}\n", "{$X}", "{%X%}", "10.0.0.0/9", "2001:db8::/33", "log", "tls://",
     ":53", "a.org", "\ufeff"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=60).map("".join)


@settings(max_examples=300, deadline=2000)
@given(TEXTS, TEXTS, TEXTS)
def test_any_text_is_read_or_refused(text, imported, value):
    try:
        blocks = read(text, files={"f": imported}, environ={"X": value})
    except ConfigError as error:
        str(error).encode()  # fit to be printed
        assert error.line > 0
        return
    for block in blocks:
        assert block.keys
        for directive in block.directives:
            assert directive.has_block or not directive.block


@pytest.mark.parametrize(
    "piece", ["a\n", "{", '"', "{ ", "(s) {\n", "a#", '"\\', "{$", "{$A}", "x {\n}\n", "a,", "\r",
              ".", "\\", "10.0.0.0/9 ", "import f\n", "(a) {\nimport f\n}\nimport a\n"]
)  # fmt: skip
def test_time_is_linear_in_the_text(piece):
    started = time.process_time()
    with contextlib.suppress(ConfigError):
        read(". {\n" + piece * (200_000 // len(piece)), files={"f": "x\n" * 100})
    assert (
        time.process_time() - started < 10
    )  # at most 1 s when written; a square would take minutes


# ---- a real CoreDNS --------------------------------------------------------------------------

PEER_CASES = [
    *(text for text in MISTAKES if "1.1.1.1" not in text and "gone" not in text),
    "", "# x\n", ". { whoami\n}\n", ".\nwhoami\nlog\n", ".\nwhoami\n}\n", "example.org\n",
    "{\n whoami\n}\n", ". {\n log . {\n class all\n }\n", ". {\n whoami\n}\n}\n",
    "a.org,\nb.org {\n whoami\n}\n", "10.0.0.0/17 {\n whoami\n}\n", "10.0.0.0/33 {\n whoami\n}\n",
    "2001:db8::/33 {\n whoami\n}\n", "10.0.0.0/255.0.0.0 {\n whoami\n}\n", "10.0.0.0/08\nwhoami\n",
    "10.0.0.0/23 10.0.1.0/24\nwhoami\n", "a.org:+10053\nwhoami\n", "fd00:: {\n whoami\n}\n",
    "(s) {\n whoami\n}\n. {\n import s\n}\n", "(s)\n", "(s) {\n . {\n whoami\n }\n}\nimport s\n",
    "(s) {\n class all\n}\n. {\n log . {\n import s\n }\n}\n", "(s) {\n}\n. {\n import s\n}\n",
    ". {\n import none*\n whoami\n}\n", ". {\n import inc\n}\n", "import again\n",
    ". {\n errors { stacktrace }\n}\n",
    ". {\n errors { }\n}\n", ". {\n errors {\n stacktrace }\n}\n",
    '. "{"\n whoami\n "}"\n', '. {\n whoami\n}\n"', "\ufeff. {\r\n whoami\r\n}\r\n",
    ".\n\n{\n whoami\n}\n",
    "{$ZONE} {\n {%DIR%}\n}\n", "{$UNSET}. {\n {$UNSET}whoami\n}\n", "{$} {\n whoami\n}\n",
    ". {\n log {$LINES}\n whoami\n}\n", "foo://a.org {\n whoami\n}\n",
    "DNS://a.org {\n whoami\n}\n",
    ". { # }\n whoami # }\n} # {\n", ". {\n whoami\x1clog\n}\n", ".\u00a0{\n whoami\n}\n",
    '"" a {\n whoami\n}\n', "(a) b {\n whoami\n}\n", "import none {\n whoami\n}\n",
    ". {\n bind 127.0.0.1\n}\n. {\n bind 127.0.0.1\n}\n",
    ". {\n bind 127.0.0.1\n}\n. {\n whoami\n}\n",
    ". {\n bind 127.0.0.1\n}\n. {\n bind 127.0.0.2\n}\n",
]  # fmt: skip
DIFFERENCES = {
    # CoreDNS takes the brace and what follows for further `log` directives, in silence.
    ". {\n log\n {\n }\n}",
    "unix:///x {\n}",  # CoreDNS starts and serves nothing
    "10.0.0.0/9 " * 600,  # refused by CoreDNS as well, because all are the same zones
}


@pytest.mark.peer
@pytest.mark.slow
def test_coredns_accepts_and_refuses_the_same(tmp_path):
    binary = coredns_path()
    (tmp_path / "inc").write_text("whoami\nlog\n")
    (tmp_path / "again").write_text("import again\n")
    (tmp_path / "a").write_text("whoami\n")
    file = tmp_path / "Corefile"
    differing = []
    for text in PEER_CASES:
        if text in DIFFERENCES:
            continue
        file.write_bytes(text.encode())
        theirs, said = starts(binary, file)
        try:
            check(parse(text, str(file), environ=ENVIRON, files=DiskFiles(), warn=lambda _: None))
            ours = "accepted"
        except ConfigError as error:
            ours = str(error)
        if theirs != (ours == "accepted"):
            differing.append(f"{text!r}: ours {ours}, theirs {said}")
    assert differing == []


def starts(binary, file):
    """Tell whether CoreDNS starts with a Corefile, and return the last line it said."""
    environ = {**os.environ, **ENVIRON}
    environ.pop("UNSET", None)
    with subprocess.Popen(
        [str(binary), "-conf", str(file), "-dns.port", str(free_port())],
        cwd=file.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        guard = threading.Timer(10, process.kill)
        guard.start()
        said = b""
        for said in process.stdout:
            if said.startswith(b"CoreDNS-"):
                break
        process.kill()
        guard.cancel()
    return said.startswith(b"CoreDNS-"), said.decode("utf-8", "replace").strip()
