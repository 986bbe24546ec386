"""Fragments: files found by a pattern in an `import`, left out if they have a mistake.

In k3s and AKS the Corefile imports files of a second ConfigMap, `custom/*.override` and
`custom/*.server`, which users write. A mistake in one leaves out only that file: ``settle`` tries
again without the file that an error names. If the error names no fragment - two directives that
exclude each other may be in different files - it starts without any, and adds them one by one in
the order of their import, which is that of their names.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from clusterdns.corefile.parser import Fragments
from clusterdns.errors import ConfigError

MAX_REFUSED = 100  # each costs an attempt
_T = TypeVar("_T")


def settle(attempt: Callable[[Fragments], _T]) -> tuple[_T, tuple[ConfigError, ...]]:
    """Return the result of ``attempt``, and the mistakes for which fragments were left out.

    Each mistake has the fragment as its file.

    Raises:
        ConfigError: of ``attempt``; no fragment causes it, or too many do.
    """
    fragments, refused = Fragments(), dict[str, ConfigError]()
    while True:
        fragments.left_out = set(refused)
        try:
            return attempt(fragments), tuple(refused.values())
        except ConfigError as error:
            found = {error.file: error} if error.file in fragments.found else {}
            found = found or _search(attempt, fragments, refused)
            if found.keys() <= refused.keys() or len(refused) >= MAX_REFUSED:
                raise
            refused |= found


def _search(
    attempt: Callable[[Fragments], _T], fragments: Fragments, refused: dict[str, ConfigError]
) -> dict[str, ConfigError]:
    """Return the mistakes of fragments that conflict with earlier ones.

    Raises:
        ConfigError: it fails without any fragment.
    """
    left_out = set(fragments.found)
    fragments.left_out = left_out
    attempt(fragments)
    found = dict[str, ConfigError]()
    for path in [each for each in fragments.found if each not in refused]:
        fragments.left_out = left_out - {path}
        try:
            attempt(fragments)
            left_out = fragments.left_out
        except ConfigError as error:
            found[path] = ConfigError(path, 0, "", f"with it: {error}")
            if len(found) >= MAX_REFUSED:
                break
    return found
