"""The functions of expr-lang without a predicate (expr-lang/expr: builtin).

Their results are bounded; an invalid argument raises ``ExpressionError``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
from collections.abc import Callable, Iterator

from clusterdns.languages import goformat
from clusterdns.languages.exprvalues import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    LIST,
    MAP,
    MAX_CHARACTERS,
    NUMBER,
    NUMBERS,
    SIZED,
    STRING,
    STRINGS,
    ExpressionError,
    Function,
    Signature,
    Value,
    bounded,
    equal,
    fitted,
    is_number,
    items,
    less,
    member,
    number,
    text,
    type_of,
    whole,
    wrapped,
)

MAX_DEPTH = 100  # of nested lists


def _shown(value: Value) -> str:
    return bounded(goformat.text(value))


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
    return bounded(glue.join(text(each) for each in values))


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
    return bounded(json.dumps(value, indent=2, ensure_ascii=False))


def _from_json(value: str) -> Value:
    try:
        return _plain(json.loads(value))
    except (ValueError, RecursionError) as error:
        raise ExpressionError(f"fromJSON: {error}") from error


def _plain(value: Value) -> Value:
    """Return a JSON value with floats for numbers, as in Go."""
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
    """Return the indexes of values in sorted order, or reversed for `desc`."""
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

# Functions without a predicate. Types are checked before a call.
LIBRARY: dict[str, tuple[Function, Signature]] = {
    "len": (_length, Signature((SIZED,), INT)),
    "abs": (lambda value: fitted(abs(number(value))), Signature((NUMBER,), ANY)),
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
