"""Two replies to one query, compared octet for octet but for the differences that are allowed.

``difference`` returns "" or what differs, as dig would print it. Each allowance is a named rule
below, with its reason; what no rule allows is a difference.
"""

from __future__ import annotations

from typing import NamedTuple

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype

Record = tuple[str, str, str, int, str]  # owner, class, type, TTL, RDATA


class Rules(NamedTuple):
    """Which allowances hold for a question.

    ``is_ordered``: the order of the answer section is specified (else: CoreDNS takes it from a Go
    map, or shuffles). ``is_cached``: CoreDNS may answer from its cache, and so with TTLs that have
    run for a while and owners as whoever filled it spelled them; never with a longer TTL.
    ``is_outside``: we may do so too, from ours, which was filled at another moment: AA is set on
    replies from a cache, and TTLs differ either way. ``whole``: our reply over TCP, of which a
    truncated one must be a part.
    """

    is_ordered: bool
    is_cached: bool
    is_outside: bool
    whole: dns.message.Message | None = None


def parse(wire: bytes) -> dns.message.Message:
    return dns.message.from_wire(wire, one_rr_per_rrset=True, ignore_trailing=False)


def difference(query: bytes, theirs: bytes | None, ours: bytes | None, rules: Rules) -> str:
    """Return how ``ours`` differs from ``theirs``, CoreDNS's reply, "" if it does not."""
    if theirs is None or ours is None:
        return "" if theirs is ours else f"theirs {silence(theirs)}, ours {silence(ours)}"
    their_reply, our_reply = parse(theirs), parse(ours)
    if rules.is_cached and rules.is_outside:
        theirs, ours = without_aa(theirs), without_aa(ours)
    found = [*_header(query, theirs, ours, their_reply, our_reply)]
    for section in ("answer", "authority", "additional"):
        found += _section(section, their_reply, our_reply, rules)
    if not found:
        return ""
    return "\n".join([*found, "--- theirs", str(their_reply), "--- ours", str(our_reply)])


def without_aa(reply: bytes) -> bytes:
    return reply[:2] + bytes((reply[2] & ~0x04,)) + reply[3:]


def silence(reply: bytes | None) -> str:
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
    edns = [(m.edns, m.payload, m.ednsflags, m.options) for m in (their_reply, our_reply)]
    if edns[0] != edns[1]:
        found.append(f"OPT: theirs {edns[0]}, ours {edns[1]}")
    return found


def _question(query: bytes, reply: bytes) -> bytes:
    """Return the reply's question, as long as the query's is; its letter case counts."""
    end = query.index(b"\0", 12) + 5
    return reply[12:end]


def records(section: list[dns.rrset.RRset], *, folded: bool) -> list[Record]:
    found = []
    for rrset in section:
        for item in rrset:
            owner, rdata = rrset.name.to_text(), item.to_text()
            if rrset.rdtype == dns.rdatatype.SOA:  # each server has its own clock
                words = rdata.split()
                rdata = " ".join([*words[:2], "SERIAL", *words[3:]])
            if folded:
                owner, rdata = owner.lower(), rdata.lower()
            rclass = dns.rdataclass.to_text(rrset.rdclass)
            found.append((owner, rclass, dns.rdatatype.to_text(rrset.rdtype), rrset.ttl, rdata))
    return found


def _section(
    name: str, their_reply: dns.message.Message, our_reply: dns.message.Message, rules: Rules
) -> list[str]:
    theirs, ours = (
        records(getattr(reply, name), folded=rules.is_cached) for reply in (their_reply, our_reply)
    )
    if rules.is_cached:
        ours = _aged(theirs, ours, either_way=rules.is_outside)
    if theirs == ours:
        return []
    is_truncated = bool(our_reply.flags & their_reply.flags & dns.flags.TC)
    if is_truncated and not rules.is_ordered and rules.whole is not None:
        whole = records(getattr(rules.whole, name), folded=rules.is_cached)
        strangers = [r for r in ours if _bare(r) not in [_bare(w) for w in whole]]
        return [f"{name}: not of the whole reply: {strangers}"] if strangers else []
    if (not rules.is_ordered or name == "additional") and sorted(theirs) == sorted(ours):
        return []
    return [f"{name}: theirs {theirs}, ours {ours}"]


def _bare(record: Record) -> tuple[str, ...]:
    owner, rclass, rtype, _, rdata = record
    return owner.lower(), rclass, rtype, rdata


def _aged(theirs: list[Record], ours: list[Record], *, either_way: bool) -> list[Record]:
    """Return our records with the TTLs of theirs where theirs are not longer, or may be."""
    left = {_bare(record): record[3] for record in theirs}
    found = []
    for record in ours:
        ttl = left.get(_bare(record))
        if ttl is not None and (either_way or ttl <= record[3]):
            record = (*record[:3], ttl, record[4])
        found.append(record)
    return found
