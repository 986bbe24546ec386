"""The command line as a shell sees it: every command through the real program."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterdns.commands import generated, listing

ROOT = Path(__file__).resolve().parents[2]
ZONES = ROOT / "zones"
MADE = {
    "deploy/shell/clusterdns": lambda: generated.completion("bash"),
    "deploy/shell/_clusterdns": lambda: generated.completion("zsh"),
    "deploy/shell/clusterdns.fish": lambda: generated.completion("fish"),
    "docs/clusterdns.8": generated.manual,
}
COMMANDS = sorted(listing.NAMES)
SERVING = {"serve", "lab"}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", *arguments],
        cwd=ZONES, env={**environ, **settings}, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_examples_and_exit_codes(name):
    done = run(name, "-h")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"usage: clusterdns {name}")
    command = listing.load(name)
    assert all(each.line in done.stdout for each in command.examples)
    assert all(
        f"\n  {code:<4}{meaning}\n" in done.stdout for code, meaning in command.exits.items()
    )
    assert f"\n  {name} " in run("-h").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_what_it_does_not_know(name):
    done = run(name, "--no-such-option")
    assert (2, "") == (done.returncode, done.stdout)
    assert "--no-such-option" in done.stderr or "required" in done.stderr
    assert f"see `clusterdns {name} -h`" in done.stderr
    assert 2 in listing.load(name).exits


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_commands(name):
    for example in listing.load(name).examples:
        for part in re.split(r"[|>]", example.line):
            program, *words = shlex.split(part)
            if program == "clusterdns":
                found = words[0] if words[0] in listing.NAMES else "serve"
                listing.load(found).parser().parse_args(words[words[:1] == [found] :])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("chekc", "Corefile"), 'no command "chekc", did you mean "check"?'),
        (("check", "--prot", "1", "Corefile"), 'did you mean "--port"?'),
        (("-dns.prot", "1"), 'did you mean "-dns.port"?'),
        (("-conv", "Corefile"), 'did you mean "-conf"?'),
        (("check", "-port", "53", "Corefile"), 'arguments: -port, did you mean "--port"?'),
        (("check", "--frmat=json", "Corefile"), 'did you mean "--format"?'),
        (("check", "--format", "jsn", "Corefile"), 'did you mean "json"?'),
        (("explain", "--corefil", "Corefile", "web"), 'did you mean "--corefile"?'),
        (("lookup", "web", "AAAAA"), 'did you mean "AAAA"?'),
        (("lookup", "web", "--libc", "gblic"), 'did you mean "glibc"?'),
        (("help", "--completion", "bahs"), 'did you mean "bash"?'),
    ],
)
def test_what_was_meant_is_suggested(arguments, hint):
    done = run(*arguments)
    assert (2, "", True) == (done.returncode, done.stdout, hint in done.stderr), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-conf", "none"), ("serve", "-conf", "none"), ("-conf", "none", "-config-dir", "."),
        ("check", "none"), ("check", "--diff", "none", "Corefile"), ("fmt", "none"),
        ("explain", "web", "--corefile", "none"), ("lookup", "web", "--resolv-conf", "none"),
        ("translate", "none"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_named_in_words(arguments):
    done = run(*arguments)
    assert (True, "") == (done.returncode in (1, 2), done.stdout)
    assert re.fullmatch(r"clusterdns: (\S+/)?none: no such file or directory\n", done.stderr)


def test_flags_are_written_as_in_go():
    """As CoreDNS takes them: with a value behind `=`, also those that have none here."""
    version = run("-version").stdout
    assert version.startswith("clusterdns-")
    for words in (("-version=true",), ("--version=1",), ("-conf=none", "-quiet=F", "-version=T")):
        assert (version, "") == (run(*words).stdout, run(*words).stderr)
    done = run("-version=false", "-quiet=true", "-conf=none")
    assert (1, True) == (done.returncode, "none: no such file" in done.stderr)
    done = run("-quiet=maybe")
    assert (2, True) == (
        done.returncode,
        "-quiet: 'maybe' is neither true nor false" in done.stderr,
    )
    assert 2 == run("-dns.port=", "-version").returncode


def test_a_word_behind_two_dashes_is_no_option():
    done = run("check", "--", "-x")
    assert (2, "clusterdns: -x: no such file or directory\n") == (done.returncode, done.stderr)
    assert (
        "-x.example.com. A"
        in run("explain", "--corefile", "Corefile", "--", "-x.example.com").stdout
    )


def test_help_suggests_plugins_and_commands():
    done = run("help", "kubernets")
    assert (1, True) == (done.returncode, 'did you mean "kubernetes"?' in done.stderr)
    assert run("help", "check").stdout == run("check", "-h").stdout
    listed = json.loads(run("help", "--json").stdout)
    assert [*listing.NAMES] == [*listed["commands"]]
    assert "kubernetes" in listed["plugins"]


def test_a_closed_pipe_ends_it_in_silence():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "clusterdns", "help"],
            stdout=closed, stderr=subprocess.PIPE, timeout=30, check=False,
        )  # fmt: skip
    assert (141, b"") == (done.returncode, done.stderr)


# Of each command with much to say, and what goes on: the first line, and what is due behind it.
@pytest.mark.parametrize(
    "line",
    [
        "-h", "-plugins", "-version", "serve -h", "help", "help --json", "help --man", "help kubernetes",
        "help --completion zsh", "check Corefile", "check --json Corefile", "fmt Corefile",
        "fmt --json Corefile", "explain web.uit.svc.cluster.local --corefile Corefile",
        "explain web.uit.svc.cluster.local --corefile Corefile --json", "resolv-conf uit",
        "check --diff Corefile Corefile", "lab", "lab --json",
    ],
)  # fmt: skip
def test_a_reader_of_one_line_ends_it_in_silence(line, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", *line.split()],
        cwd=ZONES, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline()
        process.stdout.close()
        if line.startswith("lab"):
            process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, 141)
        assert b"" == process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def json_of(*arguments: str) -> Any:
    done = run(*arguments)
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


def test_each_command_has_its_output_as_json(tmp_path):
    for name in COMMANDS:
        assert "--json" in run(name, "-h").stdout or name == "serve"
    corefile = tmp_path / "Corefile"
    corefile.write_text(". {\nwhoami\n}\n")
    given = {"file": str(corefile), "has_form": False, "text": ". {\n    whoami\n}\n"}
    assert {"files": [given]} == json_of("fmt", "--json", str(corefile))
    assert [given] == json_of("fmt", "-w", "--json", str(corefile))["files"]
    assert given["text"] == corefile.read_text()
    assert json_of("fmt", "--json", str(corefile))["files"][0]["has_form"]
    settings = tmp_path / "cm.yaml"
    settings.write_text(
        "kind: ConfigMap\nmetadata: {name: kube-dns}\ndata: {upstreamNameservers: '[\"192.0.2.1\"]', nonsense: x}\n"
    )
    found = json_of("translate", "--json", str(settings))
    done = run("translate", str(settings))
    assert done.stdout == found["corefile"]
    assert [f"clusterdns: warning: {settings}: {found['warnings'][0]}"] == done.stderr.splitlines()


def test_the_lab_tells_its_port_as_json(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", "lab", "--json"],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert {"port", "questions"} == lines[0].keys()
        assert f".:{lines[0]['port']}" in json.dumps(lines[1:])
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_check_tells_of_several_files(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(". {\n whoami\n}\n")
    bad.write_text(". {\n whomai\n}\n")
    done = run("check", str(good), str(bad))
    assert 1 == done.returncode
    assert [str(good), str(bad)] == [
        each for each in done.stdout.splitlines() if each in (str(good), str(bad))
    ]
    assert f'{bad}:2:2: whomai: unknown directive, did you mean "whoami"?' in done.stdout
    found = json.loads(run("check", "--format", "json", str(good), str(bad)).stdout)
    assert [True, False] == [each["can_be_served"] for each in found["files"]]
    lines = run("check", "--format", "github", str(good), str(bad)).stdout.splitlines()
    assert lines[0].startswith(f"::notice file={good},line=2,col=2,title=slow::")
    assert lines[1].startswith(f"::error file={bad},line=2,col=2,title=refused::whomai: unknown")
    assert (0, 2) == (
        run("check", str(good), str(good)).returncode,
        run("check", str(bad), str(tmp_path / "none")).returncode,
    )


def on_a_terminal(*arguments: str, **settings: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterdns", *arguments],
        cwd=ZONES, env={**environ, "TERM": "xterm-256color", **settings}, stdout=theirs,
    )  # fmt: skip
    os.close(theirs)
    octets = b""
    try:
        while chunk := os.read(ours, 65536):
            octets += chunk
    except OSError:  # EIO: the program has ended
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return octets.decode()


def test_colors_are_for_terminals():
    assert "\x1b[" in on_a_terminal("check", "Corefile")
    assert "\x1b[" not in on_a_terminal("check", "Corefile", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal("check", "Corefile", TERM="dumb")
    assert "\x1b[" not in run("check", "Corefile").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "wbe.uit.svc.cluster.local", "--corefile", "Corefile"),
        ("check", "--diff", "Corefile", "faults/shadowing-zone.Corefile"),
        ("lookup", "web", "--as", "uit", "--server", "127.0.0.1:1"),
    ],
    ids=lambda words: words[0],
)
def test_what_matters_is_colored_on_a_terminal_only(arguments, tmp_path):
    shown, plain = on_a_terminal(*arguments), run(*arguments).stdout
    assert "\x1b[" in shown
    assert "\x1b[" not in plain
    times = r"\d+\.\d ms|\b\d{10}\b"  # and serials
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
    assert re.sub(times, "", plain) == re.sub(times, "", bare)


@pytest.mark.parametrize("path", MADE)
def test_completions_and_manual_are_current(path):
    assert MADE[path]() == (ROOT / path).read_text(), "run `make docs`"


def completed(line: str) -> set[str]:
    """Return what bash completes at the end of a line."""
    words = line.split(" ")
    script = (
        f"source deploy/shell/clusterdns; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f'COMP_CWORD={len(words) - 1}; _clusterdns; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("clusterdns ", set(listing.NAMES)),
        ("clusterdns ch", {"check"}),
        ("clusterdns check --po", {"--port"}),
        ("clusterdns -con", {"-conf", "-config-dir"}),
        ("clusterdns -conf zones/Core", {"zones/Corefile"}),
        ("clusterdns check zones/Core", set()),  # bash completes the file itself
        ("clusterdns help --completion ", {"bash", "zsh", "fish"}),
        ("clusterdns help kub", {"kubernetes"}),
    ],
)
def test_bash_completes(line, some):
    assert some == completed(line)


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish: apt-get install fish")
@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("clusterdns ", set(listing.NAMES)),
        ("clusterdns ch", {"check"}),
        ("clusterdns check --po", {"--port"}),
        ("clusterdns -con", {"-conf", "-config-dir"}),
        ("clusterdns -conf zones/Core", {"zones/Corefile"}),
        ("clusterdns check zones/Core", {"zones/Corefile"}),
        ("clusterdns check --format ", {"text", "json", "github"}),
        ("clusterdns check --port ", set()),
        ("clusterdns check --manifests zo", {"zones/"}),
        ("clusterdns help --completion ", {"bash", "zsh", "fish"}),
        ("clusterdns help kub", {"kubernetes"}),
    ],
)
def test_fish_completes(line, some, tmp_path):
    script = f"source deploy/shell/clusterdns.fish; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert some == {each.partition("\t")[0] for each in done.stdout.splitlines()}


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh: apt-get install zsh")
@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("clusterdns ch", "check"),
        ("clusterdns check --po", "--port"),
        ("clusterdns -config", "-config-dir"),
        ("clusterdns check zones/Core", "zones/Corefile"),
        ("clusterdns check --format git", "github"),
        ("clusterdns help --completion ba", "bash"),
        ("clusterdns help kub", "kubernetes"),
    ],
)
def test_zsh_completes(line, some, tmp_path):
    """In a real line editor, where Tab puts the only word that is possible."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "dumb"},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    setting = (
        "PS1=; unsetopt zle_bracketed_paste; fpath=(deploy/shell $fpath); autoload -U compinit;"
        f' compinit -u -d {tmp_path}/dump; clusterdns() {{ print -r -- "[$*]" }}; print READY$((1))\n'
    )
    try:
        os.write(ours, setting.encode())
        read_until(ours, "READY1")
        os.write(ours, f"{line}\t\n".encode())
        assert f"[{line.partition(' ')[2].rpartition(' ')[0]} {some}".replace("[ ", "[") in (
            read_until(ours, "]")
        )
    finally:
        os.close(ours)
        process.kill()
        process.wait(10)


def read_until(descriptor: int, text: str) -> str:
    found, deadline = "", time.monotonic() + 20
    while text not in found:
        assert time.monotonic() < deadline, found
        if select.select([descriptor], [], [], 1)[0]:
            found += os.read(descriptor, 65536).decode("utf-8", "replace")
    return found


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff: apt-get install groff-base")
def test_the_manual_page_is_roff():
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "docs/clusterdns.8"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "" == done.stderr


def test_what_serves_imports_no_other_command():
    """The memory of every process of a server: what a start imports stays."""
    code = (
        "import sys; from clusterdns.commands import listing; listing.load('serve').parser();"
        "print(*sorted(each for each in sys.modules"
        " if each.split('.')[0] == 'rich' or each.startswith('clusterdns.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ["declaration", "listing", "serve"] == [
        each.rpartition(".")[2] for each in done.stdout.split()
    ]


def test_settings_of_a_pod():
    done = run("resolv-conf", "uit")
    (given,) = [(ZONES / "resolv.conf").read_text().partition("\n")[2]]
    assert sorted(given.splitlines()) == sorted(done.stdout.splitlines())
    found = json.loads(run("resolv-conf", "web", "--ndots", "1", "--json").stdout)
    assert (1, "web.svc.cluster.local") == (found["ndots"], found["search"][0])
