"""Replies of every shape an upstream server, or a forger, may send to a query for an address.

``plain`` and ``whole`` are those that the relay passes on by itself, ``saying`` those it does only
where `cache` takes away what the OPT says, ``other`` what it has to hand over, ``no_reply`` what is
to be waited out. Each takes the query as the server got it and returns octets by name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

A, NS, CNAME, SOA, MX, TXT, AAAA, OPT = 1, 2, 5, 6, 15, 16, 28, 41
QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
HEADER = 12
RDATA = 12  # where it begins in a record whose owner is a pointer
MOST_RECORDS, MOST_ALIASES = 128, 16  # MAX_RECORDS, MAX_ALIASES
_GOOD = QR | RD | RA


class Asked:
    """A query as the server got it, and messages about it."""

    def __init__(self, packet: bytes) -> None:
        self.ident = int.from_bytes(packet[:2], "big")
        self.has_opt = packet[11] == 1
        self.question = packet[HEADER : len(packet) - (11 if self.has_opt else 0)]
        self.qname = self.question[:-4]
        self.qtype = int.from_bytes(self.question[-4:-2], "big")
        self.first = HEADER + len(self.question)  # where the records begin

    def message(
        self,
        answer: tuple[bytes, ...] = (),
        authority: tuple[bytes, ...] = (),
        additional: tuple[bytes, ...] = (),
        *,
        flags: int = _GOOD,
        question: bytes | None = None,
        questions: int = 1,
        ident: int | None = None,
        tail: bytes = b"",
    ) -> bytes:
        """Return a message with these records."""
        counts = (questions, len(answer), len(authority), len(additional))
        head = struct.pack("!HHHHHH", self.ident if ident is None else ident, flags, *counts)
        records = b"".join((*answer, *authority, *additional))
        return head + (self.question if question is None else question) + records + tail

    def address(
        self, i: int = 1, *, owner: bytes = b"\xc0\x0c", ttl: int = 300, rtype: int = 0
    ) -> bytes:
        """Return a record with an address of the type that is asked for."""
        rtype = rtype or self.qtype
        rdata = bytes((10, 0, i >> 8 & 255, i & 255))
        return record(owner, rtype, ttl, rdata if rtype == A else b"\xfd" + bytes(11) + rdata)

    def addresses(self, count: int, *, owner: bytes = b"\xc0\x0c") -> tuple[bytes, ...]:
        return tuple(self.address(i, owner=owner, ttl=60 + i) for i in range(count))

    def aliases(
        self, *targets: bytes, end: tuple[int, ...] = (1, 2), ttl: int = 90
    ) -> tuple[bytes, ...]:
        """Return CNAMEs, each the owner of what follows, and addresses of the last target.

        The first has this TTL, and each one second less than the one before.
        """
        found, at, owner = [], self.first, b"\xc0\x0c"
        for i, target in enumerate(targets):
            found.append(record(owner, CNAME, ttl - i, target))
            owner = pointer(at + RDATA)
            at += RDATA + len(target)
        return (*found, *(self.address(i, owner=owner) for i in end))


def record(owner: bytes, rtype: int, ttl: int, rdata: bytes, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, ttl, len(rdata)) + rdata


def pointer(offset: int) -> bytes:
    return struct.pack("!H", 0xC000 | offset)


def opt(size: int = 1232, ttl: int = 0, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    return owner + struct.pack("!HHIH", OPT, size, ttl, len(options)) + options


def soa(owner: bytes, server: bytes, mailbox: bytes, ttl: int = 900) -> bytes:
    return record(owner, SOA, ttl, server + mailbox + struct.pack("!5I", 1, 2, 3, 4, 60))


def plain(asked: Asked) -> Mapping[str, bytes]:
    """Return replies that the relay passes on, if the client takes so many octets."""
    say, last = asked.message, HEADER + len(asked.qname) - 1  # the root label
    parent = HEADER + 1 + asked.qname[0] if asked.qname != b"\0" else last
    found = {
        "address": say((asked.address(),)),
        "addresses": say(asked.addresses(5)),
        "as many as may be": say(asked.addresses(MOST_RECORDS)),
        "twice the same": say((asked.address(), asked.address())),
        "TTL 0": say((asked.address(ttl=0),)),
        "TTL 1": say((asked.address(ttl=1),)),
        "TTL 2**31": say((asked.address(ttl=2**31), asked.address(2, ttl=2**32 - 1))),
        "authoritative": say((asked.address(),), flags=QR | AA),
        "every flag": say((asked.address(),), flags=QR | AA | RD | RA | Z | AD | CD),
        "validated": say((asked.address(),), flags=_GOOD | AD),
        "another case": say((asked.address(),), question=asked.qname.swapcase() + asked.question[-4:]),
        "alias": say(asked.aliases(b"\x03www\x04test\0")),
        "alias at the root": say(asked.aliases(b"\0")),
        "aliases": say(asked.aliases(b"\1a\4test\0", b"\1b\4test\0", b"\1c\0")),
        "long alias": say(asked.aliases((b"\x3f" + b"x" * 63) * 3 + b"\x3d" + b"y" * 61 + b"\0")),
        "alias of itself": say(asked.aliases(b"\4test\0", pointer(asked.first + RDATA))),
        "fork": say(asked.aliases(b"\1b\0", asked.qname, b"\1c\0")),
        "alias into an alias": say(
            asked.aliases(b"\1a\4test\0", b"\1b" + pointer(asked.first + RDATA + 2))
        ),
        "denial by the root": say(
            (), (soa(b"\0", b"\1a\4test\0", b"\1h\4test\0"),), flags=_GOOD | 3
        ),
        "no data": say((), (soa(b"\4test\0", b"\1a\4test\0", b"\0"),)),
        "denial with TTL 0": say((), (soa(b"\0", b"\0", b"\0", ttl=0),), flags=_GOOD | 3),
        "denial with TTL 2**32 - 1": say((), (soa(b"\0", b"\0", b"\0", ttl=2**32 - 1),)),
        "OPT": say((asked.address(),), (), (opt(),)),
        "OPT of a later version": say((asked.address(),), (), (opt(512, 1 << 16),)),
        "denial with OPT": say((), (soa(b"\0", b"\0", b"\0"),), (opt(),), flags=_GOOD | 3),
    }  # fmt: skip
    found.update(_plain_behind_aliases(asked))
    if asked.qname != b"\0":
        own, above = pointer(HEADER), pointer(parent)
        if parent < last:
            found["alias below the same parent"] = say(asked.aliases(b"\4next" + above))
            found["alias to the parent"] = say(asked.aliases(above))
            found["denial by the parent"] = say(
                (), (soa(above, b"\2ns" + above, b"\4host" + above),), flags=_GOOD | 3
            )
        found["alias below the name itself"] = say(asked.aliases(b"\4next" + own))
        found["alias to the name itself"] = say(asked.aliases(own))
        found["alias to the name itself, and no data"] = say(
            asked.aliases(own, end=()), (soa(own, own, own),)
        )
        mailbox = pointer(asked.first + RDATA)  # where the name of the server is
        found["no data of its own"] = say((), (soa(own, b"\2ns\4test\0", b"\1h" + mailbox),))
    return found


def _plain_behind_aliases(asked: Asked) -> dict[str, bytes]:
    """Return aliases that lead to no address, with the SOA that says so."""
    say, target = asked.message, b"\1a\2of\4test\0"
    alias, first = asked.aliases(target, end=()), asked.first + RDATA  # `target` begins there
    parent, ns = pointer(first + 2), b"\2ns\4test\0"
    own, above = soa(pointer(first), ns, b"\0"), soa(parent, b"\2ns" + parent, b"\1h" + parent)
    elsewhere = soa(b"\4evil\0", b"\0", b"\0")
    brief, root = soa(b"\0", b"\0", b"\0", 3), soa(b"\0", b"\0", b"\0")
    return {
        "alias and no data": say(alias, (above,)),
        "alias and a name error": say(alias, (above,), flags=_GOOD | 3),
        "alias and no data of its own": say(alias, (own,)),
        "alias and an SOA of elsewhere": say(alias, (elsewhere,)),
        "name error and an SOA of elsewhere": say(alias, (elsewhere,), flags=_GOOD | AD | 3),
        "aliases and no data": say(asked.aliases(target, b"\1b\0", b"\1c" + parent, end=()), (above,)),
        "aliases and a name error": say(asked.aliases(target, b"\1b\0", end=()), (own,), flags=_GOOD | 3),
        "alias of an alias of itself, and no data": say(
            asked.aliases(target, asked.qname, end=()), (root,)
        ),
        "fork and no data": say(asked.aliases(target, asked.qname, b"\1c\0", end=()), (root,)),
        "alias with TTL 0 and no data": say(asked.aliases(target, end=(), ttl=0), (own,)),
        "alias with TTL 0 and a name error": say(
            asked.aliases(target, end=(), ttl=0), (own,), flags=_GOOD | 3
        ),
        "alias and no data for 3 s": say(alias, (brief,)),
        "alias and a name error for 3 s": say(alias, (brief,), flags=_GOOD | 3),
        "alias and no data for ever": say(
            asked.aliases(target, end=(), ttl=2**32 - 1), (soa(b"\0", ns, b"\0", 2**32 - 1),)
        ),
        "alias, no data and OPT": say(alias, (above,), (opt(),)),
        "alias, name error and OPT": say(alias, (above,), (opt(),), flags=_GOOD | AA | AD | 3),
        "as many aliases as may be, and no data": say(
            asked.aliases(*([b"\1x\0"] * MOST_ALIASES), end=()), (root,)
        ),
    }  # fmt: skip


def saying(asked: Asked) -> Mapping[str, bytes]:
    """Return replies whose OPT says something that `cache` keeps from the client."""
    say, answer = asked.message, (asked.address(),)
    return {
        "OPT with DO": say(answer, (), (opt(1232, 0x8000),)),
        "OPT with other flags": say(answer, (), (opt(1232, 0x0001),)),
        "OPT with options": say(answer, (), (opt(options=b"\0\x0a\0\x08" + bytes(8)),)),
        "OPT with an option that is none": say(answer, (), (opt(options=b"\0\x0a\0\x09"),)),
    }


def whole(asked: Asked) -> Mapping[str, bytes]:
    """Return replies that the relay passes on, as unusual as the chain passes them on."""
    say, address, first = asked.message, asked.address(), asked.first
    denial, alias = soa(b"\0", b"\0", b"\0"), asked.aliases(b"\1x\0", end=())
    wrong = AAAA if asked.qtype == A else A
    name = asked.qname if asked.qname != b"\0" else b"\1a\0"
    return {
        **{f"rcode {i}": say(flags=_GOOD | i) for i in (2, 5)},
        **{f"rcode {i} with SOA": say((), (denial,), flags=_GOOD | i) for i in (2, 5)},
        **{f"alias, SOA, rcode {i}": say(alias, (denial,), flags=_GOOD | i) for i in (2, 5)},
        "nothing": say(),
        "more labels than fit": say(asked.aliases(*([b"\1a" * 80 + b"\0"] * 4))),
        "rcode 2 with address": say((address,), flags=_GOOD | 2),
        "NXDOMAIN with address": say((address,), flags=_GOOD | 3),
        "NXDOMAIN without SOA": say(flags=_GOOD | 3),
        "address and SOA": say((address,), (denial,)),
        "two SOAs": say((), (denial, denial)),
        "SOA in the answer": say((denial,)),
        "delegation": say((), (record(b"\4test\0", NS, 60, b"\2ns\4test\0"),)),
        "answer and additional": say((address,), (), (asked.address(9),)),
        "another type": say((asked.address(rtype=wrong),)),
        "both types": say((address, asked.address(rtype=wrong))),
        "text": say((record(b"\xc0\x0c", TXT, 60, b"\1x"),)),
        "address, then alias": say((address, record(b"\xc0\x0c", CNAME, 60, b"\1x\0"))),
        "alias and a stranger": say((*alias, address)),
        "alias alone": say(alias),
        "alias alone, and a name error": say(alias, flags=_GOOD | 3),
        "alias and two SOAs": say(alias, (denial, denial)),
        "alias, address and SOA": say(asked.aliases(b"\1x\0"), (denial,)),
        "alias, address and name error": say(asked.aliases(b"\1x\0"), (denial,), flags=_GOOD | 3),
        "alias and a delegation": say(alias, (record(b"\1x\0", NS, 60, b"\2ns\1x\0"),)),
        "alias and SOA in the answer": say((*alias, denial)),
        "alias, SOA and additional": say(alias, (denial,), (asked.address(9),)),
        "two aliases of the name, and no data": say((*alias, *alias), (denial,)),
        "alias of a stranger and no data": say((*alias, record(b"\1y\0", CNAME, 60, b"\0")), (denial,)),
        "alias spelled out and no data": say((record(name, CNAME, 60, b"\1x\0"),), (denial,)),
        "no alias but another type, and no data": say((asked.address(rtype=wrong),), (denial,)),
        "alias and a DNAME, and no data": say((*alias, record(b"\xc0\x0c", 39, 60, b"\0")), (denial,)),
        "alias and SOA, pointer to the TTL": say(alias, (soa(pointer(first + 6), b"\0", b"\0"),)),
        "alias and SOA, pointer to a root label": say(alias, (soa(pointer(first + RDATA + 2), b"\0", b"\0"),)),
        "owner spelled out": say((asked.address(owner=name),)),
        "a stranger": say((asked.address(owner=b"\4evil\4test\0"),)),
        "alias with octets behind": say(asked.aliases(b"\1x\0\0")),
        "pointer to the type": say(asked.aliases(b"\1x" + pointer(first - 4))),
        "pointer to a TTL": say(asked.aliases(b"\1x" + pointer(first + 6))),
        "pointer into a label": say(asked.aliases(b"\3a\1b\0", b"\1x" + pointer(first + RDATA + 2))),
        **_sections(asked),
        **{f"names in RDATA, {what}": octets for what, octets in _named(asked).items()},
    }  # fmt: skip


def _sections(asked: Asked) -> dict[str, bytes]:
    """Return replies as authoritative servers and resolvers send them, with all sections."""
    say, own = asked.message, pointer(HEADER)
    zone, server = b"\4zone\4test\0", b"\3ns1\4zone\4test\0"
    servers = [record(zone, NS, 600 + i, b"\3ns%d" % i + zone) for i in range(3)]
    glue = [asked.address(i, owner=b"\3NS%d" % i + zone) for i in range(3)]
    exchanges = [record(own, MX, 70, bytes((0, i)) + b"\2mx" + server) for i in range(4)]
    signature = struct.pack("!HBBIIIH", asked.qtype, 8, 3, 300, 2, 1, 7) + zone + bytes(64)
    addresses = asked.addresses(3)
    return {
        "answer and authority": say(addresses, (*servers,)),
        "all sections": say(addresses, (*servers,), (*glue,)),
        "all sections and OPT": say(addresses, (*servers,), (*glue, opt())),
        "referral": say((), (*servers,), (*glue, opt())),
        "addresses in each section": say(addresses, (*glue,), (*glue, *glue)),
        "exchanges": say((*exchanges, *alias_of(asked)), (), (*glue, *exchanges)),
        "signed": say((asked.address(), record(own, 46, 300, signature)), (), (opt(),)),
        "denial with proofs": say(
            (),
            (
                soa(zone, server, zone),
                record(b"\1a" + zone, 47, 60, b"\1b" + zone + b"\0\1\x40"),
                record(zone, 46, 60, signature),
                record(b"\x20" + b"h" * 32 + zone, 50, 60, b"\1\0\0\1\0\x14" + bytes(20)),
            ),
            flags=_GOOD | AD | 3,
        ),
        "the name in other letters": say(
            (record(asked.qname.swapcase(), asked.qtype, 60, asked.address()[12:]),)
        ),
        "only additional": say((), (), (*glue,)),
        "as many of all types as may be": say(
            tuple(record(own, 300 + i, i, bytes(i)) for i in range(60)), (*servers,), (*glue,)
        ),
        "texts": say(
            tuple(record(own, TXT, 60, bytes((200,)) + bytes((i,)) * 200) for i in range(9))
        ),
        "names where no pointer leads": say(
            (
                record(b"\0", 12, 5, (b"\x3f" + b"x" * 63) * 3 + b"\x30" + b"y" * 48 + b"\0"),
                *(record(b"\0", 33, i, bytes(6) + pointer(asked.first + 11)) for i in range(62)),
                *servers,
            ),
            (),
            (*glue,),
        ),
    }


def alias_of(asked: Asked) -> tuple[bytes, ...]:
    """Return an alias behind its target: where `loadbalance` puts it first."""
    return (record(pointer(HEADER), CNAME, 60, b"\6target\4zone\4test\0"),)


# Type -> octets before its names, how many there are, octets behind them.
_NAMED = {
    NS: (b"", 1, b""), CNAME: (b"", 1, b""), SOA: (b"", 2, bytes(20)), 12: (b"", 1, b""),
    14: (b"", 2, b""), MX: (b"\0\1", 1, b""), 17: (b"", 2, b""), 18: (b"\0\1", 1, b""),
    26: (b"\0\1", 2, b""), 30: (b"", 1, b"\x40"), 33: (b"\0\1\0\2\0\x35", 1, b""),
    35: (b"\0\1\0\2\1s\7SIP+D2U\0", 1, b""), 36: (b"\0\1", 1, b""), 39: (b"", 1, b""),
    46: (bytes(18), 1, b"key"), 47: (b"", 1, b"\0\1\x40"), 58: (b"", 2, b""),
    64: (b"\0\1", 1, b"\0\3\0\2\1\xbb"), 65: (b"\0\0", 1, b""), 66: (b"\0\1\1\0\x35", 1, b""),
    107: (b"\0\1", 1, b""),
}  # fmt: skip


def _named(asked: Asked) -> dict[str, bytes]:
    """Return replies with compressed names in RDATA, of each type."""
    found = {}
    for rtype, (before, names, behind) in _NAMED.items():
        owner = b"\5owner\4Zone\4test\0"
        above = pointer(asked.first + 6)  # Zone
        second = pointer(asked.first + len(owner) + 10 + len(before))  # the first name in RDATA
        rdata = before + b"\6target" + above + (b"\1b" + second) * (names - 1) + behind
        both = (record(owner, rtype, 60, rdata), record(pointer(asked.first), rtype, 61, rdata))
        found[f"type {rtype}"] = asked.message(both, (), both)
        full = before + (b"\6target\4Zone\4test\0" * names) + behind
        found[f"type {rtype}, written out"] = asked.message((record(owner, rtype, 60, full),) * 2)
    return found


def other(asked: Asked) -> Mapping[str, bytes]:
    """Return replies to the query that the relay has to hand over."""
    say, address, first = asked.message, asked.address(), asked.first
    denial, alias = soa(b"\0", b"\0", b"\0"), asked.aliases(b"\1x\0", end=())
    return {
        "one too many": say(asked.addresses(MOST_RECORDS + 1)),
        "TC": say((address,), flags=_GOOD | TC),
        "cut short": say((address, address))[:-3],
        "one record less than it says": say((address,))[:6] + b"\0\2" + say((address,))[8:],
        **{f"rcode {i}": say(flags=_GOOD | i) for i in (1, 4, 6, 9, 15)},
        "rcode 6 with SOA": say((), (denial,), flags=_GOOD | 6),
        "denial and additional": say((), (denial,), (opt(), asked.address(9))),
        "alias, SOA, rcode 6": say(alias, (denial,), flags=_GOOD | 6),
        "alias, SOA, TC": say(alias, (denial,), flags=_GOOD | TC),
        "alias and SOA of class CH": say(alias, (record(b"\0", SOA, 60, bytes(22), 3),)),
        "alias and SOA cut short": say(alias, (denial,))[:-1],
        "alias and SOA, octets behind": say(alias, (denial,), tail=b"\0"),
        "alias and SOA, pointer ahead": say(alias, (soa(pointer(first + 40), b"\0", b"\0"),)),
        "class CH": say((record(b"\xc0\x0c", asked.qtype, 60, address[12:], 3),)),
        "address too short": say((record(b"\xc0\x0c", asked.qtype, 60, b"\1\2\3"),)),
        "address too long": say((record(b"\xc0\x0c", asked.qtype, 60, bytes(17)),)),
        "octets behind": say((address,), tail=b"\0"),
        "octets behind OPT": say((address,), (), (opt(),), tail=bytes(11)),
        "alias too short": say(asked.aliases(b"\1x")),
        "alias of no octets": say(asked.aliases(b"")),
        "alias too long": say(asked.aliases((b"\x3f" + b"x" * 63) * 4 + b"\0")),
        "alias of another label type": say(asked.aliases(b"\x41x\0")),
        "pointer to itself": say(asked.aliases(pointer(first + RDATA))),
        "pointer ahead": say(asked.aliases(pointer(first + RDATA + 20))),
        "pointer beyond the end": say(asked.aliases(pointer(0x3FFF))),
        "pointer into the header": say(asked.aliases(b"\1x" + pointer(4))),
        "loop of two": say(asked.aliases(b"\1x" + pointer(first + RDATA + 4) + pointer(first + RDATA))),
        "half a pointer": say((record(b"\xc0\x0c", CNAME, 60, b"\xc0"),)),
        "SOA too short": say((), (record(b"\0", SOA, 60, b"\0\0" + bytes(19)),)),
        "SOA too long": say((), (record(b"\0", SOA, 60, b"\0\0" + bytes(21)),)),
        "SOA without names": say((), (record(b"\0", SOA, 60, b""),)),
        "SOA of class CH": say((), (record(b"\0", SOA, 60, bytes(22), 3),)),
        "OPT first": say((opt(), address)),
        "OPT among the authorities": say((), (opt(),)),
        "SOA and OPT among the authorities": say((), (denial, opt())),
        "OPT among the authorities, counted twice": say((), (denial, opt()))[:11] + b"\1" + say((), (denial, opt()))[12:],
        "OPT with an extended RCODE": say((address,), (), (opt(1232, 1 << 24),)),
        "OPT with a name": say((address,), (), (opt(owner=b"\1x\0"),)),
        "OPT cut short": say((address,), (), (opt(options=bytes(8))[:-1],)),
        "no EDNS": say(question=b"", questions=0, flags=_GOOD | 1),
        "no EDNS, NOTIMP": say(question=b"", questions=0, flags=_GOOD | 4),
        "two OPTs": say((address,), (), (opt(), opt())),
        "too long a message": say((address,), (), (opt(options=b"\0\x0c\x10\0" + bytes(4096)),)),
    }  # fmt: skip


def no_reply(asked: Asked) -> Mapping[str, bytes]:
    """Return octets that are no reply to the query."""
    say, answer, question = asked.message, (asked.address(),), asked.question
    return {
        "no octet": b"",
        "half a header": say(answer)[:11],
        "header alone": say(answer)[:12],
        "no question, SERVFAIL": say(question=b"", questions=0, flags=_GOOD | 2),
        "no question, FORMERR, QR 0": say(question=b"", questions=0, flags=RD | 1),
        "no question, FORMERR, another ID": say(
            question=b"", questions=0, flags=_GOOD | 1, ident=asked.ident ^ 1
        ),
        "another ID": say(answer, ident=asked.ident ^ 1),
        "another name": say(answer, question=b"\4evil\4test\0" + question[-4:]),
        "a longer name": say(answer, question=b"\1x" + question),
        "another type": say(answer, question=question[:-4] + b"\0\x0f\0\1"),
        "another class": say(answer, question=question[:-1] + b"\3"),
        "QR 0": say(answer, flags=RD),
        "another opcode": say(answer, flags=_GOOD | 2 << 11),
        "no question": say(answer, question=b"", questions=0),
        "none, and our name": say(answer, questions=0),
        "two questions": say(answer, question=question * 2, questions=2),
        "question cut short": say()[: HEADER + len(question) - 1],
    }
