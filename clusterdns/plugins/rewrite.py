r"""rewrite - change questions before the plugins behind see them, and their replies.

Syntax:

    rewrite [continue|stop] FIELD [TYPE] FROM TO [OPTIONS...]

Rules are tried in the order of the file, each on what those before it have left. One that applies
ends it, unless it says `continue`. The words of a rule may also stand in a block, behind one word
at most. A client always gets its own question back.

* `name [exact|prefix|suffix|substring|regex] FROM TO`: the name. `{0}`, `{1}`... in TO are what the
  groups of a regular expression match. With `metadata` behind the TO of a `regex`,
  `{plugin/label}` is a label, and a rule without a value for it does not apply.
  Behind it may stand, each any number of times, `answer auto`: owners and names in the reply that
  are the new name, or below it, become the old one, which `exact` does unasked; for `suffix` those
  that end in TO end in FROM again. `answer name REGEX TO` rewrites owners, `answer value REGEX TO`
  the names that CNAME, DNAME, MX, NAPTR, NS, PTR, SOA and SRV records point to.
* `type FROM TO` and `class FROM TO`.
* `ttl [TYPE] NAME SECONDS`: the TTL of all records in replies about NAME; `MIN-MAX`, `MIN-` and
  `-MAX` are bounds.
* `rcode [TYPE] NAME FROM TO`: the RCODE of replies, by name or number.
* `cname [TYPE] FROM TO`: where an alias in a reply leads. What the new target has is looked up.
* `edns0 local|nsid|subnet set|append|replace|unset [OPTIONS...] [revert]`: the EDNS options of the
  query. `local CODE DATA` takes text, `0x` and hexadecimal digits, or one of `{qname}`, `{qtype}`,
  `{client_ip}`, `{client_port}`, `{protocol}`, `{server_ip}`, `{server_port}`, `{plugin/label}`;
  `subnet BITS4 BITS6` how much of a client's address is told. `revert` hides the change from the
  client.

Names are matched as text in lower case with a dot at the end; FROM and TO get one, but for those of
regular expressions (Go's) and of `cname`.

Examples:

    . {
        rewrite name suffix .corp.example .demo.svc.cluster.local answer auto
        rewrite stop {
            name regex (.*)\.us\.example\.org\.$ {1}.us.example.net
            answer name (.*)\.us\.example\.net\.$ {1}.us.example.org
        }
        rewrite continue ttl suffix example.net 30-300
        kubernetes cluster.local {
            manifests cluster
        }
        forward . 192.0.2.53
    }

Differences from CoreDNS: the question comes back also after `continue` rules without an answer
rule. A name that a reply cannot have makes it SERVFAIL, not silence. A client without EDNS gets no
OPT because `edns0` gave its query one. Options are echoed for `edns0 local` of the same server
block. `log` and the metrics tell what was asked, not what was made of it. Names are answered from
memory when they are asked again, unless labels or `edns0 local` are in it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import struct
from collections.abc import Callable, Generator
from typing import NamedTuple

from clusterdns.chain import metadata
from clusterdns.chain.asking import MAX_DEPTH, answer_by
from clusterdns.chain.plugin import DROP, AnswerNext, Block, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.languages.regexp import Regexp, RegexpError
from clusterdns.wire import name, rr
from clusterdns.wire.message import TC, Edns, Query, Question
from clusterdns.wire.name import ROOT, WireName
from clusterdns.wire.response import Response, failure, fit
from clusterdns.wire.rr import RR

EXACT, PREFIX, SUFFIX, SUBSTRING, REGEX = "exact", "prefix", "suffix", "substring", "regex"
_KINDS = (EXACT, PREFIX, SUFFIX, SUBSTRING, REGEX)
_ACTIONS = ("append", "replace", "set", "unset")
_TYPES = {text.upper(): number for number, text in rr.TYPE_TEXT.items() if number}
_CLASSES = {text: number for number, text in rr.CLASS_TEXT.items()}
# As miekg/dns spells them, which knows 16 by the name it has in TSIG.
_RCODES = {text: number for number, text in rr.RCODE_TEXT.items() if number != rr.BADVERS}
_RCODES |= {"NOTIMPL": rr.NOTIMP, "BADSIG": rr.BADVERS}
_MAX_RCODE = 23
_MAX_TTL, _MAX_OPEN_TTL = 2**32 - 1, 2**31 - 1  # CoreDNS: ttl.go isValidTTL
_NAPTR, _NSID, _SUBNET = 35, 3, 8
_OPT_OCTETS = 4096  # of the OPT a query gets (CoreDNS: edns0.go setupEdns0Opt)
# Options that miekg/dns knows by a type of their own, which `edns0 local` passes by.
_KNOWN_OPTIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15))
_VALUE_AT = {rr.SRV: 6, rr.MX: 2, rr.CNAME: 0, rr.NS: 0, rr.DNAME: 0, rr.SOA: 0, rr.PTR: 0}
_VARIABLES = frozenset(
    ("qname", "qtype", "client_ip", "client_port", "protocol", "server_ip", "server_port")
)
_PART_OF_REGEXP = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\{[0-9]+(?:,[0-9]*)?\}|.", re.DOTALL
)

_Text = Callable[[str], str]


class _NeedsQueryError(Exception):
    """What a rule does depends on more than the question."""


class _BadNameError(Exception):
    """A rule made a text that is no name."""


# ---- names


def _normal(text: str) -> str:
    """Return a name in lower case, with a dot at the end (CoreDNS: plugin.Name.Normalize)."""
    text = text.lower()
    escapes = re.search(r"(\\*)\.$", text)
    return text if escapes and len(escapes[1]) % 2 == 0 else text + "."


def _wire(text: str) -> bytes:
    try:
        return name.parse(text)
    except FormError as error:
        raise _BadNameError(f"invalid name after rewrite: {text}") from error


def _expand(replacement: str, groups: tuple[str, ...]) -> str:
    """Return ``replacement`` with each ``{n}`` replaced, one group after the other."""
    for i, text in enumerate(groups):
        replacement = replacement.replace(f"{{{i}}}", text)
    return replacement


def _regexp(pattern: str, line: Directive, replacement: str = "") -> Regexp:
    """Return a compiled pattern that has groups enough for its replacement. Raises ConfigError."""
    try:
        found = Regexp(pattern)
    except RegexpError as error:
        raise line.error(f"invalid regex matching pattern: {error}", pattern) from error
    if sum(f"{{{i}}}" in replacement for i in range(101)) > len(found.names):
        reason = f"the rewrite regex pattern ({replacement}) uses more subexpressions"
        raise line.error(f"{reason} than its corresponding matching regex pattern", pattern)
    return found


class _Match(NamedTuple):
    """Which names a rule is for; ``scope`` holds all of them, and is the root where any may be."""

    kind: str
    operand: str
    regexp: Regexp | None
    scope: WireName

    def groups(self, text: str) -> tuple[str, ...] | None:
        """Return what a pattern finds in a name, () for other kinds; None if it is not for it."""
        operand = self.operand
        match self.kind:
            case "exact":
                return () if text == operand else None
            case "prefix":
                return () if text.startswith(operand) else None
            case "suffix":
                return () if text.endswith(operand) else None
            case "substring":
                return () if operand in text else None
        assert self.regexp is not None
        return self.regexp.search(text)

    def replace(self, text: str, replacement: str) -> str | None:
        """Return the name that one becomes, None if the rule is not for it."""
        groups = self.groups(text)
        if groups is None:
            return None
        match self.kind:
            case "exact":
                return replacement
            case "prefix":
                return replacement + text[len(self.operand) :]
            case "suffix":
                return text[: len(text) - len(self.operand)] + replacement
            case "substring":
                return text.replace(self.operand, replacement)
        return _expand(replacement, groups)


def _match(kind: str, operand: str, line: Directive, replacement: str = "") -> _Match:
    """Return a matcher of names. Raises ConfigError."""
    if kind == REGEX:
        found = _regexp(operand, line, replacement)
        return _Match(kind, operand, found, _scope_of_suffix(_literal_end(operand)))
    operand = _normal(operand)
    scope = ROOT
    if kind == SUFFIX:
        scope = _scope_of_suffix(operand)
    elif kind == EXACT:
        scope = _zone(operand)
    return _Match(kind, operand, None, scope)


def _scope_of_suffix(text: str) -> WireName:
    """Return the longest zone of all names whose text ends in ``text``."""
    return ROOT if "\\" in text else _zone(text.partition(".")[2])


def _zone(text: str) -> WireName:
    try:
        return name.fold(name.parse(text))
    except FormError:
        return ROOT


def _literal_end(pattern: str) -> str:
    """Return the text that all matches of a pattern end in, "" where it is not plain to see."""
    if not pattern.endswith("$") or "\\Q" in pattern or re.search(r"\(\?(?![:P<])", pattern):
        return ""
    found, depth = "", 0
    *parts, last = _PART_OF_REGEXP.findall(pattern)
    for part in parts:
        depth += (part == "(") - (part == ")")
        if part == "|" and depth == 0:
            return ""
        if part in (r"\.", "[.]"):
            found += "."
        elif re.fullmatch("[a-z0-9_-]", part):
            found += part
        else:
            found = ""
    return found if last == "$" and depth == 0 else ""


# ---- replies


class _Record:
    """A record being rewritten."""

    __slots__ = ("owner", "rclass", "rdata", "rtype", "ttl")

    def __init__(self, record: RR) -> None:
        self.owner, self.rtype, self.ttl, self.rdata, self.rclass = record

    @property
    def rr(self) -> RR:
        return RR(self.owner, self.rtype, self.ttl, self.rdata, self.rclass)


class _Reply:
    """A response being rewritten."""

    def __init__(self, response: Response) -> None:
        self.rcode, self.flags = response.rcode, response.flags
        self.answer, self.authority, self.additional = (
            [_Record(record) for record in section] for section in response.sections
        )
        self.edns = response.edns
        self.facts = dict.fromkeys(response.facts)
        self.lifetime_s = response.lifetime_s

    def response(self, origin: Response) -> Response:
        answer, authority, additional = (
            tuple(record.rr for record in section)
            for section in (self.answer, self.authority, self.additional)
        )
        return origin.with_sections((answer, authority, additional))._replace(
            rcode=self.rcode,
            flags=self.flags,
            edns=self.edns,
            facts=tuple(self.facts),
            lifetime_s=self.lifetime_s,
            denies=b"",
            spared=b"",
            follows_case=False,  # names that are put back are in lower case
            bare=False,
        )


class _Revert:
    """What a rule does to the reply."""

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        """Change the reply for a record, None if it has none; may return a question to ask."""
        return None

    def take(self, reply: _Reply, record: _Record, asked: Question, found: Response) -> None:
        """Take in the answer to what ``change`` asked."""

    def options(self, options: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return the options of the query as the client shall see them."""
        return options


class _Owner(_Revert):
    """Rewrites owners."""

    def __init__(self, rewrite: _Text) -> None:
        self._rewrite = rewrite

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        if record is not None:
            record.owner = _rewritten(record.owner, self._rewrite)
        return None


class _Value(_Revert):
    """Rewrites the names that records point to."""

    def __init__(self, rewrite: _Text) -> None:
        self._rewrite = rewrite

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        at = None if record is None else _value_at(record)
        if record is not None and at is not None:
            begin, end = at
            new = _rewritten(record.rdata[begin:end], self._rewrite)
            record.rdata = record.rdata[:begin] + new + record.rdata[end:]
        return None


class _Ttl(_Revert):
    """Keeps TTLs within bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        if record is not None:
            record.ttl = min(max(record.ttl, self._least), self._most)
        return None


class _Rcode(_Revert):
    """Replaces an RCODE, once for each record as CoreDNS does."""

    def __init__(self, old: int, new: int) -> None:
        self._old, self._new = old, new

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        if reply.rcode == self._old:
            reply.rcode = self._new
        return None


class _Alias(_Revert):
    """Lets aliases lead elsewhere, and puts there what is found (CoreDNS: cname_target.go)."""

    def __init__(self, rewrite: Callable[[str], str | None], question: Question) -> None:
        self._rewrite = rewrite
        self._question = question

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        if record is None or record.rtype != rr.CNAME:
            return None
        to = self._rewrite(name.text(record.rdata))
        if to is None:
            return None
        qname = _wire(to)
        return self._question._replace(qname=qname, folded=name.fold(qname), qclass=rr.CLASS_IN)

    def take(self, reply: _Reply, record: _Record, asked: Question, found: Response) -> None:
        if found is DROP:
            return
        origin, kept = record.rdata, list[_Record]()
        for each in reply.answer:
            if each.rtype == rr.CNAME:
                kept.append(each)
                if each.rdata == origin:
                    each.rdata = asked.qname
                    break
        reply.answer = kept + [_Record(each) for each in found.answer]
        reply.flags = reply.flags & ~TC | found.flags & TC
        reply.facts |= dict.fromkeys(found.facts)
        reply.lifetime_s = min(reply.lifetime_s, found.lifetime_s)


class _Option(_Revert):
    """Takes an option out of the query again, or puts the client's own back."""

    def __init__(self, code: int, data: bytes | None) -> None:
        self._code, self._data = code, data

    def change(self, reply: _Reply, record: _Record | None) -> Question | None:
        if reply.edns is not None:
            options = _written(self.options(_options(reply.edns)))
            reply.edns = reply.edns._replace(options=options)
        return None

    def options(self, options: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        i = next((i for i, each in enumerate(options) if each[0] == self._code), None)
        if i is None:
            return options
        mine = [] if self._data is None else [(self._code, self._data)]
        return options[:i] + mine + options[i + 1 :]


def _rewritten(wire: bytes, rewrite: _Text) -> bytes:
    text = name.text(wire)
    new = rewrite(text)
    return wire if new == text else _wire(new)


def _value_at(record: _Record) -> tuple[int, int] | None:
    """Return where in the RDATA the name is that a record points to, None if it has none."""
    begin, rdata = _VALUE_AT.get(record.rtype), record.rdata
    try:
        if record.rtype == _NAPTR:
            begin = 4
            for _ in range(3):
                begin += 1 + rdata[begin]
        return None if begin is None else (begin, name.end(rdata, begin))
    except IndexError:
        return None  # of no shape we know


def _options(edns: Edns) -> list[tuple[int, bytes]]:
    found, i, octets = [], 0, edns.options
    while i + 4 <= len(octets):
        code, length = struct.unpack_from("!HH", octets, i)
        found.append((code, octets[i + 4 : i + 4 + length]))
        i += 4 + length
    return found


def _written(options: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("!HH", code, len(data)) + data for code, data in options)


# ---- questions


class _State:
    """A question on its way through the rules; ``query`` is None where memory shall answer."""

    def __init__(self, question: Question, query: Query | None) -> None:
        self.question = question
        self.query = query
        self.reverts: list[_Revert] = []
        self.edns = query.edns if query is not None else None
        self.is_done = False  # a rule has applied

    @property
    def text(self) -> str:
        return name.text(self.question.folded)

    def rename(self, text: str) -> None:
        qname = _wire(text)
        self.question = self.question._replace(qname=qname, folded=name.fold(qname))


class _Rule:
    """One rule; ``scope`` holds all names it is for."""

    goes_on = False
    scope = ROOT

    def apply(self, state: _State) -> bool:
        """Do what the rule says, and tell whether it was for this question."""
        raise NotImplementedError

    def relay(self, route: Route) -> bool:
        """Do as ``Plugin.relay``."""
        return route.claim((self.scope,))

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether it is for all names below ``cut`` or for none."""
        return not (name.is_within(self.scope, cut) or name.is_within(cut, self.scope))


class _NameRule(_Rule):
    """`name`."""

    def __init__(self, args: list[str], line: Directive) -> None:
        if len(args) < 2:
            raise line.error("too few arguments for a name rule")
        kind = args.pop(0).lower() if len(args) > 2 else EXACT
        if kind not in _KINDS:
            raise line.error(f"a name rule is one of {', '.join(_KINDS)}", kind)
        source, to, *rest = args
        has_labels = rest[:1] == ["metadata"]
        if has_labels and kind != REGEX:
            raise line.error("metadata is only supported for regex name rules")
        self._is_auto, self._answers = _answer_rules(kind, rest[has_labels:], line)
        if kind == EXACT:
            _regexp(
                _normal(to), line, _normal(source)
            )  # CoreDNS reads TO as a pattern, and what is none is refused
        self._match = _match(kind, source, line, "" if has_labels else to)
        self._to = _normal(to)
        self._labels = _replacement(to, self._match, line) if has_labels else None
        self._is_auto |= kind == EXACT
        self.scope = self._match.scope

    def apply(self, state: _State) -> bool:
        old = state.text
        if self._labels is not None:
            new = self._with_labels(old, state)
        else:
            new = self._match.replace(old, self._to)
        if new is None:
            return False
        state.rename(new)
        if self._is_auto:
            rewrite: _Text
            if self._match.kind == SUFFIX:
                rewrite = functools.partial(_end_in, self._to, self._match.operand)
            else:
                rewrite = functools.partial(_be_or_be_below, state.text, old)
            state.reverts += (_Owner(rewrite), _Value(rewrite))
        state.reverts += self._answers
        return True

    def _with_labels(self, text: str, state: _State) -> str | None:
        """Return the name with labels in it, None if one is not known."""
        groups = self._match.groups(text)
        if groups is None:
            return None
        if state.query is None:
            raise _NeedsQueryError
        found = ""
        for part, is_literal in self._labels or ():
            if isinstance(part, int):
                found += groups[part]
            elif is_literal:
                found += part
            else:
                said = metadata.value(state.query, part)
                if not said:
                    return None
                found += said.lower()
        return found


def _end_in(old: str, new: str, text: str) -> str:
    return text[: len(text) - len(old)] + new if text.endswith(old) else text


def _be_or_be_below(old: str, new: str, text: str) -> str:
    if text == old:
        return new
    return text[: len(text) - len(old)] + new if text.endswith("." + old) else text


def _find_and_replace(pattern: Regexp, replacement: str, text: str) -> str:
    groups = pattern.search(text)
    return text if groups is None else _expand(replacement, groups)


def _answer_rules(kind: str, args: list[str], line: Directive) -> tuple[bool, list[_Revert]]:
    """Return whether names are put back, and the answer rules. Raises ConfigError."""
    is_auto, found, i, has_names = False, list[_Revert](), 0, False
    if len(args) == 1:
        raise line.error(f"invalid arguments for {kind} rule", args[0])
    while i < len(args):
        if i == 0 and args[i] != "answer":
            raise line.error(f"wants answer, and no more arguments for {kind} rule", args[i])
        i += args[i] == "answer"
        if i == len(args):
            raise line.error("type missing for answer rule")
        what = args[i]
        i += 1
        if what == "auto":
            is_auto = True
            continue
        if what not in ("name", "value"):
            raise line.error("invalid type for answer rule", what)
        if len(args) - i < 2:
            raise line.error(f"{what} answer rule takes two arguments")
        pattern, to = _regexp(args[i], line, args[i + 1]), _normal(args[i + 1])
        rewrite = functools.partial(_find_and_replace, pattern, to)
        found.append(_Owner(rewrite) if what == "name" else _Value(rewrite))
        has_names |= what == "name"
        i += 2
    if is_auto and has_names:
        raise line.error("answer auto cannot be combined with answer name")
    return is_auto, found


def _replacement(to: str, match: _Match, line: Directive) -> list[tuple[str | int, bool]]:
    """Return the parts of a TO with labels: literals, groups and labels. Raises ConfigError."""
    found: list[tuple[str | int, bool]] = []
    groups = len(match.regexp.names) if match.regexp else 0
    rest = to if to.endswith(".") else to + "."
    while rest:
        before, brace, rest = rest.partition("{")
        if "}" in before:
            raise line.error("unmatched closing brace in metadata name replacement", to)
        if before:
            found.append((before.lower(), True))
        if not brace:
            break
        label, brace, rest = rest.partition("}")
        if not brace:
            raise line.error("unclosed placeholder in metadata name replacement", to)
        if re.fullmatch(r"[+-]?[0-9]+", label):
            if not 0 <= int(label[:9]) <= groups:
                reason = f"capture group {label} does not exist in name matching pattern"
                raise line.error(reason, to)
            found.append((int(label), False))
        elif not metadata.is_label(label) or "{" in label:
            raise line.error("invalid metadata label in name replacement", label)
        else:
            found.append((label, False))
    return found


class _TypeRule(_Rule):
    """`type`."""

    def __init__(self, args: list[str], line: Directive) -> None:
        self._old, self._new = _two(args, _TYPES, "type", line)

    def apply(self, state: _State) -> bool:
        if state.question.qtype != self._old:
            return False
        state.question = state.question._replace(qtype=self._new)
        return True

    def relay(self, route: Route) -> bool:
        return self._old not in (rr.A, rr.AAAA) or route.leave(self._old)

    def treats_alike(self, cut: WireName) -> bool:
        return True


class _ClassRule(_Rule):
    """`class`."""

    def __init__(self, args: list[str], line: Directive) -> None:
        self._old, self._new = _two(args, _CLASSES, "class", line)

    def apply(self, state: _State) -> bool:
        if state.question.qclass != self._old:
            return False
        state.question = state.question._replace(qclass=self._new)
        return True

    def relay(self, route: Route) -> bool:
        return self._old != rr.CLASS_IN

    def treats_alike(self, cut: WireName) -> bool:
        return True


def _two(args: list[str], known: dict[str, int], what: str, line: Directive) -> tuple[int, int]:
    """Return two mnemonics as numbers. Raises ConfigError."""
    if len(args) != 2:
        raise line.error(f"{what} rules must have exactly two arguments")
    for word in args:
        if word.upper() not in known:
            raise line.error(f"invalid {what}", word)
    return known[args[0].upper()], known[args[1].upper()]


class _ReplyRule(_Rule):
    """`ttl` and `rcode`: what changes replies about some names."""

    def __init__(self, match: _Match, revert: _Revert) -> None:
        self._match, self._revert = match, revert
        self.scope = match.scope

    def apply(self, state: _State) -> bool:
        if self._match.groups(state.text) is None:
            return False
        state.reverts.append(self._revert)
        return True


def _ttl_rule(args: list[str], line: Directive) -> _Rule:
    if not 2 <= len(args) <= 3:
        raise line.error(f"a ttl rule takes two or three arguments, got {len(args)}")
    bounds = re.fullmatch(r"([0-9]*)(-?)([0-9]*)", args[-1], re.ASCII)
    if bounds is None or not (bounds[1] or bounds[3]):
        raise line.error("invalid TTL for a ttl rule", args[-1])
    least = int(bounds[1][:11] or 0)
    most = int(bounds[3][:11] or _MAX_OPEN_TTL) if bounds[2] else least
    if max(least, most) > _MAX_TTL or least > most:
        raise line.error("invalid TTL for a ttl rule", args[-1])
    return _ReplyRule(_match_of(args[:-1], "ttl", line), _Ttl(least, most))


def _rcode_rule(args: list[str], line: Directive) -> _Rule:
    if not 3 <= len(args) <= 4:
        raise line.error(f"a rcode rule takes three or four arguments, got {len(args)}")
    old, new = (_rcode(word, line) for word in args[-2:])
    return _ReplyRule(_match_of(args[:-2], "rcode", line), _Rcode(old, new))


def _match_of(args: list[str], what: str, line: Directive) -> _Match:
    """Return the matcher of ``[TYPE] NAME``. Raises ConfigError."""
    kind = args[0].lower() if len(args) == 2 else EXACT
    if kind not in _KINDS:
        raise line.error(f"a {what} rule is one of {', '.join(_KINDS)}", args[0])
    return _match(kind, args[-1], line)


def _rcode(word: str, line: Directive) -> int:
    if word.isascii() and word.isdigit() and int(word[:9]) <= _MAX_RCODE:
        return int(word)
    if word.upper() not in _RCODES:
        raise line.error("invalid RCODE for a rcode rule", word)
    return _RCODES[word.upper()]


class _AliasRule(_Rule):
    """`cname`."""

    def __init__(self, args: list[str], line: Directive) -> None:
        if not 2 <= len(args) <= 3:
            raise line.error(f"a cname rule takes two or three arguments, got {len(args)}")
        kind = args[0].lower() if len(args) == 3 else EXACT
        if kind not in _KINDS:
            raise line.error("unknown cname rewrite type", args[0])
        source, self._to = args[-2].lower(), args[-1].lower()
        if kind == EXACT:
            self._to = _normal(self._to)
        self._match = _match(kind, source, line)
        if kind != REGEX:
            operand = _normal(source) if kind == EXACT else source
            self._match = self._match._replace(operand=operand)
        self._is_empty = not (source and self._to)

    def apply(self, state: _State) -> bool:
        if self._is_empty:
            return False
        rewrite = functools.partial(self._match.replace, replacement=self._to)
        state.reverts.append(_Alias(rewrite, state.question))
        return True

    def relay(self, route: Route) -> bool:
        return False

    def treats_alike(self, cut: WireName) -> bool:
        return True


class _OptionRule(_Rule):
    """`edns0`: ``data`` makes the data of the option; None from it is that there is none."""

    def __init__(self, args: list[str], line: Directive) -> None:
        if len(args) < 2:
            raise line.error("too few arguments for an EDNS0 rule")
        what, self._action, *rest = (args[0].lower(), args[1].lower(), *args[2:])
        if self._action not in _ACTIONS:
            raise line.error("invalid action", args[1])
        is_unset = self._action == "unset"
        self._reverts = not is_unset and rest[-1:] == ["revert"]
        if self._reverts:
            del rest[-1]
        takes = {"local": 1 if is_unset else 2, "nsid": 0, "subnet": 0 if is_unset else 2}
        if what not in takes:
            raise line.error("invalid rule type", args[0])
        if len(rest) != takes[what]:
            raise line.error(f"EDNS0 {what} {self._action} takes {takes[what]} arguments")
        self.echoes: int | None = None
        self._is_variable = False
        self._data: Callable[[_State], bytes | None] = lambda state: b""
        match what:
            case "local":
                self.echoes = self._code = _uint16(rest[0], line)
                if not is_unset:
                    self._read_data(rest[1], line)
            case "nsid":
                self._code = _NSID
            case "subnet":
                self._code = _SUBNET
                if not is_unset:
                    bits = [_uint16(word, line) for word in rest]
                    if bits[0] > 32 or bits[1] > 128:
                        raise line.error("invalid bit mask length", " ".join(rest))
                    self._data = functools.partial(_subnet, bits[0], bits[1])

    def _read_data(self, text: str, line: Directive) -> None:
        """Take in the DATA of a local option. Raises ConfigError."""
        if text.startswith("{") and text.endswith("}"):
            variable = text[1:-1]
            if variable not in _VARIABLES and not metadata.is_label(variable):
                raise line.error("unsupported variable name", text)
            self._is_variable = True
            self._data = functools.partial(_variable, variable)
            return
        octets = text.encode()
        if text.startswith("0x"):
            if not re.fullmatch("(?:[0-9a-fA-F]{2})*", text[2:]):
                raise line.error("no hexadecimal digits", text)
            octets = bytes.fromhex(text[2:])
        self._data = lambda state: octets

    def apply(self, state: _State) -> bool:
        if state.query is None:
            if self._action in ("set", "unset") and self.echoes is None:
                return True
            raise _NeedsQueryError
        data = self._data(state)
        if self._is_variable and data is None:
            return False
        edns = state.edns or Edns(_OPT_OCTETS, 0, 0)
        options = _options(edns)
        state.edns = edns
        if self._action == "unset":
            kept = [each for each in options if each[0] != self._code]
            state.edns = edns._replace(options=_written(kept))
            return True
        if data is None:
            return False
        at = next((i for i, each in enumerate(options) if self._is_mine(each[0])), None)
        old = None if at is None else options[at][1]
        if at is not None and self._action in ("replace", "set"):
            options[at] = (self._code, data)
        elif self._action == "replace" or (at is not None and self._ends_at_its_own):
            return False
        else:
            options.append((self._code, data))
            old = None
        state.edns = edns._replace(options=_written(options))
        if self._reverts:
            state.reverts.append(_Option(self._code, old))
        return True

    def _is_mine(self, code: int) -> bool:
        return code == self._code and (self.echoes is None or code not in _KNOWN_OPTIONS)

    @property
    def _ends_at_its_own(self) -> bool:
        """Whether `append` does nothing where there is one already (CoreDNS: edns0.go)."""
        return self._code == _SUBNET or self._is_variable

    def relay(self, route: Route) -> bool:
        return False

    def treats_alike(self, cut: WireName) -> bool:
        return True


def _uint16(word: str, line: Directive) -> int:
    """Return a number of 16 bits as Go's ParseUint with base 0 reads it. Raises ConfigError."""
    try:
        digits = word.replace("_", "x") if "_" in word else word
        old_octal = re.fullmatch("0[0-7]+", digits)
        found = int(digits, 8 if old_octal else 0) if digits.isalnum() else -1
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 16:
        raise line.error("wants a number of at most 65535", word)
    return found


def _packed(address: str, family: int) -> bytes | None:
    """Return an address in the octets of a family, None if it has none there (Go: To4, To16)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and family == 4:
        ip = ip.ipv4_mapped or ip
        return ip.packed if ip.version == 4 else None
    if family == 6 and ip.version == 4:
        return bytes(10) + b"\xff\xff" + ip.packed
    return ip.packed


def _family(query: Query) -> int:
    canonical = name.canonical_address(query.client[0]) or ""
    return 6 if ":" in canonical else 4


def _subnet(bits4: int, bits6: int, state: _State) -> bytes | None:
    """Return a client subnet option (RFC 7871 section 6) of the client's address."""
    assert state.query is not None
    family = _family(state.query)
    octets, bits = _packed(state.query.client[0], family), bits4 if family == 4 else bits6
    if octets is None:
        return None
    network = ipaddress.ip_network((octets, bits), strict=False)
    shown = network.network_address.packed[: (bits + 7) // 8]
    return struct.pack("!HBB", 1 if family == 4 else 2, bits, 0) + shown


def _variable(variable: str, state: _State) -> bytes | None:
    """Return what a variable stands for, None if that is nothing."""
    query = state.query
    assert query is not None
    match variable:
        case "qname":
            return name.text(state.question.qname).encode()
        case "qtype":
            return struct.pack("!H", state.question.qtype)
        case "client_ip":
            return _packed(query.client[0], _family(query))
        case "client_port":
            return struct.pack("!H", query.client[1])
        case "protocol":
            return query.transport.encode()
        case "server_ip":
            return _packed(query.server[0], _family(query))
        case "server_port":
            return struct.pack("!H", query.server[1])
    return metadata.value(query, variable).encode() or None


def _rule(directive: Directive) -> _Rule:
    """Return the rule of one directive. Raises ConfigError."""
    args = list(directive.args)
    if len(args) < 2:
        for line in directive.block:
            if line.has_block:
                raise line.error("no block may stand here")
            args += (line.name, *line.args)
    elif directive.has_block:
        raise directive.error("takes a block only behind one word at most")
    if not args:
        raise directive.error("no rule type specified")
    mode = args[0].lower()
    if mode in ("continue", "stop"):
        del args[0]
        if not args:
            raise directive.error(f"{mode} rule must begin with a rule type")
    field, *rest = args
    makers: dict[str, Callable[[list[str], Directive], _Rule]] = {
        "name": _NameRule, "type": _TypeRule, "class": _ClassRule, "ttl": _ttl_rule,
        "rcode": _rcode_rule, "cname": _AliasRule, "edns0": _OptionRule,
    }  # fmt: skip
    if field.lower() == "answer":
        raise directive.error("response rewrites must begin with a name rule", field)
    if field.lower() not in makers:
        raise directive.error("invalid rule type", field)
    found = makers[field.lower()](rest, directive)
    found.goes_on = mode == "continue"
    return found


# ---- the plugin

_Steps = Generator[Question, Response, Response]


class Rewrite(Plugin):
    """The rules of one server block, in the order of the file."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._rules = [_rule(directive)]
        self._echoed: frozenset[int] = frozenset()

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences, in their order."""
        plugin = cls(directives[0], block)
        plugin._rules += [_rule(directive) for directive in directives[1:]]
        codes = (rule.echoes for rule in plugin._rules if isinstance(rule, _OptionRule))
        plugin._echoed = frozenset(code for code in codes if code is not None)
        return [plugin]

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what memory knows of what the question becomes."""
        if self._echoed:
            return None  # the options of each query matter
        state = _State(question, None)
        try:
            self._apply(state)
            if not state.is_done:
                return next(question)
            response = next(state.question)
            if response is None or response is DROP:
                return response
            steps = self._reverted(response, state)
            found = answer_by(steps, question, self._block.resolver, next)
        except _NeedsQueryError:
            return None
        except _BadNameError as error:
            return failure(rr.SERVFAIL, str(error))
        # Too many aliases, or an RCODE that only a client with EDNS can be told: `handle` knows.
        return None if found is None or found.bare or found.rcode > 15 else found

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the plugins behind say to what the question becomes."""
        if query.question is None:
            return await next(query)
        state = _State(query.question, query)
        try:
            self._apply(state)
            asked = query.asking(state.question)
            asked.edns = state.edns
            response = await next(asked)
            if response is not DROP and state.is_done:
                response = await self._revert(response, state, asked)
        except _BadNameError as error:
            return failure(rr.SERVFAIL, str(error))
        if response.rcode > 15 and query.edns is None:
            return failure(rr.SERVFAIL, f"no room for {rr.rcode_text(response.rcode)}")
        return self._with_echo(response, state, query)

    def _apply(self, state: _State) -> None:
        """Take a question through the rules."""
        for rule in self._rules:
            if rule.apply(state):
                state.is_done = True
                if not rule.goes_on:
                    return

    def _reverted(self, response: Response, state: _State, depth: int = 0) -> _Steps:
        """Return the response as the client shall see it (CoreDNS: reverter.go WriteMsg)."""
        reply, reverts = _Reply(response), state.reverts[::-1]
        for section in (reply.authority, reply.answer, reply.additional):
            for record in section:
                for revert in reverts:
                    asked = revert.change(reply, record)
                    if asked is not None and depth < MAX_DEPTH:
                        revert.take(reply, record, asked, (yield asked))
        if not any(response.sections):
            for revert in reverts:
                revert.change(reply, None)
        return reply.response(response)

    async def _revert(self, response: Response, state: _State, query: Query) -> Response:
        steps = self._reverted(response, state, query.depth)
        try:
            asked = steps.__next__()  # `next` is a word of the chain
            while True:
                found = DROP
                if self._block.resolver is not None:
                    inner = query.asking(asked)
                    inner.depth = query.depth + 1
                    found = fit(await self._block.resolver.handle(inner), asked, query.limit)
                asked = steps.send(found)
        except StopIteration as done:
            reverted: Response = done.value
            return reverted

    def _with_echo(self, response: Response, state: _State, query: Query) -> Response:
        """Return the response with the client's local options (CoreDNS: request.go SizeAndDo)."""
        if not self._echoed or query.edns is None or response.edns is not None:
            return response
        options = _options(state.edns) if state.edns is not None else []
        for revert in state.reverts[::-1]:
            options = revert.options(options)
        echoed = [each for each in options if each[0] in self._echoed]
        if not echoed or response is DROP:
            return response
        return response._replace(edns=Edns(0, 0, query.edns.flags, _written(echoed)), bare=False)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no rule is for some of the names below ``cut`` and not for others."""
        return all(rule.treats_alike(cut) for rule in self._rules)

    def relay(self, route: Route) -> bool:
        """Leave the names that rules are for to the chain, where it can be told which they are."""
        return all(rule.relay(route) for rule in self._rules)
