"""The rules of `policy`: for whom, about which names and types, and which one decides.

``Rules.judge`` goes through the rules in the order of the text; the first that matches decides. A
client is known by its class alone, which is the set of the conditions that hold for it
(chain/classes.py): a ``Whom`` of a rule, ``Own`` of its namespace, or ``UNSYNCED``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from clusterdns.chain.classes import Asker
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

ALLOW, NXDOMAIN, REFUSE, REWRITE, SERVFAIL = "allow", "nxdomain", "refuse", "rewrite", "servfail"


class Own(NamedTuple):
    """The condition that a client is in a namespace."""

    namespace: str


# The condition that the namespaces of clients are not known yet.
UNSYNCED: Final[Hashable] = "unsynced"


class Patterns:
    """Names of namespaces, in which `*` stands for any letters."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = frozenset(texts)
        parts = (".*".join(map(re.escape, text.split("*"))) for text in texts)
        self._expression = re.compile("|".join(parts))

    def __contains__(self, namespace: object) -> bool:
        """Tell whether a namespace matches one of the patterns."""
        return isinstance(namespace, str) and self._expression.fullmatch(namespace) is not None

    def covers(self, other: Patterns) -> bool:
        """Tell whether all that ``other`` matches is surely matched."""
        return all(text in self.texts or ("*" not in text and text in self) for text in other.texts)


class Whom:
    """The clients of a rule, and the condition that one of them asks: equal to itself only."""

    def __init__(
        self, namespaces: Patterns | None, networks: Container[str], *, is_unknown: bool, text: str
    ) -> None:
        self.namespaces = namespaces
        self._networks = networks
        self._is_unknown = is_unknown
        self.text = text  # equal texts are equal conditions
        self.needs_namespace = namespaces is not None or is_unknown

    def holds(self, host: str, namespace: str | None) -> bool:
        """Tell whether a client is meant; its namespace is None if it is unknown."""
        if namespace is None and self._is_unknown:
            return True
        if namespace is not None and self.namespaces is not None and namespace in self.namespaces:
            return True
        return self.has_network(host)

    def has_network(self, host: str) -> bool:
        """Tell whether a client is meant by its address."""
        return host in self._networks


class Target(NamedTuple):
    """The names of a rule: those in namespaces, in the client's own, and in zones."""

    namespaces: Patterns | None
    is_own: bool
    zones: tuple[WireName, ...]


class Rule(NamedTuple):
    """One line; None for ``whom``, ``target`` or ``types`` is all of them."""

    action: str
    whom: Whom | None
    target: Target | None
    types: frozenset[int] | None
    place: str  # file:line
    name: bytes = b""  # that REWRITE leads to

    @property
    def hides(self) -> bool:
        """Whether it keeps the records of its names from clients."""
        return self.action != ALLOW

    def is_about(self, qtype: int) -> bool:
        """Tell whether a type is meant; a rule that hides one type hides it from ANY, too."""
        return self.types is None or qtype in self.types or (qtype == rr.ANY and self.hides)


class Verdict(NamedTuple):
    """The rule that decides, None where none does, and whether that depends on the client."""

    rule: Rule | None
    depends: bool

    @property
    def hides(self) -> bool:
        """Whether the client may not see the name as it is."""
        return self.rule is not None and self.rule.hides


class Rules:
    """The rules of one server block.

    ``namespace_of`` returns the namespace of a folded name, None if it is in none.
    """

    def __init__(
        self, rules: Iterable[Rule], namespace_of: Callable[[WireName], str | None]
    ) -> None:
        self.rules = tuple(rules)
        self.has_own = any(rule.target and rule.target.is_own for rule in self.rules)
        self.whoms = tuple(dict.fromkeys(rule.whom for rule in self.rules if rule.whom))
        self.needs_namespaces = self.has_own or any(each.needs_namespace for each in self.whoms)
        self._namespace_of = namespace_of

    def judge(self, folded: WireName, qtype: int, asker: Asker | None) -> Verdict | None:
        """Return the verdict on a name, None if it depends on the client, whom nobody has named.

        While the namespaces of clients are not known, the verdict that needs them is SERVFAIL, by
        the rule that would have decided.
        """
        depends, namespace = False, _Namespace(folded, self._namespace_of)
        for rule in self.rules:
            if not rule.is_about(qtype):
                continue
            is_own = False
            if rule.target is not None:
                is_named = _is_in(folded, rule.target, namespace)
                is_own = not is_named and rule.target.is_own and namespace.found is not None
                if not is_named and not is_own:
                    continue
            if is_own or rule.whom is not None:
                depends = True
                if asker is None:
                    return None
                if not _holds(rule, namespace.found if is_own else None, asker):
                    if UNSYNCED in asker and (is_own or _needs_namespace(rule)):
                        return Verdict(rule._replace(action=SERVFAIL), depends)
                    continue
            return Verdict(rule, depends)
        return Verdict(None, depends)

    def judge_transfer(
        self, zone: WireName, inside: Sequence[WireName], asker: Asker | None
    ) -> Verdict | None:
        """Return the verdict on a whole zone: by the first rule that hides a name of it.

        ``inside`` are the zones with namespaces.
        """
        depends = False
        for rule in self.rules:
            is_all = rule.target is None and rule.types is None
            if not is_all and (not rule.hides or not _is_part(zone, rule.target, inside)):
                continue
            if rule.whom is not None:
                depends = True
                if asker is None:
                    return None
                is_early = UNSYNCED in asker and rule.whom.needs_namespace
                if rule.whom not in asker and not (rule.hides and is_early):
                    continue
            return Verdict(rule._replace(action=REFUSE) if rule.hides else rule, depends)
        return Verdict(None, depends)

    def unreached(self) -> Iterator[tuple[Rule, Rule]]:
        """Yield rules that can never decide, with the one before that takes all they mean."""
        for i, rule in enumerate(self.rules):
            before = next((each for each in self.rules[:i] if _covers(each, rule)), None)
            if before is not None:
                yield rule, before


class _Namespace:
    """The namespace of a name, found out when it is wanted."""

    def __init__(self, folded: WireName, find: Callable[[WireName], str | None]) -> None:
        self._folded, self._find = folded, find
        self._found: tuple[str | None] | None = None

    @property
    def found(self) -> str | None:
        if self._found is None:
            self._found = (self._find(self._folded),)
        return self._found[0]


def _is_in(folded: WireName, target: Target, namespace: _Namespace) -> bool:
    """Tell whether a name is in a zone of a target, or in a namespace that it names."""
    if name.is_within_any(folded, target.zones):
        return True
    return target.namespaces is not None and namespace.found in target.namespaces


def _holds(rule: Rule, own: str | None, asker: Asker) -> bool:
    """Tell whether a client is meant by a rule, and is in its ``own`` namespace, if that counts."""
    if own is not None and Own(own) not in asker:
        return False
    return rule.whom is None or rule.whom in asker


def _needs_namespace(rule: Rule) -> bool:
    return rule.whom is not None and rule.whom.needs_namespace


def _is_part(zone: WireName, target: Target | None, inside: Sequence[WireName]) -> bool:
    """Tell whether some names of a zone may be meant by a target."""
    if target is None:
        return True
    meant = [*target.zones]
    if target.namespaces is not None or target.is_own:
        meant += inside
    return any(name.is_within(zone, each) or name.is_within(each, zone) for each in meant)


def _covers(first: Rule, later: Rule) -> bool:
    """Tell whether a rule surely matches all that a later one does."""
    if first.types is not None and (later.types is None or not later.types <= first.types):
        return False
    if first.whom is not None and (later.whom is None or later.whom is not first.whom):
        return False
    if first.target is None:
        return True
    return later.target is not None and _covers_names(first.target, later.target)


def _covers_names(first: Target, later: Target) -> bool:
    if later.is_own and not first.is_own:
        return False
    if not all(name.is_within_any(zone, first.zones) for zone in later.zones):
        return False
    if later.namespaces is None:
        return True
    return first.namespaces is not None and first.namespaces.covers(later.namespaces)
