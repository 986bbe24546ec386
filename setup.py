"""The part of the build that pyproject.toml cannot describe: typed modules compiled by mypyc.

``CLUSTERDNS_COMPILE=1`` in the environment compiles the modules that pyproject.toml lists, of the
same source that Python runs otherwise. It takes a C compiler, Python.h, mypy, and a minute. An
editable install is never compiled, since compiled modules would hide later changes.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, setup

_COMMANDS = {"bdist_wheel", "build", "build_ext", "install"}


def compiled() -> list[Extension]:
    """Return the extensions that mypyc makes, none if nothing is to be compiled."""
    if os.environ.get("CLUSTERDNS_COMPILE") != "1" or not _COMMANDS & {*sys.argv}:
        return []
    from mypyc.build import mypycify

    project = tomllib.loads(Path("pyproject.toml").read_text())
    # The types of other packages are not needed, and not there where pip builds.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    found: list[Extension] = mypycify(
        [*options, *project["tool"]["clusterdns"]["compiled"]], group_name="clusterdns",
        opt_level="2", debug_level="0",
    )  # fmt: skip
    for extension in found:
        # A warning of another compiler than mypyc's authors have is no fault.
        extension.extra_compile_args = [
            each for each in extension.extra_compile_args if each != "-Werror"
        ]
        # Equal sources give equal octets, wherever they are built.
        extension.extra_link_args += ["-Wl,--strip-all", "-Wl,--build-id=none"]
    return found


setup(ext_modules=compiled())
