"""The build backend: setuptools, and mypyc if ``CLUSTERDNS_COMPILE=1`` is in the environment.

pip builds in an environment of its own and asks here what that needs. Only a build that compiles
the typed modules needs mypy; see setup.py.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return the packages that a wheel is built with, besides those of pyproject.toml."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    if os.environ.get("CLUSTERDNS_COMPILE") != "1":
        return needed
    project = tomllib.loads(Path("pyproject.toml").read_text())
    return [*needed, project["tool"]["clusterdns"]["compiler"]]
