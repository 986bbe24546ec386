"""Label selectors in the API server's text form, as ``labels`` and ``namespace_labels`` take them.

``app=web,tier!=cache,env in (a, b),zone notin (c),gpu,!old`` (Kubernetes: labels and selectors).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"\s*(?:"
    rf"(?P<absent>!)\s*(?P<absent_key>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE}))?"
    rf")\s*(?:,|$)"
)


class Requirement(NamedTuple):
    """One term: ``key`` must have one of ``values``, or exist if they are None; or negated."""

    key: str
    values: tuple[str, ...] | None
    is_negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an object with ``labels`` meets this term."""
        if self.values is None:
            return (self.key in labels) is not self.is_negated
        return (labels.get(self.key) in self.values) is not self.is_negated


Selector = tuple[Requirement, ...]


def parse(text: str) -> Selector:
    """Return the terms of a selector; all of them must be met.

    Raises:
        ValueError: the text is not a selector.
    """
    found: list[Requirement] = []
    i = 0
    while i < len(text):
        match = _REQUIREMENT.match(text, i)
        if match is None or match.end() == i:
            raise ValueError(f"bad label selector at {text[i:]!r}")
        found.append(_requirement(match))
        i = match.end()
    if text.rstrip().endswith(","):
        raise ValueError(f"bad label selector: {text!r} ends in a comma")
    return tuple(found)


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["absent_key"], None, True)
    if match["set"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        return Requirement(match["key"], values, match["set"] == "notin")
    if match["operator"]:
        return Requirement(match["key"], (match["value"],), match["operator"] == "!=")
    return Requirement(match["key"], None, False)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether ``labels`` meet every term of ``selector``; all labels meet an empty one."""
    return all(requirement.matches(labels) for requirement in selector)
