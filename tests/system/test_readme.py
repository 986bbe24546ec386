"""What a reader is told to type: every command of the pages names what there is, links lead somewhere.

The commands are lines of blocks, and words in backticks that begin with a program. Each program has a
check here; one without is a failure, so that nothing is told that nobody has looked at.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import peers
import plugintable
import pytest
import scoreboard
import yaml

from clusterdns.chain import registry
from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.commands import listing
from clusterdns.config.compile import compile_text
from clusterdns.config.lab import PORT as LAB_PORT

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REGISTRY_IMAGE = "registry.example/clusterdns:1"
# Every line of their blocks is a command; on the other pages some are what a command prints.
COMMAND_PAGES = ("README.md", "CONTRIBUTING.md", "docs/benchmarks.md")
PAGES = sorted(
    path
    for folder in ("", "deploy", "docs", "tests", "zones")
    for path in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)
OBJECTS = [
    each
    for path in sorted((ROOT / "deploy").glob("[bl]a[sb]*/*.yaml"))
    for each in yaml.safe_load_all(path.read_text())
    if each and "metadata" in each
]
KUBE_DNS = {("configmap", "kube-dns"), ("deployment", "kube-dns")}  # what the cluster has before
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the language and the lines of every block of code, fenced or indented."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        yield found[1], found[2].replace("\\\n", "").splitlines()
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for found in re.finditer(r"(?<=\n\n)((?: {4,}\S.*\n)+)", text):
        text_of_block = re.sub(r"\\\n +", "", found[1])
        yield "", [line.strip() for line in text_of_block.splitlines()]


def commands(page: str) -> Iterator[str]:
    text = (ROOT / page).read_text()
    programs = "|".join(map(re.escape, sorted(CHECKS)))
    known = re.compile(rf"(\$ |\.venv/bin/)?({programs}|deploy/[\w/]+\.sh)( |$)")
    for language, lines in blocks(text):
        if language in ("", "sh"):
            yield from (line for line in lines if page in COMMAND_PAGES or known.match(line))
    for found in re.findall(rf"`((?:{programs}) [^`]+|deploy/[\w/]+\.sh[^`]*)`", text):
        if not found.rpartition(" ")[2].isupper():  # names an argument of the reader's
            yield found


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {word for word in words if "=" not in word} <= {*targets}


def check_clusterdns(words: list[str]) -> None:
    name, arguments = (words[0], words[1:]) if words[0] in listing.NAMES else ("serve", words)
    if words in ([name], [name, "-h"], ["-h"], ["COMMAND", "-h"]):
        return  # the text speaks of the command, or of each
    found = listing.load(name).parser().parse_args(arguments)
    if name == "help":
        assert {*found.words} <= {*registry.available(), *listing.NAMES}


def check_pip(words: list[str]) -> None:
    assert words[0] in ("install", "wheel")
    if "-r" in words:
        assert (ROOT / words[words.index("-r") + 1]).is_file()


def check_python(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


def check_pytest(words: list[str]) -> None:
    assert words[0] == "-m" or (ROOT / words[0]).is_file()


def check_dig(words: list[str]) -> None:
    assert ["@localhost", "-p", str(LAB_PORT)] == words[:3]  # asked of the lab below


def check_python3(words: list[str]) -> None:
    assert ["-m", "venv"] == words[:2]


def check_cd(words: list[str]) -> None:
    assert (ROOT / words[0]).is_dir()


def check_helm(words: list[str]) -> None:
    """`.` is the chart, where the reader is."""
    chart = ROOT / "deploy" / "helm" / "clusterdns"
    assert words[0] in ("template", "upgrade", "install", "uninstall", "rollback")
    for word in words:
        if word.startswith("templates/"):
            assert (chart / word).is_file()
        elif word.startswith("deploy/"):
            assert (ROOT / word).exists()


def check_kill(words: list[str]) -> None:
    assert words[0] in ("-USR1", "-USR2", "-TERM")


def check_head(words: list[str]) -> None:
    assert re.fullmatch("-[0-9]+", *words)


def check_man(words: list[str]) -> None:
    assert ["-l", "-"] == words


def check_sed(words: list[str]) -> None:
    """What is replaced is in the file."""
    script, file = words
    replaced = script.split(script[1])[1]
    assert re.search(replaced, (ROOT / file).read_text(), re.MULTILINE)


def check_docker(words: list[str]) -> None:
    """The image is the one that `make image` builds; what follows it goes to clusterdns."""
    assert "docker build -t clusterdns ." in (ROOT / "Makefile").read_text()
    if words[0] == "run":
        check_clusterdns(words[words.index("clusterdns") + 1 :])
    elif words[0] == "tag":
        assert ["clusterdns", REGISTRY_IMAGE] == words[1:]
    else:
        assert ["push", REGISTRY_IMAGE] == words


def check_mkdir(words: list[str]) -> None:
    """The directory is the one that the README's Corefile reads."""
    assert "-p" == words[0]
    assert f"manifests {words[1]}\n" in README.read_text()


def check_apt_get(words: list[str]) -> None:
    assert words[0] in ("install", "update")


def check_kubectl(words: list[str]) -> None:
    """Names in the command are those of kubeadm's manifests, files are there."""
    kinds = {"configmap", "deployment", "service"}
    there = {(each["kind"].lower(), each["metadata"]["name"]) for each in OBJECTS} | KUBE_DNS
    labels = {
        f"{key}={value}"
        for each in OBJECTS
        for key, value in each["metadata"].get("labels", {}).items()
    }
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        if word in ("-k", "-f"):
            assert following == "-" or (ROOT / following).exists()
        elif word == "-l":
            assert following in labels
        elif word in kinds:
            assert (word, following) in there
        elif word.partition("/")[0] in kinds:
            assert tuple(word.split("/")) in there


CHECKS = {
    "apt-get": check_apt_get,
    "cd": check_cd,
    "clusterdns": check_clusterdns,
    "dig": check_dig,
    "docker": check_docker,
    "head": check_head,
    "helm": check_helm,
    "kill": check_kill,
    "kubectl": check_kubectl,
    "make": check_make,
    "man": check_man,
    "mkdir": check_mkdir,
    "pip": check_pip,
    "pytest": check_pytest,
    "python": check_python,
    "python3": check_python3,
    "sed": check_sed,
}


def check(command: str) -> None:
    for program, *words in piped(command.removeprefix("$ ")):
        program = program.removeprefix(".venv/bin/")
        if program.startswith("deploy/"):
            assert os.access(ROOT / program, os.X_OK), f"{program} is no program"
            text = (ROOT / program).read_text()
            assert all(word in text for word in words if word.startswith("-")), command
        else:
            assert program in CHECKS, f"no check for {program}"
            CHECKS[program](words)


def piped(command: str) -> Iterator[list[str]]:
    """Yield the words of each program of a pipe, without redirections and comments."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in ("|", "&&"):
            yield words
            words = []
        elif word in (">", "<"):
            next(lexer)
        else:
            words.append(word)
    yield words


@pytest.mark.parametrize(
    ("page", "command"),
    sorted({(str(page.relative_to(ROOT)), command)
            for page in PAGES for command in commands(str(page.relative_to(ROOT)))}),
)  # fmt: skip
def test_a_command_names_what_there_is(page, command):
    check(command)


def test_commands_were_found():
    found = {command for page in COMMAND_PAGES for command in commands(page)}
    assert {"make lab", "clusterdns lab", "pip install .", "clusterdns help kubernetes"} <= found
    assert len(found) > 25


@pytest.mark.parametrize(
    "command",
    [
        "make nothing", "clusterdns -nosuch", "clusterdns help nosuch", "pip install -r nosuch.txt",
        "python tests/nosuch.py", "kubectl apply -k deploy/nosuch", "deploy/nosuch.sh",
        "kubectl -n kube-system edit configmap nosuch", "deploy/switch.sh --nosuch", "rm file",
    ],
)  # fmt: skip
def test_a_command_that_names_nothing_is_found(command):
    with pytest.raises((AssertionError, SystemExit)):
        check(command)


def test_what_is_to_be_asked_has_an_answer(lab):
    questions = [
        command.split()[4:] for command in commands("README.md") if command.startswith("dig ")
    ]
    assert questions
    for *options, qname in questions:
        query = dns.message.make_query(qname, "A").to_wire()
        ask = peers.ask_tcp if "+tcp" in options else peers.ask_udp
        reply = ask(lab.address, query)
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert (dns.rcode.NOERROR, True) == (message.rcode(), bool(message.answer))


def test_the_corefile_compiles(monkeypatch):
    monkeypatch.chdir(ROOT / "zones")
    (text,) = ["\n".join(lines) for language, lines in blocks(README.read_text())
               if language == "corefile"]  # fmt: skip
    compiled = compile_text(text, "README.md", port=53, environ={}, warn=pytest.fail)
    assert [".:53"] == compiled.zones


def test_the_plugins_are_those_of_the_code():
    assert plugintable.table() == plugintable.shown(), "run `make docs`"


def test_every_plugin_of_coredns_is_named():
    words = set(re.findall(r"[a-z0-9_]+", plugintable.shown()))
    assert {*COREDNS_ORDER, *registry.available()} - {plugintable.HOOK} <= words


@pytest.mark.peer
def test_the_plugins_of_coredns_are_those_of_the_real_one():
    listed = subprocess.run(
        [peers.coredns_path(), "-plugins"], capture_output=True, text=True, check=True
    ).stdout
    assert {*COREDNS_ORDER} == {*listed.split()}


def test_the_readme_says_which_coredns():
    assert f"replaces CoreDNS {peers.COREDNS_VERSION}" in README.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as most renderers make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_the_page_of_reliability_has_every_row_and_names_what_there_is():
    text = (ROOT / "docs" / "reliability.md").read_text()
    files = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for stem, test in re.findall(r"`(test_\w+)::(test_\w+)`", text):
        assert f"def {test}(" in files[stem], test
    rows = {"W": 9, "F": 7, "K": 10, "P": 11}
    expected = [f"{letter}{i + 1}" for letter, count in rows.items() for i in range(count)]
    assert expected == re.findall(r"^\| ([WFKP]\d+) \|", text, re.M)


def test_the_page_of_reliability_is_written_from_what_was_recorded():
    """`make reliability` writes both; every row has a figure, or the page says what failed."""
    rows = json.loads((ROOT / "tests" / "scoreboard.json").read_text())
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert list(scoreboard.TARGETS) == list(rows)
    for row, run in rows.items():
        assert run["tests"] and (run["figures"] or "failed" in run["tests"].values()), row
    assert page == scoreboard.page_with(page, rows)


def test_figures_of_one_text_are_summed_up():
    figures = [
        ("t", "{total_n} in {runs}, {s} s at most", {"total_n": 2, "s": 1.5}),
        ("t", "{total_n} in {runs}, {s} s at most", {"total_n": 3, "s": 0.5}),
        ("t", "other", {}),
    ]
    assert ["5 in 2, 1.5 s at most", "other"] == scoreboard.summed_up(figures)


def test_the_page_of_the_tests_names_what_there_is():
    text = (ROOT / "tests" / "README.md").read_text()
    files = {path.name: path for path in (ROOT / "tests").rglob("*.py")}
    named = set(re.findall(r"`(?:\w+/)*(\w+\.py)`", text))
    assert len(named) > 25
    assert named <= files.keys()
    for stem, test in re.findall(r"`(test_\w+)::(test_\w+)\*?`", text):
        assert f"def {test}" in files[f"{stem}.py"].read_text(), test
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.M)) == folders - {"__pycache__"}
