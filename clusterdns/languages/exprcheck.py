"""The types of expressions, checked before evaluation.

An ``Environment`` defines the names: variables with their types, functions with their signatures.
(expr-lang/expr 1.17: checker)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from clusterdns.languages import exprlibrary, exprvalues
from clusterdns.languages.exprsyntax import BUILTINS, OF_THE_CLOCK, Node
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
)
from clusterdns.languages.regexp import Regexp, RegexpError

Environment = Mapping[str, Type | Signature]


def _is_numeric(type_: Type) -> bool:
    return type_.name in ("int", "float", "any")


_GROUPS = {
    "number": ("int", "float"),
    "numbers": ("int", "float", "list"),
    "sized": ("string", "list", "map"),
}


def fits(given: Type, wanted: Type) -> bool:
    """Tell whether a value of one type may be used where another is wanted."""
    if "any" in (given.name, wanted.name):
        return True
    return given.name in _GROUPS.get(wanted.name, (wanted.name,))


class Checker:
    """Finds the type of each node, or its type error."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._scopes: list[tuple[str, Type]] = []
        self._elements: list[Type] = []
        self.names: set[str] = set()

    def type_of(self, node: Node) -> Type:
        """Return the type of a node's value. Raises ExpressionError."""
        check: Callable[[Node], Type] = getattr(self, f"_{node.kind}")
        return check(node)

    def _constant(self, node: Node) -> Type:
        return Type(exprvalues.type_of(node.value))

    def _name(self, node: Node) -> Type:
        word = str(node.value)
        for name, type_ in reversed(self._scopes):
            if name == word:
                return type_
        found = self._environment.get(word)
        if isinstance(found, Signature) or word in BUILTINS:
            raise ExpressionError(f"{word} is a function, and is not called")
        if found is None:
            raise ExpressionError(f"unknown name {word}")
        self.names.add(word)
        return found

    def _pointer(self, node: Node) -> Type:
        if node.value == "":
            return self._elements[-1]
        if node.value == "index":
            return INT
        if node.value == "acc":
            return ANY
        raise ExpressionError(f"unknown pointer #{node.value}")

    def _unary(self, node: Node) -> Type:
        type_ = self.type_of(node.parts[0])
        if node.value in ("!", "not"):
            self._wants(type_, BOOL, node)
            return BOOL
        if not _is_numeric(type_):
            raise ExpressionError(f"invalid operation: {node.value} (mismatched type {type_.name})")
        return type_

    def _wants(self, type_: Type, wanted: Type, node: Node) -> None:
        if not fits(type_, wanted):
            raise ExpressionError(f"invalid operation: {node.value} (mismatched type {type_.name})")

    def _binary(self, node: Node) -> Type:
        left, right = (self.type_of(part) for part in node.parts)
        found = self._result(str(node.value), left, right)
        if found is None:
            raise ExpressionError(
                f"invalid operation: {node.value} (mismatched types {left.name} and {right.name})"
            )
        if node.value == "%" and node.parts[1] == Node("constant", 0):
            raise ExpressionError("integer divide by zero")
        if node.value == "matches" and node.parts[1].kind == "constant":
            compiled(str(node.parts[1].value))
        return found

    def _result(self, sign: str, left: Type, right: Type) -> Type | None:
        """Return the type of a binary operation, None if it does not take these types."""
        is_numeric = _is_numeric(left) and _is_numeric(right)
        is_textual = fits(left, STRING) and fits(right, STRING)
        match sign:
            case "==" | "!=":
                is_alike = fits(left, right) or is_numeric or NIL in (left, right)
                return BOOL if is_alike else None
            case "or" | "||" | "and" | "&&":
                return BOOL if fits(left, BOOL) and fits(right, BOOL) else None
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
                is_whole = fits(left, INT) and fits(right, INT)
                return None if not is_whole else INT if sign == "%" else INTS
            case "matches" | "contains" | "startsWith" | "endsWith":
                return BOOL if is_textual else None
            case "in":
                if right.name == "list":
                    element = Type(right.element)
                    is_alike = fits(left, element) or (_is_numeric(left) and _is_numeric(element))
                    return BOOL if is_alike or left == NIL else None
                if right.name == "map":
                    return BOOL if fits(left, STRING) else None
                return BOOL if right == ANY or (left == ANY and right == STRING) else None
        if left == NIL or right == NIL:
            return right if left == NIL else left
        return left if left == right else ANY

    def _sum(self, left: Type, right: Type) -> Type:
        if ANY in (left, right):
            return ANY
        return INT if left == right == INT else FLOAT

    def _list(self, node: Node) -> Type:
        types = {self.type_of(part).name for part in node.parts}
        return Type("list", types.pop() if len(types) == 1 else "any")

    def _map(self, node: Node) -> Type:
        for i, part in enumerate(node.parts):
            type_ = self.type_of(part)
            if not i % 2 and not fits(type_, STRING):
                raise ExpressionError("a key of a map must be a string")
        return MAP

    def _member(self, node: Node) -> Type:
        base, key = (self.type_of(part) for part in node.parts)
        if base.name == "any":
            return ANY
        if base.name == "map" and fits(key, STRING):
            return ANY
        if base.name == "list" and fits(key, INT):
            return Type(base.element)
        raise ExpressionError(f"type {base.name} has no field of type {key.name}")

    def _optional(self, node: Node) -> Type:
        self._member(node)
        return ANY

    def _chain(self, node: Node) -> Type:
        return self.type_of(node.parts[0])

    def _slice(self, node: Node) -> Type:
        base, start, end = (self.type_of(part) for part in node.parts)
        if base.name not in ("any", "list", "string"):
            raise ExpressionError(f"cannot slice {base.name}")
        for bound in (start, end):
            if bound != NIL and not fits(bound, INT):
                raise ExpressionError(f"non-integer slice index {bound.name}")
        return base

    def _if(self, node: Node) -> Type:
        condition, first, other = (self.type_of(part) for part in node.parts)
        if not fits(condition, BOOL):
            raise ExpressionError(f"non-bool expression (type {condition.name}) used as condition")
        if NIL in (first, other):
            return other if first == NIL else first
        return first if first == other else ANY

    def _let(self, node: Node) -> Type:
        word = str(node.value)
        if word in self._environment or word in BUILTINS:
            raise ExpressionError(f"cannot redeclare {word}")
        if any(name == word for name, _ in self._scopes):
            raise ExpressionError(f"cannot redeclare variable {word}")
        self._scopes.append((word, self.type_of(node.parts[0])))
        found = self.type_of(node.parts[1])
        self._scopes.pop()
        return found

    def _sequence(self, node: Node) -> Type:
        return [self.type_of(part) for part in node.parts][-1]

    def _call(self, node: Node) -> Type:
        found = self._environment.get(str(node.value))
        if not isinstance(found, Signature):
            raise ExpressionError(f"unknown name {node.value}")
        self.names.add(str(node.value))
        return self._called(node, found)

    def _library(self, node: Node) -> Type:
        word = str(node.value)
        if word in OF_THE_CLOCK:
            raise ExpressionError(f"{word} is not supported")
        found = self._called(node, exprlibrary.LIBRARY[word][1])
        if word in ("first", "last"):
            return Type(self.type_of(node.parts[0]).element)
        return self.type_of(node.parts[0]) if word in ("abs", "take") else found

    def _called(self, node: Node, signature: Signature) -> Type:
        types = [self.type_of(part) for part in node.parts]
        most = len(signature.parameters)
        if len(types) < most - signature.optional:
            raise ExpressionError(f"not enough arguments to call {node.value}")
        if len(types) > most and not signature.is_variadic:
            raise ExpressionError(f"too many arguments to call {node.value}")
        parameters = [*signature.parameters, *signature.parameters[-1:] * len(types)]
        for type_, wanted in zip(types, parameters, strict=False):
            if not fits(type_, wanted):
                said = f"cannot use {type_.name} as argument (type {wanted.name})"
                raise ExpressionError(f"{said} to call {node.value}")
        return signature.result

    def _each(self, node: Node) -> Type:
        word, (listed, *rest) = str(node.value), node.parts
        type_ = self.type_of(listed)
        if not fits(type_, LIST):
            raise ExpressionError(f"builtin {word} takes only array (got {type_.name})")
        inner: Type | None = None
        if rest:
            self._elements.append(Type(type_.element))
            inner = self.type_of(rest[0])
            self._elements.pop()
        for part in rest[1:]:
            self.type_of(part)
        is_predicate = word not in ("map", "sum", "groupBy", "sortBy", "reduce")
        if inner is not None and is_predicate and not fits(inner, BOOL):
            raise ExpressionError(f"predicate should return boolean (got {inner.name})")
        if word in ("all", "none", "any", "one"):
            return BOOL
        if word in ("count", "findIndex", "findLastIndex"):
            return INT
        if word == "map" and inner is not None:
            return Type("list", inner.name)
        if word in ("filter", "sortBy"):
            return type_ if type_.name == "list" else LIST
        if word == "groupBy":
            return MAP
        return ANY


@functools.lru_cache(256)
def compiled(text: str) -> Regexp:
    """Return a regular expression, compiled once for all questions."""
    try:
        return Regexp(text)
    except RegexpError as error:
        raise ExpressionError(f"{text[:40]!r}: {error}") from error
