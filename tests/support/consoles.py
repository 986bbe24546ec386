"""The console blocks of a page: commands with what they print, run anew and compared.

A block is fenced as ``console``; each line that begins with ``$ `` is a command for a shell, in which
`clusterdns` is this tree's. What goes on until it is interrupted, `lab` and `serve`, is interrupted once it
serves. ``check`` compares a page; ``plain`` puts the same words for what is different each time.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import peers
import pytest

from clusterdns.host import localsocket

PORT = "1053"  # in a page; a free one when it is run
_BLOCK = re.compile(r"(?<=^```console\n)(\$ .*?)(?=^```)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ([^\n]+)\n((?:(?!\$ )[^\n]*\n)*)", re.MULTILINE)
_GOES_ON = re.compile(r"clusterdns (lab|serve)\b(?!.* -(h|version|plugins)\b)")
_ASKS_RUNNING = re.compile(r"(clusterdns (?:explain|top)\b)(?!.* --corefile)(?!.* -h)")
_TIME = r"\d+(?:\.\d+)?(?:e[+-]?\d+)? (?:µs|ms|s)"
_SLOW_ROWS = re.compile(rf"(?<=^slow names\n)(?: +{_TIME}  \S+ \S+\n)+", re.MULTILINE)
_DIFFERENT = (
    (r"\b(\d+\.\d|N) ms\b", "0.5 ms"),
    (r"(hostmaster\.[a-z.]+) \d{10} ", r"\1 1795965840 "),
    (r"linux/\w+, python[\d.]+", "linux/x86_64, python3.11.2"),
    (r"packet path: \w+, modules: \w+", "packet path: c, modules: compiled"),
    (r"SHA512 = [0-9a-f]{128}", "SHA512 = 3f1a..."),
    (r"server process \d+:", "server process 4711:"),
    (r" queries in \d+ s\b", " queries in 60 s"),
    (rf"\b(p\d\d) {_TIME}", r"\1 120 µs"),
    (rf"\b{_TIME} (udp|tcp) (table|chain|relay)$", r"120 µs \1 \2"),
    (r"^\d\d:\d\d:\d\d ", "12:00:00 "),
)


class Place(NamedTuple):
    """Where commands are run: a directory, and the server there that is asked, if any."""

    directory: Path
    server: peers.Server | None = None
    corefile: str = "Corefile"  # that of the server, in the page


def commands(page: str) -> list[tuple[str, str]]:
    """Return the commands of a page, each with what it prints."""
    return [found for block in _BLOCK.findall(page) for found in _COMMAND.findall(block)]


def made(page: str, run: Callable[[str], str]) -> str:
    """Return a page with what its commands print now."""

    def block(found: re.Match[str]) -> str:
        return _COMMAND.sub(lambda each: f"$ {each[1]}\n{run(each[1])}", found[1])

    return _BLOCK.sub(block, page)


def check(path: Path, run: Callable[[str], str]) -> None:
    """Compare a page with what its commands print; with ``UPDATE_DOCS=1``, write it."""
    page = path.read_text()
    found = made(page, run)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(found)
    else:
        written = made(page, lambda each: plain(dict(commands(page))[each]))
        lines = difflib.unified_diff(written.splitlines(), found.splitlines(), lineterm="", n=1)
        if difference := "\n".join(lines):
            pytest.fail(f"run `make docs`:\n{difference}")


def plain(text: str) -> str:
    """Return what a command prints, without what is different each time."""
    for pattern, words in _DIFFERENT:
        text = re.sub(pattern, words, text, flags=re.MULTILINE)
    return _SLOW_ROWS.sub(lambda rows: _sorted(rows[0]), text)


def _sorted(rows: str) -> str:
    rows = re.sub(rf"^ +{_TIME}  ", "    120 µs  ", rows, flags=re.MULTILINE)
    return "".join(sorted(rows.splitlines(keepends=True)))


def run(command: str, place: Place) -> str:
    """Return what a command prints to a terminal or a pipe, made ``plain``."""
    if _GOES_ON.search(command):
        return _interrupted(command, place)
    port = str(place.server.port) if place.server else PORT
    line = _on_port(command, port)
    if place.server and _ASKS_RUNNING.search(line):
        line = _ASKS_RUNNING.sub(rf"\1 --pid {place.server.process.pid}", line)
    done = subprocess.run(
        ["bash", "-c", f"{_SHIM} {line}"], cwd=place.directory, env=_environment(), timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return _shown(done.stdout, port, place)


_SHIM = f'clusterdns() {{ {shlex.quote(sys.executable)} -m clusterdns "$@"; }};'


def _environment() -> dict[str, str]:
    return {each: os.environ[each] for each in ("PATH", "HOME", "PYTHONPATH") if each in os.environ}


def _on_port(text: str, port: str) -> str:
    return re.sub(rf"\b{PORT}\b", port, text)


def _shown(printed: str, port: str, place: Place) -> str:
    found = re.sub(rf"\b{port}\b", PORT, printed)
    found = re.sub(rf"\bCorefile-\w+-{PORT}\b", place.corefile, found)
    return plain(found.replace(str(place.directory), "/home/me/zones"))


def _interrupted(command: str, place: Place) -> str:
    """Return what a server prints until it is interrupted, which is once commands can ask it."""
    port = str(peers.free_port())
    words = shlex.split(_on_port(command, port))
    if words[:2] == ["clusterdns", "lab"] and "-p" not in words:
        words += ["-p", port]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=place.directory, env=_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: process.pid in localsocket.servers() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        return _shown(process.communicate(timeout=30)[0], port, place)
    finally:
        process.kill()


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
