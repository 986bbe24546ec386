"""Two replies to one query, compared octet for octet but for the differences that are allowed.

``difference`` returns "" or what differs, as dig would print it. Each allowance is a named field of
``Rules``, with its reason; what no rule allows is a difference. Always allowed are the SOA serial,
since each server has its own clock, and compression, which shows in no record.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from clusterdns.wire import message

Record = tuple[str, str, str, int, str]  # owner, class, type, TTL, RDATA
SECTIONS = ("answer", "authority", "additional")
_AA, _CD = 0x04, 0x10  # in the header's third and fourth octet


class Rules(NamedTuple):
    """Which allowances hold for a question.

    ``is_ordered``, ``is_additional_ordered``: the order of these sections is specified (else CoreDNS
    takes it from a Go map, or shuffles). ``age_s``: CoreDNS may answer from its cache, and so with
    TTLs that have run for up to this many seconds; never with longer ones; None: it cannot.
    ``is_outside``: an upstream server may have had a part in the answer, so both may have it cached,
    from different moments: AA and CD tell a hit from a miss, TTLs differ either way, and owners are
    spelled as whoever came first did; and no option of the client's OPT has gone upstream from us, for
    a server there to repeat. ``whole``: our reply over TCP, of which what a truncated one
    keeps must be a part.
    """

    is_ordered: bool = True
    is_additional_ordered: bool = True
    age_s: float | None = None
    is_outside: bool = False
    whole: dns.message.Message | None = None

    @property
    def is_folded(self) -> bool:
        """Whether a cache that both filled for themselves may have had a part."""
        return self.is_outside and self.age_s is not None


def parse(wire: bytes) -> dns.message.Message:
    return dns.message.from_wire(wire, one_rr_per_rrset=True, ignore_trailing=False)


def difference(query: bytes, theirs: bytes | None, ours: bytes | None, rules: Rules) -> str:
    """Return how ``ours`` differs from ``theirs``, CoreDNS's reply, "" if it does not."""
    if theirs is None or ours is None:
        return "" if theirs is ours else f"theirs {_silence(theirs)}, ours {_silence(ours)}"
    their_reply, our_reply = parse(theirs), _without_reasons(parse(ours))
    if rules.age_s is not None and rules.is_outside:
        theirs, ours = _without_hit(theirs), _without_hit(ours)
    if rules.is_outside and our_reply.edns >= 0 and not our_reply.options:
        their_reply.use_edns(their_reply.edns, their_reply.ednsflags, their_reply.payload)
    found = _header(query, theirs, ours, their_reply, our_reply)
    for section in SECTIONS:
        found += _section(section, their_reply, our_reply, rules)
    return explain("\n".join(found), their_reply, our_reply) if found else ""


def _without_reasons(reply: dns.message.Message) -> dns.message.Message:
    """Take out the reasons that we give, and CoreDNS does not: not listed yet, or a circle."""
    ours = (dns.edns.EDECode.NOT_READY, dns.edns.EDECode.OTHER)
    if reply.edns >= 0:
        left = [
            o for o in reply.options if not (isinstance(o, dns.edns.EDEOption) and o.code in ours)
        ]
        reply.use_edns(reply.edns, reply.ednsflags, reply.payload, options=left)
    return reply


def explain(reason: str, theirs: dns.message.Message, ours: dns.message.Message) -> str:
    """Return both replies as dig prints them, below what differs."""
    return f"{reason}\n--- theirs\n{theirs}\n--- ours\n{ours}"


def _without_hit(reply: bytes) -> bytes:
    """Return a reply without the flags that tell a cache hit from a miss."""
    return reply[:2] + bytes((reply[2] & ~_AA, reply[3] & ~_CD)) + reply[4:]


def _silence(reply: bytes | None) -> str:
    return "silence" if reply is None else "a reply"


def _header(
    query: bytes,
    theirs: bytes,
    ours: bytes,
    their_reply: dns.message.Message,
    our_reply: dns.message.Message,
) -> list[str]:
    found = []
    if theirs[:4] != ours[:4]:
        found.append(f"header: theirs {theirs[:4].hex()}, ours {ours[:4].hex()}")
    if theirs[4:6] != ours[4:6] or _question(query, theirs) != _question(query, ours):
        found.append("question section")
    edns = [
        (m.edns, min(m.payload, message.USUAL_UDP_OCTETS), m.ednsflags, m.options)
        for m in (their_reply, our_reply)
    ]
    if edns[0] != edns[1]:
        found.append(f"OPT: theirs {edns[0]}, ours {edns[1]}")
    return found


def _question(query: bytes, reply: bytes) -> bytes:
    """Return the reply's question, as long as the query's is; its letter case counts."""
    i = 12
    while query[i]:
        i += 1 + query[i]
    end = i + 5
    return reply[12:end]


def _section(
    name: str, their_reply: dns.message.Message, our_reply: dns.message.Message, rules: Rules
) -> list[str]:
    theirs = records(getattr(their_reply, name), is_folded=rules.is_folded)
    ours = records(getattr(our_reply, name), is_folded=rules.is_folded)
    if rules.age_s is not None:
        ours = _aged(theirs, ours, rules)
    if theirs == ours:
        return []
    is_ordered = rules.is_additional_ordered if name == "additional" else rules.is_ordered
    if not is_ordered and sorted(theirs) == sorted(ours):
        return []
    is_truncated = bool(our_reply.flags & their_reply.flags & dns.flags.TC)
    if is_truncated and rules.whole is not None and (rules.is_outside or not is_ordered):
        return _truncated(name, theirs, ours, rules)
    return [f"{name}: theirs {theirs}, ours {ours}"]


def _truncated(name: str, theirs: list[Record], ours: list[Record], rules: Rules) -> list[str]:
    """Return what of a truncated section is wrong, where a shuffle or a cache decides what is kept.

    Both keep some of the whole, and equally many. Not so where records take different room: then
    the shuffle decides their number as well. Nor where a cache may have had a part: a target that
    is in it comes whole, one that is not comes cut by the upstream server, for CoreDNS as its client
    says, for us at 1232 octets; and CoreDNS compresses
    no owner that is spelled in another case than the question. (It fills its cache with a query of
    type A when an ExternalName is asked for DS or ANY, whose answer it discards; we do not ask.)
    """
    assert rules.whole is not None
    section = getattr(rules.whole, name)
    whole = collections.Counter(map(_bare, records(section, is_folded=rules.is_folded)))
    found = []
    for who, kept in (("theirs", theirs), ("ours", ours)):
        strangers = collections.Counter(map(_bare, kept)) - whole
        if strangers:
            found.append(f"{name}: {who} not of the whole reply: {list(strangers)}")
    rooms = {(rrset.rdtype, len(item.to_wire() or b"")) for rrset in section for item in rrset}
    if len(theirs) != len(ours) and len(rooms) == 1 and not rules.is_outside:
        found.append(f"{name}: {len(theirs)} records of theirs are kept, {len(ours)} of ours")
    if rules.age_s is None:
        for owner_and_type, ttls in _ttls(theirs).items():
            others = _ttls(ours).get(owner_and_type, ttls)
            if ttls != others:
                found.append(f"{name}: TTLs of theirs {ttls}, of ours {others}")
    return found


def _ttls(section: list[Record]) -> dict[tuple[str, str], set[int]]:
    """Return the TTLs of each RRset, by owner and type."""
    found: dict[tuple[str, str], set[int]] = {}
    for owner, _, rtype, ttl, _ in section:
        found.setdefault((owner, rtype), set()).add(ttl)
    return found


def records(section: Iterable[dns.rrset.RRset], *, is_folded: bool) -> list[Record]:
    """Return the records of a section as text, the serial of an SOA left out."""
    found = []
    for rrset in section:
        for item in rrset:
            owner, rdata = rrset.name.to_text(), item.to_text()
            if rrset.rdtype == dns.rdatatype.SOA:
                words = rdata.split()
                rdata = " ".join([*words[:2], "SERIAL", *words[3:]])
            if is_folded:
                owner, rdata = owner.lower(), rdata.lower()
            rclass = dns.rdataclass.to_text(rrset.rdclass)
            found.append((owner, rclass, dns.rdatatype.to_text(rrset.rdtype), rrset.ttl, rdata))
    return found


def _bare(record: Record) -> tuple[str, ...]:
    owner, rclass, rtype, _, rdata = record
    return owner, rclass, rtype, rdata


def _aged(theirs: list[Record], ours: list[Record], rules: Rules) -> list[Record]:
    """Return our records with the TTLs of theirs where a cache may have made the difference."""
    assert rules.age_s is not None
    left = {_bare(record): record[3] for record in theirs}
    found = []
    for record in ours:
        ttl = left.get(_bare(record))
        if ttl is not None:
            is_aged = record[3] - rules.age_s - 1 <= ttl <= record[3]
            if is_aged or rules.is_outside:
                record = (*record[:3], ttl, record[4])
        found.append(record)
    return found
