"""Values of expressions: how they compare and add up, and the functions of expr-lang's library.

Values are None, bool, int (64 bits, which wrap), float, str, list and dict. A wrong one raises
``ExpressionError``. (expr-lang/expr: vm/runtime, builtin)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from clusterdns.languages import goformat

MAX_CHARACTERS = 100_000  # of a text that is made
MAX_ELEMENTS = 20_000  # of a list, with those of lists in it
MAX_DEPTH = 100

Value = object
Function = Callable[..., Value]


class ExpressionError(ValueError):
    """A text that is no expression, or one that cannot be evaluated."""


class Type(NamedTuple):
    """What is known of a value before there is one; ``element`` is that of a list."""

    name: str
    element: str = "any"


ANY, NIL, BOOL, INT, FLOAT, STRING = map(Type, ("any", "nil", "bool", "int", "float", "string"))
LIST, MAP = Type("list"), Type("map")
NUMBER, NUMBERS, SIZED = Type("number"), Type("numbers"), Type("sized")  # of parameters only
STRINGS, INTS = Type("list", "string"), Type("list", "int")


class Signature(NamedTuple):
    """A function: types of its parameters and its result, and how many parameters may be left."""

    parameters: tuple[Type, ...]
    result: Type
    optional: int = 0
    is_variadic: bool = False


def type_of(value: Value) -> str:
    """Return the type of a value, as messages call it."""
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
    """Return a whole number as 64 bits hold it."""
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
    """Return the sum of two numbers, or two strings one behind the other."""
    if isinstance(one, str) and isinstance(other, str):
        return _bounded(one + other)
    return _numeric(number(one) + number(other))


def quotient(one: Value, other: Value) -> float:
    """Return a quotient, which is a float; a division by zero is an infinity, or none."""
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
    """Return a power, which is a float."""
    try:
        found = float(number(one)) ** float(number(other))
        return found if isinstance(found, float) else math.nan
    except OverflowError:
        return math.inf
    except ZeroDivisionError:
        return math.inf


def _numeric(value: int | float) -> int | float:
    return value if isinstance(value, float) else wrapped(value)


ARITHMETIC: dict[str, Callable[[Value, Value], Value]] = {
    "+": plus,
    "-": lambda one, other: _numeric(number(one) - number(other)),
    "*": lambda one, other: _numeric(number(one) * number(other)),
    "/": quotient,
    "%": remainder,
    "**": power,
    "^": power,
}


def weight(value: Value) -> int:
    """Return how much work a value is: its elements, and theirs; of a text its characters in part.

    Raises:
        ExpressionError: it is too large. Lists may share parts, so it may be large beyond measure.
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
    """Return a slice of a list or a string; bounds beyond it mean its ends."""
    if not isinstance(of, (list, str)):
        raise ExpressionError(f"cannot slice {type_of(of)}")
    length = len(of)
    first = 0 if start is None else whole(start)
    last = length if end is None else whole(end)
    first = max(first + length, 0) if first < 0 else first
    last = max(last + length, 0) if last < 0 else min(last, length)
    return of[min(first, last) : last]


def _bounded(made: str) -> str:
    if len(made) > MAX_CHARACTERS:
        raise ExpressionError("makes too long a text")
    return made


# ---- the library


def _shown(value: Value) -> str:
    return _bounded(goformat.text(value))


def _int(value: Value) -> int:
    if isinstance(value, str):
        digits = value[1:] if value[:1] in ("+", "-") else value
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            raise ExpressionError(f"invalid operation: int({value[:40]})")
        return wrapped(int(value))
    return whole(value)


def _float(value: Value) -> float:
    try:
        return float(value if isinstance(value, str) else number(value))
    except (ValueError, OverflowError) as error:
        raise ExpressionError(f"invalid operation: float({value!r:.40})") from error


def _round(value: Value) -> float:
    found = float(number(value))
    return math.copysign(math.floor(abs(found) + 0.5), found) if math.isfinite(found) else found


def _whole_float(function: Callable[[float], int]) -> Function:
    def call(value: Value) -> float:
        found = float(number(value))
        return float(function(found)) if math.isfinite(found) else found

    return call


def _trim(value: str, characters: str | None = None) -> str:
    return value.strip(" \t\n\v\f\r\x85\xa0") if characters is None else value.strip(characters)


def _split(value: str, separator: str, most: int = -1, *, keeps: bool = False) -> list[Value]:
    if most == 0:
        return []
    if separator:
        parts = value.split(separator, most - 1 if most > 0 else -1)
    else:
        cut = most - 1 if 0 < most <= len(value) else len(value)
        parts = [*value[:cut], *([value[cut:]] if cut < len(value) else [])]
    if keeps and separator:
        parts[:-1] = [each + separator for each in parts[:-1]]
    return [*parts]


def _replace(value: str, old: str, new: str, most: int = -1) -> str:
    times = value.count(old) if most < 0 else min(value.count(old), most)
    if len(value) + times * (len(new) - len(old)) > MAX_CHARACTERS:
        raise ExpressionError("makes too long a text")
    return value.replace(old, new, most)


def _repeat(value: str, times: int) -> str:
    if times < 0 or times * len(value) > MAX_CHARACTERS:
        raise ExpressionError("repeated too often")
    return value * times


def _join(values: list[Value], glue: str = "") -> str:
    return _bounded(glue.join(text(each) for each in values))


def _index_of(value: str, part: str) -> int:
    return len(value[: value.find(part)].encode()) if part in value else -1


def _last_index_of(value: str, part: str) -> int:
    return len(value[: value.rfind(part)].encode()) if part in value else -1


def _numbers(values: tuple[Value, ...], depth: int = 0) -> Iterator[int | float]:
    if depth > MAX_DEPTH:
        raise ExpressionError("recursion depth exceeded")
    for value in values:
        if isinstance(value, list):
            yield from _numbers(tuple(value), depth + 1)
        else:
            yield number(value)


def _max(*values: Value) -> Value:
    return max(_numbers(values), default=None)


def _min(*values: Value) -> Value:
    return min(_numbers(values), default=None)


def _mean(*values: Value) -> float:
    found = [float(each) for each in _numbers(values)]
    return sum(found) / len(found) if found else 0.0


def _median(*values: Value) -> float:
    found = sorted(float(each) for each in _numbers(values))
    if not found:
        return 0.0
    middle = len(found) // 2
    return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2


def _length(value: Value) -> int:
    if isinstance(value, (str, list, dict)):
        return len(value)
    raise ExpressionError(f"invalid argument for len (type {type_of(value)})")


def _to_json(value: Value) -> str:
    return _bounded(json.dumps(value, indent=2, ensure_ascii=False))


def _from_json(value: str) -> Value:
    try:
        return _plain(json.loads(value))
    except (ValueError, RecursionError) as error:
        raise ExpressionError(f"fromJSON: {error}") from error


def _plain(value: Value) -> Value:
    """Return a JSON value with floats for numbers, as Go reads it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(number(value)) if is_number(value) else value


def _from_base64(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError) as error:
        raise ExpressionError("fromBase64: illegal data") from error


def _get(of: Value, key: Value) -> Value:
    if of is None or not isinstance(of, (str, list, dict)):
        return None
    try:
        return member(of, key)
    except ExpressionError:
        if not isinstance(of, dict) and not is_number(key):
            raise
        return None


def _take(values: list[Value], count: int) -> list[Value]:
    if count < 0:
        raise ExpressionError("cannot take fewer than none")
    return values[:count]


def _from_pairs(pairs: list[Value]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ExpressionError("invalid pair")
        found[text(pair[0])] = pair[1]
    return found


def _uniq(values: list[Value]) -> list[Value]:
    if len(values) > 300:  # each is compared with all others
        raise ExpressionError("uniq of too many")
    found: list[Value] = []
    for value in values:
        if not any(equal(value, each) for each in found):
            found.append(value)
    return found


def _flatten(values: list[Value], depth: int = 0) -> list[Value]:
    if depth > MAX_DEPTH:
        raise ExpressionError("recursion depth exceeded")
    found: list[Value] = []
    for value in values:
        found += _flatten(value, depth + 1) if isinstance(value, list) else [value]
    return found


def ranked(values: list[Value], order: str = "asc") -> list[int]:
    """Return the places of values in their order, or with `desc` the other way round."""
    if order not in ("asc", "desc"):
        raise ExpressionError(f"invalid order {order[:20]}, expected asc or desc")

    def compare(one: int, other: int) -> int:
        if less(values[one], values[other]):
            return -1
        return int(less(values[other], values[one]))

    places = range(len(values))
    return sorted(places, key=functools.cmp_to_key(compare), reverse=order == "desc")


def _sort(values: list[Value], order: str = "asc") -> list[Value]:
    return [values[i] for i in ranked(values, order)]


def _concat(*lists: list[Value]) -> list[Value]:
    return [each for some in lists for each in items(some)]


def _shift(value: int, count: int, *, is_left: bool) -> int:
    if count < 0:
        raise ExpressionError("invalid operation: negative shift count")
    if is_left:
        return wrapped(value << min(count, 64))
    return value >> min(count, 64)


_TWO_INTS = Signature((INT, INT), INT)
_TEXT_TO_TEXT = Signature((STRING,), STRING)
_TWO_TEXTS_TO_BOOL = Signature((STRING, STRING), BOOL)
_ONE_LIST = Signature((LIST,), LIST)
_NUMBERS = Signature((NUMBERS,), ANY, is_variadic=True)

# What takes no predicate. Types are checked before a call, so functions may rely on them.
LIBRARY: dict[str, tuple[Function, Signature]] = {
    "len": (_length, Signature((SIZED,), INT)),
    "abs": (lambda value: _numeric(abs(number(value))), Signature((NUMBER,), ANY)),
    "ceil": (_whole_float(math.ceil), Signature((NUMBER,), FLOAT)),
    "floor": (_whole_float(math.floor), Signature((NUMBER,), FLOAT)),
    "round": (_round, Signature((NUMBER,), FLOAT)),
    "int": (_int, Signature((ANY,), INT)),
    "float": (_float, Signature((ANY,), FLOAT)),
    "string": (_shown, Signature((ANY,), STRING)),
    "trim": (_trim, Signature((STRING, STRING), STRING, 1)),
    "trimPrefix": (str.removeprefix, Signature((STRING, STRING), STRING)),
    "trimSuffix": (str.removesuffix, Signature((STRING, STRING), STRING)),
    "upper": (str.upper, _TEXT_TO_TEXT),
    "lower": (str.lower, _TEXT_TO_TEXT),
    "split": (_split, Signature((STRING, STRING, INT), STRINGS, 1)),
    "splitAfter": (
        functools.partial(_split, keeps=True),
        Signature((STRING, STRING, INT), STRINGS, 1),
    ),
    "replace": (_replace, Signature((STRING, STRING, STRING, INT), STRING, 1)),
    "repeat": (_repeat, Signature((STRING, INT), STRING)),
    "join": (_join, Signature((LIST, STRING), STRING, 1)),
    "indexOf": (_index_of, Signature((STRING, STRING), INT)),
    "lastIndexOf": (_last_index_of, Signature((STRING, STRING), INT)),
    "hasPrefix": (lambda value, part: value.startswith(part), _TWO_TEXTS_TO_BOOL),
    "hasSuffix": (lambda value, part: value.endswith(part), _TWO_TEXTS_TO_BOOL),
    "max": (_max, _NUMBERS),
    "min": (_min, _NUMBERS),
    "mean": (_mean, _NUMBERS._replace(result=FLOAT)),
    "median": (_median, _NUMBERS._replace(result=FLOAT)),
    "toJSON": (_to_json, Signature((ANY,), STRING)),
    "fromJSON": (_from_json, Signature((STRING,), ANY)),
    "toBase64": (
        lambda value: base64.b64encode(value.encode("utf-8", "surrogateescape")).decode(),
        _TEXT_TO_TEXT,
    ),
    "fromBase64": (_from_base64, _TEXT_TO_TEXT),
    "first": (lambda values: values[0] if values else None, Signature((LIST,), ANY)),
    "last": (lambda values: values[-1] if values else None, Signature((LIST,), ANY)),
    "get": (_get, Signature((ANY, ANY), ANY)),
    "take": (_take, Signature((LIST, INT), LIST)),
    "keys": (lambda value: [*value], Signature((MAP,), LIST)),
    "values": (lambda value: [*value.values()], Signature((MAP,), LIST)),
    "toPairs": (lambda value: [[*pair] for pair in value.items()], Signature((MAP,), LIST)),
    "fromPairs": (_from_pairs, Signature((LIST,), MAP)),
    "reverse": (lambda values: values[::-1], _ONE_LIST),
    "uniq": (_uniq, _ONE_LIST),
    "concat": (_concat, Signature((LIST,), LIST, is_variadic=True)),
    "flatten": (_flatten, _ONE_LIST),
    "sort": (_sort, Signature((LIST, STRING), LIST, 1)),
    "bitnot": (lambda value: ~value, Signature((INT,), INT)),
    "bitand": (lambda one, other: one & other, _TWO_INTS),
    "bitor": (lambda one, other: one | other, _TWO_INTS),
    "bitxor": (lambda one, other: one ^ other, _TWO_INTS),
    "bitnand": (lambda one, other: one & ~other, _TWO_INTS),
    "bitshl": (functools.partial(_shift, is_left=True), _TWO_INTS),
    "bitshr": (functools.partial(_shift, is_left=False), _TWO_INTS),
    "bitushr": (lambda value, count: _shift(value % 2**64, count, is_left=False), _TWO_INTS),
}
