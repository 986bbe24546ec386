"""`dynupdate` beside CoreDNS 1.15.0: random updates to one zone, their RCODEs, and the zone after each.

``DYNUPDATE_SEED`` picks others. Mixed TTLs, types without a name, and changes outside the zone are
left out: there we differ on purpose (see the manual), and `test_dynupdate` pins what we do.
"""

from __future__ import annotations

import base64
import os
import random

import beside
import compare
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.tsig
import dns.update
import dns.zone
import peers
import pytest

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("DYNUPDATE_SEED", "1"))
UPDATES = 120
SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEYS = {
    word: dns.tsig.Key(f"{word}.test.", SECRET, dns.tsig.HMAC_SHA256)
    for word in ("all", "some", "none")
}
COREFILE = f""". {{
    tsig {{
        secret all.test. {SECRET}
        secret some.test. {SECRET}
        secret none.test. {SECRET}
        REQUIRE
    }}
    cache 30
    transfer d.test {{
        to *
    }}
    dynupdate d.test {{
        file d.zone
        allow all.test. * *
        allow some.test. a.d.test. A TXT ANY
        allow some.test. @ MX
        max_update_records 6
    }}
}}
"""
SEED_ZONE = """$TTL 60
@ IN SOA ns h 7 3600 600 86400 60
@ IN NS ns
@ IN NS ns2.other.test.
@ IN MX 5 Mail
ns IN A 192.0.2.1
a IN A 192.0.2.2
a IN A 192.0.2.3
a IN TXT "one" "two"
alias IN CNAME a
x.y IN SRV 1 2 3 a
*.w IN TXT "wild"
"""
OWNERS = ("@", "a", "A", "b", "alias", "y", "x.y", "*.w", "n.w")
DATA = {
    "A": ("192.0.2.2", "192.0.2.3", "192.0.2.9"),
    "AAAA": ("2001:db8::1",),
    "TXT": ('"one" "two"', '"three"'),
    "MX": ("5 mail.d.test.", "5 MAIL.d.test.", "6 a"),
    "CNAME": ("ns.d.test.", "www.elsewhere.test."),
    "NS": ("ns.d.test.", "ns2.other.test.", "ns3.other.test."),
    "SRV": ("1 2 3 a.d.test.", "1 2 4 a.d.test."),
    "SOA": ("ns.d.test. h.d.test. 5 3600 600 86400 60", "ns.d.test. h.d.test. 4000 1 2 3 60",
            "ns.d.test. h.d.test. 0 1 2 3 4"),
    "DS": ("1 8 1 00112233445566778899aabbccddeeff00112233",),
}  # fmt: skip


def random_update(rng: random.Random) -> dns.update.UpdateMessage:
    update = dns.update.UpdateMessage(rng.choice(["d.test"] * 9 + ["e.test"]))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        owner, rtype = rng.choice(OWNERS), rng.choice([*DATA, "A", "TXT"])
        data = rng.choice(DATA[rtype])
        case = rng.randrange(6)
        if case == 0:
            update.present(owner)
        elif case == 1:
            update.present(owner, rtype)
        elif case == 2:
            update.present(owner, rtype, data)
        elif case == 3:
            update.absent(owner)
        else:
            update.absent(owner, rtype)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 7))):
        owner, rtype = rng.choice(OWNERS), rng.choice([*DATA, "A", "A", "TXT"])
        data = rng.choice(DATA[rtype])
        case = rng.randrange(10)
        if case == 0:
            update.delete(owner)
        elif case == 1:
            update.delete(owner, rtype)
        elif case in (2, 3):
            update.delete(owner, rtype, data)
        else:
            update.add(owner, 60, rtype, data)
    return update


def records(server: peers.Server) -> list[str]:
    host, port = server.address
    messages = dns.query.xfr(host, "d.test", port=port, timeout=10, lifetime=20, relativize=False)
    zone = dns.zone.from_xfr(messages, relativize=False, check_origin=False)
    return sorted(
        f"{owner} {rdataset.ttl} {rdata.rdtype} {rdata}".lower()
        for owner, rdataset in zone.iterate_rdatasets()
        for rdata in rdataset
    )


def told(server: peers.Server, packet: bytes, key: dns.tsig.Key | None, mac: bytes) -> tuple:
    """Return what a reply to an update says, and whether it is signed."""
    reply = peers.ask_tcp(server.address, packet)
    assert reply is not None, server.output
    read = dns.message.from_wire(reply, keyring=key, request_mac=mac)
    question = [(q.name, q.rdtype, q.rdclass) for q in read.sections[0]]
    return (
        dns.rcode.to_text(read.rcode()), dns.opcode.to_text(read.opcode()),
        bool(read.flags & dns.flags.AA), question, read.had_tsig, [len(s) for s in read.sections[1:]],
    )  # fmt: skip


@pytest.mark.parametrize("required", ["require_opcode UPDATE", ""])
def test_random_updates_have_the_same_results(tmp_path, required):
    rng = random.Random(SEED)
    beside.files(tmp_path, {"d.zone": SEED_ZONE})
    corefile = COREFILE.replace("REQUIRE", required)
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        seen = set()
        for number in range(UPDATES):
            update = random_update(rng)
            key = KEYS.get(rng.choice(["all"] * 8 + ["some"] * 3 + ["none", "unsigned"]))
            if key is not None:
                update.use_tsig(key)
            packet = update.to_wire()
            mac = update.mac if key is not None else b""
            expected = told(theirs, packet, key, mac)
            assert expected == told(ours, packet, key, mac), f"{number}: {update}"
            seen.add(expected[0])
            assert records(theirs) == records(ours), f"{number}: {update}"
        assert {"NOERROR", "REFUSED", "NXRRSET", "YXRRSET", "NOTAUTH", "NOTIMP"} <= seen
        for owner in OWNERS:
            for packet in beside.queries(f"{owner}.d.test".removeprefix("@."), *DATA):
                assert_alike(ours, theirs, packet)


def assert_alike(ours: peers.Server, theirs: peers.Server, packet: bytes) -> None:
    said = compare.difference(
        packet,
        peers.ask_udp(theirs.address, packet),
        peers.ask_udp(ours.address, packet),
        beside.UNORDERED,
    )
    assert not said, said


@pytest.mark.parametrize(
    ("opcode", "counts", "zone"),
    [
        (5, (0, 0, 0), "f.test"),
        (5, (0, 0, 0), "d.test"),
        (2, (0, 0, 0), "d.test"),
        (5, (2, 0, 0), "d.test"),
        (6, (0, 0, 0), "d.test"),
    ],
)
def test_opcodes_are_let_in_where_a_block_takes_them(tmp_path, opcode, counts, zone):
    """D10: UPDATE is for the block with `dynupdate`; other blocks of the port say NOTIMP."""
    beside.files(tmp_path, {"d.zone": SEED_ZONE})
    with_updates = COREFILE.replace(". {", "d.test {", 1).replace("REQUIRE", "")
    corefile = with_updates + "f.test {\n    whoami\n}\n"
    name = dns.name.from_text(zone).to_wire()
    packet = bytes.fromhex("1234") + bytes([opcode << 3, 0, 0, 1]) + b"".join(
        count.to_bytes(2, "big") for count in counts
    ) + name + bytes.fromhex("00060001")  # fmt: skip
    plain = "f.test {\n    whoami\n}\nd.test {\n    whoami\n}\n"
    for text in (corefile, plain):
        with peers.clusterdns(text, tmp_path) as ours, peers.coredns(text, tmp_path) as theirs:
            for asked in (packet, packet.replace(name, dns.name.from_text("g.test").to_wire())):
                for ask in (peers.ask_udp, peers.ask_tcp):
                    assert ask(theirs.address, asked) == ask(ours.address, asked), asked
