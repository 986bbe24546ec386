"""Malformed and odd packets, and what CoreDNS 1.15.0 does with each.

A packet is built by the function that bears its name; ``packets`` lists them in file order. ``GOLDEN``
holds the reply header of the real server per transport, or None for silence: recorded from the
binary, and held against it by a peer test. The reply to a packet over UDP and over TCP differs where
its receive buffer of 512 octets cut the datagram.

``ALLOWED`` names the packets for which clusterdns may answer otherwise, and in which of two ways:
*stricter*, FORMERR where CoreDNS reads on, or *servfail*, SERVFAIL where CoreDNS says nothing because it
failed to encode its reply. Everything else must be the same header to the bit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

ID = 0x1234
A, NS, TXT, TSIG, IXFR, OPT_TYPE = 1, 2, 16, 250, 251, 41
IN = 1
RD = 0x0100
WEB = b"\x03web\x04demo\x03svc\x07cluster\x05local\x00"
ZONE = b"\x04demo\x03svc\x07cluster\x05local\x00"
_PACKETS: dict[str, Callable[[], bytes]] = {}


def packets() -> dict[str, bytes]:
    """Return every packet by name."""
    return {name: build() for name, build in _PACKETS.items()}


def packet(build: Callable[[], bytes]) -> Callable[[], bytes]:
    """Enter ``build`` into the list."""
    _PACKETS[build.__name__] = build
    return build


# ---- building blocks -------------------------------------------------------------------------


def header(flags: int = RD, qd: int = 1, an: int = 0, ns: int = 0, ar: int = 0) -> bytes:
    return struct.pack("!HHHHHH", ID, flags, qd, an, ns, ar)


def question(name: bytes = WEB, qtype: int = A, qclass: int = IN) -> bytes:
    return name + struct.pack("!HH", qtype, qclass)


def opt(
    options: bytes = b"",
    *,
    size: int = 1232,
    version: int = 0,
    flags: int = 0,
    owner: bytes = b"\0",
) -> bytes:
    ttl = version << 16 | flags
    return owner + struct.pack("!HHIH", OPT_TYPE, size, ttl, len(options)) + options


def option(code: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("!HH", code, len(data) if length is None else length) + data


def address(owner: bytes = b"\xc0\x0c") -> bytes:
    """Return a complete A record."""
    return owner + struct.pack("!HHIH", A, IN, 60, 4) + bytes((192, 0, 2, 1))


def tsig(name: bytes = b"\x03key\x00") -> bytes:
    algorithm = b"\x0bhmac-sha256\x00"
    rdata = (
        algorithm
        + bytes(6)
        + struct.pack("!HH", 300, 32)
        + bytes(32)
        + struct.pack("!HHH", ID, 0, 0)
    )
    return name + struct.pack("!HHIH", TSIG, 255, 0, len(rdata)) + rdata


# ---- length and counts -----------------------------------------------------------------------


@packet
def plain() -> bytes:
    return header() + question()


@packet
def length_0() -> bytes:
    return b""


@packet
def length_1() -> bytes:
    return b"\x12"


@packet
def length_2() -> bytes:
    return b"\x12\x34"


@packet
def length_11() -> bytes:
    return header()[:11]


@packet
def length_12_without_question() -> bytes:
    return header(qd=0)


@packet
def length_12_question_claimed() -> bytes:
    return header(qd=1)


@packet
def no_question_with_cookie() -> bytes:
    return header(qd=0, ar=1) + opt(option(10, bytes(8)))


@packet
def two_questions() -> bytes:
    return header(qd=2) + question() + question()


@packet
def two_questions_claimed() -> bytes:
    return header(qd=2) + question()


@packet
def answer_claimed() -> bytes:
    return header(an=1) + question()


@packet
def answer_present() -> bytes:
    return header(an=1) + question() + address()


@packet
def two_answers_present() -> bytes:
    return header(an=2) + question() + address() + address()


@packet
def authority_present() -> bytes:
    return header(ns=1) + question() + address()


@packet
def authority_claimed() -> bytes:
    return header(ns=1) + question()


@packet
def two_authorities_present() -> bytes:
    return header(ns=2) + question() + address() + address()


@packet
def additional_address() -> bytes:
    return header(ar=1) + question() + address()


@packet
def additional_claimed() -> bytes:
    return header(ar=1) + question()


@packet
def two_additionals_present() -> bytes:
    return header(ar=2) + question() + address() + address()


@packet
def three_additionals_present() -> bytes:
    return header(ar=3) + question() + opt() + address() + address()


@packet
def trailing_octets() -> bytes:
    return header() + question() + bytes(40)


@packet
def additional_cut_short() -> bytes:
    return header(ar=1) + question() + address()[:-2]


# ---- flags and opcodes -----------------------------------------------------------------------


@packet
def response() -> bytes:
    return header(0x8180) + question()


@packet
def response_formerr_without_question() -> bytes:
    return header(0x8001, qd=0)


@packet
def flag_tc() -> bytes:
    return header(0x0300) + question()


@packet
def flag_aa() -> bytes:
    return header(0x0500) + question()


@packet
def flag_ra() -> bytes:
    return header(0x0180) + question()


@packet
def flag_z() -> bytes:
    return header(0x0140) + question()


@packet
def flags_ad_cd() -> bytes:
    return header(0x0130) + question()


@packet
def rcode_5() -> bytes:
    return header(0x0105) + question()


@packet
def opcode_iquery() -> bytes:
    return header(0x0900) + question()


@packet
def opcode_status() -> bytes:
    return header(0x1100) + question()


@packet
def opcode_3() -> bytes:
    return header(0x1900) + question()


@packet
def opcode_notify() -> bytes:
    return header(0x2000) + question()


@packet
def opcode_notify_two_questions() -> bytes:
    return header(0x2100, qd=2) + question() + question()


@packet
def opcode_notify_bad_label() -> bytes:
    return header(0x2100) + b"\x41" + b"x" * 65 + question(b"\0")


@packet
def opcode_notify_answer_claimed() -> bytes:
    return header(0x2100, an=1) + question()


@packet
def opcode_update() -> bytes:
    return header(0x2800) + question()


@packet
def opcode_dso() -> bytes:
    return header(0x3000) + question()


@packet
def opcode_15() -> bytes:
    return header(0x7900) + question()


@packet
def opcode_status_all_flags() -> bytes:
    return header(0x17FF) + question()


@packet
def two_questions_all_flags() -> bytes:
    return header(0x07FF, qd=2) + question()


@packet
def bad_label_all_flags() -> bytes:
    return header(0x07FF) + b"\x81x" + question(b"\0")


# ---- names -----------------------------------------------------------------------------------


@packet
def pointer_to_itself() -> bytes:
    return header() + question(b"\xc0\x0c")


@packet
def pointer_forward() -> bytes:
    return header() + question(b"\xc0\x20")


@packet
def pointer_forward_to_name() -> bytes:
    return header() + question(b"\xc0\x12") + WEB


@packet
def pointer_into_header() -> bytes:
    return header() + question(b"\xc0\x04")


@packet
def pointer_past_end() -> bytes:
    return header() + question(b"\xff\xff")


@packet
def pointer_cut_in_half() -> bytes:
    return header() + b"\xc0"


@packet
def pointer_after_label() -> bytes:
    return header() + question(b"\x01a\xc0\x0c")


@packet
def pointer_chain() -> bytes:
    """Two hundred pointers, each to the next."""
    name = b"".join(struct.pack("!H", 0xC000 | (18 + 2 * i)) for i in range(1, 200)) + b"\x01a\x00"
    return header() + question(b"\xc0\x12") + name


@packet
def label_type_0x41() -> bytes:
    return header() + b"\x41" + b"x" * 65 + question(b"\0")


@packet
def label_type_0x81() -> bytes:
    return header() + b"\x81" + b"x" * 1 + question(b"\0")


@packet
def name_of_255() -> bytes:
    labels = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63
    left = 255 - len(labels) - len(ZONE)
    return header() + question(labels + bytes((left - 1,)) + b"d" * (left - 1) + ZONE)


@packet
def name_of_256() -> bytes:
    labels = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63
    left = 256 - len(labels) - len(ZONE)
    return header() + question(labels + bytes((left - 1,)) + b"d" * (left - 1) + ZONE)


@packet
def name_unterminated() -> bytes:
    return header() + b"\x03web\x04de"


@packet
def name_without_root() -> bytes:
    return header() + WEB[:-1]


@packet
def question_without_type() -> bytes:
    return header() + WEB


@packet
def question_with_half_a_type() -> bytes:
    return header() + WEB + b"\0"


@packet
def question_without_class() -> bytes:
    return header() + WEB + b"\0\1"


@packet
def question_with_half_a_class() -> bytes:
    return header() + WEB + b"\0\1\0"


@packet
def label_of_binary() -> bytes:
    return header() + question(b"\x04\xff\x00\x2e\x5c" + ZONE)


@packet
def label_with_dots() -> bytes:
    return header() + question(b"\x08web.demo" + ZONE)


@packet
def mixed_case() -> bytes:
    return header() + question(b"\x03wEb\x04DeMo\x03sVc\x07cLuStEr\x05LoCaL\x00")


# ---- classes and types -----------------------------------------------------------------------


@packet
def class_ch() -> bytes:
    return header() + question(qclass=3)


@packet
def class_any() -> bytes:
    return header() + question(qclass=255)


@packet
def class_0() -> bytes:
    return header() + question(qclass=0)


@packet
def class_none() -> bytes:
    return header() + question(qclass=254)


@packet
def version_bind() -> bytes:
    return header() + question(b"\x07version\x04bind\x00", TXT, 3)


@packet
def type_0() -> bytes:
    return header() + question(qtype=0)


@packet
def type_any() -> bytes:
    return header() + question(qtype=255)


@packet
def type_opt() -> bytes:
    return header() + question(qtype=41)


@packet
def type_tsig() -> bytes:
    return header() + question(qtype=250)


@packet
def type_tkey() -> bytes:
    return header() + question(qtype=249)


@packet
def type_axfr() -> bytes:
    return header() + question(qtype=252)


@packet
def type_ixfr() -> bytes:
    return header() + question(qtype=251)


@packet
def type_maila() -> bytes:
    return header() + question(qtype=254)


@packet
def type_65535() -> bytes:
    return header() + question(qtype=65535)


@packet
def root_ns() -> bytes:
    return header() + question(b"\0", NS)


@packet
def example_com_rd() -> bytes:
    return header() + question(b"\x07example\x03com\x00")


@packet
def example_com_no_rd() -> bytes:
    return header(0) + question(b"\x07example\x03com\x00")


# ---- EDNS ------------------------------------------------------------------------------------


@packet
def edns_1232() -> bytes:
    return header(ar=1) + question() + opt()


@packet
def edns_0() -> bytes:
    return header(ar=1) + question() + opt(size=0)


@packet
def edns_511() -> bytes:
    return header(ar=1) + question() + opt(size=511)


@packet
def edns_65535() -> bytes:
    return header(ar=1) + question() + opt(size=65535)


@packet
def edns_version_1() -> bytes:
    return header(ar=1) + question() + opt(version=1)


@packet
def edns_version_255() -> bytes:
    return header(ar=1) + question() + opt(version=255)


@packet
def edns_twice() -> bytes:
    return header(ar=2) + question() + opt() + opt(size=4096)


@packet
def edns_owner_not_root() -> bytes:
    return header(ar=1) + question() + opt(owner=b"\xc0\x0c")


@packet
def edns_in_answer() -> bytes:
    return header(an=1) + question() + opt()


@packet
def edns_rdlength_past_end() -> bytes:
    return (
        header(ar=1) + question() + b"\0" + struct.pack("!HHIH", OPT_TYPE, 1232, 0, 20) + bytes(4)
    )


@packet
def edns_option_length_lies() -> bytes:
    return header(ar=1) + question() + opt(option(10, bytes(8), length=40))


@packet
def edns_option_65001() -> bytes:
    return header(ar=1) + question() + opt(option(65001, b"abc"))


@packet
def edns_then_junk() -> bytes:
    return header(ar=1) + question() + opt() + b"\xde\xad\xbe\xef"


@packet
def cookie_of_8() -> bytes:
    return header(ar=1) + question() + opt(option(10, bytes(range(8))))


@packet
def cookie_of_7() -> bytes:
    return header(ar=1) + question() + opt(option(10, bytes(range(7))))


@packet
def cookie_of_41() -> bytes:
    return header(ar=1) + question() + opt(option(10, bytes(range(41))))


@packet
def cookie_twice() -> bytes:
    return header(ar=1) + question() + opt(option(10, bytes(range(8))) * 2)


@packet
def ecs_malformed() -> bytes:
    return header(ar=1) + question() + opt(option(8, b"\x00\x09\xff\x00\x01"))


@packet
def edns_do() -> bytes:
    return header(ar=1) + question() + opt(flags=0x8000)


@packet
def edns_all_z() -> bytes:
    return header(ar=1) + question() + opt(flags=0x7FFF)


@packet
def nsid_empty() -> bytes:
    return header(ar=1) + question() + opt(option(3))


@packet
def keepalive() -> bytes:
    return header(ar=1) + question() + opt(option(11))


@packet
def tsig_unknown_key() -> bytes:
    return header(ar=1) + question() + tsig()


@packet
def tsig_not_last() -> bytes:
    return header(ar=2) + question() + tsig() + opt()


# ---- long packets, and two that are fatal to a parser ----------------------------------------


@packet
def octets_512() -> bytes:
    start = header(ar=1) + question()
    return start + opt(option(12, bytes(512 - len(start) - 15)))


@packet
def octets_513() -> bytes:
    start = header(ar=1) + question()
    return start + opt(option(12, bytes(513 - len(start) - 15)))


@packet
def slow_parse() -> bytes:
    """A chain of labels of one octet that thousands of records point to: 20 s in dnslib 0.9.26."""
    name = b"\x01a" * 8000 + b"\0"
    rr = b"\xc0\x0c" + struct.pack("!HHIH", A, IN, 0, 4) + b"\1\2\3\4"
    n = (65000 - 12 - len(name) - 4) // len(rr)
    return header(ar=n) + question(name) + rr * n


@packet
def slow_parse_one_record() -> bytes:
    name = b"\x01a" * 8000 + b"\0"
    return header(ar=1) + question(name) + address()


def _overlapping_names(flags: int, qd: int) -> bytes:
    """Return two names that point into each other's labels: RecursionError in dnslib 0.9.26."""
    start = header(flags, qd, an=2) + b"\3www\7example\3com\0\0\1\0\1"
    left, rdata = 0x280 - len(start) - 12, b""
    while left:
        n = min(left - 1, 200)
        rdata += bytes([n]) + b"x" * n
        left -= n + 1
    start += b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 5, len(rdata)) + rdata
    end = b"\x07\x09aaaaaa\xc2\x81a\xc2\x80"
    return start + end + struct.pack("!HHIH", 1, 1, 5, 4) + b"\1\2\3\4"


@packet
def overlapping_names_reply() -> bytes:
    return _overlapping_names(0x8180, 1)


@packet
def overlapping_names_query() -> bytes:
    return _overlapping_names(RD, 1)


@packet
def overlapping_names_questions() -> bytes:
    """The same shape among eleven questions."""
    left, names, count = 0x280 - 12, b"", 0
    while left:
        n = min(left - 6, 58)
        if 0 < left - 6 - n < 7:
            n -= 7
        names += bytes([n]) + b"x" * n + question(b"\0")
        left -= n + 6
        count += 1
    names += question(b"\x07\x09aaaaaa\xc2\x81a\xc2\x80")
    return header(qd=count + 1) + names
