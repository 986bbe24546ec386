"""Values of expressions: types, comparison, arithmetic, elements.

Values are None, bool, int (64 bits, which wrap), float, str, list and dict. A value of a wrong type
raises ``ExpressionError``. (expr-lang/expr: vm/runtime)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

MAX_CHARACTERS = 100_000  # of a resulting text
MAX_ELEMENTS = 20_000  # of a list, with those of nested lists

Value = object
Function = Callable[..., Value]


class ExpressionError(ValueError):
    """An invalid expression, or one that cannot be evaluated."""


class Type(NamedTuple):
    """The static type of a value; ``element`` is that of a list's elements."""

    name: str
    element: str = "any"


ANY, NIL, BOOL, INT, FLOAT, STRING = map(Type, ("any", "nil", "bool", "int", "float", "string"))
LIST, MAP = Type("list"), Type("map")
NUMBER, NUMBERS, SIZED = Type("number"), Type("numbers"), Type("sized")  # of parameters only
STRINGS, INTS = Type("list", "string"), Type("list", "int")


class Signature(NamedTuple):
    """A function: types of its parameters and result, and the number of optional parameters."""

    parameters: tuple[Type, ...]
    result: Type
    optional: int = 0
    is_variadic: bool = False


def type_of(value: Value) -> str:
    """Return the name of a value's type, for messages."""
    for type_, word in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, type_):
            return word
    return "nil" if value is None else "list" if isinstance(value, list) else "map"


def is_number(value: Value) -> bool:
    """Tell whether a value is an int or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value: Value) -> int | float:
    """Return a value that is a number."""
    if not is_number(value):
        raise ExpressionError(f"invalid operation: number of {type_of(value)}")
    assert isinstance(value, (int, float))
    return value


def whole(value: Value) -> int:
    """Return a number without its fraction."""
    found = number(value)
    if isinstance(found, float):
        if not math.isfinite(found):
            return -(2**63)
        return wrapped(int(found))
    return found


def text(value: Value) -> str:
    """Return a value that is a string."""
    if not isinstance(value, str):
        raise ExpressionError(f"invalid operation: string of {type_of(value)}")
    return value


def items(value: Value) -> list[Value]:
    """Return a value that is a list."""
    if not isinstance(value, list):
        raise ExpressionError(f"invalid operation: list of {type_of(value)}")
    return value


def truth(value: Value) -> bool:
    """Return a value that is a bool; nil is false."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ExpressionError(f"invalid operation: bool of {type_of(value)}")
    return value


def wrapped(value: int) -> int:
    """Return a whole number wrapped to 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def equal(one: Value, other: Value) -> bool:
    """Tell whether two values are equal: numbers by value, all others only when of one type."""
    if is_number(one) and is_number(other):
        return one == other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def less(one: Value, other: Value) -> bool:
    """Tell whether ``one`` comes before ``other``: two numbers or two strings."""
    if is_number(one) and is_number(other):
        return number(one) < number(other)
    if isinstance(one, str) and isinstance(other, str):
        return one.encode("utf-8", "surrogateescape") < other.encode("utf-8", "surrogateescape")
    raise ExpressionError(f"invalid operation: {type_of(one)} < {type_of(other)}")


def _not_above(one: Value, other: Value) -> bool:
    return not less(other, one)


COMPARISONS: dict[str, Callable[[Value, Value], bool]] = {
    "==": equal,
    "!=": lambda one, other: not equal(one, other),
    "<": less,
    ">": lambda one, other: less(other, one),
    "<=": _not_above,
    ">=": lambda one, other: _not_above(other, one),
}


def plus(one: Value, other: Value) -> Value:
    """Return the sum of two numbers, or the concatenation of two strings."""
    if isinstance(one, str) and isinstance(other, str):
        return bounded(one + other)
    return fitted(number(one) + number(other))


def quotient(one: Value, other: Value) -> float:
    """Return a quotient as a float; a division by zero is an infinity or NaN."""
    above, below = float(number(one)), float(number(other))
    if below:
        return above / below
    return math.nan if not above or math.isnan(above) else math.copysign(math.inf, above)


def remainder(one: Value, other: Value) -> int:
    """Return the remainder of two whole numbers; it has the sign of the first."""
    if isinstance(one, float) or isinstance(other, float):
        raise ExpressionError("invalid operation: float % float")
    below = whole(other)
    if not below:
        raise ExpressionError("integer divide by zero")
    above = whole(one)
    return abs(above) % abs(below) * (-1 if above < 0 else 1)


def power(one: Value, other: Value) -> float:
    """Return a power as a float."""
    try:
        found = float(number(one)) ** float(number(other))
        return found if isinstance(found, float) else math.nan
    except OverflowError:
        return math.inf
    except ZeroDivisionError:
        return math.inf


def fitted(value: int | float) -> int | float:
    """Return a number, whole ones wrapped to 64 bits."""
    return value if isinstance(value, float) else wrapped(value)


ARITHMETIC: dict[str, Callable[[Value, Value], Value]] = {
    "+": plus,
    "-": lambda one, other: fitted(number(one) - number(other)),
    "*": lambda one, other: fitted(number(one) * number(other)),
    "/": quotient,
    "%": remainder,
    "**": power,
    "^": power,
}


def weight(value: Value) -> int:
    """Return the weight of a value: all nested elements, and a part of the characters.

    Raises:
        ExpressionError: it is too large; shared lists count each time.
    """
    if isinstance(value, str):
        return len(value) // 64
    if not isinstance(value, (list, dict)):
        return 0
    total, ahead = 0, [value]
    while ahead:
        inner = ahead.pop()
        total += len(inner)
        if total > MAX_ELEMENTS:
            raise ExpressionError("makes too long a list")
        for each in inner.values() if isinstance(inner, dict) else inner:
            if isinstance(each, (list, dict)):
                ahead.append(each)
    return total


def contains(needle: Value, where: Value) -> bool:
    """Tell whether a value is in a list, or a key in a map."""
    if where is None:
        return False
    if isinstance(where, list):
        return any(equal(each, needle) for each in where)
    if isinstance(where, dict):
        return isinstance(needle, str) and needle in where
    raise ExpressionError(f'operator "in" not defined on {type_of(where)}')


def member(of: Value, key: Value) -> Value:
    """Return an element of a list, counted from its end if negative, or of a map."""
    if isinstance(of, dict):
        return of.get(key)
    if isinstance(of, (list, str)):
        i = whole(key)
        octets = of.encode("utf-8", "surrogateescape") if isinstance(of, str) else of
        if not -len(octets) <= i < len(octets):
            raise ExpressionError(f"index out of range: {i} (array length is {len(octets)})")
        return octets[i]
    raise ExpressionError(f"cannot fetch {key!r} from {type_of(of)}")


def part(of: Value, start: Value, end: Value) -> Value:
    """Return a slice of a list or a string; bounds are clamped to its ends."""
    if not isinstance(of, (list, str)):
        raise ExpressionError(f"cannot slice {type_of(of)}")
    length = len(of)
    first = 0 if start is None else whole(start)
    last = length if end is None else whole(end)
    first = max(first + length, 0) if first < 0 else first
    last = max(last + length, 0) if last < 0 else min(last, length)
    return of[min(first, last) : last]


def bounded(made: str) -> str:
    """Return a resulting text. Raises ExpressionError if it is too long."""
    if len(made) > MAX_CHARACTERS:
        raise ExpressionError("makes too long a text")
    return made
