"""Fragments: files that a pattern in an `import` finds, each left out if it is mistaken.

In k3s and AKS the Corefile imports what users put into a second ConfigMap, `custom/*.override` and
`custom/*.server`. A mistake in one of them costs its own lines and nothing else: ``settle`` tries
without the file that an error names. If that is none of the fragments - two directives that exclude
each other may stand in different files - it tries without any, and takes them in one by one in the
order of their import, which is that of their names.

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
    """Return what ``attempt`` makes, and the mistakes for which fragments were left out.

    Each error names the fragment that was left out as its file.

    Raises:
        ConfigError: of ``attempt``; no fragment is to blame, or too many are.
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
    """Return the mistakes of fragments that do not fit together with those before them.

    Raises:
        ConfigError: it does not even do without any.
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
