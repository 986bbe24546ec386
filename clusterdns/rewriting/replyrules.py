"""`ttl`, `rcode` and `cname` rules, which change replies and not the question.

(CoreDNS: plugin/rewrite/ttl.go, rcode.go, cname_target.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import re

from clusterdns.rewriting.matching import (
    EXACT,
    MATCH_TYPES,
    REGEX,
    Matcher,
    RuleError,
    matcher,
    normal,
)
from clusterdns.rewriting.replies import Alias, Rcode, Revert, Ttl
from clusterdns.rewriting.rule import Relayed, RewriteRule, State
from clusterdns.wire import rr
from clusterdns.wire.name import WireName

_RCODES = rr.RCODES | {"NOTIMPL": rr.NOTIMP}
_MAX_RCODE = 23
_MAX_TTL, _MAX_OPEN_TTL = 2**32 - 1, 2**31 - 1  # CoreDNS: ttl.go isValidTTL


class ReplyRule(RewriteRule):
    """`ttl` and `rcode`: changes replies to questions about some names."""

    def __init__(self, match: Matcher, revert: Revert) -> None:
        self._match, self._revert = match, revert
        self.scope = match.scope

    def apply(self, state: State) -> bool:
        """Note the change for the reply."""
        if self._match.groups(state.text) is None:
            return False
        state.reverts.append(self._revert)
        return True


def ttl_rule(args: list[str]) -> RewriteRule:
    """Return the rule of ``[TYPE] NAME SECONDS``. Raises RuleError."""
    if not 2 <= len(args) <= 3:
        raise RuleError(f"a ttl rule takes two or three arguments, got {len(args)}")
    bounds = re.fullmatch(r"([0-9]*)(-?)([0-9]*)", args[-1], re.ASCII)
    if bounds is None or not (bounds[1] or bounds[3]):
        raise RuleError("invalid TTL for a ttl rule", args[-1])
    least = int(bounds[1][:11] or 0)
    most = int(bounds[3][:11] or _MAX_OPEN_TTL) if bounds[2] else least
    if max(least, most) > _MAX_TTL or least > most:
        raise RuleError("invalid TTL for a ttl rule", args[-1])
    return ReplyRule(matcher_of(args[:-1], "ttl"), Ttl(least, most))


def rcode_rule(args: list[str]) -> RewriteRule:
    """Return the rule of ``[TYPE] NAME FROM TO``. Raises RuleError."""
    if not 3 <= len(args) <= 4:
        raise RuleError(f"a rcode rule takes three or four arguments, got {len(args)}")
    old, new = (_rcode(word) for word in args[-2:])
    return ReplyRule(matcher_of(args[:-2], "rcode"), Rcode(old, new))


def matcher_of(args: list[str], what: str) -> Matcher:
    """Return the matcher of ``[TYPE] NAME``. Raises RuleError."""
    match_type = args[0].lower() if len(args) == 2 else EXACT
    if match_type not in MATCH_TYPES:
        raise RuleError(f"a {what} rule is one of {', '.join(MATCH_TYPES)}", args[0])
    return matcher(match_type, args[-1])


def _rcode(word: str) -> int:
    if word.isascii() and word.isdigit() and int(word[:9]) <= _MAX_RCODE:
        return int(word)
    if word.upper() not in _RCODES:
        raise RuleError("invalid RCODE for a rcode rule", word)
    return _RCODES[word.upper()]


class AliasRule(RewriteRule):
    """`cname`."""

    def __init__(self, args: list[str]) -> None:
        if not 2 <= len(args) <= 3:
            raise RuleError(f"a cname rule takes two or three arguments, got {len(args)}")
        match_type = args[0].lower() if len(args) == 3 else EXACT
        if match_type not in MATCH_TYPES:
            raise RuleError("unknown cname rewrite type", args[0])
        source, self._to = args[-2].lower(), args[-1].lower()
        if match_type == EXACT:
            self._to = normal(self._to)
        self._match = matcher(match_type, source)
        if match_type != REGEX:
            operand = normal(source) if match_type == EXACT else source
            self._match = self._match._replace(operand=operand)
        self._is_empty = not (source and self._to)

    def apply(self, state: State) -> bool:
        """Note the change for the aliases of the reply."""
        if self._is_empty:
            return False
        rewrite = functools.partial(self._match.replace, replacement=self._to)
        state.reverts.append(Alias(rewrite, state.question))
        return True

    def relay(self, route: Relayed) -> bool:
        """Disable the relay: any reply may have the alias."""
        return False

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: the names of questions do not matter."""
        return True
