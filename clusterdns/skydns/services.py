"""Services: values of etcd, and where they are kept.

The key of ``web.staging.skydns.local.`` is ``/skydns/local/skydns/staging/web``, below a prefix.
A value is a JSON object, read as Go's encoding/json reads it into a struct. (CoreDNS:
plugin/etcd/msg)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from clusterdns.errors import UpstreamError
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

DEFAULT_PRIORITY = 10
WILDCARDS = ("*", "any")
_MAX_INT, _MAX_TTL = 2**63, 2**32


class Service(NamedTuple):
    """The value of a key; ``host`` is the text of a name or an address."""

    key: str = ""
    host: str = ""
    port: int = 0
    priority: int = 0
    weight: int = 0
    text: str = ""
    mail: bool = False
    ttl: int = 0
    targetstrip: int = 0
    group: str = ""

    @property
    def address(self) -> tuple[int, bytes] | None:
        """The address that ``host`` is, as a type and RDATA, None if it is a name."""
        return rr.address_rdata(self.host)

    @property
    def is_alias(self) -> bool:
        """Whether it is a name alone, so that a question for an address leads on to it."""
        return self.address is None and not self.text

    @property
    def is_text(self) -> bool:
        """Whether it is a text, perhaps with a name."""
        return self.address is None and bool(self.text)


_TYPES: dict[str, type] = {
    "host": str, "port": int, "priority": int, "weight": int, "text": str, "mail": bool,
    "ttl": int, "targetstrip": int, "group": str,
}  # fmt: skip


def parse(key: str, value: bytes) -> Service:
    """Return the service of a key.

    Raises:
        UpstreamError: the value is no JSON object of such fields; names the key.
    """

    def pairs(found: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return [*found]

    try:
        text = value.decode("utf-8", "replace")
        read = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant)
        if read is None:
            return Service(key)
        if not isinstance(read, list) or text.lstrip()[:1] != "{":
            raise ValueError("it is no object")
        fields: dict[str, Any] = {}
        for word, said in read:
            field = word.casefold()
            if field in _TYPES and said is not None:
                fields[field] = _checked(field, said)
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"{key}: {error}") from error
    return Service(key, **fields)


def path(qname: WireName, prefix: str) -> str | None:
    """Return the key of a folded name; None if a label steps out of its place.

    CoreDNS follows a label such as ``../..`` to keys of others.
    """
    return _join(prefix, _labels(qname))


def wild_path(qname: WireName, prefix: str) -> tuple[str | None, bool]:
    """Return the key as far as there is no wildcard in the name, and whether there is one."""
    labels = _labels(qname)
    for i, label in enumerate(labels):
        if label in WILDCARDS:
            return _join(prefix, labels[:i]), True
    return _join(prefix, labels), False


def is_like(key: str, wanted: Sequence[str]) -> bool:
    """Tell whether a key begins with the parts that are wanted; `*` and `any` match any part."""
    parts = key.split("/")
    if len(wanted) > len(parts):
        return False
    return all(part in (*WILDCARDS, found) for part, found in zip(wanted, parts, strict=False))


def domain(key: str) -> bytes:
    """Return the name that a key is of. Raises FormError."""
    parts = key.removesuffix("/").split("/")[2:]  # behind "" and the first part of the prefix
    return name.parse(".".join(reversed(parts)) or ".")


def grouped(services: list[Service]) -> list[Service]:
    """Return the services of the group that the shortest key names, and those without a group.

    All are returned if the shortest keys name different groups. (CoreDNS: msg.Group)
    """
    if not services:
        return services
    depths = [each.key.count("/") for each in services]
    group, depth, known = services[0].group, depths[0], len(services)
    for i, each in enumerate(services):
        if depths[i] < depth:
            if not each.group:
                known = i + 1  # CoreDNS looks no further, and at no length of the others
                break
            depth, group = depths[i], each.group
    if not group:
        return services
    found = []
    for i, each in enumerate(services):
        if each.group and i < known and depths[i] == depth and each.group != group:
            return services
        if each.group in ("", group):
            found.append(each)
    return found


def stripped(target: bytes, labels: int) -> bytes:
    """Return a name without so many labels on its left, all of it where it has not more."""
    if not 0 < labels < name.count_labels(WireName(target)):
        return target
    for _ in range(labels):
        target = target[1 + target[0] :]
    return target


def txt_rdata(text: str) -> bytes:
    r"""Return the RDATA of a text, in strings of 255 characters; ``\DDD`` and ``\X`` are octets.

    A text of 255 characters is followed by an empty string, as in CoreDNS.
    """
    octets = text.encode()
    chunks = [octets] if len(octets) < 255 else []
    if not chunks:
        chunks = [octets[i : i + 255] for i in range(0, len(octets) + 1, 255)]
    return b"".join(bytes((len(each),)) + each for each in map(_unescaped, chunks))


def _labels(qname: WireName) -> list[str]:
    """Return the labels of a name, the last first."""
    return [name.label_text(label) for label in reversed(name.labels(qname))]


def _join(prefix: str, labels: Iterable[str]) -> str | None:
    """Return a path that begins with the prefix (Go: path.Join)."""
    parts = []
    for part in f"/{prefix}/{'/'.join(labels)}".split("/"):
        if part == "..":
            return None
        if part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _checked(field: str, said: object) -> object:
    """Return the value of a field. Raises ValueError, as json.Unmarshal would fail."""
    wanted = _TYPES[field]
    if type(said) is not wanted:
        raise ValueError(f"{field} is no {_JSON_NAMES[wanted]}")
    if isinstance(said, str):  # a lone half of a pair has no octets
        return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    least, most = (0, _MAX_TTL) if field == "ttl" else (-_MAX_INT, _MAX_INT)
    if isinstance(said, int) and not least <= said < most:
        raise ValueError(f"{field} {said} is out of range")
    return said


_JSON_NAMES = {str: "string", int: "whole number", bool: "boolean"}


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _unescaped(octets: bytes) -> bytes:
    found, i = bytearray(), 0
    while i < len(octets):
        if octets[i] == 0x5C and i + 1 < len(octets):
            digits = octets[i + 1 : i + 4]
            if len(digits) == 3 and digits.isdigit():
                found.append(int(digits) & 0xFF)
                i += 4
                continue
            i += 1
        elif octets[i] == 0x5C:
            break
        found.append(octets[i])
        i += 1
    return bytes(found)
