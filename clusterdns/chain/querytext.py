"""Formats with tokens for a query and its response: `log` lines, `extra` of `dnstap`.

A format is split once into tokens and the text between them; ``value`` returns each part's text.
(CoreDNS: plugin/pkg/replacer)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clusterdns.chain.plugin import DROP
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response, uncompressed_octets

COMMON = (
    '{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}"'
    " {rcode} {>rflags} {rsize} {duration}"
)
COMBINED = COMMON + ' "{>opcode}"'
LOCAL = "{local}"
_NOTHING = "-"
_FLAGS = (("qr", message.QR), ("aa", message.AA), ("tc", message.TC), ("rd", message.RD),
          ("ra", message.RA), ("z", message.Z), ("ad", message.AD), ("cd", message.CD))  # fmt: skip
_TOKEN = re.compile(r"(\{[^{}]*\})")
_OF_RESPONSES = frozenset(("{rcode}", "{>rflags}", "{rsize}", "{duration}"))


class Said(NamedTuple):
    """The facts of a response for a format; ``flags`` are its header's without RD and CD."""

    wrote: int
    rcode: int
    flags: int
    octets: int
    is_verbatim: int

    @classmethod
    def by(cls, question: Question, response: Response) -> Said:
        """Return the facts of a response to a question."""
        flags = message.QR | response.flags | response.rcode
        octets = uncompressed_octets(question, response)
        return cls(response is not DROP, response.rcode, flags, octets, response.verbatim)


_NO_RESPONSE = Said(False, 0, 0, 0, False)


def parts(format: str) -> tuple[str, ...]:
    """Return the tokens of a format and the text between them, in order."""
    return tuple(part for part in _TOKEN.split(format) if part)


def varies(parts: Sequence[str]) -> bool:
    """Tell whether equal queries of one client may get different texts."""
    return any(part.startswith("{/") or part == LOCAL for part in parts)


def value(part: str, query: Query, said: Said | None, elapsed_s: float) -> str:
    """Return the value of a token, or the text between tokens.

    ``said`` is None before there is a response.
    """
    if part.startswith("{/") and part.endswith("}"):
        label = query.metadata.value(part[2:-1]) if query.metadata is not None else None
        return _NOTHING if label is None else label
    if said is None:
        if part in _OF_RESPONSES:
            return _NOTHING
        said = _NO_RESPONSE
    value = _VALUES.get(part)
    return part if value is None else value(query, _asked(query), said, elapsed_s)


def _in_brackets(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def bufsize(query: Query) -> int:
    """Return the payload size of a client over UDP, of a message over TCP, in octets."""
    if query.transport == "tcp":
        return message.MAX_OCTETS
    return max(512, query.edns.size if query.edns else 512)


def _flags(query: Query, said: Said) -> str:
    if not said.wrote:
        return "-"
    flags = said.flags
    if not said.is_verbatim and query.opcode == message.OPCODE_QUERY:
        flags |= query.flags & (message.RD | message.CD)
    return ",".join(word for word, bit in _FLAGS if flags & bit)


_VALUES: dict[str, Callable[[Query, Question, Said, float], str]] = {
    "{remote}": lambda query, question, said, seconds: _in_brackets(query.client[0]),
    LOCAL: lambda query, question, said, seconds: _in_brackets(query.server[0]),
    "{port}": lambda query, question, said, seconds: str(query.client[1]),
    "{>id}": lambda query, question, said, seconds: str(query.ident),
    "{type}": lambda query, question, said, seconds: rr.type_text(question.qtype),
    "{class}": lambda query, question, said, seconds: rr.class_text(question.qclass),
    "{name}": lambda query, question, said, seconds: name.text(question.folded),
    "{proto}": lambda query, question, said, seconds: query.transport,
    "{size}": lambda query, question, said, seconds: str(query.octets),
    "{>do}": lambda query, question, said, seconds: "true" if question.do else "false",
    "{>bufsize}": lambda query, question, said, seconds: str(bufsize(query)),
    "{rcode}": lambda query, question, said, seconds: rcode(said),
    "{>rflags}": lambda query, question, said, seconds: _flags(query, said),
    "{rsize}": lambda query, question, said, seconds: str(said.octets) if said.wrote else "0",
    "{duration}": lambda query, question, said, seconds: f"{seconds:.9f}s",
    "{>opcode}": lambda query, question, said, seconds: str(query.opcode),
}


def rcode(said: Said) -> str:
    """Return the name of an RCODE, ``-`` if there was no reply."""
    return rr.RCODE_TEXT.get(said.rcode, str(said.rcode)) if said.wrote else "-"


def _asked(query: Query) -> Question:
    assert query.question is not None  # queries without a question are not logged
    return query.question
