"""The data and the built-in functions of Go's text templates.

(Go: text/template/funcs.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clusterdns.languages import goformat
from clusterdns.languages.gosyntax import TemplateError

Function = Callable[..., object]


class NoValue:
    """The value of a missing key of a map."""

    def __str__(self) -> str:
        return "<no value>"


NO_VALUE = NoValue()


class Struct:
    """Data with named fields and methods."""

    def __init__(
        self,
        type_text: str,
        fields: Mapping[str, object],
        methods: Mapping[str, Function] | None = None,
    ) -> None:
        self.type_text = type_text
        self.fields = fields
        self.methods = methods or {}


class AnyMap(dict[str, object]):
    """A map whose values are of any type: a missing one is nil, not empty."""


def shown(value: object) -> str:
    """Return the text an action prints for a value."""
    if isinstance(value, Struct):
        raise TemplateError(f"can't print {value.type_text}")
    return goformat.text(NO_VALUE if value is None else value)


def truth(value: object) -> bool:
    """Tell whether a value is true: not empty."""
    return not isinstance(value, NoValue) and bool(value)


def _index(item: object, *keys: object) -> object:
    for key in keys:
        if isinstance(item, Mapping):
            if not isinstance(key, str):
                raise TemplateError("value has the wrong type; should be string")
            item = item.get(key, NO_VALUE if isinstance(item, AnyMap) else "")
        elif isinstance(item, (list, tuple, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise TemplateError("cannot index slice/array with this type")
            octets = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
            if not 0 <= key < len(octets):
                raise TemplateError(f"index out of range: {key}")
            item = octets[key]
        else:
            raise TemplateError("index of untyped nil, or of what has no parts")
    return item


def _slice(item: object, *keys: object) -> object:
    if not isinstance(item, (list, tuple, str)) or len(keys) > 3:
        raise TemplateError("slice of what has no parts")
    bounds = [key for key in keys if isinstance(key, int) and not isinstance(key, bool)]
    if len(bounds) < len(keys) or (isinstance(item, str) and len(keys) == 3):
        raise TemplateError("cannot slice with these indexes")
    start, end, *_ = (*bounds, *(0, len(item))[len(bounds) :]) if len(bounds) < 2 else bounds
    if not 0 <= start <= end <= len(item):
        raise TemplateError(f"index out of range: {start}:{end}")
    return item[start:end]


def _len(item: object) -> int:
    if isinstance(item, str):
        return len(item.encode("utf-8", "surrogateescape"))
    if isinstance(item, (list, tuple, Mapping)):
        return len(item)
    raise TemplateError("len of what has no length")


def _kind(value: object) -> str:
    if isinstance(value, (Mapping, list, tuple, Struct)):
        raise TemplateError("non-comparable type")
    return goformat.type_text(value)


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    for other in others:
        if None not in (first, other) and _kind(first) != _kind(other):
            raise TemplateError("incompatible types for comparison")
        if first == other:
            return True
    return False


def _ne(first: object, other: object) -> bool:
    return not _eq(first, other)


def _lt(first: Any, other: Any) -> bool:  # noqa: ANN401 - whatever the data has
    if _kind(first) != _kind(other) or _kind(first) in ("bool", "<nil>"):
        raise TemplateError("incompatible types for comparison")
    return bool(first < other)


def _call_function(*_values: object) -> object:
    raise TemplateError("non-function")  # the data has no functions


def _print_values(*values: object) -> str:
    return goformat.sprint(values)


def _println(*values: object) -> str:
    return " ".join(map(goformat.text, values)) + "\n"


def _printf(form: object, *values: object) -> str:
    if not isinstance(form, str):
        raise TemplateError("wrong type for value; expected string")
    try:
        return goformat.sprintf(form, values)
    except goformat.FormatError as error:
        raise TemplateError(str(error)) from error


def _one_text(values: Sequence[object]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else goformat.sprint(values)


def _html(*values: object) -> str:
    made = html.escape(_one_text(values), quote=False)
    return made.replace('"', "&#34;").replace("'", "&#39;").replace("\0", "\ufffd")


_JS = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026",
    "=": "\\u003D",
}  # fmt: skip


def _js(*values: object) -> str:
    return "".join(
        _JS.get(each, each if each.isprintable() else f"\\u{ord(each):04X}")
        for each in _one_text(values)
    )


def _urlquery(*values: object) -> str:
    return urllib.parse.quote_plus(_one_text(values), safe="-_.~")


FUNCTIONS: dict[str, Function] = {
    "and": lambda *values: values,  # _Run evaluates these two
    "or": lambda *values: values,
    "call": _call_function,
    "not": lambda value: not truth(value),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": lambda first, other: _lt(first, other) or _eq(first, other),
    "gt": lambda first, other: not (_lt(first, other) or _eq(first, other)),
    "ge": lambda first, other: not _lt(first, other),
    "print": _print_values,
    "println": _println,
    "printf": _printf,
    "html": _html,
    "js": _js,
    "urlquery": _urlquery,
}
