"""The distributions: one wheel for each Python, compiled, a pure one, and the source distribution.

All of them are built of the source distribution, so what is published is what was built. Equal
sources give equal files.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The flags of every Python, which keep those of their builders; as the image is compiled.
CFLAGS = "-O2 -g0 -DNDEBUG -fwrapv"
# mypyc walks sets; of symbols only the dynamic ones are kept.
COMPILED = {
    "CLUSTERDNS_COMPILE": "1",
    "PYTHONHASHSEED": "0",
    "CFLAGS": CFLAGS,
    "LDFLAGS": "-Wl,--strip-all -Wl,--build-id=none",
}
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def interpreters(*architecture: str) -> dict[str, Path]:
    """Return the Pythons that are here, or can be had, by version."""
    found = {}
    for version in PYTHONS:
        command = [str(ROOT / ".ci" / "python.sh"), version, *architecture]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[version] = Path(done.stdout.strip())
    return found


def source(into: Path, epoch: int) -> Path:
    """Make the source distribution; its files are root's, and of the time of the commit."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", into, ROOT)
    (found,) = into.glob("*.tar.gz")
    make_equal(found, epoch)
    return found


def make_equal(archive: Path, epoch: int) -> None:
    """Write a compressed tar again, without what differs from one checkout to the next."""
    plain = io.BytesIO()
    with tarfile.open(archive) as before, tarfile.open(fileobj=plain, mode="w") as after:
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch, {}
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            after.addfile(member, before.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(plain.getvalue(), 9, mtime=epoch))


def compiled(sdist: Path, python: Path, into: Path, work: Path) -> Path:
    """Make the wheel of one Python: the packet path in C, and the modules that mypyc compiles."""
    return named_for_glibc(_build(sdist, python, work, **COMPILED), into)


def named_for_glibc(built: Path, into: Path) -> Path:
    """Put a compiled wheel where it goes, named for the oldest glibc it runs with (PEP 600)."""
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    for module, path in (("packet path", "serving/_drain."), ("typed modules", "wire/name.c")):
        if not any(name.startswith(f"clusterdns/{path}") and ".so" in name for name in names):
            raise SystemExit(f"{built.name}: no compiled {module}; is there a C compiler?")
    tag = re.search(r"-(cp\d+)-.*_([a-z]+\d+(?:_64)?)\.whl$", built.name)
    assert tag, built.name
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", into, built)
    (found,) = into.glob(f"*-{tag[1]}-*_{tag[2]}.whl")
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


def install(python: Path, *arguments: str | Path) -> None:
    """Install packages into the environment of an interpreter."""
    run(*_PIP, "--python", python, "install", *arguments)


def _build(sdist: Path, python: Path, work: Path, **environment: str) -> Path:
    """Build a wheel, alone in a folder."""
    work.mkdir(parents=True)
    run(*_PIP, "--python", python, "wheel", "--no-deps", "--no-cache-dir",
        "--wheel-dir", work, sdist, **environment)  # fmt: skip
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
