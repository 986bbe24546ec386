"""Questions, queries and OPT records, and how they are written.

reading.py makes a ``Query`` of octets; response.py renders its reply.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, NamedTuple, Protocol

from clusterdns.wire import rr
from clusterdns.wire.name import WireName

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
Z: Final = 0x0040
AD: Final = 0x0020
CD: Final = 0x0010
OPCODE_MASK: Final = 0x7800
OPCODE_QUERY: Final = 0
OPCODE_NOTIFY: Final = 4
OPCODE_UPDATE: Final = 5
EDNS_DO: Final = 0x8000
HEADER: Final = struct.Struct("!HHHHHH")
HEADER_OCTETS: Final = 12
QUESTION_TAIL: Final = struct.Struct("!HH")  # type and class
MIN_UDP_OCTETS: Final = 512  # RFC 1035 section 4.2.1
MAX_OCTETS: Final = 65535
# The longest datagram over IPv4; the kernel refuses to send a longer one.
MAX_UDP_OCTETS: Final = 65_507
# Of a reply over UDP unless `bufsize` says otherwise: resolvers name at most this (RFC 6891 section
# 6.2.5), and a query with a forged source brings at most 70 times its octets upon somebody else.
USUAL_UDP_OCTETS: Final = 4096

EXTENDED_ERROR: Final = 15  # RFC 8914 section 2


class Edns(NamedTuple):
    """An OPT record (RFC 6891): the payload size, version, flags, and options as octets."""

    size: int
    version: int
    flags: int
    options: bytes = b""
    extended_rcode: int = 0


class Question(NamedTuple):
    """A question: the name as the client spelled it and folded, type, class, DO and CD.

    ``depth`` counts the nesting of questions asked for other questions; a client's has 0.
    ``asker`` is the class of the client, see chain/classes.py: None if there are none.
    """

    qname: bytes
    folded: WireName
    qtype: int
    qclass: int = rr.CLASS_IN
    do: bool = False
    cd: bool = False
    depth: int = 0
    asker: frozenset[Hashable] | None = None

    @property
    def wire(self) -> bytes:
        """The question section: name, type and class."""
        return self.qname + QUESTION_TAIL.pack(self.qtype, self.qclass)

    @property
    def folded_wire(self) -> bytes:
        """The question section with the name folded: equal for all clients."""
        return self.folded + QUESTION_TAIL.pack(self.qtype, self.qclass)

    @property
    def key(self) -> bytes:
        """The question's octets, folded, and one more if DO or CD is set."""
        key = self.folded_wire
        return key + bytes((self.do | self.cd << 1,)) if self.do or self.cd else key


class Labels(Protocol):
    """Values that plugins give a query by label, as ``kubernetes/namespace``; see `metadata`."""

    def value(self, label: str) -> str | None:
        """Return the value of a label, None if it has none."""

    def put(self, label: str, value: Callable[[], str]) -> None:
        """Give a label the value that ``value`` returns."""


class Signed(NamedTuple):
    """A request with a TSIG record (RFC 8945): its octets, and the offset of the first such record.

    ``is_last`` tells whether it is the last record of the additional section, as it must be.
    """

    packet: bytes
    start: int
    is_last: bool


class Unread(NamedTuple):
    """The records of an UPDATE (RFC 2136 section 2), not read yet: their octets and first offset.

    ``prerequisites`` and ``updates`` are the numbers of records in both sections.
    """

    packet: bytes
    start: int
    prerequisites: int
    updates: int


def is_label(text: str) -> bool:
    """Tell whether ``text`` is a label: two words or more with slashes between."""
    plugin, slash, rest = text.partition("/")
    return bool(plugin and slash and rest)


class Query:
    """A request that passed the gate, and who sent it.

    ``question`` is None for a bare header (QDCOUNT 1, 12 octets). ``octets`` is its length.
    The receiver sets ``client`` (address, port) and ``transport`` ("udp" or "tcp"); ``server`` is
    the address and port it was sent to, ``::`` for a socket of all addresses. ``depth`` counts the
    nesting of our own queries; a client's has 0. ``metadata`` are its labels if the server block
    collects them. ``serial`` is the serial that the client of an IXFR has (RFC 1995 section 3).
    ``more``, on a stream, sends one of several messages of a reply and returns when there is room
    for the next, or False if the client has closed. ``signed`` locates its TSIG record, if any;
    ``sign`` signs a rendered message of the reply, which becomes ``sign_octets`` longer.
    ``cookie`` is an option for the OPT of the reply. ``key`` is
    the folded name of the key of a signature that `tsig` has found valid. ``changes`` are the
    records of an UPDATE. ``waited_s`` is how long it was under way before it passed the gate: in a
    queue, or in the relay.
    """

    __slots__ = (
        "changes", "client", "cookie", "edns", "flags", "ident", "key", "metadata", "more",
        "octets", "question", "serial", "server", "sign", "sign_octets", "signed", "transport",
        "waited_s",
    )  # fmt: skip

    def __init__(
        self, ident: int, flags: int, question: Question | None, edns: Edns | None, octets: int
    ) -> None:
        self.ident = ident
        self.flags = flags
        self.question = question
        self.edns = edns
        self.octets = octets
        self.client: tuple[str, int] = ("", 0)
        self.server: tuple[str, int] = ("", 0)
        self.transport = "udp"
        self.metadata: Labels | None = None
        self.serial: int | None = None
        self.more: Callable[[bytes], Awaitable[bool]] | None = None
        self.signed: Signed | None = None
        self.sign: Callable[[bytes], bytes] | None = None
        self.sign_octets = 0
        self.cookie = b""
        self.key: WireName | None = None
        self.changes: Unread | None = None
        self.waited_s = 0.0

    def asking(self, question: Question) -> Query:
        """Return this query with another question, and the same client, flags and EDNS."""
        other = Query(self.ident, self.flags, question, self.edns, self.octets)
        other.client, other.transport = self.client, self.transport
        other.server, other.metadata = self.server, self.metadata
        return other

    def label(self, label: str) -> str:
        """Return the value of a label, "" if it has none or labels are not collected."""
        return (self.metadata.value(label) or "") if self.metadata is not None else ""

    @property
    def limit(self) -> int:
        """The limit of the reply in octets (CoreDNS: request.go Size; over UDP 28 less)."""
        if self.transport == "tcp":
            return MAX_OCTETS - self.sign_octets
        size = max(MIN_UDP_OCTETS, self.edns.size if self.edns else 0)
        return min(size, MAX_UDP_OCTETS) - self.sign_octets

    @property
    def opcode(self) -> int:
        """OPCODE of the header."""
        return (self.flags & OPCODE_MASK) >> 11


def write_query(ident: int, flags: int, question: Question, edns: Edns | None) -> bytes:
    """Return a query with the given ID, header flags (RD, AD, CD), question and OPT."""
    header = HEADER.pack(ident, flags, 1, 0, 0, 0 if edns is None else 1)
    return header + question.wire + (b"" if edns is None else write_opt(edns))


def write_opt(edns: Edns, rcode: int = 0) -> bytes:
    """Return an OPT record with the upper bits of ``rcode`` in its TTL (RFC 6891 section 6.1.3)."""
    ttl = (rcode >> 4) << 24 | edns.version << 16 | edns.flags
    head = struct.pack("!BHHIH", 0, rr.OPT, edns.size, ttl, len(edns.options))
    return head + edns.options


def extended_error(info_code: int, text: str = "") -> Edns:
    """Return an OPT with an extended error: code and text (RFC 8914 section 2)."""
    said = struct.pack("!H", info_code) + text.encode()
    return Edns(0, 0, 0, write_option(EXTENDED_ERROR, said))


def write_option(code: int, data: bytes) -> bytes:
    """Return an option of an OPT record (RFC 6891 section 6.1.2)."""
    return struct.pack("!HH", code, len(data)) + data


def reply_edns(asked: Edns, own: Edns | None = None, cookie: bytes = b"") -> Edns:
    """Return the OPT of a reply to a query with the OPT ``asked`` (CoreDNS: request.go SizeAndDo).

    It repeats the client's payload size and flags (the low eight cleared), and none of its options.
    ``own`` is the OPT the reply already has; its options stay. ``cookie`` is one more option.
    """
    if own is not None:
        flags = (own.flags & 0xFF00) | (asked.flags & EDNS_DO)
        return Edns(asked.size, 0, flags, own.options + cookie)
    return Edns(asked.size, 0, asked.flags & 0xFF00, cookie)


def options(octets: bytes) -> list[tuple[int, bytes]]:
    """Return the options of an OPT that passed the gate: (code, data), in their order."""
    found, i = [], 0
    while i < len(octets):
        end = i + 4 + (octets[i + 2] << 8 | octets[i + 3])
        found.append((octets[i] << 8 | octets[i + 1], octets[i + 4 : end]))
        i = end
    return found
