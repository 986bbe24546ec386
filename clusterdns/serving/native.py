"""The loader of the C extension, and the answer to which parts of this server are compiled.

The extension is ``_drain.c`` and the C files beside it. Without it, Python does all work with the
same result. ``CLUSTERDNS_PURE=1`` in the environment disables it. Other modules may be compiled by
mypyc, see setup.py.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from types import ModuleType
from typing import NamedTuple

from clusterdns.serving import table

compiled: ModuleType | None = None
if not os.environ.get("CLUSTERDNS_PURE"):
    with contextlib.suppress(ImportError):  # there was no compiler, or no Python.h
        compiled = importlib.import_module("clusterdns.serving._drain")


class Build(NamedTuple):
    """How this server was built: ``packet_path`` is c or python, ``modules`` compiled or python."""

    packet_path: str
    modules: str


def build() -> Build:
    """Return how the server that runs was built."""
    is_python = (table.__file__ or "").endswith(".py")
    return Build(
        "python" if compiled is None else "c",
        "python" if is_python else "compiled",  # all of the modules, or none: see setup.py
    )
