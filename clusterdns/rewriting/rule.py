"""The base of rules, the state between rules, and the rules `type` and `class`.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Protocol

from clusterdns.rewriting.matching import RuleError, to_wire
from clusterdns.rewriting.replies import Revert
from clusterdns.wire import name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import ROOT, WireName

_TYPES = {text.upper(): number for number, text in rr.TYPE_TEXT.items() if number}
_CLASSES = {text: number for number, text in rr.CLASS_TEXT.items()}


class NeedsQueryError(Exception):
    """A rule depends on more than the question."""


class Relayed(Protocol):
    """The interface of ``chain.route.Route`` for rules."""

    def claim(self, zones: tuple[WireName, ...]) -> bool:
        """Leave names in ``zones`` to the chain; tell whether other names remain."""

    def leave(self, qtype: int) -> bool:
        """Leave questions of a type to the chain; return True, since other types remain."""


class State:
    """A question on its way through the rules; ``query`` is None in the chain from memory."""

    def __init__(self, question: Question, query: Query | None) -> None:
        self.question = question
        self.query = query
        self.reverts: list[Revert] = []
        self.edns = query.edns if query is not None else None
        self.is_done = False  # a rule has applied

    @property
    def text(self) -> str:
        """The name asked for, in lower case."""
        return name.text(self.question.folded)

    def rename(self, text: str) -> None:
        """Ask for another name. Raises BadNameError."""
        qname = to_wire(text)
        self.question = self.question._replace(qname=qname, folded=name.fold(qname))


class RewriteRule:
    """One rule; the names it matches are within ``scope``."""

    goes_on = False
    place = ""  # file:line
    scope = ROOT

    def apply(self, state: State) -> bool:
        """Apply the rule; tell whether it matched the question."""
        raise NotImplementedError

    def relay(self, route: Relayed) -> bool:
        """As ``Plugin.relay``."""
        return route.claim((self.scope,))

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether it matches all names below ``cut`` or none."""
        return not (name.is_within(self.scope, cut) or name.is_within(cut, self.scope))


class TypeRule(RewriteRule):
    """`type`."""

    def __init__(self, args: list[str]) -> None:
        self._old, self._new = _two(args, _TYPES, "type")

    def apply(self, state: State) -> bool:
        """Replace the type."""
        if state.question.qtype != self._old:
            return False
        state.question = state.question._replace(qtype=self._new)
        return True

    def relay(self, route: Relayed) -> bool:
        """Leave questions of the old type to the chain."""
        return route.leave(self._old)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: names do not matter."""
        return True


class ClassRule(RewriteRule):
    """`class`."""

    def __init__(self, args: list[str]) -> None:
        self._old, self._new = _two(args, _CLASSES, "class")

    def apply(self, state: State) -> bool:
        """Replace the class."""
        if state.question.qclass != self._old:
            return False
        state.question = state.question._replace(qclass=self._new)
        return True

    def relay(self, route: Relayed) -> bool:
        """Disable the relay if the rule is for class IN, the only class it takes."""
        return self._old != rr.CLASS_IN

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: names do not matter."""
        return True


def _two(args: list[str], known: dict[str, int], what: str) -> tuple[int, int]:
    """Return two mnemonics as numbers. Raises RuleError."""
    if len(args) != 2:
        raise RuleError(f"{what} rules must have exactly two arguments")
    for word in args:
        if word.upper() not in known:
            raise RuleError(f"invalid {what}", word)
    return known[args[0].upper()], known[args[1].upper()]
