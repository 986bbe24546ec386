"""Regular expressions and templates of a Corefile: what Go says to them, and bounded work."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterdns.languages import exprvalues, goformat, regexp
from clusterdns.languages.expression import Expression, is_name
from clusterdns.languages.exprvalues import ExpressionError, Signature
from clusterdns.languages.goformat import FormatError, sprintf
from clusterdns.languages.gotemplate import AnyMap, Struct, Template, TemplateError
from clusterdns.languages.regexp import MAX_CHARACTERS, Regexp, RegexpError


def test_groups_of_a_match():
    found = Regexp("^(?P<a>x+)(-y)?(?<b>z)?$")
    assert ("a", "", "b") == found.names
    assert ("xx", "xx", "", "") == found.search("xx")
    assert None is found.search("q")


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        (r"^(?:[^.]+\.){4,}internal\.cloudapp\.net\.$", "internal.cloudapp.net."),
        (r"^(.*)\.example\.com\.$", ".example.com."),
        (r"^(?P<a>x)[.]example[.]com[.]$", ".example.com."),
        (r"(?i)a\.b\.\z", "a.b."),
        (r"a\.b\.", ""), (r"a|b\.$", ""), (r"(a|b)\.c\.$", ".c."), (r"(a\.c\.$)", ""), (r"a\.b+\.$", "."),
        (r"a\.b?c\.$", "c."), (r"a\.b{2}\.$", "."), (r"a\dc\.$", "c."), (r"a[bc]d\.$", "d."), (r"a.\.$", "."),
        (r"\Qa.b\Ec\.$", "c."), (r"a\$", ""), ("", ""), (r"x$a\.$", "a."), (r"a(?:b|c)\.$", "."), (r"(?:a)?b$", "b"),
        (r"a\.$b|c\.$", ""), (r"[|]a\.$", "a."), (r"[)]a\.$", "a."), (r"\)a\.$", "a."), (r"a\.$)", ""),
    ],
)  # fmt: skip
def test_what_every_match_ends_with(text, tail):
    assert tail == regexp._tail(text)


@given(st.text(alphabet="ab.\\[]()|?*+$^-{1}Q", max_size=12), st.text(alphabet="ab.-", max_size=8))
def test_every_match_ends_with_the_tail(text, name):
    try:
        found = Regexp(text)
    except RegexpError:
        return
    assert name.endswith(found.tail) or not found.is_in(name)


def test_names_of_groups():
    text = r"\((?P<a>x)[(?P<b>\](](?:y)\Q(?P<c>z)\E(?<a>[]([:alpha:]])(q)(?i:r)"
    assert ("a", "a", "") == Regexp(text).names


def test_the_match_is_the_one_of_a_backtracking_search():
    assert ("ab", "a") == Regexp("(a|ab)(?:b|c)").search("xabc")
    assert ("aaa",) == Regexp("a{2,3}").search("aaaa")
    assert ("aa",) == Regexp("(?U)a{2,3}").search("aaaa")


@pytest.mark.parametrize(
    "text",
    [
        "(",
        "a**",
        r"\C",
        r"x\\\C",
        "x{1001}",
        "(?=a)",
        r"(a)\1",
        "a" * (MAX_CHARACTERS + 1),
    ],
)
def test_what_is_none(text):
    with pytest.raises(RegexpError):
        Regexp(text)


def test_an_escaped_backslash_before_a_c_is_fine():
    assert Regexp(r"\\C").is_in(r"\C")


def test_no_text_makes_a_match_long():
    began = time.monotonic()
    for bad in ("^(a+)+$", "^(a|a)*$", "(.*)*x"):
        assert not Regexp(bad).is_in("a" * 1000 + "!")
    assert time.monotonic() - began < 1


GROWTH = """
import random
from clusterdns.languages.regexp import Regexp
def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon:"))
rng = random.Random(1)
each = [Regexp("(.*)[a-m].{%d}([0-9]).{20}z[.]x" % n) for n in range(12, 32)]
names = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789-") for _ in range(240))]
names = ["".join(rng.sample(names[0], 240)) for _ in range(300)]
before = held()
for one in each:
    for name in names:
        one.search(name)
print(held() - before)
"""


def test_names_do_not_fill_the_memory():
    """Twenty rules that need many states, and names that lead to all of them: 53 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20 * 1024 + 4096


def test_a_large_expression_has_the_room_that_it_needs():
    assert Regexp(r"^\pL{100}$").is_in("\u00e4" * 100)


@pytest.mark.parametrize(
    ("form", "values", "made"),
    [
        ("%d.%03d|%-4d|%4d|%+d", [1, 2, 3, 4, 5], "1.002|3   |   4|+5"),
        (
            "%x %X %#x %o %b %c %q %U",
            [255, 255, 255, 8, 5, 65, 65, 65],
            "ff FF 0xff 10 101 A 'A' U+0041",
        ),
        (
            "%s|%5s|%-5s|%.2s|%q|%x",
            ["a", "b", "c", "def", 'g"', "hi"],
            'a|    b|c    |de|"g\\""|6869',
        ),
        ("%v %v %v %v", [1, "a", True, 1.5], "1 a true 1.5"),
        (
            "%t %f %.1f %e %g",
            [False, 1.5, 2.25, 100.0, 1e21],
            "false 1.500000 2.2 1.000000e+02 1e+21",
        ),
        ("%d", ["a"], "%!d(string=a)"),
        ("%s", [1], "%!s(int=1)"),
        ("%d %d", [1], "1 %!d(MISSING)"),
        ("%d", [1, "x"], "1%!(EXTRA string=x)"),
        ("100%%%", [], "100%%!(NOVERB)"),
        ("%*d|%-*d|", [4, 1, 4, 2], "   1|2   |"),
        ("%v %s", [["a", "b"], ["c"]], "[a b] [c]"),
        ("%v", [{"b": "1", "a": "2"}], "map[a:2 b:1]"),
        ("%v", [None], "<nil>"),
        ("%v %v %v %v", [1e-5, 1e-4, 123456789.0, 2.5e25], "1e-05 0.0001 1.23456789e+08 2.5e+25"),
        ("%+v %q %s", [["a"], ["a"], {"a": "b"}], '[a] ["a"] map[a:b]'),
        ("%y", [1], "%!y(int=1)"),
        ("%T %T", [1, "a"], "int string"),
        ("%05d %05s", [-42, "ab"], "-0042 000ab"),
    ],
)
def test_printf(form, values, made):
    assert made == sprintf(form, values)


def test_a_width_is_bounded():
    with pytest.raises(FormatError):
        sprintf("%1000000d", [1])


def test_print_puts_spaces_where_go_does():
    assert "1 2a3 4" == goformat.sprint([1, 2, "a", 3, 4])


# ---- templates

# What Go 1.27 makes of each with the data below: the template, whether it fails to `parse` or on
# `exec`, the text it makes otherwise, and its parse tree printed.
GO = json.loads(Path(__file__).with_name("gotemplates.json").read_text())


def parse_int(text, base, bits):
    if not isinstance(text, str) or not isinstance(base, int) or not isinstance(bits, int):
        raise TemplateError("wrong type")
    try:
        found = int(text, base)
    except ValueError as error:
        raise TemplateError("invalid syntax") from error
    if not 0 <= found < 2**bits:
        raise TemplateError("out of range")
    return found


def meta(label):
    if not isinstance(label, str):
        raise TemplateError("wrong type")
    return f"meta-{label}"


DATA = Struct(
    "*template.templateData",
    {
        "Zone": "example.",
        "Name": "a-1-2.example.",
        "Regex": "x",
        "Match": ["a-1-2", "1", "2", ""],
        "Group": {"0": "a-1-2", "1": "1", "2": "2", "a": "1", "e": ""},
        "Class": "IN",
        "Type": "A",
        "Question": Struct("*dns.Question", {"Name": "A-1-2.Example.", "Qtype": 1, "Qclass": 1}),
        "Remote": "10.0.0.1",
        "Var": AnyMap(n=5, s="str", b=True, f=1.5, l=["x", 1]),
    },
    {"Meta": meta},
)


@pytest.mark.parametrize(("text", "outcome", "made", "canonical"), GO)
def test_templates_are_gos(text, outcome, made, canonical):
    if outcome == "parse":
        with pytest.raises(TemplateError):
            Template(text, {"parseInt": parse_int})
        return
    template = Template(text, {"parseInt": parse_int})
    assert canonical == template.canonical
    if outcome == "ok":
        assert made == template.render(DATA)
    else:
        with pytest.raises(TemplateError):
            template.render(DATA)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000000000000 }}{{ end }}",
        '{{ range 100000 }}{{ printf "%4000d" 1 }}{{ end }}',
        "{{ range 9999 }}{{ range 9999 }}{{ range 9999 }}{{ end }}{{ end }}{{ end }}",
        '{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}',
        '{{ define "x" }}{{ template "x" . }}{{ template "x" . }}{{ end }}{{ template "x" . }}',
    ],
)
def test_work_is_bounded(text):
    began = time.monotonic()
    with pytest.raises(TemplateError):
        Template(text, {}).render(DATA)
    assert time.monotonic() - began < 2


def test_nesting_is_bounded():
    with pytest.raises(TemplateError, match="deep"):
        Template("{{ if 1 }}" * 5000 + "{{ end }}" * 5000, {})
    with pytest.raises(TemplateError, match="deep"):
        Template("{{ " + "(" * 5000 + "1" + ")" * 5000 + "}}", {})


@pytest.mark.parametrize(
    ("text", "fields", "uses_whole"),
    [
        ("{{ .Name }}{{ .Question.Name }}", {"Name", "Question"}, False),
        ('{{ index .Match 1 }}{{ $.Meta "a/b" }}', {"Match", "Meta"}, False),
        ("{{ range .Match }}{{ . }}{{ end }}", {"Match"}, False),
        ("{{ . }}", set(), True),
        ("{{ with $ }}{{ .Remote }}{{ end }}", {"Remote"}, True),
        ("{{ range .Match }}{{ $ | print }}{{ end }}", {"Match"}, True),
        ('{{ define "x" }}{{ .Remote }}{{ end }}{{ template "x" . }}', {"Remote"}, True),
        ("only text", set(), False),
    ],
)
def test_what_a_template_takes_of_its_data(text, fields, uses_whole):
    template = Template(text, {})
    assert fields <= template.fields
    assert uses_whole == template.uses_whole
    assert (not fields and not uses_whole) == template.is_constant


@given(st.text(alphabet="{}.$|()\"-/*` abIifendrange:=,1\n'", max_size=60))
def test_any_text_is_a_template_or_none(text):
    try:
        template = Template(text, {})
        template.render(DATA)
    except TemplateError:
        pass


# ---- expressions

# What expr-lang 1.17 makes of each in the environment below: the text, whether it fails to
# `compile` or to `run`, and its value as JSON otherwise, "" where JSON has none.
EXPR = json.loads(Path(__file__).with_name("expressions.json").read_text())
TEXT = exprvalues.STRING
ENVIRONMENT = {
    "incidr": Signature((TEXT, TEXT), exprvalues.BOOL),
    "type": Signature((), TEXT),
    "name": Signature((), TEXT),
    "size": Signature((), exprvalues.INT),
    "do": Signature((), exprvalues.BOOL),
    "client_ip": Signature((), TEXT),
    "metadata": Signature((TEXT,), TEXT),
    "group": Signature((exprvalues.ANY,), TEXT),
    "v": TEXT,
    "n": exprvalues.INT,
    "anyv": exprvalues.ANY,
    "l": exprvalues.STRINGS,
}


def incidr(address, cidr):
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
    except ValueError as error:
        raise ExpressionError(str(error)) from error


VALUES = {
    "incidr": incidr,
    "type": lambda: "A",
    "name": lambda: "a-1.example.",
    "size": lambda: 40,
    "do": lambda: False,
    "client_ip": lambda: "10.0.0.1",
    "metadata": lambda label: f"m-{label}",
    "group": lambda key: str(key) if type(key) in (int, str) else "",
    "v": "text",
    "n": 5,
    "anyv": None,
    "l": ["a", "b"],
}


def plain(value):
    """Return a value as JSON would have it: Go prints a whole float as a whole number."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("text", "outcome", "made"), EXPR)
def test_expressions_are_those_of_expr_lang(text, outcome, made):
    if outcome == "compile":
        with pytest.raises(ExpressionError):
            Expression(text, ENVIRONMENT)
        return
    expression = Expression(text, ENVIRONMENT)
    if outcome == "run":
        with pytest.raises(ExpressionError):
            expression.run(VALUES)
        return
    value = expression.run(VALUES)
    if made in ("+Inf", "-Inf"):
        assert float(made) == value
    elif made:
        expected = plain(json.loads(made))
        assert expected == plain(value)
        assert type(expected) is type(plain(value))


def test_names_and_types():
    expression = Expression("let a = name(); any(l, # == a) and n > 1", ENVIRONMENT)
    assert {"name", "l", "n"} == expression.names
    assert exprvalues.BOOL == expression.type
    assert exprvalues.STRINGS == Expression('split(v, ".")', ENVIRONMENT).type
    assert exprvalues.ANY == Expression("anyv", ENVIRONMENT).type
    assert [is_name(word) for word in ("a_1", "len", "not", "nil", "1a", "a-b")] == [True] + [
        False
    ] * 5


@pytest.mark.parametrize(
    "text",
    [
        "map(1..9999, map(1..9999, map(1..9999, #)))",
        "1..100000000",
        "map(1..9999, sort(1..9999))",
        "let a = [1,1,1,1,1,1,1,1]; let b = [a,a,a,a,a,a,a,a]; let c = [b,b,b,b,b,b,b,b]; "
        "let d = [c,c,c,c,c,c,c,c]; let e = [d,d,d,d,d,d,d,d]; string([e,e,e,e,e,e,e,e])",
        "map(1..999, 1..9999)",
        'repeat("a", 100000000)',
        'reduce(1..9999, #acc + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a")',
        'replace(repeat("a", 99999), "", repeat("b", 99999))',
    ],
)
def test_the_work_of_an_expression_is_bounded(text):
    began = time.monotonic()
    with pytest.raises(ExpressionError):
        Expression(text, {}).run({})
    assert time.monotonic() - began < 2


def test_the_depth_of_an_expression_is_bounded():
    for text in (
        "(" * 5000,
        "[" * 5000,
        "not " * 5000 + "true",
        "-" * 5000 + "1",
        "a." * 9999 + "b",
    ):
        with pytest.raises(ExpressionError):
            Expression(text, {"a": exprvalues.ANY}).run({"a": None})


@given(st.text(alphabet="{}[]()#.|?:;,+-*/%!=<>&'\"`ab1 inotrlef", max_size=40))
def test_any_text_is_an_expression_or_none(text):
    with contextlib.suppress(ExpressionError):
        Expression(text, ENVIRONMENT).run(VALUES)
