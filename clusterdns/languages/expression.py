"""Expressions of expr-lang: parsed and checked once, evaluated with bounded work.

``Expression`` parses a text and checks it against an environment of variables with their types and
functions with their signatures. ``run`` evaluates it with their values. The whole language is
supported except functions of the clock (`now`, `date`, `duration`, `timezone`) and octet literals.
(expr-lang/expr 1.17: vm)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clusterdns.languages import exprlibrary, exprvalues
from clusterdns.languages.exprcheck import Checker, Environment, compiled, fits
from clusterdns.languages.exprsyntax import Node, Parser, is_name
from clusterdns.languages.exprvalues import ExpressionError, Signature, Type, Value

__all__ = ["Environment", "Expression", "ExpressionError", "is_name"]

MAX_STEPS = 20_000  # nodes evaluated for one question: some 10 ms
MAX_RANGE = 10_000


class Expression:
    """One expression; ``type`` is that of its value, ``names`` the names it uses."""

    def __init__(self, text: str, environment: Environment) -> None:
        """Parse and check it.

        Raises:
            ExpressionError: it is invalid, or does not fit the environment.
        """
        self.text = text
        functions = {word for word, type_ in environment.items() if isinstance(type_, Signature)}
        try:
            self._root = Parser(text, functions).parse()
            checker = Checker(environment)
            self.type = checker.type_of(self._root)
        except RecursionError as error:
            raise ExpressionError("nested too deep") from error
        self.names = frozenset(checker.names)

    def run(self, values: Mapping[str, Value]) -> Value:
        """Return its value for values of the environment; functions are callables.

        Raises:
            ExpressionError: it cannot be evaluated, or takes too long.
        """
        try:
            found = _Run(values).value(self._root)
            exprvalues.weight(found)  # bounds the work of printing it
            return found
        except RecursionError as error:
            raise ExpressionError("nested too deep") from error


class _Nothing(Exception):
    """An optional chain has reached nil."""


class _Run:
    """One evaluation: variables, the element of a predicate, and the steps left."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values
        self._scopes: list[tuple[str, Value]] = []
        self._pointers: list[dict[str, Value]] = []
        self._left = MAX_STEPS

    def value(self, node: Node) -> Value:
        self._left -= 1
        if self._left < 0:
            raise ExpressionError("takes too long")
        evaluate: Callable[[Node], Value] = getattr(self, f"_{node.kind}")
        return evaluate(node)

    def _charge(self, *values: Value) -> None:
        """Subtract the weight of large values from the steps left."""
        for value in values:
            if isinstance(value, (str, list, dict)):
                self._left -= exprvalues.weight(value)

    def _constant(self, node: Node) -> Value:
        return node.value

    def _name(self, node: Node) -> Value:
        for name, value in reversed(self._scopes):
            if name == node.value:
                return value
        return self._values[str(node.value)]

    def _pointer(self, node: Node) -> Value:
        return self._pointers[-1].get(str(node.value))

    def _unary(self, node: Node) -> Value:
        value = self.value(node.parts[0])
        if node.value in ("!", "not"):
            return not exprvalues.truth(value)
        found = exprvalues.number(value)
        return found if node.value == "+" else exprvalues.ARITHMETIC["-"](0, found)

    def _binary(self, node: Node) -> Value:
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
        return compiled(other).is_in(first)

    def _list(self, node: Node) -> Value:
        return [self.value(part) for part in node.parts]

    def _map(self, node: Node) -> Value:
        pairs = zip(node.parts[::2], node.parts[1::2], strict=True)
        return {exprvalues.text(self.value(key)): self.value(value) for key, value in pairs}

    def _member(self, node: Node) -> Value:
        base = self.value(node.parts[0])
        return exprvalues.member(base, self.value(node.parts[1]))

    def _optional(self, node: Node) -> Value:
        base = self.value(node.parts[0])
        if base is None:
            raise _Nothing
        return exprvalues.member(base, self.value(node.parts[1]))

    def _chain(self, node: Node) -> Value:
        try:
            return self.value(node.parts[0])
        except _Nothing:
            return None

    def _slice(self, node: Node) -> Value:
        base, start, end = (self.value(part) for part in node.parts)
        self._charge(base)
        return exprvalues.part(base, start, end)

    def _if(self, node: Node) -> Value:
        condition, first, other = node.parts
        return self.value(first if exprvalues.truth(self.value(condition)) else other)

    def _let(self, node: Node) -> Value:
        self._scopes.append((str(node.value), self.value(node.parts[0])))
        found = self.value(node.parts[1])
        self._scopes.pop()
        return found

    def _sequence(self, node: Node) -> Value:
        return [self.value(part) for part in node.parts][-1]

    def _call(self, node: Node) -> Value:
        function = self._values[str(node.value)]
        assert callable(function)
        found: Value = function(*[self.value(part) for part in node.parts])
        return found

    def _library(self, node: Node) -> Value:
        function, signature = exprlibrary.LIBRARY[str(node.value)]
        arguments = [self.value(part) for part in node.parts]
        self._charge(*arguments)
        parameters = [*signature.parameters, *signature.parameters[-1:] * len(arguments)]
        for argument, wanted in zip(arguments, parameters, strict=False):
            if not fits(Type(exprvalues.type_of(argument)), wanted):
                said = f"cannot use {exprvalues.type_of(argument)} as {wanted.name}"
                raise ExpressionError(f"{said} to call {node.value}")
        return function(*arguments)

    # predicates

    def _each(self, node: Node) -> Value:
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

    def _inner(self, node: Node, value: Value, index: int, acc: Value = None) -> Value:
        self._pointers.append({"": value, "index": index, "acc": acc})
        found = self.value(node)
        self._pointers.pop()
        return found

    def _matching(self, values: list[Value], node: Node, order: int = 1) -> int:
        """Return the index of the first value, or the last, that satisfies a predicate, or -1."""
        for i in range(len(values))[::order]:
            if exprvalues.truth(self._inner(node, values[i], i)):
                return i
        return -1

    def _each_any(self, values: list[Value], rest: list[Node]) -> Value:
        return self._matching(values, rest[0]) >= 0

    def _each_none(self, values: list[Value], rest: list[Node]) -> Value:
        return self._matching(values, rest[0]) < 0

    def _each_all(self, values: list[Value], rest: list[Node]) -> Value:
        return all(
            exprvalues.truth(self._inner(rest[0], value, i)) for i, value in enumerate(values)
        )

    def _each_find(self, values: list[Value], rest: list[Node]) -> Value:
        i = self._matching(values, rest[0])
        return None if i < 0 else values[i]

    def _each_findLast(self, values: list[Value], rest: list[Node]) -> Value:
        i = self._matching(values, rest[0], -1)
        return None if i < 0 else values[i]

    def _each_findIndex(self, values: list[Value], rest: list[Node]) -> Value:
        i = self._matching(values, rest[0])
        return None if i < 0 else i

    def _each_findLastIndex(self, values: list[Value], rest: list[Node]) -> Value:
        i = self._matching(values, rest[0], -1)
        return None if i < 0 else i

    def _each_reduce(self, values: list[Value], rest: list[Node]) -> Value:
        if len(rest) > 1:
            acc, start = self.value(rest[1]), 0
        elif values:
            acc, start = values[0], 1
        else:
            raise ExpressionError("reduce of an empty list without an initial value")
        for i, value in enumerate(values[start:], start):
            acc = self._inner(rest[0], value, i, acc)
        return acc

    def _made(self, word: str, values: list[Value], made: list[Value], rest: list[Node]) -> Value:
        """Return the result of a function from the values of its predicate."""
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
        return [values[i] for i in exprlibrary.ranked(made, order)]
