"""The rules of `policy`: for whom, about which names and types, and which one decides.

``Rules.judge`` goes through the rules in the order of the text; the first that matches decides. A
client is known by its class alone, which is the set of the conditions that hold for it
(chain/classes.py): a ``Whom`` of a rule, ``Own`` of its namespace, or ``Early``. A condition is of
one ``Rules`` only: other server blocks of a listener may be of another cluster.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from clusterdns.chain.classes import Asker
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

ALLOW, NXDOMAIN, REFUSE, REWRITE, SERVFAIL = "allow", "nxdomain", "refuse", "rewrite", "servfail"


class Own(NamedTuple):
    """The condition that a client is in a namespace of the cluster that ``rules`` are about."""

    rules: Hashable
    namespace: str


class Early(NamedTuple):
    """The condition that ``rules`` do not know the namespaces of clients yet."""

    rules: Hashable


class Patterns:
    """Names of namespaces, in which `*` stands for any letters."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = frozenset(texts)
        parts = (".*".join(map(re.escape, text.split("*"))) for text in texts)
        self._expression = re.compile("|".join(parts))

    def __contains__(self, namespace: object) -> bool:
        """Tell whether a namespace matches one of the patterns."""
        return isinstance(namespace, str) and self._expression.fullmatch(namespace) is not None

    @property
    def has_all(self) -> bool:
        """Whether all namespaces match."""
        return "*" in self.texts

    def covers(self, other: Patterns) -> bool:
        """Tell whether all that ``other`` matches is surely matched."""
        return self.has_all or all(
            text in self.texts or ("*" not in text and text in self) for text in other.texts
        )


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

    @property
    def has_namespaces(self) -> bool:
        """Whether names are meant because of their namespace."""
        return self.is_own or self.namespaces is not None


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
        self.early = Early(self)

    def own(self, namespace: str) -> Own:
        """Return the condition that a client is in a namespace."""
        return Own(self, namespace)

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
                if not self._holds(rule, namespace.found if is_own else None, asker):
                    if self.early in asker and (is_own or _needs_namespace(rule)):
                        return Verdict(rule._replace(action=SERVFAIL), depends)
                    continue
            return Verdict(rule, depends)
        return Verdict(None, depends)

    def judge_transfer(
        self, zone: WireName, inside: Sequence[WireName], asker: Asker | None
    ) -> Verdict | None:
        """Return the verdict on a whole zone: by the first rule that hides a name of it.

        ``inside`` are the zones with namespaces. Their reverse zones tell of names in all of them.
        """
        depends, allowed = False, list[Rule]()
        is_reverse = name.is_within_any(zone, name.REVERSE_ZONES)
        for rule in self.rules:
            if rule.hides and not _is_part(zone, rule.target, inside, is_reverse=is_reverse):
                continue
            if rule.whom is not None:
                depends = True
                if asker is None:
                    return None
                is_early = self.early in asker and rule.whom.needs_namespace
                if rule.whom not in asker and not (rule.hides and is_early):
                    continue
            if rule.hides and not any(_covers_names(each, rule) for each in allowed):
                return Verdict(rule._replace(action=REFUSE), depends)
            if not rule.hides and rule.types is None:
                if not is_reverse and _has_all_of(rule.target, zone):
                    return Verdict(rule, depends)
                allowed.append(rule)
        return Verdict(None, depends)

    def unreached(self) -> Iterator[tuple[Rule, Rule]]:
        """Yield rules that can never decide, with the one before that takes all they mean."""
        for i, rule in enumerate(self.rules):
            before = next((each for each in self.rules[:i] if _covers(each, rule)), None)
            if before is not None:
                yield rule, before

    def _holds(self, rule: Rule, own: str | None, asker: Asker) -> bool:
        """Tell whether a rule means a client, who is in its ``own`` namespace, if that counts."""
        if own is not None and self.own(own) not in asker:
            return False
        return rule.whom is None or rule.whom in asker


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


def _needs_namespace(rule: Rule) -> bool:
    return rule.whom is not None and rule.whom.needs_namespace


def _is_part(
    zone: WireName, target: Target | None, inside: Sequence[WireName], *, is_reverse: bool
) -> bool:
    """Tell whether some names that the records of a zone tell of may be meant by a target."""
    if target is None:
        return True
    meant = [*target.zones]
    if target.has_namespaces:
        meant += inside
    told = [zone, *(inside if is_reverse else ())]
    return any(name.is_within(a, b) or name.is_within(b, a) for a in told for b in meant)


def _has_all_of(target: Target | None, zone: WireName) -> bool:
    return target is None or name.is_within_any(zone, target.zones)


def _covers(first: Rule, later: Rule) -> bool:
    """Tell whether a rule surely matches all that a later one does."""
    if first.types is not None:
        if later.types is None or not later.types <= first.types:
            return False
        if later.hides and not first.hides:  # of them, only the later one is about ANY
            return False
    if first.whom is not None and later.whom is not first.whom:
        return False
    return _covers_names(first, later)


def _covers_names(first: Rule, later: Rule) -> bool:
    """Tell whether a rule is surely about all names of a later one."""
    mine, theirs = first.target, later.target
    if mine is None or theirs is None:
        return mine is None
    has_all = mine.namespaces is not None and mine.namespaces.has_all
    if theirs.is_own and not mine.is_own and not has_all:
        return False
    if not all(name.is_within_any(zone, mine.zones) for zone in theirs.zones):
        return False
    if theirs.namespaces is None:
        return True
    return mine.namespaces is not None and mine.namespaces.covers(theirs.namespaces)
