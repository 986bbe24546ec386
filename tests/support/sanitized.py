"""The extension module built with the address and the undefined behavior sanitizer, and fuzzed so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_FLAGS = [
    "-g",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fPIC",
    "-shared",
]
_INSTALL = "apt-get install gcc python3-dev"


def built(directory: Path) -> Path:
    """Return the module with sanitizers, or skip the test where they are not to be had."""
    compiler = _compiler()
    headers = Path(sysconfig.get_paths()["include"])
    if compiler is None or not (headers / "Python.h").exists():
        pytest.skip(f"no compiler or no Python.h: {_INSTALL}")
    [module] = extension_modules()
    found = directory / "_drain.so"
    done = subprocess.run(
        [compiler, *_FLAGS, f"-I{headers}", *module["sources"], "-o", str(found)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "cannot find -l" in done.stderr:
        pytest.skip(f"no sanitizers: {_INSTALL}: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return found


def built_for_coverage(directory: Path) -> Path | None:
    """Return the module with sanitizers and libFuzzer's counters, None without clang."""
    compiler, headers = shutil.which("clang"), Path(sysconfig.get_paths()["include"])
    if compiler is None or not (headers / "Python.h").exists():
        return None
    [module] = extension_modules()
    found = directory / "_drain.so"
    flags = ["-g", "-O1", "-fsanitize=address,fuzzer-no-link", "-w", "-fPIC", "-shared"]
    command = [compiler, *flags, f"-I{headers}", *module["sources"], "-o", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode else found


def extension_modules() -> list[dict[str, Any]]:
    """Return what pyproject.toml says of the modules in C."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found: list[dict[str, Any]] = setup["ext-modules"]
    return found


def fuzz(target: str, seconds: float, module: Path) -> str:
    """Run a fuzz target with a module so built; return what it says, and fail if they object."""
    libraries = [
        subprocess.check_output([str(_compiler()), f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "wire" / "fuzz" / target), str(seconds)],
        env={**os.environ, "DRAIN": str(module), "LD_PRELOAD": " ".join(libraries),
             "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")
