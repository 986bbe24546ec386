"""The loader of the C extension: ``_drain.c`` and the C files beside it.

Without it, Python does all work with the same result. ``CLUSTERDNS_PURE=1`` in the environment
disables it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from types import ModuleType

compiled: ModuleType | None = None
if not os.environ.get("CLUSTERDNS_PURE"):
    with contextlib.suppress(ImportError):  # there was no compiler, or no Python.h
        compiled = importlib.import_module("clusterdns.serving._drain")
