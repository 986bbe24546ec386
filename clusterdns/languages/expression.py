"""Expressions as expr-lang has them: parsed and checked once, evaluated with bounded work.

``Expression`` parses a text and checks it against an environment: which names there are, variables
with their types and functions with their signatures. ``run`` evaluates it with their values. The
whole language is there but for what looks at the clock (`now`, `date`, `duration`, `timezone`) and
octet literals. (expr-lang/expr 1.17: parser, checker, vm)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clusterdns.languages import exprvalues
from clusterdns.languages.exprvalues import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    INTS,
    LIST,
    MAP,
    NIL,
    STRING,
    ExpressionError,
    Signature,
    Type,
    Value,
)
from clusterdns.languages.regexp import Regexp, RegexpError

MAX_NODES = 10_000  # expr-lang's limit
MAX_DEPTH = 100
MAX_STEPS = 20_000  # nodes evaluated for one question: some 10 ms
MAX_RANGE = 10_000

Environment = Mapping[str, Type | Signature]

_PRECEDENCE = {
    "|": 0, "or": 10, "||": 10, "and": 15, "&&": 15, "==": 20, "!=": 20, "<": 20, ">": 20, ">=": 20,
    "<=": 20, "in": 20, "matches": 20, "contains": 20, "startsWith": 20, "endsWith": 20, "..": 25,
    "+": 30, "-": 30, "*": 60, "/": 60, "%": 60, "**": 100, "^": 100, "??": 500,
}  # fmt: skip
_UNARY = {"not": 50, "!": 50, "-": 90, "+": 90}
_MAY_BE_NEGATED = frozenset(("in", "matches", "contains", "startsWith", "endsWith"))
_WORDS = _MAY_BE_NEGATED | {"or", "and", "not", "let", "if", "else"}
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "nil": None}
_OF_THE_CLOCK = frozenset(("now", "duration", "date", "timezone"))
# Arguments behind the list: p for a predicate, e for an expression, in brackets if it may be left.
_WITH_PREDICATE = {
    "all": "p", "none": "p", "any": "p", "one": "p", "filter": "p", "map": "p", "count": "[p]",
    "sum": "[p]", "find": "p", "findIndex": "p", "findLast": "p", "findLastIndex": "p",
    "groupBy": "p", "sortBy": "p[e]", "reduce": "p[e]",
}  # fmt: skip
BUILTINS = frozenset((*exprvalues.LIBRARY, *_WITH_PREDICATE, *_OF_THE_CLOCK))

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<raw>`(?:[^`]|``)*`)
    |(?P<number>0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+
        |(?:[0-9][0-9_]*(?:\.(?!\.)[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
    |(?P<word>[^\W\d][\w$]*|\$[\w$]*)
    |(?P<sign>\?\.|\?\?|\?|\|\||\||::|:|\.\.|\.|&&|==|!=|<=|>=|\*\*|[#,;%+\-^!=*<>/()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SIMPLE = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
    '"': '"', "'": "'", "`": "`",
}  # fmt: skip


class _Token(NamedTuple):
    kind: str  # string, number, word, operator, end
    text: str


class _Node(NamedTuple):
    """A part of an expression: its kind, what it holds, and its parts."""

    kind: str
    value: Value = None
    parts: tuple[_Node, ...] = ()


class Expression:
    """One expression; ``type`` is that of its value, ``names`` what it takes of its environment."""

    def __init__(self, text: str, environment: Environment) -> None:
        """Parse and check it.

        Raises:
            ExpressionError: it is none, or not one of this environment.
        """
        self.text = text
        try:
            self._root = _Parser(text, environment).parse()
            checker = _Checker(environment)
            self.type = checker.type_of(self._root)
        except RecursionError as error:
            raise ExpressionError("nested too deep") from error
        self.names = frozenset(checker.names)

    def run(self, values: Mapping[str, Value]) -> Value:
        """Return its value with those of its environment; functions are callables.

        Raises:
            ExpressionError: it cannot be evaluated, or takes too long.
        """
        try:
            found = _Run(values).value(self._root)
            exprvalues.weight(found)  # else whoever prints it is at it for ever
            return found
        except RecursionError as error:
            raise ExpressionError("nested too deep") from error


def is_name(text: str) -> bool:
    """Tell whether a word may name a variable: no operator, constant or function of the library."""
    is_word = re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", text) is not None
    return is_word and text not in _WORDS and text not in _CONSTANTS and text not in BUILTINS


# ---- parsing


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
    def replace(escape: re.Match[str]) -> str:
        octal, *hexes, simple = escape.groups()
        try:
            if octal:
                return chr(int(octal, 8))
            if simple is None:
                return chr(int(next(each for each in hexes if each), 16))
            return _SIMPLE[simple]
        except (KeyError, ValueError, OverflowError) as error:
            raise ExpressionError(f"invalid escape in {word}") from error

    return _ESCAPE.sub(replace, word[1:-1])


class _Parser:
    """Reads an expression by precedence climbing."""

    def __init__(self, text: str, environment: Environment) -> None:
        self._tokens = _tokens(text)
        self._environment = environment
        self._at = 0
        self._nodes = 0
        self._depth = 0
        self._predicates = 0

    def parse(self) -> _Node:
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

    def _node(self, kind: str, value: Value = None, *parts: _Node) -> _Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ExpressionError("exceeds maximum allowed nodes")
        return _Node(kind, value, parts)

    def _sequence(self) -> _Node:
        nodes = [self._expression(0)]
        while self._is(";"):
            self._take()
            if self._next.kind == "end":
                break
            nodes.append(self._expression(0))
        return nodes[0] if len(nodes) == 1 else self._node("sequence", None, *nodes)

    def _expression(self, precedence: int) -> _Node:
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

    def _binary(self, left: _Node, precedence: int) -> _Node:
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

    def _compared(self, left: _Node, sign: str, right: _Node) -> _Node:
        """Return a binary node; ``a < b < c`` is ``a < b and b < c``."""
        node = self._node("binary", sign, left, right)
        while sign in ("<", ">", "<=", ">=") and self._is("<", ">", "<=", ">="):
            again = self._take().text
            beyond = self._expression(_PRECEDENCE[again] + 1)
            node = self._node("binary", "&&", node, self._node("binary", again, right, beyond))
            right = beyond
        return node

    def _let(self) -> _Node:
        self._take()
        word = self._word()
        self._expect("=")
        value = self._expression(0)
        self._expect(";")
        return self._node("let", word, value, self._sequence())

    def _if(self) -> _Node:
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

    def _ternary(self, condition: _Node) -> _Node:
        self._take()
        first = condition if self._is(":") else self._expression(0)
        self._expect(":")
        return self._node("if", None, condition, first, self._expression(0))

    def _primary(self) -> _Node:
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

    def _call(self, word: str, *first: _Node, is_library: bool = False) -> _Node:
        is_ours = not is_library and isinstance(self._environment.get(word), Signature)
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

    def _call_with_predicate(self, word: str, first: tuple[_Node, ...]) -> _Node:
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

    def _predicate(self) -> _Node:
        has_braces = self._is("{")
        if has_braces:
            self._take()
        self._predicates += 1
        node = self._sequence() if has_braces else self._expression(0)
        self._predicates -= 1
        if has_braces:
            self._expect("}")
        return node

    def _list(self) -> _Node:
        self._take()
        parts: list[_Node] = []
        while not self._is("]"):
            if parts:
                self._expect(",")
                if self._is("]"):
                    break
            parts.append(self._expression(0))
        self._expect("]")
        return self._node("list", None, *parts)

    def _map(self) -> _Node:
        self._take()
        parts: list[_Node] = []
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

    def _postfix(self, node: _Node) -> _Node:
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

    def _bracket(self, node: _Node, *, is_optional: bool) -> _Node:
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


# ---- checking


def _is_numeric(kind: Type) -> bool:
    return kind.kind in ("int", "float", "any")


_GROUPS = {
    "number": ("int", "float"),
    "numbers": ("int", "float", "list"),
    "sized": ("string", "list", "map"),
}


def _fits(given: Type, wanted: Type) -> bool:
    if "any" in (given.kind, wanted.kind):
        return True
    return given.kind in _GROUPS.get(wanted.kind, (wanted.kind,))


class _Checker:
    """Finds the type of each node, or that there can be none."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._scopes: list[tuple[str, Type]] = []
        self._elements: list[Type] = []
        self.names: set[str] = set()

    def type_of(self, node: _Node) -> Type:
        check: Callable[[_Node], Type] = getattr(self, f"_{node.kind}")
        return check(node)

    def _constant(self, node: _Node) -> Type:
        return Type(exprvalues.type_of(node.value))

    def _name(self, node: _Node) -> Type:
        word = str(node.value)
        for name, kind in reversed(self._scopes):
            if name == word:
                return kind
        found = self._environment.get(word)
        if isinstance(found, Signature) or word in BUILTINS:
            raise ExpressionError(f"{word} is a function, and is not called")
        if found is None:
            raise ExpressionError(f"unknown name {word}")
        self.names.add(word)
        return found

    def _pointer(self, node: _Node) -> Type:
        if node.value == "":
            return self._elements[-1]
        if node.value == "index":
            return INT
        if node.value == "acc":
            return ANY
        raise ExpressionError(f"unknown pointer #{node.value}")

    def _unary(self, node: _Node) -> Type:
        kind = self.type_of(node.parts[0])
        if node.value in ("!", "not"):
            self._wants(kind, BOOL, node)
            return BOOL
        if not _is_numeric(kind):
            raise ExpressionError(f"invalid operation: {node.value} (mismatched type {kind.kind})")
        return kind

    def _wants(self, kind: Type, wanted: Type, node: _Node) -> None:
        if not _fits(kind, wanted):
            raise ExpressionError(f"invalid operation: {node.value} (mismatched type {kind.kind})")

    def _binary(self, node: _Node) -> Type:
        left, right = (self.type_of(part) for part in node.parts)
        found = self._result(str(node.value), left, right)
        if found is None:
            raise ExpressionError(
                f"invalid operation: {node.value} (mismatched types {left.kind} and {right.kind})"
            )
        if node.value == "%" and node.parts[1] == _Node("constant", 0):
            raise ExpressionError("integer divide by zero")
        if node.value == "matches" and node.parts[1].kind == "constant":
            _regexp(str(node.parts[1].value))
        return found

    def _result(self, sign: str, left: Type, right: Type) -> Type | None:
        """Return the type of a binary operation, None if there is none of these types."""
        is_numeric = _is_numeric(left) and _is_numeric(right)
        is_textual = _fits(left, STRING) and _fits(right, STRING)
        match sign:
            case "==" | "!=":
                is_alike = _fits(left, right) or is_numeric or NIL in (left, right)
                return BOOL if is_alike else None
            case "or" | "||" | "and" | "&&":
                return BOOL if _fits(left, BOOL) and _fits(right, BOOL) else None
            case "<" | ">" | "<=" | ">=":
                return BOOL if is_numeric or is_textual else None
            case "+":
                if is_textual and (STRING in (left, right)) and left == right:
                    return STRING
                if is_textual and not is_numeric:
                    return ANY
                return self._sum(left, right) if is_numeric else None
            case "-" | "*":
                return self._sum(left, right) if is_numeric else None
            case "/" | "**" | "^":
                return FLOAT if is_numeric else None
            case "%" | "..":
                is_whole = _fits(left, INT) and _fits(right, INT)
                return None if not is_whole else INT if sign == "%" else INTS
            case "matches" | "contains" | "startsWith" | "endsWith":
                return BOOL if is_textual else None
            case "in":
                if right.kind == "list":
                    element = Type(right.element)
                    is_alike = _fits(left, element) or (_is_numeric(left) and _is_numeric(element))
                    return BOOL if is_alike or left == NIL else None
                if right.kind == "map":
                    return BOOL if _fits(left, STRING) else None
                return BOOL if right == ANY or (left == ANY and right == STRING) else None
        if left == NIL or right == NIL:
            return right if left == NIL else left
        return left if left == right else ANY

    def _sum(self, left: Type, right: Type) -> Type:
        if ANY in (left, right):
            return ANY
        return INT if left == right == INT else FLOAT

    def _list(self, node: _Node) -> Type:
        kinds = {self.type_of(part).kind for part in node.parts}
        return Type("list", kinds.pop() if len(kinds) == 1 else "any")

    def _map(self, node: _Node) -> Type:
        for i, part in enumerate(node.parts):
            kind = self.type_of(part)
            if not i % 2 and not _fits(kind, STRING):
                raise ExpressionError("a key of a map must be a string")
        return MAP

    def _member(self, node: _Node) -> Type:
        base, key = (self.type_of(part) for part in node.parts)
        if base.kind == "any":
            return ANY
        if base.kind == "map" and _fits(key, STRING):
            return ANY
        if base.kind == "list" and _fits(key, INT):
            return Type(base.element)
        raise ExpressionError(f"type {base.kind} has no field of type {key.kind}")

    def _optional(self, node: _Node) -> Type:
        self._member(node)
        return ANY

    def _chain(self, node: _Node) -> Type:
        return self.type_of(node.parts[0])

    def _slice(self, node: _Node) -> Type:
        base, start, end = (self.type_of(part) for part in node.parts)
        if base.kind not in ("any", "list", "string"):
            raise ExpressionError(f"cannot slice {base.kind}")
        for bound in (start, end):
            if bound != NIL and not _fits(bound, INT):
                raise ExpressionError(f"non-integer slice index {bound.kind}")
        return base

    def _if(self, node: _Node) -> Type:
        condition, first, other = (self.type_of(part) for part in node.parts)
        if not _fits(condition, BOOL):
            raise ExpressionError(f"non-bool expression (type {condition.kind}) used as condition")
        if NIL in (first, other):
            return other if first == NIL else first
        return first if first == other else ANY

    def _let(self, node: _Node) -> Type:
        word = str(node.value)
        if word in self._environment or word in BUILTINS:
            raise ExpressionError(f"cannot redeclare {word}")
        if any(name == word for name, _ in self._scopes):
            raise ExpressionError(f"cannot redeclare variable {word}")
        self._scopes.append((word, self.type_of(node.parts[0])))
        found = self.type_of(node.parts[1])
        self._scopes.pop()
        return found

    def _sequence(self, node: _Node) -> Type:
        return [self.type_of(part) for part in node.parts][-1]

    def _call(self, node: _Node) -> Type:
        found = self._environment.get(str(node.value))
        if not isinstance(found, Signature):
            raise ExpressionError(f"unknown name {node.value}")
        self.names.add(str(node.value))
        return self._called(node, found)

    def _library(self, node: _Node) -> Type:
        word = str(node.value)
        if word in _OF_THE_CLOCK:
            raise ExpressionError(f"{word} is not supported")
        found = self._called(node, exprvalues.LIBRARY[word][1])
        if word in ("first", "last"):
            return Type(self.type_of(node.parts[0]).element)
        return self.type_of(node.parts[0]) if word in ("abs", "take") else found

    def _called(self, node: _Node, signature: Signature) -> Type:
        kinds = [self.type_of(part) for part in node.parts]
        most = len(signature.parameters)
        if len(kinds) < most - signature.optional:
            raise ExpressionError(f"not enough arguments to call {node.value}")
        if len(kinds) > most and not signature.is_variadic:
            raise ExpressionError(f"too many arguments to call {node.value}")
        parameters = [*signature.parameters, *signature.parameters[-1:] * len(kinds)]
        for kind, wanted in zip(kinds, parameters, strict=False):
            if not _fits(kind, wanted):
                said = f"cannot use {kind.kind} as argument (type {wanted.kind})"
                raise ExpressionError(f"{said} to call {node.value}")
        return signature.result

    def _each(self, node: _Node) -> Type:
        word, (listed, *rest) = str(node.value), node.parts
        kind = self.type_of(listed)
        if not _fits(kind, LIST):
            raise ExpressionError(f"builtin {word} takes only array (got {kind.kind})")
        inner: Type | None = None
        if rest:
            self._elements.append(Type(kind.element))
            inner = self.type_of(rest[0])
            self._elements.pop()
        for part in rest[1:]:
            self.type_of(part)
        is_predicate = word not in ("map", "sum", "groupBy", "sortBy", "reduce")
        if inner is not None and is_predicate and not _fits(inner, BOOL):
            raise ExpressionError(f"predicate should return boolean (got {inner.kind})")
        if word in ("all", "none", "any", "one"):
            return BOOL
        if word in ("count", "findIndex", "findLastIndex"):
            return INT
        if word == "map" and inner is not None:
            return Type("list", inner.kind)
        if word in ("filter", "sortBy"):
            return kind if kind.kind == "list" else LIST
        if word == "groupBy":
            return MAP
        return ANY


@functools.lru_cache(256)
def _regexp(text: str) -> Regexp:
    try:
        return Regexp(text)
    except RegexpError as error:
        raise ExpressionError(f"{text[:40]!r}: {error}") from error


# ---- evaluation


class _Nothing(Exception):
    """An optional chain has come to nil."""


class _Run:
    """One evaluation: variables, the element a predicate is about, and the steps left."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values
        self._scopes: list[tuple[str, Value]] = []
        self._pointers: list[dict[str, Value]] = []
        self._left = MAX_STEPS

    def value(self, node: _Node) -> Value:
        self._left -= 1
        if self._left < 0:
            raise ExpressionError("takes too long")
        evaluate: Callable[[_Node], Value] = getattr(self, f"_{node.kind}")
        return evaluate(node)

    def _charge(self, *values: Value) -> None:
        """Take the work that large values are from the steps left."""
        for value in values:
            if isinstance(value, (str, list, dict)):
                self._left -= exprvalues.weight(value)

    def _constant(self, node: _Node) -> Value:
        return node.value

    def _name(self, node: _Node) -> Value:
        for name, value in reversed(self._scopes):
            if name == node.value:
                return value
        return self._values[str(node.value)]

    def _pointer(self, node: _Node) -> Value:
        return self._pointers[-1].get(str(node.value))

    def _unary(self, node: _Node) -> Value:
        value = self.value(node.parts[0])
        if node.value in ("!", "not"):
            return not exprvalues.truth(value)
        found = exprvalues.number(value)
        return found if node.value == "+" else exprvalues.ARITHMETIC["-"](0, found)

    def _binary(self, node: _Node) -> Value:
        sign, (left, right) = str(node.value), node.parts
        first = self.value(left)
        if sign in ("and", "&&"):
            return exprvalues.truth(first) and exprvalues.truth(self.value(right))
        if sign in ("or", "||"):
            return exprvalues.truth(first) or exprvalues.truth(self.value(right))
        if sign == "??":
            return self.value(right) if first is None else first
        other = self.value(right)
        self._charge(first, other)
        if sign in exprvalues.COMPARISONS:
            return exprvalues.COMPARISONS[sign](first, other)
        if sign in exprvalues.ARITHMETIC:
            return exprvalues.ARITHMETIC[sign](first, other)
        if sign == "in":
            return exprvalues.contains(first, other)
        if sign == "..":
            return self._range(exprvalues.whole(first), exprvalues.whole(other))
        if first is None or other is None:
            return False
        return self._textual(sign, exprvalues.text(first), exprvalues.text(other))

    def _range(self, first: int, last: int) -> Value:
        if last - first >= MAX_RANGE:
            raise ExpressionError("memory budget exceeded")
        self._left -= max(last - first, 0) // 8
        return [*range(first, last + 1)]

    def _textual(self, sign: str, first: str, other: str) -> bool:
        if sign == "contains":
            return other in first
        if sign == "startsWith":
            return first.startswith(other)
        if sign == "endsWith":
            return first.endswith(other)
        return _regexp(other).is_in(first)

    def _list(self, node: _Node) -> Value:
        return [self.value(part) for part in node.parts]

    def _map(self, node: _Node) -> Value:
        pairs = zip(node.parts[::2], node.parts[1::2], strict=True)
        return {exprvalues.text(self.value(key)): self.value(value) for key, value in pairs}

    def _member(self, node: _Node) -> Value:
        base = self.value(node.parts[0])
        return exprvalues.member(base, self.value(node.parts[1]))

    def _optional(self, node: _Node) -> Value:
        base = self.value(node.parts[0])
        if base is None:
            raise _Nothing
        return exprvalues.member(base, self.value(node.parts[1]))

    def _chain(self, node: _Node) -> Value:
        try:
            return self.value(node.parts[0])
        except _Nothing:
            return None

    def _slice(self, node: _Node) -> Value:
        base, start, end = (self.value(part) for part in node.parts)
        self._charge(base)
        return exprvalues.part(base, start, end)

    def _if(self, node: _Node) -> Value:
        condition, first, other = node.parts
        return self.value(first if exprvalues.truth(self.value(condition)) else other)

    def _let(self, node: _Node) -> Value:
        self._scopes.append((str(node.value), self.value(node.parts[0])))
        found = self.value(node.parts[1])
        self._scopes.pop()
        return found

    def _sequence(self, node: _Node) -> Value:
        return [self.value(part) for part in node.parts][-1]

    def _call(self, node: _Node) -> Value:
        function = self._values[str(node.value)]
        assert callable(function)
        found: Value = function(*[self.value(part) for part in node.parts])
        return found

    def _library(self, node: _Node) -> Value:
        function, signature = exprvalues.LIBRARY[str(node.value)]
        arguments = [self.value(part) for part in node.parts]
        self._charge(*arguments)
        parameters = [*signature.parameters, *signature.parameters[-1:] * len(arguments)]
        for argument, wanted in zip(arguments, parameters, strict=False):
            if not _fits(Type(exprvalues.type_of(argument)), wanted):
                said = f"cannot use {exprvalues.type_of(argument)} as {wanted.kind}"
                raise ExpressionError(f"{said} to call {node.value}")
        return function(*arguments)

    # predicates

    def _each(self, node: _Node) -> Value:
        word, (listed, *rest) = str(node.value), node.parts
        values = exprvalues.items(self.value(listed))
        self._charge(values)
        evaluate = getattr(self, f"_each_{word}", None)
        if evaluate is not None:
            return evaluate(values, rest)
        made: list[Value] = []
        for i, value in enumerate(values):
            made.append(self._inner(rest[0], value, i) if rest else value)
        return self._made(word, values, made, rest[1:])

    def _inner(self, node: _Node, value: Value, index: int, acc: Value = None) -> Value:
        self._pointers.append({"": value, "index": index, "acc": acc})
        found = self.value(node)
        self._pointers.pop()
        return found

    def _matching(self, values: list[Value], node: _Node, order: int = 1) -> int:
        """Return the place of the first value, or the last, that a predicate is true of, or -1."""
        for i in range(len(values))[::order]:
            if exprvalues.truth(self._inner(node, values[i], i)):
                return i
        return -1

    def _each_any(self, values: list[Value], rest: list[_Node]) -> Value:
        return self._matching(values, rest[0]) >= 0

    def _each_none(self, values: list[Value], rest: list[_Node]) -> Value:
        return self._matching(values, rest[0]) < 0

    def _each_all(self, values: list[Value], rest: list[_Node]) -> Value:
        return all(
            exprvalues.truth(self._inner(rest[0], value, i)) for i, value in enumerate(values)
        )

    def _each_find(self, values: list[Value], rest: list[_Node]) -> Value:
        i = self._matching(values, rest[0])
        return None if i < 0 else values[i]

    def _each_findLast(self, values: list[Value], rest: list[_Node]) -> Value:
        i = self._matching(values, rest[0], -1)
        return None if i < 0 else values[i]

    def _each_findIndex(self, values: list[Value], rest: list[_Node]) -> Value:
        i = self._matching(values, rest[0])
        return None if i < 0 else i

    def _each_findLastIndex(self, values: list[Value], rest: list[_Node]) -> Value:
        i = self._matching(values, rest[0], -1)
        return None if i < 0 else i

    def _each_reduce(self, values: list[Value], rest: list[_Node]) -> Value:
        if len(rest) > 1:
            acc, start = self.value(rest[1]), 0
        elif values:
            acc, start = values[0], 1
        else:
            raise ExpressionError("reduce of an empty list without an initial value")
        for i, value in enumerate(values[start:], start):
            acc = self._inner(rest[0], value, i, acc)
        return acc

    def _made(self, word: str, values: list[Value], made: list[Value], rest: list[_Node]) -> Value:
        """Return what comes of the values of a predicate for each element."""
        match word:
            case "map":
                return made
            case "filter":
                kept = zip(values, made, strict=True)
                return [value for value, is_in in kept if exprvalues.truth(is_in)]
            case "count":
                return sum(map(exprvalues.truth, made))
            case "one":
                return sum(map(exprvalues.truth, made)) == 1
            case "sum":
                total: Value = 0
                for each in made:
                    total = exprvalues.plus(total, each)
                return total
            case "groupBy":
                groups: dict[Value, Value] = {}
                for value, key in zip(values, made, strict=True):
                    if isinstance(key, (list, dict)):
                        raise ExpressionError(f"{exprvalues.type_of(key)} as key of a map")
                    exprvalues.items(groups.setdefault(key, [])).append(value)
                return groups
        order = exprvalues.text(self.value(rest[0])) if rest else "asc"
        return [values[i] for i in exprvalues.ranked(made, order)]
