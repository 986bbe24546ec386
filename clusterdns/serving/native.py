"""The extension module, where it was compiled: ``_drain.c`` and the C files beside it.

Without it all is done in Python, with the same outcome; ``CLUSTERDNS_PURE=1`` in the environment
leaves it aside.
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
