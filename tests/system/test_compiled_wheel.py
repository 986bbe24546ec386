"""The compiled package: a wheel built with ``CLUSTERDNS_COMPILE=1``, and the tests run against it.

The wheel is built as pip builds it and installed into an environment of its own, which has the other
packages from ours. The tests that compare octets run there: case files through the table, the chain,
UDP and TCP, malformed packets, C beside Python, and the units of the wire path.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_packaging import copy_checkout, environment, run

from clusterdns.serving import native

# In half a minute; they start no process, but for the case files over UDP and TCP.
OF_THE_WIRE_PATH = (
    *(f"tests/wire/test_{name}.py" for name in ("cases", "denials", "spellings")),
    *(
        f"tests/unit/test_{name}.py"
        for name in (
            "asking", "batch", "external", "facts", "fresh", "kept", "nodes", "order", "response",
            "tally", "view",
        )
    ),
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(native.compiled is None, reason="no compiler: apt-get install gcc"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the checkout."""
    place = tmp_path_factory.mktemp("compiled")
    copy_checkout(place)
    return place


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERDNS_COMPILE", "1")
        # Of the same code; the time of the build is that of the tests.
        patch.setenv("CFLAGS", "-O1 -g0")
        command = ("-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps")
        run(sys.executable, *command, "--wheel-dir", place, place / "source")
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """The programs of an environment with the wheel before our own packages."""
    programs = environment(wheel.parent / "environment")
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check",
        "--python", programs / "python", "install", "--no-deps", "--no-compile", wheel)  # fmt: skip
    (packages,) = (programs.parent / "lib").glob("python*/site-packages")
    ours = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "others.pth").write_text("\n".join(ours) + "\n")
    shutil.rmtree(wheel.parent / "source" / "clusterdns")
    return programs


def test_the_wheel_has_machine_code_and_source(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if name.startswith("clusterdns__mypyc.")]
    assert [name for name in names if name.startswith("clusterdns/serving/table.c")]
    assert "clusterdns/serving/table.py" in names  # for tracebacks


def test_it_says_what_runs(programs, tmp_path):
    told = run(programs / "clusterdns", "-version", cwd=tmp_path).splitlines()
    assert "packet path: c, modules: compiled" == told[2]


def test_the_tests_of_the_wire_path_pass(programs):
    source = programs.parent.parent / "source"
    done = subprocess.run(
        [programs / "python", "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-m", "not peer and not slow",
         *OF_THE_WIRE_PATH],
        cwd=source, capture_output=True, text=True, check=False,
        env={**os.environ, "CI": ""},  # a test that cannot run there skips
    )  # fmt: skip
    assert not done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "100%" in done.stdout
