"""Makes a release in a folder and tries all of it: `make release`.

Wheels (one for each Python and processor, compiled, and a pure one), the source distribution, the
image for two architectures as an OCI archive, the list of its parts (SPDX), the provenance (SLSA),
SHA-256 sums. Takes root for the image, C compilers, and package registries. The source
distribution, the pure wheel and the image are made twice, and must be the same.

    release.py OUT [wheels|image]...
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import cross
import image
import papers
import trial
import wheels
from wheels import ROOT, run

from clusterdns import __version__

_PARTS = ("wheels", "image")


def main(arguments: list[str]) -> None:
    """Make the parts that are named, or all."""
    out = Path(arguments[0])
    wanted = arguments[1:] or _PARTS
    if unknown := {*wanted} - {*_PARTS}:
        raise SystemExit(f"release.py: no part is called {', '.join(sorted(unknown))}")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"{out}: is not empty")
    revision = run("git", "rev-parse", "HEAD").strip()
    epoch = int(run("git", "log", "-1", "--format=%ct"))
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)  # the date of all that tools write
    warn_of_what_is_no_release()
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if "wheels" in wanted:
            make_wheels(out, work, epoch)
        if "image" in wanted:
            digests = make_image(out, work, revision, epoch)
    files = sorted(out.iterdir())
    statement = out / f"clusterdns-{__version__}.intoto.json"
    statement.write_text(papers.provenance(files, digests, __version__, revision))
    files.append(statement)
    (out / "SHA256SUMS").write_text(papers.sums(files))
    print((out / "SHA256SUMS").read_text(), end="")


def warn_of_what_is_no_release() -> None:
    """Say what is missing to publish what is made now; it is made all the same, for a trial."""
    if run("git", "status", "--porcelain"):
        print(
            "warning: files differ from the commit; the provenance would be false", file=sys.stderr
        )
    changes = (ROOT / "CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(__version__)}\b", changes, re.MULTILINE):
        print(f"warning: CHANGELOG.md has no section {__version__}", file=sys.stderr)
    if f"v{__version__}" not in run("git", "tag", "--points-at", "HEAD").split():
        print(f"warning: the commit has no tag v{__version__}", file=sys.stderr)


def make_wheels(out: Path, work: Path, epoch: int) -> None:
    """Make and try the distributions."""
    pythons, foreign = wheels.interpreters(), cross.interpreters()
    for missing in {*wheels.PYTHONS} - {*pythons}:
        print(f"warning: no Python {missing} here, so no wheel for it", file=sys.stderr)
    for missing in {*wheels.PYTHONS} - {*foreign}:
        print(
            f"warning: no Python {missing} of {cross.ARCHITECTURE}, so no wheel for it",
            file=sys.stderr,
        )
    sdist = wheels.source(out, epoch)
    for version, python in pythons.items():
        built = wheels.compiled(sdist, python, out, work / version)
        print(f"{built.name}: {_one_line(trial.wheel(built, python))}", flush=True)
    for version in pythons.keys() & foreign.keys():
        place = work / f"{version}-{cross.ARCHITECTURE}"
        built = cross.compiled(sdist, pythons[version], foreign[version], out, place)
        print(
            f"{built.name}: {_one_line(trial.foreign_wheel(built, foreign[version]))}", flush=True
        )
    newest = pythons[max(pythons, key=wheels.PYTHONS.index)]
    built = wheels.pure(sdist, newest, out, work / "pure")
    print(f"{built.name}: {_one_line(trial.wheel(built, newest))}", flush=True)
    compare_with_another_build(out, work / "again", newest, epoch)


def compare_with_another_build(out: Path, work: Path, python: Path, epoch: int) -> None:
    """Make what is not compiled again; whoever builds the commit must get the same octets.

    Under pip mypyc makes another module each time; the image, built without pip, is compared.
    """
    again = work / "out"
    again.mkdir(parents=True)
    sdist = wheels.source(again, epoch)
    wheels.pure(sdist, python, again, work / "pure")
    for path in sorted(again.iterdir()):
        if path.read_bytes() != (out / path.name).read_bytes():
            raise SystemExit(f"two builds of {path.name} differ")
        print(f"{path.name}: built twice, the same", flush=True)


def make_image(out: Path, work: Path, revision: str, epoch: int) -> dict[str, str]:
    """Make, try and describe the image; return its name and digest."""
    archive = out / f"clusterdns-{__version__}.oci.tar"
    digests = []
    for attempt in ("first", "second"):
        roots = {}
        for architecture in image.ARCHITECTURES:
            place = work / attempt / architecture
            roots[architecture] = image.assemble(architecture, place, epoch)
        digests.append(image.pack(roots, __version__, revision, epoch, archive))
        if attempt == "first":
            for architecture, root in roots.items():
                print(f"image {architecture}: {_one_line(trial.image(root, architecture))}")
        shutil.rmtree(work / attempt)
    if digests[0] != digests[1]:
        raise SystemExit(f"two builds of the image differ: {digests}")
    for architecture in image.ARCHITECTURES:
        found = papers.parts(image.debian_packages(architecture))
        document = papers.sbom(__version__, revision, epoch, found)
        (out / f"clusterdns-{__version__}-{architecture}.spdx.json").write_text(document)
    return {f"clusterdns:{__version__}": digests[0]}


def _one_line(text: str) -> str:
    return ", ".join(text.split("\n")).rstrip(", ")


if __name__ == "__main__":
    main(sys.argv[1:])
