"""Values printed as Go prints them: `%v`, and the verbs of `Printf` that templates use.

Strings, booleans, whole numbers, floats, lists and maps of them, and nil. A verb that does not fit
its value shows that in the text, as Go does. (Go: fmt/print.go, fmt/format.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

MAX_WIDTH = 4096  # Go's is a million; longer than any record needs

_VERB = re.compile(r"%([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]+)?)?(.|$)", re.DOTALL)
_HAS_POINT = re.compile(r"%[-+# 0]*(?:\*|[0-9]+)?\.")
_BASES = {"d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_PREFIXES = {"b": "0b", "o": "0", "O": "0o", "x": "0x", "X": "0X"}


_ESCAPE = re.compile(r"\\(?:([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SIMPLE = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
    '"': '"', "'": "'", "`": "`",
}  # fmt: skip


class FormatError(ValueError):
    """A format with too large a width."""


def text(value: object) -> str:
    """Return a value as ``%v`` prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        return "map[" + " ".join(f"{text(key)}:{text(each)}" for key, each in pairs) + "]"
    if isinstance(value, Sequence):
        return "[" + " ".join(map(text, value)) + "]"
    return str(value)


def type_text(value: object) -> str:
    """Return the name of a value's type in Go."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    for kind, word in ((int, "int"), (str, "string"), (float, "float64")):
        if isinstance(value, kind):
            return word
    return "map[string]string" if isinstance(value, Mapping) else "[]string"


def sprint(values: Sequence[object]) -> str:
    """Return concatenated values, with a space between two that are not strings."""
    parts: list[str] = []
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            parts.append(" ")
        parts.append(text(value))
    return "".join(parts)


def sprintf(form: str, values: Sequence[object]) -> str:
    """Return ``form`` with its verbs replaced by ``values``.

    Raises:
        FormatError: a width of more than ``MAX_WIDTH``.
    """
    left = list(values)

    def number(word: str | None) -> int | None:
        if word == "*":
            found = left.pop(0) if left else None
            if isinstance(found, bool) or not isinstance(found, int):
                return None
        else:
            found = int(word[:9]) if word else None
        if found is not None and abs(found) > MAX_WIDTH:
            raise FormatError(f"width of {found} in {form[:40]!r}")
        return found

    def fill(place: re.Match[str]) -> str:
        flags, verb = place[1], place[4]
        width, precision = number(place[2]), number(place[3])
        if precision is None and _HAS_POINT.match(place[0]):
            precision = 0
        if verb == "%":
            return "%"
        if not verb:
            return "%!(NOVERB)"
        if not left:
            return f"%!{verb}(MISSING)"
        if width is not None and width < 0:
            flags, width = flags + "-", -width
        return _formatted(verb, flags, width or 0, precision, left.pop(0))

    made = _VERB.sub(fill, form)
    if left:
        extra = ", ".join(f"{type_text(value)}={text(value)}" for value in left)
        made += f"%!(EXTRA {extra})"
    return made


def _formatted(verb: str, flags: str, width: int, precision: int | None, value: object) -> str:
    if verb == "T":
        return _padded(type_text(value), flags, width)
    if isinstance(value, (list, tuple)) and verb != "v":
        inner = (_formatted(verb, flags, width, precision, each) for each in value)
        return "[" + " ".join(inner) + "]"
    if isinstance(value, Mapping) and verb != "v":
        pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        both = (
            ":".join(_formatted(verb, flags, width, precision, each) for each in pair)
            for pair in pairs
        )
        return "map[" + " ".join(both) + "]"
    made: str | None = None
    if verb == "v" and "#" not in flags and not isinstance(value, (int, float, str)):
        made = text(value)
    elif isinstance(value, bool):
        made = text(value) if verb in "tv" else None
    elif isinstance(value, int):
        made = _whole(verb, flags, precision, value)
    elif isinstance(value, float):
        made = _float(verb, flags, precision, value)
    elif isinstance(value, str):
        made = _string(verb, flags, precision, value)
    if made is None:
        shown = "<nil>" if value is None else f"{type_text(value)}={text(value)}"
        return f"%!{verb}({shown})"
    is_number = isinstance(value, (int, float)) and verb not in "cqU"
    if "0" in flags and is_number and "-" not in flags and precision is None:
        sign = made[:1] if made[:1] in ("+", "-", " ") else ""
        return sign + made[len(sign) :].rjust(width - len(sign), "0")
    return _padded(made, flags, width)


def _padded(made: str, flags: str, width: int) -> str:
    if "-" in flags:
        return made.ljust(width)
    return made.rjust(width, "0" if "0" in flags else " ")


def _sign(flags: str, *, is_negative: bool) -> str:
    if is_negative:
        return "-"
    return "+" if "+" in flags else " " if " " in flags else ""


def _whole(verb: str, flags: str, precision: int | None, value: int) -> str | None:
    if verb in ("c", "q", "U"):
        if not 0 <= value <= 0x10FFFF or 0xD800 <= value < 0xE000:
            value = 0xFFFD
        if verb == "U":
            return f"U+{value:04X}"
        return chr(value) if verb == "c" else f"'{chr(value)}'"
    base = _BASES.get("d" if verb == "v" else verb)
    if base is None:
        return None
    digits = format(abs(value), base)
    if precision is not None:
        digits = digits.rjust(precision, "0") if value or precision else ""
    if "#" in flags or verb == "O":
        digits = _PREFIXES.get(verb, "") + digits
    return _sign(flags, is_negative=value < 0) + digits


def _float(verb: str, flags: str, precision: int | None, value: float) -> str | None:
    if verb not in "vgGeEfF":
        return None
    sign = _sign(flags, is_negative=math.copysign(1, value) < 0)
    if math.isinf(value) or math.isnan(value):
        return (sign or "+") + "Inf" if math.isinf(value) else "NaN"
    if verb in "vgG" and precision is None:
        return sign + _shortest(abs(value))
    precision = 6 if precision is None else precision
    return sign + format(abs(value), f".{precision}{'g' if verb == 'v' else verb}")


def _shortest(value: float) -> str:
    """Return the shortest text that parses to ``value``, with exponents as in `%v`."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    digits = Decimal(repr(value)).normalize()
    exponent = digits.adjusted() if value else 0
    if -5 < exponent < 6:  # strconv.FormatFloat, format 'g' with the shortest precision
        return format(digits, "f")
    mantissa, _, power = format(digits, "e").partition("e")
    return f"{mantissa}e{power[0]}{power[1:].rjust(2, '0')}"


def _string(verb: str, flags: str, precision: int | None, value: str) -> str | None:
    if verb in ("x", "X"):
        found = value.encode("utf-8", "surrogateescape")[:precision].hex()
        return found if verb == "x" else found.upper()
    if precision is not None:
        value = value[:precision]
    if verb == "q" or (verb == "v" and "#" in flags):
        return json.dumps(value, ensure_ascii=False)
    return value if verb in "sv" else None


def unquoted(quoted: str) -> str:
    """Return the text between quotes with its escapes undone.

    Raises:
        ValueError: an escape is invalid.
    """

    def replace(escape: re.Match[str]) -> str:
        octal, *hexes, simple = escape.groups()
        try:
            if octal:
                return chr(int(octal, 8))
            if simple is None:
                return chr(int(next(each for each in hexes if each), 16))
            return _SIMPLE[simple]
        except (KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"bad escape {escape[0]}") from error

    return _ESCAPE.sub(replace, quoted)
