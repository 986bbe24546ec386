"""The parser of expr-lang expressions, by precedence climbing.

``Parser`` makes nodes of a text; ``exprcheck`` checks names and types. (expr-lang/expr
1.17: parser)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

from clusterdns.languages import exprlibrary, goformat
from clusterdns.languages.exprvalues import ExpressionError, Value

MAX_NODES = 10_000  # expr-lang's limit
MAX_DEPTH = 100

_PRECEDENCE = {
    "|": 0, "or": 10, "||": 10, "and": 15, "&&": 15, "==": 20, "!=": 20, "<": 20, ">": 20, ">=": 20,
    "<=": 20, "in": 20, "matches": 20, "contains": 20, "startsWith": 20, "endsWith": 20, "..": 25,
    "+": 30, "-": 30, "*": 60, "/": 60, "%": 60, "**": 100, "^": 100, "??": 500,
}  # fmt: skip
_UNARY = {"not": 50, "!": 50, "-": 90, "+": 90}
_MAY_BE_NEGATED = frozenset(("in", "matches", "contains", "startsWith", "endsWith"))
_WORDS = _MAY_BE_NEGATED | {"or", "and", "not", "let", "if", "else"}
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "nil": None}
OF_THE_CLOCK = frozenset(("now", "duration", "date", "timezone"))
# Arguments behind the list: p for a predicate, e for an expression, in brackets if optional.
_WITH_PREDICATE = {
    "all": "p", "none": "p", "any": "p", "one": "p", "filter": "p", "map": "p", "count": "[p]",
    "sum": "[p]", "find": "p", "findIndex": "p", "findLast": "p", "findLastIndex": "p",
    "groupBy": "p", "sortBy": "p[e]", "reduce": "p[e]",
}  # fmt: skip
BUILTINS = frozenset((*exprlibrary.LIBRARY, *_WITH_PREDICATE, *OF_THE_CLOCK))

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<raw>`(?:[^`]|``)*`)
    |(?P<number>0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+
        |(?:[0-9][0-9_]*(?:\.(?!\.)[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
    |(?P<word>[^\W\d][\w$]*|\$[\w$]*)
    |(?P<sign>\?\.|\?\?|\?|\|\||\||::|:|\.\.|\.|&&|==|!=|<=|>=|\*\*|[#,;%+\-^!=*<>/()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str  # string, number, word, operator, end
    text: str


class Node(NamedTuple):
    """A part of an expression: its kind, its value, and its parts."""

    kind: str
    value: Value = None
    parts: tuple[Node, ...] = ()


def is_name(text: str) -> bool:
    """Tell whether a word may be a variable: not an operator, constant or library function."""
    is_word = re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", text) is not None
    return is_word and text not in _WORDS and text not in _CONSTANTS and text not in BUILTINS


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ExpressionError(f"unrecognized character: {text[at : at + 10]!r}")
        kind, word, at = token.lastgroup or "", token[0], token.end()
        if kind == "space":
            continue
        if kind == "number" and text[at : at + 1].isalnum():
            raise ExpressionError(f"bad number syntax: {text[token.start() : at + 1]!r}")
        if kind == "string":
            word = _unquote(word)
        elif kind == "raw":
            kind, word = "string", word[1:-1].replace("``", "`")
        elif kind == "sign" or word in _WORDS:
            kind = "operator"
        found.append(_Token(kind, word))
    return [*found, _Token("end", "end of expression")]


def _unquote(word: str) -> str:
    try:
        return goformat.unquoted(word[1:-1])
    except ValueError as error:
        raise ExpressionError(f"{error} in {word}") from error


class Parser:
    """Reads an expression by precedence climbing."""

    def __init__(self, text: str, functions: Container[str]) -> None:
        self._tokens = _tokens(text)
        self._functions = functions
        self._at = 0
        self._nodes = 0
        self._depth = 0
        self._predicates = 0

    def parse(self) -> Node:
        """Return the root of the expression. Raises ExpressionError."""
        node = self._sequence()
        if self._next.kind != "end":
            raise self._unexpected()
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _unexpected(self) -> ExpressionError:
        return ExpressionError(f"unexpected token {self._next.text!r}")

    def _is(self, *signs: str) -> bool:
        return self._next.kind == "operator" and self._next.text in signs

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _expect(self, sign: str) -> None:
        if not self._is(sign):
            raise self._unexpected()
        self._take()

    def _word(self) -> str:
        if self._next.kind != "word":
            raise self._unexpected()
        return self._take().text

    def _node(self, kind: str, value: Value = None, *parts: Node) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ExpressionError("exceeds maximum allowed nodes")
        return Node(kind, value, parts)

    def _sequence(self) -> Node:
        nodes = [self._expression(0)]
        while self._is(";"):
            self._take()
            if self._next.kind == "end":
                break
            nodes.append(self._expression(0))
        return nodes[0] if len(nodes) == 1 else self._node("sequence", None, *nodes)

    def _expression(self, precedence: int) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("nested too deep")
        try:
            if precedence == 0 and self._is("let"):
                return self._let()
            if precedence == 0 and self._is("if"):
                return self._if()
            node = self._binary(self._primary(), precedence)
            while precedence == 0 and self._is("?"):
                node = self._ternary(node)
            return node
        finally:
            self._depth -= 1

    def _binary(self, left: Node, precedence: int) -> Node:
        before = ""
        while self._next.kind == "operator":
            negated = self._is("not")
            sign = self._tokens[self._at + 1].text if negated else self._next.text
            if negated and sign not in _MAY_BE_NEGATED:
                raise self._unexpected()
            if _PRECEDENCE.get(sign, -1) < precedence:
                break
            self._at += 2 if negated else 1
            if sign == "|":
                left = self._call(self._word(), left)
            elif before == "??" and sign != "??":
                raise ExpressionError(f"{sign} and ?? cannot be mixed, wrap either by parentheses")
            else:
                own = _PRECEDENCE[sign]
                right = self._expression(own if sign in ("**", "^") else own + 1)
                left = self._compared(left, sign, right)
                left = self._node("unary", "not", left) if negated else left
            before = sign
        return left

    def _compared(self, left: Node, sign: str, right: Node) -> Node:
        """Return a binary node; ``a < b < c`` is ``a < b and b < c``."""
        node = self._node("binary", sign, left, right)
        while sign in ("<", ">", "<=", ">=") and self._is("<", ">", "<=", ">="):
            again = self._take().text
            beyond = self._expression(_PRECEDENCE[again] + 1)
            node = self._node("binary", "&&", node, self._node("binary", again, right, beyond))
            right = beyond
        return node

    def _let(self) -> Node:
        self._take()
        word = self._word()
        self._expect("=")
        value = self._expression(0)
        self._expect(";")
        return self._node("let", word, value, self._sequence())

    def _if(self) -> Node:
        self._take()
        condition = self._expression(0)
        self._expect("{")
        first = self._sequence()
        self._expect("}")
        self._expect("else")
        if self._is("if"):
            return self._node("if", None, condition, first, self._if())
        self._expect("{")
        other = self._sequence()
        self._expect("}")
        return self._node("if", None, condition, first, other)

    def _ternary(self, condition: Node) -> Node:
        self._take()
        first = condition if self._is(":") else self._expression(0)
        self._expect(":")
        return self._node("if", None, condition, first, self._expression(0))

    def _primary(self) -> Node:
        token = self._next
        if self._is(*_UNARY):
            self._take()
            return self._postfix(
                self._node("unary", token.text, self._expression(_UNARY[token.text]))
            )
        if self._is("("):
            self._take()
            node = self._sequence()
            self._expect(")")
            return self._postfix(node)
        if self._predicates and self._is("#", "."):
            word = ""
            if self._take().text == "#":
                word = self._take().text if self._next.kind == "word" else ""
            else:
                self._at -= 1  # a field of the element
            return self._postfix(self._node("pointer", word))
        if self._is("::"):
            self._take()
            return self._postfix(self._call(self._word(), is_library=True))
        if self._is("["):
            return self._postfix(self._list())
        if self._is("{"):
            return self._postfix(self._map())
        self._take()
        match token.kind:
            case "word" if token.text in _CONSTANTS:
                return self._node("constant", _CONSTANTS[token.text])
            case "word" if self._is("("):
                return self._postfix(self._call(token.text))
            case "word":
                return self._postfix(self._node("name", token.text))
            case "number":
                return self._node("constant", _number(token.text))
            case "string":
                return self._postfix(self._node("constant", token.text))
        raise ExpressionError(f"unexpected token {token.text!r}")

    def _call(self, word: str, *first: Node, is_library: bool = False) -> Node:
        is_ours = not is_library and word in self._functions
        if word in _WITH_PREDICATE and not is_ours:
            return self._call_with_predicate(word, first)
        self._expect("(")
        parts = [*first]
        while not self._is(")"):
            if len(parts) > len(first):
                self._expect(",")
                if self._is(")"):
                    break
            parts.append(self._expression(0))
        self._expect(")")
        return self._node("library" if word in BUILTINS and not is_ours else "call", word, *parts)

    def _call_with_predicate(self, word: str, first: tuple[Node, ...]) -> Node:
        self._expect("(")
        shape = "e" + _WITH_PREDICATE[word]
        parts = [*first]
        needed = len(shape.partition("[")[0])
        for i, each in enumerate(shape.replace("[", "").replace("]", "")):
            if i < len(first):
                continue
            if self._is(")") and i >= needed:
                break
            if i > len(first):
                self._expect(",")
                if self._is(")") and i >= needed:
                    break
            parts.append(self._predicate() if each == "p" else self._expression(0))
        if self._is(","):
            self._take()
        self._expect(")")
        return self._node("each", word, *parts)

    def _predicate(self) -> Node:
        has_braces = self._is("{")
        if has_braces:
            self._take()
        self._predicates += 1
        node = self._sequence() if has_braces else self._expression(0)
        self._predicates -= 1
        if has_braces:
            self._expect("}")
        return node

    def _list(self) -> Node:
        self._take()
        parts: list[Node] = []
        while not self._is("]"):
            if parts:
                self._expect(",")
                if self._is("]"):
                    break
            parts.append(self._expression(0))
        self._expect("]")
        return self._node("list", None, *parts)

    def _map(self) -> Node:
        self._take()
        parts: list[Node] = []
        while not self._is("}"):
            if parts:
                self._expect(",")
                if self._is("}"):
                    break
            if self._next.kind in ("number", "string", "word"):
                key = self._node("constant", self._take().text)
            elif self._is("("):
                key = self._expression(0)
            else:
                raise self._unexpected()
            self._expect(":")
            parts += [key, self._expression(0)]
        self._expect("}")
        return self._node("map", None, *parts)

    def _postfix(self, node: Node) -> Node:
        is_chain = False
        while self._is(".", "?.", "["):
            sign = self._take().text
            is_optional = sign == "?."
            is_chain |= is_optional
            if sign == "[" or (is_optional and self._is("[")):
                if is_optional:
                    self._take()
                node = self._bracket(node, is_optional=is_optional)
            else:
                token = self._take()
                if token.kind != "word" and token.text not in _WORDS:
                    raise ExpressionError("expected name")
                if self._is("("):
                    raise ExpressionError(f"no method {token.text}")
                key = self._node("constant", token.text)
                node = self._node("optional" if is_optional else "member", None, node, key)
        return self._node("chain", None, node) if is_chain else node

    def _bracket(self, node: Node, *, is_optional: bool) -> Node:
        start = self._node("constant", None) if self._is(":") else self._expression(0)
        if not self._is(":"):
            self._expect("]")
            return self._node("optional" if is_optional else "member", None, node, start)
        self._take()
        end = self._node("constant", None) if self._is("]") else self._expression(0)
        self._expect("]")
        return self._node("slice", None, node, start, end)


def _number(text: str) -> int | float:
    plain = text.replace("_", "")
    try:
        if plain[:2].lower() in ("0x", "0b", "0o"):
            found = int(plain, 0)
        elif any(each in plain.lower() for each in ".e"):
            return float(plain)
        else:
            found = int(plain)
    except ValueError as error:
        raise ExpressionError(f"bad number syntax: {text!r:.40}") from error
    if found >= 2**63:
        raise ExpressionError("integer literal is too large")
    return found
