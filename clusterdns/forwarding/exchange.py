"""One query to an upstream server, and which octets are the reply to it.

``Exchange.read`` takes the octets that came back; ``is_answered_by`` tells whether they are about
our question. What has our ID but another question is no reply of an honest server: who asks drops
it and waits on, so that a forged one is not believed for coming first.

Pure: no sockets, clock, threads or randomness; the ID is an argument.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from clusterdns.errors import FormError, UpstreamError
from clusterdns.wire import message, reading, rr
from clusterdns.wire.message import Edns, Question
from clusterdns.wire.reading import Reply
from clusterdns.wire.rr import RR

_POINTER = b"\xc0\x0c"  # to the name in the question
_RR_HEAD = struct.Struct("!HHIH")
_ADDRESS_OCTETS = {rr.A: 4, rr.AAAA: 16}
HEADER_FLAGS = 0x7FF0  # everything but QR and RCODE


class Mismatch(UpstreamError):
    """What came in time had our ID, but was no reply to our question."""


class Exchange(NamedTuple):
    """A query that is out: its ID and question, and its octets."""

    ident: int
    question: Question
    packet: bytes

    @classmethod
    def begin(cls, ident: int, question: Question, flags: int, edns: Edns | None) -> Exchange:
        """Return a new exchange under an ID; ``flags`` are those of the client's query."""
        packet = message.write_query(ident, flags & HEADER_FLAGS, question, edns)
        return cls(ident, question, packet)

    def again(self, ident: int) -> Exchange:
        """Return the same query under another ID."""
        return Exchange(ident, self.question, ident.to_bytes(2, "big") + self.packet[2:])

    def read(self, packet: bytes) -> Reply | None:
        """Return the reply in a datagram, None if it is not one to this query.

        A reply to our ID and question whose records cannot be read counts as one cut short, without
        them: the client asks again over TCP. (CoreDNS: proxy/connect.go truncateResponse)
        """
        if len(packet) < message.HEADER_OCTETS or packet[:2] != self.packet[:2]:
            return None
        try:
            return self._read_addresses(packet) or reading.read_reply(packet)
        except FormError:
            return self._read_cut(packet)

    def read_whole(self, packet: bytes) -> Reply | None:
        """Return the reply in a message from a stream, None if it has another ID.

        Raises:
            FormError: it cannot be read. A stream cuts nothing short, so nobody need ask again.
        """
        if packet[:2] != self.packet[:2] and len(packet) >= message.HEADER_OCTETS:
            return None
        return reading.read_reply(packet)

    def _read_addresses(self, packet: bytes) -> Reply | None:
        """Return a reply that holds addresses of our question's name only, None for any other.

        Most replies are such, and `reading.read_reply` says the same of them in 3.7 µs, not 1.6.
        """
        _, flags, questions, answers, authorities, additionals = message.HEADER.unpack_from(packet)
        qname, _, qtype, qclass, *_ = self.question
        i = message.HEADER_OCTETS + len(qname) + 4
        if questions != 1 or authorities or additionals:
            return None
        if packet[message.HEADER_OCTETS : i] != self.packet[message.HEADER_OCTETS : i]:
            return None
        records = []
        for _ in range(answers):
            start = i + 12
            if packet[i : i + 2] != _POINTER or start > len(packet):
                return None
            rtype, rclass, ttl, length = _RR_HEAD.unpack_from(packet, i + 2)
            i = start + length
            if length != _ADDRESS_OCTETS.get(rtype) or i > len(packet):
                return None
            records.append(RR(qname, rtype, ttl, packet[start:i], rclass))
        question = (qname, qtype, qclass)
        return Reply(self.ident, flags, flags & 15, (question,), tuple(records), (), (), None)

    def _read_cut(self, packet: bytes) -> Reply | None:
        """Return the reply that header and question alone make, None if they are not ours."""
        flags, questions = struct.unpack_from("!HH", packet, 2)
        asked = self.question.wire
        found = packet[message.HEADER_OCTETS : message.HEADER_OCTETS + len(asked)]
        if not flags & message.QR or questions != 1 or found.lower() != asked.lower():
            return None
        question = (self.question.qname, self.question.qtype, self.question.qclass)
        flags |= message.TC
        return Reply(self.ident, flags, flags & 15, (question,), (), (), (), None)

    def is_answered_by(self, reply: Reply) -> bool:
        """Tell whether a reply is to our question, and of its kind (CoreDNS: request.go Match)."""
        if not reply.flags & message.QR or len(reply.questions) != 1:
            return False
        if (reply.flags >> 8 ^ self.packet[2]) & message.OPCODE_MASK >> 8:
            return False
        qname, qtype, qclass = reply.questions[0]
        asked = self.question
        return (qname.lower(), qtype, qclass) == (asked.folded, asked.qtype, asked.qclass)
