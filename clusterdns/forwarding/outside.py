"""Names outside, as the plugins of one server block tell each other of them.

`forward` enters its servers, the relay the queries that are under way without the chain, and `loop`
whether a forwarding loop is known. None of them knows the others, or who was made first.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container

from clusterdns.wire.message import Question


class Outside:
    """The servers that a block forwards to, the queries under way to them, and their loop."""

    def __init__(self) -> None:
        self.upstreams: set[str] = set()  # `forward`: addresses that names are forwarded to
        self.is_looping = False  # `loop` found that what is forwarded comes back
        self.is_suspect = False  # it did, and does not know yet that the loop is gone
        self.probes: Counter[bytes] = Counter()  # names that `loop` tests with, under way here
        self.refresh_relay: Callable[[], None] = lambda: None
        self._relayed: list[Container[bytes]] = []  # questions under way, for each pool of servers

    def is_broken(self, question: Question) -> bool:
        """Tell whether a query for this must not go out: it would come back."""
        return self.is_looping and question.folded not in self.probes

    def add_relayed(self, questions: Container[bytes]) -> None:
        """Take in the questions that the relay has under way to one pool, kept up by the relay."""
        if not any(questions is known for known in self._relayed):
            self._relayed.append(questions)

    def is_relayed(self, question: Question) -> bool:
        """Tell whether the relay has an equal question under way, to whichever pool."""
        asked = question.folded_wire
        return any(asked in questions for questions in self._relayed)
