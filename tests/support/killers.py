"""Packets that have crashed, looped or stalled DNS libraries, and how more are made by mutation.

``queries`` and ``replies`` return them by name: 64 KiB where a length serves the attack. ``mutate``
turns any packet into a neighbor of it; all randomness comes in as an argument.
"""

from __future__ import annotations

import random
import struct

from malformed import ID, IN, RD, WEB, A, address, header, opt, option, question

MAX_OCTETS = 65535
REPLY = 0x8180
# Types whose RDATA begins with a name, after so many octets: where a decompressor can be led astray.
NAMES_IN_RDATA = {2: 0, 3: 0, 5: 0, 6: 0, 12: 0, 14: 0, 15: 2, 17: 0, 18: 2, 21: 2, 26: 2, 33: 6,
                  36: 2, 39: 0}  # fmt: skip


def record(rtype: int, rdata: bytes, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack("!HHIH", rtype, IN, 60, len(rdata)) + rdata


def pointer(offset: int) -> bytes:
    return struct.pack("!H", 0xC000 | offset)


def pointer_ladder(rungs: int, start: int) -> bytes:
    """Return a root name at ``start`` and pointers behind it, each to the one before."""
    return b"\0" + b"".join(pointer(start + max(0, 2 * i - 1)) for i in range(rungs))


def queries() -> dict[str, bytes]:
    """Return queries that no server should survive badly; some it may well answer."""
    start = header() + question()
    found = {
        "pointers_only": header() + b"\xc0\x0c" * ((MAX_OCTETS - 12) // 2),
        "pointers_ascending": header() + b"".join(pointer(14 + 2 * i) for i in range(8000)),
        "pointer_ladder_then_name": header(ar=1)
        + question()
        + record(65000, pointer_ladder(8000, 45 + 12))
        + record(16, b"", pointer(45 + 12 + 8000)),
        "labels_of_one": header() + b"\x01a" * 32000 + question(b"\0"),
        "labels_of_63": header() + (b"\x3f" + b"a" * 63) * 1000 + question(b"\0"),
        "roots_only": header(qd=MAX_OCTETS) + bytes(MAX_OCTETS - 12),
        "counts_of_65535": header(RD, 65535, 65535, 65535, 65535) + question(),
        "one_of_each_claimed": header(RD, 1, 1, 1, 2) + question(),
        "rdlength_65535": header(ar=1) + question() + b"\0" + struct.pack("!HHIH", A, IN, 0, 65535),
        "options_of_nothing": header(ar=1) + question() + opt(option(65001) * 16000),
        "option_per_octet": header(ar=1) + question() + opt(option(10, b"x") * 13000),
        "padding_of_64_KiB": header(ar=1) + question() + opt(option(12, bytes(65000))),
        "zeros": bytes(MAX_OCTETS),
        "ones": b"\xff" * MAX_OCTETS,
        "ones_without_qr": b"\x12\x34\x01\x00\x00\x01" + b"\xff" * (MAX_OCTETS - 6),
    }
    for rtype, before in NAMES_IN_RDATA.items():
        at = len(start) + 12 + before  # where the name in the RDATA begins
        for kind, name in (
            ("itself", pointer(at)),
            ("forward", pointer(at + 40)),
            ("cut", b"\xc0"),
        ):
            rdata = bytes(before) + name
            found[f"rdata_{rtype}_{kind}"] = header(ar=1) + question() + record(rtype, rdata)
    return found


def replies() -> dict[str, bytes]:
    """Return replies as an upstream out of its mind could send them, 64 KiB each."""
    head = struct.pack("!HHH", ID, REPLY, 1)

    def fill(start: bytes, part: bytes) -> bytes:
        count = (MAX_OCTETS - 12 - len(start)) // len(part)
        return head + struct.pack("!HHH", min(65535, count + 1), 0, 0) + start + part * count

    first = question() + record(65000, pointer_ladder(8000, 12 + len(question()) + 12))
    ladder_top = 12 + len(question()) + 12 + 2 * 7999 - 1
    deep = b"\x01a" * 126 + b"\0"
    labels = question() + record(65000, deep)
    deep_at = 12 + len(question()) + 12
    soa = pointer(deep_at) + b"\x01b" + pointer(deep_at + 4) + bytes(20)
    return {
        "ladder_entered_at_the_top": fill(first, record(16, b"", pointer(ladder_top))),
        "ladder_entered_in_rdata": fill(first, record(2, pointer(ladder_top), b"\0")),
        "ladder_entered_everywhere": head
        + struct.pack("!HHH", 4001, 0, 0)
        + first
        + b"".join(record(16, b"", pointer(ladder_top - 2 * i)) for i in range(4000)),
        "deep_name_again_and_again": fill(labels, record(16, b"", pointer(deep_at))),
        "two_deep_names_a_record": fill(labels, record(6, soa, pointer(deep_at))),
        "smallest_records": fill(question(), record(16, b"", b"\0")),
        "question_again_and_again": head[:4]
        + struct.pack("!HHHH", 13000, 0, 0, 0)
        + question(b"\0") * 13000,
        "opt_again_and_again": fill(question(), opt()),
    }


def mutate(rng: random.Random, packet: bytes) -> bytes:
    """Return ``packet`` with one to six octets or stretches changed, moved, cut or put in."""
    found = bytearray(packet)
    for _ in range(rng.randint(1, 6)):
        i = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0 if i < len(found):
                found[i] ^= 1 << rng.randrange(8)
            case 1 if i < len(found):
                found[i] = rng.choice((0, 1, 0x0C, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
            case 2:
                del found[i : i + rng.choice((1, 2, 8, 64))]
            case 3:
                found[i:i] = rng.randbytes(rng.choice((1, 2, 8)))
            case 4:
                found[i:i] = pointer(rng.randrange(min(len(found), 0x3FFF) + 1))
            case 5 if len(found) >= 12:
                at = rng.randrange(4, 12, 2)  # a count
                found[at : at + 2] = struct.pack("!H", rng.choice((0, 1, 2, 255, 65535)))
            case _:
                j = rng.randrange(len(found) + 1)
                found[i:i] = found[j : j + rng.choice((4, 16, 64))]
    return bytes(found[:MAX_OCTETS])


def seeds() -> list[bytes]:
    """Return well-formed messages to start mutations from."""
    answer = record(A, b"\xc0\0\2\1")
    alias = record(5, b"\x04next" + pointer(12))
    soa = record(6, b"\x02ns" + pointer(12) + b"\x04host" + pointer(12) + bytes(20))
    service = record(33, bytes(6) + WEB)
    return [
        header() + question(),
        header(ar=1) + question() + opt(),
        header(ar=1) + question() + opt(option(10, bytes(8)) + option(12, bytes(20)), flags=0x8000),
        header(ar=2) + question() + address() + opt(),
        header(REPLY, 1, 2) + question() + alias + answer,
        header(REPLY | 3, 1, 0, 1, 1) + question() + soa + opt(),
        header(REPLY, 1, 1, 0, 1) + question(qtype=33) + service + address(WEB),
    ]
