"""Runs a fuzz target: ``python tests/wire/fuzz/guided.py TARGET [SECONDS [SEED]]``.

A target is a module beside this one with ``examine(data)``, which raises if its invariant does not hold,
``seeds()`` to begin with, and perhaps ``WORDS`` that mean something, ``mutate(rng, data)``, which makes
neighbors that do, and ``MAX_OCTETS``. With atheris, inputs that reach new code are kept and mutated further; without it,
seeds are mutated. Inputs that once failed are in ``corpus/TARGET`` and are examined first.

A failure prints its traceback and where its input is kept, and the status is not 0.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import sanitized

HERE = Path(__file__).resolve().parent

Mutate = Callable[[random.Random, bytes], bytes]

MAX_OCTETS = 4096
MEMORY_MIB = 2000  # with the address sanitizer; without it, 100 do
SLOW_S = 20  # one input, instrumented, on a machine that is busy


def corpus(name: str) -> list[Path]:
    """Return the files of inputs that once failed."""
    return sorted((HERE / "corpus" / name).glob("*"))


def run_guided(name: str, seconds: float, seed: int) -> None:
    """Run with coverage; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["clusterdns", name]):
        module = importlib.import_module(name)
    with tempfile.TemporaryDirectory() as place:
        for i, octets in enumerate(module.seeds()):
            (Path(place) / f"{i}").write_bytes(octets)
        for path in corpus(name):
            (Path(place) / path.name).write_bytes(path.read_bytes())
        words = [
            name,
            f"-max_total_time={max(1, round(seconds))}",
            f"-seed={seed % 2**31 or 1}",
            f"-timeout={SLOW_S}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={octets_of(module)}",
            f"-artifact_prefix={tempfile.gettempdir()}/{name}-",
            "-close_fd_mask=0",
            "-verbosity=0",
            "-print_final_stats=1",
            place,
        ]
        mutator = _mixed(mutate_of(module), lambda *what: atheris.Mutate(*what))
        atheris.Setup(words, module.examine, custom_mutator=mutator)
        atheris.Fuzz()


def _mixed(
    mutate: Mutate, plain: Callable[[bytes, int], bytes]
) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that takes the target's as often as the library's."""

    def mixed(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutate(rng, data)[:limit] if rng.random() < 0.5 else plain(data, limit)

    return mixed


def run_plain(name: str, seconds: float, seed: int) -> None:
    """Run without coverage: mutations of the seeds."""
    module = importlib.import_module(name)
    rng, until, count = random.Random(seed), time.monotonic() + seconds, 0
    inputs = [*module.seeds(), *(path.read_bytes() for path in corpus(name))]
    mutate = mutate_of(module)
    for data in inputs:
        module.examine(data)
    while time.monotonic() < until:
        data = mutate(rng, rng.choice(inputs))[: octets_of(module)]
        try:
            module.examine(data)
        except Exception:
            kept = Path(tempfile.gettempdir()) / f"{name}-failed"
            kept.write_bytes(data)
            print(f"seed {seed}, input {count}: kept in {kept}", file=sys.stderr)
            raise
        count += 1
    print(f"{count} inputs, seed {seed}, without coverage")


def mutate_of(module: ModuleType) -> Mutate:
    """Return how a target's inputs are mutated."""
    words = tuple(getattr(module, "WORDS", ()))
    plain: Mutate = lambda rng, data: mutated(rng, data, words)  # noqa: E731
    found: Mutate = getattr(module, "mutate", plain)
    return found


def mutated(rng: random.Random, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """Return ``data`` with some octets changed, cut out, put in or repeated, and words put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        i, j = sorted(rng.choices(range(len(found) + 1), k=2))
        j = min(j, i + rng.choice((1, 2, 8, 64)))
        word = rng.choice(words) if words else b""
        part = rng.choice((b"", rng.randbytes(rng.randint(1, 4)), found[i:j] * 2, word, word))
        found[i:j] = part
    return bytes(found)


def varied(rng: random.Random, value: Any, others: Sequence[Any]) -> Any:
    """Return a copy of a value of JSON in which something is another of them, gone or twice there."""
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return rng.choice(others)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        part = rng.choice(([], [value[i]] * 2, *[[varied(rng, value[i], others)]] * 6))
        return [*value[:i], *part, *value[i + 1 :]]
    key = rng.choice(list(value))
    found = {**value, key: varied(rng, value[key], others)}
    if rng.random() < 0.1:
        del found[key]
    return found


def octets_of(module: ModuleType) -> int:
    return int(getattr(module, "MAX_OCTETS", MAX_OCTETS))


def take_sanitizers() -> None:
    """Begin anew with the C code built for coverage and with sanitizers, if there is clang."""
    import atheris

    library = Path(atheris.path()) / "asan_with_fuzzer.so"
    if "DRAIN" in os.environ or not library.exists():
        return
    module = sanitized.built_for_coverage(Path(tempfile.mkdtemp(prefix="clusterdns-fuzz-")))
    if module is not None:
        options = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        more = {"DRAIN": str(module), "LD_PRELOAD": str(library), **options}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **more})


def main() -> None:
    """Run as the command line says."""
    name = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(2**31)
    with contextlib.suppress(ImportError):
        import atheris  # noqa: F401 - is it there?

        if name.startswith("c_"):
            take_sanitizers()
        run_guided(name, seconds, seed)
        return
    run_plain(name, seconds, seed)


if __name__ == "__main__":
    main()
