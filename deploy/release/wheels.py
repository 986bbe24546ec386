"""The distributions: one wheel for each Python, compiled, a pure one, and the source distribution.

All of them are built of the source distribution, so what is published is what was built.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def interpreters() -> dict[str, Path]:
    """Return the Pythons that are here, or can be had, by version."""
    found = {}
    for version in PYTHONS:
        command = [str(ROOT / ".ci" / "python.sh"), version]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[version] = Path(done.stdout.strip())
    return found


def source(into: Path, epoch: int) -> Path:
    """Make the source distribution; its files are of the time of the commit."""
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--outdir",
        into,
        ROOT,
        SOURCE_DATE_EPOCH=str(epoch),
    )
    (found,) = into.glob("*.tar.gz")
    return found


def compiled(sdist: Path, python: Path, into: Path, work: Path) -> Path:
    """Make the wheel of one Python: the packet path in C, and the modules that mypyc compiles.

    auditwheel names the oldest glibc that it runs with (PEP 600).
    """
    built = _build(sdist, python, work, CLUSTERDNS_COMPILE="1")
    with zipfile.ZipFile(built) as archive:
        if not any("/_drain." in name for name in archive.namelist()):
            raise SystemExit(
                f"{built.name}: the packet path was not compiled; is there a C compiler?"
            )
    run(sys.executable, "-m", "auditwheel", "repair", "--strip", "--wheel-dir", into, built)
    tag = re.search(r"-(cp\d+)-", built.name)
    (found,) = into.glob(f"*-{tag and tag[1]}-*.whl")
    return found


def pure(sdist: Path, python: Path, into: Path, work: Path) -> Path:
    """Make the wheel for all other machines: a build whose compiler fails, said to be pure."""
    built = _build(sdist, python, work, CC="false", CLUSTERDNS_COMPILE="0")
    run(sys.executable, "-m", "wheel", "unpack", "--dest", work, built)
    (folder,) = [path for path in work.iterdir() if path.is_dir()]
    (about,) = folder.glob("*.dist-info/WHEEL")
    text = about.read_text().replace("Root-Is-Purelib: false", "Root-Is-Purelib: true")
    about.write_text(re.sub(r"^Tag: .*$", "Tag: py3-none-any", text, flags=re.MULTILINE))
    run(sys.executable, "-m", "wheel", "pack", "--dest-dir", into, folder)
    (found,) = into.glob("*-py3-none-any.whl")
    return found


def _build(sdist: Path, python: Path, work: Path, **environment: str) -> Path:
    """Build a wheel, alone in a folder."""
    work.mkdir(parents=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", *quiet, "--python", python, "wheel", "--no-deps",
        "--no-cache-dir", "--wheel-dir", work, sdist, **environment)  # fmt: skip
    (found,) = work.glob("*.whl")
    return found


def run(*command: str | Path, cwd: Path | str = ROOT, **environment: str) -> str:
    """Return what a command prints; a failure ends the release with its output."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{_shown(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _shown(command: Sequence[str | Path]) -> str:
    return " ".join(str(word) for word in command)
