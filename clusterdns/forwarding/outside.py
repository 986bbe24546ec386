"""What `forward`, the relay and `loop` of one server block share.

`forward` enters its servers, the relay its queries under way, `loop` whether it has found a
forwarding loop, `bufsize` and `rewrite` what queries upstream contain. None of them knows the
others, and the order in which they are made does not matter.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container

from clusterdns.wire.message import Question

OWN_OCTETS = 1232  # what our queries allow a datagram: no fragments (DNS flag day 2020)


class Outside:
    """The servers that a block forwards to, the queries under way to them, and their loop."""

    def __init__(self) -> None:
        self.octets = OWN_OCTETS  # payload size in the OPT of our queries; `bufsize` lowers it
        self.options: set[int] = set()  # codes of the options that `rewrite edns0` sends upstream
        self.upstreams: set[str] = set()  # addresses of `forward`'s servers
        self.is_looping = False  # `loop` found that forwarded queries return
        self.is_suspect = False  # it found so, and the loop may still be there
        self.probes: Counter[bytes] = Counter()  # names of `loop`'s probes under way
        self.refresh_relay: Callable[[], None] = lambda: None
        self._relayed: list[Container[bytes]] = []  # questions under way, by pool of servers

    def is_broken(self, question: Question) -> bool:
        """Tell whether a query must not be forwarded, since it would return."""
        return self.is_looping and question.folded not in self.probes

    def add_relayed(self, questions: Container[bytes]) -> None:
        """Add the questions under way to one pool, which the relay keeps up to date."""
        if not any(questions is known for known in self._relayed):
            self._relayed.append(questions)

    def is_relayed(self, question: Question) -> bool:
        """Tell whether the relay has an equal question under way to any pool."""
        asked = question.key
        return any(asked in questions for questions in self._relayed)
