"""The parser of rules.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clusterdns.rewriting.matching import RuleError
from clusterdns.rewriting.namerule import NameRule
from clusterdns.rewriting.optionrule import OptionRule
from clusterdns.rewriting.replyrules import AliasRule, rcode_rule, ttl_rule
from clusterdns.rewriting.rule import ClassRule, RewriteRule, TypeRule

_MAKERS: dict[str, Callable[[list[str]], RewriteRule]] = {
    "name": NameRule, "type": TypeRule, "class": ClassRule, "ttl": ttl_rule,
    "rcode": rcode_rule, "cname": AliasRule, "edns0": OptionRule,
}  # fmt: skip


def parse(words: Sequence[str]) -> RewriteRule:
    """Return the rule of ``[continue|stop] FIELD ARGUMENTS...``.

    Raises:
        RuleError: they are invalid.
    """
    if not words:
        raise RuleError("no rule type specified")
    mode = words[0].lower()
    if mode in ("continue", "stop"):
        words = words[1:]
        if not words:
            raise RuleError(f"{mode} rule must begin with a rule type")
    field, *rest = words
    if field.lower() == "answer":
        raise RuleError("response rewrites must begin with a name rule", field)
    if field.lower() not in _MAKERS:
        raise RuleError("invalid rule type", field)
    rule = _MAKERS[field.lower()](rest)
    rule.goes_on = mode == "continue"
    return rule
