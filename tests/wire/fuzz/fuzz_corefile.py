# Invariant: whatever the text, its imports and the environment, `parse` returns server blocks or
# raises ConfigError, within a second, and the checks of those blocks do likewise.
"""Fuzz the Corefile parser: ``python tests/fuzz/fuzz_corefile.py SECONDS [SEED]``.

Texts are made of pieces that mean something and of mutations of whole Corefiles. A failure prints
the input as Python and ends with status 1; put it into tests/test_corefile.py then.
"""

from __future__ import annotations

import random
import sys
import time

from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.corefile.arguments import duration_s, zones
from clusterdns.corefile.checks import check_directives, check_overlaps
from clusterdns.corefile.parser import parse
from clusterdns.errors import ConfigError

MAX_SECONDS = 1.0
SEEDS = (
    ".:53 {\n errors\n health {\n lameduck 5s\n }\n cache 30 {\n disable success a.b\n }\n}\n",
    "(s) {\n log\n}\na.org, b.org:5353\n{\n import s\n import f*\n}\ntls://. {\n import f\n}\n",
    ".\nwhoami\nbind 127.0.0.1\n",
    '10.0.0.0/23 2001:db8::/30 {\n log . "{type} {$X}" {\n class all\n import s\n }\n}\n',
    "import f\n# {\n. {\n view a {\n expr type() == 'A'\n }\n}\n",
)
PIECES = (
    *"{}\"#\\,.:()/*?[]%$\r\x00\u00a0\udc80", " ", "\n", "import", "import s\n", "import f\n",
    "(s) {\n", "{\n", "\n}\n", "{$X}", "{%X%}", "{$", "10.0.0.0/9", "::/1", "log",
    "tls://", ":53", ":99999",
    "a.org", "1h2.5m", "\ufeff", "\\999", "a" * 64, "view a\n", "bind ::1\n",
)  # fmt: skip


class Texts:
    """Every name is a file with the same text, which may import itself."""

    def __init__(self, text: str) -> None:
        self._text = text

    def glob(self, pattern: str) -> list[str]:
        return [pattern.replace("*", word) for word in ("a", "b")] if "*" in pattern else [pattern]

    def read(self, path: str) -> str:
        if "?" in path:
            raise FileNotFoundError(path)
        return self._text


def make(rng: random.Random) -> str:
    """Return a text: pieces in a row, or a Corefile with pieces put in, cut out and repeated."""
    if rng.random() < 0.3:
        return "".join(rng.choices(PIECES, k=rng.randrange(60)))
    text = rng.choice(SEEDS)
    for _ in range(rng.randrange(12)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 5, 40)))
        part = rng.choice((rng.choice(PIECES), text[start:end] * 2, ""))
        text = text[:start] + part + text[end:]
    return text * rng.choice((1, 1, 1, 1, 50))


def examine(text: str, imported: str, value: str) -> None:
    """Parse and check; ConfigError is the only exception let pass."""
    try:
        blocks = parse(
            text, "Corefile", environ={"X": value}, files=Texts(imported), warn=lambda _: None
        )
        check_overlaps(blocks, 53)
        for block in blocks:
            for directive in block.directives:
                for arg in directive.args:
                    for check in (lambda a, d: zones([a], d), duration_s):
                        try:
                            check(arg, directive)
                        except ConfigError as error:
                            str(error).encode()
        check_directives(blocks, COREDNS_ORDER[::2], COREDNS_ORDER[1::2])
    except ConfigError as error:
        str(error).encode()  # fit to be printed


def main() -> int:
    """Fuzz for the seconds given."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, until, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        case = make(rng), make(rng), rng.choice((make(rng), "{$X}", "{$X}{%X%}", "a"))
        started = time.process_time()
        try:
            examine(*case)
            took_s = time.process_time() - started
            if took_s > MAX_SECONDS:
                raise TimeoutError(f"took {took_s:.1f} s")
        except Exception as error:
            print(f"seed {seed}, case {count}: {error!r}\nexamine{case!a}")
            return 1
        count += 1
    print(f"{count} texts, seed {seed}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
