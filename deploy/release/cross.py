"""Compiled wheels for arm64, made on another processor.

As CPython's own modules are: the Python that builds is of this processor and of the same version;
it is told the platform and the configuration (`_sysconfigdata`) of the other one, whose Python.h
the cross compiler reads. Only for Pythons that Debian has for arm64: what could not be started
under qemu-user is not released.
"""

from __future__ import annotations

import platform
import shutil
import tarfile
import tomllib
from pathlib import Path

import wheels
from wheels import run

ARCHITECTURE, MACHINE = "arm64", "aarch64"
EMULATOR = f"qemu-{MACHINE}-static"
_COMPILER = f"{MACHINE}-linux-gnu-gcc"
# The hook of PEP 517 that pip calls, without pip: it would install packages of the other processor.
_BUILD = (
    "import sys; sys.path.insert(0, 'builder'); import backend; backend.build_wheel(sys.argv[1])"
)


def interpreters() -> dict[str, Path]:
    """Return the Pythons of arm64 by version; none without the tools, or where they are native."""
    if platform.machine() == MACHINE or not (shutil.which(_COMPILER) and shutil.which(EMULATOR)):
        return {}
    return wheels.interpreters(ARCHITECTURE)


def compiled(sdist: Path, python: Path, foreign: Path, into: Path, work: Path) -> Path:
    """Make the wheel of one Python for arm64.

    Args:
        sdist: the source distribution.
        python: the interpreter that builds.
        foreign: the same version for arm64, with Python.h beside it.
        into: where the wheel goes.
        work: a folder that is not there yet.
    """
    work.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    (source,) = (path for path in work.iterdir() if path.is_dir())
    tools = _tools(python, source, work / "tools")
    built = work / "built"
    run(tools, "-c", _BUILD, built, cwd=source, **environment(foreign, work))
    (wheel,) = built.glob("*.whl")
    return wheels.named_for_glibc(wheel, into)


def _tools(python: Path, source: Path, home: Path) -> Path:
    """Return a Python that has what the build needs, of this processor."""
    project = tomllib.loads((source / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], project["tool"]["clusterdns"]["compiler"]]
    run(python, "-m", "venv", "--without-pip", home)
    wheels.install(home / "bin" / "python", *needed)
    return home / "bin" / "python"


def environment(foreign: Path, work: Path) -> dict[str, str]:
    """Return the variables that make Python build for the platform of another one."""
    root = foreign.parents[1]
    (configuration,) = root.glob(f"lib/python3.*/_sysconfigdata__{MACHINE}-linux-gnu.py")
    (work / "platform").mkdir()
    shutil.copy(configuration, work / "platform")
    return {
        "_PYTHON_HOST_PLATFORM": f"linux-{MACHINE}",
        "_PYTHON_SYSCONFIGDATA_NAME": configuration.stem,
        "PYTHONPATH": str(work / "platform"),
        "CC": _COMPILER,
        **wheels.COMPILED,
        # Before the folder of the Python that builds, which setuptools adds.
        "CFLAGS": f"{wheels.CFLAGS} -I{root}/include/{foreign.name} -I{root}/include",
    }
