"""`fmt`: one form of a Corefile, which says the same and does not change again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.layout import formatted
from clusterdns.corefile.parser import ServerBlock, parse
from clusterdns.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CORPUS = [*sorted((ROOT / "tests/peer/corefiles").glob("*.corefile")), ROOT / "zones/Corefile"]
UGLY = """

# head
  (snip)   {
  errors # trailing
      log }
.:53,
example.org
{
# why


   forward . 8.8.8.8   {
       max_fails 3

   }
 cache { success 100 }   # kept
   hosts {
"10.0.0.1"   "a  b"   c#d
 }

}
other.example {
}
# end
"""
PRETTY = """\
# head
(snip) {
    errors # trailing
    log
}

.:53,
example.org {
    # why

    forward . 8.8.8.8 {
        max_fails 3
    }
    cache {
        success 100
    } # kept
    hosts {
        "10.0.0.1" "a  b" c#d
    }
}

other.example {
}

# end
"""


def meaning(text: str, file: str = "Corefile") -> list[str]:
    """The server blocks of a text without their lines, or its mistake."""

    def plain(block: ServerBlock) -> str:
        return re.sub(r"line=\d+", "", repr(block))

    try:
        blocks = parse(text, file, environ={}, files=DiskFiles(), warn=lambda _: None)
    except ConfigError as error:
        return [error.word, re.sub(r"\d+", "", error.reason)]
    return [plain(block) for block in blocks]


def test_the_form():
    assert PRETTY == formatted(UGLY, "Corefile")
    assert meaning(UGLY) == meaning(PRETTY)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_real_corefiles_say_the_same_and_stay(path):
    text = path.read_text()
    once = formatted(text, str(path))
    assert once == formatted(once, str(path))
    assert meaning(text, str(path)) == meaning(once, str(path))
    assert re.findall(r"(?m)(?:^|\s)(#.*?)\s*$", text) == re.findall(r"(?m)(?:^|\s)(#.*)$", once)


WORDS = st.sampled_from(
    ["{", "}", "\n", " ", "  ", "\t", ".:53", "errors", "forward", ".", "1.2.3.4", "# a\n", "#b",
     '"q r"', '"x\ny"', '"', "a,", "\r\n", "\\", "{$X}", "(s)", "import", "é", "\u2028"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=25))
def test_any_text_is_formatted_once_or_refused(words):
    text = "".join(words)
    try:
        once = formatted(text, "Corefile")
    except ConfigError:
        return
    assert once == formatted(once, "Corefile")
    assert text.count("#") == once.count("#")


def fmt(*arguments: str, text: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", "fmt", *arguments],
        cwd=cwd, input=text, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_the_command(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(UGLY)
    assert (0, PRETTY) == ((done := fmt("Corefile", cwd=tmp_path)).returncode, done.stdout)
    assert PRETTY == fmt(text=UGLY, cwd=tmp_path).stdout
    assert (1, "Corefile\n") == ((done := fmt("--check", "Corefile", cwd=tmp_path)).returncode, done.stdout)  # fmt: skip
    assert "+    forward . 8.8.8.8 {" in fmt("--diff", "Corefile", cwd=tmp_path).stdout
    assert (0, "") == ((done := fmt("-w", "Corefile", cwd=tmp_path)).returncode, done.stdout)
    assert PRETTY == path.read_text()
    assert (0, "") == ((done := fmt("--check", "Corefile", cwd=tmp_path)).returncode, done.stdout)
    (tmp_path / "bad").write_bytes(b"\xff")
    done = fmt("bad", cwd=tmp_path)
    assert (1, True) == (done.returncode, "octet 0 is no UTF-8" in done.stderr)
    os.truncate(tmp_path / "bad", 5 * 2**20)
    assert "larger than" in fmt("bad", cwd=tmp_path).stderr
