"""Tries what was built: each wheel in an environment of its own, each image without an engine."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cross
import wheels
from wheels import ROOT, run

_NAME, _ADDRESS = "web.uit.svc.cluster.local", "10.96.1.1"
_PYTHON = "/usr/bin/python3.11"
_PATIENCE_S = 300


def wheel(built: Path, python: Path) -> str:
    """Install a wheel with all it depends on; return what `-version` says of it.

    Raises:
        SystemExit: it cannot be installed, `dig` gets no answer from its lab, or it runs another
            path than it was built for.
    """
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        run(python, "-m", "venv", "--without-pip", home)
        wheels.install(home / "bin" / "python", built)
        return _installed(built, home, [home / "bin" / "clusterdns"])


def foreign_wheel(built: Path, python: Path) -> str:
    """Do the same for a wheel of another processor, under qemu-user.

    pip runs outside, where it is fast, and chooses packages for that processor.
    """
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        emulated: list[str | Path] = [cross.EMULATOR, home / "bin" / "python"]
        run(cross.EMULATOR, python, "-m", "venv", "--without-pip", home)
        version = python.name.removeprefix("python")
        glibcs = [f"--platform=manylinux_2_{minor}_{cross.MACHINE}" for minor in range(17, 37)]
        platforms = [f"--platform=manylinux2014_{cross.MACHINE}", *glibcs]
        packages = home / "lib" / python.name / "site-packages"
        wheels.install(Path(sys.executable), "--only-binary", ":all:", "--python-version", version,
                       *platforms, "--no-compile", "--target", packages, built)  # fmt: skip
        shutil.move(packages / "share", home / "share")
        return _installed(built, home, [*emulated, "-m", "clusterdns"])


def _installed(built: Path, home: Path, program: list[str | Path]) -> str:
    """Return what `-version` says of an installed wheel, after `dig` got its answer."""
    said = run(*program, "-version", cwd=home)
    pure = built.name.endswith("-none-any.whl")
    paths = ("python", "python") if pure else ("c", "compiled")
    if "packet path: {}, modules: {}".format(*paths) not in said:
        raise SystemExit(f"{built.name}: should run {paths}, says: {said}")
    zones = home / "share" / "clusterdns" / "zones"
    with _started([*program, *_arguments(zones, home)]) as port:
        _ask(port, built.name)
    return said


def image(root: Path, architecture: str) -> str:
    """Start an image, under qemu-user if its processor is another one, without changing it.

    Raises:
        SystemExit: `dig` gets no answer from its lab.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "root"
        run("cp", "-a", root, copy)
        emulator: list[str] = []
        foreign = architecture != run("dpkg", "--print-architecture").strip()
        if foreign and architecture == cross.ARCHITECTURE:
            shutil.copy(shutil.which(cross.EMULATOR) or "", copy / "qemu")
            emulator = ["/qemu"]
        zones = Path("/usr/local/share/clusterdns/zones")
        arguments = _arguments(zones, copy, inside=True)
        python = [*emulator, _PYTHON, "-I", "-m", "clusterdns"]
        mount = (
            f"mount -t proc proc {copy}/proc && mount --rbind /dev {copy}/dev"
            f' && exec chroot {copy} "$@"'
        )
        inside = ["unshare", "--mount", "sh", "-c", mount, "sh", *python]
        said = run(*inside, "-version")
        with _started([*inside, *arguments]) as port:
            _ask(port, architecture)
    return said


def _arguments(zones: Path, home: Path, *, inside: bool = False) -> list[str]:
    """Write a Corefile of the lab without HTTP ports; return the arguments that name it."""
    text = (
        f". {{\n errors\n kubernetes cluster.local in-addr.arpa {{\n"
        f"  manifests {zones}/cluster\n }}\n cache 30\n}}\n"
    )
    (home / "Corefile").write_text(text)
    return ["-conf", "/Corefile" if inside else str(home / "Corefile"), "-p"]


@contextlib.contextmanager
def _started(command: list[str | Path]) -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, cwd=ROOT.anchor)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _ask(port: int, what: str) -> None:
    """Ask until there is an answer: an emulated start takes half a minute or more."""
    command = ["dig", "+short", "+time=1", "+tries=1", "@127.0.0.1", "-p", str(port), _NAME]
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip() == _ADDRESS:
            return
        time.sleep(0.5)
    raise SystemExit(f"{what}: no answer: {done.stdout}{done.stderr}")
