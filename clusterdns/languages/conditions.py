"""Functions about a query for expressions in a Corefile, shared by `template` and `view`.

Those of ``OF_THE_QUESTION`` depend only on the question, so answers decided by them may be kept.
(CoreDNS: plugin/pkg/expression)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from clusterdns.languages.exprvalues import BOOL, INT, STRING, ExpressionError, Signature, Type
from clusterdns.wire import name, rr
from clusterdns.wire.message import Query, Question

OF_THE_QUESTION: dict[str, Type | Signature] = {
    **{word: Signature((), STRING) for word in ("name", "type", "class")},
    "incidr": Signature((STRING, STRING), BOOL),
}
OF_THE_QUERY: dict[str, Type | Signature] = {
    **{word: Signature((), STRING) for word in ("proto", "client_ip", "port")},
    **{word: Signature((), STRING) for word in ("server_ip", "server_port")},
    **{word: Signature((), INT) for word in ("size", "id", "opcode", "bufsize")},
    "do": Signature((), BOOL),
    "metadata": Signature((STRING,), STRING),
}


class Filter:
    """The base of `view`: decides which queries its server block takes.

    If it ``is_shared`` it decides by the question alone, equally for every client.
    """

    is_shared = False

    def admits(self, question: Question, query: Query | None) -> bool:
        """Tell whether the block takes a query, which may be None if it ``is_shared``."""
        raise NotImplementedError


def functions(question: Question, query: Query | None) -> dict[str, object]:
    """Return the functions for a question; without a query, those about it return ""."""
    found: dict[str, Callable[..., object]] = {
        "name": lambda: name.text(question.folded),
        "type": lambda: rr.type_text(question.qtype),
        "class": lambda: rr.class_text(question.qclass),
        "incidr": in_cidr,
        "do": lambda: question.do,
    }
    if query is None:
        return {**found}
    return {
        **found,
        "proto": lambda: query.transport,
        "size": lambda: query.octets,
        "client_ip": lambda: query.client[0],
        "port": lambda: str(query.client[1]),
        "id": lambda: query.ident,
        "opcode": lambda: query.opcode,
        "bufsize": lambda: query.limit,
        "server_ip": lambda: query.server[0],
        "server_port": lambda: str(query.server[1]),
        "metadata": lambda label: query.label(label),
    }


def in_cidr(address: str, cidr: str) -> bool:
    """Tell whether an address lies in a network (Go: net.ParseIP, net.ParseCIDR).

    Raises:
        ExpressionError: one of them is invalid.
    """
    found = name.canonical_address(address)
    if found is None:
        raise ExpressionError("first argument is not an IP address")
    at, slash, length = cidr.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in at:
        raise ExpressionError(f"invalid CIDR address: {cidr:.50}")
    try:
        return ipaddress.ip_address(found) in ipaddress.ip_network(cidr, strict=False)
    except ValueError as error:
        raise ExpressionError(f"invalid CIDR address: {cidr:.50}") from error
