"""Classes of clients: those that get the same answers to the same questions.

A plugin whose answers depend on the client says which of its conditions hold for one
(``Classes.holding``). Clients for whom the same conditions hold are a class: an ``Asker``, the set
of these conditions, which a question carries. So ``answer`` may depend on the class, and each class
has a table of its own, see serving/classes.py. Most clients are in the class without a condition.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Protocol

Asker = frozenset[Hashable]
NOBODY: Final[Asker] = frozenset()  # no condition holds


class Classes(Protocol):
    """The part of a plugin that knows clients."""

    def holding(self, host: str) -> Iterable[Hashable]:
        """Return the conditions that hold for the client at an address in canonical text."""
